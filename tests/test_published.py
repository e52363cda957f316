"""Published results on the real files: check values, groups, quarantine, fetching and bad input."""

import contextlib
import functools
import hashlib
import http.server
import json
import shutil
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from imagenet_x.model_types import model_types_map

from clipsafe_utils import published
from clipsafe_utils.datasets.factors import ALL_FACTORS, load_factor_annotations
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics import error_ratio, expected_calibration_error, shape_bias
from clipsafe_utils.published import files
from clipsafe_utils.sections import fine_tuning_pairs
from clipsafe_utils.statistics import bootstrap_ci, fit_accuracy_line
from clipsafe_utils.table import COLUMNS
from clipsafe_utils.zoo import load_zoo, origins

CLIP, TIMM = "accuracy/openclip_results.csv", "accuracy/timm_results-imagenet.csv"
RESNET, TRIALS = "imagenet_x/predictions/ResNet50.csv", "cue_conflict/cnns/vgg16.csv"


@pytest.fixture(scope="module")
def results(published_dir):
    return published.published_table(published_dir)


@pytest.fixture(scope="module")
def table(results):
    return results[0]


@pytest.fixture(scope="module")
def models(published_dir):
    return published.published_models(published_dir).set_index("model")


@pytest.fixture(scope="module")
def predictions(published_dir):
    return published.read_imagenet_x_predictions(published_dir)


def value(table, model, test_set, protocol, metric="accuracy"):
    (row,) = table[
        (table["model"] == model)
        & (table["test_set"] == test_set)
        & (table["protocol"] == protocol)
        & (table["metric"] == metric)
    ].itertuples()
    return row


# Check values of the authors


def test_fine_tuned_clips_know_their_start(models, table):
    pairs = fine_tuning_pairs(models.rename(columns={"source": "pretrain_source"}))
    assert len(pairs) == 19
    start, tuned = models.loc[pairs["second"]], models.loc[pairs["first"]]
    assert start["group"].eq("zero_shot_clip").all() and start["distinct"].all()
    assert start["source"].tolist() == tuned["source"].tolist()
    zoo = {spec.name: spec.finetune for spec in load_zoo("paper", group="clip_finetuned")}
    own = models[models["name"].isin(zoo) & models["group"].eq("clip_finetuned")]
    assert len(own) == len(zoo) and own["finetune"].tolist() == own["name"].map(zoo).tolist()
    assert set(models.loc[models["group"] != "clip_finetuned", "finetune"]) == {"none"}
    with_accuracy = table.loc[table["metric"].eq("accuracy") & table["test_set"].eq("imagenet_val"), "model"]
    assert {*pairs["first"], *pairs["second"]} <= set(with_accuracy)


@pytest.mark.parametrize(
    ("model", "pose", "texture", "overall"),
    [("ResNet50", 0.694739, 2.393863, 0.746693), ("DINO", 0.726197, 2.150316, 0.754283)],
)
def test_error_ratios_of_the_authors(table, model, pose, texture, overall):
    found = functools.partial(value, table, f"imagenet_x/{model}", protocol="imagenet_x top")
    assert found(test_set="imagenet_x/pose", metric="error_ratio").value == pytest.approx(pose, abs=1e-6)
    assert found(test_set="imagenet_x/texture", metric="error_ratio").value == pytest.approx(texture, abs=1e-6)
    assert found(test_set="imagenet_x").value == pytest.approx(overall, abs=1e-6)
    assert found(test_set="imagenet_x").n == 46_110


def test_printed_base_accuracies_are_multi_factor_ones(table, published_dir):
    printed = pd.read_csv(published_dir / "imagenet_x/factor_accuracies/base.csv", index_col="model")
    for model in ("ResNet50", "DINO"):
        for factor in ALL_FACTORS:
            args = (f"imagenet_x/{model}", f"imagenet_x/{factor}")
            assert value(table, *args, "imagenet_x multi").value == pytest.approx(printed.loc[model, factor], abs=1e-12)
            assert value(table, *args, "imagenet_x top").value != pytest.approx(printed.loc[model, factor], abs=1e-4)


def test_calibration_and_accuracy_of_resnet50(table, predictions):
    ece = value(table, "imagenet_x/ResNet50", "imagenet_val", "imagenet_x predictions, 15 bins", "ece")
    assert ece.value == pytest.approx(0.0373, abs=5e-5) and ece.n == 50_000
    assert value(table, "imagenet_x/ResNet50", "imagenet_val", "imagenet_x predictions").value == 0.76130
    images = predictions[predictions["model"] == "imagenet_x/ResNet50"]
    assert ece.value == expected_calibration_error(images["confidence"].to_numpy(), images["correct"].to_numpy())
    assert (images["correct"] == (images["label"] == images["predicted"])).all()


def test_shape_bias_of_the_authors(table, published_dir):
    rows = table[table["metric"] == "shape_bias"].set_index("model")
    assert (rows["protocol"] == "geirhos-2019").all() and len(rows) == 13
    for model, bias in (("resnet50", 0.2207), ("alexnet", 0.2531), ("vgg16", 0.0921)):
        assert rows.loc[f"geirhos/{model}", "value"] == pytest.approx(bias, abs=1e-4)
    humans = rows[rows.index.str.contains("subject")]
    assert len(humans) == 10 and humans["value"].mean() == pytest.approx(0.9576, abs=1e-4)
    trials = published.read_cue_conflict_trials(published_dir)
    seen = trials[trials["model"] == "geirhos/resnet50"]
    bias = shape_bias(seen.rename(columns={"response": "decision"}))
    assert (bias.n_shape, bias.n_texture, bias.n) == (162, 572, 1200)
    share = value(table, "geirhos/resnet50", "cue_conflict", "geirhos-2019", "share_decided")
    assert share.value == pytest.approx((162 + 572) / 1200) and share.n == 1200


def test_trials_name_the_stimuli(published_dir, real_dir):
    trials = published.read_cue_conflict_trials(published_dir)
    stimuli = {file.stem for file in (real_dir / "cue_conflict").glob("*/*.jpg")}
    assert trials.groupby("model")["image_id"].agg(set).map(lambda ids: ids == stimuli).all()
    assert trials[trials["is_human"]]["model"].nunique() == 10
    assert (trials["response"] == "").sum() == 131 and set(trials["response"]) - {""} == set(trials["shape"])


# The tidy table


def test_table_is_tidy_and_says_where_numbers_come_from(results, models):
    table, quarantine = results
    assert list(table) == list(COLUMNS) and (table["suite"] == "published").all()
    assert table["value"].notna().all() and (table["n"] > 0).all()
    computed = table["source"] == "computed"
    assert table.loc[~computed, "ci_low"].isna().all() and set(table.loc[~computed, "metric"]) == {"accuracy"}
    rows = table[computed]
    assert (rows["ci_low"] <= rows["value"]).all() and (rows["value"] <= rows["ci_high"]).all()
    kinds = {"wilson", "donner-zou (wilson)", "of the binned error, noise removed"}
    assert (rows["ci_level"] == 0.95).all() and set(rows["ci_kind"]) == kinds
    assert models.index.is_unique and set(models.index) - set(quarantine["model"]) == set(table["model"])


def test_table_repeats_itself(results, published_dir):
    again = published.published_table(published_dir)
    for first, second in zip(results, again, strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_sizes_of_the_tables(table):
    counts = table[table["source"] == "published"].groupby("protocol")[["model", "test_set"]].nunique()
    assert counts.loc["imagenet_testbed"].tolist() == [333, 213]
    assert counts.loc["imagenet_x multi"].tolist() == [335, 17]  # 333 of the testbed, ViT and SimCLR
    assert counts.loc["open_clip"].tolist() == [120, 7]
    assert counts.loc["timm"].tolist() == [1556, 8]


@pytest.mark.parametrize(
    ("protocol", "step"), [("timm", 1e-5), ("imagenet_testbed", 2e-7), ("imagenet_x multi", 1e-12)]
)
def test_n_fits_every_printed_accuracy(table, protocol, step):
    rows = table[(table["protocol"] == protocol) & (table["source"] == "published")]
    images = rows["value"] * rows["n"]
    assert (abs(images - images.round()) <= rows["n"] * step * 0.6 + 1e-6).all()


def test_n_would_not_fit_another_size(table):
    rows = table[(table["protocol"] == "timm") & (table["test_set"] == "imagenet_sketch")]
    images = rows["value"] * 50_000
    assert (abs(images - images.round()) > 0.3).any()


def test_timm_x_axis_on_the_same_classes(published_dir):
    raw = pd.read_csv(published_dir / "accuracy/timm_results-imagenet-a.csv", thousands=",").iloc[0]
    wide = published.read_timm_results(published_dir).pivot_table(index="model", columns="test_set", values="value")
    first = wide.loc[f"{raw['model']}@{raw['img_size']}"]
    assert first["imagenet_val/a_classes"] == pytest.approx((raw["top1"] - raw["top1_diff"]) / 100)
    for short in "ar":
        gap = wide[f"imagenet_val/{short}_classes"] - wide["imagenet_val"]
        assert gap.min() > 0.05 and gap.mean() == pytest.approx(0.135, abs=0.005)


def test_error_ratio_interval_agrees_with_resampling_images(table, predictions):
    shows = load_factor_annotations("top")[["texture"]]
    correct = predictions[predictions["model"] == "imagenet_x/ResNet50"].set_index("image_id")["correct"]
    correct = correct.reindex(shows.index)

    def ratio(correct, texture):
        return error_ratio(correct[texture].mean(), correct.mean())

    found = value(table, "imagenet_x/ResNet50", "imagenet_x/texture", "imagenet_x top", "error_ratio")
    slow = bootstrap_ci(ratio, correct.to_numpy(), shows["texture"].to_numpy(), n_bootstrap=300, seed=1)
    assert found.value == pytest.approx(slow.value)
    assert (found.ci_low, found.ci_high) == pytest.approx((slow.low, slow.high), abs=0.06)


# Who is who


def test_groups_are_those_the_study_needs(models, table):
    distinct = models[models["distinct"]]
    groups = distinct[distinct["origin"].isin(["open_clip", "timm"])].groupby("group").size()
    assert groups["zero_shot_clip"] == 118 and groups["clip_finetuned"] == 37 and groups["standard"] > 800
    assert groups["pretrained_more"] > 200 and "contrastive" not in groups, "linear probes are in neither table"
    seer = distinct[distinct["name"].str.contains("seer_ft")]
    assert seer["group"].tolist() == ["pretrained_more"] * 4 and set(seer["source"]) == {"ig1b"}
    assert distinct[distinct["group"] == "clip_finetuned"]["source"].value_counts().to_dict() == {
        "laion": 25, "wit": 9, "webli": 2, "laion_aesthetic": 1,
    }  # fmt: skip
    clip = models[(models["origin"] == "testbed") & (models["group"] == "zero_shot_clip")]
    assert set(clip["name"]) == {"resnet50_clip_zeroshot", "vit_b_32_clip_zeroshot"}
    assert (models[models["group"] == "human"]["origin"] == "geirhos").all()
    assert (models["encoder"] == "other").sum() == 13  # ten humans and three that are no networks


def test_timm_rules_agree_with_the_zoo(models):
    by_name = models[models["origin"] == "timm"].groupby("name").first()
    specs = [spec for zoo in ("paper", "extended") for spec in load_zoo(zoo) if spec.library == "timm"]
    assert len(specs) > 150
    for spec in specs:
        row = by_name.loc[spec.name]
        expected = (spec.group, spec.pretrain_source, spec.encoder_family)
        assert (row["group"], row["source"], row["encoder"]) == expected, spec.name


def test_open_clip_rules_agree_with_the_zoo(models):
    rows = models[models["origin"] == "open_clip"]
    specs = [spec for zoo in ("paper", "extended") for spec in load_zoo(zoo) if spec.library == "open_clip"]
    shared = [(rows.loc[key], s) for s in specs if (key := f"{s.name}/{s.pretrained}") in rows.index]
    assert len(shared) > 90
    for row, spec in shared:
        found = (row["group"], row["source"], row["encoder"], row["input_size"])
        assert found == (spec.group, spec.pretrain_source, spec.encoder_family, spec.input_size), row.name


def test_sizes_of_training_data_are_known(models):
    unknown = models.loc[models["pretrain_size"] == "", "source"].value_counts().to_dict()
    assert unknown == {"human": 10, "laion_coco": 4, "imagenet5k": 3, "ml_images": 1, "unknown": 1}
    sizes = models["pretrain_size"]
    assert sizes[["ViT-B-32/laion400m_e32", "ViT-L-14/laion2b_s32b_b82k", "RN50-quickgelu/openai"]].tolist() == [
        *("400M", "2B", "400M")
    ]
    assert set(sizes[models["group"] == "standard"]) == {"1.28M"}
    assert models.loc["ViT-B-16/laion2b_s34b_b88k", "samples_seen"] == "34B"


def test_checkpoints_of_one_run_have_one_origin(models):
    of = origins(models)
    assert of["ViT-B-16/laion400m_e31"] == of["ViT-B-16/laion400m_e32"] != of["ViT-B-16/laion2b_s34b_b88k"]
    tuned = models[models["init_from"] != ""]
    assert len(tuned) > 25 and (of[tuned.index].to_numpy() == of[tuned["init_from"]].to_numpy()).all()
    clips = models[models["group"].eq("zero_shot_clip") & models["distinct"]]
    assert len(clips) == 120 and of[clips.index].nunique() == 101


def test_open_clip_input_sizes_are_those_of_its_configs(models):
    configs = Path(find_spec("open_clip").origin).parent / "model_configs"  # torch is not imported
    for row in models[models["origin"] == "open_clip"].itertuples():
        config = json.loads((configs / f"{row.name}.json").read_text())
        assert row.input_size == config["vision_cfg"]["image_size"], row.name


def test_testbed_groups_agree_with_the_types_of_imagenet_x(models):
    names = {"STANDARD": "standard", "MORE_DATA": "pretrained_more", "SELFSUPERVISED": "contrastive"}
    rows = models[(models["origin"] == "testbed") & models["name"].isin(model_types_map)]
    theirs = rows["name"].map(lambda name: names.get(model_types_map[name].name, "other"))
    assert set(rows["name"][rows["group"] != theirs]) == {
        *("resnet50_clip_zeroshot", "vit_b_32_clip_zeroshot"),  # "more data" there
        *("resnet50_swav", "resnet50_simsiam", "resnet50-vtab-exemplar", "resnet50-vtab-rotation"),  # "standard" there
        *("resnet50-vtab-semi-exemplar", "resnet50-vtab-semi-rotation"),
    }
    assert len(rows) > 200


def test_distinct_rows_are_one_for_each_set_of_weights(models):
    clip, timm = (models[(models["origin"] == origin)] for origin in ("open_clip", "timm"))
    assert set(clip.index[~clip["distinct"]]) == {"ViT-B-32/openai", "RN101/openai", "RN50/openai"}
    sizes = timm[timm["name"] == "convnext_base.fb_in1k"].set_index("input_size")["distinct"]
    assert sizes.to_dict() == {224: True, 288: False}
    twins = timm[timm["name"].isin(["levit_256.fb_dist_in1k", "levit_conv_256.fb_dist_in1k"])]
    assert twins["distinct"].sum() == 1


def test_real_clip_lies_above_the_line_of_standard_models(table, models):
    """The first finding: at equal ImageNet accuracy zero-shot CLIP does better on renditions."""
    wide = table[table["protocol"].isin(["timm", "open_clip"])].pivot_table(
        index="model", columns="test_set", values="value"
    )
    wide = wide.join(models[["group", "distinct"]])
    wide = wide[wide["distinct"]]
    base = wide[wide["group"] == "standard"]
    line = fit_accuracy_line(base["imagenet_val"].to_numpy(), base["imagenet_r"].to_numpy())
    clip = wide[(wide["group"] == "zero_shot_clip") & (wide["imagenet_val"] > 0.5)]
    assert (clip["imagenet_r"] - line.predict(clip["imagenet_val"].to_numpy()) > 0.1).all()


# Quarantine


def test_broken_rows_are_named(results):
    table, quarantine = results
    named = quarantine.groupby("protocol")["model"].agg(set).to_dict()
    untrained = {"testbed/resnet101_0_epochs", "testbed/resnet18_50k_1_epochs"}
    part = {f"testbed/resnet50_imagenet_subsample_{n}_classes_batch64_original_images" for n in (125, 250, 500)}
    assert named == {
        "imagenet_x multi": untrained,
        "imagenet_testbed": untrained | part,
        "open_clip": {"coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k"},
        "timm": {"resmlp_24_224.fb_dino@224"},
    }
    assert (quarantine["reason"].str.len() > 10).all() and not table["model"].isin(quarantine["model"]).any()
    assert (quarantine[quarantine["model"].isin(untrained)]["value"] < 0.005).all()


def test_impossible_and_empty_cells_are_quarantined(published_dir, tmp_path):
    copy(published_dir, tmp_path, CLIP)
    edit(tmp_path / CLIP, "0.8437,0.9517", "84.37,0.9517")  # percent among fractions
    edit(tmp_path / CLIP, "0.7323,0.9575", ",0.9575", missing_ok=True)
    broken = []
    rows = published.read_openclip_results(tmp_path, quarantine=broken)
    (row,) = [r for r in broken if r["test_set"] == "imagenet_val"]
    assert row["model"] == "ViT-H-14-378-quickgelu/dfn5b" and row["reason"] == "outside [0, 1]"
    assert not ((rows["model"] == row["model"]) & (rows["test_set"] == "imagenet_val")).any()


# Files: found, fetched, refused


def copy(source, target, path):
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / path, target / path)


def edit(file, old, new, *, missing_ok=False):
    text = file.read_text()
    assert missing_ok or old in text
    file.write_text(text.replace(old, new, 1))


@contextlib.contextmanager
def serving(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def fetching(monkeypatch, tmp_path):
    """Nothing on disk, an empty cache, and origins that a test points somewhere."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLIPSAFE_PUBLISHED", str(tmp_path / "nowhere"))

    def point(base):
        monkeypatch.setattr(files, "FILES", files.FILES.assign(url=[f"{base}/{path}" for path in files.FILES.index]))

    return point


def test_recorded_checksums_are_those_of_the_files(published_dir):
    for path, origin in files.FILES.iterrows():
        assert hashlib.sha256((published_dir / path).read_bytes()).hexdigest() == origin["sha256"], path
        assert origin["url"].startswith("https://raw.githubusercontent.com/") and origin["licence"]
    there = {str(file.relative_to(published_dir)) for file in published_dir.glob("*/**/*.csv")}
    assert there - set(files.FILES.index) == {"accuracy/openclip_classification_results.csv"}  # a part of the other


def test_a_file_is_fetched_once(published_dir, fetching, tmp_path):
    with serving(published_dir) as base:
        fetching(base)
        fetched = published.published_file(CLIP)
    assert (
        fetched == tmp_path / "cache/published" / CLIP and fetched.read_bytes() == (published_dir / CLIP).read_bytes()
    )
    assert published.published_file(CLIP) == fetched  # the server is gone
    assert len(published.read_openclip_results()) == 840


def test_a_tampered_file_is_refused(published_dir, fetching, tmp_path):
    copy(published_dir, tmp_path / "origin", CLIP)
    edit(tmp_path / "origin" / CLIP, "0.8437", "0.9437")
    with serving(tmp_path / "origin") as base:
        fetching(base)
        with pytest.raises(ClipsafeError, match=r"openclip_results\.csv.*sha256.*by hand and put it at .*nowhere") as e:
            published.read_openclip_results()
    assert "\n" not in str(e.value) and not list((tmp_path / "cache").rglob("*.csv"))


def test_without_network_the_error_says_what_to_put_where(fetching, tmp_path):
    with serving(tmp_path) as base:
        fetching(base)
    with pytest.raises(ClipsafeError) as e:  # nobody listens any more
        published.read_timm_results()
    message = str(e.value)
    assert f"{base}/{TIMM}" in message and str(tmp_path / "nowhere" / TIMM) in message and "\n" not in message


def test_a_file_that_its_origin_lacks(fetching, tmp_path):
    with serving(tmp_path) as base:
        fetching(base)
        with pytest.raises(ClipsafeError, match=r"no download \(HTTPError\)"):
            published.read_openclip_results()


def test_the_folder_argument_goes_before_the_variable(published_dir, monkeypatch, tmp_path):
    copy(published_dir, tmp_path, CLIP)
    monkeypatch.setenv("CLIPSAFE_PUBLISHED", str(published_dir))
    assert published.published_file(CLIP, tmp_path) == tmp_path / CLIP
    assert published.published_file(CLIP) == published_dir / CLIP


def test_an_unknown_file_is_refused(tmp_path):
    with pytest.raises(ClipsafeError, match=r"did you mean 'accuracy/openclip_results\.csv'"):
        published.published_file("accuracy/openclip_result.csv", tmp_path)


def test_a_model_joins_as_a_file(published_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FILES", files.FILES.drop([RESNET, "imagenet_x/predictions/DINO.csv"]))
    copy(published_dir, tmp_path, RESNET)
    (tmp_path / RESNET).rename(tmp_path / "imagenet_x/predictions/Mine.csv")
    images = published.read_imagenet_x_predictions(tmp_path)
    assert set(images["model"]) == {"imagenet_x/Mine"} and images["correct"].mean() == 0.76130
    for path in files.FILES.index:
        copy(published_dir, tmp_path, path)
    assert "imagenet_x/Mine" in set(published.published_models(tmp_path)["model"])


def drop(column):
    return lambda text: text.replace(column, "renamed", 1)


BAD = {
    "column missing (open_clip)": (CLIP, drop("ImageNet-A"), "lacks the column 'ImageNet-A'"),
    "column missing (timm)": (TIMM, drop("param_count"), "lacks the column 'param_count'"),
    "column missing (predictions)": (RESNET, drop("predicted_class"), "lacks the column 'predicted_class'"),
    "column missing (trials)": (TRIALS, drop("imagename"), "lacks the column 'imagename'"),
    "cut in a row": (CLIP, lambda text: text[: text.index("ViT-g-14,laion") + 20], "has 2 cells in row 31, 43 columns"),
    "cut in a number": (CLIP, lambda text: text[:-3], "cut short after row 122"),
    "cut between rows (predictions)": (RESNET, lambda text: text[: text.index("\n", 9000) + 1], "column 'file_name'"),
    "cut between rows (trials)": (TRIALS, lambda text: text[: text.index("\n", 9000) + 1], "1,280 stimuli"),
    "header only": (TIMM, lambda text: text[: text.index("\n") + 1], "cut short after row 1"),
    "empty": (TIMM, lambda text: "", "lacks the column 'model'"),
    "a page of HTML": (CLIP, lambda text: "<html>\n<p>404, not found</p>\n", "lacks the column 'name'"),
    "a cell too many": (TRIALS, lambda text: text.replace("vgg16,1,1,", "vgg16,1,1,1,", 1), "has 9 cells in row 2"),
    "a word": (TIMM, lambda text: text.replace("90.056", "ninety", 1), "'top1' holds numbers; got 'ninety' in row 2"),
    "a row twice": (CLIP, lambda text: text + text.splitlines(True)[-1], "column 'name' lists 'coca_ViT-B-32' twice"),
    "logits as confidence": (RESNET, lambda text: text.replace(",0.5530332327", ",14.2", 1), "probability'.*got 14.2"),
    "no stimulus": (TRIALS, lambda text: text.replace("airplane1-bicycle2.png", "a.png", 1), "column 'imagename' must"),
}  # fmt: skip
READERS = {
    CLIP: published.read_openclip_results,
    TIMM: published.read_timm_results,
    RESNET: published.read_imagenet_x_predictions,
    TRIALS: published.read_cue_conflict_trials,
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line(case, published_dir, tmp_path):
    path, spoil, message = BAD[case]
    folder = path.split("/")[0]
    for file in files.FILES.index[files.FILES.index.str.startswith(folder)]:
        copy(published_dir, tmp_path, file)
    (tmp_path / path).write_text(spoil((published_dir / path).read_text()))
    with pytest.raises(ClipsafeError, match=message) as e:
        READERS[path](tmp_path)
    assert path in str(e.value) and "\n" not in str(e.value)


def test_bytes_that_are_no_text(published_dir, tmp_path):
    (tmp_path / CLIP).parent.mkdir(parents=True)
    (tmp_path / CLIP).write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(ClipsafeError, match=r"openclip_results\.csv is no CSV table"):
        published.read_openclip_results(tmp_path)


def test_a_model_that_no_rule_covers(published_dir, tmp_path):
    for file in files.FILES.index:
        copy(published_dir, tmp_path, file)
    edit(tmp_path / CLIP, "ViT-H-14-378-quickgelu,dfn5b", "ViT-H-14-378-quickgelu,secret")
    with pytest.raises(ClipsafeError, match=r"rules\.yaml covers the model 'ViT-H-14-378-quickgelu/secret'"):
        published.published_models(tmp_path)


def test_confidences_are_fractions(predictions):
    assert len(predictions) == 100_000 and predictions["confidence"].between(0, 1).all()
    assert predictions.groupby("model")["image_id"].nunique().eq(50_000).all()
    assert np.array_equal(np.unique(predictions["label"]), np.arange(1000))
