"""Failure signatures: results that fit neither a model's group, nor its near-twins, nor its training source.

A finding is a reason to look, not a verdict: the result is off by more than chance among comparable models explains.
Each function takes rows of the tidy table and the models' facts, and returns findings and how much was compared.

How far is far: a value is compared with the median of its peers, in units of 1.4826 times their median absolute
deviation. A finding needs a distance beyond Student's t at `LEVEL`, two-sided, divided by the number of comparisons of
that signature, with 0.37 (n - 1) degrees of freedom, 0.37 being the efficiency of that scale: where models scatter
normally, fewer than one faultless table in twenty raises a flag, and few peers accuse nobody. Heavier tails raise more,
so a finding also needs the size that `SMALLEST` says.

References
----------
Tu, Deng, Gedeon. NeurIPS 2023 (arXiv 2402.07410): the three signatures. Iglewicz, Hoaglin 1993: outliers by median and
MAD. Rousseeuw, Croux. JASA 1993: efficiency of the MAD.
"""

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from clipsafe_utils.zoo import distinct

COLUMNS = ("signature", "models", "where", "value", "peers_median", "n_peers", "distance", "check_first")
"""`where` counts the conditions that are off and names the worst; `value`, `peers_median` and `distance` are of that
one. `n_peers` counts the models (of twins: the pairs) that the scale comes from."""

LEVEL = 0.05
MIN_PEERS, MIN_PAIRS = 5, 8
SMALLEST = {"calibration": 0.05, "twins": 0.05, "factor": 0.03}
"""Smaller differences are no finding: of calibration error, AUROC, effective robustness, as fractions."""
AGREEMENT = 0.8
"""Share of a source's other models that must agree on the sign of a factor's effect before one can contradict it."""

TITLES = {
    "calibration": "calibration out of line with the group",
    "twins": "OOD detection differs between near-twins",
    "factor": "factor effect against the training source",
}
CHECK_FIRST = {
    "calibration": "Labels and class subset of the test set and the model's logit scale; then how its training data "
    "were collected and filtered, which moves calibration most.",
    "twins": "Whether both ran alike: checkpoint digests, preprocessing, input size, QuickGELU, precision; what "
    "remains is sensitivity of the architecture to the length of training.",
    "factor": "The implementation: label order, the join with the annotations, prompts, a checkpoint under another "
    "model's name; only then the training data.",
}


def signatures(table, models, factors):
    """All three signatures.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of the whole suite.
    models : DataFrame
        Facts about the models, indexed by id: `group`, `name`, `pretrain_source`, and whatever else is known.
    factors : iterable of str
        Visual factors, the last part of their test sets' names.

    Returns
    -------
    found : DataFrame
        One row a finding with the columns of `COLUMNS`, the farthest first; empty if nothing is out of line.
    compared : dict of str to int
        Signature -> number of comparisons; 0 where no model has enough peers, so that nothing could be found.
    """
    parts = {
        "calibration": calibration_out_of_line(table, models),
        "twins": twins_disagree(table, models),
        "factor": factor_contradicts_source(table, models, factors),
    }
    found = pd.concat([part for part, _ in parts.values() if len(part)] or [_frame([])])
    compared = {TITLES[kind]: n for kind, (_, n) in parts.items()}
    return found.sort_values("distance", key=abs, ascending=False, ignore_index=True), compared


def calibration_out_of_line(table, models):
    """Models whose calibration error is far from that of the other models of their group.

    Compared within a test set and protocol, where a group has at least `MIN_PEERS` + 1 models; metric "ece".

    Returns
    -------
    found : DataFrame
        One row a model.
    n_comparisons : int
    """
    rows = _with_facts(table[table["metric"] == "ece"], models)
    judged = _distances(rows, ["group", "test_set", "protocol"])
    off = judged[judged["far"] & (judged["gap"].abs() >= SMALLEST["calibration"])]
    return _one_a_model("calibration", off, judged), len(judged)


def factor_contradicts_source(table, models, factors):
    """Models whose effective robustness to a factor has the other sign than that of their training source.

    Compared within a group, source and factor, where the source has at least `MIN_PEERS` other models and `AGREEMENT`
    of them agree on the sign; the model's own interval must lie on the other side of zero.

    Returns
    -------
    found : DataFrame
        One row a model.
    n_comparisons : int
    """
    rows = table[(table["metric"] == "effective_robustness") & table["test_set"].str.contains("/")]
    rows = _with_facts(rows[rows["test_set"].str.rsplit("/", n=1).str[-1].isin(list(factors))], models)
    rows = rows[rows["pretrain_source"].fillna("").ne("")]
    judged = _distances(rows, ["group", "pretrain_source", "test_set", "protocol"])
    side = np.sign(judged["peers_median"])
    other_side = np.where(side > 0, judged["ci_high"] < 0, judged["ci_low"] > 0)
    off = judged["far"] & other_side & (judged["agreement"] >= AGREEMENT)
    off = judged[off & (judged["gap"].abs() >= SMALLEST["factor"])]
    return _one_a_model("factor", off, judged), len(judged)


def twins_disagree(table, models):
    """Near-twins whose detection of out-of-distribution images differs: same architecture, source and fine-tuning.

    The scale is the median absolute difference of all pairs of twins under the same test set and score, at least the
    sampling error of the two AUROCs; the latter alone where there are fewer than `MIN_PAIRS` pairs.

    Returns
    -------
    found : DataFrame
        One row a set of twins; `models` starts with those that differ from most.
    n_comparisons : int
    """
    rows = _with_facts(table[table["metric"] == "auroc"], models)
    pairs = _twin_pairs(rows, models)
    if pairs.empty:
        return _frame([]), 0
    pairs["gap"] = pairs["value"] - pairs["value_twin"]
    condition = pairs.groupby(["test_set", "protocol"])["gap"]
    n = condition.transform("size")
    spread = 1.4826 * condition.transform(lambda gap: gap.abs().median()).where(n >= MIN_PAIRS, 0)
    scale = np.maximum(spread, np.hypot(_standard_error(pairs, ""), _standard_error(pairs, "_twin")))
    pairs["distance"] = pairs["gap"] / scale.replace(0, np.nan)
    few = spread < scale  # then sampling error decides, and its scale is known
    limit = np.where(few, norm.isf(LEVEL / 2 / len(pairs)), _limit(n, len(pairs)))
    off = pairs[(pairs["distance"].abs() > limit) & (pairs["gap"].abs() >= SMALLEST["twins"])]
    found = []
    for _, part in off.groupby("twins", sort=False):
        worst = part.loc[part["gap"].abs().idxmax()]
        order = pd.concat([part["model"], part["model_twin"]]).value_counts()
        whole = pairs[pairs["twins"] == worst["twins"]]
        worst = worst.rename({"value_twin": "peers_median"}).to_dict() | {"n_peers": int(n[worst.name])}
        where = _where(part, whole, worst, f": {worst['model']} against {worst['model_twin']}")
        found.append(_finding("twins", ", ".join(order.index), where, worst))
    return _frame(found), len(pairs)


TWINS = ("group", "architecture", "pretrain_source", "pretrain_size", "finetune", "input_size")
"""Facts that near-twins share; what differs is the seed, the length of training or the recipe."""


def _twin_pairs(rows, models):
    facts = models.assign(architecture=models.get("name", pd.Series("", models.index)).str.split(".").str[0])
    shared = [fact for fact in TWINS if fact in facts]
    known = facts[(facts["architecture"] != "") & facts.get("pretrain_source", pd.Series("", facts.index)).ne("")]
    twins = known.groupby(shared, dropna=False).ngroup()
    rows = rows.assign(twins=rows["model"].map(twins)).dropna(subset=["twins", "value"])
    columns = ["twins", "test_set", "protocol", "model", "value", "ci_low", "ci_high", "ci_level"]
    both = rows[columns].merge(rows[columns], on=["twins", "test_set", "protocol"], suffixes=("", "_twin"))
    return both[both["model"] < both["model_twin"]].reset_index(drop=True)


def _standard_error(pairs, suffix):
    width = (pairs[f"ci_high{suffix}"] - pairs[f"ci_low{suffix}"]) / 2
    return (width / norm.isf((1 - pairs[f"ci_level{suffix}"]) / 2)).fillna(0)


def _with_facts(rows, models):
    """Rows with the facts of their models; rows of further copies of the same weights are left out."""
    facts = distinct(models).reindex(columns=["group", "pretrain_source"])
    return rows.join(facts, on="model", how="inner").dropna(subset=["value"])


def _distances(rows, condition):
    """Each value against its peers under the same condition: gap to their median, distance in their scale, far or not.

    `agreement` is the share of peers on the same side of zero as their median.
    """
    added = {column: np.full(len(rows), np.nan) for column in ("gap", "distance", "peers_median", "agreement")}
    n_peers = np.zeros(len(rows), int)
    for positions in rows.groupby(condition, dropna=False).indices.values():
        values = rows["value"].to_numpy()[positions]
        n = len(values) - 1
        if n < MIN_PEERS:
            continue
        for i, position in enumerate(positions):
            peers = np.delete(values, i)
            centre = np.median(peers)
            # Bias of the MAD in small samples, and the median's own error.
            scale = 1.4826 * np.median(np.abs(peers - centre)) * n / (n - 0.8) * np.sqrt(1 + np.pi / 2 / n)
            added["gap"][position] = values[i] - centre
            added["distance"][position] = (values[i] - centre) / max(scale, 1e-12)
            added["peers_median"][position] = centre
            added["agreement"][position] = np.mean(np.sign(peers) == np.sign(centre))
            n_peers[position] = n
    rows = rows.assign(**added, n_peers=n_peers)
    rows = rows[rows["n_peers"] > 0]
    return rows.assign(far=rows["distance"].abs() > _limit(rows["n_peers"], len(rows)))


def _limit(n, n_comparisons):
    """Distance that chance exceeds in one of 1 / `LEVEL` tables, for a scale from n values."""
    return t.isf(LEVEL / 2 / max(n_comparisons, 1), 0.37 * (np.asarray(n) - 1))


def _one_a_model(kind, off, judged):
    found = []
    for model, part in off.groupby("model", sort=False):
        worst = part.loc[part["distance"].abs().idxmax()]
        among = f", among {worst['group']}" + (f" of {worst['pretrain_source']}" if kind == "factor" else "")
        where = _where(part, judged[judged["model"] == model], worst, among)
        found.append(_finding(kind, model, where, worst))
    return _frame(found)


def _where(part, whole, worst, more):
    n_off, n = (len(rows[["test_set", "protocol"]].drop_duplicates()) for rows in (part, whole))
    return f"{n_off} of {n} conditions, most on {worst['test_set']} ({worst['protocol']}){more}"


def _finding(kind, models, where, worst):
    numbers = {column: worst[column] for column in ("value", "peers_median", "n_peers", "distance")}
    return {"signature": TITLES[kind], "models": models, "where": where} | numbers | {"check_first": CHECK_FIRST[kind]}


def _frame(found):
    return pd.DataFrame(found, columns=list(COLUMNS))
