"""Crossed tables: how much of their variance lies in which factor, and which of their rows no other beats."""

from itertools import combinations

import numpy as np

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.statistics import Interval, mean_interval

SMALL = 1e-4
"""Kept between a share and the ends 0 and 1, which lie at infinity on the logit scale."""


def variance_components(values, factors):
    """Variance components of a balanced crossed table with one value a cell, all factors random.

    The analysis of variance of all main effects and interactions; each component follows from the expected mean
    squares, in which the components of all effects that hold an effect add up. That of all factors together holds the
    error of the single values too.

    Parameters
    ----------
    values : ndarray, shape (n_1, ..., n_k)
        One axis a factor.
    factors : sequence of str, k of them

    Returns
    -------
    dict of tuple of str to float
        Factors of an effect, in the order given -> its variance in squared units of the values; an estimate below zero
        is reported as zero. A factor with one level has no effect.

    Raises
    ------
    ClipsafeError
        A missing value: the table must be balanced; not one factor an axis; no axis with two levels.

    References
    ----------
    Searle, Casella, McCulloch. Variance Components, 1992, chapter 4.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != len(factors) or not np.isfinite(values).all():
        raise ClipsafeError(f"a balanced table of {', '.join(factors)} is needed; got shape {values.shape}.")
    factors = [factor for factor, size in zip(factors, values.shape, strict=True) if size > 1]
    values = values.squeeze()
    axes = range(len(factors))
    effects = [subset for size in axes for subset in combinations(axes, size + 1)]
    if not effects:
        raise ClipsafeError("a table with a single value has no variance; at least one factor needs two levels.")
    cells = {subset: np.prod([n for axis, n in enumerate(values.shape) if axis not in subset]) for subset in effects}
    squares, mean_squares = {(): 0.0}, {}
    values = values - values.mean()
    for subset in effects:
        means = values.mean(axis=tuple(axis for axis in axes if axis not in subset))
        below = [other for other in squares if set(other) <= set(subset)]
        squares[subset] = cells[subset] * np.sum(means**2) - sum(squares[other] for other in below)
        mean_squares[subset] = squares[subset] / np.prod([values.shape[axis] - 1 for axis in subset])
    found = {}
    for subset in effects:
        # Inclusion and exclusion: what an effect's mean square holds beyond those of the effects that hold it.
        above = [other for other in effects if set(subset) <= set(other)]
        excess = sum((-1) ** (len(other) - len(subset)) * mean_squares[other] for other in above)
        found[tuple(factors[axis] for axis in subset)] = float(max(excess / cells[subset], 0))
    return found


def variance_shares(values, factors):
    """Share of each effect in the sum of all components: like `variance_components`, in [0, 1]; NaN where that is 0."""
    found = variance_components(values, factors)
    total = sum(found.values())
    return {effect: component / total if total else np.nan for effect, component in found.items()}


def variance_share_intervals(values, factors, *, level=0.95):
    """Shares with intervals over the levels of the first factor, those of the others as they are.

    The jackknife on the logit scale with Student's t. In simulated tables of 10 and 26 models it covers 91 to 97% at
    95%; the bootstrap over models, which draws some twice and so takes part of one component for another, 76 to 95%.

    Parameters
    ----------
    values, factors
        As in `variance_components`.
    level : float, default 0.95

    Returns
    -------
    dict of tuple of str to Interval
        Limits NaN below five levels of the first factor, and where leaving one out moves nothing.

    References
    ----------
    Efron, Tibshirani. An Introduction to the Bootstrap, 1993, chapter 11.
    """
    values = np.asarray(values, np.float64)
    whole, n = variance_shares(values, factors), len(values)
    left_out = [variance_shares(np.delete(values, index, axis=0), factors) for index in range(n if n >= 5 else 0)]
    found = {}
    for effect, share in whole.items():
        low = high = np.nan
        if left_out and np.ptp(without := np.array([shares[effect] for shares in left_out])) > 0:
            centre = _stretch(share)
            pseudo = mean_interval(n * centre - (n - 1) * _stretch(without), level=level)
            half = (pseudo.high - pseudo.low) / 2
            low, high = _shrink(centre - half), _shrink(centre + half)
        found[effect] = Interval(share, low, high, "jackknife over models (logit)", level, n)
    return found


def _stretch(share):
    return np.log((share + SMALL) / (1 - share + SMALL))


def _shrink(stretched):
    odds = np.exp(stretched)
    return float(np.clip((odds * (1 + SMALL) - SMALL) / (1 + odds), 0, 1))


def on_front(values):
    """Which rows of a table no other row beats: at least as good in every column, and better in one.

    Parameters
    ----------
    values : ndarray, shape (..., n_rows, n_columns)
        Higher is better.

    Returns
    -------
    ndarray of bool, shape (..., n_rows)
        The Pareto front; equal rows are on it together.
    """
    one, other = np.asarray(values)[..., :, None, :], np.asarray(values)[..., None, :, :]
    beaten = (other >= one).all(axis=-1) & (other > one).any(axis=-1)
    return ~beaten.any(axis=-1)
