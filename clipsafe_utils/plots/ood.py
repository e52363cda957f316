"""Out-of-distribution detection."""

import numpy as np

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    REFERENCE,
    add_note,
    dot_handles,
    dot_height,
    dot_plot,
    draw_scatter,
    finish_figure,
    format_ticks,
    group_handles,
    legend,
    make_axes,
    make_panels,
    metric_label,
    metric_style,
    select_rows,
    series_colors,
    shorten,
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
    figure, axes = make_panels(panels, names, dot_height(rows, order) - 0.6)
    for name, ax in zip(names, axes, strict=True):
        dot_plot(rows[rows["test_set"] == name], ax, order=order, percent=style.percent, among=rows)
        if style.chance is not None:
            ax.axvline(style.chance, **REFERENCE, linestyle=":")
            add_note(ax, style.chance, 0.02, " chance ", bbox=None, transform=ax.get_xaxis_transform())
    return finish_figure(figure, dot_handles(rows), xlabel=metric_label(metric))


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
    ax = make_axes(ax, 4)
    for index, ((name, scores), color) in enumerate(zip(samples, series_colors(len(samples)), strict=True)):
        look = {"color": color, "linestyle": ("-", "--", "-.")[index % 3]} if index else {"color": "0.6", "fill": True}
        density = np.histogram(scores, bins=edges, density=True)[0]
        ax.stairs(density, edges, label=f"{shorten(name)} (n = {len(scores):,})", linewidth=1.6, **look)
    threshold = np.quantile(samples[0][1], 0.95, method="inverted_cdf")
    ax.axvline(threshold, **REFERENCE | {"zorder": 3}, linestyle="--")
    side = "right" if threshold > edges[[0, -1]].mean() else "left"
    add_note(ax, threshold, 0.98, "  95% of ID at or left of this  ", transform=ax.get_xaxis_transform(), ha=side)
    ax.set(xlabel=f"OOD score: {method}\nhigher = more out-of-distribution →", ylabel="Density")
    legend(ax, ax.get_legend_handles_labels()[0])
    return ax


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
    accuracy = select_rows(table, models, ["accuracy"], [x_set]).set_index("model")["value"]
    rows = select_rows(table, models, [metric], test_sets)
    rows = rows[rows["model"].isin(accuracy.index)]
    if rows.empty:
        raise ClipsafeError(f"no model has both {metric!r} and an accuracy on {x_set!r}; nothing to draw.")
    names = [name for name in test_sets or sorted(set(rows["test_set"])) if (rows["test_set"] == name).any()]
    figure, axes = make_panels(panels, names, 2.7)
    for name, ax in zip(names, axes, strict=True):
        here = rows[rows["test_set"] == name]
        draw_scatter(ax, accuracy[here["model"]], here["value"], here["group"])
        format_ticks(ax.xaxis, percent=True)
        format_ticks(ax.yaxis, metric_style(metric).percent)
    labels = {"xlabel": f"Accuracy on {shorten(x_set)} (%)", "ylabel": metric_label(metric)}
    return finish_figure(figure, group_handles(rows), **labels)
