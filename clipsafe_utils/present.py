"""What a notebook shows: tables people can sort, figures with captions, sentences computed from numbers."""

import warnings

import itables
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display

from clipsafe_utils import plots
from clipsafe_utils.prompts import class_names, duplicated_names
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


def figure(study, name, draw, rows, *args, what, direction="", captioned=None, **kwargs):
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
    text = plots.caption(described, what=what, direction=direction, models=study.models)
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
    scale = 100 if unit == "percentage points" else 1
    lines = []
    for text, chosen in (
        (above, part[part["low"] > 0]),
        (below, part[part["high"] < 0]),
        ("not distinguishable from zero", part[(part["low"] <= 0) & (part["high"] >= 0)]),
    ):
        listed = ", ".join(
            f"{r.test_set.rpartition('/')[2]} ({scale * r.mean_:+.1f}, {scale * r.low:.1f} to {scale * r.high:.1f})"
            for r in chosen.rename(columns={"mean": "mean_"}).itertuples()
        )
        lines.append(f"- {text}: {len(chosen)} of {len(part)}{': ' + listed if listed else ''}")
    n = part["n_models"].max()
    intro = f"**{_label(group)}** ({n} models; mean in {unit}, bootstrap interval over models):"
    display(Markdown("\n".join([intro, "", *lines])))


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
    names = ("accuracy", "visual_factors", "shape_bias", "ood_detection", "calibration", "prompt_effects")
    robustness = ("effective_robustness_shifts", "effective_robustness_factors")
    paths = [study.folder / "tables" / f"{name}.parquet" for name in (*names, *robustness)]
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
