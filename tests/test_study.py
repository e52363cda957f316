"""The study and its sections on small pieces of real images, against the same numbers worked out by hand."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps
from test_datasets import vid_robust
from tiny import classifier_spec, clip_spec, table_of

from clipsafe_utils import sections
from clipsafe_utils.content import file_digest
from clipsafe_utils.datasets import FACTORS, ImageSet, imagenet_space, imagenet_wnids, load_factor_annotations
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.intervals import paired_accuracy_interval
from clipsafe_utils.memory import Memory
from clipsafe_utils.metrics import (
    SIXTEEN_CLASSES,
    confidence_and_correct,
    error_ratio,
    expected_calibration_error,
    factor_accuracy,
    fit_temperature,
    negative_log_likelihood,
)
from clipsafe_utils.models import Model
from clipsafe_utils.params import Parameters, load_parameters
from clipsafe_utils.statistics import effective_robustness_interval, fit_accuracy_line, mean_interval, split_mask
from clipsafe_utils.study import Study
from clipsafe_utils.zoo import ModelSpec

WNIDS = imagenet_wnids()
CLASSES = (6, 11, 13, 15, 22, 23, 99, 107, 151, 281, 285, 291, 311, 315, 361, 404, 456, 486, 614, 700, 750, 800)
"""With those of ImageNet-A and ImageNet-Vid, and some that the classifier gets wrong."""
A_CLASSES = tuple(k for k in CLASSES if WNIDS[k] in imagenet_wnids("a"))
VID_CLASSES = (151, 281, 285, 404)
LITE = "tf-efficientnet-lite0"
MINE = ("a photo of a {}.", "a drawing of a {}.")


@pytest.fixture(scope="module", autouse=True)
def _quiet(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSAFE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield
    torch.set_num_threads(threads)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=95)


@pytest.fixture(scope="module")
def data(tmp_path_factory, real_dir):
    """ImageNet and its relatives in their real layouts, of real photos; the names are those of annotated images."""
    root, known = tmp_path_factory.mktemp("data"), load_factor_annotations("top")["label"]
    photos = {k: next((real_dir / "imagenet_sample" / WNIDS[k]).iterdir()) for k in CLASSES}
    photos = {k: Image.open(path).convert("RGB") for k, path in photos.items()}
    for k, photo in photos.items():
        for image, name in zip((photo, ImageOps.mirror(photo)), known.index[known == k], strict=False):
            save(image, root / "imagenet_val" / WNIDS[k] / name)
    broken = root / "imagenet_val" / WNIDS[6] / known.index[known == 6][2]
    broken.write_bytes(next(broken.parent.iterdir()).read_bytes()[:1500])
    for k in A_CLASSES:
        save(ImageOps.flip(photos[k]), root / "imagenet_a" / WNIDS[k] / "upside-down.jpg")
    frames, alone = vid_robust(root / "imagenet_vid_robust")
    for frame, k in zip((*frames, alone), (151, 404, 285, 151, 404), strict=True):
        save(photos[k], root / "imagenet_vid_robust" / frame)
    for shape in SIXTEEN_CLASSES:
        for stimulus in sorted((real_dir / "cue_conflict" / shape).iterdir())[:3]:
            save(Image.open(stimulus).convert("RGB"), root / "cue_conflict" / shape / f"{stimulus.stem}.jpg")
    return root


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A user's table: a real classifier, and a real CLIP class with random weights."""
    folder = tmp_path_factory.mktemp("zoo")
    lite = ModelSpec(LITE, "standard", "timm", "tf_efficientnet_lite0.in1k")
    return table_of(folder, lite, clip_spec(folder))


@pytest.fixture(scope="module")
def values(data, zoo, real_dir, tmp_path_factory):
    partial = {"partial": True}
    return {
        **{"suite": "small", "outputs": str(tmp_path_factory.mktemp("outputs")), "zoo": zoo},
        **{"data": str(data), "checkpoints": str(real_dir / "checkpoints")},
        "image_sets": {
            **dict.fromkeys(["imagenet_val", "imagenet_a", "imagenet_vid_robust", "cue_conflict"], partial),
            "edges": {"kind": "folder", "root": str(real_dir / "edges" / "bear"), "is_ood": True},
            "imagenet_r": {},
        },
        "shifted_sets": ["imagenet_a", "imagenet_vid_robust", "imagenet_r"],
        "ood_sets": ["edges", "cue_conflict"],
        "prompt_sets": [{"mine": list(MINE)}, "name_only"],
        "ood_scores": ["msp", "mcm", "max_logit", "energy"],
        **{"n_bootstrap": 20, "device": "cpu", "workers": 0, "batch_size": 16},
    }


@pytest.fixture(scope="module")
def study(values):
    return Study(load_parameters("params/sample.yaml", values))


@pytest.fixture(scope="module")
def own(values, real_dir, tmp_path_factory):
    """A user's folders with sixteen class names of their own."""
    folders = {name: {"kind": "folder", "root": str(real_dir / name)} for name in ("filled_silhouettes", "edges")}
    changed = {
        "suite": "own",
        "image_sets": {**folders, "cue_conflict": {"partial": True}},
        **{"id_set": "filled_silhouettes", "shifted_sets": ["edges"], "ood_sets": ["cue_conflict"]},
    }
    return Study(load_parameters("params/sample.yaml", values | changed))


def value(rows, **where):
    """The one row with these entries."""
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, f"{len(rows)} rows of {where}"
    return rows.iloc[0]


def pairwise_auroc(inside, outside):
    """Share of pairs in which the out-of-distribution image scores higher; ties count half."""
    difference = np.subtract.outer(outside, inside)
    return np.mean((difference > 0) + (difference == 0) / 2)


def softmax(logits):
    z = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return z / z.sum(axis=1, keepdims=True)


# -- accuracy, factors, shift ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accuracy(study):
    return sections.accuracy(study)


def test_accuracy_is_that_of_the_logits_and_n_leaves_out_unreadable_images(study, accuracy):
    unit = study.unit(LITE, "imagenet_val")
    right = np.argmax(unit.array, axis=1) == [WNIDS.index(name.partition("/")[0]) for name in unit.images["image_id"]]
    found = value(accuracy, model=LITE, test_set="imagenet_val")
    assert 10 < right.sum() < len(right) == 2 * len(CLASSES) == found.n == len(study.images["imagenet_val"]) - 1
    assert found.value == pytest.approx(right.mean()) and found.ci_low < found.value < found.ci_high
    assert (found.suite, found.protocol, found.ci_kind) == ("small", "classifier head", "wilson")
    assert set(accuracy.loc[accuracy["model"] == "tiny", "protocol"]) == {"prompts mine"}


def test_an_unreadable_image_is_listed_by_path_and_in_the_record(study, accuracy):
    (path,) = set(study.unreadable()["image_id"])
    assert path.startswith(f"{WNIDS[6]}/ILSVRC2012_val_")
    assert path not in set(study.unit(LITE, "imagenet_val").images["image_id"])
    assert study.unreadable().groupby("model").size().to_dict() == {LITE: 1, "tiny": 1}
    study.finish("01_visual_factors")
    record = json.loads((study.folder / "provenance" / "01_visual_factors.json").read_text())
    assert {row["image_id"] for row in record["unreadable_images"]} == {path}
    lite = next(unit for unit in record["units"] if (unit["model"], unit["image_set"]) == (LITE, "imagenet_val"))
    assert lite["key"] in study.store and lite["n"] == 2 * len(CLASSES)


def test_missing_sets_are_noted_with_a_remedy(study, accuracy, data):
    assert "imagenet_r" not in study.images and str(data / "imagenet_r") in study.missing["imagenet_r"]
    assert not accuracy["test_set"].isin(["imagenet_r", "imagenet_val/r_classes"]).any()
    assert study.notes()["missing"].tolist() == sorted(study.missing)
    without = Study({"image_sets": {"imagenet_a": {"root": str(data / "imagenet_a"), "partial": True}}})
    assert without.named("imagenet_a", "cue_conflict", None) == ["imagenet_a"]
    assert without.missing == {
        "cue_conflict": "not described under image_sets of the parameter file: add it there with its root."
    }


def test_imagenet_a_is_judged_and_matched_in_its_own_classes(study, accuracy):
    inside = sorted(WNIDS.index(wnid) for wnid in imagenet_wnids("a"))
    for name, test_set, n in (
        ("imagenet_a", "imagenet_a", len(A_CLASSES)),
        ("imagenet_val", "imagenet_val/a_classes", 2 * len(A_CLASSES)),
    ):
        unit = study.unit(LITE, name)
        label = np.array([WNIDS.index(image_id.partition("/")[0]) for image_id in unit.images["image_id"]])
        kept = np.isin(label, inside)
        right = (np.array(inside)[unit.array[:, inside].argmax(axis=1)] == label)[kept]
        found = value(accuracy, model=LITE, test_set=test_set)
        assert (found.value, found.n) == (pytest.approx(right.mean()), n) and 0 < right.sum() < len(right)


def test_vid_robust_counts_anchors_once_alone_and_once_with_all_neighbours(study, accuracy):
    """One anchor shows a cat, the second of its labels, and a neighbour an airplane, neither; the other is alone."""
    found = {reach: value(accuracy, model=LITE, test_set=f"imagenet_vid_robust/pm{reach}") for reach in (0, 10)}
    assert [(found[reach].value, found[reach].n) for reach in (0, 10)] == [(1.0, 2), (0.5, 2)]
    unit = study.unit(LITE, "imagenet_val")
    logits = np.stack([unit.array[:, 404], unit.array[:, 151], unit.array[:, [281, 285]].max(axis=1)], axis=1)
    label = np.array([{404: 0, 151: 1, 281: 2, 285: 2}.get(k, -1) for k in unit.labels])
    right = (logits.argmax(axis=1) == label)[label >= 0]
    found = value(accuracy, model=LITE, test_set="imagenet_val/vid_classes")
    assert (found.value, found.n) == (pytest.approx(right.mean()), 2 * len(VID_CLASSES))


@pytest.mark.parametrize("which", ["top", "multi"])
def test_factor_rows_are_those_of_the_annotations(study, values, which):
    changed = Study(load_parameters("params/sample.yaml", values | {"factor_annotation": which}))
    rows = sections.visual_factors(changed)
    images = study.unit(LITE, "imagenet_val").images
    names = images["image_id"].str.rpartition("/")[2]
    shows = load_factor_annotations(which).loc[names, list(FACTORS)].reset_index(drop=True)
    correct = study.unit(LITE, "imagenet_val").array.argmax(axis=1) == images["label"]
    expected = factor_accuracy(correct, shows)
    rows = rows[rows["model"] == LITE]
    assert value(rows, test_set="imagenet_x").value == pytest.approx(expected.overall)
    assert set(rows["test_set"]) - {"imagenet_x"} == {
        f"imagenet_x/{factor}" for factor, n in zip(FACTORS, expected.n, strict=True) if n
    }
    assert (expected.n > 0).sum() >= 3
    for factor, right, n in zip(FACTORS, expected.accuracy, expected.n, strict=True):
        if n:
            found = value(rows, test_set=f"imagenet_x/{factor}", metric="accuracy")
            assert (found.value, found.n) == (pytest.approx(right), n)
            ratio = value(rows, test_set=f"imagenet_x/{factor}", metric="error_ratio")
            assert ratio.value == pytest.approx(error_ratio(right, expected.overall)) and ratio.n == n
            assert ratio.ci_low <= ratio.value <= ratio.ci_high


def test_images_without_annotation_say_what_would_help(values):
    study = Study(load_parameters("params/sample.yaml", values | {"factor_set": "imagenet_a"}))
    assert sections.visual_factors(study).empty
    assert study.missing["visual factors"].startswith("no image of imagenet_a is annotated: ImageNet-X knows files by ")


def test_paired_effects_compare_the_same_images(study, data):
    """Each photo beside its mirror image ("pose") and itself upside down ("background")."""
    names = study.unit(LITE, "imagenet_val").images["image_id"]
    rows = [
        {"image_id": image_id, "label": k, "pair": pair, "forced": forced}
        for pair, k in enumerate(A_CLASSES[:8])
        for image_id, forced in zip(
            [*("imagenet_val/" + names[names.str.startswith(WNIDS[k])]), f"imagenet_a/{WNIDS[k]}/upside-down.jpg"],
            ("none", "pose", "background"),
            strict=True,
        )
    ]
    frame = pd.DataFrame(rows).sample(frac=1, random_state=0, ignore_index=True)
    own = Study(
        study.parameters._parameters.model_copy(update={"paired_set": "pairs", "factors": ["pose", "background"]})
    )
    cues = frame[["pair", "forced"]]
    own.images["pairs"] = ImageSet("pairs", data, frame["image_id"], frame["label"], imagenet_space(), annotations=cues)
    found = sections.paired_effects(own)
    right = frame.assign(right=own.unit(LITE, "pairs").array.argmax(axis=1) == frame["label"])
    right = {forced: part.sort_values("pair")["right"].to_numpy(float) for forced, part in right.groupby("forced")}
    for factor in ("pose", "background"):
        difference = right[factor] - right["none"]
        effect = value(found, model=LITE, test_set=f"pairs/{factor}", metric="paired_effect")
        assert (effect.value, effect.n) == (pytest.approx(difference.mean()), 8)
        interval = paired_accuracy_interval(right[factor], right["none"])
        assert (effect.ci_low, effect.ci_high) == pytest.approx((interval.low, interval.high))
    assert right["background"].mean() < right["none"].mean(), "upside down is harder"
    assert sections.paired_effects(study).empty and study.missing["image pairs"].endswith("photographs do not.")


def test_shape_bias_follows_the_sixteen_class_rule(study):
    found = sections.cue_conflict(study)
    unit = study.unit(LITE, "cue_conflict")
    probabilities = softmax(unit.array)
    decided = []
    for row, shape, texture in zip(probabilities, unit.images["shape"], unit.images["texture"], strict=True):
        means = {category: np.mean([row[k] for k in members]) for category, members in SIXTEEN_CLASSES.items()}
        decision = max(means, key=means.get)
        if shape != texture and decision in (shape, texture):
            decided.append(decision == shape)
    n = int((unit.images["shape"] != unit.images["texture"]).sum())
    bias, share = (value(found, model=LITE, metric=metric) for metric in ("shape_bias", "share_decided"))
    assert (bias.value, bias.n) == (pytest.approx(np.mean(decided)), len(decided)) and len(decided) > 3
    assert (share.value, share.n) == (pytest.approx(len(decided) / n), n)


# -- robustness --------------------------------------------------------------------------------------------------------

MODELS = pd.DataFrame(
    {
        "group": [*["standard"] * 5, "pretrained_more", "human", "zero_shot_clip", "clip_finetuned"],
        "distinct": [True, True, True, True, False, True, True, True, True],
    },
    index=[f"m{k}" for k in range(9)],
)
X = np.array([0.5, 0.6, 0.7, 0.8, 0.55, 0.75, 0.65, 0.68, 0.85])
Y = np.array([0.2, 0.31, 0.38, 0.55, 0.5, 0.52, 0.4, 0.6, 0.62])
SAME = X + 0.1


def accuracies(**columns):
    return pd.DataFrame(
        [
            {
                "model": f"m{k}",
                "test_set": name.replace("__", "/"),
                "metric": "accuracy",
                "protocol": "",
                "value": v,
                "n": 400,
            }
            for name, column in columns.items()
            for k, v in enumerate(column)
            if not np.isnan(v)
        ]
    )


@pytest.fixture
def published(tmp_path):
    study = Study(load_parameters("params/published.yaml", {"outputs": str(tmp_path), "n_bootstrap": 30}))
    study.models = MODELS
    return study


@pytest.mark.parametrize(
    ("baseline", "fitted"), [(None, [0, 1, 2, 3]), ("rest", [0, 1, 2, 3, 5, 6])], ids=["standard", "rest"]
)
@pytest.mark.parametrize("scale", ["probit", "logit", "linear"])
def test_robustness_is_the_distance_from_a_line_over_the_baseline(published, baseline, fitted, scale):
    published.parameters = published.parameters.model_copy(update={"line_scale": scale})
    table = accuracies(imagenet_val=X, imagenet_sketch=Y)
    rows, lines, axes = sections.robustness(
        published, table, ["imagenet_sketch"], x_set="imagenet_val", baseline=baseline
    )
    line = fit_accuracy_line(X[fitted], Y[fitted], scale)
    assert axes == {"imagenet_sketch": "imagenet_val"} and lines["imagenet_sketch"].n == len(fitted)
    interval = effective_robustness_interval(X, Y, 400, line, n_reference=400)
    assert rows["model"].tolist() == list(MODELS.index)
    np.testing.assert_allclose(rows["value"], Y - line.predict(X))
    np.testing.assert_allclose(rows[["ci_low", "ci_high"]], np.stack([interval.low, interval.high], axis=1))
    protocol = f"{scale} line over {len(fitted)} {baseline or 'standard'} models, x = imagenet_val"
    assert set(rows["protocol"]) == {protocol} and set(rows["n"]) == {400}


def test_robustness_takes_the_same_classes_where_every_model_has_them(published):
    table = accuracies(imagenet_val=X, imagenet_a=Y, imagenet_val__a_classes=SAME)
    rows, _, axes = sections.robustness(published, table, ["imagenet_a"], x_set="imagenet_val")
    assert axes == {"imagenet_a": "imagenet_val/a_classes"}
    np.testing.assert_allclose(rows["value"], Y - fit_accuracy_line(SAME[:4], Y[:4]).predict(SAME))
    some = accuracies(imagenet_val=X, imagenet_a=Y, imagenet_val__a_classes=[*SAME[:8], np.nan])
    assert sections.robustness(published, some, ["imagenet_a"], x_set="imagenet_val")[2] == {
        "imagenet_a": "imagenet_val"
    }


def test_vid_robust_has_a_line_for_each_reach(published):
    table = accuracies(
        imagenet_val=X, imagenet_vid_robust__pm0=Y, imagenet_vid_robust__pm10=Y / 2, imagenet_val__vid_classes=SAME
    )
    _, lines, axes = sections.robustness(published, table, ["imagenet_vid_robust"], x_set="imagenet_val")
    assert set(lines) == {"imagenet_vid_robust/pm0", "imagenet_vid_robust/pm10"}
    assert set(axes.values()) == {"imagenet_val/vid_classes"}


def test_two_models_are_no_line(published):
    published.models = MODELS.assign(group=["standard"] * 2 + ["zero_shot_clip"] * 7)
    table = accuracies(imagenet_val=X, imagenet_r=Y)
    rows, lines, _ = sections.robustness(published, table, ["imagenet_r"], x_set="imagenet_val")
    assert rows.empty and not lines
    assert published.missing["baseline line on imagenet_r"] == (
        "only 2 models of the group 'standard' have results: a line needs three. Add models to the zoo, or choose "
        "another `baseline_group`."
    )


def test_group_means_have_an_interval_from_three_models_on(published):
    rows, _, _ = sections.robustness(
        published, accuracies(imagenet_val=X, imagenet_r=Y), ["imagenet_r"], x_set="imagenet_val"
    )
    means = sections.group_means(published, rows).set_index("group")
    standard = rows["value"][:4]  # the fifth is a further row of the fourth's weights
    assert means.loc["standard", "mean"] == pytest.approx(standard.mean()) and means.loc["standard", "n_models"] == 4
    assert tuple(means.loc["standard", ["low", "high"]]) == pytest.approx(mean_interval(standard)[1:3])
    assert means.loc["zero_shot_clip"].isna()[["low", "high"]].all()


def test_models_of_one_start_count_as_one_in_means():
    class Given:
        parameters = load_parameters("params/sample.yaml")
        models = pd.DataFrame({"init_from": ["", "a", "b", "a", "c"]}, index=list("axybz"))

    values = pd.Series([1.0, 3.0, 4.0, 6.0, 9.0], index=list("axybz"))  # a with x and b, y alone, z alone
    found = sections.rows.over_models(Given, values)
    expected = mean_interval([(1 + 3 + 6) / 3, 4.0, 9.0])
    assert found[:3] == pytest.approx(expected[:3]) and found.n == 5
    assert np.isnan(sections.rows.over_models(Given, values[:4]).low), "two starts, four models"


def test_group_means_hold_the_error_of_the_line(published):
    table = accuracies(imagenet_val=X, imagenet_r=Y)
    rows, lines, axes = sections.robustness(published, table, ["imagenet_r"], x_set="imagenet_val")
    mean = sections.group_means(published, rows, table, lines, axes).set_index("group").loc["standard"]
    models, band = mean_interval(rows["value"][:4]), lines["imagenet_r"].band(X[:4].mean())
    assert mean["mean"] - mean["low"] == pytest.approx(np.hypot(models.value - models.low, band.high - band.value))
    assert mean["high"] - mean["mean"] == pytest.approx(np.hypot(models.high - models.value, band.value - band.low))


# -- detection ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detection(study):
    return sections.ood_table(study)


def test_detection_has_every_score_set_and_metric(detection):
    counts = detection.groupby("model")["protocol"].unique().map(sorted).to_dict()
    assert counts == {
        LITE: [f"{score}, classifier head" for score in ("energy", "max_logit", "msp")],
        "tiny": [f"{score}, prompts mine" for score in ("energy", "max_logit", "mcm", "msp")],
    }
    assert set(detection["metric"]) == {"auroc", "fpr_ood_at_tpr_id95", "fpr_id_at_tpr_ood95", "aupr_in", "aupr_out"}
    assert len(detection) == 7 * 2 * 5 and detection["value"].between(0, 1).all()


def test_scores_of_a_classifier_use_all_its_classes(study, detection):
    arrays = [np.asarray(study.unit(LITE, name).array, np.float64) for name in ("imagenet_val", "edges")]
    scores = {
        "msp": [1 - softmax(array).max(axis=1) for array in arrays],
        "max_logit": [-array.max(axis=1) for array in arrays],
        "energy": [-np.log(np.exp(array).sum(axis=1)) for array in arrays],
    }
    for score, (inside, outside) in scores.items():
        rows = detection[detection["protocol"] == f"{score}, classifier head"]
        found = value(rows, test_set="edges", metric="auroc")
        assert (found.value, found.n) == (pytest.approx(pairwise_auroc(inside, outside), abs=1e-6), len(outside))
        assert found.ci_low < found.value < found.ci_high or found.value == 1
        fpr = value(rows, test_set="edges", metric="fpr_ood_at_tpr_id95")
        threshold = np.sort(inside)[int(np.ceil(0.95 * len(inside))) - 1]
        assert fpr.value == pytest.approx((outside <= threshold).mean())


def test_mcm_takes_plain_cosines(study, detection):
    cosines = [study.outputs("tiny", name, cosines=True, space=study.id_space) for name in ("imagenet_val", "edges")]
    logits = study.outputs("tiny", "edges")
    np.testing.assert_allclose(logits, cosines[1] / 0.07, rtol=1e-5, atol=1e-5)
    inside, outside = (1 - softmax(array).max(axis=1) for array in cosines)
    found = value(detection, model="tiny", protocol="mcm, prompts mine", test_set="edges", metric="auroc")
    assert found.value == pytest.approx(pairwise_auroc(inside, outside), abs=1e-3)


# -- calibration -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibration(study):
    return sections.calibration(study)


def test_calibration_is_that_of_images_the_fit_never_saw(study, calibration):
    unit = study.unit(LITE, "imagenet_val")
    fit = split_mask(unit.labels, 0.5, seed=0)
    temperature = fit_temperature(unit.array[fit], unit.labels[fit])
    found = value(calibration, model=LITE, metric="temperature")
    assert (found.value, found.n) == (pytest.approx(temperature), fit.sum())
    for suffix, scale in (("", 1.0), ("_scaled", temperature)):
        scored = confidence_and_correct(unit.array[~fit], unit.labels[~fit], temperature=scale)
        expected = {
            "ece": expected_calibration_error(*scored),
            "nll": negative_log_likelihood(unit.array[~fit], unit.labels[~fit], temperature=scale),
            "overconfidence": scored[0].mean() - scored[1].mean(),
        }
        for metric, number in expected.items():
            found = value(calibration, model=LITE, test_set="imagenet_val", metric=metric + suffix)
            assert (found.value, found.n) == (pytest.approx(number, abs=1e-6), (~fit).sum()), metric + suffix
    assert value(calibration, model=LITE, test_set="imagenet_a", metric="ece_scaled").n == len(A_CLASSES)


@pytest.mark.parametrize("scrambled", ["fit", "held out"])
def test_fit_and_report_share_no_image(study, calibration, scrambled, monkeypatch):
    fit = split_mask(study.unit(LITE, "imagenet_val").labels, 0.5, seed=0)
    outputs = Study.outputs

    def other(self, model, name, **keywords):
        logits = np.array(outputs(self, model, name, **keywords))
        if name == "imagenet_val":
            logits[fit if scrambled == "fit" else ~fit] *= 0.5
        return logits

    monkeypatch.setattr(Study, "outputs", other)
    monkeypatch.setattr(study, "memory", Memory())
    again, kept = sections.calibration(study), ["test_set", "metric", "value"]
    before, after = (rows[(rows["model"] == LITE)][kept].set_index(kept[:2])["value"] for rows in (calibration, again))
    changed = set(before.index[before != after])
    at_home = {key for key in before.index if key[0] == "imagenet_val"}
    fitted = {key for key in before.index if key[1] == "temperature" or key[1].endswith("_scaled")}
    assert changed <= (fitted if scrambled == "fit" else at_home - {("imagenet_val", "temperature")})
    assert ("imagenet_val", "temperature" if scrambled == "fit" else "nll") in changed


def test_no_temperature_is_a_note_and_no_number(study, monkeypatch):
    """A model that is always right has none: the NLL falls until T = 0."""
    monkeypatch.setattr(study, "memory", Memory())
    monkeypatch.setattr(
        Study, "outputs", lambda self, model, name, **_: np.eye(1000, dtype="f4")[self.unit(model, name).labels]
    )
    rows = sections.calibration(study)
    assert rows.loc[rows["metric"] == "temperature", "value"].isna().all()
    assert not rows["metric"].str.endswith("_scaled").any() and rows["metric"].eq("ece").any()
    assert study.missing[f"temperature of {LITE}"].startswith("no temperature fits: all ")
    assert list(sections.reliability_curves(study)) == [LITE, "tiny"]


def test_reliability_is_of_the_held_out_images(study):
    curves = sections.reliability_curves(study)
    assert list(curves) == [LITE, "tiny"], "one model a group"
    assert all(curve.count.sum() == len(CLASSES) for curve in curves.values())


# -- prompts and a user's own classes ----------------------------------------------------------------------------------


def zero_shot_logits(study, name, templates, words=tuple(SIXTEEN_CLASSES)):
    """The slow way: one prompt after the other."""
    model, unit = study.adapters["tiny"], study.unit("tiny", name)
    classes = []
    for word in words:
        mean = torch.stack([model.encode_texts([template.format(word)])[0] for template in templates]).mean(dim=0)
        classes.append((mean / mean.norm()).numpy())
    images = unit.array / np.linalg.norm(unit.array, axis=1, keepdims=True)
    return images @ np.stack(classes).T / 0.07


def test_classifiers_cannot_be_asked_for_other_classes(own):
    accuracy = sections.accuracy(own)
    assert own.missing[LITE] == (
        "its outputs are those of 'imagenet1k', and the classes of filled_silhouettes are others (named by its folders)"
        ": only zero-shot models can be asked for them."
    )
    assert set(accuracy["model"]) == {"tiny"} and set(accuracy["test_set"]) == {"filled_silhouettes", "edges"}
    for name in ("filled_silhouettes", "edges"):
        right = zero_shot_logits(own, name, MINE).argmax(axis=1) == own.unit("tiny", name).labels
        found = value(accuracy, test_set=name)
        assert (found.value, found.n) == (pytest.approx(right.mean()), 160)


def test_shape_bias_in_a_users_own_classes(own):
    images = own.unit("tiny", "cue_conflict").images
    decision = np.array(list(SIXTEEN_CLASSES))[zero_shot_logits(own, "cue_conflict", MINE).argmax(axis=1)]
    conflict = images["shape"] != images["texture"]
    shape, texture = (int((conflict & (decision == images[cue])).sum()) for cue in ("shape", "texture"))
    bias = value(sections.cue_conflict(own), metric="shape_bias")
    assert (bias.value, bias.n) == (pytest.approx(shape / (shape + texture)), shape + texture)


def test_prompt_sets_are_compared_on_the_same_images(own):
    effects = sections.prompt_effects(own)
    labels = own.unit("tiny", "filled_silhouettes").labels
    logits = {"mine": zero_shot_logits(own, "filled_silhouettes", MINE)}
    logits["name_only"] = zero_shot_logits(own, "filled_silhouettes", ["{}"])
    scored = {name: confidence_and_correct(array, labels) for name, array in logits.items()}
    for name, (confidence, correct) in scored.items():
        rows = effects[effects["protocol"] == f"prompts {name}"]
        assert value(rows, metric="accuracy").value == pytest.approx(correct.mean())
        assert value(rows, metric="ece").value == pytest.approx(
            expected_calibration_error(confidence, correct), abs=1e-5
        )
    assert (scored["mine"][1] != scored["name_only"][1]).any(), "the sets differ somewhere"
    paired = paired_accuracy_interval(scored["name_only"][1], scored["mine"][1])
    found = value(effects, metric="accuracy_difference")
    assert found.protocol == "prompts name_only"
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((paired.value, paired.low, paired.high))
    for metric in ("ece", "auroc"):
        both = effects[effects["metric"] == metric].set_index("protocol")["value"]
        found = value(effects, metric=f"{metric}_difference")
        assert found.value == pytest.approx(both["prompts name_only"] - both["prompts mine"], abs=1e-9)
        assert found.ci_low <= found.ci_high


def test_heads_are_made_once_and_kept(own, values, monkeypatch):
    kept = own.outputs("tiny", "edges")
    again = Study(own.parameters._parameters)
    monkeypatch.setattr(Model, "_loading", None)  # neither texts nor images reach a network
    np.testing.assert_array_equal(again.outputs("tiny", "edges"), kept)
    with pytest.raises(TypeError):
        again.head("tiny", "mine", ["another class"])


def test_prompts_without_zero_shot_models_are_noted(study, values):
    classifiers = Study(load_parameters("params/sample.yaml", values | {"select": {"group": ["standard"]}}))
    assert sections.prompt_effects(classifiers).empty
    assert classifiers.missing["prompt sets"] == sections.NO_ZERO_SHOT
    none = Study(load_parameters("params/sample.yaml", values | {"ood_sets": []}))
    assert sections.ood_table(none).empty and none.missing["OOD detection"] == sections.NO_OOD_SETS
    published = Study(load_parameters("params/published.yaml"))
    assert sections.ood_table(published).empty and sections.prompt_effects(published).empty
    assert published.missing["OOD detection"] == published.missing["prompt sets"] == sections.WITH_IMAGES


# -- what a study keeps, and what it refuses ---------------------------------------------------------------------------


def test_an_undeclared_parameter_is_refused_at_the_end(values):
    study = Study({key: value for key, value in values.items() if key != "ood_scores"} | {"unrelated": 1})
    study.finish("02_ood_detection")
    _ = study.parameters.ood_scores
    with pytest.raises(ClipsafeError) as error:
        study.finish("02_ood_detection")
    assert str(error.value) == "02_ood_detection uses ['ood_scores']; declare them in its cell tagged `parameters`."
    used = json.loads((study.folder / "provenance" / "02_ood_detection.json").read_text())["parameters_used"]
    assert {"suite", "outputs", "data", "image_sets"} <= set(used) <= set(Parameters.model_fields)


def test_tables_are_saved_in_two_forms_and_an_empty_one_leaves_none(study, accuracy):
    study.save(accuracy, "some")
    files = [study.folder / "tables" / f"some.{suffix}" for suffix in ("parquet", "csv")]
    pd.testing.assert_frame_equal(pd.read_parquet(files[0]), accuracy)
    assert len(files[1].read_text().splitlines()) == 1 + len(accuracy)
    study.save(accuracy.iloc[:0], "some")
    assert not any(file.exists() for file in files), "what an earlier run left is not this run's result"


def test_inputs_follow_what_is_read(values, zoo, tmp_path):
    def inputs(**changed):
        return json.dumps(Study(load_parameters("params/sample.yaml", values | changed)).inputs())

    base = inputs()
    assert inputs() == base
    row = pd.read_csv(zoo).iloc[[1]].assign(config="", checkpoint="", name="ViT-B-32")
    row.to_csv(tmp_path / "zoo.csv", index=False)
    sets = values["image_sets"]
    fewer = {name: entry for name, entry in sets.items() if name != "imagenet_r"}
    others = [
        *(
            inputs(zoo=str(tmp_path / "zoo.csv")),
            inputs(checkpoints=str(tmp_path)),
            inputs(image_sets=fewer, shifted_sets=[]),
        ),
        inputs(image_sets=sets | {"edges": sets["edges"] | {"root": str(Path(sets["edges"]["root"]).parent / "car")}}),
    ]
    assert len({base, *others}) == 5


REFUSED = {
    "model": ({"select": {"id": ["vit-b-33"]}}, "unknown id to select 'vit-b-33'"),
    "group": ({"select": {"group": ["zero_shot"]}}, "did you mean 'zero_shot_clip'"),
    "zoo": ({"zoo": "papers"}, "unknown zoo 'papers'; did you mean 'paper'?"),
    "factor": ({"factors": ["poze"]}, "unknown value 'poze'; did you mean 'pose'?"),
    "parameter": ({"n_bin": 3}, "unknown parameter 'n_bin'; did you mean 'n_bins'?"),
    "score": ({"ood_scores": ["mps"]}, "unknown OOD score 'mps'; did you mean 'msp'?"),
    "prompt set": ({"prompt_sets": ["imagenet_8"]}, "unknown prompt set 'imagenet_8'; did you mean 'imagenet_80'?"),
    "template": ({"prompt_sets": [{"mine": ["a photo"]}]}, "template 'a photo' of 'mine' needs exactly one {}"),
}


@pytest.mark.parametrize(("changed", "said"), REFUSED.values(), ids=REFUSED)
def test_wrong_parameters_are_one_line(values, changed, said):
    with pytest.raises(ClipsafeError) as error:
        _ = Study(load_parameters("params/sample.yaml", values | changed)).specs
    assert said in str(error.value) and "\n" not in str(error.value)


def test_wrong_folders_are_one_line_each(values, tmp_path):
    for name in ("empty", "strange/cat"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "strange" / "cat" / "a.png").touch()
    sets = {
        "imagenet_val": {"root": str(tmp_path / "strange"), "partial": True},
        "imagenet_a": {"root": str(tmp_path / "empty"), "partial": True},
        "imagenet_aa": {"root": str(tmp_path / "empty")},
        "photos": {"root": str(tmp_path / "empty"), "kind": "folder"},
        "imagenet_r": {"root": str(tmp_path / "nowhere")},
        "imagenet_sketch": {"root": values["data"] + "/imagenet_val"},
    }
    roles = {"shifted_sets": ["imagenet_a", "imagenet_r"], "ood_sets": ["photos"], "cue_conflict_set": None}
    study = Study(load_parameters("params/sample.yaml", values | roles | {"image_sets": sets}))
    assert not study.images and all("\n" not in reason for reason in study.missing.values())
    said = {
        "imagenet_val": "unexpected folders cat",
        "imagenet_a": f"imagenet_a at {tmp_path / 'empty'}: ",
        "imagenet_aa": "did you mean 'imagenet_a'",
        "photos": "empty",
        "imagenet_r": "nowhere",
        "imagenet_sketch": "expected",
    }
    assert set(said) == set(study.missing)
    for name, part in said.items():
        assert part in study.missing[name], study.missing[name]
    assert (
        sections.accuracy(study).empty and sections.calibration(study).empty and not sections.reliability_curves(study)
    )


def test_a_model_that_cannot_be_loaded_is_noted_and_the_others_run(values, tmp_path):
    good, other = clip_spec(tmp_path), classifier_spec(tmp_path)
    with (tmp_path / "evil.pt").open("wb") as file:
        pickle.dump(eval, file, protocol=2)
    specs = [
        good,
        replace(good, id="evil", checkpoint=str(tmp_path / "evil.pt")),
        replace(good, id="other", checkpoint=other.checkpoint),
        replace(good, id="absent", checkpoint=str(tmp_path / "absent.pt")),
        ModelSpec("unknown", "standard", "timm", "resnet51"),
    ]
    changed = {
        **{"suite": "bad", "zoo": table_of(tmp_path, *specs), "image_sets": {"imagenet_a": {"partial": True}}},
        **{"id_set": "imagenet_a", "shifted_sets": [], "ood_sets": [], "cue_conflict_set": None},
    }
    study = Study(load_parameters("params/sample.yaml", values | changed))
    assert set(sections.accuracy(study)["model"]) == {"tiny"}
    said = {
        "evil": f"checkpoint {tmp_path / 'evil.pt'} would run code when loaded (eval)",
        "other": f"checkpoint {other.checkpoint} does not fit 'tiny' (model 'other')",
        "absent": f"checkpoint of model 'absent' is not there: {tmp_path / 'absent.pt'}.",
        "unknown": "unknown timm architecture 'resnet51'; did you mean 'resnet",
    }
    for model, part in said.items():
        assert part in study.missing[model] and "\n" not in study.missing[model], study.missing[model]
    with pytest.raises(ClipsafeError, match="model 'evil' has no results for 'imagenet_a': checkpoint "):
        study.unit("evil", "imagenet_a")


def test_a_disk_that_takes_no_files_is_one_line(study, accuracy, values, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    blocked = Study(load_parameters("params/sample.yaml", values | {"outputs": str(tmp_path / "file")}))
    for attempt in (lambda: blocked.store, lambda: blocked.save(accuracy, "x"), lambda: blocked.finish("x")):
        with pytest.raises(
            ClipsafeError, match=rf"^cannot write {tmp_path / 'file'}/small\S*: not a directory\. .*`outp"
        ):
            attempt()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    study.finish("01_visual_factors")
    before = file_digest(study.folder / "provenance" / "01_visual_factors.json")
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ClipsafeError, match=r"cannot write \S+x\.parquet: no space left on device\. .*free space"):
        study.save(accuracy, "x")
    with pytest.raises(ClipsafeError, match=r"cannot write \S+01_visual_factors\.json: no space left on device"):
        study.finish("01_visual_factors")
    assert file_digest(study.folder / "provenance" / "01_visual_factors.json") == before
    assert not list((study.folder / "provenance").glob(".*"))


def test_what_was_asked_is_remembered_and_nobody_can_change_it(study, monkeypatch):
    seen, outputs = [], Study.outputs
    monkeypatch.setattr(Study, "outputs", lambda self, *args, **how: seen.append(args) or outputs(self, *args, **how))
    monkeypatch.setattr(study, "memory", Memory())
    first = sections.calibration(study)
    n = len(seen)
    pd.testing.assert_frame_equal(sections.calibration(study), first)
    sections.reliability_curves(study)
    assert len(seen) == n > 0
    monkeypatch.setattr(study, "memory", Memory(most=0, small=0))
    pd.testing.assert_frame_equal(sections.calibration(study), first)
    assert len(seen) == 2 * n, "what does not fit is worked out again"
    with pytest.raises(ValueError, match="read-only"):
        study.ask(confidence_and_correct, LITE, "imagenet_val")[0][0] = 1


def test_memory_forgets_what_was_asked_for_longest_ago(rng):
    memory = Memory(most=2400, small=80)
    answers = {key: rng.normal(size=100) for key in "abcd"} | {"small": (np.ones(4), np.zeros(4, bool))}
    for key in ("small", "a", "b", "c"):
        memory.keep(key, answers[key])
    assert memory.get("a") is answers["a"] and memory.size == 2400
    memory.keep("d", answers["d"])
    assert [key for key in answers if memory.get(key) is not None] == ["a", "c", "d", "small"] and memory.size == 2400
    assert memory.keep("large", np.zeros(1000)).shape == (1000,) and memory.get("large") is None
