"""Shape against texture on cue-conflict images: over all, by category, and beside effective robustness."""

import numpy as np
import pandas as pd

from clipsafe_utils.metrics import SIXTEEN_CLASSES, shape_bias, sixteen_class_decisions, softmax
from clipsafe_utils.published import read_cue_conflict_trials
from clipsafe_utils.sections.rows import (
    correlation_over_starts,
    group_means,
    independent_points,
    largest,
    mean_rows,
    row,
)
from clipsafe_utils.statistics import wilson_interval

WAYS = {
    "all models": (),
    "within groups": ("group",),
    "within group, encoder and source": ("group", "encoder_family", "pretrain_source"),
}
"""What a correlation is over -> the facts about models whose means are taken away first; the last takes most."""

FEWEST = 6
"""Starts below which no correlation is given."""


def cue_conflict(study):
    """Shape bias on cue-conflict stimuli, and the share of images that either cue decided.

    Returns
    -------
    DataFrame
        Tidy, metrics "shape_bias" and "share_decided", Wilson intervals.
    """
    if study.is_published:
        return study.published[0].query("metric in ('shape_bias', 'share_decided')")
    rows = []
    for model, name, protocol, decisions in _decided(study):
        bias = shape_bias(decisions)
        decided = bias.n_shape + bias.n_texture
        for metric, successes, n in (("shape_bias", bias.n_shape, decided), ("share_decided", decided, bias.n)):
            interval = wilson_interval(successes, n, level=study.parameters.ci_level)
            rows.append(row(model, name, protocol, metric, interval))
    return study.table(rows)


def shape_by_category(study):
    """Shape bias, and the share decided by either cue, on the images whose shape is of one category.

    Returns
    -------
    DataFrame
        Tidy, metrics "category_shape_bias" and "category_share_decided" on "SET/CATEGORY", Wilson intervals. Where
        neither cue ever decided there is no shape bias.
    """
    rows = []
    for model, name, protocol, decisions in _decided(study):
        decisions = pd.DataFrame(decisions)
        conflict = decisions[decisions["shape"] != decisions["texture"]]
        counts = pd.DataFrame(
            {
                "shape": conflict["shape"],
                "n_shape": conflict["decision"] == conflict["shape"],
                "n_texture": conflict["decision"] == conflict["texture"],
                "n": 1,
            }
        )
        for category, (n_shape, n_texture, n) in counts.groupby("shape").sum().astype(int).iterrows():
            decided, test_set = n_shape + n_texture, f"{name}/{category}"
            interval = wilson_interval(decided, n, level=study.parameters.ci_level)
            rows.append(row(model, test_set, protocol, "category_share_decided", interval))
            if decided:
                interval = wilson_interval(n_shape, decided, level=study.parameters.ci_level)
                rows.append(row(model, test_set, protocol, "category_shape_bias", interval))
    return study.table(rows)


def category_means(study, rows):
    """Mean over the models of each group, category by category, from the rows of `shape_by_category`.

    Returns
    -------
    DataFrame
        Tidy, metrics "category_shape_bias_over_models" and "category_share_decided_over_models"; `model` holds the
        group, n counts models, the interval is Student's over models (NaN below three starts).
    """
    parts = [mean_rows(study, part, group_means(study, part)) for _, part in rows.groupby("metric")]
    return pd.concat(parts, ignore_index=True) if parts else study.table([])


def shape_and_robustness(study, cues, robustness):
    """How shape bias goes with effective robustness over models, test set by test set.

    Parameters
    ----------
    cues : DataFrame
        From `cue_conflict`.
    robustness : DataFrame
        Tidy, metric "effective_robustness".

    Returns
    -------
    DataFrame
        Tidy, metrics "pearson" and "spearman" with Fisher's intervals: `model` holds one of `WAYS` (the means of models
        alike in those facts taken away), n counts models; see `correlation_over_starts`.
    """
    bias, found = cues[cues["metric"] == "shape_bias"].set_index("model")["value"].dropna(), []
    own = robustness.dropna(subset=["value"])
    own = own[own["model"].isin(bias.index)]
    for test_set, part in own.groupby("test_set"):
        part = part.set_index("model")
        for name, facts in WAYS.items():
            if not set(facts) <= set(study.models):
                continue
            strata = study.models[[*facts]].astype(str).agg(", ".join, axis=1) if facts else None
            points = independent_points(study, bias.reindex(part.index), part["value"], strata)
            if points["start"].nunique() < FEWEST or (facts and points["stratum"].nunique() < 2):
                continue
            for method in ("pearson", "spearman"):
                interval = correlation_over_starts(study, points, method)
                found.append(row(name, test_set, "shape bias with effective robustness", method, interval))
    if not found:
        study.missing["shape bias beside effective robustness"] = (
            f"a correlation needs {FEWEST} models that have both; no table of others has the same models in both."
            if study.is_published
            else f"a correlation needs {FEWEST} models that have both: a cue-conflict set, factors and a baseline line."
        )
    return study.table(found)


def _decided(study):
    """Model, test set, protocol, and its decisions beside the cues, for each model or observer."""
    p = study.parameters
    if study.is_published:
        trials = read_cue_conflict_trials(study.published_folder).rename(columns={"response": "decision"})
        for model, seen in trials.groupby("model", sort=False):
            yield model, "cue_conflict", "geirhos-2019", seen[["decision", "shape", "texture"]]
        return
    names = study.named(p.cue_conflict_set)
    for model in study.evaluate(*names) if names else []:
        images = study.unit(model, names[0]).images
        decisions = {"decision": _decisions(study, model, names[0]), **images[["shape", "texture"]]}
        yield model, names[0], study.protocol(model), decisions


def _decisions(study, model, name):
    """Category a model decides for: the 16-class rule on ImageNet outputs, the largest class elsewhere."""
    own = study.images[name].space
    if study.id_space.outputs == "imagenet1k" and set(own.names) == set(SIXTEEN_CLASSES):
        return np.array(list(SIXTEEN_CLASSES))[study.ask(_sixteen_classes, model, name)]
    return np.array(own.names)[study.ask(largest, model, name, space=own)]


def _sixteen_classes(logits, labels):
    """Position of the decision among the sixteen classes."""
    positions = {name: k for k, name in enumerate(SIXTEEN_CLASSES)}
    return np.array([positions[name] for name in sixteen_class_decisions(softmax(logits))])
