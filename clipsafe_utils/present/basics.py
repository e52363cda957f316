"""What any page shows: what is compared, tables people can sort, figures with captions, what is missing."""

import warnings

import itables
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display

from clipsafe_utils import plots
from clipsafe_utils.zoo import distinct

MOST_ROWS = 2000
"""Rows of a table that a page shows; the file has them all."""

TABLE_CLASS = 'class="dataframe"'

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
        display(
            pd.DataFrame(rows).style.hide(axis="index").format({"images": "{:,}"}).set_table_attributes(TABLE_CLASS)
        )
    counts = distinct(study.models)["group"].value_counts()
    listed = ", ".join(f"{count:,} {group_label(group)}" for group, count in counts.items())
    n = int(counts.sum())
    display(Markdown(f"**Suite {study.parameters.suite}**: {listed} ({n:,} model{'s' * (n != 1)} in all)."))
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
    frame = frame.astype(dict.fromkeys(frame.select_dtypes("Int64"), object))  # else <NA> makes numbers sort as text
    frame = frame.fillna(dict.fromkeys(frame.select_dtypes(["object", "string"]), ""))
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
    shown = rows.assign(group=rows["model"].map(study.models["group"]).map(group_label))
    if wide:
        shown = shown.pivot_table(index=["model", "group"], columns="test_set", values="value").reset_index()
        shown.columns.name = None
        images = rows.groupby("test_set")["n"].max()
        few = [name for name, n in images.items() if 0 < n < plots.FEW_IMAGES]
        shown = shown.rename(columns={name: f"{name} {plots.FEW_MARK}" for name in few})
    else:
        what, found = ["model", "group", "test_set", "metric"], ["value", "ci_low", "ci_high", "n", "ci_kind"]
        if shown.duplicated(what).any():  # the protocol tells rows apart: it stands in sight, the group further right
            shown = shown[["model", "test_set", "metric", "protocol", *found, "group"]]
        else:
            shown = shown[[*what, *found, "protocol"]]
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


def say(intro, lines):
    """Show a sentence and a list of bullets under it."""
    display(Markdown("\n".join([intro, "", *lines])))


def group_label(group):
    """How figures and tables write a group."""
    return plots.GROUP_STYLE[group].label if group in plots.GROUP_STYLE else group
