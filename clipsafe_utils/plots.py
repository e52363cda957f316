"""Figures of the study: tidy rows in, axes out. Nothing is measured here, no file is written.

`table` holds tidy rows (see `clipsafe_utils.table`), `models` is a DataFrame indexed by model id with a column `group`.
Functions of one axes take `ax=None` and return it; those with one panel a test set or metric take `panels=None`, a list
of all axes of a figure, and return the figure. Up to `FEW` models are drawn by name with their intervals, more as one
strip a group with its mean. A value of NaN is not drawn; no rows at all, several for one point and a model without a
known group are a `ClipsafeError`.
"""

from math import ceil
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.statistics import SCALES
from clipsafe_utils.zoo import GROUPS

FEW = 6
"""Most models that a figure draws by name where it would otherwise show one strip a group."""


class GroupStyle(NamedTuple):
    """How every figure draws a group."""

    label: str
    color: str
    marker: str


_LOOKS = [("#0646ba", "o"), ("#bd3113", "s"), ("#e19500", "v"), ("#0cad5f", "^"), ("#b06aba", "D")]
GROUP_STYLE = {
    **{group: GroupStyle(GROUPS[group], *look) for group, look in zip(GROUPS, _LOOKS, strict=True)},
    "human": GroupStyle("Human", "#000000", "*"),
    "other": GroupStyle("Other", "#b8b8b8", "P"),
}
"""Group -> style, in the order of legends. Colours stay apart (CIELAB distance above 25) in colour-blind eyes too."""


class Metric(NamedTuple):
    """How axes and captions write a metric."""

    label: str
    direction: str
    percent: bool = True
    chance: float | None = None


METRICS = {
    "accuracy": Metric("Accuracy", "higher is better"),
    "auroc": Metric("AUROC", "higher is better", percent=False, chance=0.5),
    "aupr_in": Metric("AUPR, ID positive", "higher is better", percent=False),
    "aupr_out": Metric("AUPR, OOD positive", "higher is better", percent=False),
    "fpr_ood_at_tpr_id95": Metric("FPR: OOD accepted where 95% of ID is", "lower is better", chance=0.95),
    "fpr_id_at_tpr_ood95": Metric("FPR: ID flagged where 95% of OOD is", "lower is better", chance=0.95),
    "ece": Metric("ECE", "lower is better"),
    "nll": Metric("NLL in nats", "lower is better", percent=False),
    "brier": Metric("Brier score", "lower is better", percent=False),
    "overconfidence": Metric("Confidence minus accuracy", "above 0 is overconfident"),
}
"""Metric -> its style; a metric that is not here is written as it is named."""

_VEIL = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
_REFERENCE = {"color": "0.35", "linewidth": 1, "zorder": 1}


def set_style():
    """Set the one look of all figures: white ground, 8 inches wide, SVG equal byte for byte if saved without date."""
    small = dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9)
    plain = dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    white = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white")
    large = dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 10)
    grid = {"axes.grid": True, "grid.color": "0.92", "axes.axisbelow": True}
    rc = {"figure.figsize": (8, 4.8), "figure.dpi": 110, "svg.hashsalt": "clipsafe"}
    sns.set_theme(style="ticks", font="DejaVu Sans", rc=small | plain | white | large | grid | rc)


def metric_style(metric):
    """Label, direction ("higher is better"), percent or not, and chance level of a metric, as a `Metric`."""
    return METRICS.get(metric, Metric(metric, "", percent=False))


def legend(target, handles):
    """Put the legend above an axes (or the figure it has to itself), in as many columns as fit; returns it."""
    figure = target if isinstance(target, Figure) else target.figure
    target = figure if figure.axes == [target] and figure.get_layout_engine() else target
    share = 1 if target is figure else min(1, 1.15 * target.get_position().width)
    lengths = np.array([len(handle.get_label()) + 6 for handle in handles])  # in characters, of which an inch holds 14
    widths = [sum(column.max() for column in np.array_split(lengths, n + 1)) for n in range(len(handles))]
    columns = max((n + 1 for n, w in enumerate(widths) if w <= 14 * share * figure.get_figwidth()), default=1)
    place = {"loc": "outside upper center"} if target is figure else {"loc": "lower left", "bbox_to_anchor": (0, 1)}
    return target.legend(handles=handles, ncols=columns, columnspacing=1.2, handletextpad=0.5, **place)


def accuracy_on_accuracy(table, models, *, x, y, line=None, level=0.95, ax=None):
    """Accuracy on test set y against accuracy on test set x, one point a model.

    Parameters
    ----------
    table, models, ax
        See the module. Rows of metric "accuracy"; up to 40 models show their intervals.
    x, y : str
        Test sets.
    line : AccuracyLine, optional
        Baseline, drawn with its bootstrap band at `level`; both axes take its scale.
    """
    rows = _select(table, models, ["accuracy"], [x, y])
    on_x, on_y = (rows[rows["test_set"] == name].set_index("model") for name in (x, y))
    if not len(common := on_x.index.intersection(on_y.index)):
        raise ClipsafeError(f"no model has an accuracy on both {x!r} and {y!r}; nothing to draw.")
    on_x, on_y = on_x.loc[common], on_y.loc[common]
    ax = _axes(ax, 5.6)
    scale, eps = (line.scale, line.eps) if line else ("linear", 0)
    x_ends, y_ends = (_stretch(ax, which, on["value"], scale, eps) for which, on in (("x", on_x), ("y", on_y)))
    if len(common) <= 40:
        look = {"color": [GROUP_STYLE[group].color for group in on_x["group"]], "alpha": 0.6, "linewidth": 1}
        ax.hlines(on_y["value"], on_x["ci_low"], on_x["ci_high"], **look)
        ax.vlines(on_x["value"], on_y["ci_low"], on_y["ci_high"], **look)
    handles = _scatter(ax, on_x["value"], on_y["value"], on_x["group"])
    for model in common if len(common) <= FEW else []:
        at, look = (on_x["value"][model], on_y["value"][model]), {"textcoords": "offset points", "fontsize": 8}
        right = at[0] > on_x["value"].median()
        ax.annotate(_short(model), at, xytext=(-6 if right else 6, 5), ha="right" if right else "left", **look)
    forward, inverse = SCALES[scale]
    grid = inverse(np.linspace(*forward(np.clip(x_ends, eps, 1 - eps)), 200))
    handles += ax.plot(grid, grid, color="0.5", linewidth=1, linestyle=":", label="y = x")
    above, below = f"above y = x: better on {_short(y)}", "below y = x: worse"
    if line:
        band, ground = line.band(grid, level=level), {"color": "0.2", "alpha": 0.15, "linewidth": 0}
        handles += ax.plot(grid, band.value, color="0.2", linewidth=1.4, label=f"Line: {line.n:,} models, {scale} axes")
        handles += [ax.fill_between(grid, band.low, band.high, label=f"{level:.0%} bootstrap band", **ground)]
        above, below = "above the line: more robust than the baseline", "below the line: less robust"
    _note(ax, 0.02, 0.98, above)
    _note(ax, 0.98, 0.02, below)
    ax.set(xlim=x_ends, ylim=y_ends, xlabel=f"Accuracy on {_short(x)} (%)", ylabel=f"Accuracy on {_short(y)} (%)")
    legend(ax, handles)
    return ax


def effective_robustness(table, models, *, ax=None):
    """Effective robustness on each factor or shift (rows of that metric), the highest mean on top."""
    rows = _select(table, models, ["effective_robustness"])
    what = "Effective robustness (percentage points)\n← less robust than the baseline     more robust →"
    return _differences(rows, ax, what)


def paired_effects(table, models, *, ax=None):
    """Effect of each factor on the same images (rows of metric "paired_effect"), the least harmful on top."""
    rows = _select(table, models, ["paired_effect"])
    what = "Accuracy with the factor minus accuracy without (percentage points)\n← harms     helps →"
    return _differences(rows, ax, what)


def _differences(rows, ax, xlabel):
    ax = _dot_plot(rows.assign(category=rows["test_set"]), ax, label=_factors, percent=True, sign=True)
    ax.axvline(0, **_REFERENCE)
    ax.set_xlabel(xlabel)
    return ax


def error_ratios(table, models, *, ax=None):
    """Error ratio on each factor (rows of metric "error_ratio"); a log axis where values differ fourfold or more."""
    rows = _select(table, models, ["error_ratio"])
    ax = _dot_plot(rows.assign(category=rows["test_set"]), ax, label=_factors)
    ax.axvline(1, **_REFERENCE)
    low, high = min(rows["value"].min(), 1), max(rows["value"].max(), 1)
    if low > 0 and high / low >= 4:
        ax.set_xscale("log")
        ax.xaxis.set(
            major_locator=FixedLocator([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]), minor_locator=NullLocator()
        )
        _ticks(ax.xaxis)
    ax.set_xlabel("Error ratio: error rate with the factor / overall\n← fewer errors     more errors →")
    return ax


def shape_bias(table, models, *, ax=None):
    """Shape bias of each model or human; on the right, the share of images that shape or texture decided.

    Parameters
    ----------
    table, models, ax
        See the module. Rows of metrics "shape_bias" and, for the text, "share_decided", of one test set. Up to 60
        models have a line each, sorted within their group; of more, each group has a strip.
    """
    rows = _select(table, models, ["shape_bias", "share_decided"], unit=["model", "metric"], need="shape_bias")
    decided = rows[rows["metric"] == "share_decided"].set_index("model")["value"]
    rows = _by_group(rows[rows["metric"] == "shape_bias"].sort_values("value", ascending=False))
    strips = len(rows) > 60
    rows = rows.assign(category=rows["group" if strips else "model"], decided=decided.reindex(rows["model"]).to_numpy())
    order = list(dict.fromkeys(rows["category"]))
    ax = _dot_plot(rows, ax, order=order, label=_groups if strips else _short_names, strips=strips, dodge=False)
    right = {"transform": ax.get_yaxis_transform(), "fontsize": 8}
    for position, (_, share) in enumerate(rows.groupby("category", sort=False)["decided"]):
        if share.notna().any():
            ends = dict.fromkeys(f"{100 * end:.0f}" for end in (share.min(), share.max()))
            ax.text(1.02, position, " to ".join(ends) + "%", va="center", **right)
    if rows["decided"].notna().any():
        ax.text(1.02, len(order) - 0.4, "decided\nby a cue", va="top", **right)
    ax.axvline(0.5, **_REFERENCE, linestyle=":")
    ax.set_xlabel("Shape bias (shape decisions / decisions for either cue)\n← 0: pure texture     1: pure shape →")
    ax.set_xlim(-0.02, 1.02)
    return ax


def ood_detection(table, models, *, metric="auroc", panels=None):
    """How well each OOD score (lines) detects each OOD set (panels).

    Parameters
    ----------
    table, models, panels
        See the module. Rows of the metric; `protocol` is "SCORE" or "SCORE, HOW THE MODEL CLASSIFIES".
    metric : str, default "auroc"
    """
    table = table.assign(category=table["protocol"].str.split(", ").str[0])
    rows = _select(table, models, [metric], unit=["model", "test_set", "category"])
    style, order = metric_style(metric), _sorted_categories(rows)
    names = list(dict.fromkeys(rows["test_set"]))
    figure, axes = _panels(panels, names, _height(rows, order) - 0.6)
    for name, ax in zip(names, axes, strict=True):
        _dot_plot(rows[rows["test_set"] == name], ax, order=order, percent=style.percent, among=rows)
        if style.chance is not None:
            ax.axvline(style.chance, **_REFERENCE, linestyle=":")
            _note(ax, style.chance, 0.02, " chance ", bbox=None, transform=ax.get_xaxis_transform())
    return _finish(figure, _dot_handles(rows), xlabel=_metric_label(metric))


def score_distributions(id_scores, ood_scores, *, method, ax=None):
    """Densities of an OOD score on ID and OOD images, with the threshold that accepts 95% of the ID images.

    Parameters
    ----------
    id_scores : ndarray of float, shape (n_id,)
        Higher = more out-of-distribution.
    ood_scores : dict of str to ndarray
        OOD set -> its scores, shape (n_ood,).
    method : str
        Name of the score.
    ax
        See the module.
    """
    samples = [("In-distribution", np.asarray(id_scores)), *((k, np.asarray(v)) for k, v in ood_scores.items())]
    for name, scores in samples:
        if not len(scores) or not np.isfinite(scores).all():
            raise ClipsafeError(f"{method} scores of {name!r} must be finite, and at least one; got {len(scores)}.")
    edges = np.histogram_bin_edges(np.concatenate([scores for _, scores in samples]), bins=50)
    ax = _axes(ax, 4)
    for index, ((name, scores), color) in enumerate(zip(samples, _series(len(samples)), strict=True)):
        look = {"color": color, "linestyle": ("-", "--", "-.")[index % 3]} if index else {"color": "0.6", "fill": True}
        density = np.histogram(scores, bins=edges, density=True)[0]
        ax.stairs(density, edges, label=f"{_short(name)} (n = {len(scores):,})", linewidth=1.6, **look)
    threshold = np.quantile(samples[0][1], 0.95, method="inverted_cdf")
    ax.axvline(threshold, **_REFERENCE | {"zorder": 3}, linestyle="--")
    side = "right" if threshold > edges[[0, -1]].mean() else "left"
    _note(ax, threshold, 0.98, "  95% of ID at or left of this  ", transform=ax.get_xaxis_transform(), ha=side)
    ax.set(xlabel=f"OOD score: {method}\nhigher = more out-of-distribution →", ylabel="Density")
    legend(ax, ax.get_legend_handles_labels()[0])
    return ax


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
    ax = _axes(ax, 6.4)
    shares = ax.inset_axes([0, -0.28, 1, 0.24], sharex=ax)
    ax.plot([0, 1], [0, 1], **_REFERENCE, linestyle=":")
    for index, ((name, curve), color) in enumerate(zip(curves.items(), _series(len(curves)), strict=True)):
        at, n = curve.count > 0, curve.count.sum()
        look = {"marker": "osD^vP"[index % 6], "markersize": 5, "linewidth": 1.2}
        ax.plot(curve.confidence[at], curve.accuracy[at], color=color, label=f"{_short(name)} (n = {n:,})", **look)
        ax.vlines(curve.confidence[at], curve.low[at], curve.high[at], color=color, linewidth=1.2)
        shares.stairs(curve.count / n, curve.edges, color=color, linewidth=1.6)
    _note(ax, 0.02, 0.98, "underconfident: right more often than it says")
    _note(ax, 0.98, 0.02, "overconfident: right less often than it says")
    for axis in (ax.yaxis, shares.xaxis, shares.yaxis):
        _ticks(axis, percent=True)
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
    rows = _by_group(_select(table, models, [metric, scaled], unit=unit, need=metric))
    pairs = rows[rows["metric"] == metric].merge(
        rows[rows["metric"] == scaled][[*unit[:2], *_VALUES]], on=unit[:2], suffixes=("", "_after")
    )
    if pairs.empty:
        raise ClipsafeError(f"no model has both {metric!r} and {scaled!r} on one test set; nothing to compare.")
    by_model = pairs["model"].nunique() <= 12
    lanes = list(dict.fromkeys(pairs["model" if by_model else "group"]))
    names = sorted(set(pairs["test_set"]))
    figure, axes = _panels(panels, names, 0.7 + 0.36 * len(lanes))
    for name, ax in zip(names, axes, strict=True):
        for lane, part in pairs[pairs["test_set"] == name].groupby("model" if by_model else "group"):
            _arrow(ax, lanes.index(lane), part, GROUP_STYLE[part["group"].iloc[0]])
        _categories(ax, _short_names(lanes) if by_model else _groups(lanes))
        _ticks(ax.xaxis, metric_style(metric).percent)
    mean = "" if by_model else " (mean)"
    ends = [_handle("o", "0.3", f"Before{mean}", "none"), _handle("o", "0.3", f"After temperature scaling{mean}")]
    return _finish(figure, ends + _group_handles(pairs), xlabel=_metric_label(metric))


def against_id_accuracy(table, models, *, x_set, metric, test_sets=None, panels=None):
    """A metric on each test set (panels) against ID accuracy, one point a model.

    Parameters
    ----------
    table, models, panels
        See the module. Rows of the metric, of one protocol a model, and of "accuracy" on x_set.
    x_set, metric : str
        Test set of the horizontal axis, metric of the vertical one.
    test_sets : list of str, optional
        By default all that have the metric.
    """
    accuracy = _select(table, models, ["accuracy"], [x_set]).set_index("model")["value"]
    rows = _select(table, models, [metric], test_sets)
    rows = rows[rows["model"].isin(accuracy.index)]
    if rows.empty:
        raise ClipsafeError(f"no model has both {metric!r} and an accuracy on {x_set!r}; nothing to draw.")
    names = [name for name in test_sets or sorted(set(rows["test_set"])) if (rows["test_set"] == name).any()]
    figure, axes = _panels(panels, names, 2.7)
    for name, ax in zip(names, axes, strict=True):
        here = rows[rows["test_set"] == name]
        _scatter(ax, accuracy[here["model"]], here["value"], here["group"])
        _ticks(ax.xaxis, percent=True)
        _ticks(ax.yaxis, metric_style(metric).percent)
    labels = {"xlabel": f"Accuracy on {_short(x_set)} (%)", "ylabel": _metric_label(metric)}
    return _finish(figure, _group_handles(rows), **labels)


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
    table = table.assign(category=table["protocol"].str.removeprefix("prompts "))
    rows = _select(table, models, known, unit=["model", "test_set", "category", "metric"])
    order = sorted(set(rows["category"]))
    shown = sorted(rows.groupby(["metric", "test_set"]), key=lambda item: known.index(item[0][0]))
    labels = [f"{metric_style(name.removesuffix('_difference')).label} on {_short(test)}" for (name, test), _ in shown]
    figure, axes = _panels(panels, labels, _height(rows, order), sharex=False)
    for ((name, _), part), ax in zip(shown, axes, strict=True):
        style = metric_style(name.removesuffix("_difference"))
        _dot_plot(part, ax, order=order, percent=style.percent, sign=True, among=rows)
        ax.axvline(0, **_REFERENCE)
        arrows = {"h": "← worse     better →", "l": "← better     worse →"}.get(style.direction[0], "")
        ax.set_xlabel(f"{'percentage points' if style.percent else 'difference'}\n{arrows}")
    return _finish(figure, _dot_handles(rows), xlabel=f"Difference to {reference}, paired by image")


def caption(rows, *, what, direction, models=None):
    """Say in two sentences what a figure shows.

    Parameters
    ----------
    rows : DataFrame
        The tidy rows that were drawn.
    what : str
        What they are, without a full stop.
    direction : str
        Such as "higher is better" (`metric_style(metric).direction`); may be empty.
    models : DataFrame, optional
        Counts the models by group.

    Returns
    -------
    str
        Models, images, source; intervals with kind and level, protocols, direction.
    """
    if rows.empty:
        raise ClipsafeError(f"no rows to caption {what!r} with; pass the rows that the figure drew.")
    n_models = rows["model"].nunique()
    count = f"{n_models:,} model{'s' * (n_models != 1)}"
    if models is not None:
        groups = _with_group(rows, models).groupby("group")["model"].nunique()
        count += f" ({', '.join(f'{groups[g]:,} {s.label}' for g, s in GROUP_STYLE.items() if g in groups)})"
    known = rows.loc[rows["n"] > 0, "n"]
    sizes = " to ".join(f"{size:,}" for size in dict.fromkeys((known.min(), known.max())))
    images = f"n = {sizes} images each" if len(known) else "numbers of images not published"
    images += " (for some not published)" * (0 < len(known) < len(rows))
    source = ", published by others" * bool((rows["source"] == "published").all())
    bars = rows.dropna(subset=["ci_low", "ci_high"])
    kinds = [f"{kind} at {level:.0%}" for kind, level in bars.groupby(["ci_kind", "ci_level"]).groups]
    facts = [f"Intervals: {', '.join(kinds)}" if kinds else "No intervals"]
    protocols = [protocol for protocol in dict.fromkeys(rows["protocol"]) if protocol]
    more = f" and {len(protocols) - 4} more" * (len(protocols) > 4)
    facts += [f"protocol: {', '.join(protocols[:4])}{more}"] * bool(protocols) + [direction] * bool(direction)
    return f"{what}: {count}, {images}{source}. {'; '.join(facts)}."


_VALUES = ["value", "ci_low", "ci_high"]


def _select(table, models, metrics, test_sets=None, *, unit=("model", "test_set"), need=None):
    """Rows of the metrics with their models' group; one a unit, and `need` among the metrics."""
    rows = table[table["metric"].isin(metrics) & table["value"].notna()]
    if test_sets is not None:
        rows = rows[rows["test_set"].isin(test_sets)]
    if not rows["metric"].isin([need] if need else metrics).any():
        where = f" on {', '.join(map(repr, test_sets))}" if test_sets else ""
        wanted = need or " or ".join(metrics)
        raise ClipsafeError(f"the table has no rows of metric {wanted}{where}; nothing to draw.")
    if (twins := rows.duplicated(list(unit))).any():
        point = rows.loc[twins, list(unit)].iloc[0].to_dict()
        raise ClipsafeError(f"several rows for {point}; pass those of one protocol and test set a point.")
    return _with_group(rows, models)


def _with_group(rows, models):
    if len(missing := rows.loc[~rows["model"].isin(models.index), "model"].unique()):
        raise ClipsafeError(f"models has no row {missing[0]!r} ({len(missing)} missing); figures need its group.")
    rows = rows.assign(group=models["group"].reindex(rows["model"]).to_numpy())
    for group in set(rows["group"]) - set(GROUP_STYLE):
        raise unknown("group", group, GROUP_STYLE)
    return rows


def _by_group(rows):
    return rows.sort_values("group", key=lambda group: group.map(list(GROUP_STYLE).index), kind="stable")


def _sorted_categories(rows):
    return list(rows.groupby("category")["value"].mean().sort_values(ascending=False, kind="stable").index)


def _axes(ax, height):
    return ax or plt.subplots(figsize=(8, height), layout="constrained")[1]


def _height(rows, order):
    lanes = rows["model" if rows["model"].nunique() <= FEW else "group"].nunique()
    return 1.5 + len(order) * max(0.3, 0.14 * lanes + 0.08)


def _panels(panels, names, height, *, sharex=True):
    """A figure and its axes, one a name, in up to three columns; or the given axes."""
    if panels is None:
        columns = 2 if len(names) == 4 else min(3, len(names))
        lines = ceil(len(names) / columns)
        size, layout = (8, 0.9 + lines * height), {"sharex": sharex, "sharey": True, "layout": "constrained"}
        panels = plt.subplots(lines, columns, figsize=size, squeeze=False, **layout)[1].ravel()
        for ax in panels[len(names) :]:
            ax.remove()
        for ax in panels[max(0, len(names) - columns) : len(names)]:
            ax.tick_params(labelbottom=True)
    panels = np.ravel(panels)
    if len(panels) < len(names):
        raise ClipsafeError(f"{len(names)} panels are needed ({', '.join(names)}); got {len(panels)} axes.")
    for ax, name in zip(panels, _short_names(names), strict=False):
        ax.set_title(name, loc="left")
    return panels[0].figure, panels[: len(names)]


def _finish(figure, handles, *, xlabel, ylabel=""):
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    legend(figure, handles)
    return figure


def _dot_plot(rows, ax, *, order=None, label=None, percent=False, sign=False, strips=None, dodge=True, among=None):
    """`category` on the vertical axis; a lane a model, or a strip a group. `among` holds the rows of all panels."""
    own, among = among is None, rows if among is None else among
    order = _sorted_categories(rows) if order is None else order
    strips = among["model"].nunique() > FEW if strips is None else strips
    lane, shift = "group" if strips else "model", 0.8 if dodge else 0
    lanes, fills = list(dict.fromkeys(_by_group(among.sort_values("model"))[lane])), {} if strips else _fills(among)
    ax = _axes(ax, _height(among, order) if dodge else 1.5 + 0.2 * len(order) * (1 + strips))
    for name, part in rows.groupby(lane):
        style = GROUP_STYLE[part["group"].iloc[0]]
        y = part["category"].map(order.index) + shift * ((lanes.index(name) + 0.5) / len(lanes) - 0.5)
        if not strips:
            _dots(ax, part["value"], y, part["ci_low"], part["ci_high"], style, fills[name] if dodge else "full")
            continue
        turn = part.groupby("category")["value"].rank(method="first") * 0.618 % 1 - 0.5  # even, and the same each time
        look = {"color": style.color, "marker": style.marker, "rasterized": len(part) > 2000, "linewidths": 0}
        ax.scatter(part["value"], y + turn * 0.6 / (len(lanes) if dodge else 1), s=9, alpha=0.3, **look)
        mean = part.assign(y=y).groupby("category")[["value", "y"]].mean()
        look = _marker(style.marker, style.color) | {"markeredgecolor": "black", "markersize": 7, "zorder": 4}
        ax.plot(mean["value"], mean["y"], **look)
    _categories(ax, (label or _short_names)(order))
    _ticks(ax.xaxis, percent, sign)
    if not own:
        ax.locator_params(axis="x", nbins=6)
    else:
        legend(ax, _dot_handles(rows, strips) if dodge or strips else _group_handles(rows))
    return ax


def _dots(ax, value, y, low, high, style, fill="full"):
    ax.hlines(y, low, high, color=style.color, linewidth=1.4, alpha=0.7)
    ax.plot(value, y, **_marker(style.marker, style.color, fill))


def _arrow(ax, y, pairs, style):
    """From before (open) to after (filled): one model with its intervals, or the means over a thin line a model."""
    upper, lower, alone = y - 0.15, y + 0.15, len(pairs) == 1
    before, after = (pairs[[f"{column}{end}" for column in _VALUES]].mean() for end in ("", "_after"))
    if not alone:
        before.iloc[1:] = after.iloc[1:] = np.nan
        look = {"color": style.color, "alpha": 0.15 + 0.5 / len(pairs), "linewidth": 0.7, "zorder": 1}
        ax.plot(pairs[["value", "value_after"]].to_numpy().T, [upper, lower], **look)
    _dots(ax, before.iloc[0], upper, *before.iloc[1:], style, "none")
    _dots(ax, after.iloc[0], lower, *after.iloc[1:], style)
    arrow = {"arrowstyle": "-|>", "color": style.color, "shrinkA": 3, "shrinkB": 3}
    ax.annotate("", (after.iloc[0], lower), (before.iloc[0], upper), arrowprops=arrow)


def _scatter(ax, x, y, group):
    """Points by group, the largest group below the others; returns handles for the legend."""
    size, alpha = (46, 0.9) if len(x) <= 40 else (22, 0.7) if len(x) <= 400 else (12, 0.5)
    group = np.asarray(group)
    for name in sorted(set(group), key=lambda g: (g != "other", -np.sum(group == g), g)):
        style, mask = GROUP_STYLE[name], group == name
        look = {"color": style.color, "marker": style.marker, "edgecolors": "white", "linewidths": 0.3, "zorder": 3}
        ax.scatter(np.asarray(x)[mask], np.asarray(y)[mask], s=size, alpha=alpha, **look)
    return _group_handles(pd.DataFrame({"group": group, "model": np.arange(len(group))}))


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
    _ticks(axis, percent=True)
    return ends


def _categories(ax, labels):
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    for index in range(0, len(labels), 2):
        ax.axhspan(index - 0.5, index + 0.5, color="0.96", zorder=0, linewidth=0)


def _ticks(axis, percent=False, sign=False):
    def text(value, _):
        value = round(value * (100 if percent else 1), 6) or 0
        return format(value, "+.4g" if sign and value else ".4g")

    axis.set_major_formatter(text)


def _note(ax, x, y, text, **kwargs):
    look = {"fontsize": 8.5, "color": "0.3", "style": "italic", "zorder": 5, "bbox": _VEIL, "transform": ax.transAxes}
    corner = {"ha": "left" if x < 0.7 else "right", "va": "bottom" if y < 0.5 else "top"}
    ax.text(x, y, text, **(look | corner | kwargs))


def _metric_label(metric):
    style = metric_style(metric)
    return f"{style.label}{' (%)' * style.percent}" + f"\n{style.direction}" * bool(style.direction)


def _marker(marker, color, fill="full"):
    face = "white" if fill == "none" else color
    look = {"marker": marker, "color": color, "fillstyle": "full" if fill == "none" else fill, "markerfacecolor": face}
    return look | {"linestyle": "", "markersize": 6, "markerfacecoloralt": "white", "zorder": 3}


def _handle(marker, color, label, fill="full"):
    return Line2D([], [], label=label, **_marker(marker, color, fill))


def _group_handles(rows):
    counts = rows.groupby("group")["model"].nunique()
    shown = [(style, counts[group]) for group, style in GROUP_STYLE.items() if group in counts]
    return [_handle(style.marker, style.color, f"{style.label} ({count:,})") for style, count in shown]


def _dot_handles(rows, strips=None):
    """Models by name if they are few, else groups."""
    if rows["model"].nunique() > FEW if strips is None else strips:
        mean = Line2D([], [], marker="o", color="0.8", markeredgecolor="black", linestyle="", label="Group mean")
        return [*_group_handles(rows), mean]
    fills, group = _fills(rows), rows.set_index("model")["group"].to_dict()
    looks = [(GROUP_STYLE[group[model]], fill) for model, fill in fills.items()]
    names = _short_names(fills)
    return [_handle(s.marker, s.color, name, fill) for (s, fill), name in zip(looks, names, strict=True)]


def _fills(rows):
    """Model -> filling: models of one group share colour and marker."""
    first = _by_group(rows.sort_values("model").drop_duplicates("model"))
    kinds = ("full", "none", "left", "right", "top", "bottom") * ceil(len(first) / 6)
    return {m: kinds[k] for m, k in zip(first["model"], first.groupby("group").cumcount(), strict=True)}


def _series(n):
    """Colours for what is not a group of models."""
    return sns.color_palette("plasma", ceil(1.3 * n))[:n]  # without its yellow end


def _short(name, length=36):
    name = str(name)
    return name if len(name) <= length else f"{name[: length // 2 + 4]}…{name[5 - length // 2 :]}"


def _short_names(names):
    """Names of readable length, without the folder that all share."""
    names = [str(name) for name in names]
    shared = len({name.partition("/")[0] for name in names}) == 1 and all("/" in name for name in names)
    return [_short(name.partition("/")[2] if shared else name) for name in names]


def _factors(names):
    """Factors ("imagenet_x/partial_view") as words where all are; else test sets as they are named."""
    return [name.replace("_", " ") if "/" in names[0] else name for name in _short_names(names)]


def _groups(names):
    return [GROUP_STYLE[group].label for group in names]
