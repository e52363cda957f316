"""What prompt sets change."""

import numpy as np

from clipsafe_utils.metrics import auroc, confidence_and_correct, expected_calibration_error
from clipsafe_utils.sections.ood import ood_scores
from clipsafe_utils.sections.rows import WITH_IMAGES, row
from clipsafe_utils.statistics import auroc_interval, bootstrap_ci, wilson_interval

NO_ZERO_SHOT = "prompts act on zero-shot CLIP models, and this suite has none: add rows of that group to its zoo."


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
