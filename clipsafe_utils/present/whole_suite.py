"""What the overview shows of all sections: the one table, claims, what moves safety, what is out of line."""

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from clipsafe_utils import plots
from clipsafe_utils.claims import ALONE, VERDICTS, judge_claims
from clipsafe_utils.present.basics import TABLE_CLASS, figure, group_label, say, table
from clipsafe_utils.regression import regress
from clipsafe_utils.sections.rows import over_models
from clipsafe_utils.signatures import TITLES
from clipsafe_utils.signatures import signatures as failure_signatures
from clipsafe_utils.table import COLUMNS, KEY, tidy
from clipsafe_utils.zoo import distinct

_VERDICT_STYLE = {
    "supported": "background-color: #cfe0ff; color: black",
    "contradicted": "background-color: #ffd5c2; color: black",
    "not testable": "color: gray",
}
_MARK = " §"  # † and ‡ stand for what the regression cannot tell apart


def all_results(study):
    """Gather the tables that the sections saved into outputs/SUITE/tables/results, and count its rows."""
    names = ("accuracy", "visual_factors", "shape_bias", "ood_detection", "calibration", "ood_confidence")
    others = ("prompt_effects", "effective_robustness_shifts", "effective_robustness_factors")
    paths = [study.folder / "tables" / f"{name}.parquet" for name in (*names, *others)]
    frames = {path.stem: pd.read_parquet(path) for path in paths if path.exists()}
    merged = pd.concat([frame.assign(section=name) for name, frame in frames.items()] or [tidy([])])
    merged = merged.drop_duplicates(KEY)
    if len(merged):
        groups = merged.groupby(["section", "metric"], sort=False)
        counts = groups.agg(rows=("value", "size"), models=("model", "nunique"), test_sets=("test_set", "nunique"))
        table(counts.reset_index())
    return study.save(tidy(merged[list(COLUMNS)]), "results")


def group_summary(study, rows):
    """Mean of each metric over the models of a group, by test set: a table to sort. The means are `group_means`'s."""
    keys = ["metric", "protocol", "group", "test_set"]
    rows = rows[rows["model"].isin(distinct(study.models).index)].dropna(subset=["value"])
    grouped = rows.assign(group=rows["model"].map(study.models["group"])).dropna(subset=["group"]).groupby(keys)
    if not len(grouped):
        return
    ends = grouped["value"].agg(["min", "max", "size"]).rename(columns={"size": "models"})
    values = [over_models(study, part.set_index("model")["value"]).value for _, part in grouped]
    means = ends.assign(mean=values).reset_index()
    means["group"] = means["group"].map(group_label)
    table(means[["metric", "test_set", "group", "mean", "min", "max", "models", "protocol"]])


def golden_numbers(study):
    """Show measured against published accuracy: which models agree, which are out, which were not compared."""
    path = study.folder / "tables" / "golden_numbers.parquet"
    if not path.exists():
        text = "a published number holds for the whole ImageNet validation set, which is not this suite's `id_set`"
        display(Markdown(f"No accuracy was compared with a published one: {text}."))
        return
    numbers = pd.read_parquet(path)
    counts = numbers["verdict"].value_counts()
    order = ["quarantined", "admitted", "not checked", "agrees"]
    listed = ", ".join(f"{counts.get(verdict, 0):,} {verdict}" for verdict in reversed(order))
    display(Markdown(f"**{len(numbers):,} models**: {listed}. Percent, and differences in percentage points."))
    for row in numbers[numbers["verdict"].isin(order[:2])].itertuples():
        display(Markdown(f"> **{row.model}** {row.why}"))
    numbers = numbers.sort_values("verdict", key=lambda verdicts: verdicts.map(order.index), kind="stable")
    table(numbers.drop(columns=["unit"]), digits=2)


def signatures(study, rows):
    """Show results that fit neither group, twins nor training source, and what to check first; or that none does.

    Parameters
    ----------
    rows : DataFrame
        Tidy, all of the suite.
    """
    found, compared = failure_signatures(rows, study.models, study.parameters.factors)
    for title, n in compared.items():
        part = found[found["signature"] == title]
        count = f"{len(part) or 'none'} in {n:,} comparisons" if n else "nothing to compare"
        lines = [f"**{title[0].upper()}{title[1:]}**: {count}."]
        for row in part.itertuples():
            peers = f"{row.n_peers} {'pairs' if title == TITLES['twins'] else 'peers'}"
            numbers = f"{row.value:.3f} against {row.peers_median:.3f}, distance {row.distance:+.1f}, {peers}"
            lines.append(f"- **{row.models}**: {row.where} ({numbers})")
        lines += [f"- *Check first:* {part['check_first'].iloc[0]}"] if len(part) else []
        say(lines[0], lines[1:])


def claims(study, results):
    """Judge the study's claims on this suite, and show them beside what other suites in `outputs` said.

    Saves outputs/SUITE/tables/claims; each sentence links to the figure that shows it. Verdicts about the models at
    hand alone are marked.
    """
    p = study.parameters
    how = {"id_set": p.id_set, "prompts": study.main_prompts, "level": p.ci_level, "control_sets": p.control_sets}
    judged = study.save(judge_claims(results, study.models, **how), "claims")
    verdicts = {p.suite: judged}
    for path in sorted(p.path("outputs").glob("*/tables/claims.parquet")):
        verdicts.setdefault(path.parents[1].name, pd.read_parquet(path))
    counts = judged["verdict"].value_counts().reindex(VERDICTS, fill_value=0)
    display(Markdown("**" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "**"))
    matrix = judged[["claim"]].assign(
        sentence=[f'<a href="{r.page}.html#{r.heading}">{r.sentence}</a>' for r in judged.itertuples()],
        **{suite: _marked(found).reindex(judged["claim"]).to_numpy() for suite, found in verdicts.items()},
    )
    shown = (
        matrix.style.hide(axis="index")
        .map(lambda verdict: _VERDICT_STYLE.get(str(verdict).removesuffix(_MARK), ""), subset=list(verdicts))
        .set_properties(subset=list(verdicts), **{"white-space": "nowrap"})
        .set_table_attributes(TABLE_CLASS)
    )
    display(shown)
    if matrix[list(verdicts)].map(lambda verdict: str(verdict).endswith(_MARK)).any(axis=None):
        display(Markdown(f"{_MARK.strip()} about {ALONE}: too few carry the numbers to speak of others like them."))
    numbers = ["effect", "ci_low", "ci_high", "p_adjusted", "n_models", "n_images"]
    table(judged[["claim", "verdict", "about", *numbers, "measured", "note"]])
    display(
        Markdown(
            f"*{len(judged)} claims; effects with {p.ci_level:.0%} intervals over models (over images where the note "
            "says so), each for itself; of the clearest of k places, that is the smallest p, the interval is corrected "
            f"for having searched them (1 - {1 - p.ci_level:.2g}/k). Verdicts hold the false discovery rate at "
            f"{1 - p.ci_level:.0%} (adjusted p). All columns: tables/claims.csv.*"
        )
    )


def _marked(judged):
    """Verdicts by claim, those about the models at hand alone with a mark."""
    judged = judged.reindex(columns=["claim", "verdict", "about"]).set_index("claim")  # older tables lack `about`
    return judged["verdict"] + np.where(judged["about"].eq(ALONE), _MARK, "")


def regression(study, rows):
    """Say and draw which facts about the models' training move which safety property, all facts at once.

    Saves outputs/SUITE/tables/regression, regression_fits and regression_confounded.

    Parameters
    ----------
    rows : DataFrame
        Tidy, all of the suite.

    Returns
    -------
    Regression
        For `confounding`.
    """
    p = study.parameters
    control = rows["metric"].eq("effective_robustness") & rows["test_set"].isin(p.control_sets)
    found = regress(rows[~control], study.models, id_set=p.id_set, prompts=study.main_prompts, level=p.ci_level)
    effects = study.save(found.effects, "regression")
    study.save(found.fits, "regression_fits")
    study.save(found.confounded, "regression_confounded")
    if effects.empty:
        reasons = found.left_out[found.left_out["what"] == "the property"].groupby("why", sort=False)["property"]
        listed = "; ".join(f"{', '.join(part)}: {why}" for why, part in reasons)
        display(Markdown(f"> **Not in this suite: a regression on the models' training.** {listed}."))
        return found
    clear = effects[effects["p_adjusted"] < 1 - p.ci_level]
    lines = []
    for fact, part in effects.groupby("fact", sort=False):
        own, n = clear[clear["fact"] == fact], part["property"].nunique()
        moved = [f"{name} ({_largest(terms)})" for name, terms in own.groupby("property", sort=False)]
        many = f"distinguishable from zero on {len(moved)} of {n}" if moved else "not distinguishable from zero"
        lines.append(f"- **{fact}**: {many}{': ' + '; '.join(moved) if moved else f' on any of {n}'}")
    models = found.left_out["what"].str.fullmatch(r"[\d,]+ models?")
    lines += [f"- left out of {one.property}: {one.what}, {one.why}" for one in found.left_out[models].itertuples()]
    n = " to ".join(f"{size:,}" for size in dict.fromkeys((effects["n_models"].min(), effects["n_models"].max())))
    intro = f"Effects at equal other facts, in percentage points; {n} models, adjusted p below {1 - p.ci_level:.2g}:"
    say(intro, lines)
    figure(
        study,
        "what_moves_safety",
        plots.regression,
        effects,
        what="Effect of each fact about a model's training, at equal other facts",
        direction="each term is a mean over test sets; the calibration errors are better low, all others high; marks "
        "hold for at least one panel",
        captioned=effects.assign(
            model=effects["term"],
            n=effects["n_models"],
            source="computed",
            protocol="",
            ci_kind="student t, mixed model (REML)",
        ),
        units=("term", "models"),
    )
    shown = effects.drop(columns=["fact", "n_rows", "ci_level"])
    points = ["effect", "ci_low", "ci_high"]
    table(shown.assign(**{column: 100 * shown[column] for column in points}))
    shares = ["test_sets", "facts", "facts_by_set", "models", "residual"]
    split = found.fits[found.fits["n_test_sets"] > 1]
    apart = split[split["facts_by_set"] > split["facts"]]
    if len(split):
        listed = "; ".join(f"{r.property}: {r.facts_by_set:.0%} against {r.facts:.0%}" for r in apart.itertuples())
        text = f"On {len(apart)} of {len(split)} properties the facts move test sets apart more than together"
        text += f" (shares of the variance){': ' + listed if listed else ''}"
        display(Markdown(f"{text}. The sections show them test set by test set."))
    table(found.fits.rename(columns={name: f"share: {name.replace('_', ' ')}" for name in shares}), digits=3)
    return found


def _largest(terms, most=3):
    """The largest effects in words; terms that stand for more than their name are marked."""
    terms = terms.sort_values("effect", key=abs, ascending=False)
    listed = [
        f"{r.term.partition(': ')[2]}{'†' * r.confounded.startswith('with')} {100 * r.effect:+.1f}, "
        f"{100 * r.ci_low:.1f} to {100 * r.ci_high:.1f}"
        for r in terms.head(most).itertuples()
    ]
    return "; ".join(listed) + f"; {len(terms) - most} more" * (len(terms) > most)


def confounding(found):
    """Say and list which facts cannot be told apart, and what the regression left out.

    Parameters
    ----------
    found : Regression
    """
    exact = found.effects[found.effects["confounded"].str.startswith("with")]
    near = found.effects[found.effects["confounded"].eq("nearly")]
    n = found.effects["term"].nunique()
    if n:
        counts = f"{exact['term'].nunique()} of {n} terms stand for more than their name (†)"
        counts += f", and {near['term'].nunique()} more can hardly be told from other facts (‡)" * bool(len(near))
        pairs = dict.fromkeys(f"{r.term}, {r.confounded}" for r in exact.itertuples())
        say(f"**Cannot be told apart**: {counts}.", (f"- {pair}" for pair in pairs))
    for frame in (found.confounded, found.left_out):
        if len(frame):
            same = [column for column in frame if column != "property"]
            together = frame.groupby(same, sort=False)["property"].agg(lambda names: ", ".join(dict.fromkeys(names)))
            table(together.reset_index().rename(columns={"property": "properties"}))


def quarantine(study):
    """Published rows that were taken out, with the reason."""
    if study.is_published:
        table(study.published[1][["model", "reason", "value", "test_set", "protocol"]])
    else:
        display(Markdown("This suite uses no published rows."))
