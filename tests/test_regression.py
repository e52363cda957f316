"""What moves safety: planted effects are found, null effects are not, and what is confounded is named."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from matplotlib.colors import to_hex

from clipsafe_utils import plots
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.regression import PROPERTIES, fit, regress, training_facts
from clipsafe_utils.table import tidy
from clipsafe_utils.zoo import load_zoo, zoo_frame

SETS = ["s1", "s2", "s3", "s4"]


def models(n, rng):
    """Facts without confounding, at random."""
    text = {"encoder": rng.permutation(np.resize(["cnn", "cnn", "vit", "mlp"], n)), "source": np.resize(["A", "B"], n)}
    return pd.DataFrame(text | {"size": rng.normal(20, 2, n)}, [f"m{i:03d}" for i in range(n)])


def values(mean, rng, *, sets=SETS, between=0.03, within=0.02, by_set=None):
    """Each model's mean, what is its own, and noise; `by_set` is what a model has on each test set."""
    own = mean + between * rng.normal(size=len(mean))
    grid = own[:, None] + np.linspace(0, 0.3, len(sets)) + within * rng.normal(size=(len(mean), len(sets)))
    frame = pd.DataFrame(grid if by_set is None else grid + by_set, [f"m{i:03d}" for i in range(len(mean))], sets)
    return frame.melt(ignore_index=False, var_name="test_set").rename_axis("model").reset_index()


def tidy_rows(frame, metric="ece", protocol="p"):
    return tidy(frame.assign(metric=metric, protocol=protocol))


@pytest.mark.slow
@pytest.mark.parametrize("between", [0.03, 0.0])
def test_intervals_cover_and_a_planted_effect_is_found(rng, between):
    covered, found, wrong, runs, numbers = [], 0, 0, 40, [f"number {k}" for k in range(9)]
    for _ in range(runs):
        facts = models(28, rng)
        facts[numbers] = rng.normal(size=(28, 9))  # thirteen terms a run instead of four: fewer runs say as much
        mean = 0.1 * facts["source"].eq("B").to_numpy()
        effects = fit(values(mean, rng, between=between), facts).effects.set_index("term")
        truth = pd.Series(0.0, effects.index)
        truth["source: B against A"] = 0.1
        covered.append((effects["ci_low"] <= truth) & (truth <= effects["ci_high"]))
        found += effects.loc["source: B against A", "p_adjusted"] < 0.05
        wrong += (effects.loc[truth == 0, "p"] < 0.05).sum()
    covered = pd.concat(covered)
    assert set(covered.index) == {
        *("source: B against A", "size: per unit", "encoder: mlp against cnn", "encoder: vit against cnn"),
        *(f"{number}: per unit" for number in numbers),
    }
    assert found > 0.95 * runs
    if between:
        assert 0.92 <= covered.mean() <= 0.98, "95% intervals; 520 of them"
        assert 0.02 <= wrong / (12 * runs) <= 0.08
    else:  # where the variance between models is estimated as zero the interval may only be too wide
        assert covered.mean() >= 0.93


def test_it_is_least_squares_on_the_models_means_where_every_model_has_every_test_set(rng):
    facts = models(30, rng)
    by_set = np.outer(facts["source"].eq("B"), [0.2, -0.2, 0.1, -0.1])
    rows = values(0.05 * facts["size"].to_numpy(), rng, by_set=by_set)
    effects = fit(rows, facts).effects.set_index("term")
    means = facts.assign(value=rows.groupby("model")["value"].mean())
    reference = "value ~ C(encoder, Treatment('cnn')) + C(source) + size"
    ols = smf.ols(reference, means).fit()
    names = {
        "encoder: mlp against cnn": "C(encoder, Treatment('cnn'))[T.mlp]",
        "encoder: vit against cnn": "C(encoder, Treatment('cnn'))[T.vit]",
        **{"source: B against A": "C(source)[T.B]", "size: per unit": "size"},
    }
    assert set(effects.index) == set(names)
    for term, name in names.items():
        ours = effects.loc[term, ["effect", "ci_low", "ci_high", "p"]].to_numpy(float)
        theirs = [ols.params[name], *ols.conf_int().loc[name], ols.pvalues[name]]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9, err_msg=term)
    assert set(effects["degrees"]) == {int(ols.df_resid)} == {25}


def test_it_is_statsmodels_own_mixed_model(rng):
    facts = models(30, rng)
    rows = values(facts["source"].eq("B").to_numpy(float), rng, between=0.3, within=0.2)
    found = fit(rows, facts)
    joined = rows.join(facts.assign(size=facts["size"] - facts["size"].mean()), on="model")
    formula = "value ~ (C(encoder, Treatment('cnn')) + C(source) + size) * C(test_set, Sum)"
    theirs = smf.mixedlm(formula, joined, groups="model").fit(reml=True)
    ours = found.effects.set_index("term").loc["source: B against A"]
    half = (ours["ci_high"] - ours["ci_low"]) / 2 / 2.059539  # t, 25 degrees of freedom
    assert ours["effect"] == pytest.approx(theirs.params["C(source)[T.B]"], abs=1e-6)
    assert half == pytest.approx(theirs.bse["C(source)[T.B]"], rel=1e-3)
    shares = found.fits.iloc[0]
    assert shares["models"] / shares["residual"] == pytest.approx(theirs.cov_re.iloc[0, 0] / theirs.scale, rel=1e-3)


def test_shares_of_variance_are_those_of_the_simulation(rng):
    n = 400
    facts = pd.DataFrame({"source": np.resize(["A", "B"], n)}, [f"m{i:03d}" for i in range(n)])
    sign = np.where(facts["source"] == "B", 1, -1)
    rows = values(0.03 * sign, rng, between=0.02, within=0.01, by_set=np.outer(sign, [0.05, -0.05, 0.05, -0.05]))
    truth = {"test_sets": np.var(np.linspace(0, 0.3, 4)), "facts": 0.03**2, "facts_by_set": 0.05**2}
    truth |= {"models": 0.02**2, "residual": 0.01**2}
    shares = fit(rows, facts).fits.iloc[0]
    for name, part in truth.items():
        assert shares[name] == pytest.approx(part / sum(truth.values()), abs=0.01), name
    assert sum(shares[list(truth)]) == pytest.approx(1)


def test_facts_that_mean_nothing_have_no_share(rng):
    rows = values(np.zeros(40), rng, between=0.05)
    shares = [
        fit(rows.assign(value=rng.permutation(rows["value"])), models(40, rng)).fits["facts"][0] for _ in range(20)
    ]
    assert np.mean(shares) < 0.02, "what chance gives is taken off"


def test_no_variance_between_models_is_said(rng):
    facts = models(20, rng)
    rows = values(np.zeros(20), rng, between=0.0)
    rows["value"] -= rows.groupby("model")["value"].transform("mean")  # less than chance
    found = fit(rows, facts)
    assert found.fits["note"][0] == "variance between models estimated as zero"
    assert found.fits["models"][0] == 0
    assert np.isfinite(found.effects[["effect", "ci_low", "ci_high"]].to_numpy()).all()


def test_one_test_set_is_least_squares(rng):
    facts = models(20, rng)
    rows = values(np.zeros(20), rng, sets=["only"])
    found = fit(rows, facts)
    ols = smf.ols("value ~ encoder + source + size", rows.join(facts, on="model")).fit()
    source = found.effects.set_index("term").loc["source: B against A"]
    assert (source["effect"], source["p"]) == pytest.approx((ols.params["source[T.B]"], ols.pvalues["source[T.B]"]))
    assert "ordinary least squares" in found.fits["note"][0]


@pytest.fixture
def nested(rng):
    """As in the study: each training source has one loss."""
    sources = ["laion"] * 9 + ["wit"] * 6 + ["imagenet1k"] * 12 + ["jft"] * 3
    facts = pd.DataFrame({"loss": ["text"] * 15 + ["labels"] * 15, "source": sources}, [f"m{i:03d}" for i in range(30)])
    effect = {"laion": 0.4, "wit": 0.1, "imagenet1k": 0.0, "jft": 0.2}
    return facts, values(facts["source"].map(effect).to_numpy(), rng, between=0.002, within=0.001)


def test_nested_facts_are_compared_within_and_the_outer_one_says_what_it_stands_for(nested):
    facts, rows = nested
    found = fit(rows, facts)
    effects = found.effects.set_index("term")
    # labels and text come equally often: the first in the alphabet is the reference.
    expected = {
        "loss: text against labels": 0.4,  # laion against imagenet1k, whatever the loss does
        "source: jft against imagenet1k": 0.2,
        "source: wit against laion": -0.3,
    }
    assert effects["effect"].to_dict() == pytest.approx(expected, abs=0.01)
    assert effects.loc["loss: text against labels", "confounded"] == "with source: laion against imagenet1k"
    assert set(effects["confounded"].drop("loss: text against labels")) == {""}
    assert effects.loc["source: wit against laion", "models"] == "6 against 9"
    row = found.confounded.iloc[0]
    assert row["why"] == "no source has both"
    assert row["models"] == "text: laion 9, wit 6; labels: imagenet1k 12, jft 3"


def test_two_names_of_one_fact_are_one_term(rng):
    facts = models(20, rng).assign(again=lambda f: f["source"].map({"A": "one", "B": "two"}))
    found = fit(values(np.zeros(20), rng), facts)
    assert "again" not in set(found.effects["fact"])
    assert found.effects.set_index("term").loc["source: B against A", "confounded"] == "with again: two against one"


def test_a_number_that_a_source_decides_is_named(rng):
    facts = pd.DataFrame({"source": np.resize(["A", "B", "C"], 24)}, [f"m{i:03d}" for i in range(24)])
    facts.insert(0, "data size", facts["source"].map({"A": 20.0, "B": 22.0, "C": 27.0}))
    found = fit(values(np.zeros(24), rng), facts)
    rows = found.confounded.set_index("term").loc["data size: per doubling"]
    assert rows["why"] == "one data size in each source"
    assert "source" in rows["stands_for"]
    later = fit(values(np.zeros(24), rng), facts[["source", "data size"]]).confounded
    assert set(later["stands_for"]) == {"data size: per doubling"}, "the earlier fact gives its name"


def test_nearly_confounded_facts_are_named(rng):
    facts = models(40, rng)
    facts["size"] = 20 + 3.0 * facts["source"].eq("B") + 0.3 * rng.normal(size=40)
    found = fit(values(np.zeros(40), rng), facts)
    near = found.confounded.set_index("term")
    assert set(near.index) == {"source: B against A", "size: per unit"}
    assert near.loc["size: per unit", "stands_for"] == "source"
    assert near.loc["size: per unit", "why"].startswith("the other facts make its interval")
    alone = fit(values(np.zeros(40), rng), models(40, rng))
    assert alone.confounded.empty and set(alone.effects["confounded"]) == {""}


def test_width_that_the_other_facts_cost_is_the_ratio_of_standard_errors(rng):
    facts = models(40, rng)
    facts["size"] = 20 + 3.0 * facts["source"].eq("B") + 0.3 * rng.normal(size=40)
    y = facts.assign(value=rng.normal(size=40))
    errors = [smf.ols(f, y).fit() for f in ("value ~ source", "value ~ source + size + encoder")]
    alone, together = (one.normalized_cov_params.loc["source[T.B]", "source[T.B]"] for one in errors)
    expected = np.sqrt(together / alone)
    why = fit(values(np.zeros(40), rng), facts).confounded.set_index("term").loc["source: B against A", "why"]
    assert f"{expected:.1f} times as wide" in why


def test_what_is_missing_is_said(rng):
    few = models(5, rng).assign(encoder=["cnn", "cnn", "vit", "vit", "vit"])
    reasons = fit(values(np.zeros(5), rng), few).left_out
    assert reasons["why"].tolist() == ["5 models for 3 terms, which need 7 or more; add others"]
    facts = models(20, rng).assign(unknown=np.nan, same="x")
    facts.loc["m000", "encoder"], facts.loc["m001", "encoder"] = np.nan, "lone"
    rows = values(np.zeros(20), rng)
    rows = rows[~((rows["model"] == "m002") & (rows["test_set"] == "s1"))]
    found = fit(rows, facts)
    said = found.left_out.set_index("what")["why"]
    assert said["unknown"] == "known for 0 of 19 models"
    assert said["m001"] == "the only model with encoder lone"
    assert said["same"] == "the same for every model"
    assert list(said["1 model"]) == ["without one of the test sets", "encoder unknown"]
    assert found.effects["n_models"].iloc[0] == 17
    for frame in (rows.iloc[:0], rows[rows["model"] == "m005"], rows.assign(value=0.5)):
        nothing = fit(frame, facts)
        assert nothing.effects.empty and nothing.left_out["what"].eq("the property").any()


def test_order_of_rows_does_not_matter(rng, nested):
    facts, rows = nested
    facts["size"] = rng.normal(20, 2, len(facts))
    once = fit(rows, facts)
    again = fit(rows.sample(frac=1, random_state=1), facts.sample(frac=1, random_state=2))
    for a, b in zip(once, again, strict=True):
        pd.testing.assert_frame_equal(a, b, rtol=1e-6)


def study_table(rng, zoo):
    """Every property of a zoo: noise, and 0.1 more ECE for models of the source wit."""
    wit = zoo["pretrain_source"].eq("wit").to_numpy()
    parts = []
    for metric, sets, protocol in (
        ("accuracy", ["id"], "prompts main"),
        ("accuracy", ["id"], "prompts other"),
        ("effective_robustness", ["f/pose", "f/texture"], "line"),
        ("effective_robustness", ["sketch", "video/pm0"], "line"),
        ("shape_bias", ["cue"], "prompts main"),
        ("auroc", ["far", "near"], "msp, prompts main"),
        ("auroc", ["far", "near"], "energy, prompts main"),
        ("ece", ["id", "sketch"], "prompts main"),
        ("ece", ["id"], "prompts other"),
        ("ece_scaled", ["id", "sketch"], "prompts main"),
    ):
        wrong = protocol in ("prompts other", "energy, prompts main")
        mean = np.full(len(zoo), 9.0) * rng.random(len(zoo)) if wrong else 0.4 + 0.1 * (metric == "ece") * wit
        rows = values(mean, rng, sets=sets, between=0.01, within=0.005)
        rows["model"] = rows["model"].map(dict(zip(sorted(set(rows["model"])), zoo.index, strict=True)))
        parts.append(
            tidy_rows(rows.assign(value=rows["value"] if wrong else rows["value"].clip(0, 0.99)), metric, protocol)
        )
    return tidy(pd.concat(parts))


def test_the_study_is_regressed_on_the_papers_zoo(rng):
    zoo = zoo_frame(load_zoo("paper"))
    found = regress(study_table(rng, zoo), zoo, id_set="id", prompts="main")
    assert set(found.effects["property"]) == {one.name for one in PROPERTIES}
    ece = found.effects[found.effects["property"] == "ECE"].set_index("term")
    assert 0.08 < ece.loc["training source: wit against laion", "effect"] < 0.12
    assert ece.loc["training source: wit against laion", "p_adjusted"] < 0.001
    assert ece["degrees"].iloc[0] == ece["n_models"].iloc[0] - len(ece) - 1
    assert "ID accuracy" in set(ece["fact"])
    robust = found.effects[found.effects["property"] == "effective robustness to shifts"]
    assert "ID accuracy" not in set(robust["fact"])
    text = found.effects[found.effects["term"] == "loss: image-text against labels"]
    assert set(text["confounded"].str.startswith("with training source: laion against imagenet1k")) == {True}
    sets = found.fits.set_index("property")["n_test_sets"]
    assert sets["effective robustness to factors"] == 2 == sets["ECE"]
    assert not (found.effects["effect"].abs() > 1).any(), "rows of other prompts and scores stay out"


def test_nothing_to_regress_is_no_error():
    zoo = zoo_frame(load_zoo("sample"))
    found = regress(tidy([]), zoo, id_set="id")
    assert found.effects.empty and found.fits.empty and found.confounded.empty
    assert set(found.left_out["property"]) == {one.name for one in PROPERTIES}


def test_facts_of_training():
    zoo = zoo_frame([*load_zoo("paper"), *load_zoo("extended")])
    facts = training_facts(zoo)
    assert facts["loss"].value_counts().to_dict().keys() == {
        *("labels", "image-text", "images alone", "image-text (siglip)", "image-text (coca)"),
        "images alone, then labels",
    }
    assert facts.loc[zoo["name"].str.contains("seer"), "loss"].eq("images alone, then labels").sum() == 3
    sigmoid = facts["loss"] == "image-text (siglip)"
    assert set(facts.loc[facts["training source"] == "webli", "loss"]) <= {"image-text (siglip)"}
    assert sigmoid.sum() > 20
    tuned = zoo["group"].eq("clip_finetuned")
    assert set(facts.loc[tuned, "fine-tuning"]) == {"in1k", "in12k, then in1k"}
    assert set(facts.loc[~tuned, "fine-tuning"]) == {"none"}
    assert facts.loc["rn50-openai", ["encoder", "training source"]].tolist() == ["resnet", "wit"]
    assert 2 ** facts.loc["rn50-openai", "data size"] == pytest.approx(4e8)
    bare = pd.DataFrame(
        {
            "group": ["clip_finetuned", "clip_finetuned", "human", "standard"],
            "name": ["vit.clip_laion2b_ft_in12k_in1k_384", "vit.openai_ft_in1k", "subject", "resnet50.a1_in1k"],
            "finetune": ["in12k_in1k", "in1k", "none", "none"],
            "distinct": [True, True, True, False],
        },
        list("abcd"),
    )
    assert training_facts(bare)["fine-tuning"].to_dict() == {"a": "in12k, then in1k", "b": "in1k"}
    assert training_facts(bare.drop(columns="finetune"))["fine-tuning"].isna().all(), "not said, not known"
    assert training_facts(bare)[["encoder", "data size", "training source"]].isna().all(axis=None)


@pytest.fixture
def effects(rng, nested):
    facts, rows = nested
    facts["size"] = rng.normal(20, 2, len(facts))
    return pd.concat([fit(rows, facts).effects.assign(property=name) for name in ("shape bias", "AUROC of MSP")])


def test_figure_has_a_panel_a_property_and_a_row_a_term(effects):
    plots.set_style()
    figure = plots.regression(effects)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Shape bias", "AUROC of MSP"]
    for ax, (_, part) in zip(figure.axes, effects.groupby("property", sort=False), strict=True):
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]  # shared
        assert labels[0] == "loss: text vs labels †"
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        drawn = {labels[round(line.get_ydata()[0])]: line for line in dots}
        assert len(drawn) == len(part)
        for row in part.itertuples():
            label = row.term.replace(" against ", " vs ") + " †" * bool(row.confounded)
            assert drawn[label].get_xdata()[0] == pytest.approx(row.effect)
            filled = to_hex(drawn[label].get_markerfacecolor()) != "#ffffff"
            assert filled == (row.p_adjusted < 0.05)
        segments = [s for c in ax.collections if hasattr(c, "get_segments") for s in c.get_segments()]
        assert sorted(s[0, 0] for s in segments) == pytest.approx(sorted(part["ci_low"]))
        assert any(list(line.get_xdata()) == [0, 0] for line in ax.lines), "the zero line"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "stands for more than its name" in texts and "hard to tell from other facts" not in texts


def test_figure_of_properties_with_other_terms_is_stacked(effects):
    other = effects.assign(term=effects["term"] + " again", property="ECE")
    figure = plots.regression(pd.concat([effects[effects["property"] == "shape bias"], other.drop_duplicates("term")]))
    first, second = figure.axes
    assert first.get_position().x0 == pytest.approx(second.get_position().x0, abs=0.02)
    assert all("again" in label.get_text() for label in second.get_yticklabels())
    assert not any("again" in label.get_text() for label in first.get_yticklabels())
    with pytest.raises(ClipsafeError, match="no effects to draw"):
        plots.regression(effects.iloc[:0])
