"""Calibration before and after temperature scaling: by group, bin, temperature, coverage and accuracy."""

from textwrap import fill

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    GROUP_STYLE,
    REFERENCE,
    VALUES,
    add_note,
    by_group,
    draw_dots,
    draw_scatter,
    factor_labels,
    finish_figure,
    format_ticks,
    group_handles,
    group_labels,
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
        look = {"colors": style.color, "alpha": 0.15 + 0.5 / len(pairs), "linewidths": 0.7, "zorder": 1}
        ends = pairs[["value", "value_after"]].to_numpy()
        ax.add_collection(LineCollection(np.dstack([ends, np.broadcast_to([upper, lower], ends.shape)]), **look))
    draw_dots(ax, before.iloc[0], upper, *before.iloc[1:], style, "none")
    draw_dots(ax, after.iloc[0], lower, *after.iloc[1:], style)
    arrow = {"arrowstyle": "-|>", "color": style.color, "shrinkA": 3, "shrinkB": 3}
    ax.annotate("", (after.iloc[0], lower), (before.iloc[0], upper), arrowprops=arrow)


SIGNED = ("overconfidence", "ece_excess", "nll_excess")
"""Metrics whose 0 is drawn."""

FEWEST_IMAGES = 5
"""In a bin of a small reliability diagram; fewer say nothing and hide the rest."""


def means_by_group(table, metrics, *, counts=None, panels=None):
    """Means over the models of each group with their intervals, on each test set; a panel a metric.

    Parameters
    ----------
    table : DataFrame
        Tidy rows from `sections.means_by_group`; `model` holds the group.
    metrics : list of str
        From left to right; test sets are sorted by the last of them that has numbers.
    counts : Series, optional
        Test set -> number of images, written behind its name.
    panels
        See the module.
    """
    rows = _of_groups(table, metrics)
    metrics = [metric for metric in metrics if (rows["metric"] == metric).any()]
    order = rows[rows["metric"] == metrics[-1]].groupby("test_set")["value"].mean().sort_values(ascending=False)
    order, lanes = list(order.index), _lanes(rows)
    bases = [metric.removesuffix("_scaled") for metric in metrics]
    height = 0.6 + len(order) * max(0.3, 0.14 * len(lanes) + 0.08)
    names = [metric_style(metric).label for metric in metrics]
    figure, axes = make_panels(panels, names, height, sharex=len(set(bases)) == 1)
    labels = factor_labels(order)
    if counts is not None:
        labels = [f"{label} (n = {counts[name]:,})" for label, name in zip(labels, order, strict=True)]
    for metric, base, ax in zip(metrics, bases, axes, strict=True):
        for index, (label, style) in enumerate(lanes.items()):
            part = rows[(rows["model"] == label) & (rows["metric"] == metric) & rows["test_set"].isin(order)]
            y = part["test_set"].map(order.index) + 0.8 * ((index + 0.5) / len(lanes) - 0.5)
            draw_dots(ax, part["value"], y, part["ci_low"], part["ci_high"], style)
        set_categories(ax, labels)
        format_ticks(ax.xaxis, metric_style(metric).percent, sign=base in SIGNED)
        ax.locator_params(axis="x", nbins=5)
        if base in SIGNED:
            ax.axvline(0, **REFERENCE)
        ax.set_title(fill(metric_style(metric).label, 66 // len(metrics)), loc="left")
    kinds = dict.fromkeys(metric_label(base) for base in bases)
    return finish_figure(figure, _group_handles(rows, lanes), xlabel="; ".join(kinds) if len(kinds) == 1 else "%")


def _of_groups(table, metrics):
    rows = table[table["metric"].isin(metrics) & table["value"].notna()]
    if rows.empty:
        raise ClipsafeError(f"the table has no rows of metric {' or '.join(metrics)}; nothing to draw.")
    return rows


def _lanes(rows):
    """Group as written -> its style, in the order of legends."""
    return {style.label: style for style in GROUP_STYLE.values() if (rows["model"] == style.label).any()}


def _group_handles(rows, lanes):
    counts = rows.groupby("model")["n"].max()
    return [make_handle(style.marker, style.color, f"{label} ({counts[label]:,})") for label, style in lanes.items()]


def reliability_by_group(shown, models, *, panels=None):
    """Reliability before and after scaling with Wilson bands: a column a group, a row a test set.

    Parameters
    ----------
    shown : list of GroupReliability
        From `sections.reliability_by_group`: each with model, test_set, curves (dict of label to ReliabilityCurve).
    models, panels
        See the module.
    """
    if not shown:
        raise ClipsafeError("a reliability diagram needs at least one curve; got none.")
    sets = list(dict.fromkeys(one.test_set for one in shown))
    groups = [group for group in GROUP_STYLE if any(models["group"][one.model] == group for one in shown)]
    titles = [GROUP_STYLE[group].label for group in groups] * len(sets)
    figure, axes = make_panels(panels, titles, 1.9, columns=len(groups))
    grid = dict(zip([(name, group) for name in sets for group in groups], axes, strict=True))
    for one in shown:
        group = models["group"][one.model]
        ax, style = grid[one.test_set, group], GROUP_STYLE[group]
        ax.plot([0, 1], [0, 1], **REFERENCE, linestyle=":")
        for (label, curve), color in zip(one.curves.items(), ("0.55", style.color), strict=False):
            at = curve.count >= FEWEST_IMAGES
            ax.fill_between(
                curve.confidence[at], curve.low[at], curve.high[at], color=color, alpha=0.2, linewidth=0, label=label
            )
            ax.plot(
                curve.confidence[at], curve.accuracy[at], color=color, marker=style.marker, markersize=3, linewidth=1.2
            )
        if one.test_set == sets[0]:
            ax.set_title(f"{style.label}\n{shorten(one.model, 22)}", loc="left", fontsize=8)
            add_note(ax, 0.98, 0.02, ", ".join(list(one.curves)[1:]), fontsize=8, bbox=None)
    for (name, group), ax in grid.items():
        ax.set(xlim=(0, 1), ylim=(0, 1))
        if name != sets[0]:
            ax.set_title("", loc="left")
        ax.set_xticks([0, 0.5, 1])
        ax.set_yticks([0, 0.5, 1])
        format_ticks(ax.xaxis, percent=True)
        format_ticks(ax.yaxis, percent=True)
        if group == groups[0]:
            ax.set_ylabel(shorten(name, 24))
    level = next(iter(shown[0].curves.values())).level
    handles = [
        make_handle("o", "0.55", "As it comes"),
        make_handle("o", GROUP_STYLE[groups[0]].color, "After scaling, in colour"),
    ]
    labels = {
        "xlabel": "Confidence (%); below the diagonal: overconfident",
        "ylabel": f"Accuracy (%), {level:.0%} Wilson",
    }
    return finish_figure(figure, handles, **labels)


def temperature_transfer(table, *, id_set, metric="ece_scaled", ax=None):
    """Calibration on each test set (columns) with the temperature of each (rows), mean over models.

    Parameters
    ----------
    table : DataFrame
        Tidy rows from `sections.transfer_means`; the protocol is "temperature of SET".
    id_set : str
        Its row comes first and has a frame: the temperature that everybody uses.
    metric : str, default "ece_scaled"
    ax
        See the module.
    """
    rows = _of_groups(table, [metric])
    source = rows["protocol"].str.removeprefix("temperature of ")
    values = rows.assign(source=source).pivot(index="source", columns="test_set", values="value")
    order = values.loc[id_set].sort_values().index if id_set in values.index else values.columns
    order = [*(name for name in order if name == id_set), *(name for name in order if name != id_set)]
    values = values.reindex(index=order, columns=order)
    style, scale = metric_style(metric), 100 if metric_style(metric).percent else 1
    ax = make_axes(ax, 2.9 + 0.34 * len(order))
    mesh = ax.pcolormesh(scale * values.to_numpy(), cmap="Blues", vmin=0, edgecolors="white", linewidth=0.5)
    for (y, x), value in np.ndenumerate(scale * values.to_numpy()):
        if np.isfinite(value):
            color = "white" if mesh.norm(value) > 0.6 else "black"
            weight = "bold" if value == np.nanmin(scale * values.to_numpy()[:, x]) else "normal"
            text = f"{value:.1f}" if scale == 100 else f"{value:.2f}"
            ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9, color=color, fontweight=weight)
    ax.add_patch(
        Rectangle((0, 0), len(order), 1, fill=False, edgecolor="black", linewidth=1.6, zorder=4, clip_on=False)
    )
    ax.invert_yaxis()
    ax.set_xticks(np.arange(len(order)) + 0.5, shorten_all(order), rotation=40, ha="right")
    ax.set_yticks(np.arange(len(order)) + 0.5, shorten_all(order))
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set(ylabel="Temperature fitted on", xlabel=f"{style.label}{' (%)' * style.percent} on the held-out part of")
    return ax


def temperature_sizes(table, *, ax=None):
    """NLL by the number of images that the temperature was fitted on, mean and interval of each group.

    Parameters
    ----------
    table : DataFrame
        Tidy rows from `sections.means_by_group`, metric "nll_excess" on test sets "SET/N images".
    ax
        See the module.
    """
    rows = _of_groups(table, ["nll_excess"])
    rows = rows.assign(size=rows["test_set"].str.extract(r"/(\d+) images$")[0].astype(int)).sort_values("size")
    sizes, lanes, ax = sorted(set(rows["size"])), _lanes(rows), make_axes(ax, 4)
    for index, (label, style) in enumerate(lanes.items()):
        part = rows[rows["model"] == label]
        x = part["size"].map(sizes.index) + 0.5 * ((index + 0.5) / len(lanes) - 0.5)
        ax.vlines(x, part["ci_low"], part["ci_high"], color=style.color, linewidth=1.4, alpha=0.7)
        ax.plot(x, part["value"], **marker_look(style.marker, style.color))
        fitted = part["size"] > 0
        ax.plot(x[fitted], part["value"][fitted], color=style.color, linewidth=1, alpha=0.6)
    ax.axhline(0, **REFERENCE)
    ax.set_xticks(range(len(sizes)), [f"{size:,}" if size else "none:\nas it comes" for size in sizes])
    ax.set(
        xlabel="Images that the temperature was fitted on",
        ylabel="NLL beyond that of the whole share's\ntemperature (nats)",
    )
    format_ticks(ax.yaxis)
    legend(ax, _group_handles(rows, lanes))
    return ax


def risk_coverage(table, *, panels=None):
    """Error rate among the most confident images against their share, mean of each group with its band; a panel a set.

    Parameters
    ----------
    table : DataFrame
        Tidy rows from `sections.risk_coverage_means`: metric "risk", the protocol is "coverage 0.50".
    panels
        See the module.
    """
    rows = _of_groups(table, ["risk"])
    rows = rows.assign(coverage=rows["protocol"].str.removeprefix("coverage ").astype(float)).sort_values("coverage")
    lanes, names = _lanes(rows), list(dict.fromkeys(rows["test_set"]))
    figure, axes = make_panels(panels, names, 3.2, columns=2)
    for name, ax in zip(names, axes, strict=True):
        for label, style in lanes.items():
            part = rows[(rows["test_set"] == name) & (rows["model"] == label)]
            ax.fill_between(
                part["coverage"], part["ci_low"], part["ci_high"], color=style.color, alpha=0.15, linewidth=0
            )
            look = {"marker": style.marker, "markevery": 10, "markersize": 5, "linewidth": 1.4}
            ax.plot(part["coverage"], part["value"], color=style.color, **look)
        format_ticks(ax.xaxis, percent=True)
        format_ticks(ax.yaxis, percent=True)
        ax.set_xlim(0, 1)
    axes[0].set_ylim(0, min(1, 1.05 * rows[["value", "ci_high"]].max(axis=None)))
    labels = {"xlabel": "Images answered, the most confident first (%)", "ylabel": "Errors among them (%)"}
    return finish_figure(figure, _group_handles(rows, lanes), **labels)


def ece_against_accuracy(table, models, lines, *, level=0.95, panels=None):
    """ECE after scaling against accuracy on the same images, one point a model, a line a group; a panel a test set.

    Parameters
    ----------
    table, models, panels
        See the module. Rows of "accuracy" and "ece_scaled".
    lines : dict of (str, str) to AccuracyLine
        By group and test set; drawn with their bands over the accuracies of their models.
    level : float, default 0.95
        Of the bands.
    """
    rows = select_rows(
        table, models, ["accuracy", "ece_scaled"], unit=["model", "test_set", "metric"], need="ece_scaled"
    )
    names = list(dict.fromkeys(rows["test_set"]))
    figure, axes = make_panels(panels, names, 2.3)
    for name, ax in zip(names, axes, strict=True):
        part = rows[rows["test_set"] == name].pivot(index=["model", "group"], columns="metric", values="value")
        part = part.reset_index()
        draw_scatter(ax, part["accuracy"], part["ece_scaled"], part["group"])
        for (group, test_set), line in lines.items():
            if test_set == name:
                x, color = np.linspace(line.x.min(), line.x.max(), 50), GROUP_STYLE[group].color
                band = line.band(x, level=level)
                ax.fill_between(x, band.low, band.high, color=color, alpha=0.15, linewidth=0)
                ax.plot(x, band.value, color=color, linewidth=1.6)
        format_ticks(ax.xaxis, percent=True)
        format_ticks(ax.yaxis, percent=True)
    axes[0].set_ylim(0, 1.05 * rows.loc[rows["metric"] == "ece_scaled", "value"].max())
    return finish_figure(
        figure, group_handles(rows), xlabel="Accuracy on the same images (%)", ylabel=metric_label("ece_scaled")
    )
