"""What calibration goes with: the group, scaling, and accuracy."""

import numpy as np

from clipsafe_utils.sections.calibration import SUFFIXES, accuracies
from clipsafe_utils.sections.rows import group_means, mean_row, row
from clipsafe_utils.statistics import effective_robustness, fit_accuracy_line
from clipsafe_utils.zoo import GROUPS

FEWEST = 5
"""Models below which no line is drawn through a group."""


def means_by_group(study, rows, *, same_images=False):
    """Mean of each metric over the models of a group, as rows to save and to draw.

    Parameters
    ----------
    rows : DataFrame
        Tidy, one row a model, test set and metric.
    same_images : bool, default False
        Where a test set is small: let the interval cover the images too. All models see the same ones, so that their
        errors do not average out; the mean of the models' own intervals is added to that over models, in squares.

    Returns
    -------
    DataFrame
        Tidy, `model` holds the group as figures write it and n counts its models; Student's interval over models, NaN
        below three starts. A group of a single model has that model's own interval.
    """
    found = []
    for metric, part in rows.groupby("metric"):
        groups = part["model"].map(study.models["group"])
        for one in group_means(study, part).itertuples():
            mean = mean_row(study, one, "mean over models", metric) | {"model": GROUPS.get(one.group, one.group)}
            own = part[groups.eq(one.group) & part["test_set"].eq(one.test_set)]
            if one.n_models == 1:
                mean |= own.iloc[0][["ci_low", "ci_high", "ci_kind", "ci_level"]]
            elif same_images and one.n_starts > 2:
                mean |= {
                    "ci_low": one.mean - np.hypot(one.mean - one.low, (own["value"] - own["ci_low"]).mean()),
                    "ci_high": one.mean + np.hypot(one.high - one.mean, (own["ci_high"] - own["value"]).mean()),
                    "ci_kind": f"{mean['ci_kind']}, and over images",
                }
            found.append(mean)
    return study.table(found)


def scaling_effects(study, rows):
    """What temperature scaling changes: METRIC_scaled minus METRIC of each model.

    Parameters
    ----------
    rows : DataFrame
        Tidy, with metrics of both names.

    Returns
    -------
    DataFrame
        Tidy, metric "METRIC_change", without intervals: those over models are in `group_means`.
    """
    key, found = ["model", "test_set", "protocol", "metric"], []
    after = rows[rows["metric"].str.endswith(SUFFIXES[1])]
    after = after.assign(metric=after["metric"].str.removesuffix(SUFFIXES[1]))
    both = rows[[*key, "value"]].merge(after[[*key, "value", "n"]], on=key, suffixes=("", "_after"))
    for model, test_set, protocol, metric, before, scaled, n in both.itertuples(index=False):
        found.append(row(model, test_set, protocol, f"{metric}_change", (scaled - before, n)))
    return study.table(found)


def accuracy_trend(study, table):
    """Scaled ECE against accuracy on the same images: a line a group, and who is better calibrated at equal accuracy.

    Parameters
    ----------
    table : DataFrame
        From `calibration`.

    Returns
    -------
    rows : DataFrame
        Tidy, "accuracy" and "ece_scaled" of each model and test set.
    lines : dict of (str, str) to AccuracyLine
        By group and test set, of groups with five models or more that differ in accuracy.
    means : DataFrame
        As from `means_by_group`, metric "ece_scaled_beyond": scaled ECE beyond the line of the baseline group, over the
        models whose accuracy lies within that of the baseline's; the interval holds the error of the line.
    """
    scaled, baseline = table[table["metric"] == "ece_scaled"], study.parameters.baseline_group
    if scaled["model"].nunique() < 3:
        study.missing["calibration against accuracy"] = "a trend needs three models or more with a temperature."
        return study.table([]), {}, study.table([])
    accuracy = accuracies(study, table)
    accuracy = accuracy.merge(scaled[["model", "test_set", "protocol"]])
    rows = study.table([*_records(accuracy), *_records(scaled)])
    wide = rows.pivot_table(index=["model", "test_set"], columns="metric", values="value").reset_index()
    wide["group"] = wide["model"].map(study.models["group"])
    lines, found = {}, []
    for (group, test_set), part in wide.groupby(["group", "test_set"]):
        if len(part) >= FEWEST and part["accuracy"].nunique() > 2:
            x, y = part[["accuracy", "ece_scaled"]].to_numpy().T
            lines[group, test_set] = fit_accuracy_line(x, y, "linear")
    of_baseline = {test_set: line for (group, test_set), line in lines.items() if group == baseline}
    for test_set, line in of_baseline.items():
        part = wide[wide["test_set"].eq(test_set) & wide["accuracy"].between(line.x.min(), line.x.max())]
        beyond = effective_robustness(part["accuracy"], part["ece_scaled"], line)
        found += [row(m, test_set, "", "ece_scaled_beyond", (b, 0)) for m, b in zip(part["model"], beyond, strict=True)]
    beyond = study.table(found)
    inside = rows.merge(beyond[["model", "test_set"]])
    means = []
    for one in group_means(study, beyond, inside, of_baseline, {name: name for name in of_baseline}).itertuples():
        if one.group != baseline:
            mean = mean_row(study, one, f"line of {baseline}", "ece_scaled_beyond", ", and of the line")
            means.append(mean | {"model": GROUPS[one.group]})
    return rows, lines, study.table(means)


def _records(rows):
    return rows.drop(columns="suite").to_dict("records")
