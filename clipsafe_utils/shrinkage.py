"""Empirical Bayes: many noisy estimates of one kind, each drawn towards the mean of its kind by as much as it is noise.

Where few images show a factor, the spread of effective robustness over models is mostly the sampling of these images.
The models of a group tell how much of it is not.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics.calibration import check_level
from clipsafe_utils.statistics import LINE_KIND, SCALES, Interval

FEWEST = 4
"""Estimates below which nothing is drawn anywhere: the variance between them has three degrees of freedom then."""

KIND = "empirical bayes (morris)"


def shrink(values, errors, *, level=0.95):
    """Draw estimates of like quantities towards their mean: normal errors, normal truths, both variances from data.

    The variance between the truths is Paule and Mandel's moment estimate. An estimate keeps the share 1 - B of its
    distance from the mean, B = (k - 3) / (k - 1) * errors^2 / (errors^2 + between): Morris' factor keeps k estimates
    from being drawn too far, since the variance between them is estimated as well.

    Parameters
    ----------
    values : ndarray of float, shape (n_estimates,)
    errors : ndarray of float, shape (n_estimates,)
        Their standard errors, above 0.
    level : float, default 0.95
        Fraction in (0, 1).

    Returns
    -------
    Interval
        Arrays: the posterior means with Morris' intervals, which hold the error of mean and variance. Below `FEWEST`
        estimates they are the values as given with their normal intervals.
    kept : ndarray of float, shape (n_estimates,)
        1 - B: share of its own distance from the mean that each keeps, in [0, 1].

    Raises
    ------
    ClipsafeError
        Unequal shapes, or errors that are not finite and positive.

    References
    ----------
    Morris. JASA 78, 1983 (parametric empirical Bayes).  Paule, Mandel. J. Res. NBS 87, 1982.
    """
    check_level(level)
    values, errors = np.asarray(values, np.float64), np.asarray(errors, np.float64)
    if values.ndim != 1 or values.shape != errors.shape or not len(values):
        raise ClipsafeError(
            f"shrink needs as many errors as values, in one dimension; got {values.shape} and {errors.shape}."
        )
    if (wrong := ~((errors > 0) & np.isfinite(errors) & np.isfinite(values))).any():
        raise ClipsafeError(
            f"values must be finite and errors above 0; got {values[wrong][0]} with {errors[wrong][0]}."
        )
    k, z, variance = len(values), ndtri((1 + level) / 2), errors**2
    if k < FEWEST:
        return Interval(values, values - z * errors, values + z * errors, "normal", level, k), np.ones(k)
    between = between_variance(values, errors)
    weights = 1 / (variance + between)
    mean = np.sum(weights * values) / weights.sum()
    drawn = (k - 3) / (k - 1) * variance * weights
    posterior = mean + (1 - drawn) * (values - mean)
    of_shares = 2 / (k - 3) * drawn**2 * (np.sum(weights * variance) / weights.sum() + between) * weights
    spread = np.sqrt(variance * (1 - (1 - weights / weights.sum()) * drawn) + of_shares * (values - mean) ** 2)
    return Interval(posterior, posterior - z * spread, posterior + z * spread, KIND, level, k), 1 - drawn


def between_variance(values, errors):
    """Variance of the truths behind estimates with known errors: Paule and Mandel's, at least 0.

    Parameters
    ----------
    values, errors : ndarray of float, shape (n_estimates,)
        At least two; standard errors above 0.

    Returns
    -------
    float
        The variance at which the weighted squares about the weighted mean are worth n - 1.
    """

    def excess(between):
        weights = 1 / (errors**2 + between)
        return np.sum(weights * (values - np.sum(weights * values) / weights.sum()) ** 2) - (len(values) - 1)

    if excess(0) <= 0:
        return 0.0
    return float(brentq(excess, 0, np.sum((values - values.mean()) ** 2) + errors.max() ** 2, xtol=1e-12))


def shrink_robustness(x, y, n, line, groups, errors, *, shared=0.0, level=0.95):
    """Effective robustness of each model, drawn towards its group's mean by as much as it is sampling of images.

    Distances from the line are shrunk on the line's scale, where their errors are about normal, and brought back.

    Parameters
    ----------
    x, y : ndarray of float, shape (n_models,)
        Accuracies on all images and on those with the factor, fractions in [0, 1].
    n : ndarray of int, shape (n_models,)
        Images behind y.
    line : AccuracyLine
        The baseline.
    groups : ndarray, shape (n_models,)
        Models that are alike; a group of fewer than `FEWEST` stays as it is.
    errors : ndarray of float, shape (n_models,)
        From `errors_by_count` or `errors_by_image`.
    shared : float or ndarray, shape (n_models,)
        What the errors of a group's models have in common: it widens the intervals and draws nothing, like the line's
        own error.
    level : float, default 0.95

    Returns
    -------
    Interval
        Arrays of shape (n_models,), in units of accuracy; n is the images'.
    kept : ndarray of float, shape (n_models,)
        Share of its own distance from the group's mean that each model keeps.
    """
    _, inverse = SCALES[line.scale]
    x, y, n, groups = (np.asarray(column) for column in (x, y, n, groups))
    on_line = line.intercept + line.slope * SCALES[line.scale][0](np.clip(x, line.eps, 1 - line.eps))
    distance = _place(y, n, line.scale)[0] - on_line
    shared = ndtri((1 + level) / 2) * np.broadcast_to(shared, x.shape)
    predicted, band = line.predict(x), line.band(x, level=level)
    value, low, high, kept = np.empty((4, len(x)))
    for group in dict.fromkeys(groups):
        own = groups == group
        found, kept[own] = shrink(distance[own], errors[own], level=level)
        below, above = (np.hypot(found.value - end, shared[own]) for end in (found.low, found.high))
        for limit, of_group in ((value, found.value), (low, found.value - below), (high, found.value + above)):
            limit[own] = inverse(on_line[own] + of_group) - inverse(on_line[own])
    low = value - np.hypot(value - low, band.high - predicted)
    high = value + np.hypot(high - value, predicted - band.low)
    return Interval(value, low, high, f"{KIND}; {LINE_KIND}", level, n.astype(int)), kept


def errors_by_count(x, y, n, n_all, line):
    """Standard error of each model's distance from the line, from counts alone, on the line's scale (delta method).

    The images with the factor are among all images, so the errors of both accuracies go together. Models count as
    judged on images of their own; where they share them, what tells models apart errs less (`errors_by_image`).

    Parameters
    ----------
    x, y : ndarray of float, shape (n_models,)
        Accuracies on all images and on those with the factor.
    n, n_all : ndarray of int, shape (n_models,)
        Images behind y and behind x.
    line : AccuracyLine

    Returns
    -------
    ndarray of float, shape (n_models,)
    """
    x, y, n, n_all = (np.asarray(column, np.float64) for column in (x, y, n, n_all))
    (_, rise_x, smooth_x), (_, rise_y, smooth_y) = _place(x, n_all, line.scale), _place(y, n, line.scale)
    pull = line.slope * rise_x
    of_y = smooth_y * (1 - smooth_y)
    variance = rise_y**2 * of_y / (n + 1) + pull**2 * smooth_x * (1 - smooth_x) / (n_all + 1)
    joint = rise_y * pull * of_y / (n_all + 1)
    return np.sqrt(np.maximum(variance - 2 * joint, 1e-3 * variance))


def errors_by_image(correct, shows, line, groups):
    """The same from every image: what tells the models of a group apart, and what the images do to all of them.

    Models of a group mostly fail on the same images. An image moves each model's distance from the line by its
    influence; what the group's mean influence explains is shared, the rest is each model's own.

    Parameters
    ----------
    correct : ndarray of bool, shape (n_models, n_images)
        Whether each model is right on each image.
    shows : ndarray of bool, shape (n_images,)
        Images with the factor, at least one.
    line : AccuracyLine
    groups : ndarray, shape (n_models,)

    Returns
    -------
    errors, shared : ndarray of float, shape (n_models,)
        On the line's scale. A group of one model has all of its error to itself.
    """
    correct, shows, groups = np.asarray(correct, np.float32), np.asarray(shows, bool), np.asarray(groups)
    n, n_all = int(shows.sum()), len(shows)
    x, y = correct.mean(axis=1, dtype=np.float64), correct[:, shows].mean(axis=1, dtype=np.float64)
    pull, rise = line.slope * _place(x, n_all, line.scale)[1], _place(y, n, line.scale)[1]
    influence = -pull[:, None] / n_all * (correct - x[:, None])
    influence[:, shows] += rise[:, None] / n * (correct[:, shows] - y[:, None])
    least = 0.1 * errors_by_count(x, y, np.full(len(x), n), np.full(len(x), n_all), line)  # twins differ in nothing
    errors, shared = np.empty((2, len(x)))
    for group in dict.fromkeys(groups):
        own = groups == group
        k, mean = own.sum(), influence[own].mean(axis=0) if own.sum() > 1 else 0
        variance = np.sum((influence[own] - mean) ** 2, axis=1) * (k / max(k - 1, 1))
        shared[own] = np.sqrt(max(np.sum(mean**2) - variance.mean() / k, 0))
        errors[own] = np.maximum(np.sqrt(variance), least[own])
    return errors, shared


def _place(accuracy, n, scale):
    """Accuracy on the line's scale, how fast it rises there, and the accuracy with half a success and failure more.

    The halves give accuracies of 0 and 1 a finite place.
    """
    forward, step = SCALES[scale][0], 1e-5
    smooth = (np.asarray(accuracy, np.float64) * n + 0.5) / (n + 1)
    rise = (forward(smooth + step * (1 - smooth)) - forward(smooth - step * smooth)) / step
    return forward(smooth), rise, smooth
