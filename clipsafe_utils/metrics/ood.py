"""Out-of-distribution scores (higher = more out-of-distribution, everywhere) and how well they detect."""

from typing import NamedTuple

import numpy as np

from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.metrics.calibration import shifted_rows

GEN_GAMMA, GEN_CLASSES = 0.1, 100
"""Exponent and number of classes of the score "gen"; the values of its authors for ImageNet."""


class OodDetection(NamedTuple):
    """All detection metrics of one pair of score samples; fractions in [0, 1]."""

    auroc: float
    fpr_ood_at_tpr_id95: float
    fpr_id_at_tpr_ood95: float
    aupr_in: float
    aupr_out: float
    n_id: int
    n_ood: int


def ood_score(logits, method):
    """Score how far out-of-distribution each sample is.

    Parameters
    ----------
    logits : ndarray of float, shape (n_samples, n_classes)
        Logits at the model's own scale; for "mcm" plain cosines between image and text embeddings.
    method : str
        - "msp": 1 - largest softmax probability;
        - "max_logit": minus the largest logit;
        - "energy": minus logsumexp of the logits, temperature 1; "energy_t0.01" names another temperature T and gives
          -T logsumexp(logits / T);
        - "mcm": 1 - largest softmax probability of cosines at temperature 1;
        - "gen": generalised entropy, the sum of (p (1 - p)) ** 0.1 over the 100 largest softmax probabilities p.

    Returns
    -------
    ndarray of float64, shape (n_samples,)
        Higher = more out-of-distribution. Probabilities that round to 1 keep their order.

    Raises
    ------
    ClipsafeError
        Unknown method, empty or non-finite logits, or "mcm" of values outside [-1, 1].

    References
    ----------
    msp: Hendrycks, Gimpel. ICLR 2017.  max_logit: Hendrycks et al. ICML 2022.  energy: Liu et al. NeurIPS 2020.
    mcm: Ming et al. NeurIPS 2022.  gen: Liu, Lochman, Zach. CVPR 2023 (gamma = 0.1, M = 100).
    """
    temperature = _energy_temperature(method)
    scores = []
    for rows, top, peak, z in shifted_rows(logits, 1.0 if temperature is None else temperature):
        if method == "max_logit":
            scores.append(-peak)
            continue
        if method == "mcm" and (beyond := np.abs(cosines := np.asarray(logits[rows])) > 1.001).any():
            row, column = np.argwhere(beyond)[0]
            raise ClipsafeError(
                f"mcm takes cosines in [-1, 1]; got {cosines[row, column]} at sample {rows.start + row}, "
                f"class {column}. Divide the logits by the model's scale."
            )
        np.exp(z, out=z)
        np.put_along_axis(z, top[:, None], 0, axis=1)
        rest = z.sum(axis=1).astype(np.float64)  # all but the largest: 1 - p keeps its digits where p rounds to 1
        if method == "gen":
            scores.append(_generalised_entropy(z, rest))
            continue
        scores.append(rest / (1 + rest) if temperature is None else -(peak + temperature * np.log1p(rest)))
    return np.concatenate(scores)


def _generalised_entropy(exponentials, rest):
    """From exp(logit - largest), the largest one's set to 0, and their sum."""
    others = exponentials.astype(np.float64)
    if others.shape[1] > GEN_CLASSES:
        others = np.partition(others, -GEN_CLASSES, axis=1)[:, 1 - GEN_CLASSES :]
    p = others / (1 + rest[:, None])
    top = rest / (1 + rest) ** 2  # p (1 - p) of the largest
    return ((p * (1 - p)) ** GEN_GAMMA).sum(axis=1) + top**GEN_GAMMA


def auroc(id_scores, ood_scores):
    """Probability that an OOD sample scores above an ID sample, ties counted half.

    Parameters
    ----------
    id_scores : ndarray of float, shape (n_id,)
        Scores of in-distribution samples, higher = more out-of-distribution.
    ood_scores : ndarray of float, shape (n_ood,)
        Scores of out-of-distribution samples.

    Returns
    -------
    float
        In [0, 1]; higher is better, 0.5 is chance.

    Raises
    ------
    ClipsafeError
        No ID or no OOD sample, or a score that is NaN or infinite.
    """
    return _auroc(*_sorted(id_scores, ood_scores))


def fpr_ood_at_tpr_id95(id_scores, ood_scores):
    """Share of OOD samples accepted where at least 95% of ID samples are accepted (ID is the positive class).

    A sample is accepted if its score is at most the threshold: the smallest observed ID score that accepts at least
    95% of ID samples. Whatever ties with the threshold is accepted on both sides. This is the study's FPR@95.

    Parameters and errors as in `auroc`.

    Returns
    -------
    float
        In [0, 1]; lower is better.
    """
    return _fpr_accepting_id(*_sorted(id_scores, ood_scores))


def fpr_id_at_tpr_ood95(id_scores, ood_scores):
    """Share of ID samples flagged where at least 95% of OOD samples are flagged (OOD is the positive class).

    A sample is flagged if its score is at least the threshold: the largest observed OOD score that flags at least 95%
    of OOD samples. Whatever ties with the threshold is flagged on both sides.

    Parameters and errors as in `auroc`.

    Returns
    -------
    float
        In [0, 1]; lower is better.
    """
    return _fpr_flagging_ood(*_sorted(id_scores, ood_scores))


def aupr_in(id_scores, ood_scores):
    """Average precision with ID as the positive class (low scores first).

    Parameters and errors as in `auroc`.

    Returns
    -------
    float
        In [0, 1]; higher is better; chance is n_id / (n_id + n_ood), so compare only at equal shares.
    """
    return _average_precision(*_negated(*_sorted(id_scores, ood_scores)))


def aupr_out(id_scores, ood_scores):
    """Average precision with OOD as the positive class (high scores first).

    Parameters and errors as in `auroc`.

    Returns
    -------
    float
        In [0, 1]; higher is better; chance is n_ood / (n_id + n_ood), so compare only at equal shares.
    """
    return _average_precision(*_sorted(id_scores, ood_scores))


def ood_detection(id_scores, ood_scores):
    """All five detection metrics, with one sort of each sample.

    Parameters and errors as in `auroc`.

    Returns
    -------
    OodDetection
        Also holds both sample sizes.
    """
    pair = _sorted(id_scores, ood_scores)
    return OodDetection(
        auroc=_auroc(*pair),
        fpr_ood_at_tpr_id95=_fpr_accepting_id(*pair),
        fpr_id_at_tpr_ood95=_fpr_flagging_ood(*pair),
        aupr_in=_average_precision(*_negated(*pair)),
        aupr_out=_average_precision(*pair),
        n_id=len(pair[0]),
        n_ood=len(pair[1]),
    )


def _energy_temperature(method):
    """Temperature in the name of an energy score, None for the other methods."""
    if method in ("msp", "max_logit", "mcm", "gen"):
        return None
    if method == "energy":
        return 1.0
    try:
        if str(method).startswith("energy_t"):
            return float(method.removeprefix("energy_t"))
    except ValueError:
        pass
    raise unknown("OOD score", method, ["msp", "max_logit", "energy", "energy_t<temperature>", "mcm", "gen"])


def _sorted(id_scores, ood_scores):
    samples = np.asarray(id_scores, dtype=np.float64), np.asarray(ood_scores, dtype=np.float64)
    if any(scores.ndim != 1 or not scores.size for scores in samples):
        shapes = f"{samples[0].shape} ID and {samples[1].shape} OOD scores"
        raise ClipsafeError(
            f"detection needs ID and OOD samples, one score each; got {shapes}. Check is_ood of the sets."
        )
    for name, scores in zip(("id_scores", "ood_scores"), samples, strict=True):
        if not (finite := np.isfinite(scores)).all():
            first = int(np.argmin(finite))
            raise ClipsafeError(f"{name} must be finite; got {scores[first]} at sample {first}. Check its logits.")
    return np.sort(samples[0]), np.sort(samples[1])


def _negated(id_sorted, ood_sorted):
    """Swap the roles: with negated scores, ID samples are the ones to be found on top."""
    return -ood_sorted[::-1], -id_sorted[::-1]


def _auroc(id_sorted, ood_sorted):
    below = np.searchsorted(id_sorted, ood_sorted, side="left").sum()
    not_above = np.searchsorted(id_sorted, ood_sorted, side="right").sum()
    return float((below + not_above) / (2 * len(id_sorted) * len(ood_sorted)))


def _fpr_accepting_id(id_sorted, ood_sorted):
    needed = -(-19 * len(id_sorted) // 20)  # ceil(0.95 n) in whole numbers
    return float(np.searchsorted(ood_sorted, id_sorted[needed - 1], side="right") / len(ood_sorted))


def _fpr_flagging_ood(id_sorted, ood_sorted):
    needed = -(-19 * len(ood_sorted) // 20)
    passed = np.searchsorted(id_sorted, ood_sorted[-needed], side="left")
    return float((len(id_sorted) - passed) / len(id_sorted))


def _average_precision(id_sorted, ood_sorted):
    """Mean, over OOD samples, of the precision among all samples that score at least as high."""
    hits = len(ood_sorted) - np.searchsorted(ood_sorted, ood_sorted, side="left")
    alarms = len(id_sorted) - np.searchsorted(id_sorted, ood_sorted, side="left")
    return float(np.mean(hits / (hits + alarms)))
