"""Comparisons between models that differ in one thing: training source, fine-tuning, or the seed alone; or that are
equal in one: overall accuracy."""

from itertools import combinations, pairwise, product

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from clipsafe_utils.sections.rows import FEWEST, group_means, mean_rows, row
from clipsafe_utils.statistics import mean_interval
from clipsafe_utils.zoo import GROUPS, distinct, origins, quantity

SAME_RECIPE = ("group", "architecture", "pretrain_size", "finetune", "input_size", "seed")
"""Facts that two models share where only their training source differs."""

CALIPER = 0.01
"""Most that the overall accuracies of two models differ which are matched by it: 1 percentage point."""

FEWEST_PAIRS = 5
"""Pairs below which a group is not compared at matched accuracy: intervals over fewer hide what there is."""


def _nearest(first, second):
    """A model of each of two frames, nearest in samples seen; of pairs equally near, or not known, the longest trained.

    So the last checkpoint stands for a training run.
    """
    parts = pd.concat([first, second])
    seen = np.log(parts.get("samples_seen", pd.Series("", parts.index)).map(quantity).astype(float))

    def unlike(pair):
        a, b = seen[list(pair)]
        return np.nan_to_num(abs(a - b), nan=np.inf), -np.nansum([a, b])

    return min(product(first.index, second.index), key=unlike)


def with_architecture(models):
    """The models with a column `architecture`: the library's name without timm's tag and open_clip's QuickGELU mark."""
    return models.assign(architecture=models["name"].str.split(".").str[0].str.removesuffix("-quickgelu"))


def source_pairs(models):
    """Pairs of models that differ in training source and in nothing else the zoo knows.

    Of several models of one source the pair holds those that are nearest in samples seen (column `samples_seen`).

    Parameters
    ----------
    models : DataFrame
        Facts about the models, see `Study.models`.

    Returns
    -------
    DataFrame
        first, second (ids), comparison: "A minus B, Zero-shot CLIP" says what is subtracted from what.
    """
    models, pairs = with_architecture(distinct(models)), []
    kept = [column for column in SAME_RECIPE if column in models]
    for recipe, part in models[models["pretrain_source"] != ""].groupby(kept, dropna=False):
        for (a, first), (b, second) in combinations(part.groupby("pretrain_source"), 2):
            pairs.append((*_nearest(first, second), f"{a} minus {b}, {GROUPS.get(recipe[0], recipe[0])}"))
    return pd.DataFrame(pairs, columns=["first", "second", "comparison"])


def fine_tuning_pairs(models):
    """Pairs of a fine-tuned CLIP and the zero-shot model it started from, by what it was fine-tuned on.

    Of models that were fine-tuned alike from one start, the pair holds that whose input is nearest in size to its
    start's: what the size changes is for `resolution_pairs`.

    Returns
    -------
    DataFrame
        Like `source_pairs`; empty where the zoo does not say where a model started (column `init_from`).
    """
    if "init_from" not in models:
        return pd.DataFrame(columns=["first", "second", "comparison"])
    tuned = models[models["group"].eq("clip_finetuned") & models["init_from"].isin(models.index)]
    if "input_size" in models:
        resized = (tuned["input_size"] - tuned["init_from"].map(models["input_size"])).abs()
        tuned = tuned.loc[resized.sort_values(kind="stable").index].drop_duplicates(["init_from", "finetune"])
    pairs = [
        (model, facts["init_from"], f"{facts['finetune'].replace('_', ', then ')} minus zero-shot")
        for model, facts in tuned.sort_index(key=models.index.get_indexer).iterrows()
    ]
    return pd.DataFrame(pairs, columns=["first", "second", "comparison"])


def took_detour(pairs, models):
    """Whether each fine-tuned model of `pairs` was fine-tuned on a larger label set first: bool, one a pair."""
    return np.array(["_" in str(models.loc[model, "finetune"]) for model in pairs["first"]], bool)


def independent_differences(values, pairs, models):
    """Differences over pairs of models, first minus second, pairs that hang together counting as one with their mean.

    Pairs that share a model vary together, and so do models of one training run, or fine-tuned from it: an interval
    that takes each for itself is too short.

    Parameters
    ----------
    values : Series
        By model; holds both models of every pair.
    pairs : DataFrame
        Columns first and second.
    models : DataFrame
        Facts about the models, see `origins`.

    Returns
    -------
    ndarray, shape (n_independent,)
    """
    ids = pd.concat([pairs["first"], pairs["second"]], ignore_index=True)
    codes, families = pd.factorize(ids.map(origins(models)))
    first, second = np.split(codes, 2)
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(families), len(families)))
    together = connected_components(graph, directed=False)[1][first] if len(pairs) else first
    difference = values[pairs["first"]].to_numpy() - values[pairs["second"]].to_numpy()
    return pd.Series(difference).groupby(together).mean().to_numpy()


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
        Tidy, metric "METRIC_difference": `model` holds the comparison, n counts the independent pairs; the
        interval is Student's over them, NaN for a single one.
    """
    values = rows.dropna(subset=["value"]).set_index(["metric", "test_set", "model"])["value"].sort_index()
    found = []
    for (metric, test_set), of_models in values.groupby(level=[0, 1]):
        of_models = of_models.droplevel([0, 1])
        both = pairs[pairs["first"].isin(of_models.index) & pairs["second"].isin(of_models.index)]
        for comparison, part in both.groupby("comparison", sort=False):
            interval = mean_interval(
                independent_differences(of_models, part, study.models), level=study.parameters.ci_level
            )
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
    resized = "input_size" in models and models.groupby("architecture")["input_size"].transform("nunique") > 1
    for _, twins in models.groupby(recipe, dropna=False):
        if twins["seed"].nunique() < 3:
            continue
        first = twins.iloc[0]
        size = f"{first['input_size']:g} px" if np.any(resized) and resized[first.name] else ""
        name = ", ".join(filter(None, [*first[["architecture", "pretrain_source"]], size]))
        own = rows[rows["model"].isin(twins.index)].dropna(subset=["value"])
        for (metric, test_set, protocol), part in own.groupby(["metric", "test_set", "protocol"]):
            if len(part) >= 3:
                interval = mean_interval(part["value"].to_numpy(), level=study.parameters.ci_level)
                interval = interval._replace(kind="student t over seeds")
                found.append(row(name, test_set, protocol, f"{metric}_over_seeds", interval))
    return study.table(found)


def quantity_pairs(models):
    """Pairs of zero-shot CLIPs of one architecture, source, input size and seed: the most training data, and the least.

    Of several models of one quantity the pair holds those that are nearest in samples seen (column `samples_seen`):
    less data is then looked at more often, as far as the zoo has such models.

    Returns
    -------
    DataFrame
        Like `source_pairs`.
    """
    clips = with_architecture(distinct(models[models["group"] == "zero_shot_clip"]))
    if "pretrain_size" not in clips:
        return pd.DataFrame(columns=["first", "second", "comparison"])
    clips = clips.assign(images=clips["pretrain_size"].map(quantity)).dropna(subset=["images"])
    kept = [column for column in ("architecture", "pretrain_source", "input_size", "seed") if column in clips]
    pairs = []
    for _, part in clips.groupby(kept, dropna=False):
        most, least = (part[part["images"] == end] for end in (part["images"].max(), part["images"].min()))
        if most["images"].max() > least["images"].max():
            pairs.append((*_nearest(most, least), "most minus least training data"))
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


def strata(models, fact):
    """What a model is by its group and one more fact: "Zero-shot CLIP, vit".

    Parameters
    ----------
    models : DataFrame
        Facts about the models, see `Study.models`; only the study's five groups have strata.
    fact : str
        Column such as encoder_family, pretrain_source or pretrain_size.

    Returns
    -------
    Series
        Model -> stratum; NaN where the fact is not known.
    """
    if fact not in models:
        return pd.Series(np.nan, models.index, dtype=object)
    known = models[fact].notna() & ~models[fact].isin(["", "unknown"])
    return (models["group"].map(GROUPS) + ", " + models[fact].astype(str)).where(known)


def stratum_means(study, rows, fact, accuracies=None, lines=None, axes=None):
    """Mean over the models of a group that share a fact, of strata with `FEWEST` starts and more.

    Parameters
    ----------
    rows, accuracies, lines, axes
        See `group_means`.
    fact : str
        See `strata`.

    Returns
    -------
    DataFrame
        Tidy, metric "METRIC_over_models": `model` holds the stratum, n counts its models, the interval is Student's
        over models and holds the line's error where lines are given.
    """
    means = group_means(study, rows, accuracies, lines, axes, strata(study.models, fact))
    means = means[means["n_starts"] >= FEWEST]
    if means.empty:
        study.missing[f"means by {fact.replace('_', ' ')}"] = (
            f"no group has {FEWEST} models of different starts whose {fact} the zoo knows: say it in that column of "
            "the model table."
        )
    return mean_rows(study, rows, means, " and error of the line" * bool(lines))


def accuracy_pairs(models, accuracy, first, second, *, caliper=CALIPER):
    """Pairs of a model of one group and a model of another with nearly the same accuracy; each model at most once.

    As many pairs as there can be within the caliper, and of these the ones with the least sum of distances (optimal
    matching, which does not depend on the order of models).

    Parameters
    ----------
    models : DataFrame
        Facts about the models, see `Study.models`.
    accuracy : Series
        Model -> overall accuracy, a fraction.
    first, second : str
        Groups.
    caliper : float
        Largest difference of accuracies within a pair.

    Returns
    -------
    DataFrame
        Like `source_pairs`.

    References
    ----------
    Rosenbaum. JASA 84, 1989 (optimal matching).
    """
    models = distinct(models)
    sides = [
        accuracy[accuracy.index.isin(models.index[models["group"] == group])].sort_index() for group in (first, second)
    ]
    distance = np.abs(np.subtract.outer(sides[0].to_numpy(), sides[1].to_numpy()))
    rows, columns = linear_sum_assignment(np.where(distance <= caliper, distance, 1 + distance.size))
    near = distance[rows, columns] <= caliper
    comparison = f"{GROUPS.get(first, first)} minus {GROUPS.get(second, second)}"
    pairs = zip(sides[0].index[rows[near]], sides[1].index[columns[near]], strict=True)
    return pd.DataFrame([(*pair, comparison) for pair in pairs], columns=["first", "second", "comparison"])


def matched_accuracy(study, rows, overall):
    """Factor accuracy of each group minus that of the baseline group, at matched overall accuracy.

    Parameters
    ----------
    rows : DataFrame
        Tidy, metric "accuracy": overall and with each factor.
    overall : str
        Test set of the overall accuracy.

    Returns
    -------
    DataFrame
        As `contrasts` gives them; what is left of the difference in overall accuracy is test set "OVERALL/overall".
    """
    rows, baseline = rows[rows["metric"] == "accuracy"], study.parameters.baseline_group
    accuracy = rows[rows["test_set"] == overall].set_index("model")["value"]
    pairs = [accuracy_pairs(study.models, accuracy, group, baseline) for group in GROUPS if group != baseline]
    pairs = pd.concat([of_group for of_group in pairs if len(of_group) >= FEWEST_PAIRS] or pairs[:1])
    if len(pairs) < FEWEST_PAIRS:
        study.missing["pairs of matched accuracy"] = (
            f"no group has {FEWEST_PAIRS} models with an overall accuracy within {100 * CALIPER:g} percentage point of "
            f"one of the group {baseline!r} each: add models to the zoo."
        )
        return study.table([])
    rows = rows.assign(test_set=rows["test_set"].where(rows["test_set"] != overall, f"{overall}/overall"))
    return contrasts(study, rows, pairs)
