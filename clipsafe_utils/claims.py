"""The study's claims, each one sentence that the tidy table supports, contradicts or leaves open.

A claim is tested on models, not on images: a mean over models, a difference between two groups, a mean over matched
pairs, or a correlation, with an interval over models at the stated level; those that come from one start count as one.
Where no side has three models the interval is that of their images, and the verdict is about these models alone.
Verdicts hold the false discovery rate among a suite's claims at 1 - level (Benjamini, Hochberg 1995): "supported" and
"contradicted" need an adjusted p below it, everything else is "inconclusive", and what a suite cannot test is "not
testable" with the reason.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

from clipsafe_utils.metrics.calibration import check_level
from clipsafe_utils.params import STUDY_FACTORS
from clipsafe_utils.sections.comparisons import (
    fine_tuning_pairs,
    independent_differences,
    quantity_pairs,
    resolution_pairs,
    source_pairs,
    took_detour,
)
from clipsafe_utils.sections.robustness import refit_line
from clipsafe_utils.sections.rows import of_main_prompts
from clipsafe_utils.zoo import GROUPS, distinct, origins

VERDICTS = ("supported", "contradicted", "inconclusive", "not testable")

LIKE_THESE, ALONE = "models like these", "these models alone"
"""What a verdict is about: the error is that of other models of the kind, or of other images of the same models."""

CONVOLUTIONAL = ("resnet", "convnext", "other_cnn")
"""Encoder families of the zoo that are convolutional networks."""

PLAYS = {"laion": ("laion", "B"), "wit": ("wit", "A")}
"""Role in the study -> training sources with it. The laboratory's B sees more unusual shapes, its A more unusual poses
and backgrounds: there, the claims about the two sources are built in and check the pipeline."""


class Evidence(NamedTuple):
    """What a table says about a claim."""

    effect: float
    limits: Callable
    """level -> (low, high)."""
    p_for: float
    """Probability of evidence this strong for the claim if the claim were false; already for all that was searched."""
    p_against: float
    n_models: int
    n_images: int
    """Median number of images behind a model's value."""
    note: str = ""
    about: str = LIKE_THESE
    searched: int = 1
    """Places among which this one was chosen."""


@dataclass(frozen=True)
class Claim:
    """One testable sentence.

    Parameters
    ----------
    id : str
        Number of the study's claim and a letter.
    sentence : str
    effect : str
        What the effect is, with its unit.
    page, heading : str
        Section and heading of the figure that shows it.
    test : callable
        `Facts` -> `Evidence`, or a str: why it cannot be tested.
    """

    id: str
    sentence: str
    effect: str
    page: str
    heading: str
    test: Callable


class Facts:
    """A suite's results, ready to be asked.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of all sections.
    models : DataFrame
        Facts about the models, see `Study.models`.
    id_set : str
        The in-distribution set.
    level : float
    control_sets : iterable of str
        Test sets without a shift.
    """

    def __init__(self, table, models, id_set, level, control_sets=()):
        check_level(level)
        models = distinct(models)
        self.models, self.id_set, self.level, self.control_sets = models, id_set, level, control_sets
        self.table = table[table["value"].notna() & table["model"].isin(models.index)]

    def is_shift(self, test_set):
        """Whether a test set is under distribution shift."""
        return not _is_factor(test_set) and test_set not in (self.id_set, *self.control_sets)

    def rows(self, metric, *, group=None, test_sets=None, protocol=None):
        """Rows of a metric, of models of a group, on test sets that a predicate admits."""
        rows = self.table[self.table["metric"] == metric]
        rows = rows.assign(group=rows["model"].map(self.models["group"]))
        if group is not None:
            rows = rows[rows["group"] == group]
        if test_sets is not None:
            rows = rows[rows["test_set"].map(test_sets).astype(bool)]
        if protocol is not None:
            rows = rows[rows["protocol"].map(protocol).astype(bool)]
        return rows

    def per_model(self, rows):
        """Mean of each model's rows, their standard error from images, and images: one row a model."""
        return rows.assign(error=_errors(rows)).groupby("model")[["value", "error", "n"]].mean()

    def per_start(self, values):
        """Mean over the models that come from one start, of the columns of `per_model`; the largest of their errors.

        Their errors may be shared, such as that of a baseline line, and are not averaged out.
        """
        start = values.index.map(origins(self.models))
        return values.groupby(start).mean().assign(error=values["error"].groupby(start).max())

    def mean(self, rows, direction, minus=0.0):
        """Mean over models against a value; positive direction: the claim says above."""
        if rows.empty:
            return "no model has these numbers"
        values = self.per_start(self.per_model(rows))
        if len(values) >= 3:
            lines = self._lines(rows)
            return self._judge(values["value"] - minus, direction, rows["model"].nunique(), values["n"], lines)
        effect, error = values["value"].mean() - minus, values["error"].max()
        return self._of_images(effect, error, direction, rows["model"].nunique(), values["n"])

    def _lines(self, rows):
        """Baseline lines that the values are distances from, with the mean accuracy where the models meet each."""
        found = []
        rows = rows[rows["metric"] == "effective_robustness"]
        for (test_set, protocol), part in rows.groupby(["test_set", "protocol"]):
            line, x = refit_line(protocol, test_set, self._accuracies, self.models)
            found.append((line, x[part["model"]].mean()))
        return found

    @functools.cached_property
    def _accuracies(self):
        return self.rows("accuracy").pivot_table(index="model", columns="test_set", values="value")

    def difference(self, rows, first, second, direction):
        """Mean of one group minus mean of another: Welch's test; where one has fewer than three models, Student's.

        A group too small to show how its models scatter is taken to scatter like the other (pooled variance).
        """
        a, b = (rows[rows["group"] == group] for group in (first, second))
        for group, own in ((first, a), (second, b)):
            if own.empty:
                return f"nothing of the group {GROUPS.get(group, group)!r} has these numbers"
        n_models = a["model"].nunique() + b["model"].nunique()
        a, b = (self.per_start(self.per_model(own)) for own in (a, b))
        effect, images = a["value"].mean() - b["value"].mean(), pd.concat([a["n"], b["n"]])
        n = np.array([len(a), len(b)])
        if n.max() < 3:
            error = np.hypot(a["error"].max(), b["error"].max())
            return self._of_images(effect, error, direction, n_models, images)
        squares = np.array([own["value"].var(ddof=0) for own in (a, b)]) * n
        if n.min() >= 3:
            parts, note = squares / (n - 1) / n, ""
            degrees = sum(parts) ** 2 / sum(parts**2 / (n - 1))
        else:
            degrees, note = n.sum() - 2, f"{n[0]} against {n[1]} models, pooled variance"
            parts = squares.sum() / degrees / n
        return self._evidence(effect, np.sqrt(sum(parts)), degrees, direction, n_models, images, note)

    def paired(self, rows, pairs, direction):
        """Mean difference over pairs of models, each the mean over its test sets."""
        values = self.per_model(rows)
        both = pairs[pairs["first"].isin(values.index) & pairs["second"].isin(values.index)]
        differences = independent_differences(values["value"], both, self.models)
        note = f"{len(both)} pairs"
        if len(differences) < len(both):
            note += f", {len(differences)} of them independent"
        if len(differences) < 3:
            return f"{note} have these numbers, and an interval needs three"
        n_models = len({*both["first"], *both["second"]})
        return self._judge(differences, direction, n_models, values["n"])._replace(note=note)

    def _judge(self, values, direction, n_models, images, lines=()):
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        return self._evidence(np.mean(values), error, len(values) - 1, direction, n_models, images, lines=lines)

    def _of_images(self, effect, error, direction, n_models, images):
        found = self._evidence(effect, error, np.inf, direction, n_models, images, "interval over images")
        return found if isinstance(found, str) else found._replace(about=ALONE)

    def _evidence(self, effect, error, degrees, direction, n_models, images, note="", lines=()):
        """Student's interval; of distances from baseline lines, combined with the lines' own as `group_means` does.

        All models share the lines, so that their error stays however many they are; lines of several test sets go
        through the same models: their errors are not averaged out.
        """

        def limits(level):
            half = stats.t.ppf((1 + level) / 2, degrees) * error
            bands = [line.band(x, level=level) for line, x in lines]
            below = np.mean([band.value - band.low for band in bands]) if lines else 0.0
            above = np.mean([band.high - band.value for band in bands]) if lines else 0.0
            return effect - np.hypot(half, above), effect + np.hypot(half, below)

        def nearer(log_p):
            low, high = limits(-np.expm1(log_p))
            return low if effect > 0 else -high

        if not np.isfinite(limits(self.level)).all():
            return "these numbers come without an interval"
        if not lines or effect == 0:
            p = 2 * stats.t.sf(abs(effect) / error, degrees) if error > 0 else float(effect == 0)
        else:  # where the interval ends at zero
            p = P_LEAST if nearer(np.log(P_LEAST)) > 0 else np.exp(brentq(nearer, np.log(P_LEAST), np.log1p(-1e-9)))
        agrees = direction == 0 or np.sign(effect) == direction
        p_for, p_against = (p, 1.0) if agrees else (1.0, p)
        return Evidence(effect, limits, p_for, p_against, n_models, int(images.median()), note)


P_LEAST = 1e-12
"""Smallest p that is told from 0 where it is found by solving for the level."""


def _errors(rows):
    """Standard errors behind the intervals of rows."""
    return (rows["ci_high"] - rows["ci_low"]) / (2 * stats.norm.ppf((1 + rows["ci_level"].fillna(0.95)) / 2))


def any_of(found, level):
    """A claim that holds somewhere: evidence of the clearest place, that of the smallest p, corrected for having
    searched (Bonferroni): of k places, p is k times as large, and an interval is taken at 1 - (1 - level) / k.

    Parameters
    ----------
    found : dict of str to Evidence or str
        Place -> evidence of the claim there.
    level : float
        1 - level is the error rate that places are counted at.

    Returns
    -------
    Evidence or str
        Contradicted only where it is contradicted everywhere.
    """
    tested = {place: evidence for place, evidence in found.items() if not isinstance(evidence, str)}
    if not tested:
        return next(iter(found.values()), "no test set has these numbers")
    place, best = min(tested.items(), key=lambda item: (item[1].p_for, -item[1].p_against, -abs(item[1].effect)))
    k = len(tested)
    held = sum(evidence.p_for * k < 1 - level for evidence in tested.values())
    note = "; ".join(filter(None, [f"clearest on {place}", f"on {held} of {k}", best.note]))
    against = max(evidence.p_against for evidence in tested.values())
    return best._replace(p_for=min(1.0, best.p_for * k), p_against=against, note=note, searched=k)


def _by_factor(facts, group, direction):
    rows = facts.rows("effective_robustness", group=group, test_sets=_is_factor)
    return {factor: facts.mean(part, direction) for factor, part in rows.groupby(rows["test_set"].map(_last))}


def _is_factor(test_set):
    return "/" in test_set and _last(test_set) in STUDY_FACTORS


def _last(test_set):
    return test_set.rpartition("/")[2]


def _on(factor):
    return lambda test_set: _is_factor(test_set) and _last(test_set) == factor


def _sources(facts, first, second):
    """Matched pairs of zero-shot CLIPs, the source with the first role minus that with the second."""
    clips = facts.models[facts.models["group"] == "zero_shot_clip"]
    pairs = source_pairs(clips)
    for a, b, sign in ((first, second, 1), (second, first, -1)):
        chosen = pairs[
            pairs["first"].map(clips["pretrain_source"]).isin(PLAYS[a])
            & pairs["second"].map(clips["pretrain_source"]).isin(PLAYS[b])
        ]
        if len(chosen):
            return chosen if sign > 0 else chosen.rename(columns={"first": "second", "second": "first"})
    return pairs.iloc[:0]


def _source_on(factor, first, second):
    def test(facts):
        rows = facts.rows("effective_robustness", group="zero_shot_clip", test_sets=_on(factor))
        pairs = _sources(facts, first, second)
        found = facts.paired(rows, pairs, 1)
        if isinstance(found, str):
            return found
        names = " minus ".join(facts.models.loc[pairs.iloc[0][["first", "second"]], "pretrain_source"])
        return found._replace(note=f"{names}, {found.note}")

    return test


def _source_anywhere(metric, test_sets=None, protocol=None):
    def test(facts):
        rows = facts.rows(metric, group="zero_shot_clip", test_sets=test_sets, protocol=protocol)
        pairs = source_pairs(facts.models[facts.models["group"] == "zero_shot_clip"])
        found = {
            f"{_last(name)} ({comparison.partition(',')[0]})": facts.paired(part, chosen, 0)
            for name, part in rows.groupby("test_set")
            for comparison, chosen in pairs.groupby("comparison")
        }
        return any_of(found, facts.level) if found else "no two models differ in their training source alone"

    return test


def _between(metric, first, second, direction):
    return lambda facts: facts.difference(facts.rows(metric), first, second, direction)


def _paired(metric, pairs, direction, **where):
    def test(facts):
        return facts.paired(facts.rows(metric, **where), pairs(facts.models), direction)

    return test


def _direct(models):
    pairs = fine_tuning_pairs(models)
    return pairs[~took_detour(pairs, models)]


def _through_more(models):
    """Fine-tuned through a larger label set, minus the same start fine-tuned directly."""
    pairs = fine_tuning_pairs(models)
    through = pairs[~pairs.index.isin(_direct(models).index)]
    both = through.merge(_direct(models), on="second", suffixes=("", "_direct"))
    return both[["first", "first_direct", "comparison"]].rename(columns={"first_direct": "second"})


def _is_msp(protocol):
    return protocol.split(",")[0] == "msp"


def _accuracy_and_auroc(facts):
    """Correlation over zero-shot CLIPs, after taking each training source's means away.

    Also on each OOD set alone, and within data sizes too: more data may be what makes both better.
    """
    rows = facts.rows("auroc", group="zero_shot_clip", protocol=_is_msp)
    found = _correlation_within(facts, rows, ["pretrain_source"])
    if isinstance(found, str):
        return found
    alone = [_correlation_within(facts, part, ["pretrain_source"]) for _, part in rows.groupby("test_set")]
    held = sum(not isinstance(one, str) and one.p_for < 1 - facts.level for one in alone)
    sized = _correlation_within(facts, rows, ["pretrain_source", "pretrain_size"])
    size = "not known" if isinstance(sized, str) else f"{sized.effect:+.2f} (p {min(sized.p_for, sized.p_against):.2g})"
    note = f"within training sources, mean over OOD sets; alone on {held} of {len(alone)}; at equal data size {size}"
    return found._replace(note=note)


def _correlation_within(facts, auroc, alike):
    """Correlation of AUROC and ID accuracy over zero-shot CLIPs, without the means of models alike in some facts."""
    of_id = facts.rows("accuracy", group="zero_shot_clip", test_sets=lambda name: name == facts.id_set)
    both = facts.per_start(facts.per_model(auroc).join(facts.per_model(of_id)["value"].rename("accuracy"), how="inner"))
    alike = facts.models[alike].groupby(origins(facts.models)).first().reindex(both.index)
    cell = alike.astype(str).agg(" ".join, axis=1)
    both = both[cell.map(cell.value_counts()).ge(3)]
    if len(both) < 5:
        return "fewer than five zero-shot models with three or more of one training source have both numbers"
    cell = cell[both.index]
    within = both[["value", "accuracy"]] - both.groupby(cell)[["value", "accuracy"]].transform("mean")
    r, degrees = within.corr().iloc[0, 1], len(both) - cell.nunique() - 1
    z, error = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), 1 / np.sqrt(max(degrees - 1, 1))

    def limits(level):
        return tuple(np.tanh(z + np.array([-1, 1]) * stats.norm.ppf((1 + level) / 2) * error))

    p = 2 * stats.t.sf(abs(r) * np.sqrt(degrees / max(1 - r**2, 1e-12)), degrees)
    p_for, p_against = (p, 1.0) if r > 0 else (1.0, p)
    return Evidence(r, limits, p_for, p_against, len(both), int(both["n"].median()))


def _ece_worse_somewhere(group):
    """Not consistently better: on some test set worse than the other group."""

    def test(facts):
        rows = facts.rows("ece")
        return any_of(
            {name: facts.difference(part, "zero_shot_clip", group, 1) for name, part in rows.groupby("test_set")},
            facts.level,
        )

    return test


def _scaling_transfers(facts):
    """ECE on shifted sets with the temperature of the ID set, minus ECE without."""
    after, before = (facts.per_model(facts.rows(m, test_sets=facts.is_shift)) for m in ("ece_scaled", "ece"))
    both = after.join(before["value"].rename("before"), how="inner")
    starts = facts.per_start(both)
    if len(starts) < 3:
        return "fewer than three models have a temperature and shifted test sets"
    found = facts._judge(starts["value"] - starts["before"], -1, len(both), both["n"])
    return found._replace(note=f"{len(both)} models from {len(starts)} starts")


def _own_trend(facts):
    """After scaling, zero-shot CLIP against standard models at equal accuracy: the group term of a regression."""
    scaled = facts.rows("ece_scaled", test_sets=facts.is_shift)
    judged = pd.MultiIndex.from_frame(scaled[["model", "test_set"]])
    rows = facts.rows("accuracy").set_index(["model", "test_set"])
    ece, accuracy = facts.per_model(scaled), facts.per_model(rows[rows.index.isin(judged)].reset_index())
    both = ece.join(accuracy["value"].rename("accuracy"), how="inner")
    group = facts.models["group"].reindex(both.index)
    clip, standard = (facts.per_start(both[group == name]) for name in ("zero_shot_clip", "standard"))
    if min(len(clip), len(standard)) < 3:
        return "fewer than three zero-shot and three standard models are scaled and judged on shifted sets"
    both = pd.concat([clip, standard])
    is_clip = np.repeat([1.0, 0.0], [len(clip), len(standard)])
    design = np.column_stack([np.ones(len(both)), both["accuracy"], is_clip])
    coefficients, _, _, _ = np.linalg.lstsq(design, both["value"].to_numpy(), rcond=None)
    residual = both["value"].to_numpy() - design @ coefficients
    degrees = len(both) - 3
    variance = residual @ residual / degrees * np.linalg.pinv(design.T @ design)[2, 2]
    n_models = int(group.isin(["zero_shot_clip", "standard"]).sum())
    return facts._evidence(coefficients[2], np.sqrt(variance), degrees, 0, n_models, both["n"])


def _prompts_move(metric):
    def test(facts):
        rows = facts.rows(f"{metric}_difference", protocol=lambda p: p.startswith("prompts "))
        return any_of({protocol: facts.mean(part, 0) for protocol, part in rows.groupby("protocol")}, facts.level)

    return test


def _prompts_disagree(facts):
    """Some prompt set helps one objective and harms another; effect: the less clear of the two, in its own unit."""
    better = {"accuracy_difference": 1, "auroc_difference": 1, "ece_difference": -1}
    found = {}
    rows = pd.concat([facts.rows(metric, protocol=lambda p: p.startswith("prompts ")) for metric in better])
    for prompts, part in rows.groupby("protocol"):
        of = {metric: own for metric, own in part.groupby("metric")}
        for helped in of:
            for harmed in of.keys() - {helped}:
                both = [facts.mean(of[helped], better[helped]), facts.mean(of[harmed], -better[harmed])]
                if not any(isinstance(one, str) for one in both):
                    weaker = max(both, key=lambda one: one.p_for)  # both must hold (intersection-union test)
                    names = [metric.removesuffix("_difference") for metric in (helped, harmed)]
                    changes = ", ".join(f"{name} {one.effect:+.3f}" for name, one in zip(names, both, strict=True))
                    place = f"{prompts.removeprefix('prompts ')}: {names[0]} better, {names[1]} worse"
                    note = "; ".join(filter(None, [changes, weaker.note]))
                    found[place] = weaker._replace(note=note)
    return any_of(found, facts.level) if found else "no prompt set but the first changes two objectives"


def _factor_claim(factor, direction):
    def test(facts):
        return facts.mean(facts.rows("effective_robustness", group="zero_shot_clip", test_sets=_on(factor)), direction)

    return test


def _texture_of_convolutional(facts):
    rows = facts.rows("shape_bias", group="standard")
    family = rows["model"].map(facts.models["encoder_family"])
    return facts.mean(rows[family.isin(CONVOLUTIONAL)], -1, minus=0.5)


_FACTORS = ("01_visual_factors", "factor-level-effective-robustness")
_SOURCE = ("01_visual_factors", "does-the-training-source-move-robustness")
_SHAPE = ("01_visual_factors", "shape-or-texture")
_OOD = ("02_ood_detection", "does-better-classification-mean-better-detection")
_ECE = ("03_calibration", "calibration-error-and-likelihood")
_PROMPTS = ("04_prompts", "what-changes")

CLAIMS = (
    Claim("1a", "Zero-shot CLIP is more robust than the baseline line on some visual factor.",
          "effective robustness on the clearest factor", *_FACTORS,
          lambda facts: any_of(_by_factor(facts, "zero_shot_clip", 1), facts.level)),
    Claim("1b", "Zero-shot CLIP is less robust than the baseline line on some visual factor.",
          "effective robustness on the clearest factor", *_FACTORS,
          lambda facts: any_of(_by_factor(facts, "zero_shot_clip", -1), facts.level)),
    Claim("1c", "Zero-shot CLIP is less robust to pose than the baseline line.",
          "effective robustness on pose", *_FACTORS, _factor_claim("pose", -1)),
    Claim("1d", "Zero-shot CLIP is more robust to distribution shift than the baseline line.",
          "effective robustness, mean over shifted sets", "01_visual_factors", "effective-robustness-under-shift",
          lambda facts: facts.mean(
              facts.rows("effective_robustness", group="zero_shot_clip", test_sets=facts.is_shift), 1)),
    Claim("1e", "Fine-tuning lowers the effective robustness of CLIP under distribution shift.",
          "fine-tuned minus zero-shot", "01_visual_factors", "effective-robustness-under-shift",
          lambda facts: facts.paired(
              facts.rows("effective_robustness", test_sets=facts.is_shift), fine_tuning_pairs(facts.models), -1)),
    Claim("2a", "At equal architecture, LAION makes CLIP more robust to shape than WIT.",
          "effective robustness on shape, LAION minus WIT", *_SOURCE, _source_on("shape", "laion", "wit")),
    Claim("2b", "At equal architecture, WIT makes CLIP more robust to background than LAION.",
          "effective robustness on background, WIT minus LAION", *_SOURCE, _source_on("background", "wit", "laion")),
    Claim("2c", "At equal architecture, WIT makes CLIP more robust to pose than LAION.",
          "effective robustness on pose, WIT minus LAION", *_SOURCE, _source_on("pose", "wit", "laion")),
    Claim("2d", "The training source moves robustness to some visual factor.",
          "effective robustness between sources, on the clearest factor", *_SOURCE,
          _source_anywhere("effective_robustness", _is_factor)),
    Claim("3a", "Zero-shot CLIP is more shape-biased than standard models.",
          "shape bias, zero-shot CLIP minus standard", *_SHAPE,
          _between("shape_bias", "zero_shot_clip", "standard", 1)),
    Claim("3b", "Zero-shot CLIP is more shape-biased than contrastively pre-trained models.",
          "shape bias, zero-shot CLIP minus contrastive", *_SHAPE,
          _between("shape_bias", "zero_shot_clip", "contrastive", 1)),
    Claim("3c", "Zero-shot CLIP is more shape-biased than models pre-trained on more data.",
          "shape bias, zero-shot CLIP minus pre-trained on more", *_SHAPE,
          _between("shape_bias", "zero_shot_clip", "pretrained_more", 1)),
    Claim("3d", "Fine-tuning lowers the shape bias of CLIP.", "shape bias, fine-tuned minus zero-shot", *_SHAPE,
          _paired("shape_bias", fine_tuning_pairs, -1)),
    Claim("3e", "After fine-tuning, input resolution moves shape bias.", "shape bias, larger minus smaller input",
          *_SHAPE, _paired("shape_bias", resolution_pairs, 0)),
    Claim("3f", "Convolutional networks trained on the benchmark decide by texture.",
          "shape bias of standard convolutional networks minus one half", *_SHAPE, _texture_of_convolutional),
    Claim("3g", "Humans are more shape-biased than standard models.", "shape bias, humans minus standard", *_SHAPE,
          _between("shape_bias", "human", "standard", 1)),
    Claim("4a", "Within one training source, zero-shot CLIPs that classify better detect OOD images better.",
          "correlation of ID accuracy and AUROC", *_OOD, _accuracy_and_auroc),
    Claim("4b", "Fine-tuning directly on the benchmark lowers OOD detection.", "AUROC, fine-tuned minus zero-shot",
          *_OOD, _paired("auroc", _direct, -1, protocol=_is_msp)),
    Claim("4c", "Fine-tuning through a larger label set detects OOD images better than fine-tuning directly.",
          "AUROC, through the larger set minus directly", *_OOD,
          _paired("auroc", _through_more, 1, protocol=_is_msp)),
    Claim("5a", "Zero-shot CLIP is not consistently better calibrated than standard models: on some test set it is "
          "worse.", "ECE, zero-shot CLIP minus standard, on the clearest test set", *_ECE,
          _ece_worse_somewhere("standard")),
    Claim("5b", "The training source moves the calibration of CLIP.", "ECE between sources, on the clearest test set",
          *_ECE, _source_anywhere("ece")),
    Claim("5c", "CLIPs trained on the least data are the worst calibrated.", "ECE, most minus least training data",
          *_ECE, _paired("ece", quantity_pairs, -1)),
    Claim("5d", "After temperature scaling, zero-shot CLIP follows a trend of its own: at equal accuracy, its ECE "
          "under shift is not that of standard models.", "scaled ECE at equal accuracy, zero-shot CLIP minus standard",
          *_ECE, _own_trend),
    Claim("5e", "A temperature fitted on in-distribution images lowers the ECE under shift.",
          "ECE under shift, scaled minus as is", *_ECE, _scaling_transfers),
    Claim("5f", "Contrastive pre-training changes calibration against standard training.",
          "ECE, contrastive minus standard", *_ECE,
          _between("ece", "contrastive", "standard", 0)),
    Claim("6a", "Prompt sets move accuracy.", "accuracy against the first prompt set, of the clearest set", *_PROMPTS,
          _prompts_move("accuracy")),
    Claim("6b", "Prompt sets move calibration.", "ECE against the first prompt set, of the clearest set", *_PROMPTS,
          _prompts_move("ece")),
    Claim("6c", "Prompt sets move OOD detection.", "AUROC against the first prompt set, of the clearest set", *_PROMPTS,
          _prompts_move("auroc")),
    Claim("6d", "Some prompt set improves one objective and worsens another.", "the less clear of the two changes",
          *_PROMPTS, _prompts_disagree),
)  # fmt: skip
"""The study's claims, by the number of the claim that a sentence belongs to."""


def judge_claims(table, models, *, id_set, prompts="", level=0.95, control_sets=()):
    """Test every claim on a suite's results.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of all sections.
    models : DataFrame
        Facts about the models, indexed by id.
    id_set : str
        The in-distribution set.
    prompts : str
        Main prompt set of the zero-shot models: rows of others count only where the claim is about prompts.
    level : float, default 0.95
        Of the intervals; 1 - level is the false discovery rate of the verdicts.
    control_sets : iterable of str
        Test sets without a shift, which no claim about distribution shift counts.

    Returns
    -------
    DataFrame
        One row a claim: claim, sentence, verdict, about ("models like these" or "these models alone"), effect, ci_low,
        ci_high (of this claim alone; of the clearest of k places at 1 - (1 - level) / k), p_adjusted, n_models,
        n_images, measured (what the effect is), note, page, heading.
    """
    counts = of_main_prompts(table["protocol"], prompts) | table["metric"].str.endswith("_difference")
    facts, rows = Facts(table[counts], models, id_set, level, control_sets), []
    for claim in CLAIMS:
        found = claim.test(facts)
        known = {"claim": claim.id, "sentence": claim.sentence, "measured": claim.effect}
        known |= {"page": claim.page, "heading": claim.heading}
        if isinstance(found, str):
            rows.append(known | {"note": found})
            continue
        low, high = found.limits(1 - (1 - level) / found.searched)
        numbers = {"about": found.about, "effect": found.effect, "ci_low": low, "ci_high": high}
        counts = {"n_models": found.n_models, "n_images": found.n_images, "note": found.note}
        p = min(found.p_for, found.p_against)
        rows.append(known | numbers | counts | {"p": p, "holds": found.p_for <= found.p_against})
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    tested = frame["p"].notna()
    frame.loc[tested, "p_adjusted"] = stats.false_discovery_control(frame.loc[tested, "p"])
    decided = np.where(frame["holds"].eq(True), "supported", "contradicted")
    judged = np.where(frame["p_adjusted"] < 1 - level, decided, "inconclusive")
    frame["verdict"] = np.where(tested, judged, "not testable")
    return frame.drop(columns=["p", "holds"]).astype({"n_models": "Int64", "n_images": "Int64"})


_COLUMNS = [
    *("claim", "sentence", "verdict", "about", "effect", "ci_low", "ci_high", "p", "p_adjusted"),
    *("n_models", "n_images", "measured", "note", "page", "heading", "holds"),
]
