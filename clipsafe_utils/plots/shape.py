"""Shape against texture: by model, before and after, by category, and beside effective robustness."""

import numpy as np

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    GROUP_STYLE,
    REFERENCE,
    by_group,
    dot_plot,
    draw_dots,
    draw_scatter,
    factor_labels,
    finish_figure,
    format_ticks,
    group_labels,
    heat_map,
    legend,
    make_axes,
    make_handle,
    make_panels,
    metric_label,
    metric_style,
    select_rows,
    set_categories,
    shorten,
    shorten_all,
)

MOST_LINES = 60
"""Models with a line each; of more, each group has a strip."""


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
    strips = len(rows) > MOST_LINES
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


def share_decided(table, models, *, ax=None):
    """Share of cue-conflict images that shape or texture decided, of each model or human.

    Parameters
    ----------
    table, models, ax
        See the module. Rows of metric "share_decided" of one test set, drawn as `shape_bias` draws its own.
    """
    rows = select_rows(table, models, ["share_decided"], unit=["model", "metric"])
    rows = by_group(rows.sort_values("value", ascending=False))
    strips = len(rows) > MOST_LINES
    rows = rows.assign(category=rows["group" if strips else "model"])
    label, order = group_labels if strips else shorten_all, list(dict.fromkeys(rows["category"]))
    ax = dot_plot(rows, ax, order=order, label=label, percent=True, strips=strips, dodge=False)
    ax.set_xlabel("Images decided by shape or texture (%)\n← other categories chosen     one of the two cues chosen →")
    ax.set_xlim(-0.02, 1.02)
    return ax


def model_pairs(table, pairs, models, *, labels=("after", "before"), ax=None):
    """A metric of two models each, the second (hollow) and what became of it, the first (full): a line a pair.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of one metric and test set.
    pairs : DataFrame
        first, second (model ids) and comparison, see `sections.source_pairs`; pairs with both numbers are drawn.
    models, ax
        See the module.
    labels : (str, str)
        What first and second are, for the legend.
    """
    metric = table["metric"].iloc[0] if len(table) else ""
    rows = select_rows(table, models, [metric], unit=["model"]).set_index("model")
    pairs = pairs[pairs["first"].isin(rows.index) & pairs["second"].isin(rows.index)]
    if pairs.empty:
        raise ClipsafeError("no pair of models has numbers for both; nothing to draw.")
    change = rows["value"].reindex(pairs["first"]).to_numpy() - rows["value"].reindex(pairs["second"]).to_numpy()
    pairs = pairs.assign(change=change).sort_values("change", kind="stable")
    ax, labels_y = make_axes(ax, 1.5 + 0.3 * (len(pairs) + pairs["comparison"].nunique())), []
    for comparison, part in pairs.groupby("comparison"):
        labels_y.append(f"{comparison}:")
        for pair in part.itertuples():
            first, second, y = rows.loc[pair.first], rows.loc[pair.second], len(labels_y)
            ax.plot([second["value"], first["value"]], [y - 0.14, y + 0.14], color="0.6", linewidth=1.2, zorder=2)
            for end, shift, fill in ((second, -0.14, "none"), (first, 0.14, "full")):
                draw_dots(ax, end["value"], y + shift, end["ci_low"], end["ci_high"], GROUP_STYLE[end["group"]], fill)
            labels_y.append(shorten(pair.first))
    set_categories(ax, labels_y)
    for label in ax.get_yticklabels():
        label.set_style("italic" if label.get_text().endswith(":") else "normal")
    format_ticks(ax.xaxis, metric_style(metric).percent)
    ax.set_xlabel(metric_label(metric))
    handles = []
    for side, label, fill in zip(("second", "first"), labels[::-1], ("none", "full"), strict=True):
        for group in dict.fromkeys(rows.loc[pairs[side], "group"]):
            style = GROUP_STYLE[group]
            handles.append(make_handle(style.marker, style.color, f"{style.label}: {label}", fill))
    legend(ax, handles)
    return ax


def shape_by_category(table, *, panels=None):
    """Shape bias, and the share decided by a cue, of each group of models (columns) on each category (rows).

    Parameters
    ----------
    table : DataFrame
        Tidy rows from `sections.category_means`. Categories are sorted by mean shape bias; a shape bias whose interval
        holds 0.5, or that has none, is not coloured.
    panels
        See the module.
    """
    names = {"category_shape_bias_over_models": 0.5, "category_share_decided_over_models": None}
    rows = table[table["metric"].isin(names) & table["value"].notna()]
    bias = rows[rows["metric"] == "category_shape_bias_over_models"]
    if bias.empty:
        raise ClipsafeError("the table has no rows of metric category_shape_bias_over_models; nothing to draw.")
    order = list(bias.groupby("test_set")["value"].mean().sort_values(ascending=False, kind="stable").index)
    groups = [group for group in GROUP_STYLE if group in set(rows["model"])]
    counts = rows.groupby("model")["n"].max()
    figure, axes = make_panels(panels, ["Shape bias", "Share decided by a cue (%)"], 1.6 + 0.25 * len(order), columns=2)
    for (metric, middle), ax in zip(names.items(), axes, strict=True):
        scale = 100 if middle is None else 1
        part = rows[rows["metric"] == metric].assign(place=lambda frame: frame["test_set"])
        part = part.assign(test_set=part["model"], model=part["place"])
        heat_map(
            *(ax, part, order, groups),
            middle=middle,
            span=0.5 if middle else 1,
            text=lambda v, scale=scale: f"{scale * v:.0f}" if scale == 100 else f"{v:.2f}",
        )
        ax.set_xticks(
            np.arange(len(groups)) + 0.5,
            [f"{GROUP_STYLE[g].label} ({counts[g]})" for g in groups],
            rotation=40,
            ha="right",
        )
        ax.set_yticks(np.arange(len(order)) + 0.5, factor_labels(order))
    figure.supxlabel(
        "Mean over the models of a group; shape bias is coloured where distinguishable from 0.5", fontsize=10
    )
    return figure


def shape_and_robustness(correlations, robustness, cues, models, *, panels=None):
    """Effective robustness on each factor (panels) against shape bias, one point a model, with their correlation.

    Parameters
    ----------
    correlations : DataFrame
        Tidy rows from `sections.shape_and_robustness`; Pearson's are written into the panels.
    robustness, cues : DataFrame
        Tidy rows of metrics "effective_robustness" and "shape_bias".
    models, panels
        See the module.
    """
    bias = select_rows(cues, models, ["shape_bias"], unit=["model"]).set_index("model")["value"]
    rows = select_rows(robustness, models, ["effective_robustness"])
    rows = rows[rows["model"].isin(bias.index)]
    if rows.empty:
        raise ClipsafeError("no model has both shape bias and effective robustness; nothing to draw.")
    pearson = correlations[correlations["metric"] == "pearson"].set_index(["test_set", "model"])
    names = list(dict.fromkeys(rows["test_set"]))
    figure, axes = make_panels(panels, names, 2.1)
    for name, label, ax in zip(names, factor_labels(names), axes, strict=True):
        part = rows[rows["test_set"] == name]
        handles = draw_scatter(ax, bias[part["model"]].to_numpy(), part["value"].to_numpy(), part["group"])
        said = [
            f"{stratum}: r = {one['value']:+.2f} ({one['ci_low']:.2f} to {one['ci_high']:.2f})"
            for stratum, one in pearson.loc[name].iterrows()
        ]
        ax.set_title("\n".join([label, *said]), loc="left", fontsize=8.5)
        ax.axhline(0, **REFERENCE)
        format_ticks(ax.yaxis, percent=True, sign=True)
    return finish_figure(
        figure, handles, xlabel=metric_label("shape_bias"), ylabel="Effective robustness (percentage points)"
    )
