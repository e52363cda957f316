"""The ready-made small studies: tiny checkpoints under the real ids, on generated trees of the real layouts."""

import csv
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from test_notebooks import run_here
from tiny import classifier_spec, clip_spec

from clipsafe_utils import sections
from clipsafe_utils.claims import judge_claims
from clipsafe_utils.datasets import imagenet_space, imagenet_wnids, load_factor_annotations
from clipsafe_utils.metrics import expected_calibration_error
from clipsafe_utils.models import load_model
from clipsafe_utils.params import load_parameters
from clipsafe_utils.prompts import class_names, load_templates, zero_shot_head
from clipsafe_utils.study import Study
from clipsafe_utils.zoo import load_zoo

pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.filterwarnings(f"default::{kind}")
        for kind in ("DeprecationWarning", "PendingDeprecationWarning", "ResourceWarning")
    ),
]

WNIDS = imagenet_wnids()
NOTEBOOK = {
    "first_factors": "01_visual_factors",
    "first_calibration": "03_calibration",
    "first_ood": "02_ood_detection",
}
FACTORS = ("shape", "pose", "background", "texture")
N_IMAGES = 40


@pytest.fixture(scope="module", autouse=True)
def _quiet(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSAFE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


def tiny_zoo(folder, specs):
    """The study's rows as they are, but for architecture and weights."""
    rows = []
    for seed, spec in enumerate(specs):
        if spec.is_zero_shot:
            small = clip_spec(folder, spec.id, seed=seed)
        else:
            small = classifier_spec(folder, spec.id, seed=seed, num_classes=1000)
        changed = {"library": small.library, "name": small.name, "checkpoint": small.checkpoint, "config": small.config}
        rows.append(
            {key: value for key, value in (asdict(spec) | changed).items() if key != "facts"} | {"pretrained": ""}
        )
    with (folder / "zoo.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / "zoo.csv")


def pictures(rng, n):
    """Smooth blobs of colour: random networks tell them apart better than noise."""
    small = rng.integers(0, 256, (n, 4, 4, 3), np.uint8)
    return [Image.fromarray(one).resize((48, 40), Image.Resampling.BICUBIC) for one in small]


@torch.inference_mode()
def decisions(spec, images):
    """Classes that a model takes images for, the same as the study will find."""
    model = load_model(spec, device="cpu")
    outputs = model.encode_images(torch.stack([model.transform(image) for image in images]))
    if spec.is_zero_shot:
        outputs = outputs @ zero_shot_head(model, class_names(imagenet_space()), load_templates("single")).T
    return outputs.argmax(axis=1)


def image_tree(data, zoo, rng):
    """ImageNet-val, -V2 and -O; each image has the class that one of the models takes it for, so that models of
    random weights have accuracies that differ, and a name under which ImageNet-X knows it with that class."""
    known, images = load_factor_annotations("top"), pictures(rng, 2 * N_IMAGES)
    judged = [decisions(spec, images) for spec in load_zoo(zoo)[::2]]
    used = set()
    for k, picture in enumerate(images):
        label = int(judged[int(len(judged) * rng.beta(1, 1.5))][k])  # the first judges are right more often
        shown = known[(known["label"] == label) & known[list(FACTORS)].any(axis=1) & ~known.index.isin(used)]
        shown = shown.sort_values(FACTORS[k % 4], ascending=False, kind="stable")
        if k < N_IMAGES and len(shown):
            used.add(shown.index[0])
            place = data / "imagenet_val" / WNIDS[label] / shown.index[0].replace(".JPEG", ".png")
        else:
            place = data / "imagenet_v2_matched_frequency" / str(label) / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture.save(place)
    for k in range(N_IMAGES):
        place = data / "imagenet_o" / imagenet_wnids("a")[k % 20] / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 40, 3), np.uint8)).save(place)


@pytest.fixture(scope="module", params=NOTEBOOK)
def small_study(request, tmp_path_factory):
    """Its notebook, run on the tiny stand-ins; the parameters are those of the file."""
    folder = tmp_path_factory.mktemp(request.param)
    original = load_parameters(f"params/{request.param}.yaml")
    zoo = tiny_zoo(folder, load_zoo(original.zoo, **original.select.model_dump()))
    image_tree(folder / "data", zoo, np.random.default_rng(5))
    changed = {
        **{"outputs": str(folder / "outputs"), "data": str(folder / "data"), "zoo": zoo},
        "image_sets": {name: {"partial": True} for name in original.image_sets},
        **{"prompt_sets": ["single"], "n_bootstrap": 5, "device": "cpu", "workers": 0},
    }
    parameters = load_parameters(f"params/{request.param}.yaml", changed)
    run_here(NOTEBOOK[request.param], parameters)
    return request.param, parameters


def table(parameters, name):
    return pd.read_parquet(parameters.folder / "tables" / f"{name}.parquet")


@pytest.mark.parametrize("name", NOTEBOOK)
def test_the_files_name_models_and_sets_of_the_study(name):
    parameters = load_parameters(f"params/{name}.yaml")
    specs = load_zoo(parameters.zoo, **parameters.select.model_dump())
    groups = pd.Series([spec.group for spec in specs]).value_counts()
    sources = {(spec.pretrain_source, spec.pretrain_size) for spec in specs if spec.is_zero_shot}
    if name == "first_factors":
        assert sources == {("wit", "400M"), ("laion", "80M")} and len(parameters.factors) == 4
        assert {spec.name.removesuffix("-quickgelu") for spec in specs if spec.is_zero_shot} == {"ViT-B-16"}
        assert groups.to_dict() == {"zero_shot_clip": 4, "standard": 12}
        top1 = [spec.published_in1k_top1 for spec in specs if not spec.is_zero_shot]
        assert min(top1) < 70 and max(top1) > 83, "a baseline line needs a range of accuracies"
    elif name == "first_calibration":
        assert parameters.shifted_sets == ["imagenet_v2_matched_frequency"]
        assert len(sources) == 4 and groups["zero_shot_clip"] >= 8 and groups["standard"] >= 10
    else:
        assert parameters.ood_sets == ["imagenet_o"] and set(groups.index) == {"zero_shot_clip"}
        per_source = pd.Series([spec.pretrain_source for spec in specs]).value_counts()
        assert set(per_source.index) == {"wit", "laion"} and per_source.min() >= 5


def test_the_notebook_answers_the_question(small_study):
    name, parameters = small_study
    figures = {path.stem for path in (parameters.folder / "figures").glob("*.png")}
    check = {"first_factors": factors, "first_calibration": calibration, "first_ood": detection}[name]
    check(parameters, figures)
    record = (parameters.folder / "provenance" / f"{NOTEBOOK[name]}.json").read_text()
    assert '"models_not_available": []' in record and f'"suite": "{name}"' in record


def factors(parameters, figures):
    assert {"error_ratios", "effective_robustness_factors"} <= figures
    rows = table(parameters, "visual_factors")
    study = Study(parameters)
    sets = {"imagenet_x", *(f"imagenet_x/{factor}" for factor in FACTORS)}
    assert set(rows["test_set"]) == sets
    clips = set(rows["model"]) & {"vit-b-16-openai", *(f"vit-b-16-laion80m-s{n}b" for n in (3, 13, 34))}
    assert len(clips) == 4 and rows["model"].nunique() == 16
    robustness = table(parameters, "effective_robustness_factors")
    assert clips <= set(robustness["model"]) and robustness["protocol"].str.contains("over 12 standard models").all()
    for model in ("resnet18-tv-in1k", "vit-b-16-openai"):
        images = study.unit(model, "imagenet_val")
        right = study.outputs(model, "imagenet_val").argmax(axis=1) == images.labels
        found = rows[(rows["model"] == model) & rows["metric"].eq("accuracy") & rows["test_set"].eq("imagenet_x")]
        assert found["value"].tolist() == [right.mean()] and found["n"].tolist() == [len(right)]
    accuracy = rows[rows["metric"].eq("accuracy") & rows["test_set"].eq("imagenet_x")]["value"]
    assert accuracy.nunique() > 4, "models of random weights that differ in accuracy, as real ones do"


def calibration(parameters, figures):
    assert {"calibration_by_group", "reliability", "temperature_transfer"} <= figures
    rows = table(parameters, "calibration")
    models = Study(parameters).models
    assert set(rows["model"].map(models["group"])) == {"zero_shot_clip", "standard"}
    assert set(rows["test_set"]) == {"imagenet_val", "imagenet_v2_matched_frequency"}
    study = Study(parameters)
    for model in ("vit-b-16-laion80m-s34b", "resnet50-tv-in1k"):
        logits = study.outputs(model, "imagenet_v2_matched_frequency").astype(float)
        labels = study.unit(model, "imagenet_v2_matched_frequency").labels
        probs = softmax(logits, axis=1)
        expected = expected_calibration_error(probs.max(axis=1), probs.argmax(axis=1) == labels)
        found = rows[
            (rows["model"] == model) & rows["metric"].eq("ece") & rows["test_set"].eq("imagenet_v2_matched_frequency")
        ]
        assert found["value"].tolist() == pytest.approx([expected], abs=1e-6) and found["n"].tolist() == [len(labels)]


def detection(parameters, figures):
    assert {"ood_auroc", "ood_fpr_ood_at_tpr_id95", "ood_against_accuracy", "ood_accuracy_correlations"} <= figures
    rows = table(parameters, "ood_detection")
    study = Study(parameters)
    assert set(rows["test_set"]) == {"imagenet_o"} and rows["model"].nunique() == len(study.specs) >= 14
    assert set(rows["protocol"]) == {f"{s}, prompts single" for s in ("msp", "mcm", "max_logit", "energy")}
    accuracy = sections.accuracy(study)
    right = accuracy.set_index("model")["value"]
    auroc = rows[rows["protocol"].str.startswith("msp") & rows["metric"].eq("auroc")].set_index("model")["value"]
    correlations = table(parameters, "ood_accuracy_correlations").query("metric == 'pearson'").set_index("model")
    for source in ("laion", "wit"):
        ids = [spec.id for spec in study.specs if spec.pretrain_source == source]
        found = correlations.loc[f"Zero-shot CLIP, {source}"]
        assert found["value"] == pytest.approx(np.corrcoef(right[ids], auroc[ids])[0, 1]) and found["n"] == len(ids)
    claim = judge_claims(pd.concat([rows, accuracy]), study.models, id_set="imagenet_val").set_index("claim").loc["4a"]
    assert claim["verdict"] != "not testable" and -1 <= claim["ci_low"] <= claim["effect"] <= claim["ci_high"] <= 1
