"""What a notebook shows: tables people can sort, figures with captions, sentences computed from numbers."""

import warnings

import itables
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display

from clipsafe_utils import plots
from clipsafe_utils.claims import VERDICTS, judge_claims
from clipsafe_utils.prompts import class_names, duplicated_names
from clipsafe_utils.signatures import TITLES
from clipsafe_utils.signatures import signatures as failure_signatures
from clipsafe_utils.table import COLUMNS, KEY, tidy

MOST_ROWS = 2000
"""Rows of a table that a page shows; the file has them all."""

plots.set_style()
warnings.filterwarnings("ignore", message="IProgress not found")  # text progress bars are meant
itables.init_notebook_mode(all_interactive=False, connected=False)


def overview(study):
    """Show what the suite compares: models by group, image sets by size, and what is missing."""
    rows = [
        {"image set": name, "images": len(images), "classes": len(images.space) or "", "understood as": images.protocol}
        for name, images in study.images.items()
    ]
    if rows:
        display(pd.DataFrame(rows).style.hide(axis="index").format({"images": "{:,}"}).set_table_attributes(_CLASS))
    counts = study.models["group"].value_counts()
    listed = ", ".join(f"{count:,} {_label(group)}" for group, count in counts.items())
    display(Markdown(f"**Suite {study.parameters.suite}**: {listed} ({counts.sum():,} models in all)."))
    missing(study)


def missing(study):
    """Name what the suite turned out not to provide since the last call, and how to provide it."""
    for name in sorted(study.missing.keys() - study.told):
        display(Markdown(f"> **Not in this suite: {name}.** {study.missing[name]}"))
    study.told |= study.missing.keys()


def unreadable(study):
    """List the images that could not be read, by path."""
    unreadable = study.unreadable()
    if len(unreadable):
        images = unreadable.drop_duplicates(["image_set", "image_id"])
        display(
            Markdown(f"> **{len(images):,} images could not be read**; they are in no number, and every n says so.")
        )
        table(images)


def table(frame, digits=4):
    """Show a frame that can be sorted and searched in the page."""
    frame = frame.dropna(axis=1, how="all")
    itables.show(
        frame.round(digits), classes="display compact nowrap", paging=len(frame) > 15, showIndex=False, maxBytes=0
    )


def results(study, rows, name, *, wide=False):
    """Save rows as outputs/SUITE/tables/NAME and show them.

    Parameters
    ----------
    wide : bool, default False
        One line a model and one column a test set, values only, instead of one line a row; for one metric.
    """
    study.save(rows, name)
    missing(study)
    if rows.empty:
        return
    shown = rows.assign(group=rows["model"].map(study.models["group"]).map(_label))
    if wide:
        shown = shown.pivot_table(index=["model", "group"], columns="test_set", values="value").reset_index()
        shown.columns.name = None
    else:
        shown = shown[
            ["model", "group", "test_set", "metric", "value", "ci_low", "ci_high", "n", "ci_kind", "protocol"]
        ]
    same = [
        column
        for column in shown
        if len(shown) > 1 and (shown[column] == shown[column].iloc[0]).all() and column != "value"
    ]
    table(shown.drop(columns=same).head(MOST_ROWS))
    facts = [f"{column} = {shown[column].iloc[0]}" for column in same if shown[column].iloc[0] != ""]
    facts += [f"the first {MOST_ROWS:,} of {len(shown):,} rows are shown"] * (len(shown) > MOST_ROWS)
    display(Markdown(f"*{'; '.join([*facts, f'all columns: tables/{name}.csv'])}.*"))


def figure(study, name, draw, rows, *args, what, direction="", captioned=None, units=("model", "images"), **kwargs):
    """Draw rows, save the figure under outputs/SUITE/figures, show it with a caption made from the same rows.

    Parameters
    ----------
    study : Study
    name : str
        File name.
    draw : callable
        A function of `plots`; called as draw(rows, *args, **kwargs).
    rows : DataFrame or dict
        Tidy rows, or what `draw` takes; nothing is shown where it is empty.
    what, direction : str
        For the caption.
    captioned : DataFrame, optional
        Rows for the caption, where `rows` is not tidy or holds more than is drawn.
    units : (str, str)
        What the caption counts: what a row's `model` names, and its n.
    """
    missing(study)
    if not len(rows):
        display(Markdown(f"> {what}: not drawn, this suite has no numbers for it."))
        return
    axes = draw(rows, *args, **kwargs)
    drawn = axes if hasattr(axes, "savefig") else axes.get_figure()
    display(Image(study.save_figure(drawn, name), width=760))
    plt.close(drawn)
    described = rows if captioned is None else captioned
    text = plots.caption(described, what=what, direction=direction, models=study.models, units=units)
    display(Markdown(f"*{text}*"))


def findings(means, *, group, above, below, unit="percentage points"):
    """Say in sentences on which test sets a group's mean differs from zero, and on which it cannot be told.

    Parameters
    ----------
    means : DataFrame
        From `group_means`.
    group : str
    above, below : str
        What a mean above and below zero says, for example "more robust than the baseline line".
    """
    part = means[(means["group"] == group) & means["low"].notna()]
    if part.empty:
        return
    n = part["n_models"].max()
    intro = f"**{_label(group)}** ({n} models; mean in {unit}, interval over models):"
    part = part.rename(columns={"mean": "value", "low": "ci_low", "high": "ci_high"})
    scale = 100 if unit == "percentage points" else 1
    display(Markdown("\n".join([intro, "", *_signs(part, scale, above, below)])))


def group_findings(means, metric, *, above, below, unit="percentage points"):
    """Say `findings` of every group of three models or more; rows from `sections.means_by_group`."""
    names = {"model": "group", "value": "mean", "ci_low": "low", "ci_high": "high", "n": "n_models"}
    part = means[means["metric"].eq(metric) & means["n"].gt(2)].rename(columns=names)
    for style in plots.GROUP_STYLE.values():
        findings(part, group=style.label, above=above, below=below, unit=unit)


def contrasts(rows, *, above, below):
    """Say in sentences where a comparison of matched pairs differs from zero, and where it cannot be told.

    Parameters
    ----------
    rows : DataFrame
        Tidy, from `sections.contrasts`.
    above, below : str
        What a difference above and below zero says.
    """
    for (comparison, metric), part in rows.groupby(["model", "metric"], sort=False):
        style = plots.metric_style(metric.removesuffix("_difference"))
        scale = 100 if style.percent else 1
        unit = "percentage points" if style.percent else "absolute"
        pairs = " to ".join(map(str, dict.fromkeys((part["n"].min(), part["n"].max()))))
        intro = f"**{comparison}**: {style.label.lower()} (mean over {pairs} pairs, {unit}):"
        display(Markdown("\n".join([intro, "", *_signs(part, scale, above, below)])))


def simpson(verdicts):
    """Say on which test sets accuracy and detection go together over all models, within training sources, or both.

    Parameters
    ----------
    verdicts : DataFrame
        From `sections.simpson`.
    """
    lines = []
    for verdict, part in verdicts.groupby("verdict", sort=False):
        numbers = part[["test_set", "overall", "within"]].itertuples(index=False)
        listed = ", ".join(f"{name} ({overall:+.2f}, within {within:+.2f})" for name, overall, within in numbers)
        lines.append(f"- {verdict}: {len(part)} of {len(verdicts)}: {listed}")
    if lines:
        intro = "Pearson correlation **over all models, and within training sources**: distinguishable from zero"
        display(Markdown("\n".join([intro, "", *lines])))


def best_scores(best, main):
    """Say which OOD score is best for each group, and where it cannot be told from the main one.

    Parameters
    ----------
    best : DataFrame
        From `sections.best_scores`.
    main : str
    """
    for group, part in best.groupby("group", sort=False):
        clear = part[part["low"] > 0]
        listed = [
            f"- {one.test_set}: {one.score} ({100 * one.gain:+.1f}, {100 * one.low:.1f} to {100 * one.high:.1f})"
            for one in clear.itertuples()
        ]
        rest = [*part.loc[~(part["low"] > 0), "test_set"]]
        listed += [f"- none is distinguishable from {main}, or better: {', '.join(rest)}"] if rest else []
        intro = f"**{group}** ({part['n'].max():,} models): best score by OOD set, and its gain over {main} in points"
        display(Markdown("\n".join([f"{intro}:", "", *listed])))


def _signs(rows, scale, above, below):
    """Bullets: where intervals lie above zero, below it, or hold it."""
    rows, digits = rows.dropna(subset=["ci_low"]), 1 if scale == 100 else 2
    for text, chosen in (
        (above, rows[rows["ci_low"] > 0]),
        (below, rows[rows["ci_high"] < 0]),
        ("not distinguishable from zero", rows[(rows["ci_low"] <= 0) & (rows["ci_high"] >= 0)]),
    ):
        numbers = (scale * chosen[["value", "ci_low", "ci_high"]]).itertuples(index=False)
        named = zip(chosen["test_set"].str.rsplit("/", n=1).str[-1], numbers, strict=True)
        listed = ", ".join(
            f"{name} ({v:+.{digits}f}, {low:.{digits}f} to {high:.{digits}f})" for name, (v, low, high) in named
        )
        yield f"- {text}: {len(chosen)} of {len(rows)}{': ' + listed if listed else ''}"


def prompt_sets(study):
    """Show the prompt sets with their size and first templates, and the class names that several classes share."""
    rows = [
        {"prompt set": name, "templates": len(templates), "first of them": " · ".join(templates[:3])}
        for name, templates in study.prompt_sets.items()
    ]
    table(pd.DataFrame(rows))
    shared = duplicated_names(class_names(study.id_space, study.parameters.class_names))
    listed = "; ".join(f"{name} ({', '.join(map(str, indices))})" for name, indices in shared.items())
    display(Markdown(f"Class names that several classes share: {listed or 'none'}."))


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
    """Mean of each metric over the models of a group, by test set: a table to sort."""
    grouped = rows.assign(group=rows["model"].map(study.models["group"])).dropna(subset=["group", "value"])
    grouped["group"] = grouped["group"].map(_label)
    means = grouped.groupby(["metric", "test_set", "protocol", "group"])["value"].agg(["mean", "min", "max", "size"])
    if len(means):
        columns = ["metric", "test_set", "group", "mean", "min", "max", "models", "protocol"]
        table(means.reset_index().rename(columns={"size": "models"})[columns])


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
        display(Markdown("\n".join([lines[0], "", *lines[1:]])))


def claims(study, results):
    """Judge the study's claims on this suite, and show them beside what other suites in `outputs` said.

    Saves outputs/SUITE/tables/claims; each sentence links to the figure that shows it.
    """
    p = study.parameters
    judged = study.save(judge_claims(results, study.models, id_set=p.id_set, level=p.ci_level), "claims")
    verdicts = {p.suite: judged}
    for path in sorted(p.path("outputs").glob("*/tables/claims.parquet")):
        verdicts.setdefault(path.parents[1].name, pd.read_parquet(path))
    counts = judged["verdict"].value_counts().reindex(VERDICTS, fill_value=0)
    display(Markdown("**" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "**"))
    matrix = judged[["claim"]].assign(
        sentence=[f'<a href="{r.page}.html#{r.heading}">{r.sentence}</a>' for r in judged.itertuples()],
        **{
            suite: found.set_index("claim")["verdict"].reindex(judged["claim"]).to_numpy()
            for suite, found in verdicts.items()
        },
    )
    shown = (
        matrix.style.hide(axis="index")
        .map(lambda verdict: _VERDICT_STYLE.get(verdict, ""), subset=list(verdicts))
        .set_table_attributes(_CLASS)
    )
    display(shown)
    columns = [
        "claim",
        "verdict",
        "effect",
        "ci_low",
        "ci_high",
        "p_adjusted",
        "n_models",
        "n_images",
        "measured",
        "note",
    ]
    table(judged[columns])
    display(
        Markdown(
            f"*{len(judged)} claims; effects with {p.ci_level:.0%} intervals over models (over images where the note "
            f"says so), each for itself; verdicts hold the false discovery rate at {1 - p.ci_level:.0%} (adjusted p). "
            "All columns: tables/claims.csv.*"
        )
    )


def quarantine(study):
    """Published rows that were taken out, with the reason."""
    if study.is_published:
        table(study.published[1][["model", "reason", "value", "test_set", "protocol"]])
    else:
        display(Markdown("This suite uses no published rows."))


def _label(group):
    """How figures and tables write a group."""
    return plots.GROUP_STYLE[group].label if group in plots.GROUP_STYLE else group


_CLASS = 'class="dataframe"'
_VERDICT_STYLE = {
    "supported": "background-color: #cfe0ff; color: black",
    "contradicted": "background-color: #ffd5c2; color: black",
    "not testable": "color: gray",
}
