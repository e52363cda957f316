"""What a notebook shows: tables people can sort, figures with captions, sentences computed from numbers."""

import warnings

import itables
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display

from clipsafe_utils import plots
from clipsafe_utils.claims import VERDICTS, judge_claims
from clipsafe_utils.regression import regress
from clipsafe_utils.sections.prompts import ALL
from clipsafe_utils.signatures import TITLES
from clipsafe_utils.signatures import signatures as failure_signatures
from clipsafe_utils.table import COLUMNS, KEY, tidy

MOST_ROWS = 2000
"""Rows of a table that a page shows; the file has them all."""

plots.set_style()
warnings.filterwarnings("ignore", message="IProgress not found")  # text progress bars are meant
itables.init_notebook_mode(all_interactive=False, connected=False)


def overview(study, *, whole_suite=False):
    """Show what is compared: models by group, image sets by size, and what is missing.

    Parameters
    ----------
    whole_suite : bool, default False
        All image sets instead of those that play a part in this notebook.
    """
    names = study.images if whole_suite else study.in_play
    rows = [
        {"image set": name, "images": len(images), "classes": len(images.space) or "", "understood as": images.protocol}
        for name, images in ((name, study.images[name]) for name in names)
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
        images = rows.groupby("test_set")["n"].max()
        few = [name for name, n in images.items() if 0 < n < plots.FEW_IMAGES]
        shown = shown.rename(columns={name: f"{name} {plots.FEW_MARK}" for name in few})
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
    marked = wide and any(str(column).endswith(plots.FEW_MARK) for column in shown)
    facts = [f"{plots.FEW_MARK} fewer than {plots.FEW_IMAGES} images"] * marked
    facts += [f"{column} = {shown[column].iloc[0]}" for column in same if shown[column].iloc[0] != ""]
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
        if part["ci_low"].isna().all():
            display(Markdown(f"**{comparison}**: {style.label.lower()}: a single pair says nothing about others."))
            continue
        intro = f"**{comparison}**: {style.label.lower()} (mean over {pairs} pairs, {unit}):"
        display(Markdown("\n".join([intro, "", *_signs(part, scale, above, below)])))


def strata(rows, *, above, below):
    """Say of each stratum of models in a line where its mean differs from zero.

    Parameters
    ----------
    rows : DataFrame
        Tidy, from `sections.stratum_means`.
    above, below : str
        What a mean above and below zero says.
    """
    lines = []
    for stratum, part in rows.groupby("model", sort=False):
        said = []
        for text, chosen in ((above, part[part["ci_low"] > 0]), (below, part[part["ci_high"] < 0])):
            numbers = zip(chosen["test_set"].str.rsplit("/").str[-1], 100 * chosen["value"], strict=True)
            said += [f"{text}: {', '.join(f'{name} ({value:+.1f})' for name, value in numbers)}"] if len(chosen) else []
            part = part.drop(chosen.index)
        said += [f"not distinguishable from zero: {len(part)} of {rows['test_set'].nunique()}"]
        lines.append(f"- **{stratum}** ({rows.loc[rows['model'] == stratum, 'n'].max()} models): {'; '.join(said)}")
    if lines:
        display(Markdown("\n".join(["Means in percentage points:", "", *lines])))


def correlations(rows, *, what, above, below):
    """Say on which test sets a correlation over models differs from zero, and on which it cannot be told.

    Parameters
    ----------
    rows : DataFrame
        Tidy, metric "pearson"; `model` holds what the correlation is over.
    what : str
        What goes with what.
    above, below : str
        What a positive and a negative correlation says.
    """
    for over, part in rows[rows["metric"] == "pearson"].groupby("model", sort=False):
        intro = f"**{what}, {over}** (Pearson's correlation, {part['n'].max()} models):"
        display(Markdown("\n".join([intro, "", *_signs(part, 1, above, below)])))


def shrinkage(shrunken, models):
    """Say on which test sets the spread over the models of a group is mostly the sampling of images.

    Parameters
    ----------
    shrunken : DataFrame
        From `sections.shrunken`.
    models : DataFrame
        Facts about the models, see `Study.models`.
    """
    kept = shrunken[shrunken["metric"] == "share_kept"]
    kept = kept.assign(group=kept["model"].map(models["group"]), factor=kept["test_set"].str.rsplit("/").str[-1])
    for group, part in kept.groupby("group"):
        means = part.groupby("factor")["value"].mean().sort_values()
        mostly = ", ".join(f"{name} ({share:.0%})" for name, share in means[means < 0.5].items())
        text = (
            f"more than half of the spread over models is sampling of images on {mostly}"
            if mostly
            else ("less than half of the spread over models is sampling of images, on every factor")
        )
        best = f"most is kept on {means.index[-1]} ({means.iloc[-1]:.0%})"
        display(
            Markdown(
                f"**{_label(group)}** ({part['model'].nunique()} models; in brackets the share kept): {text}; {best}."
            )
        )


def shape_by_category(means):
    """Say for each group in how many categories shape decides, in how many texture, and where it cannot be told.

    Parameters
    ----------
    means : DataFrame
        From `sections.category_means`.
    """
    bias = means[(means["metric"] == "category_shape_bias_over_models") & means["ci_low"].notna()]
    for group, part in bias.groupby("model", sort=False):
        ends = part.set_index("test_set")["value"].sort_values()
        first, last = (name.rpartition("/")[2] for name in (ends.index[0], ends.index[-1]))
        intro = (
            f"**{_label(group)}** ({part['n'].max()} models): shape bias by category lies between {ends.iloc[0]:.2f} "
            f"({first}) and {ends.iloc[-1]:.2f} ({last})."
        )
        counts = {
            "shape decides": (part["ci_low"] > 0.5).sum(),
            "texture decides": (part["ci_high"] < 0.5).sum(),
            "not distinguishable from 0.5": ((part["ci_low"] <= 0.5) & (part["ci_high"] >= 0.5)).sum(),
        }
        listed = [f"- {text}: {count} of {len(part)} categories" for text, count in counts.items()]
        display(Markdown("\n".join([intro, "", *listed])))


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


def _signs(rows, scale, above, below, digits=None):
    """Bullets: where intervals lie above zero, below it, or hold it."""
    rows, digits = rows.dropna(subset=["ci_low"]), digits or (1 if scale == 100 else 2)
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


def prompt_sets(facts, shared):
    """Show the prompt sets, and the class names that several classes share.

    Parameters
    ----------
    facts, shared
        From `sections.prompt_set_facts`.
    """
    table(facts)
    for variant, names in shared.items():
        listed = "; ".join(f"{name} ({', '.join(map(str, indices))})" for name, indices in names.items())
        display(Markdown(f"Class names of the list `{variant}` that several classes share: {listed or 'none'}."))


def prompt_means(means):
    """Say which prompt sets change an objective on average over all models, and which cannot be told from the main one.

    Parameters
    ----------
    means : DataFrame
        Tidy, from `sections.mean_effects`.
    """
    for metric, rows in means.groupby("metric", sort=False):
        part, by_source = rows[rows["model"] == ALL], rows[rows["model"] != ALL].dropna(subset=["ci_low"])
        objective, n = metric.removesuffix("_difference"), part["n"].max()
        style = plots.metric_style(objective.split("_")[0])
        if part["ci_low"].isna().all():
            display(
                Markdown(
                    f"**{plots.OBJECTIVES[objective]}**: an interval over models needs three of them, here n = {n}."
                )
            )
            continue
        unit = "percentage points" if style.percent else "absolute"
        intro = f"**{plots.OBJECTIVES[objective]}** (mean change over {n} models, {unit}):"
        above, below = ("better", "worse") if style.direction[0] == "h" else ("worse", "better")
        scale, digits = (100, 1) if style.percent else (1, 3)
        lines = [*_signs(part, scale, above, below, digits)]
        for source, own in by_source.groupby("model"):
            signs = {above: own["ci_low"] > 0, below: own["ci_high"] < 0}
            said = [
                f"{word} with {', '.join(own.loc[clear, 'test_set'])}" for word, clear in signs.items() if clear.any()
            ]
            lines.append(f"- {source} ({own['n'].max()} models): {'; '.join(said) or 'not distinguishable from zero'}")
        display(Markdown("\n".join([intro, "", *lines])))


def variance_shares(shares):
    """Say for each objective which effect holds most of its variance, and what lies in the prompt set.

    Parameters
    ----------
    shares : DataFrame
        Tidy, from `sections.variance_decomposition`.
    """
    for objective, part in shares.dropna(subset=["value"]).groupby("model", sort=False):
        part = part.sort_values("value", ascending=False, kind="stable")
        first, rest = part.iloc[0], part.iloc[1:]
        as_large = rest.loc[rest["ci_high"] > first["ci_low"], "test_set"]
        text = f"**{plots.OBJECTIVES[objective].split(',')[0]}**: the largest share is that of {_share(first)}"
        text += f"; the intervals of {', '.join(as_large)} overlap with its own" if len(as_large) else ""
        own = part[part["test_set"].str.contains("prompt set")]
        text += f". With the prompt set: {', '.join(_share(row) for _, row in own.iterrows())}." if len(own) else "."
        display(Markdown(text))


def _share(row):
    limits = f" ({100 * row['ci_low']:.0f} to {100 * row['ci_high']:.0f})" if pd.notna(row["ci_low"]) else ""
    return f"{row['test_set']} {100 * row['value']:.0f}%{limits}"


def prompt_front(front):
    """Say which prompt sets no other beats, how sure that is, and of how many models it holds.

    Parameters
    ----------
    front : DataFrame
        From `sections.prompt_front`.
    """
    if front.empty:
        return
    known = [plots.metric_style(key).label for key in ("accuracy", "auroc", "ece") if key in front]
    lines = [
        f"- **{row.prompts}**{'' if row.on_front else ' (beaten)'}: on the front of {row.resamples_on_front:.0%} of "
        f"the resamples, and of {row.models_on_front:.0%} of the models by themselves"
        for row in front.itertuples()
        if row.on_front or row.resamples_on_front > 0.05
    ]
    n = f"{front['n_models'].max()} models, their bootstrap resamples"
    intro = f"**No other prompt set is at least as good in the means of {', '.join(known)}** ({n}):"
    display(Markdown("\n".join([intro, "", *lines])))


def choice_costs(costs):
    """Say what it costs one objective that the prompt set was chosen for another, or that no cost can be told.

    Parameters
    ----------
    costs : DataFrame
        From `sections.choice_costs`.
    """
    for chosen_by, part in costs.groupby("chosen_by", sort=False):
        lines = []
        for row in part.itertuples():
            style, by = plots.metric_style(row.costs), f"chosen by {plots.metric_style(row.costs).label}"
            value, low, high = (number * (100 if style.percent else 1) for number in (row.cost, row.low, row.high))
            digits, unit = (1, " points") if style.percent else (3, "")
            against = f"than with the set {by} ({row.rival})"
            if pd.isna(low):
                lines.append(
                    f"- {style.label} {value:.{digits}f}{unit} worse {against}; an interval needs three models"
                )
            elif low > 0:
                numbers = f"{value:.{digits}f}{unit} worse ({low:.{digits}f} to {high:.{digits}f})"
                lines.append(f"- it costs {style.label}: {numbers} {against}")
            else:
                numbers = f"{value:+.{digits}f}{unit}, {low:.{digits}f} to {high:.{digits}f}"
                said = "not distinguishable from none" if high >= 0 else "none"
                lines.append(f"- cost in {style.label} {said}: {numbers} worse {against}")
        chosen, n = part["chosen"].iloc[0], part["n_models"].max()
        label = plots.metric_style(chosen_by).label
        intro = f"**The prompt set with the best {label}** ({chosen}; {n} models, each with sets chosen on the others):"
        display(Markdown("\n".join([intro, "", *lines])))


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
    judged = study.save(
        judge_claims(results, study.models, id_set=p.id_set, prompts=study.main_prompts, level=p.ci_level), "claims"
    )
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
    found = regress(rows, study.models, id_set=p.id_set, prompts=study.main_prompts, level=p.ci_level)
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
    n = " to ".join(f"{size:,}" for size in dict.fromkeys((effects["n_models"].min(), effects["n_models"].max())))
    intro = f"Effects at equal other facts, in percentage points; {n} models, adjusted p below {1 - p.ci_level:.2g}:"
    display(Markdown("\n".join([intro, "", *lines])))
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
        display(Markdown("\n".join([f"**Cannot be told apart**: {counts}.", "", *(f"- {pair}" for pair in pairs)])))
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


def _label(group):
    """How figures and tables write a group."""
    return plots.GROUP_STYLE[group].label if group in plots.GROUP_STYLE else group


_CLASS = 'class="dataframe"'
_VERDICT_STYLE = {
    "supported": "background-color: #cfe0ff; color: black",
    "contradicted": "background-color: #ffd5c2; color: black",
    "not testable": "color: gray",
}
