"""Failure signatures on constructed tables: the one model that is off is named, and chance alone names nobody."""

import numpy as np
import pandas as pd
import pytest

from clipsafe_utils import signatures as module
from clipsafe_utils.params import STUDY_FACTORS
from clipsafe_utils.signatures import (
    COLUMNS,
    TITLES,
    calibration_out_of_line,
    factor_contradicts_source,
    signatures,
    twins_disagree,
)
from clipsafe_utils.table import tidy

SETS = ("imagenet_val", "imagenet_a", "imagenet_sketch")
EFFECT = {"shape": 0.06, "pose": -0.08, "texture": 0.0}


def zoo():
    """Twenty zero-shot models of two sources, the first four in pairs of twins, and ten classifiers."""
    rows = []
    for i in range(20):
        source = ("laion", "wit")[i // 10]
        name = f"ViT-B-{16 * (1 + i // 2 if i < 8 else 10 + i)}"
        rows.append((f"clip-{i:02}", "zero_shot_clip", name, source, "2B"))
    rows += [(f"net-{i}", "standard", f"net{i}.tag_in1k", "imagenet1k", "1.28M") for i in range(10)]
    return pd.DataFrame(rows, columns=["id", "group", "name", "pretrain_source", "pretrain_size"]).set_index("id")


def suite(rng, models):
    """A table without a fault: models scatter around their group, twins around each other, effects by source."""
    rows = []

    def add(model, test_set, metric, value, error):
        interval = {"ci_low": value - 1.96 * error, "ci_high": value + 1.96 * error, "ci_level": 0.95}
        rows.append(
            {"model": model, "test_set": test_set, "protocol": "p", "metric": metric, "value": value} | interval
        )

    family = {name: rng.normal(0.8, 0.05) for name in models["name"].unique()}
    for model, facts in models.iterrows():
        zero_shot = facts["group"] == "zero_shot_clip"
        own = rng.normal(0, 0.01)
        for name in SETS:
            add(model, name, "ece", 0.05 + 0.04 * zero_shot + own + rng.normal(0, 0.01), 0.003)
            add(model, f"{name}_ood", "auroc", family[facts["name"]] + rng.normal(0, 0.005), 0.005)
        for factor, effect in EFFECT.items():
            sign = -1 if facts["pretrain_source"] == "wit" else zero_shot
            add(model, f"imagenet_x/{factor}", "effective_robustness", sign * effect + rng.normal(0, 0.01), 0.008)
    return tidy(rows)


def with_value(table, model, metric, test_set, value):
    """The table with one value replaced, its interval moved along."""
    which = table["model"].eq(model) & table["metric"].eq(metric) & table["test_set"].str.contains(test_set)
    assert which.any()
    shift = value - table.loc[which, "value"]
    changed = table.copy()
    for column in ("value", "ci_low", "ci_high"):
        changed.loc[which, column] += shift
    return changed


def test_one_model_off_in_each_way_is_named(rng):
    models = zoo()
    table = suite(rng, models)
    table = with_value(table, "clip-07", "ece", "imagenet_a", 0.35)
    table = with_value(table, "clip-02", "auroc", "imagenet_sketch_ood", 0.5)
    table = with_value(table, "clip-15", "effective_robustness", "pose", -0.09)
    found, compared = signatures(table, models, STUDY_FACTORS)
    found = found.set_index("signature")
    assert list(found.columns) == list(COLUMNS[1:])
    assert sorted(found.index) == sorted(TITLES.values())
    assert found.loc[TITLES["calibration"], "models"] == "clip-07"
    assert found.loc[TITLES["twins"], "models"] in ("clip-02, clip-03", "clip-03, clip-02")
    assert found.loc[TITLES["factor"], "models"] == "clip-15"
    assert found.loc[TITLES["factor"], "where"] == (
        "1 of 3 conditions, most on imagenet_x/pose (p), among zero_shot_clip of wit"
    )
    assert found.loc[TITLES["calibration"], "value"] == pytest.approx(0.35)
    assert found.loc[TITLES["calibration"], "n_peers"] == 19
    assert 0.04 < found.loc[TITLES["calibration"], "peers_median"] < 0.14
    assert found["check_first"].str.len().min() > 40
    assert compared == dict(zip(TITLES.values(), (30 * 3, 4 * 3, 30 * 3), strict=True))


def test_null_tables_rarely_raise_flags(rng):
    models = zoo()
    flagged = [len(signatures(suite(rng, models), models, STUDY_FACTORS)[0]) > 0 for _ in range(40)]
    assert np.mean(flagged) <= 0.1


@pytest.mark.parametrize("n", [6, 12, 40])
def test_level_of_the_distance_alone_holds_where_models_scatter_normally(rng, monkeypatch, n):
    monkeypatch.setitem(module.SMALLEST, "calibration", 0)
    models = pd.DataFrame({"group": "standard"}, index=[f"m{i}" for i in range(n)])
    hits = 0
    for _ in range(60):
        rows = [
            {"model": model, "test_set": name, "metric": "ece", "value": value}
            for name in SETS
            for model, value in zip(models.index, rng.normal(0.1, 0.02, n), strict=True)
        ]
        hits += len(calibration_out_of_line(tidy(rows), models)[0]) > 0
    assert hits <= 8  # 3 expected at the level; 8 or fewer in 99.6% of runs


def test_robust_scale_lets_two_bad_models_not_hide_each_other(rng):
    models = zoo()
    table = with_value(suite(rng, models), "clip-03", "ece", "imagenet_val", 0.6)
    table = with_value(table, "clip-04", "ece", "imagenet_val", 0.6)
    found, _ = calibration_out_of_line(table, models)
    assert sorted(found["models"]) == ["clip-03", "clip-04"]


def test_groups_are_judged_apart_and_small_ones_not_at_all(rng):
    models = zoo()
    table = with_value(suite(rng, models), "net-3", "ece", "imagenet_val", 0.3)
    assert list(calibration_out_of_line(table, models)[0]["models"]) == ["net-3"]
    few = table[table["model"].isin([f"net-{i}" for i in range(5)])]
    found, n = calibration_out_of_line(few, models)
    assert found.empty and n == 0


def test_a_factor_that_its_source_does_not_agree_on_accuses_nobody(rng):
    models = zoo()
    table = suite(rng, models)
    for value in (-0.2, 0.2):
        changed = with_value(table, "clip-15", "effective_robustness", "texture", value)
        assert factor_contradicts_source(changed, models, STUDY_FACTORS)[0].empty
    stronger = with_value(table, "clip-15", "effective_robustness", "pose", 0.3)  # far out, on its source's side
    assert factor_contradicts_source(stronger, models, STUDY_FACTORS)[0].empty


def test_twins_share_quantity_too_and_the_odd_one_of_three_comes_first(rng):
    models = zoo()
    models.loc[["clip-00", "clip-01", "clip-02"], "name"] = "ViT-B-16"
    table = with_value(suite(rng, models), "clip-01", "auroc", "imagenet_a_ood", 0.4)
    found, _ = twins_disagree(table, models)
    assert found["models"].iloc[0].startswith("clip-01, ") and len(found["models"].iloc[0].split(", ")) == 3
    models.loc["clip-01", "pretrain_size"] = "80M"  # a real difference of the data, so no twin
    assert "clip-01" not in " ".join(twins_disagree(table, models)[0]["models"])


def test_a_single_pair_is_judged_by_sampling_error(rng):
    models = zoo().loc[["clip-00", "clip-01"]]
    table = suite(rng, models)
    assert twins_disagree(table, models)[0].empty
    assert len(twins_disagree(with_value(table, "clip-00", "auroc", "imagenet_a_ood", 0.6), models)[0]) == 1


def test_many_pairs_of_twins_tell_how_far_twins_usually_are(rng):
    models = zoo()
    models["name"] = [f"ViT-B-{i // 2}" for i in range(20)] + list(models["name"][20:])
    table = suite(rng, models)
    which = table["metric"].eq("auroc") & table["model"].isin([f"clip-{i:02}" for i in range(0, 20, 2)])
    for row in table.index[which]:
        table.loc[row, ["value", "ci_low", "ci_high"]] += rng.choice([-0.06, 0.06])  # beyond their sampling error
    assert twins_disagree(table, models)[0].empty
    found, n = twins_disagree(with_value(table, "clip-05", "auroc", "imagenet_a_ood", -0.5), models)
    assert n == 30 and set(found["models"].iloc[0].split(", ")) == {"clip-04", "clip-05"}


def test_tables_without_the_metrics_or_facts_find_nothing():
    models = pd.DataFrame({"group": ["standard"]}, index=["a"])
    row = {"model": "a", "test_set": "imagenet_val", "metric": "accuracy", "value": 0.5}
    for table in (tidy([]), tidy([row])):
        found, compared = signatures(table, models, STUDY_FACTORS)
        assert found.empty and list(found.columns) == list(COLUMNS) and set(compared.values()) == {0}


def test_copies_of_the_same_weights_count_once(rng):
    models = zoo().assign(distinct=True)
    table = with_value(suite(rng, models), "clip-07", "ece", "imagenet_a", 0.35)
    models.loc["clip-07", "distinct"] = False
    assert calibration_out_of_line(table, models)[0].empty
