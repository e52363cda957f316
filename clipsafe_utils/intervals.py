"""Intervals of what the study measures: ratios of errors, false positives, calibration, selection, paired accuracies.

Each is an interval of the population's value, as if images were drawn anew; `tests/test_coverage.py` simulates them
all. Where one image decides, the limits are wide or NaN, never a point.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, gammainc, logit, ndtr, ndtri, stdtrit

from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.metrics.calibration import (
    bin_index,
    check_level,
    equal_mass_ece,
    expected_calibration_error,
    wilson_bounds,
)
from clipsafe_utils.metrics.factors import error_ratio
from clipsafe_utils.metrics.ood import aupr_in, aupr_out, fpr_id_at_tpr_ood95, fpr_ood_at_tpr_id95
from clipsafe_utils.metrics.selective import aurc, aurc_without_each, excess_aurc
from clipsafe_utils.statistics import Interval


def error_ratio_interval(n_correct, n, n_correct_all, n_all, *, level=0.95):
    """Error ratio of a factor from counts, with limits from the Wilson intervals of the two error rates behind it.

    The ratio (1 - factor accuracy) / (1 - overall accuracy) grows with the ratio of the error rates with and without
    the factor, which are independent; Donner and Zou's limits of that ratio are carried over.

    Parameters
    ----------
    n_correct, n : int or ndarray
        Images that show the factor: classified correctly, and all.
    n_correct_all, n_all : int or ndarray
        The same of all images, with the factor and without.
    level : float, default 0.95
        Fraction in (0, 1).

    Returns
    -------
    Interval
        Its n is that of the factor. NaN where no image is wrong, or none shows the factor; limits NaN where every image
        shows it, since the ratio is then 1 whatever the model does.

    Raises
    ------
    ClipsafeError
        Counts that contradict each other.

    References
    ----------
    Donner, Zou. Statistical Methods in Medical Research 21, 2012.  Fagerland, Lydersen, Laake. ibid. 24, 2015.
    """
    counts = (np.asarray(c, np.float64) for c in (n_correct, n, n_correct_all, n_all))
    right, n, right_all, n_all = np.broadcast_arrays(*counts)
    rest, right_rest = n_all - n, right_all - right
    if not np.all((right >= 0) & (right <= n) & (right_rest >= 0) & (right_rest <= rest) & (n_all > 0)):
        raise ClipsafeError(
            "counts of a factor must be part of those of all images; got "
            f"{right.max():g} of {n.max():g} correct with the factor, {right_all.max():g} of {n_all.max():g} in all."
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.asarray(error_ratio(right / n, right_all / n_all))
        p, q, share = 1 - right / n, 1 - right_rest / rest, n / n_all
        (p_low, p_high), (q_low, q_high) = wilson_bounds(p, n, level), wilson_bounds(q, rest, level)
        up, down = p_high * (2 * p - p_high), p_low * (2 * p - p_low)
        low = down / (p * q + np.sqrt((p * q) ** 2 - down * q_high * (2 * q - q_high)))
        high = (p * q + np.sqrt((p * q) ** 2 - up * q_low * (2 * q - q_low))) / (q_low * (2 * q - q_low))
        low = np.where((p == 0) & (q > 0), 0, low)
        limits = [risk / (share * risk + 1 - share) for risk in (low, high)]
        limits[1] = np.where((q_low == 0) & (p > 0), 1 / share, limits[1])
    value, low, high = (np.where(right_all < n_all, v, np.nan)[()] for v in (value, *limits))
    return Interval(value, low, high, "donner-zou (wilson)", level, n.astype(int)[()])


def fpr_interval(id_scores, ood_scores, *, positive="id", level=0.95):
    """False-positive rate at 95% true positives, with the errors of the rate and of its threshold.

    The rate among the negatives has Wilson's limits; the threshold lies between two quantiles of the positives, those
    at 95% plus and minus its binomial error, and each gives a rate. The two errors are independent and combined as
    Newcombe does for a difference. Taking the threshold as fixed covers 30 to 90% instead of 95%.

    Parameters
    ----------
    id_scores, ood_scores : ndarray, shape (n_id,), (n_ood,)
        Higher = more out-of-distribution.
    positive : {"id", "ood"}, default "id"
        Value = `fpr_ood_at_tpr_id95`, or `fpr_id_at_tpr_ood95`.
    level : float, default 0.95

    Returns
    -------
    Interval
        Its n counts the negatives. Below 100 positives it is wider than its level says.

    References
    ----------
    Newcombe. Statistics in Medicine 17, 1998 (method 10).
    """
    check_level(level)
    if positive == "id":
        value, positives, negatives = fpr_ood_at_tpr_id95(id_scores, ood_scores), id_scores, ood_scores
    elif positive == "ood":  # the same with roles swapped and scores negated
        value = fpr_id_at_tpr_ood95(id_scores, ood_scores)
        positives, negatives = -np.asarray(ood_scores, np.float64), -np.asarray(id_scores, np.float64)
    else:
        raise unknown("positive class", positive, ("id", "ood"))
    n_positive, n = len(positives), len(negatives)
    off = ndtri((1 + level) / 2) * np.sqrt(0.95 * 0.05 / n_positive)
    thresholds = np.quantile(positives, np.clip([0.95 - off, 0.95 + off], 0, 1))
    fewer, more = np.searchsorted(np.sort(negatives), thresholds, side="right") / n
    more = more if off < 0.05 else 1.0
    low, high = wilson_bounds(value, n, level)
    low = value - np.hypot(value - low, max(value - fewer, 0))
    high = value + np.hypot(high - value, max(more - value, 0))
    return Interval(value, float(max(low, 0)), float(min(high, 1)), "newcombe (wilson, threshold)", level, n)


def aupr_interval(id_scores, ood_scores, *, positive="ood", level=0.95):
    """Area under the precision-recall curve (average precision), with what images of both kinds add to its error.

    The influence of each image on the average precision gives its variance, on the logit scale. The binomial limits of
    Boyd, Eng and Page see the positives alone and cover up to 99.9% of studies at 95%.

    Parameters
    ----------
    id_scores, ood_scores : ndarray, shape (n_id,), (n_ood,)
        Higher = more out-of-distribution.
    positive : {"id", "ood"}, default "ood"
        Value = `aupr_in`, or `aupr_out`.
    level : float, default 0.95

    Returns
    -------
    Interval
        Its n counts the out-of-distribution images. Limits NaN where no negative scores above a positive.

    References
    ----------
    Efron. The Jackknife, the Bootstrap and Other Resampling Plans, 1982 (infinitesimal jackknife).  Boyd, Eng, Page.
    ECML PKDD 2013 (logit scale).
    """
    check_level(level)
    if positive not in ("id", "ood"):
        raise unknown("positive class", positive, ("id", "ood"))
    value, sign = (aupr_out, 1) if positive == "ood" else (aupr_in, -1)
    value, n, kind = value(id_scores, ood_scores), len(ood_scores), "infinitesimal jackknife, logit scale"
    negatives, positives = (np.sort(sign * np.asarray(s, np.float64)) for s in (id_scores, ood_scores)[::sign])
    hits = len(positives) - np.searchsorted(positives, positives)
    flagged = hits + len(negatives) - np.searchsorted(negatives, positives)
    with_one_hit_more = np.r_[0, np.cumsum((flagged - hits) / flagged**2)]
    with_one_alarm_more = np.r_[0, np.cumsum(-hits / flagged**2)]
    of_positives = hits / flagged + with_one_hit_more[np.searchsorted(positives, positives, side="right")]
    of_negatives = with_one_alarm_more[np.searchsorted(positives, negatives, side="right")]
    of_negatives = of_negatives * len(negatives) / len(positives)
    if min(len(positives), len(negatives)) < 2 or value == 1:
        return Interval(value, np.nan, np.nan, kind, level, n)
    variance = sum(own.var(ddof=1) / len(own) for own in (of_positives, of_negatives))
    half = ndtri((1 + level) / 2) * np.sqrt(variance) / (value * (1 - value))
    low, high = expit(logit(value) + np.array([-half, half]))
    return Interval(value, float(low), float(high), kind, level, n)


def paired_accuracy_interval(first, second, *, level=0.95):
    """Difference of two accuracies on the same images, first minus second.

    Parameters
    ----------
    first, second : ndarray of bool, shape (n,)
        Whether each image was classified correctly.
    level : float, default 0.95

    Returns
    -------
    Interval
        Has a width also where no image changes sides.

    References
    ----------
    Bonett, Price. British Journal of Mathematical and Statistical Psychology 65, 2012 (adjusted Wald).
    """
    check_level(level)
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ClipsafeError(f"paired accuracies need the same images twice; got {first.shape} and {second.shape}.")
    n, gained, lost = len(first), int((first & ~second).sum()), int((~first & second).sum())
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = ndtri((1 + level) / 2) * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    low, high = max(up - down - half, -1.0), min(up - down + half, 1.0)
    return Interval((gained - lost) / n, float(low), float(high), "bonett-price, paired", level, n)


def ece_interval(confidence, correct, *, n_bins=15, binning="width", level=0.95):
    """Interval of the calibration error that the model has with these bins, whatever n.

    The estimate adds up absolute gaps, so noise makes it larger: a calibrated model has an ECE above 0, the more so
    the fewer images. The limits are of what is estimated, the population's sum over bins of |E[correct - confidence,
    in bin]|, found by inverting a test: the lower limit is the error at which an estimate as large as this one is
    just still expected, the upper that at which one as small is. For each candidate the bins' gaps are the likeliest
    with that sum, and their errors normal; for the lower limit they are likeliest given the gaps without their noise,
    which leaves the error to the bins that show it. The value is the plain ECE, the number that the literature
    compares; with few images it may lie above its own interval.

    At 95%, simulated models of 50 to 10,000 images are covered at 93 to 98%, the least where one bin has all the error.

    Parameters
    ----------
    confidence, correct, n_bins
        As in `expected_calibration_error`.
    binning : {"width", "mass"}, default "width"
        Bins of that error, or of `equal_mass_ece`.
    level : float, default 0.95
        A calibrated model is covered at (1 + level) / 2 or more: its error is at the edge of what is possible.

    Returns
    -------
    Interval
        NaN limits where nothing shows the noise: all images surely right, or all wrong alike; with equal mass, where
        fewer images are wrong, or right, than there are bins: a few wrong ones spread over bins look like an error.

    References
    ----------
    Bröcker. Climate Dynamics 39, 2012; Kumar, Liang, Ma. NeurIPS 2019 (the bias).  Chuang, Lai. Statistica Sinica 10,
    2000 (limits from resampling under the likeliest nuisance parameters).
    """
    check_level(level)
    error = equal_mass_ece if binning == "mass" else expected_calibration_error
    value, n = error(confidence, correct, n_bins=n_bins), len(confidence)
    gaps, errors = _bin_gaps(confidence, correct, n_bins, binning)
    rare = min(np.sum(correct), n - np.sum(correct))
    shown = len(gaps) and (binning == "width" or rare >= n_bins)
    low, high = _norm_limits(gaps, errors, n, level) if shown else (np.nan, np.nan)
    return Interval(value, low, high, "of the binned error, noise removed", level, n)


def aurc_interval(confidence, correct, *, excess=False, level=0.95):
    """Area under the risk-coverage curve with the jackknife's standard error, on the logit scale.

    Leaving out one image at a time has a closed form (`aurc_without_each`). Where few images are wrong these alone show
    the error: Student's t has as many degrees of freedom, less one, as there are wrong images, or right ones if these
    are fewer. At 95%, simulated models with ten wrong images or more are covered at 93 to 97%; with fewer it is wider
    than its level says.

    Parameters
    ----------
    confidence, correct
        As in `aurc`.
    excess : bool, default False
        Value = `excess_aurc`, else `aurc`.
    level : float, default 0.95

    Returns
    -------
    Interval
        NaN limits where fewer than two images are wrong, or right, and where the order is an oracle's.

    References
    ----------
    Zhou, Van Landeghem, Popordanoska, Blaschko. ICML 2025 (the population's area).  Efron, Stein. Annals of Statistics
    9, 1981 (jackknife).
    """
    check_level(level)
    value, n, right = (excess_aurc if excess else aurc)(confidence, correct), len(confidence), int(np.sum(correct))
    kind, degrees = "jackknife t, logit scale", min(right, n - right) - 1
    if degrees < 1 or value < 1e-12:
        return Interval(value, np.nan, np.nan, kind, level, n)
    without = aurc_without_each(confidence, correct, excess=excess)
    error = np.sqrt((n - 1) * np.var(without)) / (value * (1 - value))
    half = stdtrit(degrees, (1 + level) / 2) * error
    return Interval(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)), kind, level, n)


def ece_difference_interval(first, second, *, n_bins=15, level=0.95):
    """Difference of two calibration errors on the same images, first minus second, with the noise of both removed.

    The limits of the two (`ece_interval`) are combined as Zou does for dependent estimates, around the errors that
    have the estimates as median; the correlation is that of the images' contributions. Where one model may be
    calibrated, noise alone lifts its estimate, and nothing is taken from the other's limit on its account. At 95%, two
    models are covered at 93 to 98%, and at up to 99% where both are calibrated, since neither error can lie below 0.

    Parameters
    ----------
    first, second : (confidence, correct)
        Of the same images in the same order.
    n_bins, level
        As in `ece_interval`.

    Returns
    -------
    Interval
        Value = the difference of the plain errors.

    References
    ----------
    Zou. Psychological Methods 12, 2007.
    """
    both = [ece_interval(*of, n_bins=n_bins, level=level) for of in (first, second)]
    (a, a_low, a_high), (b, b_low, b_high) = [
        (_norm_limits(*_bin_gaps(*of, n_bins), one.n, 0.0)[0], one.low, one.high)
        for of, one in zip((first, second), both, strict=True)
    ]
    parts = [_contributions(*of, n_bins) for of in (first, second)]
    spread = np.std(parts, axis=1)
    r = np.mean((parts[0] - parts[0].mean()) * (parts[1] - parts[1].mean())) / np.prod(spread) if spread.all() else 0.0
    low = a - b - np.sqrt(max((a - a_low) ** 2 + (b_high - b) ** 2 - 2 * r * (a - a_low) * (b_high - b), 0))
    high = a - b + np.sqrt(max((a_high - a) ** 2 + (b - b_low) ** 2 - 2 * r * (a_high - a) * (b - b_low), 0))
    low, high = min(low, -b_high) if a_low == 0 else low, max(high, a_high) if b_low == 0 else high
    return both[0]._replace(
        value=both[0].value - both[1].value, low=low, high=high, kind="zou (of the binned errors, noise removed)"
    )


def _bin_gaps(confidence, correct, n_bins, binning="width"):
    """|mean of (correct - confidence) times in-bin| and its standard error, of the bins that have one.

    A few images do not show their noise, least of all where all are right, so there are two more, one right and one
    wrong, shared out among the bins as the images are.
    """
    confidence, n = np.asarray(confidence, np.float64), len(confidence)
    gap, index = np.asarray(correct) - confidence, bin_index(confidence, n_bins, binning)[1]
    mean, two_more = np.bincount(index, gap) / n, (1 - 2 * confidence * (1 - confidence)) / n
    square = np.bincount(index, gap**2 + two_more) / (n + 2)
    error = np.sqrt(np.maximum(square - mean**2, 0) / n)
    return np.abs(mean)[error > 0], error[error > 0]


def _contributions(confidence, correct, n_bins):
    """What each sample adds to the calibration error: its gap, signed as its bin's."""
    confidence = np.asarray(confidence, np.float64)
    gap, index = np.asarray(correct) - confidence, bin_index(confidence, n_bins)[1]
    return gap * np.sign(np.bincount(index, gap))[index]


def _norm_limits(gaps, errors, n, level):
    """Limits of the sum of absolute means of which `gaps` are absolute estimates from n samples in separate bins."""
    observed, variance = gaps.sum(), errors**2
    quiet = np.sqrt(np.maximum(gaps**2 - variance, 0))
    top = observed + 10 * errors.sum()

    def limit(found, share):
        def excess(total):
            return _share_below(observed, _likeliest(found, variance, total), errors, n) - share

        return brentq(excess, 0, top, xtol=1e-6) if excess(0) > 0 else 0.0

    return limit(quiet, (1 + level) / 2), limit(gaps, (1 - level) / 2)


def _likeliest(gaps, variance, total):
    """Gaps with that sum that are nearest to the estimates in units of their errors; small ones go to zero."""
    if total >= gaps.sum():
        return gaps + (total - gaps.sum()) * variance / variance.sum()
    order = np.argsort(gaps / variance)
    cuts = (_left(gaps[order]) - total) / _left(variance[order])
    cut = cuts[np.argmax(cuts <= (gaps / variance)[order])]
    return np.maximum(gaps - cut * variance, 0)


def _share_below(observed, gaps, errors, n):
    """Probability of a sum of |normal(gap, error)| of at most `observed`, from its first three moments (Pearson III).

    A sample that is in one bin is in no other, so the bins' estimates have covariances of -gap gap / n.
    """
    ratio = gaps / errors
    inside, density = 2 * ndtr(ratio) - 1, np.exp(-(ratio**2) / 2) * np.sqrt(2 / np.pi)
    mean = ratio * inside + density
    spread = (1 + ratio**2 - mean**2) * errors**2
    skew = ratio * (ratio**2 + 3) * inside + (ratio**2 + 2) * density - 3 * mean * (1 + ratio**2) + 2 * mean**3
    shared = (np.sum(gaps * inside) ** 2 - np.sum((gaps * inside) ** 2)) / n
    deviation = np.sqrt(max(spread.sum() - shared, 0.1 * spread.sum()))
    shape = 4 / max(np.sum(skew * errors**3) / deviation**3, 1e-3) ** 2
    return gammainc(shape, max(shape + (observed - np.sum(mean * errors)) / deviation * np.sqrt(shape), 0))


def _left(values):
    """Sums of what is left when the first 0, 1, 2, ... are gone."""
    return values[::-1].cumsum()[::-1]
