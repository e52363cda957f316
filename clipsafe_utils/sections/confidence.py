"""What confidence is good for: leaving out images that a model is unsure of, strange images, and visual factors."""

import functools

import numpy as np
import pandas as pd

from clipsafe_utils.datasets import factor_annotations
from clipsafe_utils.metrics import confidence_and_correct, expected_calibration_error, risk_coverage
from clipsafe_utils.metrics.calibration import bin_index
from clipsafe_utils.published import read_imagenet_x_predictions
from clipsafe_utils.sections.calibration import SUFFIXES, fitted_temperature, scored_images
from clipsafe_utils.sections.factors import annotation, shown_factors
from clipsafe_utils.sections.ood import NO_OOD_SETS
from clipsafe_utils.sections.rows import WITH_IMAGES, over_models, row
from clipsafe_utils.statistics import Interval, mean_interval
from clipsafe_utils.zoo import GROUPS

COVERAGES = np.linspace(0.02, 1, 50)
"""Shares of images at which curves are averaged."""
DRAWS = 20
"""Random subsets that the images with a factor are compared with."""


def risk_coverage_means(study, test_sets):
    """Mean risk-coverage curve of the models of a group, as they come.

    Parameters
    ----------
    test_sets : iterable of str

    Returns
    -------
    DataFrame
        Tidy, metric "risk", the protocol is "coverage 0.50", `model` holds the group; Student's interval over models, n
        counts them.
    """
    curves, rows = {}, []
    for model, name, _, correct, confidences in _judged(study, test_sets):
        curve, group = risk_coverage(confidences[0], correct), study.models["group"].get(model, "other")
        at = np.maximum(np.ceil(COVERAGES * len(correct) - 1e-9).astype(int), 1) - 1
        curves.setdefault((group, name), {})[model] = curve.risk[at]
    for (group, name), risks in curves.items():
        for coverage, (_, values) in zip(COVERAGES, pd.DataFrame(risks).iterrows(), strict=True):
            interval = over_models(study, values)
            rows.append(row(GROUPS.get(group, group), name, f"coverage {coverage:.2f}", "risk", interval))
    return study.table(rows)


def _judged(study, test_sets=None):
    """Model, test set, protocol, correctness and confidences of images that no temperature was fitted on."""
    p = study.parameters
    if study.is_published:
        for model, images in read_imagenet_x_predictions(study.published_folder).groupby("model"):
            confidence, correct = images["confidence"].to_numpy(), images["correct"].to_numpy()
            if test_sets is None or p.id_set in test_sets:
                yield model, p.id_set, "imagenet_x predictions", correct, confidence[None]
        return
    names = study.named(p.id_set, *p.shifted_sets)
    for model in study.evaluate(*names) if p.id_set in names else []:
        temperature, _ = fitted_temperature(study, model)
        for name in names if test_sets is None else [name for name in names if name in test_sets]:
            scored = scored_images(study, model, name, temperature)
            yield model, name, study.protocol(model), scored.correct, scored.confidence


def ood_confidence(study):
    """Mean confidence on out-of-distribution images, in the classes of the in-distribution set.

    Returns
    -------
    DataFrame
        Tidy, "mean_confidence" and "mean_confidence_scaled" on each of `ood_sets`.
    """
    p, rows = study.parameters, []
    names, ood_names = study.named(p.id_set), study.named(*p.ood_sets)
    if not (names and ood_names):
        study.missing["confidence on OOD sets"] = WITH_IMAGES if study.is_published else NO_OOD_SETS
        return study.table(rows)
    for model in study.evaluate(*names, *ood_names):
        temperature, _ = fitted_temperature(study, model)
        temperatures = [1.0] + [temperature] * bool(np.isfinite(temperature))
        for name in ood_names:
            confidences = study.ask(_confidences, model, name, space=study.id_space, temperatures=temperatures)
            for suffix, confidence in zip(SUFFIXES, confidences, strict=False):
                interval = mean_interval(confidence, level=p.ci_level)
                rows.append(row(model, name, study.protocol(model), f"mean_confidence{suffix}", interval))
    return study.table(rows)


def _confidences(logits, labels, temperatures):
    """Largest probability, shape (k, n), at k temperatures; the labels of such images mean nothing."""
    nothing = np.zeros(len(logits), int)
    return np.array([confidence_and_correct(logits, nothing, temperature=t)[0] for t in temperatures])


def factor_calibration(study):
    """Calibration on the images that show each visual factor, before and after scaling on the in-distribution set.

    Returns
    -------
    DataFrame
        Tidy, test set "SET/FACTOR", n counts the images that show it: "overconfidence", "ece", and "ece_excess", the
        ECE minus the mean ECE of equally many images drawn at random (the fewer images, the larger any ECE), with the
        interval that the ECE of such images has; with the suffix "_scaled" after scaling. Of images that no temperature
        was fitted on.
    """
    p, rows = study.parameters, []
    for model, prefix, protocol, correct, confidences, shows in _with_factors(study):
        for suffix, confidence in zip(SUFFIXES, confidences, strict=False):
            for factor, shown in shows.items():
                if not shown.any():
                    continue
                own, test_set, n = (confidence[shown], correct[shown]), f"{prefix}/{factor}", int(shown.sum())
                ece = expected_calibration_error(*own, n_bins=p.n_bins)
                excess = ece - _eces(confidence, correct, _draws(len(correct), n, p.seed), p.n_bins)
                excess = mean_interval(excess, level=p.ci_level)
                half = (excess.high - excess.value) * np.sqrt(DRAWS + 1)  # of one draw, not of their mean
                excess = Interval(
                    *(excess.value, excess.value - half, excess.value + half), "student t over draws", p.ci_level, n
                )
                gap = mean_interval(own[0] - own[1], level=p.ci_level)
                for metric, value in (("ece", (ece, n)), ("ece_excess", excess), ("overconfidence", gap)):
                    rows.append(row(model, test_set, protocol, metric + suffix, value))
    return study.table(rows)


@functools.lru_cache(maxsize=64)
def _draws(n, size, seed):
    """The same random subsets for every model."""
    rng = np.random.default_rng([seed, n, size])
    return np.array([rng.choice(n, size, replace=False) for _ in range(DRAWS)])


def _eces(confidence, correct, draws, n_bins):
    """Expected calibration error of each draw of images."""
    index = bin_index(confidence, n_bins)[1] + n_bins * np.arange(DRAWS)[:, None]
    index, gap = np.take_along_axis(index, draws, axis=1), (confidence - correct)[draws]
    gaps = np.bincount(index.ravel(), gap.ravel(), minlength=DRAWS * n_bins).reshape(DRAWS, n_bins)
    return np.abs(gaps).sum(axis=1) / draws.shape[1]


def _with_factors(study):
    """Model, prefix of test sets, protocol, correctness, confidences, and one flag a factor for the same images."""
    p = study.parameters
    if study.is_published:
        for model, images in read_imagenet_x_predictions(study.published_folder).groupby("model"):
            frame = factor_annotations(list(images["image_id"]), p.factor_annotation)
            known, protocol = frame["annotated"].to_numpy(), f"imagenet_x {p.factor_annotation}"
            shows = {factor: frame.loc[known, factor].to_numpy() for factor in p.factors}
            confidence, correct = images["confidence"].to_numpy()[known], images["correct"].to_numpy()[known]
            yield model, "imagenet_x", protocol, correct, confidence[None], shows
        return
    name = p.factor_set or p.id_set
    names = study.named(p.id_set, name)
    for model in study.evaluate(*dict.fromkeys(names)) if {p.id_set, name} <= {*names} else []:
        unit = study.unit(model, name)
        prefix, annotated, shows = shown_factors(study, name, unit)
        if not annotated.any():
            break
        temperature, unseen = fitted_temperature(study, model)
        unseen = unseen if name == p.id_set else np.ones(len(annotated), bool)
        scored = scored_images(study, model, name, temperature)
        kept = annotated[unseen]
        shows = {factor: shown[unseen[annotated]] for factor, shown in shows.items()}
        protocol = f"{study.protocol(model)}, {annotation(study, prefix)}"
        yield model, prefix, protocol, scored.correct[kept], scored.confidence[:, kept], shows
