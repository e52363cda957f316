"""What prompt sets change, for which models, how much of the variance that is, and which sets no other beats."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    METRICS,
    REFERENCE,
    dot_handles,
    dot_height,
    dot_plot,
    finish_figure,
    format_ticks,
    legend,
    make_axes,
    make_handle,
    make_panels,
    marker_look,
    metric_label,
    metric_style,
    select_rows,
    series_colors,
    set_categories,
    shorten,
)
from clipsafe_utils.plots.comparisons import draw_lanes, lanes_height

OBJECTIVES = {
    "accuracy": "Accuracy",
    "ece": "ECE",
    "ece_scaled": "ECE after scaling",
    "auroc": "AUROC, main score",
    "auroc_mcm": "AUROC, MCM",
}


def prompt_effects(table, models, *, reference="the first prompt set", panels=None):
    """What prompt sets change on the same models and images, one panel a metric and test set.

    Parameters
    ----------
    table, models, panels
        See the module. Rows of metrics METRIC_difference; `protocol` names the prompt set.
    reference : str
        The prompt set that differences are taken to.
    """
    known = [f"{metric}_difference" for metric in METRICS]
    table = table.assign(category=table["protocol"].str.removeprefix("prompts ").str.split(", ").str[0])
    rows = select_rows(table, models, known, unit=["model", "test_set", "category", "metric"])
    order = sorted(set(rows["category"]))
    shown = sorted(rows.groupby(["metric", "test_set"]), key=lambda item: known.index(item[0][0]))
    labels = [f"{metric_style(name.removesuffix('_difference')).label} on {shorten(test)}" for (name, test), _ in shown]
    figure, axes = make_panels(panels, labels, dot_height(rows, order), sharex=False)
    for ((name, _), part), ax in zip(shown, axes, strict=True):
        style = metric_style(name.removesuffix("_difference"))
        dot_plot(part, ax, order=order, percent=style.percent, sign=True, among=rows)
        ax.axvline(0, **REFERENCE)
        arrows = {"h": "← worse     better →", "l": "← better     worse →"}.get(style.direction[0], "")
        ax.set_xlabel(f"{'percentage points' if style.percent else 'difference'}\n{arrows}")
    return finish_figure(figure, dot_handles(rows), xlabel=f"Difference to {reference}, paired by image")


def mean_prompt_effects(table, *, reference="the first prompt set", panels=None):
    """Mean change by prompt set, one panel an objective, a lane all models and each training source.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of metrics OBJECTIVE_difference; `model` names the models, `test_set` the prompt set.
    reference : str
        The prompt set that differences are taken to.
    panels
        See the module.
    """
    known = [objective for objective in OBJECTIVES if f"{objective}_difference" in set(table["metric"])]
    if not known:
        raise ClipsafeError("the table has no rows of a metric OBJECTIVE_difference; nothing to draw.")
    order = table[table["metric"] == f"{known[0]}_difference"].groupby("test_set")["value"].mean()
    order = list(order.sort_values(ascending=False, kind="stable").index)
    labels = [OBJECTIVES[objective] for objective in known]
    figure, axes = make_panels(panels, labels, lanes_height(table, order), sharex=False)
    for objective, ax in zip(known, axes, strict=True):
        style = metric_style(objective.split("_")[0])
        handles = draw_lanes(table[table["metric"] == f"{objective}_difference"], ax, order)
        set_categories(ax, order)
        format_ticks(ax.xaxis, style.percent, sign=True)
        ax.locator_params(axis="x", nbins=5)
        ax.axvline(0, **REFERENCE)
        arrows = "← worse     better →" if style.direction[0] == "h" else "← better     worse →"
        ax.set_xlabel(f"{'percentage points' if style.percent else 'difference'}\n{arrows}")
    return finish_figure(figure, handles, xlabel=f"Mean difference to {reference}, paired by model")


def variance_shares(table, *, ax=None):
    """Share of each effect in an objective's variance, a lane an objective, main effects on top.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of metric "variance_share"; `model` names the objective, `test_set` the effect ("prompt set x model").
    ax
        See the module.
    """
    rows = table.dropna(subset=["value"]).replace({"model": OBJECTIVES | {"auroc": "AUROC"}})
    if rows.empty:
        raise ClipsafeError("the table has no rows of metric variance_share; nothing to draw.")
    effects = rows.groupby("test_set", as_index=False)["value"].mean()
    effects = effects.assign(size=effects["test_set"].str.count(" x "))
    order = list(effects.sort_values(["size", "value"], ascending=[True, False], kind="stable")["test_set"])
    ax = make_axes(ax, lanes_height(rows, order))
    handles = draw_lanes(rows, ax, order)
    set_categories(ax, [effect.replace(" x ", " \u00d7 ") for effect in order])
    ax.axvline(0, **REFERENCE)
    format_ticks(ax.xaxis, percent=True)
    ax.set_xlabel("Share of the variance (%)")
    legend(ax, handles)
    return ax


def prompt_front(front, *, panels=None):
    """Means of two objectives against each other, one panel a pair; full marks are beaten by no other in all three.

    Parameters
    ----------
    front : DataFrame
        From `sections.prompt_front`. Bars are where a mean would lie by the interval of its paired difference to the
        main set's; the line joins the sets that no other beats in the two objectives of the panel. A set that is
        outside is named in the legend with its numbers, for the others to be told apart.
    panels
        See the module.
    """
    pairs = list(combinations([key for key in ("accuracy", "auroc", "ece") if key in front], 2))
    if front.empty or not pairs:
        raise ClipsafeError("two objectives of one prompt set or more are needed; nothing to draw.")
    if panels is None:
        panels = plt.subplots(1, len(pairs), figsize=(8, 4.2), squeeze=False, layout="constrained")[1].ravel()
    keys, handles = list(dict.fromkeys(key for pair in pairs for key in pair)), []
    for index, (row, color) in enumerate(zip(front.to_dict("records"), series_colors(len(front)), strict=True)):
        marker, fill = "osv^DPX*phd<>"[index % 13], "full" if row["on_front"] else "none"
        name = row["prompts"]
        if row["outside"]:
            style = {key: metric_style(key) for key in keys}
            numbers = (f"{s.label} {f'{row[key]:.1%}' if s.percent else f'{row[key]:.3f}'}" for key, s in style.items())
            name += f" (outside: {', '.join(numbers)})"
        handles.append(make_handle(marker, color, name, fill))
        bars = {"color": color, "linewidth": 1.2, "alpha": 0.7, "zorder": 2}
        for (x, y), ax in zip(pairs, panels, strict=False):
            if not row["outside"]:
                ax.hlines(row[y], row[f"{x}_low"], row[f"{x}_high"], **bars)
                ax.vlines(row[x], row[f"{y}_low"], row[f"{y}_high"], **bars)
                ax.plot(row[x], row[y], **marker_look(marker, color, fill) | {"markersize": 7})
    for (x, y), ax in zip(pairs, panels, strict=False):
        line = front.loc[front[f"on_front_{x}_{y}"] & ~front["outside"], [x, y]].sort_values(x)
        ax.plot(line[x], line[y], color="0.6", linewidth=1, linestyle="--", zorder=1)
        ax.set(xlabel=metric_label(x), ylabel=metric_label(y))
        for axis, key in ((ax.xaxis, x), (ax.yaxis, y)):
            format_ticks(axis, metric_style(key).percent)
        ax.locator_params(nbins=5)
    figure = np.ravel(panels)[0].figure
    legend(figure, handles)
    return figure
