"""Answer only where the model is sure: how the error rate grows with the share of samples that are answered."""

from typing import NamedTuple

import numpy as np

from clipsafe_utils.metrics.calibration import checked_confidence


class RiskCoverage(NamedTuple):
    """Selective prediction, least demanding last; arrays of shape (n_samples,)."""

    coverage: np.ndarray
    """Share of samples answered, the most confident first: 1/n, 2/n, ..., 1."""
    risk: np.ndarray
    """Error rate among those that are answered."""


def risk_coverage(confidence, correct):
    """Error rate among the most confident samples, for every share of samples that is answered.

    Samples of equal confidence are taken in random order; the risk is its expectation, so it depends on no order of
    the input.

    Parameters
    ----------
    confidence : ndarray of float, shape (n_samples,)
        A fraction in [0, 1]; only its order matters.
    correct : ndarray of bool, shape (n_samples,)

    Returns
    -------
    RiskCoverage
        The risk at full coverage is the error rate.

    Raises
    ------
    ClipsafeError
        As in `expected_calibration_error`.

    References
    ----------
    El-Yaniv, Wiener. JMLR 11, 2010.  Geifman, El-Yaniv. NeurIPS 2017.
    """
    confidence, correct = checked_confidence(confidence, correct)
    order, n = np.argsort(-confidence, kind="stable"), len(confidence)
    answered = np.arange(1, n + 1)
    last_of_ties = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True)) + 1
    errors = np.cumsum(~correct[order])[last_of_ties - 1]
    expected = np.interp(answered, np.append(0, last_of_ties), np.append(0, errors))
    return RiskCoverage(answered / n, expected / answered)


def aurc(confidence, correct):
    """Area under the risk-coverage curve: the error rate averaged over all shares of samples that may be answered.

    Parameters
    ----------
    confidence, correct
        As in `risk_coverage`.

    Returns
    -------
    float
        In [0, 1]; lower is better. It falls with the error rate as well as with a better order of the samples.

    Raises
    ------
    ClipsafeError
        As in `risk_coverage`.

    See Also
    --------
    excess_aurc : what is left when the error rate is taken out.
    clipsafe_utils.intervals.aurc_interval : the interval to report with it.

    References
    ----------
    Geifman, Uziel, El-Yaniv. ICLR 2019.

    Examples
    --------
    >>> aurc([0.9, 0.8, 0.7], [True, False, True])  # risks 0, 1/2, 1/3
    0.2777777777777778
    """
    return float(risk_coverage(confidence, correct).risk.mean())


def excess_aurc(confidence, correct):
    """AURC beyond that of an oracle, which makes as many errors and is least confident of them.

    Parameters and errors as in `risk_coverage`.

    Returns
    -------
    float
        In [0, 1]; 0 where every error comes after every correct sample.

    References
    ----------
    Geifman, Uziel, El-Yaniv. ICLR 2019 (E-AURC).
    """
    confidence, correct = checked_confidence(confidence, correct)
    n, right = len(correct), int(correct.sum())
    oracle = (n - right - right * (_harmonic(n)[n] - _harmonic(n)[right])) / n
    return max(aurc(confidence, correct) - float(oracle), 0.0)


def aurc_without_each(confidence, correct, *, excess=False):
    """Area (or excess area) that is left when each sample in turn is taken out, as for a jackknife.

    A wrong sample at place j adds 1/k to the risk of every k >= j, so that an area is a sum of harmonic numbers over
    the wrong ones; without a sample, those behind it move up by one place. Takes a sort, not n areas.

    Parameters
    ----------
    confidence, correct
        As in `risk_coverage`; two samples or more.
    excess : bool, default False
        Of `excess_aurc`, else of `aurc`.

    Returns
    -------
    ndarray of float64, shape (n_samples,)
    """
    confidence, correct = checked_confidence(confidence, correct)
    n, wrong = len(correct), ~correct
    _, tied, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    first = last - size
    harmonic = _harmonic(n)
    summed = np.append(0, np.cumsum(harmonic))

    def mean(first, last):
        """Mean of the harmonic numbers first, ..., last - 1: of samples that tie for the places after `first`."""
        return (summed[last] - summed[first]) / np.maximum(last - first, 1)

    errors = np.bincount(tied, wrong)
    ahead, behind = errors * mean(first, last), errors * mean(np.maximum(first - 1, 0), last - 1)
    ahead, behind = np.cumsum(ahead) - ahead, behind.sum() - np.cumsum(behind)
    beside = (errors[tied] - wrong) * mean(first, last - 1)[tied]
    left = harmonic[n - 1] * (wrong.sum() - wrong) - ahead[tied] - beside - behind[tied]
    if excess:
        right = correct.sum() - correct
        left = left - (n - 1 - right) + right * (harmonic[n - 1] - harmonic[right])
    return left / (n - 1)


def _harmonic(n):
    """Harmonic numbers 0, ..., n."""
    return np.append(0, np.cumsum(1 / np.arange(1, n + 1)))
