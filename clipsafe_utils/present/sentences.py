"""Findings as sentences: computed from intervals, with a branch for what cannot be told."""

import numpy as np
from IPython.display import Markdown, display

from clipsafe_utils import plots
from clipsafe_utils.present.basics import group_label, say
from clipsafe_utils.sections.shape import WAYS


def findings(means, *, group, above, below, unit="percentage points"):
    """Say in sentences on which test sets a group's mean differs from zero, and on which it cannot be told.

    Parameters
    ----------
    means : DataFrame
        From `group_means`.
    group : str
    above, below : str
        What a mean above and below zero says, for example "more robust than the baseline line".
    """
    part = means[means["group"] == group]
    if part.empty:
        return
    n = counted(part["n_models"], part["n_starts"])
    if part["low"].isna().all():
        display(Markdown(f"**{group_label(group)}** ({n}): no interval over models."))
        return
    intro = f"**{group_label(group)}** ({n}; mean in {unit}, interval over models):"
    part = part.rename(columns={"mean": "value", "low": "ci_low", "high": "ci_high"})
    scale = 100 if unit == "percentage points" else 1
    say(intro, sign_bullets(part, scale, above, below))


def group_findings(means, metric, *, above, below, unit="percentage points"):
    """Say `findings` of every group of three models or more; rows from `sections.means_by_group`."""
    names = {"model": "group", "value": "mean", "ci_low": "low", "ci_high": "high", "n": "n_models"}
    part = means[means["metric"].eq(metric) & means["n"].gt(2)]
    part = part.assign(n_starts=starts(part)).rename(columns=names)
    by_number = part["test_set"].str.replace(r"\d+", lambda number: number[0].zfill(9), regex=True)  # 50 before 100
    part = part.loc[by_number.sort_values(kind="stable").index]
    for style in plots.GROUP_STYLE.values():
        findings(part, group=style.label, above=above, below=below, unit=unit)


def contrasts(rows, *, above, below):
    """Say in sentences where a comparison of matched pairs differs from zero, and where it cannot be told.

    Parameters
    ----------
    rows : DataFrame
        Tidy, from `sections.contrasts`.
    above, below : str
        What a difference above and below zero says.
    """
    for (comparison, metric), part in rows.groupby(["model", "metric"], sort=False):
        style = plots.metric_style(metric.removesuffix("_difference"))
        scale = 100 if style.percent else 1
        unit = "percentage points" if style.percent else "absolute"
        pairs = " to ".join(map(str, dict.fromkeys((part["n"].min(), part["n"].max()))))
        if part["ci_low"].isna().all():
            text = "a single pair, or pairs that all share a model, say nothing about others."
            display(Markdown(f"**{comparison}**: {style.label.lower()}: {text}"))
            continue
        intro = f"**{comparison}**: {style.label.lower()} (mean over {pairs} independent pairs, {unit}):"
        say(intro, sign_bullets(part, scale, above, below))


def strata(rows, *, above, below, units="models"):
    """Say of each stratum of models in a line where its mean differs from zero.

    Parameters
    ----------
    rows : DataFrame
        Tidy, from `sections.stratum_means` or `sections.seed_means`.
    above, below : str
        What a mean above and below zero says.
    units : str
        What n counts.
    """
    lines = []
    for stratum, part in rows.groupby("model", sort=False):
        known = part.dropna(subset=["ci_low", "ci_high"])
        above_0, below_0 = known["ci_low"] > 0, known["ci_high"] < 0
        said = []
        for text, chosen in ((above, known[above_0]), (below, known[below_0])):
            numbers = (100 * chosen[["value", "ci_low", "ci_high"]]).to_numpy()
            named = [
                f"{name} ({v:+.{digits_of(low, high)}f})"
                for name, (v, low, high) in zip(_last(chosen["test_set"]), numbers, strict=True)
            ]
            said += [f"{text}: {', '.join(named)}"] if named else []
        unclear, unknown = (~above_0 & ~below_0).sum(), len(part) - len(known)
        said += [f"not distinguishable from zero: {unclear} of {len(known)}"] if len(known) else []
        said += [f"no interval: {unknown} of {len(part)}"] if unknown else []
        lines.append(f"- **{stratum}** ({counted(part['n'], starts(part), units)}): {'; '.join(said)}")
    if lines:
        say("Means in percentage points:", lines)


def correlations(rows, *, what, above, below):
    """Say on which test sets a correlation over models differs from zero, and on which it cannot be told.

    Of several ways to take facts about the models out, the one that takes out most is said.

    Parameters
    ----------
    rows : DataFrame
        Tidy, metric "pearson"; `model` holds what the correlation is over, one of `sections.shape.WAYS`.
    what : str
        What goes with what.
    above, below : str
        What a positive and a negative correlation says.
    """
    rows = rows[rows["metric"] == "pearson"]
    for over in [way for way in WAYS if way in set(rows["model"])][-1:]:
        part = rows[rows["model"] == over]
        intro = f"**{what}, {over}** (Pearson's correlation, {counted(part['n'], starts(part))}):"
        say(intro, sign_bullets(part, 1, above, below))


def sizes_needed(means):
    """Say from how many images on a temperature is better than none, and what that of the most images gains.

    Parameters
    ----------
    means : DataFrame
        Tidy, metric "nll_change", from `sections.means_by_group` of `sections.size_effects`.
    """
    lines = []
    for group, part in means.dropna(subset=["ci_low", "ci_high"]).groupby("model", sort=False):
        images = part["test_set"].str.extract(r"/(\d+) images$")[0].astype(int)
        part = part.assign(images=images).sort_values("images")
        worse, most = part.loc[part["ci_high"] >= 0, "images"].max(), part.iloc[-1]
        enough = part.loc[~(part["images"] <= worse), "images"]
        said = f"**{enough.iloc[0]:,}** images" if len(enough) else f"none of the sizes up to {most['images']:,}"
        change = limits(most["value"], most["ci_low"], most["ci_high"])
        n = counted(part["n"], starts(part))
        lines.append(f"- {group} ({n}): {said}; with {most['images']:,} the NLL changes by {change} nats")
    if lines:
        sizes = "the smallest size from which on the interval of the paired difference lies below 0"
        say(f"A temperature is better than none with ({sizes}):", lines)


def shrinkage(shrunken, models):
    """Say on which test sets the spread over the models of a group is mostly the sampling of images.

    Parameters
    ----------
    shrunken : DataFrame
        From `sections.shrunken`; nothing is said of errors that are those of counts, which overstate the sampling.
    models : DataFrame
        Facts about the models, see `Study.models`.
    """
    kept = shrunken[(shrunken["metric"] == "share_kept") & shrunken["protocol"].str.contains("shared images")]
    kept = kept.assign(group=kept["model"].map(models["group"]), factor=kept["test_set"].str.rsplit("/").str[-1])
    for group, part in kept.groupby("group"):
        means, n = part.groupby("factor")["value"].mean(), part["model"].nunique()
        sampling = ((1 - means) * (n - 1) / (n - 3)).clip(0, 1).sort_values(ascending=False)  # undo Morris' factor
        mostly = ", ".join(f"{name} ({share:.0%})" for name, share in sampling[sampling > 0.5].items())
        text = f"more than half of it on {mostly}" if mostly else "less than half of it on every factor"
        least = f"least on {sampling.index[-1]} ({sampling.iloc[-1]:.0%})"
        intro = f"**{group_label(group)}** ({n} models), share of the spread over models that is sampling of images"
        display(Markdown(f"{intro}: {text}; {least}."))


def shape_by_category(means):
    """Say for each group in how many categories shape decides, in how many texture, and where it cannot be told.

    Parameters
    ----------
    means : DataFrame
        From `sections.category_means`.
    """
    bias = means[(means["metric"] == "category_shape_bias_over_models") & means["ci_low"].notna()]
    for group, part in bias.groupby("model", sort=False):
        ends = part.set_index("test_set")["value"].sort_values()
        first, last = (name.rpartition("/")[2] for name in (ends.index[0], ends.index[-1]))
        intro = (
            f"**{group_label(group)}** ({counted(part['n'], starts(part))}): shape bias by category lies between "
            f"{ends.iloc[0]:.2f} ({first}) and {ends.iloc[-1]:.2f} ({last})."
        )
        counts = {
            "shape decides": (part["ci_low"] > 0.5).sum(),
            "texture decides": (part["ci_high"] < 0.5).sum(),
            "not distinguishable from 0.5": ((part["ci_low"] <= 0.5) & (part["ci_high"] >= 0.5)).sum(),
        }
        listed = [f"- {text}: {count} of {len(part)} categories" for text, count in counts.items()]
        say(intro, listed)


def simpson(verdicts):
    """Say on which test sets accuracy and detection go together over all models, within training sources, or both.

    One "alone" is said only where the two correlations can be told apart.

    Parameters
    ----------
    verdicts : DataFrame
        From `sections.simpson`.
    """
    lines = []
    for verdict, part in verdicts.groupby("verdict", sort=False):
        listed = ", ".join(
            f"{one.test_set} ({one.overall:+.2f}, within {one.within:+.2f}, difference {one.low:.2f} to {one.high:.2f})"
            for one in part.itertuples()
        )
        lines.append(f"- {verdict}: {len(part)} of {len(verdicts)}: {listed}")
    if lines:
        intro = "Pearson correlation **over all models, and within training sources**, distinguishable from zero:"
        say(intro, lines)


def best_scores(best, main):
    """Say which OOD score is best for each group, and where it cannot be told from the main one.

    Parameters
    ----------
    best : DataFrame
        From `sections.best_scores`.
    main : str
    """
    for group, part in best.groupby("group", sort=False):
        clear = part[part["low"] > 0]
        listed = [
            f"- {one.test_set}: {one.score} ({limits(100 * one.gain, 100 * one.low, 100 * one.high)})"
            for one in clear.itertuples()
        ]
        for text, chosen in (
            (f"none is distinguishable from {main}, or better", part["low"] <= 0),
            ("no interval", part["low"].isna()),
        ):
            listed += [f"- {text}: {', '.join(part.loc[chosen, 'test_set'])}"] * bool(chosen.any())
        n = counted(part["n"], starts(part))
        say(f"**{group}** ({n}): best score by OOD set, and its gain over {main} in points:", listed)


def sign_bullets(rows, scale, above, below):
    """Bullets: where intervals lie above zero, below it, or hold it, and where there is none."""
    known = rows.dropna(subset=["ci_low", "ci_high"])
    for text, chosen in (
        (above, known[known["ci_low"] > 0]),
        (below, known[known["ci_high"] < 0]),
        ("not distinguishable from zero", known[(known["ci_low"] <= 0) & (known["ci_high"] >= 0)]),
    ):
        numbers = (scale * chosen[["value", "ci_low", "ci_high"]]).itertuples(index=False)
        named = zip(_last(chosen["test_set"]), numbers, strict=True)
        listed = ", ".join(f"{name} ({limits(*three)})" for name, three in named)
        if len(known):
            yield f"- {text}: {len(chosen)} of {len(known)}{': ' + listed if listed else ''}"
    if len(rest := rows.drop(known.index)):
        yield f"- no interval: {len(rest)} of {len(rows)}: {', '.join(_last(rest['test_set']))}"


def limits(value, low, high):
    """A value and its limits, "+1.2, 0.4 to 2.0", with as many digits as the interval is sure of."""
    digits = digits_of(low, high)
    return f"{value:+.{digits}f}, {low:.{digits}f} to {high:.{digits}f}"


def digits_of(low, high):
    """Decimals that show two significant digits of half the width of an interval, and no limit as 0 that is not."""
    half, ends = (high - low) / 2, [abs(end) for end in (low, high) if end]
    if not half > 0:
        return 2
    return int(np.clip(max(1 - np.floor(np.log10(half)), np.ceil(-np.log10(2 * min(ends)))), 0, 6))


def starts(rows):
    """Starts of the models behind tidy rows, as their intervals' kinds tell; as many as models where they do not."""
    return rows["ci_kind"].str.extract(r"(\d+) starts")[0].astype(float).fillna(rows["n"])


def counted(n, n_starts, units="models"):
    """What means are over: "18 models", "18 models of 8 starts"; of several counts the largest."""
    of = f" of {n_starts.max():,.0f} starts" if n_starts.max() < n.max() else ""
    return f"{n.max():,} {units if n.max() != 1 else units.removesuffix('s')}{of}"


def _last(test_sets):
    return test_sets.str.rsplit("/", n=1).str[-1]
