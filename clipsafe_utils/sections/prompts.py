"""What prompt sets change."""

import numpy as np

from clipsafe_utils.intervals import ece_difference_interval, ece_interval, paired_accuracy_interval
from clipsafe_utils.metrics import confidence_and_correct
from clipsafe_utils.sections.ood import main_score, ood_scores
from clipsafe_utils.sections.rows import WITH_IMAGES, row
from clipsafe_utils.statistics import auroc_difference_interval, auroc_interval, wilson_interval

NO_ZERO_SHOT = "prompts act on zero-shot CLIP models, and this suite has none: add rows of that group to its zoo."


def prompt_effects(study):
    """What prompt sets change, against the main one, on the same images.

    Returns
    -------
    DataFrame
        Tidy, protocol "prompts SET": accuracy, ece, auroc on the in-distribution set and the OOD sets for each prompt
        set; "accuracy_difference", "ece_difference", "auroc_difference" to the main set with intervals
        for the same images.
    """
    p = study.parameters
    names, ood_names, rows = study.named(p.id_set), study.named(*p.ood_sets), []
    zero_shot = [spec.id for spec in study.specs if spec.is_zero_shot]
    if not (names and zero_shot):
        study.missing["prompt sets"] = WITH_IMAGES if study.is_published else NO_ZERO_SHOT
        return study.table(rows)
    evaluated = study.evaluate(*names, *ood_names)
    for model in [model for model in zero_shot if model in evaluated]:
        main = None
        for prompts in study.prompt_sets:
            confidence, correct = study.ask(confidence_and_correct, model, p.id_set, prompts=prompts)
            score = main_score(study)
            inside = ood_scores(study, model, p.id_set, score, prompts)
            scores = {
                name: np.concatenate([inside, ood_scores(study, model, name, score, prompts)]) for name in ood_names
            }
            own = (confidence, correct, scores)
            main = main or own
            rows += _prompt_rows(study, model, prompts, own, main, len(inside))
    return study.table(rows)


def _prompt_rows(study, model, prompts, own, main, n_id):
    p, protocol = study.parameters, study.protocol(model, prompts)
    (confidence, correct, scores), is_main = own, own is main

    bins = {"n_bins": p.n_bins, "level": p.ci_level}
    yield row(model, p.id_set, protocol, "accuracy", wilson_interval(correct.sum(), len(correct), level=p.ci_level))
    yield row(model, p.id_set, protocol, "ece", ece_interval(confidence, correct, **bins))
    if not is_main:
        interval = paired_accuracy_interval(correct, main[1], level=p.ci_level)
        yield row(model, p.id_set, protocol, "accuracy_difference", interval)
        interval = ece_difference_interval((confidence, correct), main[:2], **bins)
        yield row(model, p.id_set, protocol, "ece_difference", interval)
    for name, both in scores.items():
        is_ood = np.arange(len(both)) >= n_id
        interval = auroc_interval(both[~is_ood], both[is_ood], level=p.ci_level)
        yield row(model, name, protocol, "auroc", interval)
        if not is_main:
            others = main[2][name]
            same = (both[~is_ood], both[is_ood], others[~is_ood], others[is_ood])
            interval = auroc_difference_interval(*same, level=p.ci_level)
            yield row(model, name, protocol, "auroc_difference", interval)
