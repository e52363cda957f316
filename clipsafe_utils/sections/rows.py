"""Rows of the tidy table, and what several sections say or count alike."""

import numpy as np
import pandas as pd

from clipsafe_utils.statistics import bootstrap_ci, wilson_interval

CLIP_GROUPS = ("zero_shot_clip", "clip_finetuned")

WITH_IMAGES = (
    "published tables hold no logits, which this needs: run a suite with images and models, such as `make report "
    "SUITE=sample`, or describe your own under image_sets."
)


def row(model, test_set, protocol, metric, interval):
    """One row of the tidy table from an `Interval`, or from a (value, n) pair without one."""
    result = {"model": model, "test_set": test_set, "protocol": protocol, "metric": metric}
    if len(interval) == 2:
        return result | {"value": interval[0], "n": interval[1]}
    value, low, high, kind, level, n = interval
    return result | {"value": value, "n": n, "ci_low": low, "ci_high": high, "ci_kind": kind, "ci_level": level}


def accuracy_row(study, model, test_set, correct):
    interval = wilson_interval(int(correct.sum()), len(correct), level=study.parameters.ci_level)
    return row(model, test_set, study.protocol(model), "accuracy", interval)


def is_correct(logits, labels):
    """Whether the largest logit is the label's: bool, shape (n,)."""
    return np.argmax(logits, axis=1) == labels


def group_means(study, rows):
    """Mean over the models of a group, one row a group and test set, with an interval over models.

    Returns
    -------
    DataFrame
        group, test_set, mean, low, high (NaN below three models), n_models.
    """
    p = study.parameters
    rows = rows.assign(group=rows["model"].map(study.models["group"])).dropna(subset=["group", "value"])
    found = []
    for (group, test_set), part in rows.groupby(["group", "test_set"]):
        values = part["value"].to_numpy()
        interval = bootstrap_ci(np.mean, values, n_bootstrap=p.n_bootstrap, level=p.ci_level, seed=p.seed)
        low, high = interval[1:3] if len(values) >= 3 else (np.nan, np.nan)
        found.append((group, test_set, interval.value, low, high, len(values)))
    return pd.DataFrame(found, columns=["group", "test_set", "mean", "low", "high", "n_models"])
