"""Accuracy against accuracy, effective robustness, and visual factors."""

import numpy as np
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    FEW,
    FEW_IMAGES,
    FEW_MARK,
    GROUP_STYLE,
    REFERENCE,
    add_note,
    by_group,
    dot_plot,
    draw_scatter,
    factor_labels,
    format_ticks,
    group_handles,
    heat_map,
    legend,
    make_axes,
    make_handle,
    select_rows,
    set_categories,
    shorten,
    sorted_categories,
)
from clipsafe_utils.statistics import SCALES
from clipsafe_utils.zoo import quantity


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
    ax = dot_plot(rows.assign(category=rows["test_set"]), ax, label=_marked(rows))
    _explain_mark(ax)
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
    ax = dot_plot(rows.assign(category=rows["test_set"]), ax, label=_marked(rows), percent=True, sign=True)
    _explain_mark(ax)
    ax.axvline(0, **REFERENCE)
    ax.set_xlabel(xlabel)
    return ax


def shrinkage(shrunken, raw, models, *, ax=None):
    """Effective robustness on each factor as measured (above) and drawn towards the group's mean (below), joined.

    Parameters
    ----------
    shrunken, raw : DataFrame
        Tidy rows of metrics "effective_robustness_shrunken" and "effective_robustness"; models and test sets that both
        have are drawn.
    models, ax
        See the module.
    """
    before = select_rows(raw, models, ["effective_robustness"])
    after = select_rows(shrunken, models, ["effective_robustness_shrunken"])
    rows = before.merge(after[["model", "test_set", "value"]], on=["model", "test_set"], suffixes=("", "_shrunken"))
    if rows.empty:
        raise ClipsafeError("no model has effective robustness both as measured and shrunken; nothing to draw.")
    rows = rows.assign(category=rows["test_set"])
    order, lanes = sorted_categories(rows), list(dict.fromkeys(by_group(rows)["group"]))
    ax = make_axes(ax, 1.5 + len(order) * (0.24 * len(lanes) + 0.1))
    for place, group in enumerate(lanes):
        part, style = rows[rows["group"] == group], GROUP_STYLE[group]
        y = part["category"].map(order.index).to_numpy() + 0.84 * ((place + 0.5) / len(lanes) - 0.5)
        x, drawn = part["value"].to_numpy(), part["value_shrunken"].to_numpy()
        top, low = y - 0.16 / len(lanes), y + 0.2 / len(lanes)
        ax.plot([x, drawn], [top, low], color=style.color, linewidth=0.6, alpha=0.35, zorder=2)
        look = {"marker": style.marker, "s": 14, "zorder": 3}
        ax.scatter(x, top, facecolors="white", edgecolors=style.color, linewidths=0.7, alpha=0.7, **look)
        ax.scatter(drawn, low, color=style.color, linewidths=0, alpha=0.8, **look)
    counts = rows.groupby("test_set")["n"].max()
    label = _marked(rows)
    set_categories(ax, [f"{text} (n = {counts[name]:,})" for text, name in zip(label(order), order, strict=True)])
    _explain_mark(ax)
    format_ticks(ax.xaxis, percent=True, sign=True)
    ax.axvline(0, **REFERENCE)
    ax.set_xlabel("Effective robustness (percentage points)\n← less robust than the baseline     more robust →")
    kinds = [("as measured", "none"), ("towards the group's mean", "full")]
    legend(ax, [*group_handles(rows), *(make_handle("o", "0.4", text, fill) for text, fill in kinds)])
    return ax


def stratum_means(table, *, ax=None):
    """Mean effective robustness of each stratum of models (rows) on each factor (columns), in percentage points.

    Parameters
    ----------
    table : DataFrame
        Tidy rows from `sections.stratum_means`; coloured where the interval leaves 0 out.
    ax
        See the module.
    """
    rows = table[table["metric"].str.endswith("_over_models")]
    if rows.empty:
        raise ClipsafeError("the table has no rows of metric METRIC_over_models; nothing to draw.")
    groups = [style.label for style in GROUP_STYLE.values()]
    split = {name: name.partition(", ")[::2] for name in rows["model"]}
    size = {name: np.nan_to_num(quantity(fact), nan=np.inf) for name, (_, fact) in split.items()}
    strata = sorted(split, key=lambda name: (groups.index(split[name][0]), size[name], name))
    means = rows.groupby("test_set")["value"].mean().sort_values(ascending=False, kind="stable")
    counts = rows.groupby("model")["n"].max()
    ax = make_axes(ax, 1.5 + 0.26 * len(strata))
    look = {"middle": 0, "span": rows["value"].abs().max() or 1, "text": lambda v: f"{round(100 * v, 1) or 0:+.1f}"}
    heat_map(ax, rows, strata, list(means.index), **look)
    ax.set_xticks(np.arange(len(means)) + 0.5, factor_labels(list(means.index)), rotation=40, ha="right")
    ax.set_yticks(np.arange(len(strata)) + 0.5, [f"{name} ({counts[name]:,})" for name in strata])
    ax.set_xlabel("Mean effective robustness (percentage points)\ncoloured where distinguishable from 0")
    return ax


def _marked(rows):
    """Labels of factors, those that few images show with a mark."""
    images = rows.groupby("test_set")["n"].max()

    def label(names):
        few = [bool(0 < images[name] < FEW_IMAGES) for name in names]
        return [text + f" {FEW_MARK}" * mark for text, mark in zip(factor_labels(names), few, strict=True)]

    return label


def _explain_mark(ax):
    if any(FEW_MARK in text.get_text() for text in ax.get_yticklabels()):
        add_note(ax, 0.99, 0.01, f"{FEW_MARK} fewer than {FEW_IMAGES} images")


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
