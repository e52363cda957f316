"""What each section of the study reports: one function a question, from a study to rows of the tidy table."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from clipsafe_utils.datasets import factor_annotations
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics import (
    SIXTEEN_CLASSES,
    auroc,
    brier_score,
    confidence_and_correct,
    error_ratio,
    expected_calibration_error,
    fit_temperature,
    ood_detection,
    ood_score,
    reliability_curve,
    shape_bias,
    sixteen_class_decisions,
    softmax,
)
from clipsafe_utils.published import read_imagenet_x_predictions
from clipsafe_utils.statistics import (
    auroc_interval,
    bootstrap_ci,
    effective_robustness_interval,
    fit_accuracy_line,
    mean_interval,
    split_mask,
    wilson_interval,
)
from clipsafe_utils.table import tidy

SAME_CLASSES = {
    "imagenet_a": "imagenet_val/a_classes",
    "imagenet_r": "imagenet_val/r_classes",
    "objectnet": "imagenet_val/objectnet_classes",
    "imagenet_vid_robust": "imagenet_val/vid_classes",
}
"""Shifted set with fewer classes -> ImageNet restricted to these classes, the x axis of its robustness plot."""

CLIP_GROUPS = ("zero_shot_clip", "clip_finetuned")

WITH_IMAGES = (
    "published tables hold no logits, which this needs: run a suite with images and models, such as `make report "
    "SUITE=sample`, or describe your own under image_sets."
)
NO_OOD_SETS = "none of the OOD sets is there: describe them under `image_sets` and name them under `ood_sets`."
NO_ZERO_SHOT = "prompts act on zero-shot CLIP models, and this suite has none: add rows of that group to its zoo."


def row(model, test_set, protocol, metric, interval):
    """One row of the tidy table from an `Interval`, or from a (value, n) pair without one."""
    result = {"model": model, "test_set": test_set, "protocol": protocol, "metric": metric}
    if len(interval) == 2:
        return result | {"value": interval[0], "n": interval[1]}
    value, low, high, kind, level, n = interval
    return result | {"value": value, "n": n, "ci_low": low, "ci_high": high, "ci_kind": kind, "ci_level": level}


def accuracy(study):
    """Top-1 accuracy on the in-distribution set and its shifted relatives, Wilson intervals.

    A shifted set with fewer classes comes with a second row: the in-distribution accuracy on the same classes.

    Returns
    -------
    DataFrame
        Tidy, metric "accuracy".
    """
    p = study.parameters
    if study.is_published:
        table, _ = study.published
        sets = [p.id_set, *p.shifted_sets, *SAME_CLASSES.values()]
        return table[table["protocol"].isin(["open_clip", "timm"]) & table["test_set"].isin(sets)]
    names, rows = study.named(p.id_set, *p.shifted_sets), []
    for model in study.evaluate(*names):
        for name in names:
            images = study.unit(model, name).images
            if "anchor" in images:
                rows += _video_rows(study, model, name, images)
                continue
            correct = _correct(study.outputs(model, name), study.unit(model, name).labels)
            rows.append(_accuracy_row(study, model, name, correct))
        for name in names:
            if name in SAME_CLASSES and p.id_set in names:
                rows.append(_accuracy_row(study, model, SAME_CLASSES[name], _on_classes_of(study, model, name)))
    return study.table(rows)


def _accuracy_row(study, model, test_set, correct):
    interval = wilson_interval(int(correct.sum()), len(correct), level=study.parameters.ci_level)
    return row(model, test_set, study.protocol(model), "accuracy", interval)


def _correct(logits, labels):
    return np.argmax(logits, axis=1) == labels


def _video_rows(study, model, name, images):
    """pm-0 and pm-10: an anchor frame counts if it, or all frames within ten of it, get one of their labels."""
    predicted = np.argmax(study.outputs(model, name), axis=1)
    right = [k in labels for k, labels in zip(predicted, images["label_sets"], strict=True)]
    for reach in (0, 10):
        near = images["offset"].abs() <= reach
        anchors = pd.Series(right)[near].groupby(images.loc[near, "anchor"]).all()
        yield _accuracy_row(study, model, f"{name}/pm{reach}", anchors.to_numpy())


def _on_classes_of(study, model, name):
    """Correctness of in-distribution images whose class the shifted set has, among these classes."""
    p, space = study.parameters, study.images[name].space
    class_of = {output: k for k, members in enumerate(space.members) for output in members}
    labels = np.array([class_of.get(output, -1) for output in study.unit(model, p.id_set).labels])
    logits = study.outputs(model, p.id_set, space=space)
    return _correct(logits, labels)[labels >= 0]


def visual_factors(study):
    """Accuracy and error ratio for each visual factor.

    Returns
    -------
    DataFrame
        Tidy: "accuracy" on all annotated images (test set "imagenet_x", or the set that carries its own factor
        annotations) and on those that show a factor ("imagenet_x/pose"), "error_ratio" for each factor.
    """
    p = study.parameters
    if study.is_published:
        table, _ = study.published
        protocol = table["metric"].map(
            {"accuracy": "imagenet_x multi", "error_ratio": f"imagenet_x {p.factor_annotation}"}
        )
        sets = ["imagenet_x", *(f"imagenet_x/{factor}" for factor in p.factors)]
        return table[table["protocol"].eq(protocol) & table["test_set"].isin(sets)]
    name, rows = p.factor_set or p.id_set, []
    for model in study.evaluate(*study.named(name)) if study.named(name) else []:
        unit = study.unit(model, name)
        prefix, annotated, shows = _factors(study, name, unit)
        if not annotated.any():
            break
        correct = _correct(study.outputs(model, name), unit.labels)[annotated]
        rows.append(_accuracy_row(study, model, prefix, correct))
        for factor, shown in shows.items():
            if shown.any():
                rows.append(_accuracy_row(study, model, f"{prefix}/{factor}", correct[shown]))
                ratio = _error_ratio(correct, shown, p)
                rows.append(row(model, f"{prefix}/{factor}", study.protocol(model), "error_ratio", ratio))
    return study.table(rows)


def _error_ratio(correct, shown, parameters):
    """Error ratio of one factor; its interval resamples images with and without the factor."""
    if correct.all():
        return np.nan, int(shown.sum())
    return bootstrap_ci(
        lambda right, with_factor: error_ratio(right[with_factor].mean(), min(right.mean(), 1 - 0.5 / len(right))),
        correct,
        shown,
        strata=shown,
        n_bootstrap=parameters.n_bootstrap,
        level=parameters.ci_level,
        seed=parameters.seed,
    )._replace(n=int(shown.sum()))


def _factors(study, name, unit):
    """Prefix of test sets, which images are annotated, and one flag a factor for those."""
    p = study.parameters
    if set(p.factors) <= set(unit.images.columns):
        return name, np.ones(len(unit.images), bool), {factor: unit.images[factor].to_numpy() for factor in p.factors}
    frame = factor_annotations(list(unit.images["image_id"]), p.factor_annotation)
    annotated = frame["annotated"].to_numpy()
    if not annotated.any():
        study.missing["visual factors"] = (
            f"no image of {name} is annotated: ImageNet-X knows files by their ILSVRC2012_val names. Use the ImageNet "
            "validation set with its original file names, or a set that carries factor annotations."
        )
    return "imagenet_x", annotated, {factor: frame.loc[annotated, factor].to_numpy() for factor in p.factors}


def paired_effects(study):
    """What switching on one factor does to accuracy, all else equal: the causal effect on the same images.

    Returns
    -------
    DataFrame
        Tidy, metric "paired_effect": accuracy with the factor minus accuracy without, over the pairs; its interval is
        that of the mean of the paired differences. Empty where the suite has no set of pairs.
    """
    p, rows = study.parameters, []
    if not p.paired_set:
        study.missing["image pairs"] = (
            "the effect of one factor alone needs the same image with and without it: a rendered world has such pairs "
            "(`paired_set`), photographs do not."
        )
    names = study.named(p.paired_set)
    for model in study.evaluate(*names) if names else []:
        unit = study.unit(model, names[0])
        pairs = unit.images.assign(correct=_correct(study.outputs(model, names[0]), unit.labels).astype(float))
        correct = pairs.pivot_table(index="pair", columns="forced", values="correct")
        for factor in p.factors:
            difference = (correct[factor] - correct["none"]).to_numpy()
            interval = mean_interval(difference, level=p.ci_level)._replace(kind="normal, paired")
            rows.append(row(model, f"{names[0]}/{factor}", study.protocol(model), "paired_effect", interval))
    return study.table(rows)


def robustness(study, table, test_sets, *, x_set, baseline=None):
    """Effective robustness on each test set, against a line fitted on the baseline group.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of metric "accuracy".
    test_sets : iterable of str
        The y axes. Sets with fewer classes take the x axis on the same classes where every model has it.
    x_set : str
        Test set of the x axis.
    baseline : str, optional
        Group the line is fitted on, or "rest": all models but CLIP; by default the suite's `baseline_group`.

    Returns
    -------
    rows : DataFrame
        Tidy, metric "effective_robustness"; empty where the baseline has fewer than three models.
    lines : dict of str to AccuracyLine
        By test set.
    axes : dict of str to str
        Test set of the x axis by test set.
    """
    p, baseline = study.parameters, baseline or study.parameters.baseline_group
    accuracies = table[table["metric"] == "accuracy"].pivot_table(index="model", columns="test_set", values="value")
    counts = table.pivot_table(index="model", columns="test_set", values="n")
    models = study.models.reindex(accuracies.index)
    fits = models["group"] == baseline if baseline != "rest" else ~models["group"].isin(CLIP_GROUPS)
    if "distinct" in models:  # further rows of the same weights would count twice
        fits &= models["distinct"].eq(True)
    rows, lines, axes = [], {}, {}
    if not test_sets:
        study.missing["distribution shift"] = (
            "no shifted test set is named: describe one and list it under `shifted_sets`."
        )
    columns = [c for name in test_sets for c in accuracies if c == name or c.partition("/")[0] == name]
    for name in columns if x_set in accuracies else ():
        present = accuracies[name].notna()
        same = SAME_CLASSES.get(name.partition("/")[0])
        axes[name] = same if same in accuracies and accuracies.loc[present, same].notna().all() else x_set
        x, y = accuracies.loc[present, axes[name]], accuracies.loc[present, name]
        fitted = fits[present] & x.notna()
        if fitted.sum() < 3:
            study.missing[f"baseline line on {name}"] = (
                f"only {fitted.sum()} models of the group {baseline!r} have results: a line needs three. Add models to "
                "the zoo, or choose another `baseline_group`."
            )
            continue
        lines[name] = fit_accuracy_line(x[fitted].to_numpy(), y[fitted].to_numpy(), p.line_scale)
        interval = effective_robustness_interval(
            x.to_numpy(),
            y.to_numpy(),
            np.maximum(counts.loc[y.index, name].to_numpy(int), 1),
            lines[name],
            level=p.ci_level,
            n_bootstrap=p.n_bootstrap,
            seed=p.seed,
        )
        protocol = f"{p.line_scale} line over {fitted.sum()} {baseline} models, x = {axes[name]}"
        for k, model in enumerate(y.index):
            one = interval._replace(
                value=interval.value[k], low=interval.low[k], high=interval.high[k], n=interval.n[k]
            )
            rows.append(row(model, name, protocol, "effective_robustness", one))
    return study.table(rows), lines, axes


def group_means(study, rows):
    """Mean over the models of a group, one row a group and test set, with an interval over models.

    Returns
    -------
    DataFrame
        group, test_set, mean, low, high (NaN below three models), n_models.
    """
    p = study.parameters
    rows = rows.assign(group=rows["model"].map(study.models["group"])).dropna(subset=["group", "value"])
    found = []
    for (group, test_set), part in rows.groupby(["group", "test_set"]):
        values = part["value"].to_numpy()
        interval = bootstrap_ci(np.mean, values, n_bootstrap=p.n_bootstrap, level=p.ci_level, seed=p.seed)
        low, high = interval[1:3] if len(values) >= 3 else (np.nan, np.nan)
        found.append((group, test_set, interval.value, low, high, len(values)))
    return pd.DataFrame(found, columns=["group", "test_set", "mean", "low", "high", "n_models"])


def cue_conflict(study):
    """Shape bias on cue-conflict stimuli, and the share of images that either cue decided.

    Returns
    -------
    DataFrame
        Tidy, metrics "shape_bias" and "share_decided", Wilson intervals.
    """
    p = study.parameters
    if study.is_published:
        return study.published[0].query("metric in ('shape_bias', 'share_decided')")
    names, rows = study.named(p.cue_conflict_set), []
    for model in study.evaluate(*names) if names else []:
        images = study.unit(model, names[0]).images
        bias = shape_bias({"decision": _decisions(study, model, names[0]), **images[["shape", "texture"]]})
        decided = bias.n_shape + bias.n_texture
        for metric, successes, n in (("shape_bias", bias.n_shape, decided), ("share_decided", decided, bias.n)):
            interval = wilson_interval(successes, n, level=p.ci_level)
            rows.append(row(model, names[0], study.protocol(model), metric, interval))
    return study.table(rows)


def _decisions(study, model, name):
    """Category a model decides for: the 16-class rule on ImageNet outputs, the largest class elsewhere."""
    own = study.images[name].space
    if study.id_space.outputs == "imagenet1k" and set(own.names) == set(SIXTEEN_CLASSES):
        return sixteen_class_decisions(softmax(study.outputs(model, name)))
    return np.array(own.names)[np.argmax(study.outputs(model, name, space=own), axis=1)]


def ood_scores(study, model, name, method, prompts=None):
    """Out-of-distribution scores of one model's images of a set, in the classes of the in-distribution set.

    Returns
    -------
    ndarray, shape (n,)
        Higher = more out-of-distribution.
    """
    logits = study.outputs(model, name, prompts=prompts, space=study.id_space, cosines=method == "mcm")
    return ood_score(logits, method)


def ood_table(study, prompts=None):
    """Detection of every OOD set by every score.

    "mcm" needs cosines, so classifiers have none.

    Parameters
    ----------
    prompts : str, optional
        Prompt set of the zero-shot models; the main one by default.

    Returns
    -------
    DataFrame
        Tidy, protocol "SCORE, PROMPTS": auroc (DeLong interval), fpr_ood_at_tpr_id95 and fpr_id_at_tpr_ood95 (Wilson,
        threshold taken as fixed), aupr_in, aupr_out; n counts the out-of-distribution images.
    """
    p = study.parameters
    id_names, ood_names, rows = study.named(p.id_set), study.named(*p.ood_sets), []
    if not (id_names and ood_names):
        study.missing["OOD detection"] = WITH_IMAGES if study.is_published else NO_OOD_SETS
        return study.table(rows)
    for model in study.evaluate(*id_names, *ood_names):
        for method in p.ood_scores:
            if method == "mcm" and not study.is_zero_shot(model):
                continue
            inside = ood_scores(study, model, p.id_set, method, prompts)
            for name in ood_names:
                outside = ood_scores(study, model, name, method, prompts)
                found = ood_detection(inside, outside)
                intervals = {
                    "auroc": auroc_interval(inside, outside, level=p.ci_level),
                    "fpr_ood_at_tpr_id95": _rate(found.fpr_ood_at_tpr_id95, found.n_ood, p.ci_level),
                    "fpr_id_at_tpr_ood95": _rate(found.fpr_id_at_tpr_ood95, found.n_id, p.ci_level),
                    "aupr_in": (found.aupr_in, found.n_ood),
                    "aupr_out": (found.aupr_out, found.n_ood),
                }
                protocol = f"{method}, {study.protocol(model, prompts)}"
                rows += [row(model, name, protocol, metric, interval) for metric, interval in intervals.items()]
    return study.table(rows)


class ScoreSamples(NamedTuple):
    """Scores of one model, for drawing."""

    model: str
    protocol: str
    inside: np.ndarray
    outside: dict


def score_samples(study):
    """Scores of the first model on the in-distribution set and on every OOD set, by the suite's first score."""
    p = study.parameters
    id_names, ood_names = study.named(p.id_set), study.named(*p.ood_sets)
    models = study.evaluate(*id_names, *ood_names) if id_names and ood_names else []
    if not models:
        return ScoreSamples("", "", np.empty(0), {})
    model, method = models[0], p.ood_scores[0]
    inside = ood_scores(study, model, p.id_set, method)
    outside = {name: ood_scores(study, model, name, method) for name in ood_names}
    return ScoreSamples(model, f"{method}, {study.protocol(model)}", inside, outside)


def with_id_accuracy(study, detection, method):
    """AUROC rows of one score, and the accuracy of their models on the in-distribution set."""
    chosen = detection[detection["metric"].eq("auroc") & detection["protocol"].str.startswith(f"{method},")]
    p, rows = study.parameters, []
    for model in chosen["model"].unique():
        correct = _correct(study.outputs(model, p.id_set), study.unit(model, p.id_set).labels)
        rows.append(_accuracy_row(study, model, p.id_set, correct))
    return tidy(pd.concat([chosen, study.table(rows)]))


def _rate(value, n, level):
    return wilson_interval(round(value * n), n, level=level)._replace(kind="wilson, threshold fixed")


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


def prompt_effects(study):
    """What prompt sets change, against the main one, on the same images.

    Returns
    -------
    DataFrame
        Tidy, protocol "prompts SET": accuracy, ece, auroc on the in-distribution set and the OOD sets for each prompt
        set; "accuracy_difference", "ece_difference", "auroc_difference" to the main set with paired bootstrap
        intervals (the AUROC's resampled within ID and OOD images).
    """
    p = study.parameters
    names, ood_names, rows = study.named(p.id_set), study.named(*p.ood_sets), []
    zero_shot = [spec.id for spec in study.specs if spec.is_zero_shot]
    if not (names and zero_shot):
        study.missing["prompt sets"] = WITH_IMAGES if study.is_published else NO_ZERO_SHOT
        return study.table(rows)
    evaluated = study.evaluate(*names, *ood_names)
    for model in [model for model in zero_shot if model in evaluated]:
        labels = study.unit(model, p.id_set).labels
        main = None
        for prompts in study.prompt_sets:
            confidence, correct = confidence_and_correct(study.outputs(model, p.id_set, prompts=prompts), labels)
            inside = ood_scores(study, model, p.id_set, p.ood_scores[0], prompts)
            scores = {
                name: np.concatenate([inside, ood_scores(study, model, name, p.ood_scores[0], prompts)])
                for name in ood_names
            }
            own = (confidence, correct, scores)
            main = main or own
            rows += _prompt_rows(study, model, prompts, own, main, len(inside))
    return study.table(rows)


def _prompt_rows(study, model, prompts, own, main, n_id):
    p, protocol = study.parameters, study.protocol(model, prompts)
    (confidence, correct, scores), is_main = own, own is main

    def ece(c, r):
        return expected_calibration_error(c, r, n_bins=p.n_bins)

    def paired(statistic, *arrays, strata=None):
        return bootstrap_ci(statistic, *arrays, strata=strata, n_bootstrap=p.n_bootstrap, level=p.ci_level, seed=p.seed)

    yield row(model, p.id_set, protocol, "accuracy", wilson_interval(correct.sum(), len(correct), level=p.ci_level))
    yield row(model, p.id_set, protocol, "ece", paired(ece, confidence, correct))
    if not is_main:
        interval = paired(lambda a, b: a.mean() - b.mean(), correct, main[1])
        yield row(model, p.id_set, protocol, "accuracy_difference", interval)
        interval = paired(lambda a, b, c, d: ece(a, b) - ece(c, d), confidence, correct, *main[:2])
        yield row(model, p.id_set, protocol, "ece_difference", interval)
    for name, both in scores.items():
        is_ood = np.arange(len(both)) >= n_id
        interval = auroc_interval(both[~is_ood], both[is_ood], level=p.ci_level)
        yield row(model, name, protocol, "auroc", interval)
        if not is_main:
            interval = paired(
                lambda a, b, o: auroc(a[~o], a[o]) - auroc(b[~o], b[o]), both, main[2][name], is_ood, strata=is_ood
            )
            yield row(model, name, protocol, "auroc_difference", interval)
