"""Doctor: on suites of generated trees with one fault of each kind, and on the suites that come with the project."""

import hashlib
import shutil
import socket
import time
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import classifier_spec, clip_spec, table_of

from clipsafe_utils import costs, doctor
from clipsafe_utils.__main__ import main
from clipsafe_utils.costs import count_costs, measure_speed, stated_costs, unit_width
from clipsafe_utils.datasets import imagenet_wnids, known_image_sets
from clipsafe_utils.doctor import examine
from clipsafe_utils.models import Model, load_model
from clipsafe_utils.params import load_parameters
from clipsafe_utils.zoo import ModelSpec, find_model, load_zoo

WNIDS = imagenet_wnids()
TEXTURES = ("banded", "dotted", "woven")


@pytest.fixture(autouse=True)
def _nothing_but_looking(monkeypatch, tmp_path):
    """No weights are loaded, no network is asked, the hub's cache is empty and the clock's part is a constant."""
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Model, "_loading", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(costs, "measure_speed", lambda device, precision: 50.0)


@pytest.fixture(autouse=True)
def _small_textures(monkeypatch):
    known = known_image_sets()
    known = known | {"textures": replace(known["textures"], images=12, classes=3)}
    monkeypatch.setattr(doctor, "known_image_sets", lambda: known)
    monkeypatch.setattr("clipsafe_utils.datasets.known_image_sets", lambda: known)


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)).save(path)


@pytest.fixture
def data(tmp_path):
    for name in TEXTURES:
        for i in range(4):
            picture(tmp_path / "data" / "textures" / "images" / name / f"{i}.png", i)
    for k in (0, 5):
        picture(tmp_path / "data" / "imagenet_val" / WNIDS[k] / "a.png")
    picture(tmp_path / "data" / "imagenet_a" / imagenet_wnids("a")[0] / "a.png")
    picture(tmp_path / "data" / "cue_conflict" / "airplane" / "nameless.png")
    picture(tmp_path / "data" / "mine" / "a.png")
    return tmp_path / "data"


def suite(tmp_path, specs, sets, **changed):
    roles = {"id_set": next(iter(sets)), "shifted_sets": [], "ood_sets": [], "cue_conflict_set": None}
    values = {"suite": "looked_at", "outputs": str(tmp_path / "outputs"), "data": str(tmp_path / "data")}
    values |= {"zoo": table_of(tmp_path, *specs), "image_sets": sets, "checkpoints": str(tmp_path / "checkpoints")}
    return load_parameters("params/sample.yaml", values | roles | {"device": "cpu", "workers": 2} | changed)


@pytest.fixture
def specs(tmp_path):
    return [clip_spec(tmp_path), classifier_spec(tmp_path, "small")]


def test_a_suite_that_has_everything_is_ready(tmp_path, data, specs):
    found = examine(suite(tmp_path, specs, {"textures": {}, "mine": {"kind": "folder", "is_ood": True}}))
    assert found.ready and found.problems == []
    assert found.sets.set_index("name")["status"].to_dict() == {"textures": "complete", "mine": "as it is"}
    assert set(found.models["checkpoint"]) == {"here"} and set(found.models["known"]) == {"yes"}
    size = (tmp_path / "small.safetensors").stat().st_size
    assert found.models.set_index("id").loc["small", "gigabytes"] == size / 1e9
    text = str(found)
    assert text.endswith("\nready")
    assert "textures  complete  12 of 12  3 of 3   all images below, no labels" in text
    assert "research only, see the website. https://www.robots.ox.ac.uk/~vgg/data/dtd: dtd-r1.0.1.tar.gz" in text


def test_each_fault_of_a_set_is_told_apart(tmp_path, data, specs):
    sets = {"imagenet_val": {"partial": True}, "imagenet_a": {}, "imagenet_r": {}, "cue_conflict": {}, "textures": {}}
    found = examine(suite(tmp_path, specs, sets))
    table = found.sets.set_index("name")
    assert table["status"].to_dict() == {
        **{"imagenet_val": "sample", "imagenet_a": "incomplete", "imagenet_r": "missing"},
        **{"cue_conflict": "refused", "textures": "complete"},
    }
    assert table.loc["imagenet_val", ["images", "expected", "classes", "expected_classes"]].tolist() == [
        2,
        50000,
        2,
        1000,
    ]
    assert table.loc["imagenet_a", ["images", "expected"]].tolist() == [1, 7500]
    assert table.loc["imagenet_r", "layout"].startswith("expected root/n01443537/*.jpg")
    assert not found.ready and len(found.problems) == 3
    assert "imagenet_a at" in found.problems[0] and "found 1 images of 1 classes" in found.problems[0]
    assert "does not exist" in found.problems[1]
    assert "does not name its folder's shape" in found.problems[2]


def test_each_fault_of_a_model_is_told_apart(tmp_path, data, specs):
    clip = ("zero_shot_clip", "open_clip")
    timm = ("standard", "timm")
    specs += [
        ModelSpec("gone", *timm, "resnet18.a1_in1k", checkpoint=str(tmp_path / "gone.safetensors")),
        ModelSpec("hub", *timm, "resnet18.a1_in1k", params_m=11.69, published_in1k_top1=71.49),
        ModelSpec("no-arch", *timm, "resnet19"),
        ModelSpec("no-tag", *clip, "ViT-B-32", "laion9b"),
        ModelSpec("gelu", *clip, "ViT-B-32", "openai"),
        ModelSpec("clip-hub", *clip, "ViT-B-32", "laion2b_e16", params_m=151.28),
        ModelSpec("roberta", *clip, "roberta-ViT-B-32", "laion2b_s12b_b32k"),
    ]
    found = examine(suite(tmp_path, specs, {"textures": {}}))
    table = found.models.set_index("id")
    assert table["checkpoint"].to_dict() == {
        **{"tiny": "here", "small": "here", "gone": "missing", "hub": "to fetch", "no-arch": "missing"},
        **{"no-tag": "missing", "gelu": "missing", "clip-hub": "to fetch", "roberta": "to fetch"},
    }
    assert table.loc[["no-arch", "no-tag", "gelu"], "known"].eq("no").all()
    assert table.loc["hub", "gigabytes"] == pytest.approx(0.04676) and table.loc["hub", "published"] == 71.49
    problems = "\n".join(found.problems)
    for part in (
        "checkpoint of model 'gone' is not there",
        "unknown timm architecture 'resnet19'; did you mean 'resnet18'?",
        "unknown pretrained tag of ViT-B-32 'laion9b'",
        "Use the name 'ViT-B-32-quickgelu'",
        "3 of 9 checkpoints are not on this machine (first: hub; 1 GB at 4 bytes a parameter)",
        "text towers or tokenizers need files of the hub that are not here: roberta-base.",
    ):
        assert part in problems
    assert len(found.problems) == 6


def in_hub_cache(tmp_path, repository, name, content, blob):
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    for path in ("refs", "blobs", "snapshots/1234"):
        (folder / path).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("1234")
    (folder / "blobs" / blob).write_bytes(content)
    (folder / "snapshots" / "1234" / name).symlink_to(folder / "blobs" / blob)


def test_weights_in_the_hubs_cache_are_found_and_deep_compares_their_hash(tmp_path, data):
    classifier_spec(tmp_path, "any")
    content = (tmp_path / "any.safetensors").read_bytes()
    spec = ModelSpec("hub", "standard", "timm", "resnet18.a1_in1k")
    in_hub_cache(tmp_path, "timm/resnet18.a1_in1k", "model.safetensors", content, hashlib.sha256(content).hexdigest())
    parameters = suite(tmp_path, [spec], {"textures": {}})
    assert examine(parameters, deep=True).ready
    shutil.rmtree(tmp_path / "hub")
    in_hub_cache(tmp_path, "timm/resnet18.a1_in1k", "model.safetensors", content, "0" * 64)
    found = examine(parameters)
    assert found.ready and found.models.loc[0, "gigabytes"] == len(content) / 1e9
    (problem,) = examine(parameters, deep=True).problems
    assert problem.startswith("hub: ") and problem.endswith("is not what the hub sent; delete it.")


def test_only_deep_reads_contents_and_the_rest_says_so(tmp_path, data, specs, capsys):
    (data / "textures" / "images" / "dotted" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    (tmp_path / "small.safetensors").write_bytes(b"no weights")
    parameters = suite(tmp_path, specs, {"textures": {}})
    found = examine(parameters)
    assert found.ready and any("--deep decodes images and hashes all" in line for line in found.unchecked)
    found = examine(parameters, deep=True)
    assert len(found.problems) == 2
    assert found.problems[0].startswith("textures: 1 of 12 images cannot be decoded (first: ")
    assert "dotted/2.png" in found.problems[0]
    assert found.problems[1].startswith("small: ") and "is no readable checkpoint" in found.problems[1]
    assert not any("--deep" in line for line in found.unchecked)
    assert any(line.startswith("textures: 12 images read, sha256 of all ") for line in found.machine)
    assert "decode textures" in capsys.readouterr().err  # the progress bar


def test_disk_counts_units_and_refuses_a_full_one(tmp_path, data, specs, monkeypatch):
    usage = namedtuple("usage", "total used free")
    parameters = suite(tmp_path, specs, {"textures": {}, "mine": {"kind": "folder", "is_ood": True}})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 0))
    found = examine(parameters)
    (line,) = [line for line in found.machine if line.startswith("disk")]
    (problem,) = found.problems
    assert "0.0 GB needed (results 0.0 GB), 0.0 GB free" in line and "lacks 0.0 GB" in problem
    written = []
    monkeypatch.setattr(costs, "unit_width", lambda model: written.append(model.spec.id) or 10**9)
    (problem,) = examine(parameters).problems
    assert "lacks 104.0 GB" in problem and written == ["tiny", "small"]  # 4 bytes, 13 images, 2 models


def test_width_of_units(tmp_path, specs):
    assert [unit_width(load_model(spec, device="cpu")) for spec in specs] == [16, 10]
    assert unit_width(load_model("rn50-openai", device="cpu")) == 1024
    assert unit_width(load_model("resnet152-tv-in1k", device="cpu")) == 1000
    assert unit_width(load_model("resnet152-tv-in1k", device="cpu", features=True)) == 1000 + 2048
    assert unit_width(load_model("vgg16-tv-in1k", device="cpu", features=True)) == 1000 + 4096


def test_time_is_work_over_speed_or_decoding(tmp_path, data, specs, monkeypatch):
    counted = pd.DataFrame({"gmacs_image": [5.0, 3.0], "gmacs_text": [2.0, np.nan]}, index=["tiny", "small"])
    monkeypatch.setattr(costs, "stated_costs", lambda: counted)
    monkeypatch.setattr(doctor, "_decoding_rate", lambda images, adapters: (100.0, "as told"))
    changes = {"prompt_sets": ["imagenet_80", "single"], "models_per_pass": 1}
    parameters = suite(tmp_path, specs, {"textures": {}, "imagenet_r": {}}, **changes)
    (line,) = [line for line in examine(parameters).machine if line.startswith("time: ")]
    n, prompts = 12 + 30_000, 81_000  # of what is missing, what a complete set holds
    networks, texts, decoding = 8 * n / 50 / 3600, 2 * prompts / 50 / 3600, 2 * n / 200 / 3600
    assert line == (
        f"time: {networks + texts:,.1f} hours on one such device: networks {networks:,.1f} (30,012 images, 2 models), "
        f"prompts {texts:,.1f} (81,000 a zero-shot model), and at the same time decoding {decoding:,.1f} (2 passes, 2 "
        "processes)"
    )
    monkeypatch.setattr(doctor, "_decoding_rate", lambda images, adapters: (1.0, "as told"))
    (line,) = [line for line in examine(parameters).machine if line.startswith("time: ")]
    assert line.startswith(f"time: {2 * n / 2 / 3600:,.1f} hours")


@pytest.mark.parametrize(("sets", "status", "last"), [("mine", 0, "ready"), ("imagenet_r", 1, "not ready: 1 problems")])
def test_exit_status_says_ready_or_not(tmp_path, data, specs, capsys, sets, status, last):
    kind = {"kind": "folder", "is_ood": True} if sets == "mine" else {}
    path = tmp_path / "looked_at.yaml"
    path.write_text(suite(tmp_path, specs, {sets: kind}).model_dump_json())
    assert main(["doctor", "-f", str(path)]) == status
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert not (tmp_path / "outputs").exists()  # it looks and writes nothing


def test_what_cannot_be_looked_at_at_all_is_an_error_of_one_line(tmp_path, capsys):
    assert main(["doctor", "-f", "params/paper.yaml", "-p", "zoo", "papyrus"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown zoo 'papyrus'; did you mean 'paper'?")


def test_the_paper_suite_is_told_in_seconds_without_data_or_weights(tmp_path):
    parameters = load_parameters("params/paper.yaml", {"data": str(tmp_path), "outputs": str(tmp_path / "outputs")})
    started = time.perf_counter()
    found = examine(parameters)
    assert time.perf_counter() - started < 60  # seconds where nothing else runs
    assert len(found.sets) == len(parameters.image_sets) and set(found.sets["status"]) == {"missing"}
    assert len(found.models) == 210 and found.models["known"].eq("yes").all()
    assert found.models["published"].notna().sum() == 207
    assert not found.ready
    text = str(found)
    for name in parameters.image_sets:
        known = known_image_sets()[name]
        assert f"  {name}: {known.licence}. {known.source}; {known.get}\n" in text
    assert any("xlm-roberta-base" in problem for problem in found.problems)


def test_the_laboratory_is_rendered_and_needs_nothing(tmp_path):
    found = examine(load_parameters("params/lab.yaml", {"outputs": str(tmp_path), "device": "cpu"}))
    assert set(found.sets["status"]) == {"rendered"} and found.sets["images"].sum() > 15_000
    assert len(found.models) == len(load_zoo("lab")) and set(found.models["checkpoint"]) == {"here"}
    assert found.ready


def test_the_sample_suite(tmp_path, real_dir):
    folders = {"data": str(real_dir), "checkpoints": str(real_dir / "checkpoints"), "outputs": str(tmp_path)}
    found = examine(load_parameters("params/sample.yaml", folders | {"device": "cpu"}))
    assert found.ready
    assert found.sets.set_index("name")["status"].to_dict() == {
        **{"imagenet_val": "sample", "cue_conflict": "complete", "edges": "as it is", "filled_silhouettes": "as it is"}
    }
    assert any("measured on 16 of imagenet_val" in line for line in found.machine)


def test_published_results_are_files(tmp_path, published_dir):
    parameters = load_parameters("params/published.yaml", {"published": str(published_dir)})
    found = examine(parameters, deep=True)
    assert found.ready and set(found.published["status"]) == {"here"}
    assert str(found).startswith("Published results (")
    copy = tmp_path / "published"
    (copy / "accuracy").mkdir(parents=True)
    (copy / "accuracy" / "openclip_results.csv").write_text("another")
    found = examine(load_parameters("params/published.yaml", {"published": str(copy)}), deep=True)
    assert "its content is not the recorded one" in found.problems[0]
    assert found.published["status"].eq("to download").sum() == len(found.published) - 1


def test_registry_has_the_counts_of_the_complete_sets_and_where_they_come_from():
    known = known_image_sets()
    counts = {
        **{"imagenet_val": 50_000, "imagenet_a": 7_500, "imagenet_r": 30_000, "imagenet_sketch": 50_889},
        **dict.fromkeys((f"imagenet_v2_{x}" for x in ("matched_frequency", "threshold07", "top_images")), 10_000),
        **{"objectnet": 18_574, "cue_conflict": 1_280, "imagenet_o": 2_000, "textures": 5_640},
        **dict.fromkeys(("inaturalist", "sun", "places"), 10_000),
    }
    assert counts == {name: known[name].images for name in counts}
    assert known["imagenet_vid_robust"].anchors == 1_109
    for one in known.values():
        assert one.licence and one.source.startswith("http") and one.get, one.name


@pytest.mark.filterwarnings("ignore")  # both libraries deprecate parts of themselves
@pytest.mark.parametrize("id", ["vit-b-32-openai", "coca-vit-b-32-laion2b-s13b-b90k", "simclr-v1-resnet50-2x"])
def test_stated_costs_are_those_counted(id):
    stated = stated_costs().loc[id].dropna().to_dict()
    assert count_costs(find_model(id)) == pytest.approx(stated)


def test_costs_are_known_for_every_model_and_right_where_the_literature_tells():
    stated = stated_costs()
    known = {spec.id for zoo in ("paper", "lab") for spec in load_zoo(zoo)}
    assert known <= set(stated.index) and stated["gmacs_image"].gt(0).all()
    assert stated.loc["vit-b-32-openai", "gmacs_image"] == pytest.approx(4.4, abs=0.05)  # He et al.'s and ViT's counts
    assert stated.loc["simclr-v1-resnet50-1x", "gmacs_image"] == pytest.approx(4.1, abs=0.05)
    assert stated["gmacs_text"].notna().sum() > 40


def test_speed_is_measured():
    assert measure_speed(torch.device("cpu"), "float32", seconds=0.2) > 0.1
