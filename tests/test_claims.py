"""Claims: supported where the truth is built in, contradicted where it is turned round, quiet where there is none."""

import numpy as np
import pandas as pd
import pytest

from clipsafe_utils import claims
from clipsafe_utils.statistics import effective_robustness_interval, fit_accuracy_line
from clipsafe_utils.table import tidy
from clipsafe_utils.zoo import load_zoo, zoo_frame

FACTORS = ("pose", "background", "shape", "color")
SHIFTS = ("art", "sketch")


@pytest.fixture(scope="module")
def models():
    """The laboratory's zoo and three humans."""
    humans = pd.DataFrame({"group": "human", "pretrain_source": "", "finetune": ""}, index=["ann", "ben", "cal"])
    return pd.concat([zoo_frame(load_zoo("lab")), humans])


def table_of(models, rng, strength):
    """Results in which each claim holds with this strength: 1 for, -1 against, 0 for none of them."""
    group, source = models["group"], models["pretrain_source"]
    clip, tuned, standard = (group == name for name in ("zero_shot_clip", "clip_finetuned", "standard"))
    size = models["pretrain_size"].map({"6k": 0.0, "12k": 0.5, "24k": 1.0}).fillna(0.5)
    rows, machines = [], group != "human"

    def add(metric, test_set, value, protocol="p", which=machines):
        noisy = value + rng.normal(0, 0.004, len(models))
        for model in models.index[which]:
            rows.append({"model": model, "test_set": test_set, "protocol": protocol, "metric": metric})
            rows[-1] |= {"value": noisy[model], "n": 1000, "ci_low": noisy[model] - 0.01}
            rows[-1] |= {"ci_high": noisy[model] + 0.01, "ci_level": 0.95}

    web = (source == "B").astype(float)
    for factor in FACTORS:
        moved = {"pose": -web, "background": -web, "shape": web, "color": 0 * web}[factor]
        at = {"pose": -0.05, "color": 0.05}.get(factor, 0.0)
        add("effective_robustness", f"lab_factors/{factor}", strength * (clip * (at + 0.03 * moved)))
    for shift in SHIFTS:
        add("effective_robustness", shift, strength * 0.05 * clip)
    add("shape_bias", "cue", 0.5 + strength * (0.1 * clip - 0.1 * standard + 0.05 * models["input_size"].eq(24)))
    add("shape_bias", "cue", pd.Series(0.5 + 0.2 * strength, models.index), which=group == "human")
    accuracy = pd.Series(0.6 + 0.1 * rng.normal(size=len(models)), models.index)
    add("accuracy", "id", accuracy)
    through = models["finetune"].str.contains("_", na=False)
    add("auroc", "far", 0.7 + strength * (0.5 * (accuracy - 0.6) * clip - 0.1 * tuned + 0.05 * through), "msp, p")
    for test_set in ("id", *SHIFTS):
        worse = strength * (0.05 * clip + 0.02 * web * clip - 0.03 * size * clip + 0.03 * group.eq("contrastive"))
        add("ece", test_set, 0.2 + worse)
        add("ece_scaled", test_set, 0.2 + worse - strength * (0.1 - 0.05 * clip))
    for shift in SHIFTS:
        add("accuracy", shift, pd.Series(0.4 + 0.1 * rng.normal(size=len(models)), models.index))
    for metric, moved in (("accuracy", 0.05), ("ece", 0.05), ("auroc", -0.05)):
        add(f"{metric}_difference", "id", pd.Series(strength * moved, models.index), "prompts x", clip)
    return tidy(rows)


@pytest.mark.parametrize(("test_set", "nested"), [("id/pose", True), ("sketch", False), ("video/pm10", False)])
def test_error_of_the_line_is_what_accuracies_leave(rng, test_set, nested):
    x = rng.uniform(0.5, 0.8, 12)
    rest, y = x + 0.02, x - 0.02 + rng.normal(0, 0.003, 12)
    overall = 0.4 * y + 0.6 * rest if nested else x
    line = fit_accuracy_line(overall, y, "linear")
    found = effective_robustness_interval(overall, y, 8000, line, n_reference=20_000, nested=nested)
    names = [f"m{k}" for k in range(12)]

    def rows(metric, test_set, value, n, low=np.nan, high=np.nan):
        known = {"model": names, "test_set": test_set, "metric": metric, "value": value, "n": n}
        return pd.DataFrame(known | {"ci_low": low, "ci_high": high, "ci_level": 0.95})

    distances = rows("effective_robustness", test_set, found.value, 8000, found.low, found.high)
    accuracies = [rows("accuracy", "id", overall, 20_000), rows("accuracy", test_set, y, 8000)]
    facts = claims.Facts(
        pd.concat([*accuracies, distances]), pd.DataFrame({"group": "standard"}, index=names), "id", 0.95
    )
    band, of_x = line.band(overall), np.sqrt(overall * (1 - overall) / 20_000) * line.slope
    expected = np.hypot((band.high - band.low) / (2 * 1.96), of_x * np.sqrt(0.6 if nested else 1))
    assert facts._line_error(distances) == pytest.approx(np.median(expected), rel=0.15)


SYMMETRIC = {"1a", "1b", "6d", "2d", "3e", "5b", "5d", "5f", "6a", "6b", "6c"}


def verdicts(models, rng, strength):
    return claims.judge_claims(table_of(models, rng, strength), models, id_set="id").set_index("claim")["verdict"]


def test_every_claim_is_supported_where_it_holds(models, rng):
    found = verdicts(models, rng, 1)
    assert list(found.index) == [claim.id for claim in claims.CLAIMS] and found.index.is_unique
    assert set(found) == {"supported"}, found[found != "supported"]


def test_every_directed_claim_is_contradicted_where_the_opposite_holds(models, rng):
    found = verdicts(models, rng, -1)
    directed = found.drop(list(SYMMETRIC))
    assert set(directed) == {"contradicted"}, directed[directed != "contradicted"]
    assert set(found[list(SYMMETRIC)]) == {"supported"}, "these hold in either direction"


def test_other_prompt_sets_count_in_claims_about_prompts_alone(models, rng):
    table = table_of(models, rng, 1)
    own = table["metric"].isin(["accuracy", "ece", "auroc"]) & table["model"].str.startswith("clip-")
    named = {True: "msp, prompts main", False: "prompts main"}
    table["protocol"] = table["protocol"].mask(own, table["metric"].eq("auroc").map(named))
    judged = claims.judge_claims(table, models, id_set="id", prompts="main")
    absurd = table[own].assign(value=0.01, protocol=table["protocol"].str.replace("main", "absent"))
    with_absurd = claims.judge_claims(tidy(pd.concat([table, absurd])), models, id_set="id", prompts="main")
    pd.testing.assert_frame_equal(judged, with_absurd)
    assert not judged.equals(claims.judge_claims(tidy(pd.concat([table, absurd])), models, id_set="id"))


def test_further_rows_of_the_same_weights_are_no_further_models(models, rng):
    table = table_of(models, rng, 1)
    judged = claims.judge_claims(table, models, id_set="id")
    twins = pd.concat([models.assign(distinct=True), models.assign(distinct=False).rename(index="{}@64".format)])
    twice = pd.concat([table, table.assign(model=table["model"] + "@64")])
    pd.testing.assert_frame_equal(judged, claims.judge_claims(twice, twins, id_set="id"))
