"""Comparisons between models that differ in one thing: training source, fine-tuning, or the seed alone."""

import re
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from clipsafe_utils.sections.rows import row
from clipsafe_utils.statistics import mean_interval
from clipsafe_utils.zoo import GROUPS

SAME_RECIPE = ("group", "architecture", "pretrain_size", "finetune", "input_size", "seed")
"""Facts that two models share where only their training source differs."""


def with_architecture(models):
    """The models with a column `architecture`: the library's name without timm's tag and open_clip's QuickGELU mark."""
    return models.assign(architecture=models["name"].str.split(".").str[0].str.removesuffix("-quickgelu"))


def source_pairs(models):
    """Pairs of models that differ in training source and in nothing else the zoo knows.

    Parameters
    ----------
    models : DataFrame
        Facts about the models, see `Study.models`.

    Returns
    -------
    DataFrame
        first, second (ids), comparison: "A minus B, Zero-shot CLIP" says what is subtracted from what.
    """
    models, pairs = with_architecture(models), []
    kept = [column for column in SAME_RECIPE if column in models]
    for recipe, part in models.groupby(kept, dropna=False):
        sources = part[part["pretrain_source"] != ""].groupby("pretrain_source").head(1)  # of several, the first
        for a, b in combinations(sources.sort_values("pretrain_source").index, 2):
            names = " minus ".join(sources.loc[[a, b], "pretrain_source"])
            pairs.append((a, b, f"{names}, {GROUPS.get(recipe[0], recipe[0])}"))
    return pd.DataFrame(pairs, columns=["first", "second", "comparison"])


def fine_tuning_pairs(models):
    """Pairs of a fine-tuned CLIP and the zero-shot model it started from, by what it was fine-tuned on.

    Returns
    -------
    DataFrame
        Like `source_pairs`; empty where the zoo does not say where a model started (column `init_from`).
    """
    tuned = models[models["group"] == "clip_finetuned"] if "init_from" in models else models.iloc[:0]
    pairs = [
        (model, facts["init_from"], f"{facts['finetune'].replace('_', ', then ')} minus zero-shot")
        for model, facts in tuned.iterrows()
        if facts["init_from"] in models.index
    ]
    return pd.DataFrame(pairs, columns=["first", "second", "comparison"])


def took_detour(pairs, models):
    """Whether each fine-tuned model of `pairs` was fine-tuned on a larger label set first: bool, one a pair."""
    return np.array(["_" in str(models.loc[model, "finetune"]) for model in pairs["first"]], bool)


def contrasts(study, rows, pairs):
    """Mean difference of each metric over pairs of models.

    Parameters
    ----------
    rows : DataFrame
        Tidy, one row a model, test set, protocol and metric.
    pairs : DataFrame
        From `source_pairs` or `fine_tuning_pairs`.

    Returns
    -------
    DataFrame
        Tidy, metric "METRIC_difference": `model` holds the comparison, n counts the pairs; the interval is Student's
        over pairs, NaN for a single one.
    """
    values = rows.dropna(subset=["value"]).set_index(["metric", "test_set", "model"])["value"].sort_index()
    found = []
    for (metric, test_set), of_models in values.groupby(level=[0, 1]):
        of_models = of_models.droplevel([0, 1])
        both = pairs[pairs["first"].isin(of_models.index) & pairs["second"].isin(of_models.index)]
        for comparison, part in both.groupby("comparison", sort=False):
            difference = of_models[part["first"]].to_numpy() - of_models[part["second"]].to_numpy()
            interval = mean_interval(difference, level=study.parameters.ci_level)
            interval = interval._replace(kind="student t over pairs")
            found.append(row(comparison, test_set, "matched pairs", f"{metric}_difference", interval))
    return study.table(found)


def seed_means(study, rows):
    """Mean over training seeds of one recipe, where it was trained with three or more.

    Returns
    -------
    DataFrame
        Tidy, metric "METRIC_over_seeds": `model` holds the recipe, n counts the seeds, the interval is Student's over
        seeds and covers training anew. Empty where the zoo has no column `seed`.
    """
    models, found = with_architecture(study.models), []
    if "seed" not in models:
        return study.table(found)
    recipe = [column for column in (*SAME_RECIPE, "pretrain_source") if column != "seed"]
    for _, twins in models.groupby(recipe, dropna=False):
        if twins["seed"].nunique() < 3:
            continue
        name = ", ".join(filter(None, twins.iloc[0][["architecture", "pretrain_source"]]))
        own = rows[rows["model"].isin(twins.index)].dropna(subset=["value"])
        for (metric, test_set, protocol), part in own.groupby(["metric", "test_set", "protocol"]):
            if len(part) >= 3:
                interval = mean_interval(part["value"].to_numpy(), level=study.parameters.ci_level)
                interval = interval._replace(kind="student t over seeds")
                found.append(row(name, test_set, protocol, f"{metric}_over_seeds", interval))
    return study.table(found)


def quantity_pairs(models):
    """Pairs of zero-shot CLIPs of one architecture, source and seed: the most training data, and the least.

    Returns
    -------
    DataFrame
        Like `source_pairs`.
    """
    clips = with_architecture(models[models["group"] == "zero_shot_clip"])
    if "pretrain_size" not in clips:
        return pd.DataFrame(columns=["first", "second", "comparison"])
    clips = clips.assign(images=clips["pretrain_size"].map(quantity)).dropna(subset=["images"])
    kept = [column for column in ("architecture", "pretrain_source", "input_size", "seed") if column in clips]
    pairs = []
    for _, part in clips.groupby(kept, dropna=False):
        if part["images"].max() > part["images"].min():
            pairs.append((part["images"].idxmax(), part["images"].idxmin(), "most minus least training data"))
    return pd.DataFrame(pairs, columns=["first", "second", "comparison"])


def resolution_pairs(models):
    """Pairs of fine-tuned CLIPs that differ in input resolution alone: the larger, and the smaller.

    Returns
    -------
    DataFrame
        Like `source_pairs`.
    """
    tuned = with_architecture(models[models["group"] == "clip_finetuned"])
    if "input_size" not in tuned:
        return pd.DataFrame(columns=["first", "second", "comparison"])
    tuned["architecture"] = tuned["architecture"].str.replace(r"_\d{3}$", "", regex=True)  # timm's names end in a size
    kept = [c for c in ("architecture", "pretrain_source", "pretrain_size", "finetune", "seed") if c in tuned]
    pairs = []
    for _, part in tuned.groupby(kept, dropna=False):
        part = part.drop_duplicates("input_size").sort_values("input_size")
        pairs += [(large, small, "larger minus smaller input") for small, large in pairwise(part.index)]
    return pd.DataFrame(pairs, columns=["first", "second", "comparison"])


def quantity(size):
    """Number of training images that a zoo writes as "400M", "2B" or "24k"; NaN for anything else."""
    match = re.fullmatch(r"([\d.]+)([kMB])", str(size))
    return float(match[1]) * {"k": 1e3, "M": 1e6, "B": 1e9}[match[2]] if match else np.nan
