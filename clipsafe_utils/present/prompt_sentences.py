"""Findings about prompt sets as sentences."""

import pandas as pd
from IPython.display import Markdown, display

from clipsafe_utils import plots
from clipsafe_utils.present.basics import say, table
from clipsafe_utils.present.sentences import sign_bullets
from clipsafe_utils.sections.prompts import ALL


def prompt_sets(facts, shared):
    """Show the prompt sets, and the class names that several classes share.

    Parameters
    ----------
    facts, shared
        From `sections.prompt_set_facts`.
    """
    table(facts)
    for variant, names in shared.items():
        listed = "; ".join(f"{name} ({', '.join(map(str, indices))})" for name, indices in names.items())
        display(Markdown(f"Class names of the list `{variant}` that several classes share: {listed or 'none'}."))


def prompt_means(means):
    """Say which prompt sets change an objective on average over all models, and which cannot be told from the main one.

    Parameters
    ----------
    means : DataFrame
        Tidy, from `sections.mean_effects`.
    """
    for metric, rows in means.groupby("metric", sort=False):
        part, by_source = rows[rows["model"] == ALL], rows[rows["model"] != ALL].dropna(subset=["ci_low"])
        objective, n = metric.removesuffix("_difference"), part["n"].max()
        style = plots.metric_style(objective.split("_")[0])
        if part["ci_low"].isna().all():
            display(
                Markdown(
                    f"**{plots.OBJECTIVES[objective]}**: an interval over models needs three of them, here n = {n}."
                )
            )
            continue
        unit = "percentage points" if style.percent else "absolute"
        intro = f"**{plots.OBJECTIVES[objective]}** (mean change over {n} models, {unit}):"
        above, below = ("better", "worse") if style.direction[0] == "h" else ("worse", "better")
        lines = [*sign_bullets(part, 100 if style.percent else 1, above, below)]
        for source, own in by_source.groupby("model"):
            signs = {above: own["ci_low"] > 0, below: own["ci_high"] < 0}
            said = [
                f"{word} with {', '.join(own.loc[clear, 'test_set'])}" for word, clear in signs.items() if clear.any()
            ]
            lines.append(f"- {source} ({own['n'].max()} models): {'; '.join(said) or 'not distinguishable from zero'}")
        say(intro, lines)


def variance_shares(shares):
    """Say for each objective which effect holds most of its variance, and what lies in the prompt set.

    Parameters
    ----------
    shares : DataFrame
        Tidy, from `sections.variance_decomposition`.
    """
    for objective, part in shares.dropna(subset=["value"]).groupby("model", sort=False):
        part = part.sort_values("value", ascending=False, kind="stable")
        first, rest = part.iloc[0], part.iloc[1:]
        as_large = rest.loc[rest["ci_high"] > first["ci_low"], "test_set"]
        text = f"**{plots.OBJECTIVES[objective].split(',')[0]}**: the largest share is that of {_share(first)}"
        text += f"; the intervals of {', '.join(as_large)} overlap with its own" if len(as_large) else ""
        own = part[part["test_set"].str.contains("prompt set")]
        text += f". With the prompt set: {', '.join(_share(row) for _, row in own.iterrows())}." if len(own) else "."
        display(Markdown(text))


def _share(row):
    limits = f" ({100 * row['ci_low']:.0f} to {100 * row['ci_high']:.0f})" if pd.notna(row["ci_low"]) else ""
    return f"{row['test_set']} {100 * row['value']:.0f}%{limits}"


def prompt_front(front):
    """Say which prompt sets no other beats, how sure that is, and of how many models it holds.

    Parameters
    ----------
    front : DataFrame
        From `sections.prompt_front`.
    """
    if front.empty:
        return
    known = [plots.metric_style(key).label for key in ("accuracy", "auroc", "ece") if key in front]
    lines = [
        f"- **{row.prompts}**{'' if row.on_front else ' (beaten)'}: on the front of {row.resamples_on_front:.0%} of "
        f"the resamples, and of {row.models_on_front:.0%} of the models by themselves"
        for row in front.itertuples()
        if row.on_front or row.resamples_on_front > 0.05
    ]
    n = f"{front['n_models'].max()} models, their bootstrap resamples"
    intro = f"**No other prompt set is at least as good in the means of {', '.join(known)}** ({n}):"
    say(intro, lines)


def choice_costs(costs):
    """Say what it costs one objective that the prompt set was chosen for another, or that no cost can be told.

    Parameters
    ----------
    costs : DataFrame
        From `sections.choice_costs`.
    """
    for chosen_by, part in costs.groupby("chosen_by", sort=False):
        lines = []
        for row in part.itertuples():
            style, by = plots.metric_style(row.costs), f"chosen by {plots.metric_style(row.costs).label}"
            value, low, high = (number * (100 if style.percent else 1) for number in (row.cost, row.low, row.high))
            digits, unit = (1, " points") if style.percent else (3, "")
            against = f"than with the set {by} ({row.rival})"
            if pd.isna(low):
                lines.append(
                    f"- {style.label} {value:.{digits}f}{unit} worse {against}; an interval needs three models"
                )
            elif low > 0:
                numbers = f"{value:.{digits}f}{unit} worse ({low:.{digits}f} to {high:.{digits}f})"
                lines.append(f"- it costs {style.label}: {numbers} {against}")
            else:
                numbers = f"{value:+.{digits}f}{unit}, {low:.{digits}f} to {high:.{digits}f}"
                said = "not distinguishable from none" if high >= 0 else "none"
                lines.append(f"- cost in {style.label} {said}: {numbers} worse {against}")
        chosen, n = part["chosen"].iloc[0], part["n_models"].max()
        label = plots.metric_style(chosen_by).label
        intro = f"**The prompt set with the best {label}** ({chosen}; {n} models, each with sets chosen on the others):"
        say(intro, lines)
