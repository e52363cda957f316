"""Visual factors: how accuracy depends on them, and what each one alone does."""

import numpy as np

from clipsafe_utils.datasets import factor_annotations
from clipsafe_utils.intervals import error_ratio_interval, paired_accuracy_interval
from clipsafe_utils.sections.rows import accuracy_row, annotation_of, is_correct, row
from clipsafe_utils.shrinkage import FEWEST, errors_by_count, errors_by_image, shrink_robustness
from clipsafe_utils.zoo import GROUPS


def visual_factors(study):
    """Accuracy and error ratio for each visual factor.

    Returns
    -------
    DataFrame
        Tidy: "accuracy" on all annotated images (test set "imagenet_x", or the set that carries its own factor
        annotations) and on those that show a factor ("imagenet_x/pose"), "error_ratio" for each factor. The protocol of
        these ends in the annotation, see `annotation`; published accuracies are by "multi", whatever the parameter.
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
        prefix, annotated, shows = shown_factors(study, name, unit)
        if not annotated.any():
            break
        correct = study.ask(is_correct, model, name)[annotated]
        rows.append(accuracy_row(study, model, prefix, correct))
        protocol = {"protocol": f"{study.protocol(model)}, {annotation(study, prefix)}"}
        for factor, shown in shows.items():
            if shown.any():
                rows.append(accuracy_row(study, model, f"{prefix}/{factor}", correct[shown]) | protocol)
                counts = (correct[shown].sum(), shown.sum(), correct.sum(), len(correct))
                ratio = error_ratio_interval(*counts, level=p.ci_level)
                rows.append(row(model, f"{prefix}/{factor}", "", "error_ratio", ratio) | protocol)
    return study.table(rows)


def annotation(study, prefix):
    """Which annotation says what images show: "imagenet_x top" or "multi", else "factors exact": columns of the set.

    Exact ones name every factor of an image, so an image counts for several.
    """
    return f"imagenet_x {study.parameters.factor_annotation}" if prefix == "imagenet_x" else "factors exact"


def shown_factors(study, name, unit):
    """Prefix of test sets, which images are annotated, and one flag a factor for those."""
    p = study.parameters
    if own := [factor for factor in p.factors if factor in unit.images]:
        if others := [factor for factor in p.factors if factor not in own]:
            study.missing["some visual factors"] = f"{name} has no column {', '.join(others)} among its annotations."
        return name, np.ones(len(unit.images), bool), {factor: unit.images[factor].to_numpy() for factor in own}
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
        Tidy, metric "paired_effect": accuracy with the factor minus accuracy without, over the pairs, with
        an interval for paired accuracies. Empty where the suite has no set of pairs.
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
        pairs = unit.images.assign(correct=study.ask(is_correct, model, names[0]).astype(float))
        correct = pairs.pivot_table(index="pair", columns="forced", values="correct")
        for factor in filter(correct.columns.__contains__, p.factors):
            both = correct[[factor, "none"]].dropna().to_numpy(bool).T
            interval = paired_accuracy_interval(*both, level=p.ci_level)
            rows.append(row(model, f"{names[0]}/{factor}", study.protocol(model), "paired_effect", interval))
    return study.table(rows)


def shrunken(study, table, lines, axes):
    """Factor-level effective robustness, each model drawn towards its group's mean by as much as it is sampling.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of metric "accuracy" that `robustness` took.
    lines, axes : dict
        What it returned.

    Returns
    -------
    DataFrame
        Tidy: "effective_robustness_shrunken", and "share_kept", the share of its own distance from the group's mean
        that each model keeps. Only values with a known number of images, of groups with four models and more. The
        protocol says whether errors are those of images that the models share, or of counts alone.
    """
    counted = table[(table["metric"] == "accuracy") & (table["n"] > 0)]
    values, sizes = (counted.pivot_table(index="model", columns="test_set", values=name) for name in ("value", "n"))
    found, groups = [], study.models["group"].where(study.models["group"].isin(GROUPS))
    answers = None if study.is_published else _answers(study)
    for name, line in lines.items():
        if not {name, axes[name]} <= set(values):
            continue
        both = values[[axes[name], name]].dropna()
        both = both[both.index.map(groups).map(both.index.map(groups).value_counts()) >= FEWEST]
        if both.empty:
            continue
        (x, y), own, shared = both.to_numpy().T, groups[both.index].to_numpy(), 0.0
        n_all, n = sizes.loc[both.index, both.columns].to_numpy().T
        if answers is None:
            errors, how = errors_by_count(x, y, n, n_all, line), "counts"
        else:
            correct = np.stack([answers[0][model] for model in both.index])
            errors, shared = errors_by_image(correct, answers[1][name.partition("/")[2]], line, own)
            how = "shared images"
        interval, kept = shrink_robustness(x, y, n, line, own, errors, shared=shared, level=study.parameters.ci_level)
        by = annotation_of(counted, name)
        protocol = f"{line.scale} line over {line.n} models{by}, towards the mean of the group, errors of {how}"
        for k, model in enumerate(both.index):
            one = interval._replace(
                value=interval.value[k], low=interval.low[k], high=interval.high[k], n=interval.n[k]
            )
            metrics = {"effective_robustness_shrunken": one, "share_kept": (kept[k], one.n)}
            found += [row(model, name, protocol + study.protocol_suffix, key, what) for key, what in metrics.items()]
    if not found:
        study.missing["shrunken robustness"] = (
            f"it needs a baseline line and a group of {FEWEST} models whose numbers of images are known."
        )
    return study.table(found)


def _answers(study):
    """Model -> whether it is right on each annotated image, and factor -> whether the image shows it; None if models
    did not see the same images."""
    name, correct, seen = study.parameters.factor_set or study.parameters.id_set, {}, None
    for model in study.evaluate(*study.named(name)) if study.named(name) else []:
        unit = study.unit(model, name)
        if seen is None:
            seen, (_, annotated, shows) = list(unit.images["image_id"]), shown_factors(study, name, unit)
        if list(unit.images["image_id"]) != seen:
            return None
        correct[model] = study.ask(is_correct, model, name)[annotated]
    return (correct, shows) if correct else None
