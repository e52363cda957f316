"""What prompt sets change: by model, over models and training sources, and what one objective costs another."""

from itertools import combinations

import numpy as np
import pandas as pd

from clipsafe_utils.decomposition import on_front, variance_share_intervals
from clipsafe_utils.errors import unknown
from clipsafe_utils.intervals import ece_difference_interval, ece_interval, paired_accuracy_interval
from clipsafe_utils.metrics import auroc, confidence_and_correct, expected_calibration_error, ood_score
from clipsafe_utils.prompts import described_sets, duplicated_names, prompt_tokens
from clipsafe_utils.sections.calibration import split, temperature_of_half
from clipsafe_utils.sections.ood import main_score, ood_scores
from clipsafe_utils.sections.rows import WITH_IMAGES, over_models, row
from clipsafe_utils.sections.temperature import at_temperatures
from clipsafe_utils.statistics import auroc_difference_interval, auroc_interval, wilson_interval
from clipsafe_utils.table import tidy

NO_ZERO_SHOT = "prompts act on zero-shot CLIP models, and this suite has none: add rows of that group to its zoo."


def prompt_effects(study, reference=None):
    """What prompt sets change, against one of them, on the same images.

    Parameters
    ----------
    reference : str, optional
        Prompt set that the others are compared with; the main one by default.

    Returns
    -------
    DataFrame
        Tidy, protocol "prompts SET": accuracy, ece, auroc on the in-distribution set and the OOD sets for each prompt
        set; "accuracy_difference", "ece_difference", "auroc_difference" to the reference with intervals for the same
        images.
    """
    p = study.parameters
    ood_names, rows = study.named(*p.ood_sets), []
    reference = _reference(study, reference)
    for model in _zero_shot(study, *ood_names):
        main = None
        for prompts in sorted(study.prompt_sets, key=lambda prompts: prompts != reference):
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


def _reference(study, prompts):
    """Name of the prompt set that others are compared with."""
    if prompts is not None and prompts not in study.prompt_sets:
        raise unknown("prompt set", prompts, study.prompt_sets)
    return prompts or study.main_prompts


def _zero_shot(study, *names):
    """Zero-shot models that have looked at the in-distribution set and at these."""
    p = study.parameters
    zero_shot = [spec.id for spec in study.specs if spec.is_zero_shot]
    if not (study.named(p.id_set) and zero_shot):
        study.missing["prompt sets"] = WITH_IMAGES if study.is_published else NO_ZERO_SHOT
        return []
    evaluated = study.evaluate(p.id_set, *names)
    return [model for model in zero_shot if model in evaluated]


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


OBJECTIVES = {"accuracy": 1, "ece": -1, "auroc": 1}
"""The study's three objectives -> 1 where higher is better."""

ALL = "all zero-shot CLIP"

FACTORS = ("model", "prompt set", "test set")


def prompt_grid(study, effects=None):
    """Every objective of every model, prompt set and test set, as values without intervals over images.

    Parameters
    ----------
    effects : DataFrame, optional
        From `prompt_effects`; what it holds is not computed again.

    Returns
    -------
    DataFrame
        Tidy, protocol "prompts SET": accuracy and ece on the in-distribution and the shifted sets, auroc of the main
        score on the OOD sets. In-distribution also ece_scaled, after temperature scaling, of images that the
        temperature was not fitted on; on the OOD sets auroc_mcm where the suite has that score.
    """
    p = study.parameters
    effects = prompt_effects(study) if effects is None else effects
    shifted, ood_names, rows = study.named(*p.shifted_sets), study.named(*p.ood_sets), []
    with_mcm = "mcm" in p.ood_scores and main_score(study) != "mcm"
    mcm_sets = [p.id_set, *ood_names] if with_mcm else []
    for model in _zero_shot(study, *shifted, *ood_names):
        for prompts in study.prompt_sets:
            protocol = study.protocol(model, prompts)
            for name in shifted:
                if "anchor" in study.unit(model, name).images:
                    continue  # a video's frames are judged by their anchor, with several right labels each
                confidence, correct = study.ask(confidence_and_correct, model, name, prompts=prompts)
                error = expected_calibration_error(confidence, correct, n_bins=p.n_bins)
                rows.append(row(model, name, protocol, "accuracy", (correct.mean(), len(correct))))
                rows.append(row(model, name, protocol, "ece", (error, len(correct))))
            given = {"prompts": prompts, **split(study)}
            temperature = float(study.ask(temperature_of_half, model, p.id_set, **given)[0])
            if np.isfinite(temperature):
                found = study.ask(at_temperatures, model, p.id_set, temperatures=[temperature], **given)
                correct, (confidence,), _ = found
                error = expected_calibration_error(confidence, correct, n_bins=p.n_bins)
                rows.append(row(model, p.id_set, protocol, "ece_scaled", (error, len(correct))))
            mcm = {
                name: study.ask(_mcm, model, name, prompts=prompts, space=study.id_space, cosines=True)
                for name in mcm_sets
            }
            for name in mcm_sets[1:]:
                value = auroc(mcm[p.id_set], mcm[name])
                rows.append(row(model, name, protocol, "auroc_mcm", (value, len(mcm[name]))))
    kept = effects[~effects["metric"].str.endswith("_difference")]
    return tidy(pd.concat([kept, study.table(rows)]))


def _mcm(cosines, labels):
    return ood_score(cosines, "mcm")


def _by_prompts(rows):
    """Rows with a column `prompts`, the prompt set that their protocol names."""
    return rows.assign(prompts=rows["protocol"].str.removeprefix("prompts ").str.split(", ").str[0])


def prompt_objectives(study, grid):
    """Objectives of each model with each prompt set: in-distribution, AUROC as the mean over the OOD sets.

    Parameters
    ----------
    grid : DataFrame
        From `prompt_grid`.

    Returns
    -------
    DataFrame
        One row a (model, prompts), prompt sets in the order of the suite; columns accuracy, ece, ece_scaled (NaN
        where no temperature is best), auroc, auroc_mcm, those of them that the suite has.
    """
    p = study.parameters
    columns = ["accuracy", "ece", "ece_scaled", "auroc", "auroc_mcm"]
    rows = _by_prompts(grid[grid["test_set"].isin([p.id_set, *p.ood_sets])])
    if rows.empty:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []], names=["model", "prompts"]))
    table = rows.pivot_table(index=["model", "prompts"], columns="metric", values="value")
    order = [(model, prompts) for model in table.index.unique("model") for prompts in study.prompt_sets]
    table = table.reindex(index=pd.MultiIndex.from_tuples(order, names=table.index.names), columns=columns)
    return table.dropna(axis=1, how="all")


def _wide(study, objectives, objective):
    """One objective: a line a model, a column a prompt set, in the order of the suite."""
    wide = objectives.reset_index().pivot_table(index="model", columns="prompts", values=objective)
    return wide.reindex(columns=list(study.prompt_sets))


def mean_effects(study, objectives, reference=None):
    """Mean change by prompt set against one of them, over all zero-shot models and over those of a training source.

    Parameters
    ----------
    objectives : DataFrame
        From `prompt_objectives`.
    reference : str, optional
        Prompt set that the others are compared with; the main one by default.

    Returns
    -------
    DataFrame
        Tidy, metric "OBJECTIVE_difference": `model` names the models, `test_set` the prompt set, n counts the models;
        Student's interval over models, which below three of them is missing.
    """
    source = study.models["pretrain_source"].reindex(objectives.index.unique("model"))
    rows, groups, reference = [], {ALL: source.index}, _reference(study, reference)
    groups |= {f"trained on {name}": part.index for name, part in source[source != ""].groupby(source)}
    if len(groups) == 2:  # one source: the same models twice
        groups.popitem()
    for objective in objectives:
        table = _wide(study, objectives, objective)
        change = table.drop(columns=reference).sub(table[reference], axis=0)
        for name, models in groups.items():
            for prompts in [prompts for prompts in study.prompt_sets if prompts in change]:
                own = change[prompts].reindex(models).dropna()
                if len(own):
                    interval = over_models(study, own)
                    rows.append(row(name, prompts, "paired by model", f"{objective}_difference", interval))
    return study.table(rows)


def variance_decomposition(study, grid):
    """How much of each objective's variance lies in the model, the prompt set, the test set and their interactions.

    Parameters
    ----------
    grid : DataFrame
        From `prompt_grid`. Accuracy and ECE over the in-distribution and the shifted sets, AUROC over the OOD sets.

    Returns
    -------
    DataFrame
        Tidy, metric "variance_share": `model` names the objective, `test_set` the effect ("prompt set x model"), n
        counts the models. Intervals over models, of these prompt sets and test sets (`variance_share_intervals`).
    """
    rows = []
    for objective in OBJECTIVES:
        part = _by_prompts(grid[grid["metric"] == objective])
        if part.empty:
            continue
        table = part.pivot_table(index="model", columns=["prompts", "test_set"], values="value").dropna()
        sizes = [len(level) for level in (table.index, *table.columns.levels)]
        if max(sizes) < 2:
            continue
        values = table.to_numpy().reshape(sizes)
        for effect, interval in variance_share_intervals(values, FACTORS, level=study.parameters.ci_level).items():
            rows.append(row(objective, " x ".join(effect), "crossed, all random", "variance_share", interval))
    return study.table(rows)


def prompt_front(study, objectives):
    """The prompt sets by their means over models, and which of them no other beats in all three objectives.

    Returns
    -------
    DataFrame
        One row a prompt set, in the order of the suite: prompts; accuracy, ece and auroc with OBJECTIVE_low and
        OBJECTIVE_high, where the mean would lie by the interval of its paired difference to the main set's (NaN of the
        main set, and below three models); on_front, and on_front_ONE_OTHER in two objectives alone; models_on_front,
        the share of models of which it is on the own front; resamples_on_front, the share of bootstrap resamples of
        the models; n_models; outside, whether a mean is far from those of the other sets, on the front or not. Empty
        for a single set.
    """
    known = [objective for objective in OBJECTIVES if objective in objectives]
    if not known or len(study.prompt_sets) < 2:
        return pd.DataFrame()
    tables = [_wide(study, objectives, objective) for objective in known]
    p, n = study.parameters, len(tables[0])
    front = pd.DataFrame({"prompts": list(study.prompt_sets)})
    for objective, table in zip(known, tables, strict=True):
        main, changes = table[study.main_prompts], table.sub(table[study.main_prompts], axis=0)
        limits = [over_models(study, changes[prompts])[1:3] for prompts in table]
        front[objective] = table.mean().to_numpy()
        for end, values in zip(("low", "high"), zip(*limits, strict=True), strict=True):
            front[f"{objective}_{end}"] = np.where(table.columns == study.main_prompts, np.nan, main.mean() + values)
    values = np.stack([OBJECTIVES[objective] * table for objective, table in zip(known, tables, strict=True)], axis=-1)
    resamples = np.random.default_rng(p.seed).integers(n, size=(p.n_bootstrap, n))
    front["on_front"] = on_front(values.mean(axis=0))
    for pair in combinations(sorted(known), 2):
        signs = [OBJECTIVES[objective] for objective in pair]
        front["on_front_{}_{}".format(*pair)] = on_front(front[list(pair)].to_numpy() * signs)
    front["models_on_front"] = on_front(values).mean(axis=0)
    front["resamples_on_front"] = on_front(values[resamples].mean(axis=1)).mean(axis=0)
    return front.assign(n_models=n, outside=_outside(front[known]))


def _outside(means):
    """Rows that lie beyond three interquartile ranges in some column: bool, one a row; none of four or fewer."""
    low, high = means.quantile(0.25), means.quantile(0.75)
    reach = 3 * (high - low)
    return ((means < low - reach) | (means > high + reach)).any(axis=1).to_numpy() & (len(means) > 4)


def choice_costs(study, objectives):
    """What it costs one objective that the prompt set was chosen for another.

    For each model both sets are chosen by their means over the *other* models, so the model that is judged had no say.

    Returns
    -------
    DataFrame
        One row a pair: chosen_by, costs (objectives), chosen, rival (the sets with the best means over all models),
        cost (mean over models of how much worse `costs` is than with its own best set; positive: worse), low, high
        (Student's interval over models; NaN below three), n_models. Empty for a single model.
    """
    known = [objective for objective in OBJECTIVES if objective in objectives]
    scores = {key: OBJECTIVES[key] * _wide(study, objectives, key) for key in known}
    n, rows = objectives.index.unique("model").size, []
    others = {key: (score.sum() - score).to_numpy().argmax(axis=1) for key, score in scores.items()}
    for chosen_by in known if n > 1 else []:
        for costs in [key for key in known if key != chosen_by]:
            values = scores[costs].to_numpy()
            cost = values[np.arange(n), others[costs]] - values[np.arange(n), others[chosen_by]]
            value, low, high, *_ = over_models(study, pd.Series(cost, scores[costs].index))
            best = {key: scores[key].mean().idxmax() for key in (chosen_by, costs)}
            rows.append((chosen_by, costs, best[chosen_by], best[costs], value, low, high, n))
    return pd.DataFrame(rows, columns=["chosen_by", "costs", "chosen", "rival", "cost", "low", "high", "n_models"])


def prompt_set_facts(study):
    """The prompt sets as data: size, class names, tokens of a prompt, source.

    Returns
    -------
    facts : DataFrame
        One row a prompt set; tokens (with start and end) of the shortest and the longest prompt, by CLIP's tokenizer or
        the laboratory's. Models with another tokenizer count otherwise.
    shared : dict of str to dict
        Class-name list -> names that several classes share, see `duplicated_names`.
    """
    p, rows, shared = study.parameters, [], {}
    for prompts, templates in study.prompt_sets.items():
        names, variant = study.class_names(study.id_space, prompts), p.prompt_names[prompts]
        shared[variant] = duplicated_names(names)
        given = p.prompts[prompts]
        source = described_sets()[given]["source"] if isinstance(given, str) else "this parameter file"
        rows.append(
            {
                **{"prompt set": prompts, "templates": len(templates), "class names": variant},
                **{"prompts": len(templates) * len(names), "tokens": prompt_tokens(study.id_space, templates, names)},
                **{"first of them": " · ".join(templates[:3]), "source": source},
            }
        )
    return pd.DataFrame(rows), shared
