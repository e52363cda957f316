"""Accuracy under distribution shift, and effective robustness against a line of baseline models."""

import re

import numpy as np
import pandas as pd

from clipsafe_utils.sections.rows import CLIP_GROUPS, accuracy_row, annotation_of, is_correct, largest, row
from clipsafe_utils.statistics import effective_robustness_interval, fit_accuracy_line
from clipsafe_utils.zoo import distinct

SAME_CLASSES = {
    "imagenet_a": "imagenet_val/a_classes",
    "imagenet_r": "imagenet_val/r_classes",
    "objectnet": "imagenet_val/objectnet_classes",
    "imagenet_vid_robust": "imagenet_val/vid_classes",
}
"""Shifted set with fewer classes -> ImageNet restricted to these classes, the x axis of its robustness plot."""


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
            correct = study.ask(is_correct, model, name)
            rows.append(accuracy_row(study, model, name, correct))
        for name in names:
            if name in SAME_CLASSES and p.id_set in names:
                rows.append(accuracy_row(study, model, SAME_CLASSES[name], _on_classes_of(study, model, name)))
    return study.table(rows)


def _video_rows(study, model, name, images):
    """pm-0 and pm-10: an anchor frame counts if it, or all frames within ten of it, get one of their labels."""
    predicted = study.ask(largest, model, name)
    right = [k in labels for k, labels in zip(predicted, images["label_sets"], strict=True)]
    for reach in (0, 10):
        near = images["offset"].abs() <= reach
        anchors = pd.Series(right)[near].groupby(images.loc[near, "anchor"]).all()
        yield accuracy_row(study, model, f"{name}/pm{reach}", anchors.to_numpy())


def _on_classes_of(study, model, name):
    """Correctness of in-distribution images whose class the shifted set has, among these classes."""
    p = study.parameters
    class_of = {output: k for k, members in enumerate(study.images[name].space.members) for output in members}
    labels = np.array([class_of.get(output, -1) for output in study.unit(model, p.id_set).labels])
    predicted = study.ask(largest, model, p.id_set, space=study.space(name))
    return (predicted == labels)[labels >= 0]


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
    fits = _fits(models, baseline)
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
        n, n_reference = np.maximum(counts.loc[y.index, [name, axes[name]]].to_numpy(int), 1).T
        interval = effective_robustness_interval(
            x.to_numpy(),
            y.to_numpy(),
            n,
            lines[name],
            n_reference=n_reference,
            nested=(name.partition("/")[0] == axes[name]) & (n < n_reference),  # images with a factor, among all
            level=p.ci_level,
        )
        protocol = f"{p.line_scale} line over {fitted.sum()} {baseline} models, x = {axes[name]}"
        protocol += annotation_of(table, name) + study.protocol_suffix
        for k, model in enumerate(y.index):
            one = interval._replace(
                value=interval.value[k], low=interval.low[k], high=interval.high[k], n=interval.n[k]
            )
            rows.append(row(model, name, protocol, "effective_robustness", one))
    return study.table(rows), lines, axes


def _fits(models, baseline):
    """Which models a line is fitted on."""
    fits = models["group"] == baseline if baseline != "rest" else ~models["group"].isin(CLIP_GROUPS)
    return fits & models.index.isin(distinct(models).index)


def refit_line(protocol, test_set, accuracies, models):
    """The baseline line behind rows that `robustness` wrote, fitted anew.

    Parameters
    ----------
    protocol, test_set : str
        Of these rows: the protocol names scale, baseline and x axis.
    accuracies : DataFrame
        One row a model, one column a test set.
    models : DataFrame
        Facts about the models.

    Returns
    -------
    line : AccuracyLine
    x : Series
        Accuracies on its x axis, by model.
    """
    scale, baseline, x_set = re.match(r"(\w+) line over \d+ (\S+) models, x = ([^,]+)", protocol).groups()
    both = accuracies.loc[_fits(models.reindex(accuracies.index), baseline), [x_set, test_set]].dropna()
    return fit_accuracy_line(*both.to_numpy().T, scale), accuracies[x_set]
