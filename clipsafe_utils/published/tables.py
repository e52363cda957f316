"""All published results as the one tidy table, with what per-image data lets us compute."""

import pandas as pd

from clipsafe_utils.datasets.factors import ALL_FACTORS, load_factor_annotations
from clipsafe_utils.intervals import ece_interval, error_ratio_interval
from clipsafe_utils.metrics import factor_accuracy, shape_bias
from clipsafe_utils.published.readers import (
    read_cue_conflict_trials,
    read_factor_accuracies,
    read_imagenet_testbed,
    read_imagenet_x_predictions,
    read_openclip_results,
    read_timm_results,
)
from clipsafe_utils.statistics import wilson_interval
from clipsafe_utils.table import KEY, tidy


def published_table(folder=None, *, level=0.95, n_bins=15):
    """All published results as one tidy table.

    Numbers that others printed have source "published" and no interval; Wilson gives one where n > 0. Numbers
    computed here from per-image data have source "computed" and an interval; where a printed one has the same key
    (factor accuracies of ResNet50 and DINO), the computed one stands for both.

    Parameters
    ----------
    folder : path, optional
        See `published_file`.
    level : float, default 0.95
        Of the intervals: Wilson for accuracies, shape bias and its share decided; see `clipsafe_utils.intervals` for
        error ratios and ECE.
    n_bins : int, default 15
        Of the top-label ECE.

    Returns
    -------
    table : DataFrame
        Tidy, suite "published".
    quarantine : DataFrame
        What was taken out: model, protocol, test_set ("all" for a whole model), value, reason.

    See Also
    --------
    published_models : group, source and encoder of the models.
    """
    quarantine = []
    readers = (read_factor_accuracies, read_openclip_results, read_timm_results, read_imagenet_testbed)
    printed = pd.concat([reader(folder, quarantine=quarantine) for reader in readers])
    computed = tidy(
        [
            *_prediction_rows(read_imagenet_x_predictions(folder), level, n_bins),
            *_trial_rows(read_cue_conflict_trials(folder), level),
        ]
    ).assign(suite="published")
    table = pd.concat([computed, printed]).drop_duplicates(KEY, keep="first")
    return tidy(table), pd.DataFrame(quarantine, columns=["model", "protocol", "test_set", "value", "reason"])


def _row(model, test_set, protocol, metric, interval):
    value, low, high, kind, at, n = interval
    row = {"model": model, "test_set": test_set, "protocol": protocol, "metric": metric, "value": value, "n": n}
    return {**row, "ci_low": low, "ci_high": high, "ci_kind": kind, "ci_level": at}


def _prediction_rows(predictions, level, n_bins):
    for model, images in predictions.groupby("model", sort=False):
        confidence, correct = images["confidence"].to_numpy(), images["correct"].to_numpy()
        interval = wilson_interval(correct.sum(), len(correct), level=level)
        yield _row(model, "imagenet_val", "imagenet_x predictions", "accuracy", interval)
        interval = ece_interval(confidence, correct, n_bins=n_bins, level=level)
        yield _row(model, "imagenet_val", f"imagenet_x predictions, {n_bins} bins", "ece", interval)
        for which in ("top", "multi"):
            shows = load_factor_annotations(which)
            correct = images.set_index("image_id")["correct"].reindex(shows.index)
            found, protocol = factor_accuracy(correct, shows[list(ALL_FACTORS)]), f"imagenet_x {which}"
            interval = wilson_interval(int(correct.sum()), found.n_images, level=level)
            yield _row(model, "imagenet_x", protocol, "accuracy", interval)
            for factor, right, n in zip(found.factors, found.n_correct, found.n, strict=True):
                test_set = f"imagenet_x/{factor}"
                yield _row(model, test_set, protocol, "accuracy", wilson_interval(right, n, level=level))
                ratio = error_ratio_interval(right, n, correct.sum(), found.n_images, level=level)
                yield _row(model, test_set, protocol, "error_ratio", ratio)


def _trial_rows(trials, level):
    for model, seen in trials.groupby("model", sort=False):
        bias = shape_bias(seen.rename(columns={"response": "decision"}))
        decided = bias.n_shape + bias.n_texture
        interval = wilson_interval(bias.n_shape, decided, level=level)
        yield _row(model, "cue_conflict", "geirhos-2019", "shape_bias", interval)
        interval = wilson_interval(decided, bias.n, level=level)
        yield _row(model, "cue_conflict", "geirhos-2019", "share_decided", interval)
