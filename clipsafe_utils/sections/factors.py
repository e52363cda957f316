"""Visual factors: how accuracy depends on them, what each one alone does, and shape against texture."""

import numpy as np

from clipsafe_utils.datasets import factor_annotations
from clipsafe_utils.intervals import error_ratio_interval, paired_accuracy_interval
from clipsafe_utils.metrics import SIXTEEN_CLASSES, shape_bias, sixteen_class_decisions, softmax
from clipsafe_utils.sections.rows import accuracy_row, is_correct, largest, row
from clipsafe_utils.statistics import wilson_interval


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
        correct = study.ask(is_correct, model, name)[annotated]
        rows.append(accuracy_row(study, model, prefix, correct))
        for factor, shown in shows.items():
            if shown.any():
                rows.append(accuracy_row(study, model, f"{prefix}/{factor}", correct[shown]))
                counts = (correct[shown].sum(), shown.sum(), correct.sum(), len(correct))
                ratio = error_ratio_interval(*counts, level=p.ci_level)
                rows.append(row(model, f"{prefix}/{factor}", study.protocol(model), "error_ratio", ratio))
    return study.table(rows)


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
        for factor in p.factors:
            both = correct[[factor, "none"]].dropna().to_numpy(bool).T
            interval = paired_accuracy_interval(*both, level=p.ci_level)
            rows.append(row(model, f"{names[0]}/{factor}", study.protocol(model), "paired_effect", interval))
    return study.table(rows)


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
        return np.array(list(SIXTEEN_CLASSES))[study.ask(_sixteen_classes, model, name)]
    return np.array(own.names)[study.ask(largest, model, name, space=own)]


def _sixteen_classes(logits, labels):
    """Position of the decision among the sixteen classes."""
    positions = {name: k for k, name in enumerate(SIXTEEN_CLASSES)}
    return np.array([positions[name] for name in sixteen_class_decisions(softmax(logits))])
