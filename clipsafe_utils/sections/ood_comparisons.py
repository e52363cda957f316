"""What out-of-distribution detection goes with: accuracy, training source, fine-tuning, the score, and nearness."""

import numpy as np
import pandas as pd

from clipsafe_utils.sections.comparisons import contrasts, fine_tuning_pairs, took_detour
from clipsafe_utils.sections.ood import main_score, of_score
from clipsafe_utils.sections.rows import correlation_over_starts, independent_points, over, over_models, row
from clipsafe_utils.statistics import bootstrap_ci, correlation, wilson_interval
from clipsafe_utils.zoo import GROUPS, distinct, origins

ALL, WITHIN, BETWEEN = "all models", "within sources", "all models minus within sources"

FEWEST, FEWEST_RESAMPLED = 6, 8
"""Starts below which no correlation is given, and no bootstrap interval of it."""


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
        Tidy: `model` holds "all models", "within sources" (each source's means taken away) or a stratum of six starts
        or more; metrics pearson and spearman (`correlation_over_starts`), and from eight starts on pearson_bootstrap
        and spearman_bootstrap (over starts, BCa). "all models minus within sources" is the difference of the first two,
        by the same resamples. n counts models.
    """
    p, strata, found = study.parameters, training_strata(study.models), []
    options = {"n_bootstrap": p.n_bootstrap, "level": p.ci_level, "seed": p.seed}
    accuracy = with_accuracy[with_accuracy["metric"] == "accuracy"].set_index("model")["value"]
    for test_set, part in with_accuracy[with_accuracy["metric"] == "auroc"].groupby("test_set"):
        auroc = part.set_index("model")["value"]
        everyone = independent_points(study, accuracy.reindex(auroc.index), auroc)
        within = independent_points(study, accuracy.reindex(auroc.index), auroc, strata)
        own = {name: points for name, points in within.groupby("stratum") if points["start"].nunique() >= FEWEST}
        if several := len(set(within["stratum"])) > 1:
            own = {WITHIN: within} | own
        for metric in ("pearson", "spearman") if everyone["start"].nunique() >= FEWEST else ():
            values = {}
            for name, points in ({ALL: everyone} | own).items():
                interval = correlation_over_starts(study, points, metric)
                if not np.isnan(interval.value):
                    values |= {(name, metric): interval}
                    values |= {(name, f"{metric}_bootstrap"): _resampled(options, metric, points)}
            if several:
                values[BETWEEN, f"{metric}_bootstrap"] = _resampled(options, metric, everyone, within)
            how = f"{method}, AUROC with ID accuracy"
            found += [row(name, test_set, how, kind, interval) for (name, kind), interval in values.items() if interval]
    return study.table(found)


def _resampled(options, metric, points, less=None):
    """Correlation over points (minus that over others) with an interval from resampled starts; None if there are few.

    All points of a start are drawn together, since they vary together.
    """
    starts = points["start"].unique()
    if len(starts) < FEWEST_RESAMPLED:
        return None

    def arrays(points):
        members = points.reset_index(drop=True).groupby("start").indices
        groups = points["stratum"].to_numpy() if len(set(points["stratum"])) > 1 else None
        none = np.array([], int)
        return points["x"].to_numpy(), points["y"].to_numpy(), groups, [members.get(start, none) for start in starts]

    both = [arrays(each) for each in (points, less) if each is not None]

    def statistic(chosen):
        found = []
        for x, y, groups, members in both:
            rows = np.concatenate([members[k] for k in chosen])
            r = correlation(x[rows], y[rows], metric, None if groups is None else groups[rows])
            found.append(np.nan_to_num(r))  # a resample that does not vary shows no correlation
        return found[0] - sum(found[1:])

    interval = bootstrap_ci(statistic, np.arange(len(starts)), kind="bca", **options)
    n_models = int(points["n"].sum())
    return interval._replace(kind=f"{interval.kind} over {over(n_models, len(starts))}", n=n_models)


def simpson(correlations):
    """How the correlation over all models differs from the one within training sources.

    Parameters
    ----------
    correlations : DataFrame
        From `accuracy_correlations`.

    Returns
    -------
    DataFrame
        test_set, overall, within (Pearson), low and high of their difference, and a verdict that tells which interval
        leaves 0 out: "in both", "in neither", "over all models" or "within sources"; of the last two "alone" where that
        of the difference does too, else "undecided" for the other; or "reversed": in both, with opposite signs.
    """
    sides = {
        (True, True): "in both",
        (True, False): "over all models",
        (False, True): "within sources",
        (False, False): "in neither",
    }
    other = {"over all models": "within sources", "within sources": "over all models"}
    kinds = correlations["metric"].where(correlations["model"] != BETWEEN, correlations["metric"].str.split("_").str[0])
    rows, found = correlations[kinds == "pearson"].set_index(["test_set", "model"]), []
    for test_set in rows.index.unique(0):
        part = rows.loc[test_set]
        if not {ALL, WITHIN} <= set(part.index):
            continue
        overall, within = part.loc[ALL], part.loc[WITHIN]
        low, high = part.loc[BETWEEN, ["ci_low", "ci_high"]] if BETWEEN in part.index else (np.nan, np.nan)
        verdict = sides[tuple(bool(one["ci_low"] * one["ci_high"] > 0) for one in (overall, within))]
        if verdict == "in both" and overall["value"] * within["value"] < 0:
            verdict = "reversed"
        if verdict in other:
            verdict += " alone" if low * high > 0 else f", undecided {other[verdict]}"
        found.append((test_set, overall["value"], within["value"], low, high, verdict))
    return pd.DataFrame(found, columns=["test_set", "overall", "within", "low", "high", "verdict"])


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
        Tidy, a row a group (`model`), OOD set and score (protocol): "auroc_gain_mean" against the main score
        (`over_models`), "best_share", the share of models that this score is best for (Wilson, n counts starts: models
        of one start count with their mean gains; the main score stands at a gain of 0).
    """
    level, found, starts = study.parameters.ci_level, [], origins(study.models)
    gains = gains[gains["model"].isin(distinct(study.models).index)]
    gains = gains.assign(score=gains["protocol"].str.split(" ").str[0], group=gains["model"].map(study.models["group"]))
    for (group, test_set), part in gains.groupby(["group", "test_set"]):
        wide = part.pivot_table(index="model", columns="score", values="value").assign(**{main_score(study): 0.0})
        best, name = wide.groupby(wide.index.map(starts)).mean().idxmax(axis=1), GROUPS.get(group, group)
        for score in wide:
            won = int((best == score).sum())
            found.append(row(name, test_set, score, "best_share", wilson_interval(won, len(best), level=level)))
            if score != main_score(study):
                interval = over_models(study, wide[score].dropna())
                found.append(row(name, test_set, f"{score} against {main_score(study)}", "auroc_gain_mean", interval))
    return study.table(found)


def best_scores(study, choice):
    """The score with the largest mean gain in each group and OOD set.

    Returns
    -------
    DataFrame
        group, test_set, score, gain, low, high, n (models), ci_kind.
    """
    rows = choice[choice["metric"] == "auroc_gain_mean"]
    best = rows.loc[rows.groupby(["model", "test_set"])["value"].idxmax()]
    best = best.assign(score=best["protocol"].str.split(" ").str[0])
    names = {"model": "group", "value": "gain", "ci_low": "low", "ci_high": "high"}
    return best.rename(columns=names)[["group", "test_set", "score", "gain", "low", "high", "n", "ci_kind"]]


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
