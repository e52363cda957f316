"""Out-of-distribution detection by score and set."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from clipsafe_utils.metrics import ood_detection, ood_score
from clipsafe_utils.sections.rows import WITH_IMAGES, accuracy_row, is_correct, row
from clipsafe_utils.statistics import auroc_interval, wilson_interval
from clipsafe_utils.table import tidy

NO_OOD_SETS = "none of the OOD sets is there: describe them under `image_sets` and name them under `ood_sets`."


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
        correct = is_correct(study.outputs(model, p.id_set), study.unit(model, p.id_set).labels)
        rows.append(accuracy_row(study, model, p.id_set, correct))
    return tidy(pd.concat([chosen, study.table(rows)]))


def _rate(value, n, level):
    return wilson_interval(round(value * n), n, level=level)._replace(kind="wilson, threshold fixed")
