"""Out-of-distribution detection."""

import numpy as np
from matplotlib.patches import Rectangle

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    FEW,
    GROUP_STYLE,
    REFERENCE,
    add_note,
    dot_handles,
    dot_height,
    dot_plot,
    draw_dots,
    draw_scatter,
    finish_figure,
    format_ticks,
    group_handles,
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
    sorted_categories,
)


def ood_detection(table, models, *, metric="auroc", panels=None):
    """How well each OOD score (lines) detects each OOD set (panels).

    Parameters
    ----------
    table, models, panels
        See the module. Rows of the metric; `protocol` is "SCORE" or "SCORE, HOW THE MODEL CLASSIFIES".
    metric : str, default "auroc"
    """
    table = table.assign(category=table["protocol"].str.split(", ").str[0])
    rows = select_rows(table, models, [metric], unit=["model", "test_set", "category"])
    style, order = metric_style(metric), sorted_categories(rows)
    names = list(dict.fromkeys(rows["test_set"]))
    lanes = rows["model" if rows["model"].nunique() <= FEW else "group"].nunique()
    height = min(dot_height(rows, order) - 0.6, 0.8 + len(order) * (0.075 * lanes + 0.08))
    figure, axes = make_panels(panels, names, max(height, 1.6))
    for name, ax in zip(names, axes, strict=True):
        dot_plot(rows[rows["test_set"] == name], ax, order=order, percent=style.percent, among=rows)
        if style.chance is not None:
            ax.axvline(style.chance, **REFERENCE, linestyle=":")
    chance = "; dotted: chance" * (style.chance is not None)
    return finish_figure(figure, dot_handles(rows), xlabel=metric_label(metric) + chance)


def scores_by_group(samples, models, *, method, panels=None):
    """`score_distributions` of a representative model of each group.

    Parameters
    ----------
    samples : list of ScoreSamples
        From `sections.score_samples`: each with model, inside (n_id,), outside (dict of OOD set to scores).
    models, panels
        See the module.
    method : str
        Name of the score.
    """
    order = list(GROUP_STYLE)
    samples = sorted(samples, key=lambda one: order.index(models["group"][one.model]))
    figure, axes = make_panels(panels, [one.model for one in samples], 2.2, sharex=False, columns=2)
    for one, ax in zip(samples, axes, strict=True):
        score_distributions(one.inside, one.outside, method=method, ax=ax, few_words=True)
        ax.set_title(f"{GROUP_STYLE[models['group'][one.model]].label}: {shorten(one.model, 26)}", loc="left")
    label = f"OOD score: {method}, higher = more out-of-distribution →"
    return finish_figure(figure, axes[0].get_legend_handles_labels()[0], xlabel=label, ylabel="Density")


def score_distributions(id_scores, ood_scores, *, method, ax=None, few_words=False):
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
    few_words : bool, default False
        Leave out axis labels, legend and the words at the threshold, where several are drawn side by side.
    """
    samples = [("In-distribution", np.asarray(id_scores)), *((k, np.asarray(v)) for k, v in ood_scores.items())]
    for name, scores in samples:
        if not len(scores) or not np.isfinite(scores).all():
            raise ClipsafeError(f"{method} scores of {name!r} must be finite, and at least one; got {len(scores)}.")
    edges = np.histogram_bin_edges(np.concatenate([scores for _, scores in samples]), bins=50)
    ax = make_axes(ax, 4)
    for index, ((name, scores), color) in enumerate(zip(samples, series_colors(len(samples)), strict=True)):
        look = {"color": color, "linestyle": ("-", "--", "-.")[index % 3]} if index else {"color": "0.6", "fill": True}
        density = np.histogram(scores, bins=edges, density=True)[0]
        ax.stairs(density, edges, label=f"{shorten(name)} (n = {len(scores):,})", linewidth=1.6, **look)
    threshold = np.quantile(samples[0][1], 0.95, method="inverted_cdf")
    ax.axvline(threshold, **REFERENCE | {"zorder": 3}, linestyle="--")
    if few_words:
        return ax
    side = "right" if threshold > edges[[0, -1]].mean() else "left"
    add_note(ax, threshold, 0.98, "  95% of ID at or left of this  ", transform=ax.get_xaxis_transform(), ha=side)
    ax.set(xlabel=f"OOD score: {method}\nhigher = more out-of-distribution →", ylabel="Density")
    legend(ax, ax.get_legend_handles_labels()[0])
    return ax


def against_id_accuracy(table, models, *, x_set, metric, strata=None, test_sets=None, panels=None):
    """A metric on each test set (panels) against ID accuracy, one point a model.

    With strata, a line through the models of each tells whether what holds over all models (dashed) holds inside too.

    Parameters
    ----------
    table, models, panels
        See the module. Rows of the metric, of one protocol a model, and of "accuracy" on x_set.
    x_set, metric : str
        Test set of the horizontal axis, metric of the vertical one.
    strata : Series, optional
        Model -> "GROUP, SOURCE"; lines from four models on.
    test_sets : list of str, optional
        By default all that have the metric.
    """
    accuracy = select_rows(table, models, ["accuracy"], [x_set]).set_index("model")["value"]
    rows = select_rows(table, models, [metric], test_sets)
    rows = rows[rows["model"].isin(accuracy.index)]
    if rows.empty:
        raise ClipsafeError(f"no model has both {metric!r} and an accuracy on {x_set!r}; nothing to draw.")
    names = [name for name in test_sets or sorted(set(rows["test_set"])) if (rows["test_set"] == name).any()]
    figure, axes = make_panels(panels, names, 2.7)
    for name, ax in zip(names, axes, strict=True):
        here = rows[rows["test_set"] == name]
        if strata is None:
            draw_scatter(ax, accuracy[here["model"]], here["value"], here["group"])
        else:
            _draw_strata(ax, here.assign(x=here["model"].map(accuracy), stratum=here["model"].map(strata)))
        format_ticks(ax.xaxis, percent=True)
        format_ticks(ax.yaxis, metric_style(metric).percent)
    labels = {"xlabel": f"Accuracy on {shorten(x_set)} (%)", "ylabel": metric_label(metric)}
    handles = group_handles(rows) if strata is None else _strata_handles(rows.assign(stratum=rows["model"].map(strata)))
    return finish_figure(figure, handles, **labels)


def _strata_looks(rows):
    """Stratum -> group style and filling; the sources of a group share colour and marker."""
    looks = {}
    for group, part in rows.groupby("group"):
        fills = ("full", "none", "left", "right", "top", "bottom")
        for index, stratum in enumerate(sorted(set(part["stratum"]))):
            looks[stratum] = GROUP_STYLE[group], fills[index % len(fills)]
    return dict(sorted(looks.items(), key=lambda look: list(GROUP_STYLE.values()).index(look[1][0])))


def _draw_strata(ax, rows):
    for stratum, (style, fill) in _strata_looks(rows).items():
        part = rows[rows["stratum"] == stratum]
        look = marker_look(style.marker, style.color, fill) | {"markersize": 5, "alpha": 0.8}
        ax.plot(part["x"], part["value"], **look)
        if len(part) >= 4 and np.ptp(part["x"]):
            _draw_line(ax, part, color=style.color, linestyle=":" if fill == "none" else "-", linewidth=1.6)
    if len(rows) >= 4 and np.ptp(rows["x"]):
        _draw_line(ax, rows, **REFERENCE, linestyle="--")


def _draw_line(ax, rows, **look):
    slope, intercept = np.polyfit(rows["x"], rows["value"], 1)
    ends = np.array([rows["x"].min(), rows["x"].max()])
    ax.plot(ends, intercept + slope * ends, **{"zorder": 2} | look)


def _strata_handles(rows):
    counts = rows.groupby("stratum")["model"].nunique()
    shown = _strata_looks(rows).items()
    return [make_handle(s.marker, s.color, f"{name} ({counts[name]:,})", fill) for name, (s, fill) in shown]


def accuracy_correlations(table, *, panels=None):
    """Correlation of ID accuracy and AUROC on each OOD set (panels), over all models, within sources and in each.

    Parameters
    ----------
    table : DataFrame
        Tidy rows from `sections.accuracy_correlations`; pearson (full markers) and spearman (hollow ones) are drawn.
    panels
        See the module.
    """
    rows = table[table["metric"].isin(["pearson", "spearman"])]
    if rows.empty:
        raise ClipsafeError("the table has no rows of metric pearson or spearman; nothing to draw.")
    first = ["all models", "within sources"]
    order = [*(name for name in first if name in set(rows["model"])), *sorted(set(rows["model"]) - set(first))]
    names = list(dict.fromkeys(rows["test_set"]))
    figure, axes = make_panels(panels, names, 0.7 + 0.36 * len(order))
    color = series_colors(2)[0]
    for name, ax in zip(names, axes, strict=True):
        for metric, shift, fill in (("pearson", -0.15, "full"), ("spearman", 0.15, "none")):
            part = rows[(rows["test_set"] == name) & (rows["metric"] == metric)]
            for one in part.itertuples():
                look = GROUP_STYLE["other"]._replace(color=color, marker="o")
                y = order.index(one.model) + shift
                draw_dots(ax, one.value, y, one.ci_low, one.ci_high, look, fill)
        counts = rows[rows["metric"] == "pearson"].groupby("model")["n"].max()
        set_categories(ax, [f"{stratum} ({counts[stratum]:,})" for stratum in order])
        ax.axvline(0, **REFERENCE)
        ax.set_xlim(-1.05, 1.05)
        format_ticks(ax.xaxis)
    handles = [make_handle("o", color, "Pearson"), make_handle("o", color, "Spearman (ranks)", "none")]
    return finish_figure(figure, handles, xlabel="Correlation of ID accuracy and AUROC over models")


def score_gains(table, *, panels=None):
    """Mean gain in AUROC of each score (rows) on each OOD set (columns), a panel a group of models.

    Parameters
    ----------
    table : DataFrame
        Tidy rows from `sections.score_choice`; auroc_gain_mean is drawn, in points of 0.01. Numbers whose interval
        excludes 0 are bold, the best score of a column has a frame (the main score where all others lose).
    panels
        See the module.
    """
    rows = table[table["metric"] == "auroc_gain_mean"]
    if rows.empty:
        raise ClipsafeError("the table has no rows of metric auroc_gain_mean; nothing to draw.")
    main = rows["protocol"].iloc[0].partition(" against ")[2]
    rows = rows.assign(score=rows["protocol"].str.split(" ").str[0])
    scores, sets = list(dict.fromkeys(rows["score"])), list(dict.fromkeys(rows["test_set"]))
    order = [style.label for style in GROUP_STYLE.values()]
    groups = sorted(set(rows["model"]), key=lambda name: order.index(name) if name in order else len(order))
    scores.sort(key=lambda score: -rows.loc[rows["score"] == score, "value"].mean())
    figure, axes = make_panels(panels, groups, 1.5 + 0.22 * len(scores))
    limit = 100 * rows["value"].abs().max()
    for group, ax in zip(groups, axes, strict=True):
        part = rows[rows["model"] == group].set_index(["score", "test_set"])
        table = part["value"].unstack().reindex(index=scores, columns=sets)
        values = np.ma.masked_invalid(100 * table.to_numpy())
        ax.pcolormesh(values, cmap="PuOr", vmin=-limit, vmax=limit, edgecolors="white", linewidth=0.5)
        ax.invert_yaxis()
        for (score, test_set), one in part.iterrows():
            y, x = scores.index(score), sets.index(test_set)
            clear = one["ci_low"] * one["ci_high"] > 0
            dark = abs(100 * one["value"]) > 0.6 * limit
            look = {"color": "white" if dark else "black", "weight": "bold" if clear else "normal"}
            text = f"{100 * one['value']:+.0f}".replace("+0", "0").replace("-0", "0")
            ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, **look)
            if one["value"] == max(0, table[test_set].max()):
                ax.add_patch(
                    Rectangle((x, y), 1, 1, fill=False, edgecolor="black", linewidth=1.6, zorder=4, clip_on=False)
                )
        ax.set_xticks(np.arange(len(sets)) + 0.5, shorten_all(sets), rotation=40, ha="right")
        ax.set_yticks(np.arange(len(scores)) + 0.5, scores, rotation=0)
        ax.set(xlabel="", ylabel="")
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.set_title(f"{group} ({part['n'].max():,})", loc="left")
    figure.supxlabel(f"AUROC minus that of {main}, in points of 0.01; frame: best score", fontsize=10)
    return figure


def fine_tuning_paths(table, models, *, metric="auroc", panels=None):
    """A metric on each test set (panels) of a zero-shot model and of what came of it: two paths from the middle.

    Parameters
    ----------
    table, models, panels
        See the module. Rows of the metric, one a model and test set; `models` has columns init_from and finetune.
    metric : str, default "auroc"
    """
    rows = select_rows(table, models, [metric])
    tuned = models[models["group"].eq("clip_finetuned") & models.get("init_from", "").isin(models.index)]
    tuned = tuned[tuned.index.isin(rows["model"]) & tuned["init_from"].isin(rows["model"])]
    if tuned.empty:
        raise ClipsafeError("no fine-tuned model and the model that it started from both have numbers.")
    names, values = list(dict.fromkeys(rows["test_set"])), rows.set_index(["model", "test_set"])["value"]
    starts = sorted(set(tuned["init_from"]))
    figure, axes = make_panels(panels, names, 2.4)
    at = {"direct": 0, "zero-shot": 1, "detour": 2}
    for name, ax in zip(names, axes, strict=True):
        for start, color in zip(starts, series_colors(len(starts)), strict=True):
            for model, path in tuned.loc[tuned["init_from"] == start, "finetune"].items():
                side = at["detour" if "_" in path else "direct"]
                y = values[start, name], values[model, name]
                ax.plot([1, side], y, color=color, linewidth=1.4, alpha=0.8, zorder=2)
                style = GROUP_STYLE["clip_finetuned"]
                ax.plot(side, y[1], **marker_look(style.marker, color))
            ax.plot(1, values[start, name], **marker_look(GROUP_STYLE["zero_shot_clip"].marker, color))
        ax.set_xticks(list(at.values()), ["fine-tuned\ndirectly", "zero-\nshot", "by way of\nmore labels"])
        ax.set_xlim(-0.3, 2.3)
        format_ticks(ax.yaxis, metric_style(metric).percent)
    handles = [
        make_handle("o", color, shorten(start)) for start, color in zip(starts, series_colors(len(starts)), strict=True)
    ]
    return finish_figure(figure, handles, xlabel="", ylabel=metric_label(metric))
