"""What moves safety: facts about the training of models against each safety property, and what cannot be told apart.

A property is measured for each model on several test sets. Its rows are regressed on facts that hold for a model as a
whole, with a random intercept for each model (REML), so that ten test sets of one model do not count as ten models.
Test sets have effects of their own, and each fact one that differs between test sets: a term is its mean over them.
Intervals are Student's with the models, less the terms, as degrees of freedom; models that share a recipe or a start
count as independent.

What a level is compared with, and what a term stands for where facts go together, is `clipsafe_utils.confounding`'s.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri
from scipy.stats import false_discovery_control, t

from clipsafe_utils.confounding import Design, count_models, is_number
from clipsafe_utils.metrics.calibration import check_level
from clipsafe_utils.params import STUDY_FACTORS
from clipsafe_utils.sections.rows import of_main_prompts
from clipsafe_utils.zoo import GROUPS, distinct, quantity

KNOWN = 0.75
"""Share of models that must have a fact for it to enter; models without it are then left out, else the fact is."""
MIN_MODELS, MIN_DEGREES = 2, 3
"""Fewer models of a level tell the level from no single model; fewer degrees of freedom give no usable interval."""
COMMON = 0.75
"""Share of the models that a test set must have; models without one of the test sets are left out."""

LOSS = {"standard": "labels", "pretrained_more": "labels", "contrastive": "images alone"}
LOSS |= dict.fromkeys(["zero_shot_clip", "clip_finetuned"], "image-text")

IMAGES_FIRST = r"seer|mim_|^beit"
"""In names of models pre-trained without labels (SwAV; masked images) before they were fine-tuned on labels."""


class Property(NamedTuple):
    """A safety property: rows of the tidy table, a fraction each."""

    name: str
    metric: str
    on: str
    """"factors", "shifts" or "all": the test sets."""
    score: str = ""
    at_equal_accuracy: bool = True
    """Whether in-distribution accuracy is a term; effective robustness holds it already."""


PROPERTIES = (
    Property("effective robustness to factors", "effective_robustness", "factors", at_equal_accuracy=False),
    Property("effective robustness to shifts", "effective_robustness", "shifts", at_equal_accuracy=False),
    Property("shape bias", "shape_bias", "all"),
    Property("AUROC of MSP", "auroc", "all", "msp"),
    Property("ECE", "ece", "all"),
    Property("ECE after scaling", "ece_scaled", "all"),
)


class Regression(NamedTuple):
    """What `regress` found; each frame names the property in its first column."""

    effects: pd.DataFrame
    """One row a term: fact, term ("loss: labels against image-text"), effect, ci_low, ci_high, p, p_adjusted (Benjamini
    and Hochberg within the property), models (with the level, and with what it is compared with), n_models, n_rows,
    degrees, ci_level, confounded ("", "nearly" or "with ...")."""
    fits: pd.DataFrame
    """One row a property: n_models, n_test_sets, degrees, note, and the shares of variance: test_sets, facts (over all
    test sets), facts_by_set (where their effects differ), models (what the facts leave), residual; the first three
    without what chance gives them."""
    confounded: pd.DataFrame
    """One row a pair that cannot be told apart: term, stands_for, why, models (counts)."""
    left_out: pd.DataFrame
    """Properties, facts and models without a number: what, why."""


def regress(table, models, *, id_set, prompts="", level=0.95):
    """Regress each safety property on what is known about the models' training.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of all sections.
    models : DataFrame
        Facts about the models, see `Study.models`.
    id_set : str
        Test set of the in-distribution accuracy.
    prompts : str
        Prompt set of zero-shot models; rows of other prompt sets are not used.
    level : float, default 0.95
        Of the intervals.

    Returns
    -------
    Regression
        Effects are differences of fractions. Rows that come several times (protocols) count once, as their mean.
    """
    check_level(level)
    facts = training_facts(models)
    table = table[table["value"].notna() & table["model"].isin(facts.index)]
    table = table[of_main_prompts(table["protocol"], prompts)]
    accuracy = _values(table, Property("", "accuracy", "all")).query("test_set == @id_set").set_index("model")["value"]
    accuracy = pd.Series(ndtri(accuracy.clip(1e-4, 1 - 1e-4)), accuracy.index)
    parts = {field: [] for field in Regression._fields}
    for one in PROPERTIES:
        values = _values(table, one)
        known = facts.assign(**{"ID accuracy": accuracy.reindex(facts.index)}) if one.at_equal_accuracy else facts
        known = known[sorted(known, key="training source".__eq__)]  # nested in the others, so it comes last
        for field, part in zip(Regression._fields, fit(values, known, level=level), strict=True):
            parts[field].append(part.assign(property=one.name))
    return Regression(*(_joined(parts[field], _COLUMNS[field]) for field in Regression._fields))


def training_facts(models):
    """What is known about the training of each model, as terms of a regression.

    Returns
    -------
    DataFrame
        Indexed by model, NaN where unknown: loss (from the group, and the names of SigLIP, CoCa, SEER, BEiT and EVA),
        fine-tuning (of models trained on images and text alone: all others learn the benchmark's labels in any case;
        from timm's tag where the table does not say on what), encoder, data size (log2 of images), input resolution
        (log2 of pixels a side), training source. Without humans, models of no group of the study, and further copies
        of the same weights.
    """
    models = distinct(models[models["group"].isin(GROUPS)])
    empty = pd.Series(np.nan, models.index, dtype=object)
    name, group = models.get("name", empty).astype(str).str.lower(), models["group"]
    loss = group.map(LOSS)
    for part in ("siglip", "coca"):
        loss = loss.mask(loss.eq("image-text") & name.str.contains(part), f"image-text ({part})")
    loss = loss.mask(group.eq("pretrained_more") & name.str.contains(IMAGES_FIRST), "images alone, then labels")
    tuned = models.get("finetune", empty).astype(object).where(loss.str.startswith("image-text"), "none")
    sizes = models.get("pretrain_size", empty).map(quantity).astype(float)
    facts = {
        "loss": loss,
        "fine-tuning": tuned.str.replace("_", ", then "),
        "encoder": models.get("encoder_family", empty),
        "data size": np.log2(sizes),
        "input resolution": np.log2(models.get("input_size", empty).astype(float)),
        "training source": models.get("pretrain_source", empty),
    }
    frame = pd.DataFrame(facts, models.index)
    texts = ["loss", "fine-tuning", "encoder", "training source"]
    frame[texts] = frame[texts].astype(object).where(~frame[texts].isin(["", "unknown"]), np.nan)
    return frame


def fit(values, facts, *, level=0.95):
    """Regress one property on facts about the models.

    Parameters
    ----------
    values : DataFrame
        model, test_set, value: one row a pair.
    facts : DataFrame
        Indexed by model, one column a fact: numbers, or text for levels; NaN where unknown. Of two facts that cannot be
        told apart the earlier column gives the term its name.
    level : float, default 0.95

    Returns
    -------
    Regression
        Without the column `property`.
    """
    values, left_out = _complete(values)
    chosen, unusable = _usable(facts.reindex(values["model"].unique()))
    values, left_out = values[values["model"].isin(chosen.index)], left_out + unusable
    design = Design(chosen)
    degrees = len(chosen) - len(design.kept)
    if problem := _problem(chosen, values, degrees):
        left_out.append(("the property", problem))
        nothing = pd.DataFrame()
        return Regression(nothing, nothing, nothing, pd.DataFrame(left_out, columns=["what", "why"]))
    solved = _solve(values, chosen.index, design.matrix)
    error = np.sqrt(np.diag(solved.covariance))[1:]
    effect = solved.effects[1:]
    p = 2 * t.sf(np.abs(effect) / np.maximum(error, 1e-300), degrees)
    half = t.ppf((1 + level) / 2, degrees) * error
    aliased, near = design.aliases(), design.near_aliases()
    marks = {row["term"]: "nearly" for row in near}
    for row in aliased:
        known = marks.get(row["term"], "nearly")
        marks[row["term"]] = f"{'with' if known == 'nearly' else f'{known}, and'} {row['stands_for']}"
    terms = [design.term(k) for k in range(1, len(design.kept))]
    effects = pd.DataFrame(
        {"fact": [fact for fact, _ in design.kept[1:]], "term": terms, "effect": effect}
        | {"ci_low": effect - half, "ci_high": effect + half, "p": p, "p_adjusted": false_discovery_control(p)}
        | {"models": [design.count(k) for k in range(1, len(design.kept))]}
        | {"n_models": len(chosen), "n_rows": len(values), "degrees": degrees, "ci_level": level}
        | {"confounded": [marks.get(term, "") for term in terms]}
    )
    n_sets = values["test_set"].nunique()
    fits = {"n_models": len(chosen), "n_test_sets": n_sets, "degrees": degrees} | solved.shares | {"note": solved.note}
    return Regression(
        effects, pd.DataFrame([fits]), pd.DataFrame([*aliased, *near]), pd.DataFrame(left_out, columns=["what", "why"])
    )


def _values(table, one):
    """Rows of a property: model, test_set, value."""
    rows = table[table["metric"] == one.metric]
    is_factor = rows["test_set"].str.contains("/") & rows["test_set"].str.rsplit("/", n=1).str[-1].isin(STUDY_FACTORS)
    if one.on != "all":
        rows = rows[is_factor == (one.on == "factors")]
    if one.score:
        rows = rows[rows["protocol"].str.split(",").str[0] == one.score]
    return rows.groupby(["model", "test_set"], as_index=False)["value"].mean()


def _complete(values):
    """Models with values on the same test sets, so that a mean over test sets means the same for each."""
    grid = values.pivot_table(index="model", columns="test_set", values="value")
    grid = grid.loc[:, grid.notna().mean() >= COMMON]
    without = int(grid.isna().any(axis=1).sum())
    kept = grid.dropna().melt(ignore_index=False).reset_index().sort_values(["model", "test_set"], ignore_index=True)
    return kept, [(count_models(without), "without one of the test sets")] * bool(without)


def _usable(facts):
    """Facts that are known and vary, of models that have them and share their levels; and what was left out, why."""
    left_out, n = [], len(facts)
    for fact in facts:
        known = int(facts[fact].notna().sum())
        if known < KNOWN * n:
            left_out.append((fact, f"known for {known:,} of {n:,} models"))
            facts = facts.drop(columns=fact)
    complete = facts.dropna()
    if len(complete) < n:
        without = facts.drop(index=complete.index)
        which = " or ".join(fact for fact in without if without[fact].isna().any())
        kinds = without.get("loss", pd.Series(dtype=object)).value_counts()
        kinds = f" ({', '.join(f'{loss}: {count:,}' for loss, count in kinds.items())})" * bool(len(kinds))
        left_out.append((count_models(len(without)), f"{which} unknown{kinds}"))
    while True:  # a model that leaves may leave another level alone
        texts = [fact for fact in complete if not is_number(complete[fact])]
        counts = {fact: complete[fact].map(complete[fact].value_counts()) for fact in texts}
        alone = {fact: complete.index[count < MIN_MODELS] for fact, count in counts.items()}
        if not any(map(len, alone.values())):
            break
        gone = {model: (fact, complete.loc[model, fact]) for fact, index in alone.items() for model in index}
        left_out += [(model, f"the only model with {fact} {level}") for model, (fact, level) in gone.items()]
        complete = complete.drop(index=list(gone))
    for fact in list(complete):
        if len(set(complete[fact])) < 2:
            left_out += [(fact, "the same for every model")] * bool(len(complete))
            complete = complete.drop(columns=fact)
    return complete, left_out


def _problem(chosen, values, degrees):
    """Why a property cannot be regressed, or nothing."""
    if values.empty:
        return "no model whose training is known has these numbers"
    if not len(chosen.columns):
        return f"no known fact differs between its models ({len(chosen):,}); add others to the zoo"
    if not values["value"].std() > 0:
        return "its value is the same for every model"
    if degrees < MIN_DEGREES:
        terms = len(chosen) - degrees - 1
        return (
            f"{count_models(len(chosen))} for {terms} terms, which need {terms + 1 + MIN_DEGREES} or more; add others"
        )
    return ""


class _Solved(NamedTuple):
    effects: np.ndarray
    covariance: np.ndarray
    shares: dict
    note: str


def _solve(values, models, matrix):
    """Effects of the columns of `matrix` (one row a model, intercept first) by REML, as means over the test sets."""
    of_model = pd.Index(models).get_indexer(values["model"])
    of_set, sets = pd.factorize(values["test_set"], sort=True)
    scale = values["value"].std() or 1.0  # the optimiser wants numbers near one
    y = values["value"].to_numpy() / scale
    facts = np.column_stack([matrix[:, :1], matrix[:, 1:] - matrix[:, 1:].mean(axis=0)])[of_model]
    deviations = np.vstack([np.eye(len(sets) - 1), -np.ones(len(sets) - 1)])[of_set]  # they add up to zero
    by_set = (facts[:, 1:, None] * deviations[:, None, :]).reshape(len(y), -1)
    x = np.column_stack([facts, deviations, by_set])
    beta, *_ = np.linalg.lstsq(x, y, rcond=None)
    left = y - x @ beta
    ratio, note = _between(left.reshape(len(models), len(sets)), matrix.shape[1])
    if ratio > 1e-6:
        found = _mixed(y, x, of_model, ratio)
    else:
        residual = np.sum(left**2) / (len(y) - x.shape[1])
        found = beta, residual * np.linalg.inv(x.T @ x), 0.0, residual
    beta, covariance, between, residual = found
    k = matrix.shape[1]
    blocks = {
        "test_sets": slice(k, k + len(sets) - 1),
        "facts": slice(1, k),
        "facts_by_set": slice(k + len(sets) - 1, None),
    }
    parts = {name: _variance(x[:, block], beta[block], covariance[block, block]) for name, block in blocks.items()}
    parts |= {"models": between, "residual": residual}
    shares = {name: part / sum(parts.values()) for name, part in parts.items()}
    return _Solved(scale * beta[:k], scale**2 * covariance[:k, :k], shares, note)


def _variance(columns, effects, covariance):
    """Variance that effects cause, without what errors of this size would cause alone."""
    chance = np.sum(covariance * (columns.T @ columns)) / len(columns)  # the columns have mean zero
    return max(0.0, float(np.mean((columns @ effects) ** 2) - chance))


def _between(left, k):
    """Variance between models over the residual one, from what k terms leave of each model on each test set.

    With every model on every test set this is the estimate of REML, and says beforehand where it is zero: there
    statsmodels warns or stops, and least squares is the fit.
    """
    n, n_sets = left.shape
    if n_sets == 1:
        return 0.0, "one value a model: ordinary least squares"
    means = left.mean(axis=1)
    between = n_sets * np.sum(means**2) / (n - k)
    within = np.sum((left - means[:, None]) ** 2) / (n - k) / (n_sets - 1)
    ratio = (between / max(within, 1e-300) - 1) / n_sets
    return ratio, "" if ratio > 1e-6 else "variance between models estimated as zero"


def _mixed(y, x, groups, ratio):
    """Effects, their covariance, variance of the random intercepts and of the residual."""
    from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams  # takes seconds that few need

    start = MixedLMParams.from_components(fe_params=np.zeros(x.shape[1]), cov_re=np.full((1, 1), ratio))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns near zero, where `ratio` is the estimate all the same
        found = MixedLM(y, x, groups=groups).fit(reml=True, method=["lbfgs"], start_params=start)
    covariance = np.asarray(found.cov_params())[: x.shape[1], : x.shape[1]]
    return np.asarray(found.fe_params), covariance, float(found.cov_re[0, 0]), float(found.scale)


def _joined(parts, columns):
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True)[list(columns)] if parts else pd.DataFrame(columns=list(columns))


_COLUMNS = {
    "effects": (
        *("property", "fact", "term", "effect", "ci_low", "ci_high", "p", "p_adjusted"),
        *("models", "n_models", "n_rows", "degrees", "ci_level", "confounded"),
    ),
    "fits": (
        *("property", "n_models", "n_test_sets", "degrees", "test_sets", "facts", "facts_by_set", "models"),
        *("residual", "note"),
    ),
    "confounded": ("property", "term", "stands_for", "why", "models"),
    "left_out": ("property", "what", "why"),
}
