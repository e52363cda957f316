"""What all figures share: groups, metrics and their looks; rows, panels, dots, legends and captions."""

from math import ceil
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.zoo import GROUPS

FEW = 6
"""Most models that a figure draws by name where it would otherwise show one strip a group."""


FEW_IMAGES = 100
"""Images of a factor below which figures and tables mark it with `FEW_MARK`."""

FEW_MARK = "†"


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
    "auroc_gain": Metric("AUROC minus that of the main score", "above 0 is better", percent=False),
    "aupr_in": Metric("AUPR, ID positive", "higher is better", percent=False),
    "aupr_out": Metric("AUPR, OOD positive", "higher is better", percent=False),
    "fpr_ood_at_tpr_id95": Metric("FPR: OOD accepted where 95% of ID is", "lower is better", chance=0.95),
    "fpr_id_at_tpr_ood95": Metric("FPR: ID flagged where 95% of OOD is", "lower is better", chance=0.95),
    "ece": Metric("ECE", "lower is better"),
    "nll": Metric("NLL in nats", "lower is better", percent=False),
    "brier": Metric("Brier score", "lower is better", percent=False),
    "effective_robustness": Metric("Effective robustness", "above 0 is more robust than the baseline"),
    "paired_effect": Metric("Effect of the factor on accuracy", "below 0 is a loss of accuracy"),
    "shape_bias": Metric("Shape bias", "1 is pure shape, 0 pure texture", percent=False),
    "share_decided": Metric("Share decided by a cue", "of all images"),
    "category_shape_bias": Metric("Shape bias by category", "1 is pure shape, 0 pure texture", percent=False),
    "category_share_decided": Metric("Share decided by a cue, by category", "of all images"),
    "overconfidence": Metric("Confidence minus accuracy", "above 0 is overconfident"),
    "ece_equal_mass": Metric("Equal-mass ECE", "lower is better"),
    "ece_classwise": Metric("Classwise ECE", "lower is better"),
    "ece_excess": Metric("ECE beyond that of random images", "above 0 is worse than the average image"),
    "mean_confidence": Metric("Mean confidence", ""),
    "aurc": Metric("AURC", "lower is better"),
    "excess_aurc": Metric("Excess AURC", "lower is better"),
    "nll_excess": Metric("NLL beyond the whole share's", "lower is better", percent=False),
}
_SCALED = ["ece", "overconfidence", "ece_equal_mass", "ece_classwise", "ece_excess", "mean_confidence", "aurc", "nll"]
METRICS |= {f"{m}_scaled": METRICS[m]._replace(label=f"{METRICS[m].label} after scaling") for m in _SCALED}
"""Metric -> its style; a metric that is not here is written as it is named."""

VEIL = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
REFERENCE = {"color": "0.35", "linewidth": 1, "zorder": 1}
VALUES = ["value", "ci_low", "ci_high"]


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


def caption(rows, *, what, direction, models=None, units=("model", "images")):
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
    units : (str, str)
        What `model` names, and what n counts.

    Returns
    -------
    str
        Models, images, source; intervals with kind and level, protocols, direction.
    """
    if rows.empty:
        raise ClipsafeError(f"no rows to caption {what!r} with; pass the rows that the figure drew.")
    n_models = rows["model"].nunique()
    unit, counted = units
    count = f"{n_models:,} {unit}{'s' * (n_models != 1)}"
    if models is not None and unit == "model":
        groups = with_group(rows, models).groupby("group")["model"].nunique()
        count += f" ({', '.join(f'{groups[g]:,} {s.label}' for g, s in GROUP_STYLE.items() if g in groups)})"
    known = rows.loc[rows["n"] > 0, "n"]
    sizes = " to ".join(f"{size:,}" for size in dict.fromkeys((known.min(), known.max())))
    each = counted.removesuffix("s") if sizes == "1" else counted
    images = f"n = {sizes} {each} each" if len(known) else f"numbers of {counted} not published"
    images += " (for some not published)" * (0 < len(known) < len(rows))
    source = ", published by others" * bool((rows["source"] == "published").all())
    bars = rows.dropna(subset=["ci_low", "ci_high"])
    kinds = [f"{kind} at {level:.0%}" for kind, level in bars.groupby(["ci_kind", "ci_level"]).groups]
    facts = [f"Intervals: {', '.join(kinds)}" if kinds else "No intervals"]
    protocols = [protocol for protocol in dict.fromkeys(rows["protocol"]) if protocol]
    more = f" and {len(protocols) - 4} more" * (len(protocols) > 4)
    facts += [f"protocol: {', '.join(protocols[:4])}{more}"] * bool(protocols) + [direction] * bool(direction)
    return f"{what}: {count}, {images}{source}. {'; '.join(facts)}."


def select_rows(table, models, metrics, test_sets=None, *, unit=("model", "test_set"), need=None):
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
    return with_group(rows, models)


def with_group(rows, models):
    if len(missing := rows.loc[~rows["model"].isin(models.index), "model"].unique()):
        raise ClipsafeError(f"models has no row {missing[0]!r} ({len(missing)} missing); figures need its group.")
    rows = rows.assign(group=models["group"].reindex(rows["model"]).to_numpy())
    for group in set(rows["group"]) - set(GROUP_STYLE):
        raise unknown("group", group, GROUP_STYLE)
    return rows


def by_group(rows):
    return rows.sort_values("group", key=lambda group: group.map(list(GROUP_STYLE).index), kind="stable")


def sorted_categories(rows):
    return list(rows.groupby("category")["value"].mean().sort_values(ascending=False, kind="stable").index)


def make_axes(ax, height):
    return ax or plt.subplots(figsize=(8, height), layout="constrained")[1]


def dot_height(rows, order):
    lanes = rows["model" if rows["model"].nunique() <= FEW else "group"].nunique()
    return 1.5 + len(order) * max(0.3, 0.14 * lanes + 0.08)


def make_panels(panels, names, height, *, sharex=True, columns=None):
    """A figure and its axes, one a name, in up to three columns unless told how many; or the given axes."""
    if panels is None:
        columns = min(columns or (2 if len(names) == 4 else 3), len(names))
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
    for ax, name in zip(panels, shorten_all(names), strict=False):
        ax.set_title(name, loc="left")
    return panels[0].figure, panels[: len(names)]


def finish_figure(figure, handles, *, xlabel, ylabel=""):
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    legend(figure, handles)
    return figure


def dot_plot(rows, ax, *, order=None, label=None, percent=False, sign=False, strips=None, dodge=True, among=None):
    """`category` on the vertical axis; a lane a model, or a strip a group. `among` holds the rows of all panels."""
    own, among = among is None, rows if among is None else among
    order = sorted_categories(rows) if order is None else order
    strips = among["model"].nunique() > FEW if strips is None else strips
    lane, shift = "group" if strips else "model", 0.8 if dodge else 0
    lanes, fills = list(dict.fromkeys(by_group(among.sort_values("model"))[lane])), {} if strips else model_fills(among)
    ax = make_axes(ax, dot_height(among, order) if dodge else 1.5 + 0.2 * len(order) * (1 + strips))
    for name, part in rows.groupby(lane):
        style = GROUP_STYLE[part["group"].iloc[0]]
        y = part["category"].map(order.index) + shift * ((lanes.index(name) + 0.5) / len(lanes) - 0.5)
        if not strips:
            draw_dots(ax, part["value"], y, part["ci_low"], part["ci_high"], style, fills[name] if dodge else "full")
            continue
        turn = part.groupby("category")["value"].rank(method="first") * 0.618 % 1 - 0.5  # even, and the same each time
        look = {"color": style.color, "marker": style.marker, "rasterized": len(part) > 2000, "linewidths": 0}
        ax.scatter(part["value"], y + turn * 0.6 / (len(lanes) if dodge else 1), s=9, alpha=0.3, **look)
        mean = part.assign(y=y).groupby("category")[["value", "y"]].mean()
        look = marker_look(style.marker, style.color) | {"markeredgecolor": "black", "markersize": 7, "zorder": 4}
        ax.plot(mean["value"], mean["y"], **look)
    set_categories(ax, (label or shorten_all)(order))
    format_ticks(ax.xaxis, percent, sign)
    if not own:
        ax.locator_params(axis="x", nbins=6)
    else:
        legend(ax, dot_handles(rows, strips) if dodge or strips else group_handles(rows))
    return ax


def draw_dots(ax, value, y, low, high, style, fill="full"):
    ax.hlines(y, low, high, color=style.color, linewidth=1.4, alpha=0.7)
    ax.plot(value, y, **marker_look(style.marker, style.color, fill))


def draw_scatter(ax, x, y, group):
    """Points by group, the largest group below the others; returns handles for the legend."""
    size, alpha = (46, 0.9) if len(x) <= 40 else (22, 0.7) if len(x) <= 400 else (12, 0.5)
    group = np.asarray(group)
    for name in sorted(set(group), key=lambda g: (g != "other", -np.sum(group == g), g)):
        style, mask = GROUP_STYLE[name], group == name
        look = {"color": style.color, "marker": style.marker, "edgecolors": "white", "linewidths": 0.3, "zorder": 3}
        ax.scatter(np.asarray(x)[mask], np.asarray(y)[mask], s=size, alpha=alpha, **look)
    return group_handles(pd.DataFrame({"group": group, "model": np.arange(len(group))}))


def heat_map(ax, rows, order, columns, *, middle, span, text):
    """Values of `model` (rows, in `order`) on `test_set` (columns) as numbers on colours.

    Colours run from `middle` - `span` to `middle` + `span`; a value whose interval holds the middle, or that has no
    interval, stays white. Without a middle, all are coloured from 0 to `span`.
    """
    clear = rows if middle is None else rows[(rows["ci_low"] > middle) | (rows["ci_high"] < middle)]
    values = clear.pivot_table(index="model", columns="test_set", values="value").reindex(index=order, columns=columns)
    ends = (0, span) if middle is None else (middle - span, middle + span)
    colors = {"cmap": "Purples" if middle is None else "PuOr", "vmin": ends[0], "vmax": ends[1]}
    ax.pcolormesh(np.ma.masked_invalid(values.to_numpy(float)), edgecolors="0.88", linewidth=0.5, **colors)
    ax.invert_yaxis()
    for one in rows.itertuples():
        far = abs(one.value - (middle or 0)) / span
        color = "0.35" if one.Index not in clear.index else "white" if far > 0.6 else "black"
        place = columns.index(one.test_set) + 0.5, order.index(one.model) + 0.5
        ax.text(*place, text(one.value), ha="center", va="center", fontsize=8, color=color)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def set_categories(ax, labels):
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    for index in range(0, len(labels), 2):
        ax.axhspan(index - 0.5, index + 0.5, color="0.96", zorder=0, linewidth=0)


def format_ticks(axis, percent=False, sign=False):
    def text(value, _):
        value = round(value * (100 if percent else 1), 6) or 0
        return format(value, "+.4g" if sign and value else ".4g")

    axis.set_major_formatter(text)


def add_note(ax, x, y, text, **kwargs):
    look = {"fontsize": 8.5, "color": "0.3", "style": "italic", "zorder": 5, "bbox": VEIL, "transform": ax.transAxes}
    corner = {"ha": "left" if x < 0.7 else "right", "va": "bottom" if y < 0.5 else "top"}
    ax.text(x, y, text, **(look | corner | kwargs))


def metric_label(metric):
    style = metric_style(metric)
    return f"{style.label}{' (%)' * style.percent}" + f"\n{style.direction}" * bool(style.direction)


def marker_look(marker, color, fill="full"):
    face = "white" if fill == "none" else color
    look = {"marker": marker, "color": color, "fillstyle": "full" if fill == "none" else fill, "markerfacecolor": face}
    return look | {"linestyle": "", "markersize": 6, "markerfacecoloralt": "white", "zorder": 3}


def make_handle(marker, color, label, fill="full"):
    return Line2D([], [], label=label, **marker_look(marker, color, fill))


def group_handles(rows):
    counts = rows.groupby("group")["model"].nunique()
    shown = [(style, counts[group]) for group, style in GROUP_STYLE.items() if group in counts]
    return [make_handle(style.marker, style.color, f"{style.label} ({count:,})") for style, count in shown]


def dot_handles(rows, strips=None):
    """Models by name if they are few, else groups."""
    if rows["model"].nunique() > FEW if strips is None else strips:
        mean = Line2D([], [], marker="o", color="0.8", markeredgecolor="black", linestyle="", label="Group mean")
        return [*group_handles(rows), mean]
    fills, group = model_fills(rows), rows.set_index("model")["group"].to_dict()
    looks = [(GROUP_STYLE[group[model]], fill) for model, fill in fills.items()]
    names = shorten_all(fills)
    return [make_handle(s.marker, s.color, name, fill) for (s, fill), name in zip(looks, names, strict=True)]


def model_fills(rows):
    """Model -> filling: models of one group share colour and marker."""
    first = by_group(rows.sort_values("model").drop_duplicates("model"))
    kinds = ("full", "none", "left", "right", "top", "bottom") * ceil(len(first) / 6)
    return {m: kinds[k] for m, k in zip(first["model"], first.groupby("group").cumcount(), strict=True)}


def series_colors(n):
    """Colours for what is not a group of models."""
    return sns.color_palette("plasma", ceil(1.3 * n))[:n]  # without its yellow end


def shorten(name, length=36):
    name = str(name)
    return name if len(name) <= length else f"{name[: length // 2 + 4]}…{name[5 - length // 2 :]}"


def shorten_all(names):
    """Names of readable length, without the folder that all share."""
    names = [str(name) for name in names]
    shared = len({name.partition("/")[0] for name in names}) == 1 and all("/" in name for name in names)
    return [shorten(name.partition("/")[2] if shared else name) for name in names]


def factor_labels(names):
    """Factors ("imagenet_x/partial_view") as words where all are; else test sets as they are named."""
    return [name.replace("_", " ") if "/" in names[0] else name for name in shorten_all(names)]


def group_labels(names):
    return [GROUP_STYLE[group].label for group in names]
