"""What prompt sets change."""

from clipsafe_utils.plots.base import (
    METRICS,
    REFERENCE,
    dot_handles,
    dot_height,
    dot_plot,
    finish_figure,
    make_panels,
    metric_style,
    select_rows,
    shorten,
)


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
    table = table.assign(category=table["protocol"].str.removeprefix("prompts ").str.split(", ").str[0])
    rows = select_rows(table, models, known, unit=["model", "test_set", "category", "metric"])
    order = sorted(set(rows["category"]))
    shown = sorted(rows.groupby(["metric", "test_set"]), key=lambda item: known.index(item[0][0]))
    labels = [f"{metric_style(name.removesuffix('_difference')).label} on {shorten(test)}" for (name, test), _ in shown]
    figure, axes = make_panels(panels, labels, dot_height(rows, order), sharex=False)
    for ((name, _), part), ax in zip(shown, axes, strict=True):
        style = metric_style(name.removesuffix("_difference"))
        dot_plot(part, ax, order=order, percent=style.percent, sign=True, among=rows)
        ax.axvline(0, **REFERENCE)
        arrows = {"h": "← worse     better →", "l": "← better     worse →"}.get(style.direction[0], "")
        ax.set_xlabel(f"{'percentage points' if style.percent else 'difference'}\n{arrows}")
    return finish_figure(figure, dot_handles(rows), xlabel=f"Difference to {reference}, paired by image")
