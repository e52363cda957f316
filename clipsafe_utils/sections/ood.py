"""Out-of-distribution detection by score and set."""

import json
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipsafe_utils.datasets import LabelSpace
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.intervals import aupr_interval, fpr_interval
from clipsafe_utils.metrics import (
    fit_ood_score,
    is_fitted,
    mine_negatives,
    negative_label_score,
    ood_score,
)
from clipsafe_utils.prompts import negative_words
from clipsafe_utils.sections.rows import WITH_IMAGES, accuracy_row, is_correct, row
from clipsafe_utils.statistics import auroc_difference_interval, auroc_interval, split_mask
from clipsafe_utils.table import tidy

NO_OOD_SETS = "none of the OOD sets is there: describe them under `image_sets` and name them under `ood_sets`."
NO_FEATURES = (
    "their units hold logits alone: set `features: true` to keep what the head makes logits from, which runs the "
    "classifiers again. Models whose last step is not one linear map have none."
)

FALSE_POSITIVE_RATES = {"id": "fpr_ood_at_tpr_id95", "ood": "fpr_id_at_tpr_ood95"}
"""Positive class -> the false-positive rate at 95% that takes it as such."""

NEED_TEXT = ("mcm", "neg_label")
"""Scores of zero-shot models alone."""


def shown_detection_metrics(study):
    """The two metrics that figures show: AUROC, and the false-positive rate of the suite's convention."""
    return "auroc", FALSE_POSITIVE_RATES[study.parameters.fpr_positive]


def main_score(study):
    """The score that others are compared with: the first that every model has and that is not fitted."""
    scores = [score for score in study.parameters.ood_scores if not is_fitted(score)]
    return next((score for score in scores if score not in NEED_TEXT), scores[0])


def of_score(rows, score):
    """Rows of one score."""
    return rows[rows["protocol"].str.split(",").str[0] == score]


def ood_scores(study, model, name, method, prompts=None):
    """Out-of-distribution scores of one model's images of a set, in the classes of the in-distribution set.

    Parameters
    ----------
    method : str
        One of the parameter `ood_scores`; one that is fitted saw the images of the in-distribution set that
        `fitted_on` marks.

    Returns
    -------
    ndarray, shape (n,)
        Higher = more out-of-distribution.
    """
    scores, _ = _scores_by_set(study, model, [name], [method], prompts)
    return scores[name][method]


def drawn_scores(study):
    """Scores that figures may draw, by model and image set."""
    p = study.parameters
    names = [*study.named(p.id_set), *study.named(*p.ood_sets)]
    models = study.evaluate(*names) if p.id_set in names else []
    return {(model, name): ood_scores(study, model, name, main_score(study)) for model in models for name in names}


def fitted_on(study, model):
    """Which images of the in-distribution set scores are fitted on: a stratified, seeded share.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    p = study.parameters
    return split_mask(study.unit(model, p.id_set).labels, p.calibration_fraction, seed=p.seed)


def _fits(study, model, methods, prompts):
    """Scores that this model has -> the fitted score, or None where nothing is fitted; and notes on the others."""
    found, notes, p = {}, {}, study.parameters
    zero_shot = study.is_zero_shot(model)
    bank = features = None
    for method in methods:
        if not is_fitted(method):
            if zero_shot or method not in NEED_TEXT:
                found[method] = None
            continue
        if bank is None:
            bank, features = fitted_on(study, model), study.features(model, p.id_set)
        if features is None:
            notes[f"fitted OOD scores of {_kind(study, model)}"] = NO_FEATURES
            continue
        own = {"labels": study.unit(model, p.id_set).labels[bank]}
        if method == "vim":
            own = {"logits": _logits(study, model, p.id_set, prompts)[bank]} | study.linear_head(model, prompts)
            # A bias that all classes share moves no softmax, but it would move ViM's origin and scale.
            own["bias"] = None if zero_shot else own["bias"]
        try:
            found[method] = fit_ood_score(method, features[bank], **own)
        except ClipsafeError as error:
            notes[f"OOD score {method}"] = f"{model}: {error}"
    return found, notes


def _kind(study, model):
    return f"{study.models['group'][model]} models"


def _logits(study, model, name, prompts):
    """Logits without the bias that all classes share."""
    shared = study.unit(model, name).record["logit_bias"] if study.parameters.logit_scale is None else 0
    return study.outputs(model, name, prompts=prompts, space=study.id_space) - np.float32(shared)


def _scores_by_set(study, model, names, methods, prompts):
    """Scores of a model's images, by set and method, and whether each method was fitted."""
    p, units = study.parameters, {name: study.unit(model, name).key for name in names}
    identity = {"question": "ood scores", "methods": methods, "units": units}
    split = {"fraction": p.calibration_fraction, "seed": p.seed}
    identity |= split if any(map(is_fitted, methods)) else {}
    identity |= study.output_identity(model, study.id_space, prompts)

    def compute():
        fits, notes = _fits(study, model, methods, prompts)
        facts = json.dumps({"fitted": {method: bool(fit) for method, fit in fits.items()}, "notes": notes})
        scores = [score for name in names for score in _scores(study, model, name, fits, prompts).values()]
        return np.frombuffer(facts.encode(), np.uint8), *scores

    facts, *scores = study.answer(model, p.id_set, identity, compute)
    facts, scores = json.loads(facts.tobytes()), iter(scores)
    study.missing |= facts["notes"]
    return {name: {method: next(scores) for method in facts["fitted"]} for name in names}, facts["fitted"]


def _scores(study, model, name, fits, prompts):
    """Scores of one model's images of a set, by method; its outputs are made once."""
    space, found = study.id_space, {}
    logits = study.outputs(model, name, prompts=prompts, space=space)
    features = study.features(model, name) if any(fits.values()) else None
    for method, fitted in fits.items():
        if fitted:
            vim = method == "vim"
            found[method] = fitted(features, _logits(study, model, name, prompts) if vim else None)
        elif method == "mcm":
            found[method] = ood_score(study.outputs(model, name, prompts=prompts, space=space, cosines=True), method)
        elif method == "neg_label":
            found[method] = negative_label_score(logits, _negative_logits(study, model, name, prompts))
        else:
            found[method] = ood_score(logits, method)
    return found


def _negative_logits(study, model, name, prompts):
    prompts = prompts or study.main_prompts
    words = negative_words(study.id_space, study.parameters.prompt_names[prompts])
    candidates, classes = (
        study.head(model, prompts, names)["weights"] for names in (words, study.class_names(study.id_space, prompts))
    )
    logits = study.outputs(model, name, prompts=prompts, space=LabelSpace("", words))
    return logits[:, mine_negatives(candidates, classes)]


def ood_table(study, prompts=None):
    """Detection of every OOD set by every score.

    A score that is not fitted is judged on the whole in-distribution set, as published numbers are; a fitted one on the
    images that it was not fitted on, which its protocol says. "mcm" and "neg_label" need a text tower, so classifiers
    have none.

    Parameters
    ----------
    prompts : str, optional
        Prompt set of the zero-shot models; the main one by default.

    Returns
    -------
    DataFrame
        Tidy, protocol "SCORE, PROMPTS": auroc (DeLong interval), fpr_ood_at_tpr_id95 and fpr_id_at_tpr_ood95 (interval
        with the error of the threshold), aupr_in and aupr_out (`aupr_interval`); n counts the out-of-distribution
        images (in-distribution ones for fpr_id_at_tpr_ood95).
    """
    return ood_tables(study, prompts)[0]


def ood_tables(study, prompts=None):
    """Detection as from `ood_table`, and what each score gains over the main one.

    Returns
    -------
    detection : DataFrame
    gains : DataFrame
        Tidy, protocol "SCORE against MAIN, PROMPTS": auroc_gain, the AUROC minus that of the main score on the same
        images, those that no score was fitted on (paired DeLong interval).
    """
    p, main = study.parameters, main_score(study)
    id_names, ood_names, rows, gains = study.named(p.id_set), study.named(*p.ood_sets), [], []
    if not (id_names and ood_names):
        study.missing["OOD detection"] = WITH_IMAGES if study.is_published else NO_OOD_SETS
        return study.table(rows), study.table(gains)
    for model in study.evaluate(*id_names, *ood_names):
        scores_of, fits = _scores_by_set(study, model, [p.id_set, *ood_names], p.ood_scores, prompts)
        inside, fitted = scores_of[p.id_set], any(fits.values())
        unseen = ~fitted_on(study, model) if fitted else slice(None)
        how, note = study.protocol(model, prompts), f", fitted on {p.calibration_fraction:.0%} of ID"
        for name in ood_names:
            outside = scores_of[name]
            for method, scores in inside.items():
                own = scores[unseen] if fits[method] else scores
                protocol = f"{method}, {how}{note if fits[method] else ''}"
                rows += _detection_rows(model, name, protocol, own, outside[method], p.ci_level)
                if main in inside and method != main:
                    same = (scores[unseen], outside[method], inside[main][unseen], outside[main])
                    gain = auroc_difference_interval(*same, level=p.ci_level)
                    gains.append(row(model, name, f"{method} against {main}, {how}", "auroc_gain", gain))
    return study.table(rows), study.table(gains)


def _detection_rows(model, name, protocol, inside, outside, level):
    intervals = {
        "auroc": auroc_interval(inside, outside, level=level),
        "fpr_ood_at_tpr_id95": fpr_interval(inside, outside, positive="id", level=level),
        "fpr_id_at_tpr_ood95": fpr_interval(inside, outside, positive="ood", level=level),
        "aupr_in": aupr_interval(inside, outside, positive="id", level=level),
        "aupr_out": aupr_interval(inside, outside, positive="ood", level=level),
    }
    return [row(model, name, protocol, metric, interval) for metric, interval in intervals.items()]


class ScoreSamples(NamedTuple):
    """Scores of one model, for drawing."""

    model: str
    protocol: str
    inside: np.ndarray
    outside: dict


def score_samples(study, detection):
    """Scores of a representative model of each group, by the main score.

    Parameters
    ----------
    detection : DataFrame
        From `ood_table`.

    Returns
    -------
    list of ScoreSamples
        One a group, of the model whose AUROC, as the mean over the OOD sets, is the group's median (of two, the lower).
    """
    p, method, found = study.parameters, main_score(study), []
    rows = of_score(detection[detection["metric"] == "auroc"], method)
    means = rows.groupby("model")["value"].mean().sort_values(kind="stable")
    for _, values in means.groupby(study.models["group"].reindex(means.index), sort=False):
        model = values.index[(len(values) - 1) // 2]
        inside, *outside = (ood_scores(study, model, name, method) for name in (p.id_set, *study.named(*p.ood_sets)))
        named = dict(zip(study.named(*p.ood_sets), outside, strict=True))
        found.append(ScoreSamples(model, f"{method}, {study.protocol(model)}", inside, named))
    return found


def with_id_accuracy(study, detection, method):
    """AUROC rows of one score, and the accuracy of their models on the in-distribution set."""
    chosen = of_score(detection[detection["metric"] == "auroc"], method)
    p, rows = study.parameters, []
    for model in chosen["model"].unique():
        correct = study.ask(is_correct, model, p.id_set)
        rows.append(accuracy_row(study, model, p.id_set, correct))
    return tidy(pd.concat([chosen, study.table(rows)]))
