"""What moves safety: effects of the facts about the models' training."""

import textwrap

import matplotlib.pyplot as plt

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.plots.base import (
    REFERENCE,
    GroupStyle,
    draw_dots,
    finish_figure,
    format_ticks,
    make_handle,
    make_panels,
    series_colors,
    set_categories,
)


def regression(effects, *, panels=None):
    """Effects with their intervals, one panel a property, one row a term, one colour a fact.

    Parameters
    ----------
    effects : DataFrame
        property, fact, term, effect, ci_low, ci_high (fractions), p_adjusted, ci_level, confounded: see
        `clipsafe_utils.regression.Regression`.
    panels
        See the module. Properties that mostly have the same terms stand side by side, others below each other.
    """
    if effects.empty:
        raise ClipsafeError("there are no effects to draw; the regression's `left_out` says why.")
    names, facts = list(dict.fromkeys(effects["property"])), list(dict.fromkeys(effects["fact"]))
    terms = {name: list(part["term"]) for name, part in effects.groupby("property", sort=False)}
    common = set.intersection(*map(set, terms.values()))
    side_by_side = len(common) > 0.5 * max(map(len, terms.values()))
    if side_by_side:
        order = sorted(dict.fromkeys(effects["term"]), key=lambda term: facts.index(term.partition(":")[0]))
        terms = dict.fromkeys(names, order)
        figure, axes = make_panels(panels, names, 0.6 + 0.21 * len(order), sharex=False)
    else:
        figure, axes = _stacked(panels, names, [len(terms[name]) for name in names])
    colors, level = dict(zip(facts, series_colors(len(facts)), strict=True)), effects["ci_level"].iloc[0]
    marks = dict.fromkeys(effects.loc[effects["confounded"].eq("nearly"), "term"], " ‡")
    marks |= dict.fromkeys(effects.loc[effects["confounded"].str.startswith("with"), "term"], " †")
    for name, ax in zip(names, axes, strict=True):
        part = effects[effects["property"] == name]
        for row in part.itertuples():
            fill = "full" if row.p_adjusted < 1 - level else "none"
            look = GroupStyle("", colors[row.fact], "o")
            draw_dots(ax, [row.effect], [terms[name].index(row.term)], row.ci_low, row.ci_high, look, fill)
        set_categories(ax, [_short(term) + marks.get(term, "") for term in terms[name]])
        ax.tick_params(axis="y", labelsize=8)
        ax.axvline(0, **REFERENCE)
        ax.locator_params(axis="x", nbins=5)
        format_ticks(ax.xaxis, percent=True, sign=True)
        ax.set_title(
            "\n".join(textwrap.wrap(name[0].upper() + name[1:], 24 if side_by_side else 80)), loc="left", fontsize=9.5
        )
    handles = [make_handle("o", "0.3", f"adjusted p below {1 - level:.2g}")]
    handles += [make_handle("o", "0.3", "not distinguishable from zero", "none")]
    texts = {" †": "stands for more than its name", " ‡": "hard to tell from other facts"}
    handles += [
        make_handle(rf"${chr(92)}{'dagger' if m == ' †' else 'ddagger'}$", "0.3", text)
        for m, text in texts.items()
        if m in marks.values()
    ]
    return finish_figure(figure, handles, xlabel=f"Effect in percentage points, with its {level:.0%} interval")


def _stacked(panels, names, rows):
    if panels is None:
        ratios = [n + 1.5 for n in rows]
        layout = {"height_ratios": ratios, "layout": "constrained", "figsize": (8, 1.2 + 0.2 * sum(ratios))}
        panels = plt.subplots(len(names), 1, **layout)[1]
    return make_panels(panels, names, 0)


def _short(term):
    return term.replace("training source", "source").replace(" against ", " vs ")
