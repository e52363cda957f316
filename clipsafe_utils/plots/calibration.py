"""Calibration before and after temperature scaling."""

import numpy as np

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    GROUP_STYLE,
    REFERENCE,
    VALUES,
    add_note,
    by_group,
    draw_dots,
    finish_figure,
    format_ticks,
    group_handles,
    group_labels,
    legend,
    make_axes,
    make_handle,
    make_panels,
    metric_label,
    metric_style,
    select_rows,
    series_colors,
    set_categories,
    shorten,
    shorten_all,
)


def reliability_diagram(curves, *, ax=None):
    """Accuracy against confidence with Wilson bars and, below, how many images each bin holds.

    Parameters
    ----------
    curves : dict of str to ReliabilityCurve
        Label -> curve.
    ax
        See the module; the lower panel hangs under it.
    """
    if not curves:
        raise ClipsafeError("a reliability diagram needs at least one curve; got none.")
    ax = make_axes(ax, 6.4)
    shares = ax.inset_axes([0, -0.28, 1, 0.24], sharex=ax)
    ax.plot([0, 1], [0, 1], **REFERENCE, linestyle=":")
    for index, ((name, curve), color) in enumerate(zip(curves.items(), series_colors(len(curves)), strict=True)):
        at, n = curve.count > 0, curve.count.sum()
        look = {"marker": "osD^vP"[index % 6], "markersize": 5, "linewidth": 1.2}
        ax.plot(curve.confidence[at], curve.accuracy[at], color=color, label=f"{shorten(name)} (n = {n:,})", **look)
        ax.vlines(curve.confidence[at], curve.low[at], curve.high[at], color=color, linewidth=1.2)
        shares.stairs(curve.count / n, curve.edges, color=color, linewidth=1.6)
    add_note(ax, 0.02, 0.98, "underconfident: right more often than it says")
    add_note(ax, 0.98, 0.02, "overconfident: right less often than it says")
    for axis in (ax.yaxis, shares.xaxis, shares.yaxis):
        format_ticks(axis, percent=True)
    ax.tick_params(labelbottom=False)
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel=f"Accuracy (%), {curve.level:.0%} Wilson bars")
    shares.set(xlabel="Confidence (%)", ylabel="Images (%)")
    legend(ax, ax.get_legend_handles_labels()[0])
    return ax


def calibration_before_after(table, models, *, metric="ece", panels=None):
    """A calibration metric before and after temperature scaling, one panel a test set.

    Parameters
    ----------
    table, models, panels
        See the module. Rows of METRIC and METRIC_scaled; a model needs both. Up to 12 models have a line each; of more,
        each group has one: a thin line a model, and the arrow of the means.
    metric : str, default "ece"
    """
    unit, scaled = ["model", "test_set", "metric"], f"{metric}_scaled"
    rows = by_group(select_rows(table, models, [metric, scaled], unit=unit, need=metric))
    pairs = rows[rows["metric"] == metric].merge(
        rows[rows["metric"] == scaled][[*unit[:2], *VALUES]], on=unit[:2], suffixes=("", "_after")
    )
    if pairs.empty:
        raise ClipsafeError(f"no model has both {metric!r} and {scaled!r} on one test set; nothing to compare.")
    by_model = pairs["model"].nunique() <= 12
    lanes = list(dict.fromkeys(pairs["model" if by_model else "group"]))
    names = sorted(set(pairs["test_set"]))
    figure, axes = make_panels(panels, names, 0.7 + 0.36 * len(lanes))
    for name, ax in zip(names, axes, strict=True):
        for lane, part in pairs[pairs["test_set"] == name].groupby("model" if by_model else "group"):
            _arrow(ax, lanes.index(lane), part, GROUP_STYLE[part["group"].iloc[0]])
        set_categories(ax, shorten_all(lanes) if by_model else group_labels(lanes))
        format_ticks(ax.xaxis, metric_style(metric).percent)
    mean = "" if by_model else " (mean)"
    ends = [
        make_handle("o", "0.3", f"Before{mean}", "none"),
        make_handle("o", "0.3", f"After temperature scaling{mean}"),
    ]
    return finish_figure(figure, ends + group_handles(pairs), xlabel=metric_label(metric))


def _arrow(ax, y, pairs, style):
    """From before (open) to after (filled): one model with its intervals, or the means over a thin line a model."""
    upper, lower, alone = y - 0.15, y + 0.15, len(pairs) == 1
    before, after = (pairs[[f"{column}{end}" for column in VALUES]].mean() for end in ("", "_after"))
    if not alone:
        before.iloc[1:] = after.iloc[1:] = np.nan
        look = {"color": style.color, "alpha": 0.15 + 0.5 / len(pairs), "linewidth": 0.7, "zorder": 1}
        ax.plot(pairs[["value", "value_after"]].to_numpy().T, [upper, lower], **look)
    draw_dots(ax, before.iloc[0], upper, *before.iloc[1:], style, "none")
    draw_dots(ax, after.iloc[0], lower, *after.iloc[1:], style)
    arrow = {"arrowstyle": "-|>", "color": style.color, "shrinkA": 3, "shrinkB": 3}
    ax.annotate("", (after.iloc[0], lower), (before.iloc[0], upper), arrowprops=arrow)
