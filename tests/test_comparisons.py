"""Comparisons of models that differ in one thing: which pairs they take, and what they say of them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipsafe_utils import plots, sections
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.params import load_parameters
from clipsafe_utils.study import Study
from clipsafe_utils.zoo import load_zoo, zoo_frame


@pytest.fixture
def study(tmp_path):
    """Two sources, two sizes and three seeds of one architecture; two fine-tuned models and a classifier."""
    rows = [
        {"id": f"{source}-{size}-{seed}", "group": "zero_shot_clip", "library": "open_clip", "name": "ViT-B-32"}
        | {"pretrain_source": source, "pretrain_size": size, "seed": seed, "init_from": ""}
        | ({"name": "ViT-B-32-quickgelu"} if source == "wit" else {})  # open_clip's other name of one architecture
        for source in ("laion", "wit")
        for size, seeds in (("2B", (0, 1, 2)), ("400M", (0,)))
        for seed in seeds
    ]
    rows += [
        {"id": f"ft-{source}", "group": "clip_finetuned", "library": "timm", "name": "vit_base_patch32_224"}
        | {"pretrain_source": source, "pretrain_size": "2B", "finetune": "in12k_in1k", "seed": 0}
        | {"init_from": f"{source}-2B-0"}
        for source in ("laion", "wit")
    ]
    rows.append({"id": "r50", "group": "standard", "library": "timm", "name": "resnet50", "seed": 0, "init_from": ""})
    pd.DataFrame(rows).to_csv(tmp_path / "zoo.csv", index=False)
    changed = {"zoo": str(tmp_path / "zoo.csv"), "outputs": str(tmp_path)}
    return Study(load_parameters("params/sample.yaml", changed))


@pytest.fixture
def rows(study, rng):
    """One number a model: noise, and 0.1 more for laion."""
    values = rng.normal(0, 0.01, len(study.models)) + 0.1 * study.models["pretrain_source"].eq("laion")
    return study.table(
        [
            {"model": m, "test_set": "s/pose", "protocol": "p", "metric": "accuracy", "value": v, "n": 100}
            for m, v in values.items()
        ]
    )


def test_pairs_differ_in_the_source_alone(study):
    pairs = sections.source_pairs(study.models)
    found = set(zip(pairs["first"], pairs["second"], strict=True))
    assert found == {
        *((f"laion-2B-{seed}", f"wit-2B-{seed}") for seed in (0, 1, 2)),
        ("laion-400M-0", "wit-400M-0"),
        ("ft-laion", "ft-wit"),
    }
    assert set(pairs["comparison"]) == {"laion minus wit, Zero-shot CLIP", "laion minus wit, Fine-tuned CLIP"}


def test_pairs_take_models_that_saw_equally_many_images():
    """Of several models of one source, or quantity: nearest in samples seen, and of equally near ones the last."""
    facts = [("a-3", "laion", "80M", "3B"), ("a-13", "laion", "80M", "13B"), ("a-34", "laion", "80M", "34B")]
    facts += [("b", "laion", "2B", "34B"), ("c", "wit", "2B", ""), ("e31", "laion", "400M", "12.4B")]
    facts += [("e32", "laion", "400M", "12.8B"), ("w", "wit", "400M", "")]
    models = pd.DataFrame(facts, columns=["id", "pretrain_source", "pretrain_size", "samples_seen"]).set_index("id")
    models = models.assign(group="zero_shot_clip", name="ViT-B-32", finetune="none", input_size=224)
    for given in (models, models[::-1]):
        quantities = sections.quantity_pairs(given)[["first", "second"]].to_numpy().tolist()
        assert sorted(quantities) == [["b", "a-34"], ["c", "w"]]
        assert sorted(sections.source_pairs(given)[["first", "second"]].to_numpy().tolist()) == [
            ["b", "c"],
            ["e32", "w"],
        ]
    bare = models.drop(columns="samples_seen")
    assert len(sections.source_pairs(bare)) == 2 and len(sections.quantity_pairs(bare)) == 2


def test_pairs_of_the_papers_zoo():
    models = zoo_frame(load_zoo("paper"))
    first, second = sections.quantity_pairs(models)[["first", "second"]].to_numpy().T
    assert sorted(second) == ["vit-b-16-laion80m-s34b", "vit-b-32-laion80m-s34b", "vit-l-14-laion80m-s34b"]
    assert [models.loc[id, "pretrain_size"] for id in first] == ["2B"] * 3
    pairs = sections.source_pairs(models).query("comparison == 'laion minus wit, Zero-shot CLIP'")
    assert sorted(pairs["first"]) == [f"vit-{size}-laion400m-e32" for size in ("b-16", "b-32", "l-14")]


def test_checkpoints_of_one_run_are_no_independent_pairs():
    models = pd.DataFrame({"run": ["r", "r", "", ""]}, index=["e31", "e32", "x", "y"])
    pairs = pd.DataFrame([("e31", "x"), ("e32", "y")], columns=["first", "second"])
    values = pd.Series([3.0, 5.0, 1.0, 2.0], models.index)
    np.testing.assert_allclose(sections.comparisons.independent_differences(values, pairs, models), [2.5])


def test_fine_tuned_models_meet_the_one_they_started_from(study):
    pairs = sections.fine_tuning_pairs(study.models)
    assert pairs.to_numpy().tolist() == [
        ["ft-laion", "laion-2B-0", "in12k, then in1k minus zero-shot"],
        ["ft-wit", "wit-2B-0", "in12k, then in1k minus zero-shot"],
    ]
    assert sections.fine_tuning_pairs(study.models.drop(columns="init_from")).empty


def test_fine_tuned_models_of_another_input_size_are_for_pairs_of_sizes(study):
    models = study.models.assign(input_size=224)
    larger = models.loc[["ft-laion", "ft-wit"]].assign(input_size=384).rename(index="{}-384".format)
    models = pd.concat([larger, models])
    pairs = sections.fine_tuning_pairs(models)
    assert pairs["first"].tolist() == ["ft-laion", "ft-wit"], "the size of the start, whatever the order"
    found = sections.resolution_pairs(models)[["first", "second"]].to_numpy().tolist()
    assert sorted(found) == [["ft-laion-384", "ft-laion"], ["ft-wit-384", "ft-wit"]]


def test_models_of_one_start_are_no_independent_pairs(study):
    """Eight pairs by fine-tuning twice from four starts are four, whichever of the two comparisons they are for."""
    ids = [f"{source}-{seed}" for source in "ab" for seed in range(4)]
    tuned = [f"{id}-{px}" for id in ids for px in (224, 336)]
    models = pd.DataFrame({"init_from": ["", *[""] * 7, *(id[:3] for id in tuned)]}, index=[*ids, *tuned])
    values = pd.Series(np.arange(len(models)) ** 1.5, models.index)
    by_source = [(id, id.replace("a", "b")) for id in tuned if id[0] == "a"]
    pairs = pd.DataFrame(by_source, columns=["first", "second"])
    found = sections.comparisons.independent_differences(values, pairs, models)
    each = (values[pairs["first"]].to_numpy() - values[pairs["second"]].to_numpy()).reshape(4, 2)
    np.testing.assert_allclose(found, each.mean(axis=1))
    against_start = pd.DataFrame([(id, id[:3]) for id in tuned], columns=["first", "second"])
    assert len(sections.comparisons.independent_differences(values, against_start, models)) == 8
    assert len(sections.comparisons.independent_differences(values, pairs, models.drop(columns="init_from"))) == 8


def test_contrast_is_a_paired_t_test(study, rows):
    found = sections.contrasts(study, rows, sections.source_pairs(study.models)).set_index("model")
    zero_shot = found.loc["laion minus wit, Zero-shot CLIP"]
    value = rows.set_index("model")["value"]
    kinds = ("2B-0", "2B-1", "2B-2", "400M-0")
    first, second = ([value[f"{source}-{kind}"] for kind in kinds] for source in ("laion", "wit"))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (zero_shot["value"], zero_shot["n"]) == (pytest.approx(np.mean(first) - np.mean(second)), 4)
    assert (zero_shot["ci_low"], zero_shot["ci_high"]) == pytest.approx(tuple(expected))
    assert zero_shot["metric"] == "accuracy_difference" and zero_shot["ci_low"] > 0
    single = found.loc["laion minus wit, Fine-tuned CLIP"]
    assert single["n"] == 1 and np.isnan(single["ci_low"]), "one pair says nothing about others"


def test_seeds_need_three_of_one_recipe(study, rows):
    found = sections.seed_means(study, rows)
    assert set(found["model"]) == {"ViT-B-32, laion", "ViT-B-32, wit"} and set(found["n"]) == {3}
    value = rows.set_index("model")["value"]
    study.models["input_size"] = np.where(study.models.index == "laion-400M-0", 336, 224)
    assert set(sections.seed_means(study, rows)["model"]) == {"ViT-B-32, laion, 224 px", "ViT-B-32, wit, 224 px"}
    seeds = [value[f"wit-2B-{seed}"] for seed in (0, 1, 2)]
    wit = found.set_index("model").loc["ViT-B-32, wit"]
    assert wit["value"] == pytest.approx(np.mean(seeds))
    assert (wit["ci_low"], wit["ci_high"]) == pytest.approx(stats.t.interval(0.95, 2, np.mean(seeds), stats.sem(seeds)))


def test_figure_has_a_lane_a_comparison(study, rows):
    found = sections.contrasts(study, rows, sections.source_pairs(study.models))
    ax = plots.comparisons(found)
    drawn = {line.get_label() for line in ax.figure.legends[0].get_lines()}
    assert drawn == set(found["model"])
    assert ax.get_xlabel() == "Accuracy: difference (percentage points)"
    with pytest.raises(ClipsafeError, match="drawn for one metric"):
        plots.comparisons(pd.concat([rows, found]))
    plt.close("all")
