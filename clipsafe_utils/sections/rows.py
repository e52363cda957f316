"""Rows of the tidy table, and what several sections say or count alike."""

import numpy as np
import pandas as pd

from clipsafe_utils.statistics import Interval, correlation_interval, mean_interval, wilson_interval
from clipsafe_utils.zoo import distinct, origins

CLIP_GROUPS = ("zero_shot_clip", "clip_finetuned")

FEWEST = 3
"""Starts (models, where each has its own) below which a mean over models has no interval."""

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


def annotation_of(rows, test_set):
    """ ", imagenet_x multi" or the like: the annotation that the rows of a factor's images go by; "" for other sets."""
    protocols = rows.loc[rows["test_set"] == test_set, "protocol"]
    found = protocols.str.extract(r"((?:imagenet_x|factors) (?:top|multi|exact))$")[0].dropna().unique()
    return "".join(f", {how}" for how in found)


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
        n counts the models, the kind says how many starts they have; limits are NaN below three starts.
    """
    each = values.groupby(values.index.map(origins(study.models))).mean().to_numpy()
    interval = mean_interval(each, level=study.parameters.ci_level)
    interval = interval._replace(kind=f"student t over {over(len(values), len(each))}", n=len(values))
    return interval if len(each) >= FEWEST else interval._replace(low=np.nan, high=np.nan)


def over(n_models, n_starts):
    """What an interval is over, for its kind: "models", or "8 starts" where several models come from one."""
    return "models" if n_starts == n_models else f"{n_starts} starts"


def independent_points(study, x, y, strata=None):
    """Points of a correlation over models: those of one start and stratum are one point, their mean.

    Parameters
    ----------
    x, y : Series
        By model; further rows of the same weights are left out.
    strata : Series, optional
        Model -> stratum within which to correlate; only strata of two points or more are kept.

    Returns
    -------
    DataFrame
        x, y, stratum ("" without strata), start, n (models).
    """
    both = pd.DataFrame({"x": x, "y": y}).dropna()
    both = both[both.index.isin(distinct(study.models).index)]
    # A zero-shot model and what was fine-tuned from it are two points even over all: the mean of the two is no model.
    both["group"], both["start"] = (both.index.map(by) for by in (study.models["group"], origins(study.models)))
    both["stratum"] = "" if strata is None else both.index.map(strata)
    keys = ["stratum", "group", "start"]
    points = both.groupby(keys)[["x", "y"]].mean().assign(n=both.groupby(keys).size()).reset_index()
    return points[points["stratum"].map(points["stratum"].value_counts()) >= 2]


def correlation_over_starts(study, points, method):
    """Correlation over `independent_points`, with Fisher's interval for as many samples as there are starts.

    Returns
    -------
    Interval
        n counts the models.
    """
    groups = points["stratum"].to_numpy() if len(set(points["stratum"])) > 1 else None
    n_models, n_starts = int(points["n"].sum()), points["start"].nunique()
    x, y = points["x"].to_numpy(), points["y"].to_numpy()
    interval = correlation_interval(
        x, y, method, groups=groups, n_independent=n_starts, level=study.parameters.ci_level
    )
    return interval._replace(kind=f"{interval.kind} over {over(n_models, n_starts)}", n=n_models)


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
        group, test_set, mean, low, high (NaN below three starts), n_models, n_starts; see `over_models`.
    """
    level, groups = study.parameters.ci_level, study.models["group"] if groups is None else groups
    groups, starts = groups[groups.index.isin(distinct(study.models).index)], origins(study.models)
    rows = rows.assign(group=rows["model"].map(groups)).dropna(subset=["group", "value"])
    found = []
    for (group, test_set), part in rows.groupby(["group", "test_set"]):
        mean, low, high, *_, n = over_models(study, part.set_index("model")["value"])
        if lines:
            of_group = accuracies["test_set"].eq(axes[test_set]) & accuracies["metric"].eq("accuracy")
            x = accuracies.loc[of_group & accuracies["model"].isin(part["model"]), "value"].mean()
            line, below, above = lines[test_set].band(x, level=level)[:3]
            low, high = mean - np.hypot(mean - low, above - line), mean + np.hypot(high - mean, line - below)
        found.append((group, test_set, mean, low, high, n, part["model"].map(starts).nunique()))
    return pd.DataFrame(found, columns=["group", "test_set", "mean", "low", "high", "n_models", "n_starts"])


def mean_rows(study, rows, means, more=""):
    """Rows of the tidy table for what `group_means` found: metric "METRIC_over_models", n counts models.

    Parameters
    ----------
    rows : DataFrame
        Tidy, of one metric and protocol: what the means are of.
    means : DataFrame
        From `group_means`; `model` holds its group.
    more : str
        What the intervals hold beside the models, for instance " and error of the line".

    Returns
    -------
    DataFrame
    """
    if means.empty:
        return study.table([])
    protocols, metric = set(rows["protocol"]), f"{rows['metric'].iloc[0]}_over_models"
    protocol = protocols.pop() if len(protocols) == 1 else ""
    return study.table([mean_row(study, one, protocol, metric, more) for one in means.itertuples()])


def mean_row(study, one, protocol, metric, more=""):
    """One row of the tidy table for one of `group_means`; `model` holds its group."""
    kind = f"student t over {over(one.n_models, one.n_starts)}{more}"
    interval = Interval(one.mean, one.low, one.high, kind, study.parameters.ci_level, one.n_models)
    return row(one.group, one.test_set, protocol, metric, interval)
