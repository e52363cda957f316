"""Calibration before and after temperature scaling, in distribution and under shift."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.intervals import aurc_interval, ece_interval
from clipsafe_utils.metrics import classwise_ece, confidence_and_correct, fit_temperature, reliability_curve
from clipsafe_utils.metrics.calibration import brier_scores
from clipsafe_utils.published import read_imagenet_x_predictions
from clipsafe_utils.sections.rows import row
from clipsafe_utils.statistics import mean_interval, split_mask

SUFFIXES = ("", "_scaled")
"""Of metrics: as the model comes, and after temperature scaling."""

CLASSWISE_BINS = 15
"""Of the classwise error whatever `n_bins` says, or `keep: scores` had to keep the probability of every class."""


class Scored(NamedTuple):
    """What calibration is measured from: images of one set that the temperature was not fitted on.

    The first axis of all but `correct` has one or two rows: as the model comes, and scaled where it has a temperature.
    """

    correct: np.ndarray
    """Shape (n,), bool."""
    confidence: np.ndarray
    """Shape (1 or 2, n)."""
    nll: np.ndarray
    brier: np.ndarray
    classwise: np.ndarray
    """Shape (1 or 2,)."""


def calibration(study, prompts=None):
    """Calibration on the in-distribution set and under shift, before and after temperature scaling.

    The temperature minimises the NLL on `calibration_fraction` of the in-distribution set (stratified by class,
    seeded); all numbers are of images that the fit never saw.

    Returns
    -------
    DataFrame
        Tidy: "ece", "ece_equal_mass", "ece_classwise", "nll", "brier", "mean_confidence", "overconfidence" (mean
        confidence minus accuracy), "aurc" and "excess_aurc" (beyond an oracle), with the suffix "_scaled" after
        scaling; "temperature". Of published predictions, which are top-1 confidences, "ece", "ece_equal_mass" and the
        areas. All have intervals over images but the classwise error (`classwise_ece` says why).
    """
    p = study.parameters
    if study.is_published:
        table = study.published[0].query("metric == 'ece'")
        return pd.concat([table, study.table(_published_rows(study, table))], ignore_index=True)
    names, rows = study.named(p.id_set, *p.shifted_sets), []
    if p.id_set not in names:
        return study.table(rows)
    for model in study.evaluate(*names):
        temperature, held_out = fitted_temperature(study, model, prompts)
        protocol = study.protocol(model, prompts)
        rows.append(row(model, p.id_set, protocol, "temperature", (temperature, int((~held_out).sum()))))
        for name in names:
            rows += _calibration_rows(model, name, protocol, scored_images(study, model, name, temperature, prompts), p)
    return study.table(rows)


def split(study):
    """How the images that temperatures are fitted on are chosen, for `split_mask`."""
    return {"fraction": study.parameters.calibration_fraction, "seed": study.parameters.seed}


def fitted_temperature(study, model, prompts=None):
    """Temperature of a model (NaN and a note where none is best), and which ID images it was not fitted on."""
    name = study.parameters.id_set
    temperature, problem = study.ask(temperature_of_half, model, name, prompts=prompts, **split(study))
    if problem.size:
        study.missing[f"temperature of {model}"] = problem.tobytes().decode()
    return float(temperature), ~split_mask(study.unit(model, name).labels, **split(study))


def temperature_of_half(logits, labels, fraction, seed):
    """Temperature, and what is wrong where there is none (UTF-8)."""
    fit = split_mask(labels, fraction, seed=seed)
    try:
        return np.array(fit_temperature(logits[fit], labels[fit])), np.empty(0, np.uint8)
    except ClipsafeError as error:
        return np.array(np.nan), np.frombuffer(str(error).encode(), np.uint8)


def scored_images(study, model, name, temperature, prompts=None):
    """What a model says of the images of a set that its temperature was not fitted on.

    Parameters
    ----------
    temperature : float
        From `fitted_temperature`.

    Returns
    -------
    Scored
    """
    temperatures = [1.0] + [temperature] * bool(np.isfinite(temperature))
    without = split(study) if name == study.parameters.id_set else None
    return Scored(*study.ask(_score_images, model, name, prompts=prompts, temperatures=temperatures, without=without))


def _score_images(logits, labels, temperatures, without):
    if without:
        held_out = ~split_mask(labels, **without)
        logits, labels = logits[held_out], labels[held_out]
    below_top = logits.max(axis=1) - np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    confidence, correct = zip(
        *(confidence_and_correct(logits, labels, temperature=t) for t in temperatures), strict=True
    )
    nll = [below_top / t - np.log(own) for t, own in zip(temperatures, confidence, strict=True)]
    brier = [brier_scores(logits, labels, temperature=t) for t in temperatures]
    classwise = [classwise_ece(logits, labels, n_bins=CLASSWISE_BINS, temperature=t) for t in temperatures]
    return correct[0], np.array(confidence), np.array(nll), np.array(brier), np.array(classwise)


def _calibration_rows(model, name, protocol, scored, p):
    correct, n = scored.correct, len(scored.correct)
    for suffix, confidence, nll, brier, classwise in zip(SUFFIXES, *scored[1:], strict=False):
        intervals = {
            "ece": ece_interval(confidence, correct, n_bins=p.n_bins, level=p.ci_level),
            "ece_classwise": (float(classwise), n),
            "nll": mean_interval(nll, level=p.ci_level),
            "brier": mean_interval(brier, level=p.ci_level),
            "mean_confidence": mean_interval(confidence, level=p.ci_level),
            "overconfidence": mean_interval(confidence - correct, level=p.ci_level),
        }
        for metric, interval in (intervals | _of_order(confidence, correct, p)).items():
            yield row(model, name, protocol, metric + suffix, interval)


def _of_order(confidence, correct, p):
    """Metric -> Interval of what cuts or ranks images by their order of confidence."""
    return {
        "ece_equal_mass": ece_interval(confidence, correct, n_bins=p.n_bins, binning="mass", level=p.ci_level),
        "aurc": aurc_interval(confidence, correct, level=p.ci_level),
        "excess_aurc": aurc_interval(confidence, correct, excess=True, level=p.ci_level),
    }


def _published_rows(study, table):
    protocols = table.set_index("model")["protocol"]
    for model, images in read_imagenet_x_predictions(study.published_folder).groupby("model"):
        own = images["confidence"].to_numpy(), images["correct"].to_numpy()
        for metric, interval in _of_order(*own, study.parameters).items():
            yield row(model, "imagenet_val", protocols[model], metric, interval)


def reliability_curves(study):
    """Reliability on the in-distribution set, of images that no temperature was fitted on.

    Returns
    -------
    dict of str to ReliabilityCurve
        Before and after scaling for a single model; one model a group, the first, where there are several; the
        published predictions where there is nothing else.
    """
    p = study.parameters
    if study.is_published:
        predictions = read_imagenet_x_predictions(study.published_folder)
        return {
            model: reliability_curve(images["confidence"], images["correct"], n_bins=p.n_bins, level=p.ci_level)
            for model, images in predictions.groupby("model")
        }
    models = study.evaluate(p.id_set) if study.named(p.id_set) else []
    firsts = study.models.loc[models].reset_index().groupby("group", sort=False)["id"].first()
    curves = {}
    for model in firsts:
        labels, found = zip(*_curves(study, model, p.id_set).items(), strict=True)
        shown = [model, f"{model}, {labels[-1]}"] if len(firsts) == 1 else [model]
        curves |= dict(zip(shown, found, strict=False))
    return curves


class GroupReliability(NamedTuple):
    """Reliability of the representative model of a group on one test set."""

    model: str
    test_set: str
    curves: dict
    """"as it comes" and, if it has a temperature, "T = 1.23" -> ReliabilityCurve."""


def reliability_by_group(study, table):
    """Reliability in distribution and on the hardest shifted set, of one model a group.

    Parameters
    ----------
    table : DataFrame
        From `calibration`.

    Returns
    -------
    list of GroupReliability
        Of the model whose ECE on the in-distribution set is the group's median (of two, the lower). Empty where no
        image set of the suite is shifted.
    """
    p, found, hard = study.parameters, [], hardest_set(study, table)
    ece = table[table["metric"].eq("ece") & table["test_set"].eq(p.id_set)].set_index("model")["value"].sort_values()
    for _, values in ece.groupby(study.models["group"].reindex(ece.index), sort=False):
        model = values.index[(len(values) - 1) // 2]
        for name in (p.id_set, hard) if hard else ():
            found.append(GroupReliability(model, name, _curves(study, model, name)))
    return found


def _curves(study, model, name):
    temperature, _ = fitted_temperature(study, model)
    scored, options = scored_images(study, model, name, temperature), study.parameters
    return {
        label: reliability_curve(own, scored.correct, n_bins=options.n_bins, level=options.ci_level)
        for label, own in zip(("as it comes", f"T = {temperature:.2f}"), scored.confidence, strict=False)
    }


def hardest_set(study, table):
    """The shifted set on which the models of `table` (from `calibration`) are right least often; None without any."""
    accuracy = accuracies(study, table)
    accuracy = accuracy[accuracy["test_set"].isin(study.parameters.shifted_sets)]
    return accuracy.groupby("test_set")["value"].mean().idxmin() if len(accuracy) else None


def accuracies(study, table):
    """Accuracy on the very images that calibration was measured on.

    Parameters
    ----------
    table : DataFrame
        From `calibration`; of published predictions, which hold no mean confidence, there is nothing.

    Returns
    -------
    DataFrame
        Tidy, metric "accuracy", without intervals.
    """
    wide = table.pivot_table(index=["model", "test_set", "protocol"], columns="metric", values="value")
    if "overconfidence" not in wide:
        return study.table([])
    value = (wide["mean_confidence"] - wide["overconfidence"]).clip(0, 1).rename("value").reset_index()
    n = table[table["metric"] == "overconfidence"][["model", "test_set", "protocol", "n"]]
    return study.table(value.merge(n).assign(metric="accuracy").to_dict("records"))
