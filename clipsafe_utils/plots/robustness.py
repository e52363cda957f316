"""Accuracy against accuracy, effective robustness, factors, and shape against texture."""

import numpy as np
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    FEW,
    GROUP_STYLE,
    REFERENCE,
    add_note,
    by_group,
    dot_plot,
    draw_scatter,
    factor_labels,
    format_ticks,
    group_labels,
    legend,
    make_axes,
    select_rows,
    shorten,
    shorten_all,
)
from clipsafe_utils.statistics import SCALES


def accuracy_on_accuracy(table, models, *, x, y, line=None, level=0.95, ax=None):
    """Accuracy on test set y against accuracy on test set x, one point a model.

    Parameters
    ----------
    table, models, ax
        See the module. Rows of metric "accuracy"; up to 40 models show their intervals.
    x, y : str
        Test sets.
    line : AccuracyLine, optional
        Baseline, drawn with its band at `level`; both axes take its scale.
    """
    rows = select_rows(table, models, ["accuracy"], [x, y])
    on_x, on_y = (rows[rows["test_set"] == name].set_index("model") for name in (x, y))
    if not len(common := on_x.index.intersection(on_y.index)):
        raise ClipsafeError(f"no model has an accuracy on both {x!r} and {y!r}; nothing to draw.")
    on_x, on_y = on_x.loc[common], on_y.loc[common]
    ax = make_axes(ax, 5.6)
    scale, eps = (line.scale, line.eps) if line else ("linear", 0)
    x_ends, y_ends = (_stretch(ax, which, on["value"], scale, eps) for which, on in (("x", on_x), ("y", on_y)))
    if len(common) <= 40:
        look = {"color": [GROUP_STYLE[group].color for group in on_x["group"]], "alpha": 0.6, "linewidth": 1}
        ax.hlines(on_y["value"], on_x["ci_low"], on_x["ci_high"], **look)
        ax.vlines(on_x["value"], on_y["ci_low"], on_y["ci_high"], **look)
    handles = draw_scatter(ax, on_x["value"], on_y["value"], on_x["group"])
    for model in common if len(common) <= FEW else []:
        at, look = (on_x["value"][model], on_y["value"][model]), {"textcoords": "offset points", "fontsize": 8}
        right = at[0] > on_x["value"].median()
        ax.annotate(shorten(model), at, xytext=(-6 if right else 6, 5), ha="right" if right else "left", **look)
    forward, inverse = SCALES[scale]
    grid = inverse(np.linspace(*forward(np.clip(x_ends, eps, 1 - eps)), 200))
    handles += ax.plot(grid, grid, color="0.5", linewidth=1, linestyle=":", label="y = x")
    above, below = f"above y = x: better on {shorten(y)}", "below y = x: worse"
    if line:
        band, ground = line.band(grid, level=level), {"color": "0.2", "alpha": 0.15, "linewidth": 0}
        handles += ax.plot(grid, band.value, color="0.2", linewidth=1.4, label=f"Line: {line.n:,} models, {scale} axes")
        handles += [ax.fill_between(grid, band.low, band.high, label=f"{level:.0%} band of the line", **ground)]
        above, below = "above the line: more robust than the baseline", "below the line: less robust"
    add_note(ax, 0.02, 0.98, above)
    add_note(ax, 0.98, 0.02, below)
    ax.set(xlim=x_ends, ylim=y_ends, xlabel=f"Accuracy on {shorten(x)} (%)", ylabel=f"Accuracy on {shorten(y)} (%)")
    legend(ax, handles)
    return ax


def effective_robustness(table, models, *, ax=None):
    """Effective robustness on each factor or shift (rows of that metric), the highest mean on top."""
    rows = select_rows(table, models, ["effective_robustness"])
    what = "Effective robustness (percentage points)\n← less robust than the baseline     more robust →"
    return _differences(rows, ax, what)


def error_ratios(table, models, *, ax=None):
    """Error ratio on each factor (rows of metric "error_ratio"); a log axis where values differ fourfold or more."""
    rows = select_rows(table, models, ["error_ratio"])
    ax = dot_plot(rows.assign(category=rows["test_set"]), ax, label=factor_labels)
    ax.axvline(1, **REFERENCE)
    low, high = min(rows["value"].min(), 1), max(rows["value"].max(), 1)
    if low > 0 and high / low >= 4:
        ax.set_xscale("log")
        ax.xaxis.set(
            major_locator=FixedLocator([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]), minor_locator=NullLocator()
        )
        format_ticks(ax.xaxis)
    ax.set_xlabel("Error ratio: error rate with the factor / overall\n← fewer errors     more errors →")
    return ax


def paired_effects(table, models, *, ax=None):
    """Effect of each factor on the same images (rows of metric "paired_effect"), the least harmful on top."""
    rows = select_rows(table, models, ["paired_effect"])
    what = "Accuracy with the factor minus accuracy without (percentage points)\n← harms     helps →"
    return _differences(rows, ax, what)


def _differences(rows, ax, xlabel):
    ax = dot_plot(rows.assign(category=rows["test_set"]), ax, label=factor_labels, percent=True, sign=True)
    ax.axvline(0, **REFERENCE)
    ax.set_xlabel(xlabel)
    return ax


def shape_bias(table, models, *, ax=None):
    """Shape bias of each model or human; on the right, the share of images that shape or texture decided.

    Parameters
    ----------
    table, models, ax
        See the module. Rows of metrics "shape_bias" and, for the text, "share_decided", of one test set. Up to 60
        models have a line each, sorted within their group; of more, each group has a strip.
    """
    rows = select_rows(table, models, ["shape_bias", "share_decided"], unit=["model", "metric"], need="shape_bias")
    decided = rows[rows["metric"] == "share_decided"].set_index("model")["value"]
    rows = by_group(rows[rows["metric"] == "shape_bias"].sort_values("value", ascending=False))
    strips = len(rows) > 60
    rows = rows.assign(category=rows["group" if strips else "model"], decided=decided.reindex(rows["model"]).to_numpy())
    order = list(dict.fromkeys(rows["category"]))
    ax = dot_plot(rows, ax, order=order, label=group_labels if strips else shorten_all, strips=strips, dodge=False)
    right = {"transform": ax.get_yaxis_transform(), "fontsize": 8}
    for position, (_, share) in enumerate(rows.groupby("category", sort=False)["decided"]):
        if share.notna().any():
            ends = dict.fromkeys(f"{100 * end:.0f}" for end in (share.min(), share.max()))
            ax.text(1.02, position, " to ".join(ends) + "%", va="center", **right)
    if rows["decided"].notna().any():
        ax.text(1.02, len(order) - 0.4, "decided\nby a cue", va="top", **right)
    ax.axvline(0.5, **REFERENCE, linestyle=":")
    ax.set_xlabel("Shape bias (shape decisions / decisions for either cue)\n← 0: pure texture     1: pure shape →")
    ax.set_xlim(-0.02, 1.02)
    return ax


def _stretch(ax, which, values, scale, eps):
    """Put an axis on a scale of `SCALES`, with percent ticks that keep their distance; returns its ends."""
    forward, inverse = SCALES[scale]
    getattr(ax, f"set_{which}scale")("function", functions=(lambda v: forward(np.clip(v, eps, 1 - eps)), inverse))
    low, high = forward(np.clip([values.min(), values.max()], eps, 1 - eps))
    margin = max(0.06 * (high - low), 0.02)
    ends = inverse(np.array([low - margin, high + margin]))
    ticks = []
    for tick in np.array([50, 10, 90, 1, 99, 0.1, 99.9, 30, 70, 20, 80, 40, 60, 5, 95, 2, 98]) / 100:
        apart = all(abs(forward(tick) - forward(kept)) > 0.06 * (high - low + 2 * margin) for kept in ticks)
        ticks += [tick] * bool(ends[0] <= tick <= ends[1] and apart)
    if len(ticks) < 4:
        ticks = [tick for tick in MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(*ends) if 0 <= tick <= 1]
    axis = getattr(ax, f"{which}axis")
    axis.set(major_locator=FixedLocator(sorted(ticks)), minor_locator=NullLocator())
    format_ticks(axis, percent=True)
    return ends
