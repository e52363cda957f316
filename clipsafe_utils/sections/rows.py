"""Rows of the tidy table, and what several sections say or count alike."""

import numpy as np
import pandas as pd

from clipsafe_utils.statistics import Interval, mean_interval, wilson_interval
from clipsafe_utils.zoo import distinct, origins

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
    if np.isnan(low) and np.isnan(high):
        return result | {"value": value, "n": n}
    return result | {"value": value, "n": n, "ci_low": low, "ci_high": high, "ci_kind": kind, "ci_level": level}


def accuracy_row(study, model, test_set, correct):
    interval = wilson_interval(int(correct.sum()), len(correct), level=study.parameters.ci_level)
    return row(model, test_set, study.protocol(model), "accuracy", interval)


def of_main_prompts(protocols, prompts):
    """Which rows are of a prompt set, or of no prompts at all.

    Parameters
    ----------
    protocols : Series of str
        Column of the tidy table.
    prompts : str
        Name of the prompt set; "" admits all.

    Returns
    -------
    Series of bool
    """
    named = protocols.str.extract(r"(?:^|, )prompts ([^,]*)")[0]
    return named.isna() | named.eq(prompts) | (prompts == "")


def largest(logits, labels):
    """Column of the largest logit: int64, shape (n,)."""
    return np.argmax(logits, axis=1)


def is_correct(logits, labels):
    """Whether the largest logit is the label's: bool, shape (n,)."""
    return np.argmax(logits, axis=1) == labels


def over_models(study, values):
    """Mean over models with Student's interval; those that come from one start vary together and count as one.

    Parameters
    ----------
    values : Series
        By model.

    Returns
    -------
    Interval
        n counts the models; limits are NaN below three starts.
    """
    each = values.groupby(values.index.map(origins(study.models))).mean().to_numpy()
    interval = mean_interval(each, level=study.parameters.ci_level)
    interval = interval._replace(kind="student t over models", n=len(values))
    return interval if len(each) >= 3 else interval._replace(low=np.nan, high=np.nan)


def group_means(study, rows, accuracies=None, lines=None, axes=None, groups=None):
    """Mean over the models of a group, one row a group and test set, with Student's interval over models.

    Parameters
    ----------
    rows : DataFrame
        Tidy, of one metric and protocol.
    accuracies, lines, axes : optional
        Where the values are distances from lines (effective robustness), what `robustness` took and returned: the line
        has an error too, which all models of a group share, and the interval then holds it.
    groups : Series, optional
        Model -> group; by default the study's groups.

    Returns
    -------
    DataFrame
        group, test_set, mean, low, high (NaN below three models), n_models.
    """
    level, groups = study.parameters.ci_level, study.models["group"] if groups is None else groups
    groups = groups[groups.index.isin(distinct(study.models).index)]
    rows = rows.assign(group=rows["model"].map(groups)).dropna(subset=["group", "value"])
    found = []
    for (group, test_set), part in rows.groupby(["group", "test_set"]):
        mean, low, high, *_, n = over_models(study, part.set_index("model")["value"])
        if lines:
            of_group = accuracies["test_set"].eq(axes[test_set]) & accuracies["metric"].eq("accuracy")
            x = accuracies.loc[of_group & accuracies["model"].isin(part["model"]), "value"].mean()
            line, below, above = lines[test_set].band(x, level=level)[:3]
            low, high = mean - np.hypot(mean - low, above - line), mean + np.hypot(high - mean, line - below)
        found.append((group, test_set, mean, low, high, n))
    return pd.DataFrame(found, columns=["group", "test_set", "mean", "low", "high", "n_models"])


def mean_rows(study, rows, means, kind="student t over models"):
    """Rows of the tidy table for what `group_means` found: metric "METRIC_over_models", n counts models.

    Parameters
    ----------
    rows : DataFrame
        Tidy, of one metric and protocol: what the means are of.
    means : DataFrame
        From `group_means`; `model` holds its group.
    kind : str
        What the intervals hold.

    Returns
    -------
    DataFrame
    """
    if means.empty:
        return study.table([])
    protocols, metric = set(rows["protocol"]), f"{rows['metric'].iloc[0]}_over_models"
    protocol = protocols.pop() if len(protocols) == 1 else ""
    return study.table([mean_row(study, one, protocol, metric, kind) for one in means.itertuples()])


def mean_row(study, one, protocol, metric, kind="student t over models"):
    """One row of the tidy table for one of `group_means`; `model` holds its group."""
    interval = Interval(one.mean, one.low, one.high, kind, study.parameters.ci_level, one.n_models)
    return row(one.group, one.test_set, protocol, metric, interval)
