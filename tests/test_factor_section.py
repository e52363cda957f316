"""The section on visual factors: strata, matched accuracy, shrinkage, all sixteen factors, shape by category."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipsafe_utils import plots, sections
from clipsafe_utils.datasets.factors import ALL_FACTORS, FACTORS
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.params import load_parameters
from clipsafe_utils.published import read_cue_conflict_trials
from clipsafe_utils.shrinkage import errors_by_count, errors_by_image, shrink_robustness
from clipsafe_utils.statistics import effective_robustness_interval, fit_accuracy_line, wilson_interval
from clipsafe_utils.study import Study

NAMES = [f"x/{factor}" for factor in FACTORS[:3]]


def models(n=24):
    """Three groups of eight; families take turns, sizes come in pairs."""
    groups = np.repeat(["zero_shot_clip", "standard", "clip_finetuned"], n // 3)
    facts = {
        "encoder_family": ["vit", "resnet"] * (n // 2),
        "pretrain_size": (["400M"] * 3 + ["2B"] * 4 + [""]) * (n // 8),
    }
    return pd.DataFrame({"group": groups, **facts}, index=[f"m{k:02d}" for k in range(n)])


@pytest.fixture
def study(tmp_path):
    study = Study(load_parameters("params/published.yaml", {"outputs": str(tmp_path)}))
    study.models = models()
    return study


@pytest.fixture
def rows(study, rng):
    """Overall accuracy, and lower ones with three factors, in which CLIP is 0.1 better on the first."""
    found = []
    for k, (model, facts) in enumerate(study.models.iterrows()):
        x = 0.5 + 0.04 * (k % 8) + rng.uniform(-0.004, 0.004)
        bonus = 0.1 * (facts["group"] != "standard")
        values = {"x": x} | {name: x - 0.1 + bonus * (name == NAMES[0]) + rng.normal(0, 0.01) for name in NAMES}
        n = {"x": 2000, NAMES[0]: 60, NAMES[1]: 400, NAMES[2]: 900}
        found += [
            {"model": model, "test_set": name, "protocol": "p", "metric": "accuracy", "value": v, "n": n[name]}
            for name, v in values.items()
        ]
    return study.table(found)


@pytest.fixture
def robust(study, rows):
    return sections.robustness(study, rows, NAMES, x_set="x")


# -- strata ------------------------------------------------------------------------------------------------------------


def test_strata_are_groups_with_one_more_fact(study):
    found = sections.strata(study.models, "encoder_family")
    assert found["m00"] == "Zero-shot CLIP, vit" and found["m09"] == "Standard, resnet"
    sizes = sections.strata(study.models.assign(group="human"), "pretrain_size")
    assert sizes.isna().all(), "humans are no stratum"
    assert sections.strata(study.models, "pretrain_size").isna().sum() == 3
    assert sections.strata(study.models, "loss").isna().all()


def test_stratum_means_are_means_with_students_interval(study, robust):
    rows, _, _ = robust
    found = sections.stratum_means(study, rows, "pretrain_size").set_index(["model", "test_set"])
    own = rows[rows["test_set"].eq(NAMES[1]) & rows["model"].isin(["m00", "m01", "m02"])]["value"]
    one = found.loc["Zero-shot CLIP, 400M", NAMES[1]]
    assert (one["value"], one["n"], one["metric"]) == (pytest.approx(own.mean()), 3, "effective_robustness_over_models")
    assert (one["ci_low"], one["ci_high"]) == pytest.approx(stats.t.interval(0.95, 2, own.mean(), stats.sem(own)))
    with_line = sections.stratum_means(study, rows, "pretrain_size", *_lines(study, robust)).set_index(
        ["model", "test_set"]
    )
    wider = with_line.loc["Zero-shot CLIP, 400M", NAMES[1]]
    assert wider["ci_high"] - wider["ci_low"] > one["ci_high"] - one["ci_low"]
    assert wider["ci_kind"] == "student t over models and error of the line"


def _lines(study, robust):
    rows, lines, axes = robust
    x = rows.assign(test_set="x", metric="accuracy", value=0.6).drop_duplicates(["model"])
    return x, lines, axes


def test_two_models_are_no_stratum_and_it_is_said(study, robust):
    study.models = study.models.assign(encoder_family=[f"family{k // 2}" for k in range(24)])
    assert sections.stratum_means(study, robust[0], "encoder_family").empty
    assert study.missing["means by encoder family"].startswith(
        "no group has 3 models of different starts whose encoder_family the zoo knows"
    )


# -- matched accuracy --------------------------------------------------------------------------------------------------


def test_pairs_are_as_many_as_possible_and_then_the_nearest(study, rng):
    """Against every assignment there is, for five models on each side."""
    few = study.models.iloc[[*range(5), *range(8, 13)]]
    accuracy = pd.Series(rng.uniform(0.5, 0.56, 10), few.index)
    found = sections.accuracy_pairs(few, accuracy, "zero_shot_clip", "standard", caliper=0.012)
    first, second = few.index[:5], few.index[5:]
    best = (0, 0.0)
    for order in itertools.permutations(second):
        gaps = [abs(accuracy[a] - accuracy[b]) for a, b in zip(first, order, strict=True)]
        near = [gap for gap in gaps if gap <= 0.012]
        best = min(best, (-len(near), sum(near)))
    gaps = (accuracy[found["first"]].to_numpy() - accuracy[found["second"]].to_numpy()).tolist()
    assert (-len(found), sum(map(abs, gaps))) == pytest.approx(best) and 2 <= len(found) < 5
    assert found["first"].is_unique and found["second"].is_unique and max(map(abs, gaps)) <= 0.012
    assert set(found["comparison"]) == {"Zero-shot CLIP minus Standard"}
    again = sections.accuracy_pairs(few[::-1], accuracy[::-1], "zero_shot_clip", "standard", caliper=0.012)
    assert set(again.itertuples(index=False)) == set(found.itertuples(index=False)), "the order of models says nothing"


def test_further_rows_of_the_same_weights_are_not_matched(study):
    accuracy = pd.Series(0.6, study.models.index)
    twins = study.models.assign(distinct=[k % 2 == 0 for k in range(24)])
    assert len(sections.accuracy_pairs(twins, accuracy, "zero_shot_clip", "standard")) == 4


def test_matched_accuracy_finds_the_one_factor_that_differs(study, rows):
    found = sections.matched_accuracy(study, rows, "x").set_index(["model", "test_set"])
    clip = found.loc["Zero-shot CLIP minus Standard"]
    assert set(clip.index) == {"x/overall", *NAMES} and set(clip["metric"]) == {"accuracy_difference"}
    assert clip.loc[NAMES[0], "ci_low"] > 0.05 and abs(clip.loc["x/overall", "value"]) < sections.CALIPER
    accuracy = rows[rows["test_set"] == "x"].set_index("model")["value"]
    pairs = sections.accuracy_pairs(study.models, accuracy, "zero_shot_clip", "standard")
    on = rows[rows["test_set"] == NAMES[1]].set_index("model")["value"]
    expected = stats.ttest_rel(on[pairs["first"]].to_numpy(), on[pairs["second"]].to_numpy()).confidence_interval(0.95)
    assert tuple(clip.loc[NAMES[1], ["ci_low", "ci_high"]]) == pytest.approx(tuple(expected))


def test_no_match_is_said(study, rows):
    lower = rows["model"].map(study.models["group"]).eq("standard") & rows["test_set"].eq("x")
    apart = rows.assign(value=rows["value"] - 0.4 * lower)
    assert sections.matched_accuracy(study, apart, "x").empty
    assert study.missing["pairs of matched accuracy"].startswith(
        "no group has 5 models with an overall accuracy within 1"
    )


# -- shrinkage ---------------------------------------------------------------------------------------------------------


def test_images_with_a_factor_count_among_all_but_not_those_of_another_set(study, rows, robust):
    found, lines, _ = robust
    model = rows["model"].iloc[0]
    x, y = (rows.loc[rows["model"].eq(model) & rows["test_set"].eq(name), "value"].item() for name in ("x", NAMES[2]))
    line = lines[NAMES[2]]
    for name, nested in ((NAMES[2], True), ("elsewhere/color", False)):
        if not nested:
            moved = rows.assign(test_set=rows["test_set"].replace(NAMES[2], name))
            found, _, _ = sections.robustness(study, moved, [name], x_set="x")
        interval = effective_robustness_interval(x, y, 900, line, n_reference=2000, nested=nested)
        one = found[found["model"].eq(model) & found["test_set"].eq(name)].iloc[0]
        assert (one["ci_low"], one["ci_high"]) == pytest.approx((interval.low, interval.high))


def test_shrunken_rows_are_those_of_the_counts_where_answers_are_not_published(study, rows, robust):
    _, lines, axes = robust
    found = sections.shrunken(study, rows, lines, axes)
    assert set(found["metric"]) == {"effective_robustness_shrunken", "share_kept"}
    assert found["protocol"].str.endswith("errors of counts").all()
    x, y = (rows[rows["test_set"] == name].sort_values("model")["value"].to_numpy() for name in ("x", NAMES[0]))
    n, groups = np.full(24, 60), study.models["group"].to_numpy()
    errors = errors_by_count(x, y, n, np.full(24, 2000), lines[NAMES[0]])
    expected, kept = shrink_robustness(x, y, n, lines[NAMES[0]], groups, errors)
    own = found[found["test_set"] == NAMES[0]].sort_values("model")
    values = own[own["metric"] == "effective_robustness_shrunken"]
    np.testing.assert_allclose(values[["value", "ci_low", "ci_high"]], np.stack(expected[:3], axis=1))
    np.testing.assert_allclose(own.loc[own["metric"] == "share_kept", "value"], kept)
    assert set(values["n"]) == {60}


def test_shrunken_rows_know_the_images_that_models_share(study, rows, robust, rng, monkeypatch):
    _, lines, axes = robust
    shows = rng.uniform(size=(3, 500)) < 0.2
    answers = {model: rng.uniform(size=500) < 0.6 for model in study.models.index}
    monkeypatch.setattr(type(study), "is_published", False)
    flags = dict(zip(FACTORS, shows, strict=False))
    monkeypatch.setattr("clipsafe_utils.sections.factors._answers", lambda study: (answers, flags))
    found = sections.shrunken(study, rows, lines, axes)
    x, y = (rows[rows["test_set"] == name].sort_values("model")["value"].to_numpy() for name in ("x", NAMES[1]))
    groups, correct = study.models["group"].to_numpy(), np.stack(list(answers.values()))
    errors, shared = errors_by_image(correct, shows[1], lines[NAMES[1]], groups)
    expected, _ = shrink_robustness(x, y, np.full(24, 400), lines[NAMES[1]], groups, errors, shared=shared)
    own = found[found["test_set"].eq(NAMES[1]) & found["metric"].eq("effective_robustness_shrunken")]
    np.testing.assert_allclose(own.sort_values("model")["value"], expected.value)
    assert own["protocol"].str.endswith("errors of shared images").all()


def test_groups_of_three_and_numbers_without_images_are_left_out(study, rows, robust):
    _, lines, axes = robust
    study.models = study.models.assign(group=["zero_shot_clip"] * 3 + ["standard"] * 21)
    found = sections.shrunken(study, rows, lines, axes)
    assert not set(found["model"]) & {"m00", "m01", "m02"} and found["model"].nunique() == 21
    assert sections.shrunken(study, rows.assign(n=0), lines, axes).empty and "shrunken robustness" in study.missing


# -- all sixteen factors -----------------------------------------------------------------------------------------------


def test_all_factors_are_one_word():
    changed = load_parameters("params/sample.yaml", {"factors": "all"})
    assert sorted(changed.factors) == sorted(ALL_FACTORS) and len(changed.factors) == 16
    assert load_parameters("params/sample.yaml", {"factors": [*ALL_FACTORS]}).factors == [*ALL_FACTORS]
    with pytest.raises(ClipsafeError, match="factors"):
        load_parameters("params/sample.yaml", {"factors": "some"})


@pytest.mark.parametrize("which", ["top", "multi"])
def test_published_factors_on_request(published_dir, tmp_path, which):
    changed = {"factors": "all", "factor_annotation": which, "published": str(published_dir), "outputs": str(tmp_path)}
    found = sections.visual_factors(Study(load_parameters("params/published.yaml", changed)))
    ratios = found[found["metric"] == "error_ratio"]
    assert set(ratios["test_set"]) == {f"imagenet_x/{factor}" for factor in ALL_FACTORS}
    assert set(ratios["protocol"]) == {f"imagenet_x {which}"}
    accuracy = found[found["metric"] == "accuracy"]
    assert accuracy.loc[accuracy["test_set"] == "imagenet_x/person_blocking", "model"].nunique() > 300


def test_effective_robustness_names_the_annotation_of_its_factor_accuracies(study, rows):
    by_factor = rows["test_set"].ne("x")
    named = rows.assign(protocol=rows["protocol"].where(~by_factor, "zero-shot, imagenet_x multi"))
    found, _, _ = sections.robustness(study, named, NAMES, x_set="x")
    assert found["protocol"].str.endswith("x = x, imagenet_x multi").all() and len(found) == 24 * len(NAMES)
    plain, _, _ = sections.robustness(study, rows, NAMES, x_set="x")
    assert plain["protocol"].str.endswith("x = x").all()


def test_a_set_with_ten_factors_gives_these_and_names_the_others():
    unit = SimpleNamespace(images=pd.DataFrame({factor: [True, False] for factor in FACTORS}))
    study = SimpleNamespace(parameters=SimpleNamespace(factors=[*ALL_FACTORS]), missing={})
    prefix, annotated, shows = sections.factors.shown_factors(study, "mine", unit)
    assert (prefix, annotated.all(), set(shows)) == ("mine", True, set(FACTORS))
    assert study.missing["some visual factors"].startswith("mine has no column darker, object_blocking")


# -- shape by category -------------------------------------------------------------------------------------------------


def test_categories_add_up_to_the_whole(published_dir, tmp_path):
    changed = {"published": str(published_dir), "outputs": str(tmp_path)}
    study = Study(load_parameters("params/published.yaml", changed))
    found = sections.shape_by_category(study)
    trials = read_cue_conflict_trials(published_dir)
    cats = trials[trials["model"].eq("geirhos/vgg16") & trials["shape"].eq("cat") & (trials["texture"] != "cat")]
    n_shape, n_texture = (cats["response"] == "cat").sum(), (cats["response"] == cats["texture"]).sum()
    own = found[found["model"].eq("geirhos/vgg16") & found["test_set"].eq("cue_conflict/cat")].set_index("metric")
    interval = wilson_interval(n_shape, n_shape + n_texture)
    bias, share = own.loc["category_shape_bias"], own.loc["category_share_decided"]
    assert (bias["value"], bias["n"], bias["ci_low"]) == pytest.approx((interval.value, interval.n, interval.low))
    assert (share["value"], share["n"]) == (pytest.approx((n_shape + n_texture) / len(cats)), len(cats))
    whole = sections.cue_conflict(study).set_index(["model", "metric"])
    for model, part in found[found["metric"] == "category_shape_bias"].groupby("model"):
        assert part["n"].sum() == whole.loc[(model, "shape_bias"), "n"]
        weighted = np.average(part["value"], weights=part["n"])
        assert weighted == pytest.approx(whole.loc[(model, "shape_bias"), "value"])
    means = sections.category_means(study, found).set_index(["model", "metric", "test_set"])
    human = means.loc["human", "category_shape_bias_over_models", "cue_conflict/cat"]
    assert human["n"] == 10 and human["ci_low"] > 0.9


def test_correlation_with_shape_bias_is_pearsons_over_all_and_within_groups(study, robust, rng):
    rows, _, _ = robust
    bias = pd.Series(rng.uniform(0, 1, 24), study.models.index)
    cues = study.table(
        [{"model": m, "test_set": "cues", "metric": "shape_bias", "value": v, "n": 100} for m, v in bias.items()]
    )
    found = sections.shape_and_robustness(study, cues, rows).set_index(["model", "test_set", "metric"])
    own = rows[rows["test_set"] == NAMES[2]].set_index("model")["value"]
    pearson = stats.pearsonr(bias[own.index], own)
    one = found.loc["all models", NAMES[2], "pearson"]
    assert (one["value"], one["n"]) == (pytest.approx(pearson.statistic), 24)
    assert (one["ci_low"], one["ci_high"]) == pytest.approx(tuple(pearson.confidence_interval(0.95)))
    group = study.models["group"]
    centred = [v[own.index] - v[own.index].groupby(group).transform("mean") for v in (bias, own)]
    within = found.loc["within groups", NAMES[2], "pearson"]
    assert within["value"] == pytest.approx(stats.pearsonr(*centred).statistic)
    assert found.loc["all models", NAMES[2], "spearman"]["value"] == pytest.approx(
        stats.spearmanr(bias[own.index], own).statistic
    )
    assert sections.shape_and_robustness(study, cues.iloc[:5], rows).empty
    assert "shape bias beside effective robustness" in study.missing


def test_a_correlation_that_encoders_make_is_gone_within_them(study, robust, rng):
    """Resnets see more texture and are less robust: within groups that looks like an effect of shape bias."""
    rows, _, _ = robust
    study.models["pretrain_source"] = "laion"
    is_vit = study.models["encoder_family"].eq("vit")
    bias = 0.5 * is_vit + rng.normal(0, 0.02, 24)
    own = rows[rows["test_set"] == NAMES[2]]
    own = own.assign(value=own["model"].map(0.1 * is_vit + rng.normal(0, 0.01, 24)).to_numpy())
    cues = study.table(
        [{"model": m, "test_set": "cues", "metric": "shape_bias", "value": v, "n": 100} for m, v in bias.items()]
    )
    found = sections.shape_and_robustness(study, cues, own)
    r = found[found["metric"] == "pearson"].set_index("model")
    assert r.loc["all models", "ci_low"] > 0.9 and r.loc["within groups", "ci_low"] > 0.9
    most = r.loc["within group, encoder and source"]
    assert most["ci_low"] < 0 < most["ci_high"] and most["n"] == 24
    cell = study.models["group"] + study.models["encoder_family"]
    centred = [v - v.groupby(cell).transform("mean") for v in (bias, own.set_index("model")["value"])]
    assert most["value"] == pytest.approx(stats.pearsonr(*centred).statistic)
    half = stats.norm.ppf(0.975) / np.sqrt(24 - 3 - 5)  # six cells
    assert most["ci_high"] == pytest.approx(np.tanh(np.arctanh(most["value"]) + half))


# -- figures -----------------------------------------------------------------------------------------------------------


def yticks(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_few_images_are_marked(study, robust):
    rows, _, _ = robust
    ax = plots.effective_robustness(rows, study.models)
    marked = {text for text in yticks(ax) if plots.FEW_MARK in text}
    assert marked == {f"{FACTORS[0]} {plots.FEW_MARK}"}, "60 images, the others have 400 and 900"
    assert [text.get_text() for text in ax.texts] == [f"{plots.FEW_MARK} fewer than {plots.FEW_IMAGES} images"]
    many = plots.effective_robustness(rows.assign(n=plots.FEW_IMAGES), study.models)
    assert not any(plots.FEW_MARK in text for text in yticks(many)) and not many.texts


def test_shrinkage_joins_raw_and_drawn(study, rows, robust):
    raw, lines, axes = robust
    drawn = sections.shrunken(study, rows, lines, axes)
    ax = plots.shrinkage(drawn, raw, study.models)
    joined = [line.get_xdata() for line in ax.lines if line.get_linewidth() == 0.6]
    values = drawn[drawn["metric"] == "effective_robustness_shrunken"].set_index(["model", "test_set"])["value"]
    expected = {(v, values[key]) for key, v in raw.set_index(["model", "test_set"])["value"].items()}
    assert {tuple(map(float, ends)) for ends in joined} == expected and len(joined) == 72
    assert f"{FACTORS[0]} {plots.FEW_MARK} (n = 60)" in yticks(ax) and f"{FACTORS[2]} (n = 900)" in yticks(ax)
    with pytest.raises(ClipsafeError, match="no rows of metric effective_robustness_shrunken"):
        plots.shrinkage(drawn.iloc[:0], raw, study.models)


def test_strata_are_numbers_on_colours_where_clear(study, robust):
    found = sections.stratum_means(study, robust[0], "pretrain_size")
    ax = plots.stratum_means(found)
    assert yticks(ax)[:2] == ["Zero-shot CLIP, 400M (3)", "Zero-shot CLIP, 2B (4)"], "by group, then by size"
    assert sorted(text.get_text() for text in ax.texts) == sorted(
        f"{round(100 * v, 1) or 0:+.1f}" for v in found["value"]
    )
    clear = (found["ci_low"] > 0) | (found["ci_high"] < 0)
    mesh = ax.collections[0].get_array()
    assert 0 < clear.sum() < len(found) and mesh.count() == clear.sum()
    with pytest.raises(ClipsafeError, match="no rows of metric METRIC_over_models"):
        plots.stratum_means(robust[0])


def test_pairs_have_a_line_each_under_their_comparison(study, rng):
    values = pd.Series(rng.uniform(0, 1, 24), study.models.index)
    rows = study.table(
        [{"model": m, "test_set": "cues", "metric": "shape_bias", "value": v, "n": 9} for m, v in values.items()]
    )
    pairs = pd.DataFrame(
        [
            ("m16", "m00", "b minus zero-shot"),
            ("m17", "m01", "a minus zero-shot"),
            ("m18", "none", "a minus zero-shot"),
        ],
        columns=["first", "second", "comparison"],
    )
    ax = plots.model_pairs(rows, pairs, study.models, labels=("after", "before"))
    assert yticks(ax) == ["a minus zero-shot:", "m17", "b minus zero-shot:", "m16"]
    joined = [list(line.get_xdata()) for line in ax.lines if line.get_linestyle() == "-"]
    assert joined == [[values["m01"], values["m17"]], [values["m00"], values["m16"]]]
    entries = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert entries == ["Zero-shot CLIP: before", "Fine-tuned CLIP: after"]
    with pytest.raises(ClipsafeError, match="no pair of models has numbers for both"):
        plots.model_pairs(rows, pairs.iloc[2:], study.models)


def test_categories_are_sorted_and_a_column_a_group(study, rng):
    rows = [
        {"model": m, "test_set": f"cues/{c}", "metric": f"category_{metric}", "value": rng.uniform(), "n": 40}
        for m in study.models.index
        for c in ("cat", "dog", "car")
        for metric in ("shape_bias", "share_decided")
    ]
    means = sections.category_means(study, study.table(rows))
    figure = plots.shape_by_category(means)
    left, right = figure.axes
    bias = means[means["metric"] == "category_shape_bias_over_models"]
    order = bias.groupby("test_set")["value"].mean().sort_values(ascending=False).index
    assert yticks(left) == [name.removeprefix("cues/") for name in order]
    columns = [label.get_text() for label in left.get_xticklabels()]
    assert columns == ["Zero-shot CLIP (8)", "Fine-tuned CLIP (8)", "Standard (8)"]
    assert len(left.texts) == len(right.texts) == 9
    clear = (bias["ci_low"] > 0.5) | (bias["ci_high"] < 0.5)
    assert left.collections[0].get_array().count() == clear.sum() < 9
    assert right.collections[0].get_array().count() == 9, "a share has no middle"


def test_shape_and_robustness_has_a_panel_a_factor_with_its_correlation(study, robust, rng):
    rows, _, _ = robust
    cues = study.table(
        [
            {"model": m, "test_set": "cues", "metric": "shape_bias", "value": rng.uniform(), "n": 9}
            for m in rows["model"].unique()
        ]
    )
    found = sections.shape_and_robustness(study, cues, rows)
    figure = plots.shape_and_robustness(found, rows, cues, study.models)
    assert len(figure.axes) == 3
    for ax, name in zip(figure.axes, sorted(NAMES), strict=True):
        r = found[found["test_set"].eq(name) & found["metric"].eq("pearson") & found["model"].eq("all models")]["value"]
        assert f"all models: r = {r.item():+.2f} (" in ax.get_title(loc="left")
        assert sum(len(c.get_offsets()) for c in ax.collections) == 24


def test_share_decided_is_sorted_within_groups(study, rng):
    rows = study.table(
        [
            {"model": m, "test_set": "c", "metric": "share_decided", "value": rng.uniform(), "n": 9}
            for m in study.models.index
        ]
    )
    ax = plots.share_decided(rows, study.models)
    values = rows.set_index("model")["value"]
    assert len(yticks(ax)) == 24 and values[yticks(ax)[:8]].is_monotonic_decreasing
    assert set(yticks(ax)[:8]) == set(study.models.index[:8])


def test_line_of_the_fixture_is_fitted_on_the_baseline(study, rows, robust):
    _, lines, _ = robust
    standard = [f"m{k:02d}" for k in range(8, 16)]
    own = rows[rows["model"].isin(standard)].pivot_table(index="model", columns="test_set", values="value")
    assert lines[NAMES[0]].slope == pytest.approx(
        fit_accuracy_line(own["x"].to_numpy(), own[NAMES[0]].to_numpy()).slope
    )


def test_one_model_alone_has_figures_without_colours(study):
    study.models = study.models.iloc[:1]
    rows = study.table(
        [
            {"model": "m00", "test_set": f"cues/{c}", "metric": f"category_{metric}", "value": value, "n": 40}
            for c, value in (("cat", 0.2), ("dog", 0.9))
            for metric in ("shape_bias", "share_decided")
        ]
    )
    left, right = plots.shape_by_category(sections.category_means(study, rows)).figure.axes
    left.figure.canvas.draw()
    assert left.collections[0].get_array().count() == 0 and len(left.texts) == 2
    assert right.collections[0].get_array().count() == 2
    assert sections.shape_and_robustness(study, rows, study.table([])).empty
    assert sections.matched_accuracy(study, rows.assign(metric="accuracy"), "cues/cat").empty
    assert sections.shrunken(study, rows.assign(metric="accuracy"), {}, {}).empty
