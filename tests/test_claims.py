"""Claims: supported where the truth is built in, contradicted where it is turned round, quiet where there is none."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipsafe_utils import claims, present, sections
from clipsafe_utils.params import load_parameters
from clipsafe_utils.present import whole_suite
from clipsafe_utils.sections.rows import group_means
from clipsafe_utils.statistics import fit_accuracy_line
from clipsafe_utils.study import Study
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

    def add(metric, test_set, value, protocol="p", which=machines, noise=0.004):
        noisy = value + rng.normal(0, noise, len(models))
        for model in models.index[which]:
            rows.append({"model": model, "test_set": test_set, "protocol": protocol, "metric": metric})
            rows[-1] |= {"value": noisy[model], "n": 1000, "ci_low": noisy[model] - 0.01}
            rows[-1] |= {"ci_high": noisy[model] + 0.01, "ci_level": 0.95}
        return noisy

    accuracy = pd.Series(0.6 + 0.1 * rng.normal(size=len(models)), models.index)
    x = add("accuracy", "id", accuracy)

    def add_robustness(test_set, effect):
        y = add("accuracy", test_set, 0.9 * accuracy - 0.1 + effect)
        line = fit_accuracy_line(x[standard], y[standard], "linear")
        protocol = f"linear line over {standard.sum()} standard models, x = id"
        add("effective_robustness", test_set, y - line.predict(x.clip(0, 1)), protocol, noise=0)

    web = (source == "B").astype(float)
    for factor in FACTORS:
        moved = {"pose": -web, "background": -web, "shape": web, "color": 0 * web}[factor]
        at = {"pose": -0.05, "color": 0.05}.get(factor, 0.0)
        add_robustness(f"lab_factors/{factor}", strength * (clip * (at + 0.03 * moved)))
    for shift in SHIFTS:
        add_robustness(shift, strength * 0.05 * clip)
    add("shape_bias", "cue", 0.5 + strength * (0.1 * clip - 0.1 * standard + 0.05 * models["input_size"].eq(24)))
    add("shape_bias", "cue", pd.Series(0.5 + 0.2 * strength, models.index), which=group == "human")
    through = models["finetune"].str.contains("_", na=False)
    add("auroc", "far", 0.7 + strength * (0.5 * (accuracy - 0.6) * clip - 0.1 * tuned + 0.05 * through), "msp, p")
    for test_set in ("id", *SHIFTS):
        worse = strength * (0.05 * clip + 0.02 * web * clip - 0.03 * size * clip + 0.03 * group.eq("contrastive"))
        add("ece", test_set, 0.2 + worse)
        add("ece_scaled", test_set, 0.2 + worse - strength * (0.1 - 0.05 * clip))
    for metric, moved in (("accuracy", 0.05), ("ece", 0.05), ("auroc", -0.05)):
        add(f"{metric}_difference", "id", pd.Series(strength * moved, models.index), "prompts x", clip)
    return tidy(rows)


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


# --- single tests, against SciPy and the pages ------------------------------------------------------------------------


def facts_of(values, group, init_from=None, **more):
    """One number a model, with images' errors of 0.001."""
    names = [f"m{k}" for k in range(len(values))]
    models = pd.DataFrame({"group": group, "init_from": init_from or ""} | more, index=names)
    rows = {"model": names, "test_set": "s", "protocol": "p", "metric": "ece", "value": values, "n": 100}
    table = pd.DataFrame(rows | {"ci_low": values - 0.00196, "ci_high": values + 0.00196, "ci_level": 0.95})
    return claims.Facts(table, models, "id", 0.95)


@pytest.mark.parametrize("sizes", [(26, 2), (2, 14), (5, 1), (4, 9)])
def test_two_groups_are_compared_over_models_where_one_has_three(rng, sizes):
    values = np.concatenate([rng.normal(0.02, 0.1, sizes[0]), rng.normal(0, 0.02, sizes[1])])
    facts = facts_of(values, np.repeat(["zero_shot_clip", "contrastive"], sizes))
    found = facts.difference(facts.rows("ece"), "zero_shot_clip", "contrastive", 0)
    expected = stats.ttest_ind(values[: sizes[0]], values[sizes[0] :], equal_var=min(sizes) < 3)
    assert found.p_for == pytest.approx(expected.pvalue) and found.about == claims.LIKE_THESE
    assert found.limits(0.95) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.n_models == sum(sizes) and ("pooled" in found.note) == (min(sizes) < 3)


def test_two_against_two_speak_of_themselves(rng):
    facts = facts_of(np.array([0.2, 0.3, 0.1, 0.1]), np.repeat(["standard", "contrastive"], 2))
    found = facts.difference(facts.rows("ece"), "standard", "contrastive", 0)
    assert found.about == claims.ALONE and found.p_for < 1e-9
    assert found.limits(0.95) == pytest.approx((0.15 - 0.00196 * 2**0.5, 0.15 + 0.00196 * 2**0.5), rel=1e-3)
    of_one = facts.mean(facts.rows("ece", group="standard"), 1)
    assert of_one.about == claims.ALONE and of_one.note == "interval over images"


def test_models_of_one_start_count_as_one(rng):
    starts = np.repeat(["a", "b", "c", "d"], 5)
    values = rng.normal(0.1, 0.01, 20) + np.repeat(rng.normal(0, 0.1, 4), 5)
    facts = facts_of(values, "clip_finetuned", [*starts])
    means = values.reshape(4, 5).mean(axis=1)
    found = facts.mean(facts.rows("ece"), 1)
    assert found.p_for == pytest.approx(stats.ttest_1samp(means, 0).pvalue) and found.n_models == 20
    half = facts_of(
        np.concatenate([values, values[:3]]), ["standard"] * 20 + ["contrastive"] * 3, [*starts, "", "", ""]
    )
    found = half.difference(half.rows("ece"), "standard", "contrastive", 0)
    assert found.p_for == pytest.approx(stats.ttest_ind(means, values[:3], equal_var=False).pvalue)


def test_temperatures_transfer_over_starts(models, rng):
    table = table_of(models, rng, 0)
    found = claims._scaling_transfers(claims.Facts(table, models, "id", 0.95))
    wide = table[table["test_set"].isin(SHIFTS)].pivot_table(index="model", columns="metric", values="value")
    start = models["init_from"].replace("", np.nan).fillna(models.index.to_series())
    means = (wide["ece_scaled"] - wide["ece"]).groupby(start).mean()
    assert len(means) == (models["group"] != "human").sum() - 18
    assert min(found.p_for, found.p_against) == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


@pytest.fixture
def on_pages(models, rng, tmp_path):
    """Accuracies of two factors, and what page 01 makes of them; CLIPs are better in all, and the lines scatter."""
    study = Study(load_parameters("params/published.yaml", {"outputs": str(tmp_path)}))
    study.models = models[models["group"] != "human"]
    clip, found = study.models["group"].isin(["zero_shot_clip", "clip_finetuned"]).to_numpy(), []
    skill = rng.normal(0, 0.4, len(study.models))
    for name, slope, scatter in (("x", 1, 0), ("x/pose", 0.3, 0.3), ("x/color", 1.6, 0.05)):
        value = stats.norm.cdf(slope * (skill + 0.5 * clip) + scatter * rng.normal(size=len(skill)))
        for model, one in zip(study.models.index, value, strict=True):
            found.append({"model": model, "test_set": name, "protocol": "p", "metric": "accuracy"})
            found[-1] |= {"value": one, "n": 1000}
    accuracies = study.table(found)
    rows, lines, axes = sections.robustness(study, accuracies, ["x"], x_set="x")
    return pd.concat([accuracies, rows]), group_means(study, rows, accuracies, lines, axes), study, rows


def test_means_against_lines_are_those_of_the_page(on_pages):
    table, printed, study, _ = on_pages
    facts, shown = claims.Facts(table, study.models, "x", 0.95), 0
    for one in printed[printed["test_set"] != "x"].dropna().itertuples():
        rows = facts.rows("effective_robustness", group=one.group, test_sets=lambda name, of=one.test_set: name == of)
        found = facts.mean(rows, 0)
        assert (found.effect, *found.limits(0.95)) == pytest.approx((one.mean, one.low, one.high), abs=1e-9)
        low, high = found.limits(1 - found.p_for)  # the p value is where the interval ends at zero
        assert min(abs(low), abs(high)) < 1e-9 or found.p_for == claims.P_LEAST
        assert (found.p_for < 0.05) == (one.low > 0 or one.high < 0)
        alone = stats.sem(rows.groupby(rows["model"].map(claims.origins(study.models)))["value"].mean())
        assert one.high - one.low > 2 * 1.96 * alone, "the line has an error too"
        shown += 1
    assert shown >= 6


def test_a_searched_place_is_the_clearest_not_the_largest(rng):
    clear, large = (facts_of(mean + spread * np.linspace(-1, 1, 12), "standard") for mean, spread in ((1, 1), (3, 5)))
    found = {name: one.mean(one.rows("ece"), 1) for name, one in (("clear", clear), ("large", large))}
    assert found["clear"].effect < found["large"].effect and found["clear"].p_for < found["large"].p_for
    best = claims.any_of(found, 0.95)
    assert best.note == "clearest on clear; on 2 of 2" and best.p_for == 2 * found["clear"].p_for
    assert best.effect == found["clear"].effect and best.searched == 2


def test_intervals_of_searched_places_exclude_zero_where_the_corrected_p_is_small(models, rng):
    for strength in (0.03, 0.06, 0.1, 0.3):
        table = table_of(models, rng, strength)
        facts = claims.Facts(table, models, "id", 0.95)
        judged = claims.judge_claims(table, models, id_set="id").set_index("claim")
        for claim in claims.CLAIMS:
            if claim.id in ("1a", "1b", "2d", "5a", "5b", "6a", "6b", "6c"):
                found, shown = claim.test(facts), judged.loc[claim.id]
                assert found.searched > 1 or claim.id.startswith("6")
                assert (found.p_for < 0.05) == (found.effect != 0 and shown["ci_low"] * shown["ci_high"] > 0)


def test_control_sets_count_in_no_claim_about_shift(models, rng):
    table, about_shift = table_of(models, rng, 1), ["1d", "1e", "5d", "5e"]
    again = table[table["test_set"] == "art"].assign(test_set="again")
    again["value"] = rng.uniform(size=len(again))

    def shown(table, **how):
        judged = claims.judge_claims(table, models, id_set="id", **how).set_index("claim").loc[about_shift]
        return judged[["effect", "ci_low", "ci_high", "n_models", "note"]]

    both = tidy(pd.concat([table, again]))
    pd.testing.assert_frame_equal(shown(both, control_sets=["again"]), shown(table))
    assert not (shown(both)["effect"] == shown(table)["effect"]).any()


def test_texture_is_a_claim_about_convolutional_networks(models, rng):
    table = table_of(models, rng, 1)
    convolutional = models["encoder_family"].isin(["resnet", "convnext", "other_cnn"]) & (models["group"] == "standard")
    own = table[table["metric"].eq("shape_bias") & table["model"].isin(models.index[convolutional])]
    found = claims.judge_claims(table, models, id_set="id").set_index("claim").loc["3f"]
    assert found["n_models"] == len(own) == 10 < (models["group"] == "standard").sum()
    assert found["effect"] == pytest.approx(own["value"].mean() - 0.5)


def test_correlation_says_on_how_many_ood_sets_it_holds(models, rng):
    table = table_of(models, rng, 1)
    near = table[table["metric"] == "auroc"].assign(test_set="near")
    near["value"] = 0.7 + rng.normal(0, 0.001, len(near))
    found = claims.judge_claims(tidy(pd.concat([table, near])), models, id_set="id").set_index("claim").loc["4a"]
    assert "mean over OOD sets; alone on 1 of 2;" in found["note"] and found["verdict"] == "supported"


def test_correlation_that_data_size_carries_is_none_at_equal_size(models, rng):
    table = table_of(models, rng, 0)
    more = table["model"].map(models["pretrain_size"]).map({"6k": 0.0, "12k": 1.0, "24k": 2.0})
    carried = table["metric"].isin(["auroc", "accuracy"]) & more.notna()
    table.loc[carried, "value"] = 0.5 + 0.1 * more[carried] + rng.normal(0, 0.01, carried.sum())
    found = claims.judge_claims(table, models, id_set="id").set_index("claim").loc["4a"]
    at_equal_size = float(re.search(r"equal data size (\S+) \(p", found["note"])[1])
    assert found["verdict"] == "supported" and found["effect"] > 0.9 and abs(at_equal_size) < 0.7


def test_both_changes_of_a_prompt_set_are_named(models, rng):
    found = claims.judge_claims(table_of(models, rng, 1), models, id_set="id").set_index("claim").loc["6d"]
    first, second = (float(part.split()[-1]) for part in found["note"].split("; ")[-1].split(", "))
    assert abs(abs(first) - 0.05) < 0.01 and abs(abs(second) - 0.05) < 0.01
    assert round(found["effect"], 3) in (first, second)


def test_the_overview_marks_what_is_about_these_models_alone(models, rng, tmp_path, monkeypatch):
    two = models.index[models["group"] == "zero_shot_clip"][2:]
    told = []
    monkeypatch.setattr(whole_suite, "display", told.append)
    monkeypatch.setattr(whole_suite, "table", told.append)

    def shown(models):
        told.clear()
        study = SimpleNamespace(
            parameters=load_parameters("params/published.yaml", {"outputs": str(tmp_path), "id_set": "id"}),
            models=models,
            main_prompts="",
            save=lambda frame, name: frame,
        )
        present.claims(study, table_of(models, np.random.default_rng(1), 1))
        _, matrix, *legend, judged, _ = told
        assert matrix.to_html().count("#cfe0ff") == 1 and "§" not in judged["verdict"].sum()
        texts = [text.data for text in legend]
        return judged.set_index("claim"), matrix.data.set_index("claim")["published"], texts

    judged, matrix, texts = shown(models.drop(two))
    assert judged.loc["1c", "about"] == "these models alone" and matrix["1c"] == "supported §"
    assert judged.loc["3a", "about"] == "models like these" and matrix["3a"] == "supported"
    assert (matrix.str.endswith("§") == judged["about"].eq("these models alone")).all()
    assert len(texts) == 1 and texts[0].startswith("§ about these models alone")
    judged, matrix, texts = shown(models)
    assert not matrix.str.contains("§").any() and texts == []
