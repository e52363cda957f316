"""Calibration before and after temperature scaling, in distribution and under shift."""

import numpy as np
from scipy.special import logsumexp

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.intervals import ece_interval
from clipsafe_utils.metrics import (
    brier_score,
    confidence_and_correct,
    fit_temperature,
    reliability_curve,
)
from clipsafe_utils.published import read_imagenet_x_predictions
from clipsafe_utils.sections.rows import row
from clipsafe_utils.statistics import mean_interval, split_mask


def calibration(study, prompts=None):
    """Calibration on the in-distribution set and under shift, before and after temperature scaling.

    The temperature minimises the NLL on `calibration_fraction` of the in-distribution set (stratified by class,
    seeded); all numbers are of images that the fit never saw.

    Returns
    -------
    DataFrame
        Tidy: "ece", "nll", "brier", and with the suffix "_scaled" after scaling; "overconfidence" (mean confidence
        minus accuracy) and "temperature".
    """
    p = study.parameters
    if study.is_published:
        return study.published[0].query("metric == 'ece'")
    names, rows = study.named(p.id_set, *p.shifted_sets), []
    if p.id_set not in names:
        return study.table(rows)
    for model in study.evaluate(*names):
        temperature, held_out = _fit(study, model, prompts)
        protocol = study.protocol(model, prompts)
        scales = {"": 1.0} | ({"_scaled": temperature} if np.isfinite(temperature) else {})
        rows.append(row(model, p.id_set, protocol, "temperature", (temperature, int((~held_out).sum()))))
        for name in names:
            for suffix, scale in scales.items():
                scores = _scores(study, model, name, scale, prompts)
                rows += _calibration_rows(model, name, protocol, suffix, scores, p)
    return study.table(rows)


def _fit(study, model, prompts=None):
    """Temperature of a model (NaN and a note where none is best), and which ID images it was not fitted on."""
    p = study.parameters
    split = {"fraction": p.calibration_fraction, "seed": p.seed}
    temperature, problem = study.ask(_temperature, model, p.id_set, prompts=prompts, **split)
    if problem.size:
        study.missing[f"temperature of {model}"] = problem.tobytes().decode()
    return float(temperature), ~split_mask(study.unit(model, p.id_set).labels, **split)


def _temperature(logits, labels, fraction, seed):
    """Temperature, and what is wrong where there is none (UTF-8)."""
    fit = split_mask(labels, fraction, seed=seed)
    try:
        return np.array(fit_temperature(logits[fit], labels[fit])), np.empty(0, np.uint8)
    except ClipsafeError as error:
        return np.array(np.nan), np.frombuffer(str(error).encode(), np.uint8)


def _scores(study, model, name, temperature, prompts=None):
    """Confidence, correctness and NLL of each image, and the Brier score, of images that no temperature saw."""
    p = study.parameters
    split = {"fraction": p.calibration_fraction, "seed": p.seed} if name == p.id_set else None
    return study.ask(_scored, model, name, prompts=prompts, temperature=temperature, without=split)


def _scored(logits, labels, temperature, without):
    if without:
        held_out = ~split_mask(labels, **without)
        logits, labels = logits[held_out], labels[held_out]
    confidence, correct = confidence_and_correct(logits, labels, temperature=temperature)
    scaled = logits / np.float32(temperature)
    nll = logsumexp(scaled, axis=1) - np.take_along_axis(scaled, labels[:, None], 1)[:, 0]
    return confidence, correct, nll, np.array(brier_score(logits, labels, temperature=temperature))


def _calibration_rows(model, name, protocol, suffix, scores, p):
    confidence, correct, nll, brier = scores
    intervals = {
        "ece": ece_interval(confidence, correct, n_bins=p.n_bins, level=p.ci_level),
        "nll": mean_interval(nll, level=p.ci_level),
        "brier": (float(brier), len(correct)),
        "overconfidence": mean_interval(confidence - correct, level=p.ci_level),
    }
    return [row(model, name, protocol, metric + suffix, interval) for metric, interval in intervals.items()]


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
        temperature, _ = _fit(study, model)
        scales = {model: 1.0}
        if len(firsts) == 1 and np.isfinite(temperature):
            scales[f"{model}, T = {temperature:.2f}"] = temperature
        for label, scale in scales.items():
            scored = _scores(study, model, p.id_set, scale)[:2]
            curves[label] = reliability_curve(*scored, n_bins=p.n_bins, level=p.ci_level)
    return curves
