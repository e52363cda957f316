"""Calibration before and after temperature scaling, in distribution and under shift."""

import numpy as np
from scipy.special import logsumexp

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics import (
    brier_score,
    confidence_and_correct,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)
from clipsafe_utils.published import read_imagenet_x_predictions
from clipsafe_utils.sections.rows import row
from clipsafe_utils.statistics import bootstrap_ci, mean_interval, split_mask


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
            logits, labels = study.outputs(model, name, prompts=prompts), study.unit(model, name).labels
            if name == p.id_set:
                logits, labels = logits[held_out], labels[held_out]
            for suffix, scale in scales.items():
                rows += _calibration_rows(model, name, protocol, suffix, logits, labels, scale, p)
    return study.table(rows)


def _fit(study, model, prompts=None):
    """Temperature of a model (NaN and a note where none is best), and which ID images it was not fitted on."""
    p = study.parameters
    unit = study.unit(model, p.id_set)
    fit = split_mask(unit.labels, p.calibration_fraction, seed=p.seed)
    try:
        temperature = fit_temperature(study.outputs(model, p.id_set, prompts=prompts)[fit], unit.labels[fit])
    except ClipsafeError as error:
        study.missing[f"temperature of {model}"] = str(error)
        temperature = np.nan
    return temperature, ~fit


def _calibration_rows(model, name, protocol, suffix, logits, labels, temperature, p):
    confidence, correct = confidence_and_correct(logits, labels, temperature=temperature)
    scaled = logits / np.float32(temperature)
    nll = logsumexp(scaled, axis=1) - np.take_along_axis(scaled, labels[:, None], 1)[:, 0]
    intervals = {
        "ece": bootstrap_ci(
            lambda c, r: expected_calibration_error(c, r, n_bins=p.n_bins),
            confidence,
            correct,
            n_bootstrap=p.n_bootstrap,
            level=p.ci_level,
            seed=p.seed,
        ),
        "nll": mean_interval(nll, level=p.ci_level),
        "brier": (brier_score(logits, labels, temperature=temperature), len(labels)),
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
        temperature, held_out = _fit(study, model)
        logits = study.outputs(model, p.id_set)[held_out]
        scales = {model: 1.0}
        if len(firsts) == 1 and np.isfinite(temperature):
            scales[f"{model}, T = {temperature:.2f}"] = temperature
        for label, scale in scales.items():
            scored = confidence_and_correct(logits, study.unit(model, p.id_set).labels[held_out], temperature=scale)
            curves[label] = reliability_curve(*scored, n_bins=p.n_bins, level=p.ci_level)
    return curves
