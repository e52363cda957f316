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


def shrink_robustness(x, y, n, n_reference, line, groups, *, level=0.95):
    """Effective robustness of each model, drawn towards its group's mean by as much as it is sampling of images.

    Distances from the line are shrunk on the line's scale, where their errors are about normal, and brought back.

    Parameters
    ----------
    x, y : ndarray of float, shape (n_models,)
        Accuracies on the reference and on the images with the factor, fractions in [0, 1].
    n, n_reference : ndarray of int, shape (n_models,)
        Images behind y and behind x.
    line : AccuracyLine
        The baseline.
    groups : ndarray, shape (n_models,)
        Models that are alike; a group of fewer than `FEWEST` stays as it is.
    level : float, default 0.95

    Returns
    -------
    Interval
        Arrays of shape (n_models,), in units of accuracy; n is the images'. The line's own error, which all models
        share, widens the intervals and draws nothing.
    kept : ndarray of float, shape (n_models,)
        Share of its own distance from the group's mean that each model keeps.
    """
    forward, inverse = SCALES[line.scale]
    x, y, n, n_reference = (np.asarray(column, np.float64) for column in (x, y, n, n_reference))
    # Half a success and half a failure more: accuracies of 0 and 1 keep a finite place and an error.
    place_x, error_x = _place(x, n_reference, forward)
    place_y, error_y = _place(y, n, forward)
    on_line = line.intercept + line.slope * place_x
    distance, error = place_y - on_line, np.hypot(error_y, line.slope * error_x)
    predicted, band = line.predict(x), line.band(x, level=level)
    value, low, high, kept = np.empty((4, len(x)))
    for group in dict.fromkeys(groups):
        own = np.asarray(groups) == group
        found, kept[own] = shrink(distance[own], error[own], level=level)
        for limit, of_group in ((value, found.value), (low, found.low), (high, found.high)):
            limit[own] = inverse(on_line[own] + of_group) - inverse(on_line[own])
    low = value - np.hypot(value - low, band.high - predicted)
    high = value + np.hypot(high - value, predicted - band.low)
    return Interval(value, low, high, f"{KIND}; {LINE_KIND}", level, n.astype(int)), kept


def _place(accuracy, n, forward):
    """Accuracy on the line's scale, and its standard error there (delta method)."""
    smooth = (accuracy * n + 0.5) / (n + 1)
    step = 1e-5
    slope = (forward(smooth + step * (1 - smooth)) - forward(smooth - step * smooth)) / step
    return forward(smooth), slope * np.sqrt(smooth * (1 - smooth) / (n + 1))
