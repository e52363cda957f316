"""Out-of-distribution scores that know the in-distribution features, or names of what is no class.

As everywhere, higher = more out-of-distribution. What a score is fitted on must not be among the images that it is
judged on.
"""

import numpy as np
from scipy.linalg import eigh
from scipy.special import expit, logsumexp

from clipsafe_utils.errors import ClipsafeError, unknown

FITTED_SCORES = ("knn", "mahalanobis", "rmd", "vim")

NEIGHBOURS = 10
"""k of the score "knn", its authors' for a bank of about 13,000 features; "knn_k50" names another."""

NEGATIVE_SHARE, NEGATIVE_QUANTILE = 0.5, 0.05
"""Share of the candidates that become negative labels, and the quantile of their distances to the classes."""

_BLOCK = 1 << 23  # numbers of a block of distances


def is_fitted(method):
    """Whether a score is fitted on in-distribution features: one of `FITTED_SCORES`, "knn_k50" and the like."""
    return str(method).partition("_")[0] in FITTED_SCORES


def fit_ood_score(method, features, *, labels=None, logits=None, weights=None, bias=None):
    """Fit a score on the features of in-distribution images.

    Parameters
    ----------
    method : str
        - "knn": distance to the 10th nearest feature, all of unit length; "knn_k50" names another neighbour;
        - "mahalanobis": squared Mahalanobis distance to the nearest class mean, one covariance for all classes;
        - "rmd": that minus the squared Mahalanobis distance to the mean of all, with the covariance of all;
        - "vim": distance from the principal subspace, scaled to the largest logit, minus logsumexp of the logits.
    features : ndarray of float, shape (n_bank, width)
        What the classification is linear in: before the head of a classifier, image embeddings of unit length.
    labels : ndarray of int, shape (n_bank,)
        Class indices; for "mahalanobis" and "rmd".
    logits : ndarray of float, shape (n_bank, n_classes)
        For "vim".
    weights, bias : ndarray of float, shape (n_outputs, width), (n_outputs,)
        Of the linear head, for "vim"; no bias is a bias of 0.

    Returns
    -------
    callable
        ``score(features, logits=None)`` -> ndarray of float64, shape (n_samples,); "vim" needs both.

    Raises
    ------
    ClipsafeError
        Unknown method, features that are empty or not finite, or too few of them for the score.

    Notes
    -----
    Directions in which the bank varies by less than the rounding of float32 carry no distance: dead units, and the
    one that layer normalisation takes away. ViM's principal subspace has 1,000 dimensions from a width of 2,048, 512
    from 768, else half of the width.

    References
    ----------
    knn: Sun, Ming, Zhu, Li. ICML 2022.  mahalanobis: Lee et al. NeurIPS 2018.  rmd: Ren et al. 2021 (arXiv 2106.09022).
    vim: Wang, Li, Feng, Zhang. CVPR 2022; dimensions of narrow features as in OpenOOD.
    """
    bank, name = _checked(features), str(method).partition("_")[0]
    if name == "knn":
        return _nearest(bank, _neighbours(method))
    if method in ("mahalanobis", "rmd"):
        return _mahalanobis(bank, np.asarray(labels), method)
    if method == "vim":
        return _virtual_logit(bank, np.asarray(logits, np.float64), np.asarray(weights, np.float64), bias)
    raise unknown("fitted OOD score", method, [*FITTED_SCORES, "knn_k<neighbour>"])


def mine_negatives(candidates, classes, *, share=NEGATIVE_SHARE, quantile=NEGATIVE_QUANTILE):
    """Choose the candidates that are farthest from the classes (NegMining).

    The distance of a candidate to a class is minus the cosine of their text embeddings; to all classes it is a low
    quantile of these, which is the nearest class but for some outliers.

    Parameters
    ----------
    candidates : ndarray of float, shape (n_candidates, width)
        Text embeddings of unit length.
    classes : ndarray of float, shape (n_classes, width)
    share : float
        Of the candidates to keep, in (0, 1]; its authors keep 15% of 70,000.
    quantile : float
        In [0, 1].

    Returns
    -------
    ndarray of int
        Positions of the chosen candidates, rising; ties go to the first.

    References
    ----------
    Jiang et al. ICLR 2024, section 3.1.
    """
    distances = np.quantile(-_checked(candidates) @ _checked(classes).T, quantile, axis=1)
    return np.sort(np.argsort(-distances, kind="stable")[: max(1, round(share * len(distances)))])


def negative_label_score(logits, negative_logits):
    """Softmax probability of the negative labels among classes and negative labels (NegLabel, without grouping).

    Parameters
    ----------
    logits : ndarray of float, shape (n_samples, n_classes)
    negative_logits : ndarray of float, shape (n_samples, n_negatives)
        At the same scale.

    Returns
    -------
    ndarray of float64, shape (n_samples,)
        In [0, 1], higher = more out-of-distribution.

    References
    ----------
    Jiang et al. ICLR 2024, equation 4: one minus their score, at temperature 0.01 for models whose scale is 100.
    """
    inside, outside = (
        logsumexp(_checked(z, name), axis=1) for z, name in ((logits, "logits"), (negative_logits, "negative logits"))
    )
    return expit(outside - inside)


def _checked(array, name="features"):
    array = np.asarray(array, np.float64)
    if array.ndim != 2 or not array.size:
        raise ClipsafeError(f"{name} must have shape (n_samples, width), both at least 1; got {array.shape}.")
    if not (finite := np.isfinite(array)).all():
        row, column = np.argwhere(~finite)[0]
        raise ClipsafeError(f"{name} must be finite; got {array[row, column]} at sample {row}, column {column}.")
    return array


def _neighbours(method):
    if method == "knn":
        return NEIGHBOURS
    digits = method.removeprefix("knn_k")
    if not digits.isdecimal() or not int(digits):
        raise unknown("fitted OOD score", method, ["knn", "knn_k50"])
    return int(digits)


def _too_few(method, n, needed):
    return ClipsafeError(
        f"{method} needs {needed} and got {n:,} in-distribution features to be fitted on: take a larger ID set or a "
        "larger `calibration_fraction`, or leave the score out."
    )


def _unit(features):
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _nearest(bank, k):
    if len(bank) < k:
        raise _too_few(f"the distance to neighbour {k}", len(bank), f"at least {k}")
    bank, at = _unit(bank), len(bank) - k

    def score(features, logits=None):
        features, rows = _unit(_checked(features)), max(1, _BLOCK // len(bank))
        blocks = (features[start : start + rows] @ bank.T for start in range(0, len(features), rows))
        cosines = np.concatenate([np.partition(block, at, axis=1)[:, at] for block in blocks])
        return np.sqrt(np.maximum(2 - 2 * cosines, 0))

    return score


def _whitening(centred):
    """Map (width, rank) after which squared length is squared Mahalanobis distance."""
    variances, directions = eigh(centred.T @ centred / len(centred))
    kept = variances > variances[-1] * len(variances) * np.finfo(np.float32).eps ** 2
    return directions[:, kept] / np.sqrt(variances[kept])


def _mahalanobis(bank, labels, method):
    classes, index = np.unique(labels, return_inverse=True)
    if len(bank) < bank.shape[1] + len(classes):
        needed = f"at least as many as the features are wide ({bank.shape[1]:,}) and one a class"
        raise _too_few(method, len(bank), needed)
    means = np.stack([bank[index == k].mean(axis=0) for k in range(len(classes))])
    within, overall = _whitening(bank - means[index]), bank.mean(axis=0)
    centres, background = means @ within, _whitening(bank - overall) if method == "rmd" else None

    def score(features, logits=None):
        features = _checked(features)
        inside = features @ within
        to_centres = (inside**2).sum(axis=1) + (np.sum(centres**2, axis=1)[:, None] - 2 * centres @ inside.T).min(
            axis=0
        )
        if background is None:
            return to_centres
        return to_centres - (((features - overall) @ background) ** 2).sum(axis=1)

    return score


def principal_dimensions(width):
    """Dimensions of ViM's principal subspace for features of a width."""
    return 1000 if width >= 2048 else 512 if width >= 768 else width // 2


def _virtual_logit(bank, logits, weights, bias):
    width = bank.shape[1]
    kept = principal_dimensions(width)
    if len(bank) <= width:
        raise _too_few("vim", len(bank), f"more than the features are wide ({width:,})")
    origin = np.zeros(width) if bias is None else -np.linalg.pinv(weights) @ np.asarray(bias, np.float64)
    residual = eigh((bank - origin).T @ (bank - origin))[1][:, : width - kept]
    scale = logits.max(axis=1).mean() / np.linalg.norm((bank - origin) @ residual, axis=1).mean()
    if not 0 < scale < np.inf:
        raise ClipsafeError(
            f"vim scales distances to the largest logit, whose mean is {logits.max(axis=1).mean():.3g} here: it needs "
            "logits above 0 and features that fill their width. Leave the score out for this model."
        )

    def score(features, logits):
        distance = np.linalg.norm((_checked(features) - origin) @ residual, axis=1)
        return scale * distance - logsumexp(_checked(logits, "logits"), axis=1)

    return score
