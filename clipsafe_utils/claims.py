"""The study's claims, each one sentence that the tidy table supports, contradicts or leaves open.

A claim is tested on models, not on images: a mean over models, a difference between two groups, a mean over matched
pairs, or a correlation, with an interval over models at the stated level. Where fewer than three models carry a number
the interval is that of their images alone, and says so. Verdicts hold the false discovery rate among a suite's claims
at 1 - level (Benjamini, Hochberg 1995): "supported" and "contradicted" need an adjusted p below it, everything else is
"inconclusive", and what a suite cannot test is "not testable" with the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from clipsafe_utils.metrics.calibration import check_level, wilson_bounds
from clipsafe_utils.params import STUDY_FACTORS
from clipsafe_utils.sections.comparisons import (
    fine_tuning_pairs,
    independent_differences,
    quantity_pairs,
    resolution_pairs,
    source_pairs,
    took_detour,
)
from clipsafe_utils.sections.rows import of_main_prompts
from clipsafe_utils.zoo import GROUPS, distinct

VERDICTS = ("supported", "contradicted", "inconclusive", "not testable")

PLAYS = {"laion": ("laion", "B"), "wit": ("wit", "A")}
"""Role in the study -> training sources with it. The laboratory's B sees more unusual shapes, its A more unusual poses
and backgrounds: there, the claims about the two sources are built in and check the pipeline."""


class Evidence(NamedTuple):
    """What a table says about a claim."""

    effect: float
    low: float
    high: float
    p_for: float
    """Probability of evidence this strong for the claim if the claim were false; already for all that was searched."""
    p_against: float
    n_models: int
    n_images: int
    """Median number of images behind a model's value."""
    note: str = ""


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
    """

    def __init__(self, table, models, id_set, level):
        check_level(level)
        models = distinct(models)
        self.models, self.id_set, self.level = models, id_set, level
        self.table = table[table["value"].notna() & table["model"].isin(models.index)]

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

    def mean(self, rows, direction, minus=0.0):
        """Mean over models against a value; positive direction: the claim says above."""
        values = self.per_model(rows)
        if values.empty:
            return "no model has these numbers"
        values["value"] -= minus
        return self._judge(values["value"].to_numpy(), values["error"], direction, values["n"], self._line_error(rows))

    def _line_error(self, rows):
        """Standard error of the baseline line that the values are distances from; 0 where they are none.

        It is what a distance's interval holds beyond that of its accuracy, and all models share it, so that it stays
        however many they are. Of images with a factor, a share of all, the line takes that share of the accuracy's
        error back (its slope is near 1). Lines of several test sets go through the same models: their errors are not
        averaged out.
        """
        rows = rows[rows["metric"] == "effective_robustness"]
        if rows.empty:
            return 0.0
        accuracy = self.rows("accuracy").drop_duplicates(["model", "test_set"]).set_index(["model", "test_set"])
        low, high = wilson_bounds(accuracy["value"].to_numpy(), accuracy["n"].to_numpy(float), 0.95)
        errors = _errors(accuracy).fillna(pd.Series((high - low) / (2 * stats.norm.ppf(0.975)), accuracy.index))
        own = errors.reindex(pd.MultiIndex.from_frame(rows[["model", "test_set"]])).fillna(0).to_numpy()
        whole = rows.assign(test_set=rows["test_set"].str.extract("(.*)/")[0])[["model", "test_set"]]
        share = rows["n"].to_numpy() / accuracy["n"].reindex(pd.MultiIndex.from_frame(whole)).to_numpy(float)
        own = own * (1 - np.nan_to_num(share).clip(0, 1))
        shared = np.sqrt(np.maximum(_errors(rows) ** 2 - own**2, 0))
        return float(shared.groupby(rows["test_set"]).median().mean())

    def difference(self, rows, first, second, direction):
        """Mean of one group minus mean of another (Welch)."""
        a, b = (self.per_model(rows[rows["group"] == group]) for group in (first, second))
        for group, values in ((first, a), (second, b)):
            if values.empty:
                return f"nothing of the group {GROUPS.get(group, group)!r} has these numbers"
        images, n = pd.concat([a["n"], b["n"]]), len(a) + len(b)
        effect = a["value"].mean() - b["value"].mean()
        if min(len(a), len(b)) >= 3:
            parts = [group["value"].var(ddof=1) / len(group) for group in (a, b)]
            error = np.sqrt(sum(parts))
            degrees = sum(parts) ** 2 / sum(p**2 / (len(g) - 1) for p, g in zip(parts, (a, b), strict=True))
            return self._evidence(effect, error, degrees, direction, n, images)
        error = np.hypot(a["error"].max(), b["error"].max())
        return self._evidence(effect, error, np.inf, direction, n, images, "interval over images")

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
        return self._judge(differences, None, direction, values["n"])._replace(
            n_models=len({*both["first"], *both["second"]}), note=note
        )

    def _judge(self, values, errors, direction, images, shared=0.0):
        n = len(values)
        if n >= 3:
            error = np.hypot(values.std(ddof=1) / np.sqrt(n), shared)
            return self._evidence(values.mean(), error, n - 1, direction, n, images)
        # Errors of few models share the baseline line, so they do not average out.
        return self._evidence(values.mean(), errors.max(), np.inf, direction, n, images, "interval over images")

    def _evidence(self, effect, error, degrees, direction, n_models, images, note=""):
        if not np.isfinite(error):
            return "these numbers come without an interval"
        half = stats.t.ppf((1 + self.level) / 2, degrees) * error
        p = 2 * stats.t.sf(abs(effect) / error, degrees) if error > 0 else float(effect == 0)
        agrees = direction == 0 or np.sign(effect) == direction
        p_for, p_against = (p, 1.0) if agrees else (1.0, p)
        return Evidence(effect, effect - half, effect + half, p_for, p_against, n_models, int(images.median()), note)


def _errors(rows):
    """Standard errors behind the intervals of rows."""
    return (rows["ci_high"] - rows["ci_low"]) / (2 * stats.norm.ppf((1 + rows["ci_level"].fillna(0.95)) / 2))


def any_of(found, level):
    """A claim that holds somewhere: evidence of the strongest place, corrected for having searched (Bonferroni).

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
    place, best = min(tested.items(), key=lambda item: (item[1].p_for, -abs(item[1].effect)))
    held = sum(evidence.p_for * len(tested) < 1 - level for evidence in tested.values())
    note = "; ".join(filter(None, [f"strongest on {place}", f"on {held} of {len(tested)}", best.note]))
    against = max(evidence.p_against for evidence in tested.values())
    return best._replace(p_for=min(1.0, best.p_for * len(tested)), p_against=against, note=note)


def _by_factor(facts, group, direction):
    rows = facts.rows("effective_robustness", group=group, test_sets=_is_factor)
    return {factor: facts.mean(part, direction) for factor, part in rows.groupby(rows["test_set"].map(_last))}


def _is_factor(test_set):
    return "/" in test_set and _last(test_set) in STUDY_FACTORS


def _last(test_set):
    return test_set.rpartition("/")[2]


def _on(factor):
    return lambda test_set: _is_factor(test_set) and _last(test_set) == factor


def _shift(test_set):
    return not _is_factor(test_set)


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
    """Correlation over zero-shot CLIPs, after taking each training source's means away."""
    auroc = facts.per_model(facts.rows("auroc", group="zero_shot_clip", protocol=_is_msp))
    accuracy = facts.per_model(
        facts.rows("accuracy", group="zero_shot_clip", test_sets=lambda name: name == facts.id_set)
    )
    both = auroc.join(accuracy["value"].rename("accuracy"), how="inner")
    source = facts.models["pretrain_source"].reindex(both.index)
    both = both[source.map(source.value_counts()).ge(3)]
    if len(both) < 5:
        return "fewer than five zero-shot models with three or more of one training source have both numbers"
    source = source[both.index]
    within = both[["value", "accuracy"]] - both.groupby(source)[["value", "accuracy"]].transform("mean")
    r, degrees = within.corr().iloc[0, 1], len(both) - source.nunique() - 1
    z, error = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), 1 / np.sqrt(max(degrees - 1, 1))
    low, high = np.tanh(z + np.array([-1, 1]) * stats.norm.ppf((1 + facts.level) / 2) * error)
    p = 2 * stats.t.sf(abs(r) * np.sqrt(degrees / max(1 - r**2, 1e-12)), degrees)
    p_for, p_against = (p, 1.0) if r > 0 else (1.0, p)
    return Evidence(r, low, high, p_for, p_against, len(both), int(both["n"].median()), "within training sources")


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
    shifted = {"test_sets": lambda name: name != facts.id_set}
    after, before = (facts.rows(metric, **shifted) for metric in ("ece_scaled", "ece"))
    both = facts.per_model(after).join(facts.per_model(before)["value"].rename("before"), how="inner")
    if len(both) < 3:
        return "fewer than three models have a temperature and shifted test sets"
    return facts._judge((both["value"] - both["before"]).to_numpy(), None, -1, both["n"])


def _own_trend(facts):
    """After scaling, zero-shot CLIP against standard models at equal accuracy: the group term of a regression."""
    scaled = facts.rows("ece_scaled", test_sets=lambda name: name != facts.id_set)
    judged = pd.MultiIndex.from_frame(scaled[["model", "test_set"]])
    rows = facts.rows("accuracy").set_index(["model", "test_set"])
    ece, accuracy = facts.per_model(scaled), facts.per_model(rows[rows.index.isin(judged)].reset_index())
    both = ece.join(accuracy["value"].rename("accuracy"), how="inner")
    group = facts.models["group"].reindex(both.index)
    both, group = both[group.isin(["zero_shot_clip", "standard"])], group[group.isin(["zero_shot_clip", "standard"])]
    if group.value_counts().reindex(["zero_shot_clip", "standard"]).fillna(0).min() < 3:
        return "fewer than three zero-shot and three standard models are scaled and judged on shifted sets"
    design = np.column_stack([np.ones(len(both)), both["accuracy"], group == "zero_shot_clip"]).astype(float)
    coefficients, _, _, _ = np.linalg.lstsq(design, both["value"].to_numpy(), rcond=None)
    residual = both["value"].to_numpy() - design @ coefficients
    degrees = len(both) - 3
    variance = residual @ residual / degrees * np.linalg.pinv(design.T @ design)[2, 2]
    return facts._evidence(coefficients[2], np.sqrt(variance), degrees, 0, len(both), both["n"])


def _prompts_move(metric):
    def test(facts):
        rows = facts.rows(f"{metric}_difference", protocol=lambda p: p.startswith("prompts "))
        return any_of({protocol: facts.mean(part, 0) for protocol, part in rows.groupby("protocol")}, facts.level)

    return test


def _prompts_disagree(facts):
    """Some prompt set helps one objective and harms another; effect: the smaller of the two, in its own unit."""
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
                    names = (
                        f"{prompts.removeprefix('prompts ')}: {helped.split('_')[0]} up, {harmed.split('_')[0]} down"
                    )
                    found[names.replace("ece up", "ece better").replace("ece down", "ece worse")] = weaker
    return any_of(found, facts.level) if found else "no prompt set but the first changes two objectives"


def _factor_claim(factor, direction):
    def test(facts):
        return facts.mean(facts.rows("effective_robustness", group="zero_shot_clip", test_sets=_on(factor)), direction)

    return test


_FACTORS = ("01_visual_factors", "factor-level-effective-robustness")
_SOURCE = ("01_visual_factors", "does-the-training-source-move-robustness")
_SHAPE = ("01_visual_factors", "shape-or-texture")
_OOD = ("02_ood_detection", "does-better-classification-mean-better-detection")
_ECE = ("03_calibration", "calibration-error-and-likelihood")
_PROMPTS = ("04_prompts", "what-changes")

CLAIMS = (
    Claim("1a", "Zero-shot CLIP is more robust than the baseline line on some visual factor.",
          "effective robustness, largest over factors", *_FACTORS,
          lambda facts: any_of(_by_factor(facts, "zero_shot_clip", 1), facts.level)),
    Claim("1b", "Zero-shot CLIP is less robust than the baseline line on some visual factor.",
          "effective robustness, smallest over factors", *_FACTORS,
          lambda facts: any_of(_by_factor(facts, "zero_shot_clip", -1), facts.level)),
    Claim("1c", "Zero-shot CLIP is less robust to pose than the baseline line.",
          "effective robustness on pose", *_FACTORS, _factor_claim("pose", -1)),
    Claim("1d", "Zero-shot CLIP is more robust to distribution shift than the baseline line.",
          "effective robustness, mean over shifted sets", "01_visual_factors", "effective-robustness-under-shift",
          lambda facts: facts.mean(
              facts.rows("effective_robustness", group="zero_shot_clip", test_sets=_shift), 1)),
    Claim("1e", "Fine-tuning lowers the effective robustness of CLIP under distribution shift.",
          "fine-tuned minus zero-shot", "01_visual_factors", "effective-robustness-under-shift",
          _paired("effective_robustness", fine_tuning_pairs, -1, test_sets=_shift)),
    Claim("2a", "At equal architecture, LAION makes CLIP more robust to shape than WIT.",
          "effective robustness on shape, LAION minus WIT", *_SOURCE, _source_on("shape", "laion", "wit")),
    Claim("2b", "At equal architecture, WIT makes CLIP more robust to background than LAION.",
          "effective robustness on background, WIT minus LAION", *_SOURCE, _source_on("background", "wit", "laion")),
    Claim("2c", "At equal architecture, WIT makes CLIP more robust to pose than LAION.",
          "effective robustness on pose, WIT minus LAION", *_SOURCE, _source_on("pose", "wit", "laion")),
    Claim("2d", "The training source moves robustness to some visual factor.",
          "effective robustness between sources, largest over factors", *_SOURCE,
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
          "shape bias of standard models minus one half", *_SHAPE,
          lambda facts: facts.mean(facts.rows("shape_bias", group="standard"), -1, minus=0.5)),
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
          "worse.", "ECE, zero-shot CLIP minus standard, largest over test sets", *_ECE,
          _ece_worse_somewhere("standard")),
    Claim("5b", "The training source moves the calibration of CLIP.", "ECE between sources, largest over test sets",
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
    Claim("6a", "Prompt sets move accuracy.", "accuracy against the first prompt set, largest", *_PROMPTS,
          _prompts_move("accuracy")),
    Claim("6b", "Prompt sets move calibration.", "ECE against the first prompt set, largest", *_PROMPTS,
          _prompts_move("ece")),
    Claim("6c", "Prompt sets move OOD detection.", "AUROC against the first prompt set, largest", *_PROMPTS,
          _prompts_move("auroc")),
    Claim("6d", "Some prompt set improves one objective and worsens another.", "the smaller of the two changes",
          *_PROMPTS, _prompts_disagree),
)  # fmt: skip
"""The study's claims, by the number of the claim that a sentence belongs to."""


def judge_claims(table, models, *, id_set, prompts="", level=0.95):
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

    Returns
    -------
    DataFrame
        One row a claim: claim, sentence, verdict, effect, ci_low, ci_high (of this claim alone), p_adjusted, n_models,
        n_images, measured (what the effect is), note, page, heading.
    """
    counts = of_main_prompts(table["protocol"], prompts) | table["metric"].str.endswith("_difference")
    facts, rows = Facts(table[counts], models, id_set, level), []
    for claim in CLAIMS:
        found = claim.test(facts)
        about = {"claim": claim.id, "sentence": claim.sentence, "measured": claim.effect}
        about |= {"page": claim.page, "heading": claim.heading}
        if isinstance(found, str):
            rows.append(about | {"note": found})
            continue
        numbers = {"effect": found.effect, "ci_low": found.low, "ci_high": found.high}
        counts = {"n_models": found.n_models, "n_images": found.n_images, "note": found.note}
        p = min(found.p_for, found.p_against)
        rows.append(about | numbers | counts | {"p": p, "holds": found.p_for <= found.p_against})
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    tested = frame["p"].notna()
    frame.loc[tested, "p_adjusted"] = stats.false_discovery_control(frame.loc[tested, "p"])
    decided = np.where(frame["holds"].eq(True), "supported", "contradicted")
    judged = np.where(frame["p_adjusted"] < 1 - level, decided, "inconclusive")
    frame["verdict"] = np.where(tested, judged, "not testable")
    return frame.drop(columns=["p", "holds"]).astype({"n_models": "Int64", "n_images": "Int64"})


_COLUMNS = [
    *("claim", "sentence", "verdict", "effect", "ci_low", "ci_high", "p", "p_adjusted", "n_models", "n_images"),
    *("measured", "note", "page", "heading", "holds"),
]
