"""Do confidences mean what they say? Binned errors, proper scores and the temperature that minimises NLL.

Functions of logits walk through blocks of rows, so 50,000 x 1,000 logits (or a memory map of them) are never copied
as a whole. A block keeps the precision of its input; sums over samples are float64.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from clipsafe_utils.errors import ClipsafeError

_BLOCK = 2**18  # values per block of rows: 1 MB of float32 stays in cache


class ReliabilityCurve(NamedTuple):
    """Accuracy against confidence, bin by bin; arrays of shape (n_bins,), NaN where a bin is empty."""

    edges: np.ndarray
    """Bin edges, shape (n_bins + 1,); bin i holds edges[i] < confidence <= edges[i + 1], bin 0 also its lower edge."""
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    """Wilson bounds of the accuracy at `level`."""
    high: np.ndarray
    level: float


class BrierParts(NamedTuple):
    """Brier score = reliability - resolution + uncertainty + within_variance - within_covariance."""

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def brier(self):
        """The score that the parts add up to."""
        return self.reliability - self.resolution + self.uncertainty + self.within_variance - self.within_covariance


def softmax(logits, *, temperature=1.0):
    """Class probabilities of logits divided by a temperature.

    Parameters
    ----------
    logits : ndarray of float, shape (n_samples, n_classes)
        Finite; float32 gives float32 probabilities.
    temperature : float, default 1.0
        Positive; above 1 softens.

    Returns
    -------
    ndarray, shape (n_samples, n_classes)
        Rows sum to 1.

    Raises
    ------
    ClipsafeError
        Empty or not two-dimensional logits, NaN or infinite values, a temperature that is not positive.
    """
    return np.concatenate([_probabilities(z) for _, _, _, z in shifted_rows(logits, temperature)])


def confidence_and_correct(logits, labels, *, temperature=1.0):
    """Top-label confidence and whether that label is right: what ECE and reliability curves take.

    Parameters
    ----------
    logits : ndarray of float, shape (n_samples, n_classes)
        Finite.
    labels : ndarray of int, shape (n_samples,)
        Column of the true class.
    temperature : float, default 1.0
        Logits are divided by it; it moves the confidence, never the decision.

    Returns
    -------
    confidence : ndarray of float64, shape (n_samples,)
        Largest softmax probability.
    correct : ndarray of bool, shape (n_samples,)
        True where the largest logit is the label's; a tie goes to the lower column.

    Raises
    ------
    ClipsafeError
        As in `softmax`; labels that are no integers, out of range, or of another length.
    """
    logits, labels = _checked(logits, labels)
    confidence, correct = np.empty(len(labels)), np.empty(len(labels), bool)
    for rows, top, _, z in shifted_rows(logits, temperature):
        confidence[rows] = 1 / np.exp(z, out=z).sum(axis=1).astype(np.float64)
        correct[rows] = top == labels[rows]
    return confidence, correct


def expected_calibration_error(confidence, correct, *, n_bins=15):
    """Average gap between confidence and accuracy, weighted by bin size (top-label ECE).

    Bins have equal width and are closed on the right; confidence 0 joins the first bin, empty bins count for
    nothing. The estimate tends to grow with n_bins and to shrink with n, even for a calibrated model, so compare
    models only at equal n and n_bins. A float32 confidence is compared as the float64 number it is: float32(0.3)
    lies above the edge 0.3.

    Parameters
    ----------
    confidence : ndarray of float, shape (n_samples,)
        Largest class probability per sample, a fraction in [0, 1].
    correct : ndarray of bool, shape (n_samples,)
        True where that class is the label; 0 and 1 will do.
    n_bins : int, default 15
        Number of bins over [0, 1]; at least 1.

    Returns
    -------
    float
        ECE as a fraction in [0, 1]; lower is better.

    Raises
    ------
    ClipsafeError
        Empty input, unequal lengths, a confidence that is NaN or outside [0, 1], or fewer than one bin.

    See Also
    --------
    reliability_curve : the per-bin numbers behind this value.
    clipsafe_utils.intervals.ece_interval : the interval to report with it.

    References
    ----------
    Naeini, Cooper, Hauskrecht. AAAI 2015.  Guo, Pleiss, Sun, Weinberger. ICML 2017 (M = 15 bins).

    Examples
    --------
    >>> round(expected_calibration_error([0.95, 0.95, 0.65, 0.65], [True, True, True, False], n_bins=10), 3)
    0.1
    """
    return _ece(*_binned(confidence, correct, n_bins, "width")[1:])


def equal_mass_ece(confidence, correct, *, n_bins=15):
    """ECE over bins that hold (nearly) equally many samples instead of bins of equal width.

    Cuts are quantiles of the observed confidences. Samples of equal confidence share a bin, so the result does not
    depend on their order and ties may leave bins empty. Parameters, return and errors as in
    `expected_calibration_error`.

    References
    ----------
    Nguyen, O'Connor. EMNLP 2015 (adaptive binning).  Nixon et al. CVPR workshops 2019.
    """
    return _ece(*_binned(confidence, correct, n_bins, "mass")[1:])


def reliability_curve(confidence, correct, *, n_bins=15, binning="width", level=0.95):
    """Confidence, accuracy and its Wilson interval for each confidence bin.

    Parameters
    ----------
    confidence, correct, n_bins
        As in `expected_calibration_error`.
    binning : {"width", "mass"}, default "width"
        Equal widths over [0, 1], or cuts at quantiles of the confidences as in `equal_mass_ece`.
    level : float, default 0.95
        Level of the Wilson interval, a fraction in (0, 1).

    Returns
    -------
    ReliabilityCurve
        Accuracy above confidence means under-confident; the diagonal is perfect calibration.

    Raises
    ------
    ClipsafeError
        As in `expected_calibration_error`; an unknown binning or a level outside (0, 1).
    """
    edges, count, confidence, accuracy = _binned(confidence, correct, n_bins, binning)
    return ReliabilityCurve(edges, count, confidence, accuracy, *wilson_bounds(accuracy, count, level), level)


def classwise_ece(logits, labels, *, n_bins=15, temperature=1.0):
    """ECE of every class's probability, averaged over classes (static calibration error).

    For class k the gap is between the mean probability of k and the share of samples labelled k, in the equal-width,
    right-closed bins of `expected_calibration_error`. With 1,000 classes most probabilities are near 0, so values are
    small: compare only at an equal number of classes, and of samples, since with few of each class most of the value is
    noise. It has no interval: noise can be removed from the sum of 15 gaps (`ece_interval`), not from that of thousands
    with about as many unknown sizes; the same method covers 23 to 100% of simulations with 100 classes.

    Parameters
    ----------
    logits, labels, temperature
        As in `confidence_and_correct`.
    n_bins : int, default 15
        At least 1.

    Returns
    -------
    float
        Fraction in [0, 1]; lower is better.

    Raises
    ------
    ClipsafeError
        As in `confidence_and_correct`.

    References
    ----------
    Kull et al. NeurIPS 2019.  Nixon et al. CVPR workshops 2019 (SCE).
    """
    logits, labels = _checked(logits, labels)
    first = n_bins * np.arange(logits.shape[1])
    gaps = np.zeros(logits.shape[1] * n_bins)
    for rows, _, _, z in shifted_rows(logits, temperature):
        p = _probabilities(z).astype(np.float64)
        index, above = np.tile(first, (len(p), 1)), p > 1 / n_bins  # most probabilities lie in the first bin
        index[above] += bin_index(p[above], n_bins)[1]
        p[np.arange(len(p)), labels[rows]] -= 1
        gaps += np.bincount(index.ravel(), weights=p.ravel(), minlength=len(gaps))
    return float(np.abs(gaps).sum() / logits.size)


def negative_log_likelihood(logits, labels, *, temperature=1.0):
    """Mean negative log-probability of the labels, in nats.

    Parameters
    ----------
    logits, labels, temperature
        As in `confidence_and_correct`.

    Returns
    -------
    float
        At least 0; lower is better; log(n_classes) for a model that knows nothing.

    Raises
    ------
    ClipsafeError
        As in `confidence_and_correct`.
    """
    logits, labels = _checked(logits, labels)
    total = 0.0
    for rows, _, _, z in shifted_rows(logits, temperature):
        of_label = _at(z, labels[rows])
        total += np.log(np.exp(z, out=z).sum(axis=1).astype(np.float64)).sum() - of_label.sum()
    return float(total / len(labels))


def brier_score(logits, labels, *, temperature=1.0):
    """Mean squared distance between the class probabilities and the one-hot label, summed over classes.

    Parameters
    ----------
    logits, labels, temperature
        As in `confidence_and_correct`.

    Returns
    -------
    float
        In [0, 2]; lower is better. For two classes it is twice scikit-learn's binary `brier_score_loss`.

    Raises
    ------
    ClipsafeError
        As in `confidence_and_correct`.

    References
    ----------
    Brier. Monthly Weather Review 78, 1950.
    """
    return float(brier_scores(logits, labels, temperature=temperature).mean())


def brier_scores(logits, labels, *, temperature=1.0):
    """Of each sample what `brier_score` is the mean of: float64, shape (n_samples,)."""
    logits, labels = _checked(logits, labels)
    scores = np.empty(len(labels))
    for rows, _, _, z in shifted_rows(logits, temperature):
        p = _probabilities(z)
        scores[rows] = 1 + np.vecdot(p, p).astype(np.float64) - 2 * _at(p, labels[rows])
    return np.maximum(scores, 0)


def brier_decomposition(logits, labels, *, n_bins=15, temperature=1.0):
    """Split the Brier score into reliability, resolution, uncertainty and what bins hide.

    Every class is binned by its own probability (equal width, closed on the right) and the parts are summed over
    classes. The two within-bin parts make the sum exact: without them it holds only if a bin's samples share one
    probability.

    Parameters
    ----------
    logits, labels, n_bins, temperature
        As in `classwise_ece`.

    Returns
    -------
    BrierParts
        Lower reliability and higher resolution are better; `.brier` equals `brier_score` up to rounding.

    Raises
    ------
    ClipsafeError
        As in `confidence_and_correct`.

    References
    ----------
    Murphy. Journal of Applied Meteorology 12, 1973.  Stephenson, Coelho, Jolliffe. Weather and Forecasting 23, 2008.
    """
    logits, labels = _checked(logits, labels)
    n, p, p_squared, y, p_times_y = _class_bins(logits, labels, n_bins, temperature)
    size, total = np.maximum(n, 1), len(labels)
    rate = y.sum(axis=1, keepdims=True) / total
    parts = (
        (p - y) ** 2 / size,
        n * (y / size - rate) ** 2,
        total * rate * (1 - rate),
        p_squared - p**2 / size,
        2 * (p_times_y - p * y / size),
    )
    return BrierParts(*(float(part.sum() / total) for part in parts))


def fit_temperature(logits, labels):
    """Temperature T that minimises the NLL of logits / T.

    The NLL is convex in 1/T; its slope is followed to zero by Newton steps in log(1/T) inside a bracket, so the scale
    of the logits does not matter (cosines give T near 0.01). Report calibration on samples that the fit never saw.

    Parameters
    ----------
    logits : ndarray of float, shape (n_samples, n_classes)
        Finite, at least two classes.
    labels : ndarray of int, shape (n_samples,)
        Column of the true class.

    Returns
    -------
    float
        Positive; above 1 the model was over-confident.

    Raises
    ------
    ClipsafeError
        As in `confidence_and_correct`, and where no positive, finite minimiser exists: if every label has the largest
        logit, NLL falls all the way to T = 0; if labels' logits are on average no larger than the mean logit, it falls
        towards infinite T.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger. ICML 2017.
    """
    logits, labels = _checked(logits, labels)
    depth = below_top = 0.0  # how far the mean logit, and the label's, lie below the largest
    for rows, _, _, z in shifted_rows(logits):
        depth -= z.mean(axis=1, dtype=np.float64).sum()
        below_top -= _at(z, labels[rows]).sum()
    if below_top == 0:
        raise ClipsafeError(
            f"no temperature fits: all {len(labels)} labels have the largest logit, so NLL falls until T = 0. "
            "Fit on more samples, some of them misclassified."
        )
    if below_top >= depth:
        raise ClipsafeError(
            f"no temperature fits: over {len(labels)} samples the labels' logits are no larger than the mean logit, so "
            "NLL falls until T is infinite. Are labels and columns in the same class order?"
        )
    whole = list(shifted_rows(logits)) if logits.size <= _BLOCK else None  # one block is made and checked once
    inverse, low, high = 10 * len(labels) / depth, 0.0, np.inf
    for _ in range(200):
        slope, curvature = _nll_slope(whole or shifted_rows(logits), labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = np.clip(-slope / max(curvature * inverse, 1e-300), -2, 2)
        proposal = inverse * np.exp(step)
        if not low <= proposal <= high:
            proposal = np.sqrt(low * high)
        moved, inverse = abs(np.log(proposal / inverse)), proposal
        if moved < 1e-5:
            break
    return float(1 / inverse)


def shifted_rows(logits, temperature=1.0):
    """Yield blocks (rows, top, peak, z): slice, argmax, largest logit, and (logits - peak) / temperature to overwrite.

    Refuses empty, wrongly shaped and non-finite logits.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or not logits.size:
        raise ClipsafeError(f"logits must have shape (n_samples, n_classes), both at least 1; got {logits.shape}.")
    if not (np.isfinite(temperature) and temperature > 0):
        raise ClipsafeError(f"temperature must be positive and finite; got {temperature}.")
    rows_per_block = max(1, _BLOCK // logits.shape[1])
    for start in range(0, len(logits), rows_per_block):
        rows = slice(start, min(start + rows_per_block, len(logits)))
        block = logits[rows]
        if block.dtype != np.float32:
            block = block.astype(np.float32 if block.dtype == np.float16 else np.float64)
        if not (finite := np.isfinite(block)).all():
            row, column = np.argwhere(~finite)[0]
            raise ClipsafeError(
                f"logits must be finite; got {block[row, column]} at sample {start + row}, class {column}. "
                "Half-precision overflow? Run that model in float32."
            )
        top = block.argmax(axis=1)
        peak = np.take_along_axis(block, top[:, None], axis=1)
        z = block - peak
        if temperature != 1:
            z /= temperature
        yield rows, top, peak[:, 0].astype(np.float64), z


def bin_index(confidence, n_bins, binning="width"):
    """Edges of n_bins bins over [0, 1], and the bin of each confidence; all that bins confidences goes through here.

    Bins are closed on the right and have equal "width", or are cut at quantiles of the confidences ("mass").
    """
    if n_bins != int(n_bins) or n_bins < 1:
        raise ClipsafeError(f"n_bins must be a whole number of at least 1; got {n_bins}.")
    edges = np.arange(n_bins + 1) / n_bins  # k / n_bins correctly rounded: equal to the literal a user types
    if binning == "mass":
        last = np.ceil(np.arange(1, n_bins) * len(confidence) / n_bins).astype(int) - 1
        edges[1:-1] = np.sort(confidence)[np.maximum(last, 0)]
    elif binning != "width":
        raise ClipsafeError(f'binning must be "width" or "mass"; got {binning!r}.')
    return edges, np.searchsorted(edges[1:-1], confidence, side="left")


def check_level(level):
    """Refuse a confidence level that is no fraction in (0, 1)."""
    if not 0 < level < 1:
        raise ClipsafeError(f"level must be a fraction in (0, 1), for instance 0.95; got {level}.")


def checked_confidence(confidence, correct):
    """Confidence as float64 and correct as bool; refuses empty, unequal and out-of-range ones."""
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct)
    if confidence.ndim != 1 or not confidence.size:
        raise ClipsafeError(f"confidence must have shape (n_samples,) with at least 1 sample; got {confidence.shape}.")
    if correct.shape != confidence.shape:
        raise ClipsafeError(f"correct must have shape {confidence.shape} like confidence; got {correct.shape}.")
    if (outside := ~((confidence >= 0) & (confidence <= 1))).any():
        first = int(np.argmax(outside))
        raise ClipsafeError(
            f"confidence must lie in [0, 1]; got {confidence[first]} at sample {first}. "
            "Did you pass logits? Use confidence_and_correct(logits, labels)."
        )
    if correct.dtype != bool and (other := ~np.isin(correct, (0, 1))).any():
        first = int(np.argmax(other))
        raise ClipsafeError(f"correct must be True or False; got {correct[first]} at sample {first}.")
    return confidence, correct.astype(bool)


def wilson_bounds(rate, n, level):
    """Wilson's score bounds (low, high) of a rate among n trials; NaN where n is 0."""
    check_level(level)
    z = ndtri(0.5 + level / 2)
    n = np.where(n, n, np.nan)
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return np.clip(centre - half, 0, rate), np.clip(centre + half, rate, 1)


def _checked(logits, labels):
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or not logits.size:
        raise ClipsafeError(f"logits must have shape (n_samples, n_classes), both at least 1; got {logits.shape}.")
    if labels.shape != logits.shape[:1]:
        raise ClipsafeError(f"labels must have shape ({len(logits)},), one for each row of logits; got {labels.shape}.")
    if labels.dtype.kind not in "iu":
        raise ClipsafeError(f"labels must be integers (columns of the logits); got {labels.dtype}.")
    if (outside := (labels < 0) | (labels >= logits.shape[1])).any():
        first = int(np.argmax(outside))
        raise ClipsafeError(
            f"labels must lie in 0..{logits.shape[1] - 1}; got {labels[first]} at sample {first}. "
            "Leave out images without a label, and reduce the logits to the classes of the image set."
        )
    return logits, labels


def _binned(confidence, correct, n_bins, binning):
    """Edges, counts, and mean confidence and accuracy of bins, NaN where one is empty."""
    confidence, correct = checked_confidence(confidence, correct)
    edges, index = bin_index(confidence, n_bins, binning)
    count = np.bincount(index, minlength=n_bins)
    right = np.bincount(index, weights=correct, minlength=n_bins)
    size = np.where(count, count, np.nan)
    return edges, count, np.bincount(index, weights=confidence, minlength=n_bins) / size, right / size


def _ece(count, confidence, accuracy):
    return float(np.nansum(count * np.abs(accuracy - confidence)) / count.sum())


def _at(values, columns):
    return np.take_along_axis(values, columns[:, None], axis=1).astype(np.float64)[:, 0]


def _probabilities(z):
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def _class_bins(logits, labels, n_bins, temperature):
    """Count of samples and sums of p, p**2, y and p * y, each of shape (n_classes, n_bins)."""
    n_classes = logits.shape[1]
    sums = np.zeros((5, n_classes * n_bins))
    for rows, _, _, z in shifted_rows(logits, temperature):
        p = _probabilities(z).astype(np.float64)
        index = bin_index(p, n_bins)[1] + n_bins * np.arange(n_classes)
        of_label, here = _at(p, labels[rows]), _at(index, labels[rows]).astype(int)
        size = sums.shape[1]
        sums[0] += np.bincount(index.ravel(), minlength=size)
        sums[1] += np.bincount(index.ravel(), weights=p.ravel(), minlength=size)
        sums[2] += np.bincount(index.ravel(), weights=(p * p).ravel(), minlength=size)
        sums[3] += np.bincount(here, minlength=size)
        sums[4] += np.bincount(here, weights=of_label, minlength=size)
    return sums.reshape(5, n_classes, n_bins)


def _nll_slope(blocks, labels, inverse):
    """First and second derivative of the mean NLL in the inverse temperature."""
    slope = curvature = 0.0
    for rows, _, _, z in blocks:
        weight = np.exp(z * z.dtype.type(inverse))
        total = weight.sum(axis=1).astype(np.float64)
        mean = np.vecdot(z, weight) / total
        slope += (mean - _at(z, labels[rows])).sum()
        weight *= z
        curvature += (np.vecdot(z, weight) / total - mean**2).sum()
    return slope / len(labels), curvature / len(labels)
