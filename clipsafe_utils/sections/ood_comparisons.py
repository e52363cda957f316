"""What out-of-distribution detection goes with: accuracy, training source, fine-tuning, the score, and nearness."""

import numpy as np
import pandas as pd

from clipsafe_utils.sections.comparisons import contrasts, fine_tuning_pairs, took_detour
from clipsafe_utils.sections.ood import main_score, of_score
from clipsafe_utils.sections.rows import row
from clipsafe_utils.statistics import bootstrap_ci, correlation, correlation_interval, mean_interval, wilson_interval
from clipsafe_utils.zoo import GROUPS

ALL, WITHIN = "all models", "within sources"

FEWEST = 6
"""Models below which no correlation is given."""


def training_strata(models):
    """What tells models apart before they are compared: group and training source.

    Parameters
    ----------
    models : DataFrame
        Facts about the models, see `Study.models`.

    Returns
    -------
    Series
        Model -> "Zero-shot CLIP, laion".
    """
    source = models.get("pretrain_source", "")
    return (models["group"].map(GROUPS).fillna(models["group"]) + ", " + source).str.removesuffix(", ")


def accuracy_correlations(study, with_accuracy, method):
    """How AUROC goes with accuracy on the in-distribution set: over all models, in each source, within sources.

    Parameters
    ----------
    with_accuracy : DataFrame
        From `with_id_accuracy`.
    method : str
        The score, for the protocol.

    Returns
    -------
    DataFrame
        Tidy: `model` holds "all models", "within sources" (each source's means taken away; sources of three models or
        more) or a stratum of six models or more; metrics pearson and spearman (Fisher), and from eight models on
        pearson_bootstrap and spearman_bootstrap (over models: BCa, within sources percentile); n counts models.
    """
    p, strata, found = study.parameters, training_strata(study.models), []
    options = {"n_bootstrap": p.n_bootstrap, "level": p.ci_level, "seed": p.seed}
    accuracy = with_accuracy[with_accuracy["metric"] == "accuracy"].set_index("model")["value"]
    for test_set, part in with_accuracy[with_accuracy["metric"] == "auroc"].groupby("test_set"):
        part = part.assign(x=part["model"].map(accuracy), stratum=part["model"].map(strata))
        own = {stratum: rows for stratum, rows in part.groupby("stratum") if len(rows) >= FEWEST}
        large = part[part["stratum"].map(part["stratum"].value_counts()) >= 3]
        if len(set(large["stratum"])) > 1:
            own = {WITHIN: large} | own
        for name, rows in ({ALL: part} | own).items() if len(part) >= FEWEST else ():
            groups = rows["stratum"].to_numpy() if name == WITHIN else None
            for metric, interval in _correlations(rows["x"].to_numpy(), rows["value"].to_numpy(), groups, options):
                found.append(row(name, test_set, f"{method}, AUROC with ID accuracy", metric, interval))
    return study.table(found)


def _correlations(x, y, groups, options):
    for kind in ("pearson", "spearman"):
        interval = correlation_interval(x, y, kind, groups=groups, level=options["level"])
        if np.isnan(interval.value):
            continue
        yield kind, interval
        if len(x) < 8:  # a resample may hold one model alone
            continue
        if groups is None:
            again = bootstrap_ci(lambda a, b, k=kind: correlation(a, b, k), x, y, kind="bca", **options)
        else:
            again = bootstrap_ci(
                lambda a, b, g, k=kind: correlation(a, b, k, g), x, y, groups, strata=groups, **options
            )
        yield f"{kind}_bootstrap", again._replace(kind=f"{again.kind} over models")


def simpson(correlations):
    """How the correlation over all models differs from the one within training sources.

    Parameters
    ----------
    correlations : DataFrame
        From `accuracy_correlations`.

    Returns
    -------
    DataFrame
        test_set, overall, within (Pearson), and a verdict that tells which interval leaves 0 out: "in both", "over all
        models alone", "within sources alone", "in neither"; or "reversed": in both, with opposite signs.
    """
    verdicts = {
        (True, True): "in both",
        (True, False): "over all models alone",
        (False, True): "within sources alone",
        (False, False): "in neither",
    }
    rows, found = correlations[correlations["metric"] == "pearson"].set_index(["test_set", "model"]), []
    for test_set in rows.index.unique(0):
        part = rows.loc[test_set]
        if not {ALL, WITHIN} <= set(part.index):
            continue
        overall, within = part.loc[ALL], part.loc[WITHIN]
        clear = tuple(bool(one["ci_low"] * one["ci_high"] > 0) for one in (overall, within))
        opposite = all(clear) and overall["value"] * within["value"] < 0
        found.append((test_set, overall["value"], within["value"], "reversed" if opposite else verdicts[clear]))
    return pd.DataFrame(found, columns=["test_set", "overall", "within", "verdict"])


def fine_tuning_effects(study, with_accuracy, detection):
    """What fine-tuning changes, directly and by way of a larger label set, in accuracy and in detection by each score.

    Parameters
    ----------
    with_accuracy : DataFrame
        From `with_id_accuracy`.
    detection : DataFrame
        From `ood_table`.

    Returns
    -------
    DataFrame
        As from `contrasts`, over models of one start: each path minus zero-shot, and the detour minus the direct path;
        the protocol names the score.
    """
    pairs = fine_tuning_pairs(study.models)
    detour = pairs[took_detour(pairs, study.models)]
    direct = pairs.drop(detour.index)
    both = detour.merge(direct, on="second", suffixes=("", "_direct"))
    both = both.assign(second=both["first_direct"], comparison="detour minus direct")[list(pairs)]
    pairs = pd.concat([pairs, both], ignore_index=True)
    parts = [contrasts(study, with_accuracy[with_accuracy["metric"] == "accuracy"], pairs)]
    for score in study.parameters.ood_scores:
        parts.append(contrasts(study, of_score(detection, score), pairs).assign(protocol=f"{score}, matched pairs"))
    return pd.concat(parts, ignore_index=True)


def score_choice(study, gains):
    """Which score detects best in each group of models, and by how much.

    Parameters
    ----------
    gains : DataFrame
        From `ood_tables`.

    Returns
    -------
    DataFrame
        Tidy, a row a group (`model`), OOD set and score (protocol): "auroc_gain_mean" against the main score (Student's
        interval over models, n counts them), "best_share", the share of models that this score is best for (Wilson; the
        main score stands at a gain of 0).
    """
    level, found = study.parameters.ci_level, []
    gains = gains.assign(score=gains["protocol"].str.split(" ").str[0], group=gains["model"].map(study.models["group"]))
    for (group, test_set), part in gains.groupby(["group", "test_set"]):
        wide = part.pivot_table(index="model", columns="score", values="value").assign(**{main_score(study): 0.0})
        best, name = wide.idxmax(axis=1), GROUPS.get(group, group)
        for score in wide:
            won, values = int((best == score).sum()), wide[score].dropna().to_numpy()
            found.append(row(name, test_set, score, "best_share", wilson_interval(won, len(best), level=level)))
            if score != main_score(study):
                interval = mean_interval(values, level=level)._replace(kind="student t over models")
                found.append(row(name, test_set, f"{score} against {main_score(study)}", "auroc_gain_mean", interval))
    return study.table(found)


def best_scores(study, choice):
    """The score with the largest mean gain in each group and OOD set: group, test_set, score, gain, low, high, n."""
    rows = choice[choice["metric"] == "auroc_gain_mean"]
    best = rows.loc[rows.groupby(["model", "test_set"])["value"].idxmax()]
    best = best.assign(score=best["protocol"].str.split(" ").str[0])
    names = {"model": "group", "value": "gain", "ci_low": "low", "ci_high": "high"}
    return best.rename(columns=names)[["group", "test_set", "score", "gain", "low", "high", "n"]]


def near_and_far(study, detection):
    """AUROC on the near and on the far OOD sets, each the mean of its sets, and the difference.

    Returns
    -------
    DataFrame
        Tidy, a row a model and score: metric auroc with test_set "near" or "far", metric auroc_far_minus_near with
        test_set "far minus near"; n counts images. Empty unless `near_ood_sets` names some of the sets, but not all.
    """
    near, found = set(study.parameters.near_ood_sets), []
    rows = detection[detection["metric"] == "auroc"]
    side = rows["test_set"].isin(near).map({True: "near", False: "far"})
    if side.nunique() < 2:
        return study.table(found)
    for (model, protocol), part in rows.assign(side=side).groupby(["model", "protocol"]):
        means, images = part.groupby("side")["value"].mean(), part.groupby("side")["n"].sum()
        found += [row(model, name, protocol, "auroc", (means[name], images[name])) for name in means.index]
        gap = means["far"] - means["near"], images.sum()
        found.append(row(model, "far minus near", protocol, "auroc_far_minus_near", gap))
    return study.table(found)
