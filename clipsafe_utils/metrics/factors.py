"""Accuracy under visual factors, and whether shape or texture decides."""

from typing import NamedTuple

import numpy as np

from clipsafe_utils.errors import ClipsafeError

_MEMBERS = {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145",
    "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898 899 901 907",
    "car": "436 511 817",
    "cat": "281-286",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268",
    "elephant": "385 386",
    "keyboard": "508 878",
    "knife": "499",
    "oven": "766",
    "truck": "555 569 656 675 717 734 864 867",
}


def _indices(ranges):
    spans = (part.partition("-") for part in ranges.split())
    return tuple(index for first, _, last in spans for index in range(int(first), int(last or first) + 1))


SIXTEEN_CLASSES = {category: _indices(ranges) for category, ranges in _MEMBERS.items()}
"""Category -> its ImageNet-1k columns (torch order), after Geirhos et al. (ICLR 2019): 207 columns in 16 categories."""


class FactorAccuracy(NamedTuple):
    """Accuracy on the images that show each factor; arrays of shape (n_factors,)."""

    factors: tuple
    accuracy: np.ndarray
    """NaN where no image shows the factor."""
    n_correct: np.ndarray
    n: np.ndarray
    overall: float
    """Accuracy over all images, whatever they show."""
    n_images: int


class ShapeBias(NamedTuple):
    """Shape decisions among those that follow either cue."""

    value: float
    """n_shape / (n_shape + n_texture); NaN where neither cue was ever chosen."""
    share_decided: float
    """(n_shape + n_texture) / n: how much of the data `value` speaks for."""
    n_shape: int
    n_texture: int
    n: int
    """Images whose cues conflict; those with equal cues are dropped."""


def factor_accuracy(predictions, annotations):
    """Accuracy on the images that show a factor, for each factor.

    Parameters
    ----------
    predictions : ndarray of bool, shape (n_images,), or DataFrame
        Whether each image was classified correctly; of a frame, the column `correct`.
    annotations : DataFrame or mapping of name to ndarray of bool
        One column a factor, True where the image shows it. Rows are the images of `predictions` in the same order; if
        both sides carry an index, the two must be equal.

    Returns
    -------
    FactorAccuracy
        In the order of the columns, with the counts behind each value for an interval.

    Raises
    ------
    ClipsafeError
        No images, no factors, unequal lengths or indexes, or values that are neither True nor False.

    See Also
    --------
    clipsafe_utils.statistics.wilson_interval : the interval, from `n_correct` and `n`.

    References
    ----------
    Idrissi et al. ICLR 2023 (ImageNet-X).
    """
    if all(hasattr(side, "iloc") for side in (predictions, annotations)) and not predictions.index.equals(
        annotations.index
    ):
        raise ClipsafeError("predictions and annotations have different indexes; join them on the image name first.")
    if hasattr(predictions, "columns"):
        if "correct" not in predictions:
            raise ClipsafeError(f"predictions lack the column 'correct'; theirs are {list(predictions.columns)}.")
        predictions = predictions["correct"]
    correct = _flags("predictions", predictions)
    factors = tuple(annotations.keys()) if hasattr(annotations, "keys") else ()
    if not factors:
        raise ClipsafeError("annotations name no factor; give a frame or mapping with one bool column for each factor.")
    shows = np.stack([_flags(f"annotations[{name!r}]", annotations[name], len(correct)) for name in factors])
    n, n_correct = shows.sum(axis=1), (shows & correct).sum(axis=1)
    return FactorAccuracy(
        factors, n_correct / np.where(n, n, np.nan), n_correct, n, float(correct.mean()), len(correct)
    )


def error_ratio(factor_accuracy, overall_accuracy):
    """How many times more errors a model makes where a factor is present than overall.

    Parameters
    ----------
    factor_accuracy : float or ndarray
        Accuracy on images with the factor, a fraction in [0, 1]; NaN stays NaN.
    overall_accuracy : float or ndarray
        Accuracy on all images, a fraction in [0, 1]; broadcast against the first.

    Returns
    -------
    float or ndarray
        (1 - factor accuracy) / (1 - overall accuracy); below 1 the factor is easy, lower is better. NaN where the
        overall accuracy is 1: without errors there is no ratio.

    Raises
    ------
    ClipsafeError
        An accuracy outside [0, 1].

    References
    ----------
    Idrissi et al. ICLR 2023 (ImageNet-X).
    """
    both = np.broadcast_arrays(np.asarray(factor_accuracy, np.float64), np.asarray(overall_accuracy, np.float64))
    for name, values in zip(("factor_accuracy", "overall_accuracy"), both, strict=True):
        if (outside := (values < 0) | (values > 1)).any():
            raise ClipsafeError(
                f"{name} must be a fraction in [0, 1]; got {values[outside][0]}. Divide percent by 100."
            )
    ratio = (1 - both[0]) / np.where(both[1] == 1, np.nan, 1 - both[1])
    return float(ratio) if ratio.ndim == 0 else ratio


def sixteen_class_decisions(probabilities):
    """Decide among 16 entry-level categories from ImageNet probabilities.

    The probability of a category is the mean over its member classes (`SIXTEEN_CLASSES`); the largest wins, a tie
    goes to the category that comes first in the alphabet.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n_images, 1000)
        Softmax output in the order of ImageNet-1k.

    Returns
    -------
    ndarray of str, shape (n_images,)
        Names of `SIXTEEN_CLASSES`.

    Raises
    ------
    ClipsafeError
        Another shape, or values that are NaN or outside [0, 1].

    References
    ----------
    Geirhos et al. ICLR 2019 (mean over members, argmax).
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != 1000 or not len(probabilities):
        raise ClipsafeError(f"probabilities must have shape (n_images, 1000), ImageNet-1k; got {probabilities.shape}.")
    if (outside := ~((probabilities >= 0) & (probabilities <= 1.00001)).all(axis=1)).any():
        first = int(np.argmax(outside))
        extreme = probabilities[first][np.argmax(np.abs(probabilities[first] - 0.5))]
        raise ClipsafeError(
            f"probabilities must lie in [0, 1]; got {extreme} at image {first}. "
            "Did you pass logits? Use softmax(logits)."
        )
    means = [probabilities[:, members].mean(axis=1, dtype=np.float64) for members in SIXTEEN_CLASSES.values()]
    return np.array(list(SIXTEEN_CLASSES))[np.argmax(means, axis=0)]


def shape_bias(decisions):
    """Share of shape decisions among decisions for either cue of a cue-conflict image.

    Parameters
    ----------
    decisions : DataFrame or mapping of name to ndarray of str, shape (n_images,)
        `decision` (the category chosen), `shape` and `texture` (the cues). Images with equal cues do not conflict and
        are dropped; a decision for a third category, or none, counts as undecided.

    Returns
    -------
    ShapeBias
        `value` in [0, 1]: 1 is pure shape, 0 pure texture. Always report `share_decided` beside it.

    Raises
    ------
    ClipsafeError
        A missing column, unequal lengths, or no image with conflicting cues.

    References
    ----------
    Geirhos et al. ICLR 2019.
    """
    names = ("decision", "shape", "texture")
    if missing := [name for name in names if name not in decisions]:
        raise ClipsafeError(f"decisions lack {missing}; needed are the columns {list(names)}, one row an image.")
    decision, shape, texture = (np.asarray(decisions[name], dtype=object) for name in names)
    if not decision.shape == shape.shape == texture.shape:
        raise ClipsafeError(f"decisions have unequal lengths {len(decision)}, {len(shape)}, {len(texture)}.")
    conflict = shape != texture
    n = int(conflict.sum())
    if not n:
        raise ClipsafeError(f"none of {len(shape)} images has conflicting cues; shape bias needs shape != texture.")
    n_shape, n_texture = (int((conflict & (decision == cue)).sum()) for cue in (shape, texture))
    decided = n_shape + n_texture
    return ShapeBias(n_shape / decided if decided else float("nan"), decided / n, n_shape, n_texture, n)


def _flags(name, values, n=None):
    values = np.asarray(values)
    if values.ndim != 1 or not values.size or (n is not None and len(values) != n):
        expected = "(n_images,) with at least 1 image" if n is None else f"({n},) like predictions"
        raise ClipsafeError(f"{name} must have shape {expected}; got {values.shape}.")
    if (other := ~np.isin(values, (0, 1))).any():
        first = int(np.argmax(other))
        raise ClipsafeError(f"{name} must be True or False; got {values[first]} at image {first}.")
    return values.astype(bool)
