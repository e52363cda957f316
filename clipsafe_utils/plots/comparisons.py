"""Comparisons of models that differ in one thing."""

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    REFERENCE,
    GroupStyle,
    draw_dots,
    factor_labels,
    format_ticks,
    legend,
    make_axes,
    make_handle,
    metric_style,
    series_colors,
    set_categories,
)


def comparisons(table, *, ax=None):
    """Values with their intervals on each test set or factor, a lane a comparison or recipe.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of one metric, METRIC_difference or METRIC_over_seeds; `model` names the comparison or the recipe.
    ax
        See the module.
    """
    rows = table.dropna(subset=["value"])
    if rows["metric"].nunique() != 1:
        raise ClipsafeError(f"comparisons are drawn for one metric; got {sorted(set(rows['metric']))}.")
    metric, _, kind = rows["metric"].iloc[0].rpartition("_")
    metric = metric.removesuffix("_over")
    style, is_difference = metric_style(metric), kind == "difference"
    order = list(rows.groupby("test_set")["value"].mean().sort_values(ascending=False, kind="stable").index)
    ax = make_axes(ax, lanes_height(rows, order))
    handles = draw_lanes(rows, ax, order)
    set_categories(ax, factor_labels(order))
    if is_difference or metric == "effective_robustness":
        ax.axvline(0, **REFERENCE)
    format_ticks(ax.xaxis, style.percent, sign=is_difference)
    unit = ("percentage points" if is_difference else "%") if style.percent else ""
    ax.set_xlabel(f"{style.label}{': difference' * is_difference}{f' ({unit})' * bool(unit)}")
    legend(ax, handles)
    return ax


def lanes_height(rows, order):
    return 1.3 + len(order) * max(0.3, 0.14 * rows["model"].nunique() + 0.08)


def draw_lanes(rows, ax, order):
    """Values with their intervals, a lane a `model`, at the place of their `test_set` in `order`; returns handles."""
    lanes, handles = sorted(set(rows["model"])), []
    for index, (lane, color) in enumerate(zip(lanes, series_colors(len(lanes)), strict=True)):
        part = rows[rows["model"] == lane]
        y = part["test_set"].map(order.index) + 0.8 * ((index + 0.5) / len(lanes) - 0.5)
        look = GroupStyle(lane, color, "osv^DPX"[index % 7])
        draw_dots(ax, part["value"], y, part["ci_low"], part["ci_high"], look)
        handles.append(make_handle(look.marker, color, lane))
    return handles
