"""Prompt sets over models: effects, variance, front, costs of a choice; on tiny models and tables of known truth."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import open_clip
import pandas as pd
import pytest
import statsmodels.api as sm
from PIL import Image
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from statsmodels.formula.api import ols
from tiny import classifier_spec, clip_spec, table_of

from clipsafe_utils import plots, present, sections
from clipsafe_utils.datasets import imagenet_space
from clipsafe_utils.decomposition import on_front, variance_components, variance_share_intervals, variance_shares
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics import confidence_and_correct, expected_calibration_error, fit_temperature
from clipsafe_utils.params import load_parameters
from clipsafe_utils.present import basics, prompt_sentences
from clipsafe_utils.statistics import split_mask
from clipsafe_utils.study import Study
from clipsafe_utils.table import tidy

FACTORS = ("model", "prompt set", "test set")
SETS = {"mine": ["a photo of a {}.", "a drawing of a {}."], "bare": ["{}"], "loud": ["{} new sale"]}


# -- tables with known truth -------------------------------------------------------------------------------------------


def crossed(rng, sizes, spread):
    """A table of independent normal effects: `spread` gives the standard deviation of each, by its axes."""
    table = np.zeros(sizes)
    for axes, deviation in spread.items():
        table = table + deviation * rng.normal(size=[n if axis in axes else 1 for axis, n in enumerate(sizes)])
    return table


SPREAD = {(0,): 1.0, (1,): 0.7, (2,): 0.8, (0, 1): 0.4, (0, 2): 0.5, (1, 2): 0.3, (0, 1, 2): 0.6}


def test_components_are_those_of_the_textbook_from_statsmodels_anova():
    values = crossed(np.random.default_rng(3), (5, 4, 3), SPREAD)
    index = pd.MultiIndex.from_product([range(n) for n in values.shape], names=["m", "p", "t"])
    frame = pd.DataFrame({"y": values.ravel()}, index=index).reset_index()
    table = sm.stats.anova_lm(ols("y ~ (C(m) + C(p) + C(t)) ** 2", frame).fit())
    square = (table["sum_sq"] / table["df"]).rename(lambda name: name.replace("C(", "").replace(")", ""))
    m, p, t = values.shape
    error = square["Residual"]  # with one value a cell, the interaction of all three
    expected = {
        ("m", "p", "t"): error,
        ("m", "p"): (square["m:p"] - error) / t,
        ("m", "t"): (square["m:t"] - error) / p,
        ("p", "t"): (square["p:t"] - error) / m,
        ("m",): (square["m"] - square["m:p"] - square["m:t"] + error) / (p * t),
        ("p",): (square["p"] - square["m:p"] - square["p:t"] + error) / (m * t),
        ("t",): (square["t"] - square["m:t"] - square["p:t"] + error) / (m * p),
    }
    found = variance_components(values, "mpt")
    assert found.keys() == expected.keys()
    for effect, component in expected.items():
        assert found[effect] == pytest.approx(max(component, 0), rel=1e-9), effect
    two = variance_components(values[:, :, :1], "mpt")
    table = sm.stats.anova_lm(ols("y ~ C(m) + C(p)", frame[frame["t"] == 0]).fit())
    square = table["sum_sq"] / table["df"]
    assert two == {
        ("m",): pytest.approx(max((square["C(m)"] - square["Residual"]) / p, 0)),
        ("p",): pytest.approx(max((square["C(p)"] - square["Residual"]) / m, 0)),
        ("m", "p"): pytest.approx(square["Residual"]),
    }, "a factor with one level has no effect"


def test_components_of_simulated_tables_are_right_on_average():
    rng, sizes = np.random.default_rng(0), (12, 6, 5)
    found = [variance_components(crossed(rng, sizes, SPREAD), FACTORS) for _ in range(600)]
    for axes, deviation in SPREAD.items():
        values = np.array([one[tuple(FACTORS[axis] for axis in axes)] for one in found])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - deviation**2) < 4 * error, axes


def test_an_estimate_below_zero_is_zero():
    spread = {(0,): 1.0, (0, 1, 2): 1.0}
    found = [variance_components(crossed(np.random.default_rng(k), (4, 3, 3), spread), FACTORS) for k in range(30)]
    prompt = np.array([one["prompt set",] for one in found])
    assert prompt.min() == 0 and np.mean(prompt == 0) > 0.3 and prompt.max() > 0
    shares = variance_shares(crossed(np.random.default_rng(0), (4, 3, 3), spread), FACTORS)
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0


@pytest.mark.parametrize("values", [np.full((2, 2, 2), np.nan), np.zeros((2, 2)), np.zeros((1, 1, 1))])
def test_unbalanced_tables_are_refused(values):
    with pytest.raises(ClipsafeError, match=r"balanced table|single value"):
        variance_components(values, FACTORS)
    assert np.isnan([*variance_shares(np.ones((3, 2, 2)), FACTORS).values()]).all(), "no variance, no shares"


@pytest.mark.slow
def test_intervals_of_shares_hold_their_level():
    """Over models drawn anew, for the prompt sets and test sets that there are."""
    rng, sizes, n = np.random.default_rng(5), (12, 6, 5), 250
    fixed = {axes: SPREAD[axes] for axes in SPREAD if 0 not in axes}
    rest = {axes: SPREAD[axes] for axes in SPREAD if 0 in axes}
    ground = crossed(rng, sizes, fixed)
    exact = variance_components(ground[:1], FACTORS)
    truth = {tuple(FACTORS[axis] for axis in axes): deviation**2 for axes, deviation in rest.items()}
    # Without models the interaction of the two fixed factors is what their main effects are measured against.
    table = ground[0] - ground[0].mean()
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    both = np.sum((table - rows[:, None] - columns) ** 2) / ((sizes[1] - 1) * (sizes[2] - 1))
    truth |= {
        ("prompt set",): rows.var(ddof=1) - both / sizes[2],
        ("test set",): columns.var(ddof=1) - both / sizes[1],
        ("prompt set", "test set"): both,
    }
    assert exact["prompt set",] == pytest.approx(truth["prompt set",])
    total = sum(truth.values())
    hits = dict.fromkeys(truth, 0)
    for _ in range(n):
        for effect, interval in variance_share_intervals(ground + crossed(rng, sizes, rest), FACTORS).items():
            hits[effect] += interval.low <= truth[effect] / total <= interval.high
    assert all(0.89 <= hit / n <= 0.99 for hit in hits.values()), hits


def test_few_models_have_no_interval():
    values = crossed(np.random.default_rng(1), (4, 3, 3), SPREAD)
    assert all(np.isnan([i.low, i.high]).all() for i in variance_share_intervals(values, FACTORS).values())
    more = variance_share_intervals(crossed(np.random.default_rng(1), (5, 3, 3), SPREAD), FACTORS, level=0.5)
    assert all(0 <= i.low <= i.high <= 1 and i.level == 0.5 and i.n == 5 for i in more.values())


def test_front_is_what_no_row_beats():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (50, 7, 3))
    for table, found in zip(values, on_front(values), strict=True):
        for row, is_on in zip(table, found, strict=True):
            beats = [all(a >= b for a, b in zip(o, row, strict=True)) and tuple(o) != tuple(row) for o in table]
            assert is_on == (not any(beats))
    assert on_front([[1, 2], [1, 2], [0, 3], [0, 2]]).tolist() == [True, True, True, False]


# -- the section on tiny models ----------------------------------------------------------------------------------------


def suite(folder, *specs, **changed):
    rng = np.random.default_rng(0)
    for name in ("whole", "part", "strange", "stranger"):
        for label in ("bear", "cat", "dog") if name == "whole" else ("bear", "dog"):
            (folder / name / label).mkdir(parents=True, exist_ok=True)
            for k in range(10):
                pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(9, 0).repeat(9, 1)
                Image.fromarray(pixels).save(folder / name / label / f"{k}.png")
    kinds = {name: {"kind": "folder"} for name in ("whole", "part", "strange", "stranger")}
    values = {
        **{"suite": "prompts", "outputs": str(folder), "data": str(folder), "image_sets": kinds, "id_set": "whole"},
        **{"shifted_sets": ["part"], "ood_sets": ["strange", "stranger"], "cue_conflict_set": None},
        **{"zoo": table_of(folder, *specs), "device": "cpu", "workers": 0, "ood_scores": ["msp", "mcm"]},
        **{"prompt_sets": [{name: templates} for name, templates in SETS.items()], "n_bootstrap": 50},
    }
    return load_parameters("params/sample.yaml", values | changed)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSAFE_CACHE", str(folder / "cache"))
        specs = [clip_spec(folder, f"tiny-{seed}", seed=seed) for seed in range(4)]
        study = Study(suite(folder, *specs, classifier_spec(folder)))
        grid = sections.prompt_grid(study)
    return study, grid, sections.prompt_objectives(study, grid)


def cosines(study, model, name, templates):
    from clipsafe_utils.prompts import zero_shot_head

    images = np.asarray(study.unit(model, name).array)
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    return images @ zero_shot_head(study.adapters[model], ("bear", "cat", "dog"), templates).T


def test_grid_holds_every_objective_of_every_model_and_set(clips):
    study, grid, objectives = clips
    assert grid["model"].unique().tolist() == [f"tiny-{k}" for k in range(4)], "classifiers have no prompts"
    assert not grid["metric"].str.endswith("_difference").any()
    assert list(objectives) == ["accuracy", "ece", "ece_scaled", "auroc", "auroc_mcm"]
    assert list(objectives.loc["tiny-0"].index) == list(SETS)
    assert objectives["ece_scaled"].notna().any()
    rows = grid.set_index(["model", "protocol", "test_set", "metric"])["value"].sort_index()
    for model, (prompts, templates) in itertools.product(("tiny-0", "tiny-3"), SETS.items()):
        of = rows.loc[model, f"prompts {prompts}"]
        labels, scale = study.unit(model, "whole").labels, 1 / 0.07
        inside = cosines(study, model, "whole", templates)
        confidence, correct = confidence_and_correct(inside * scale, labels)
        assert of["whole", "accuracy"] == correct.mean()
        assert of["whole", "ece"] == pytest.approx(expected_calibration_error(confidence, correct), abs=1e-6)
        fit = split_mask(labels, 0.5, seed=0)
        try:
            scaled = inside * scale / fit_temperature(inside[fit] * scale, labels[fit])
            error = expected_calibration_error(*confidence_and_correct(scaled[~fit], labels[~fit]))
        except ClipsafeError:  # a random model may be wrong more often than by chance
            error = np.nan
        assert of.get(("whole", "ece_scaled"), np.nan) == pytest.approx(error, abs=1e-3, nan_ok=True)
        part = cosines(study, model, "part", templates)[:, [0, 2]] * scale
        correct = part.argmax(axis=1) == study.unit(model, "part").labels
        assert of["part", "accuracy"] == correct.mean()
        found = []
        for name in ("strange", "stranger"):
            outside = cosines(study, model, name, templates)
            is_ood = np.repeat([0, 1], [len(inside), len(outside)])
            for metric, by in (("auroc", scale), ("auroc_mcm", 1)):
                score = -softmax(by * np.concatenate([inside, outside]), axis=1).max(axis=1)
                assert of[name, metric] == pytest.approx(roc_auc_score(is_ood, score), abs=2e-3)
            found.append(of[name, "auroc"])
        assert objectives.loc[(model, prompts), "auroc"] == pytest.approx(np.mean(found))
        assert objectives.loc[(model, prompts), "accuracy"] == of["whole", "accuracy"], "in-distribution alone"


def test_mean_effects_are_paired_t_tests_by_source(clips):
    study, _, objectives = clips
    means = sections.mean_effects(study, objectives)
    assert set(means["model"]) == {sections.ALL}, "no training source is known, so none is told apart"
    row = means[(means["test_set"] == "bare") & (means["metric"] == "ece_difference")].iloc[0]
    wide = objectives["ece"].swaplevel()
    test = stats.ttest_rel(wide["bare"], wide["mine"]).confidence_interval(0.95)
    assert (row["ci_low"], row["ci_high"], row["n"]) == (pytest.approx(test.low), pytest.approx(test.high), 4)
    study.models["pretrain_source"] = ["A", "B", "A", "A", ""]
    try:
        means = sections.mean_effects(study, objectives).set_index(["model", "test_set", "metric"])
    finally:
        study.models["pretrain_source"] = ""
    assert means.index.unique("model").tolist() == [sections.ALL, "trained on A", "trained on B"]
    by_a, by_b = (means.loc[(f"trained on {source}", "loud", "accuracy_difference")] for source in "AB")
    change = (objectives["accuracy"].swaplevel()["loud"] - objectives["accuracy"].swaplevel()["mine"]).to_numpy()
    assert (by_a["value"], by_a["n"]) == (pytest.approx(change[[0, 2, 3]].mean()), 3)
    assert by_b["value"] == pytest.approx(change[1]) and np.isnan(by_b["ci_low"]), "one model says nothing of others"


def test_two_sets_of_the_readers_choice_are_compared_directly(clips):
    study, _, objectives = clips
    turned = sections.prompt_effects(study, reference="bare")
    mine, usual = (
        rows[rows["metric"].str.endswith("_difference")].set_index(["model", "test_set", "metric", "protocol"])
        for rows in (turned, sections.prompt_effects(study))
    )
    assert set(turned.loc[turned["metric"] == "ece_difference", "protocol"]) == {"prompts mine", "prompts loud"}
    back = mine.xs("prompts mine", level="protocol")
    there = usual.xs("prompts bare", level="protocol").loc[back.index]
    np.testing.assert_allclose(back["value"], -there["value"], atol=1e-12)
    np.testing.assert_allclose(back[["ci_low", "ci_high"]], -there[["ci_high", "ci_low"]], atol=1e-6)
    means = sections.mean_effects(study, objectives, "bare").set_index(["test_set", "metric"])
    wide = objectives["ece"].swaplevel()
    test = stats.ttest_rel(wide["loud"], wide["bare"]).confidence_interval(0.95)
    one = means.loc["loud", "ece_difference"]
    assert (one["ci_low"], one["ci_high"]) == (pytest.approx(test.low), pytest.approx(test.high))
    with pytest.raises(ClipsafeError, match="unknown prompt set 'bar'; did you mean 'bare'"):
        sections.prompt_effects(study, reference="bar")


def test_variance_is_that_of_the_grid(clips):
    study, grid, _ = clips
    shares = sections.variance_decomposition(study, grid)
    assert (shares.groupby("model")["value"].sum() - 1).abs().max() < 1e-9 and set(shares["n"]) == {4}
    rows = grid[grid["metric"] == "ece"].set_index(["model", "protocol", "test_set"])["value"]
    order = [[f"tiny-{k}" for k in range(4)], [f"prompts {name}" for name in SETS], ["whole", "part"]]
    values = np.array([rows[key] for key in itertools.product(*order)]).reshape(4, 3, 2)
    for effect, share in variance_shares(values, FACTORS).items():
        found = shares[(shares["model"] == "ece") & (shares["test_set"] == " x ".join(effect))]
        assert found["value"].item() == pytest.approx(share)


def test_front_of_means_and_of_models(clips):
    study, _, objectives = clips
    front = sections.prompt_front(study, objectives)
    sign = np.array([1, -1, 1])
    columns = ["accuracy", "ece", "auroc"]
    means = objectives[columns].groupby("prompts", sort=False).mean()
    np.testing.assert_allclose(front[columns], means)
    assert front["on_front"].tolist() == on_front(means.to_numpy() * sign).tolist()
    pair = means[["auroc", "ece"]].to_numpy() * [1, -1]
    assert front["on_front_auroc_ece"].tolist() == on_front(pair).tolist()
    own = [on_front(objectives.loc[model, columns].to_numpy() * sign) for model in objectives.index.unique("model")]
    np.testing.assert_allclose(front["models_on_front"], np.mean(own, axis=0))
    assert front["resamples_on_front"].between(0, 1).all() and front["resamples_on_front"].max() > 0.3
    pd.testing.assert_frame_equal(front, sections.prompt_front(study, objectives))
    low, high, main = front.loc[1, "ece_low"], front.loc[1, "ece_high"], front.loc[0, "ece"]
    test = stats.ttest_rel(objectives["ece"].swaplevel()["bare"], objectives["ece"].swaplevel()["mine"])
    assert (low - main, high - main) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert np.isnan(front.loc[0, "ece_low"]), "the main set does not differ from itself"


SUITE = load_parameters("params/sample.yaml")


def costs_of(accuracy, ece):
    """`choice_costs` of a table: a line a model, a column a prompt set."""
    models, sets = [f"m{k}" for k in range(len(accuracy))], [f"p{k}" for k in range(accuracy.shape[1])]
    index = pd.MultiIndex.from_product([models, sets], names=["model", "prompts"])
    objectives = pd.DataFrame({"accuracy": accuracy.ravel(), "ece": ece.ravel()}, index=index)
    facts = pd.DataFrame(index=models)

    class Given:
        models = facts
        prompt_sets = dict.fromkeys(sets)
        parameters = SUITE

    return sections.choice_costs(Given, objectives).set_index(["chosen_by", "costs"])


def test_costs_of_a_choice_are_judged_on_models_that_had_no_say():
    rng = np.random.default_rng(0)
    accuracy, ece = rng.normal(size=(9, 4)), rng.normal(size=(9, 4))
    cost = []
    for model in range(9):
        others = np.delete(np.arange(9), model)
        by_accuracy, by_ece = accuracy[others].mean(axis=0).argmax(), ece[others].mean(axis=0).argmin()
        cost.append(ece[model, by_accuracy] - ece[model, by_ece])
    found = costs_of(accuracy, ece).loc["accuracy", "ece"]
    assert found["cost"] == pytest.approx(np.mean(cost))
    assert (found["low"], found["high"]) == pytest.approx(stats.t.interval(0.95, 8, np.mean(cost), stats.sem(cost)))


def test_noise_has_no_cost_and_a_real_trade_off_has_one():
    rng, said = np.random.default_rng(1), []
    for _ in range(60):
        costs = costs_of(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))).loc["accuracy", "ece"]
        said.append(costs["low"] > 0)
    assert np.mean(said) <= 0.1, "where sets do not differ, choosing costs nothing; nominal 0.025"
    tilt = np.linspace(0, 3, 4)
    costs = costs_of(rng.normal(size=(20, 4)) + tilt, rng.normal(size=(20, 4)) + tilt).loc["accuracy", "ece"]
    assert costs["low"] > 1.5 and (costs["chosen"], costs["rival"]) == ("p3", "p0")


def test_facts_say_where_a_set_is_from_and_how_long_its_prompts_are(clips):
    study, *_ = clips
    facts, shared = sections.prompt_set_facts(study)
    assert facts["prompts"].tolist() == [6, 3, 3] and set(facts["source"]) == {"this parameter file"}
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    lengths = [int((tokenizer([t.format(n)]) != 0).sum()) for t in SETS["mine"] for n in ("bear", "cat", "dog")]
    assert facts.loc[0, "tokens"] == " to ".join(dict.fromkeys(map(str, (min(lengths), max(lengths)))))
    assert shared == {"openai": {}}
    published = Study(load_parameters("params/published.yaml"))
    facts, shared = sections.prompt_set_facts(published)
    lengths = (tokenizer(["itap of a " + name for name in open_clip.IMAGENET_CLASSNAMES]) != 0).sum(dim=1)
    fewest, most = map(int, facts.loc[0, "tokens"].split(" to "))
    assert facts.loc[0, "prompts"] == 80_000 and fewest <= lengths.min() and lengths.max() <= most <= 77
    assert shared["openai"] == {"missile": [657, 744], "sunglasses": [836, 837]}


def test_class_names_of_a_set_reach_its_head_and_its_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))
    own = {"other": {"templates": "single", "class_names": "synonyms"}}
    study = Study(suite(tmp_path, clip_spec(tmp_path), prompt_sets=["single", own]))
    space = imagenet_space()
    assert (study.class_names(space)[0], study.class_names(space, "other")[0]) == ("tench", "Tinca tinca")
    names = [study.output_identity("tiny", space, prompts)["class_names"] for prompts in ("single", "other")]
    assert names == ["openai", "synonyms"]
    for prompts in study.prompt_sets:
        assert study.head("tiny", prompts, study.class_names(study.id_space, prompts))["weights"].shape == (3, 16)
    assert "class_names" in study.parameters.used


def test_one_model_and_none_are_said_and_not_judged(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))
    one = Study(suite(tmp_path, clip_spec(tmp_path), ood_sets=[], ood_scores=["msp"]))
    grid = sections.prompt_grid(one)
    objectives = sections.prompt_objectives(one, grid)
    assert set(objectives) - {"ece_scaled"} == {"accuracy", "ece"}, "without OOD sets no AUROC"
    means, front = sections.mean_effects(one, objectives), sections.prompt_front(one, objectives)
    assert means["ci_low"].isna().all() and front[["accuracy_low", "ece_high"]].isna().all(axis=None)
    assert sections.choice_costs(one, objectives).empty
    shares = sections.variance_decomposition(one, grid)
    assert set(shares["test_set"]) == {"prompt set", "test set", "prompt set x test set"}
    assert shares["ci_low"].isna().all()
    said = shown(monkeypatch, lambda: (present.prompt_means(means), present.variance_shares(shares)))
    assert "an interval over models needs three of them, here n = 1." in said and "the largest share is that of" in said
    none = Study(suite(tmp_path, classifier_spec(tmp_path)))
    empty = sections.prompt_objectives(none, sections.prompt_grid(none))
    assert empty.empty and none.missing["prompt sets"] == sections.NO_ZERO_SHOT
    assert sections.mean_effects(none, empty).empty and sections.variance_decomposition(none, tidy([])).empty
    assert sections.prompt_front(none, empty).empty and sections.choice_costs(none, empty).empty


# -- sentences ---------------------------------------------------------------------------------------------------------


def shown(monkeypatch, show):
    """What is displayed as text."""
    said = []
    for module in (basics, prompt_sentences):
        monkeypatch.setattr(module, "display", lambda thing: said.append(thing.data))
    show()
    return "\n".join(said)


def mean_rows(**values):
    """Rows of `mean_effects`: metric -> {prompt set: (value, low, high)}."""
    rows = [
        {"model": group, "test_set": prompts, "metric": metric, "value": value, "n": 26, "ci_low": low, "ci_high": high}
        for metric, sets in values.items()
        for prompts, (value, low, high) in sets.items()
        for group in (sections.ALL, "trained on A")
    ]
    return tidy(rows).assign(ci_kind="student t over models", ci_level=0.95)


def test_findings_follow_the_intervals(monkeypatch):
    ece = {"bare": (-0.02, -0.03, -0.01), "loud": (0.02, 0.01, 0.03), "none": (0.001, -0.01, 0.012)}
    means = mean_rows(ece_difference=ece, auroc_difference={"bare": (0.004, 0.001, 0.007)})
    said = shown(monkeypatch, lambda: present.prompt_means(means))
    assert "- better: 1 of 3: bare (-2.0, -3.0 to -1.0)" in said and "- worse: 1 of 3: loud (+2.0" in said
    assert "- not distinguishable from zero: 1 of 3: none" in said and "better: 1 of 1: bare (+0.004" in said
    assert "- trained on A (26 models): worse with loud; better with bare" in said
    costs = pd.DataFrame(
        [
            ("accuracy", "ece", "a", "b", 0.02, 0.01, 0.03, 26),
            ("accuracy", "auroc", "a", "a", 0.001, -0.002, 0.004, 26),
            ("ece", "auroc", "b", "a", np.nan, np.nan, np.nan, 2),
        ],
        columns=["chosen_by", "costs", "chosen", "rival", "cost", "low", "high", "n_models"],
    )
    said = shown(monkeypatch, lambda: present.choice_costs(costs))
    assert "it costs ECE: 2.0 points worse (1.0 to 3.0) than with the set chosen by ECE (b)" in said
    assert "cost in AUROC not distinguishable from none" in said and "needs three models" in said


# -- figures -----------------------------------------------------------------------------------------------------------


def lane_points(ax):
    lines = [line for line in ax.lines if line.get_marker() not in ("", "None") and line.get_linestyle() == "None"]
    return sorted(round(float(x), 9) for line in lines for x in line.get_xdata())


def test_mean_effects_have_a_panel_an_objective():
    sets = {"bare": (0.01, 0.0, 0.02), "loud": (-0.2, -0.3, -0.1)}
    means = mean_rows(ece_difference=sets, accuracy_difference=sets, auroc_mcm_difference=sets)
    figure = plots.mean_prompt_effects(means, reference="mine")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Accuracy", "ECE", "AUROC, MCM"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["bare", "loud"]
    for ax in figure.axes:
        assert lane_points(ax) == [-0.2, -0.2, 0.01, 0.01]
    assert "worse" in figure.axes[1].get_xlabel().split("better")[1], "less ECE is better"
    assert "mine" in figure.get_supxlabel()
    with pytest.raises(ClipsafeError, match="nothing to draw"):
        plots.mean_prompt_effects(means.iloc[:0])
    plt.close("all")


def test_variance_shares_put_main_effects_on_top(clips):
    study, grid, _ = clips
    shares = sections.variance_decomposition(study, grid)
    ax = plots.variance_shares(shares)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == 7 and not any("\u00d7" in label for label in labels[:3])
    assert labels[-1] == "model \u00d7 prompt set \u00d7 test set"
    np.testing.assert_allclose(lane_points(ax), sorted(shares["value"].round(9)), atol=1e-8)
    assert {text.get_text() for text in ax.figure.legends[0].get_texts()} == {"Accuracy", "ECE", "AUROC"}
    plt.close("all")


def test_front_fills_the_marks_of_those_that_no_other_beats():
    front = pd.DataFrame(
        {
            "prompts": ["mine", "bare", "loud", "quiet", "lost"],
            "accuracy": [0.60, 0.59, 0.58, 0.57, 0.1],
            "ece": [0.07, 0.06, 0.08, 0.05, 0.5],
            "auroc": [0.70, 0.71, 0.69, 0.70, 0.5],
            "on_front": [True, True, False, True, False],
            "on_front_accuracy_auroc": [True, True, False, False, False],
            "on_front_accuracy_ece": [True, True, False, True, False],
            "on_front_auroc_ece": [False, True, False, True, False],
            "outside": [False, False, False, False, True],
        }
    )
    front = front.assign(**{f"{key}_{end}": np.nan for key in ("accuracy", "ece", "auroc") for end in ("low", "high")})
    front.loc[1, ["accuracy_low", "accuracy_high"]] = 0.58, 0.6
    figure = plots.prompt_front(front)
    pairs = [("accuracy", "auroc"), ("accuracy", "ece"), ("auroc", "ece")]
    for (x, y), ax in zip(pairs, figure.axes, strict=True):
        marks = [line for line in ax.lines if line.get_linestyle() == "None"]
        np.testing.assert_array_equal([line.get_xydata()[0] for line in marks], front[[x, y]][:4])
        assert [line.get_markerfacecolor() == "white" for line in marks] == [False, False, True, False]
    line = next(line for line in figure.axes[1].lines if line.get_linestyle() == "--")
    assert line.get_xdata().tolist() == [0.57, 0.59, 0.60]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-1] == "lost (outside: Accuracy 10.0%, AUROC 0.500, ECE 50.0%)"
    segments = [s for c in figure.axes[0].collections for s in c.get_segments() if len(s) and np.isfinite(s).all()]
    assert [s[:, 0].tolist() for s in segments] == [[0.58, 0.6]]
    with pytest.raises(ClipsafeError, match="nothing to draw"):
        plots.prompt_front(front.iloc[:0])
    plt.close("all")
