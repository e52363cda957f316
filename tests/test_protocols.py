"""Presets of protocols: what they set, that it runs, and why two numbers differ."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image
from scipy.special import softmax
from test_datasets import objectnet, write
from tiny import classifier_spec, clip_spec, table_of
from torchvision import transforms

from clipsafe_utils import sections
from clipsafe_utils.__main__ import main
from clipsafe_utils.datasets import LabelSpace, imagenet_space, imagenet_wnids
from clipsafe_utils.differ import explain_difference, find_row
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.metrics import auroc, ood_score
from clipsafe_utils.models import load_model
from clipsafe_utils.params import Parameters, load_parameters, parameters_from
from clipsafe_utils.protocols import DEFAULT, deviations, load_protocols
from clipsafe_utils.statistics import fit_accuracy_line
from clipsafe_utils.study import Study

WNIDS = imagenet_wnids()
CLASSES = (6, 11, 13, 15, 409, 414, 530, 954)
A_CLASSES = [k for k in CLASSES if WNIDS[k] in imagenet_wnids("a")]
OBJECTS = ("clock", "backpack", "banana")


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A suite of noise in the real layouts, a CLIP and four classifiers with random weights."""
    folder, rng = tmp_path_factory.mktemp("protocols"), np.random.default_rng(3)
    data = folder / "data"
    names = [f"imagenet_val/{WNIDS[k]}/{i}.png" for k in CLASSES for i in range(6)]
    names += [f"imagenet_a/{WNIDS[k]}/{i}.png" for k in A_CLASSES for i in range(6)]
    names += [f"objectnet/images/{name}/{i}.png" for name in OBJECTS for i in range(6)]
    names += [f"textures/images/banded/{i}.png" for i in range(30)]
    objectnet(data / "objectnet")
    write(data, *names)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(data / name)
    wide = {"num_classes": 1000}
    specs = [classifier_spec(folder, f"tiny-{seed}", seed=seed, **wide) for seed in range(4)]
    return {
        **{"suite": "small", "outputs": str(folder / "outputs"), "data": str(data), "checkpoints": str(folder)},
        "zoo": table_of(folder, clip_spec(folder), *specs),
        "image_sets": {name: {"partial": True} for name in ("imagenet_val", "imagenet_a", "objectnet", "textures")},
        **{"shifted_sets": ["imagenet_a", "objectnet"], "ood_sets": ["textures"], "prompt_sets": ["single"]},
        **{"cue_conflict_set": None, "n_bootstrap": 10, "device": "cpu", "workers": 0},
    }


def run(values, **changed):
    """A study as a parameter file with these keys would give it."""
    path = Path(values["outputs"]).parent / f"{changed.get('suite', 'small')}.yaml"
    path.write_text(yaml.safe_dump(values | changed))
    return Study(load_parameters(path))


def cosines(study, name, template, words):
    model = study.adapters["tiny"]
    head = model.encode_texts([template.format(word) for word in words]).numpy()
    array = np.array(study.unit("tiny", name).array)
    return array / np.linalg.norm(array, axis=1, keepdims=True) @ head.T


def only(rows, **where):
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, (where, rows)
    return rows.iloc[0]


# What presets set


@pytest.mark.parametrize("name", load_protocols())
def test_every_preset_fits_the_schema_and_speaks_of_what_the_study_sets(name):
    preset = load_protocols()[name]
    assert set(preset) == {"title", "source", "parameters"}
    assert set(preset["parameters"]) <= set(load_protocols()[DEFAULT]["parameters"])
    parameters = Parameters(**preset["parameters"], protocol=name)
    for key, value in preset["parameters"].items():
        assert getattr(parameters, key) == value, key


def test_the_paper_suite_follows_its_protocol_but_for_further_prompts_and_scores():
    parameters = load_parameters("params/paper.yaml")
    assert parameters.protocol.startswith(DEFAULT)
    assert set(deviations(parameters.model_dump())) == {"prompt_sets", "ood_scores"}
    assert parameters.prompt_sets[0] == "imagenet_80" and parameters.ood_scores[0] == "msp"


def test_a_preset_fills_what_the_file_leaves_out_and_its_own_keys_win(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("protocol: openood-1.5\n")
    parameters = load_parameters(path)
    assert (parameters.protocol, parameters.crop, parameters.label_space) == ("openood-1.5", "standard", "full")
    assert (parameters.logit_scale, parameters.fpr_positive) == (1.0, "ood")
    path.write_text("protocol: openood-1.5\ncrop: own\nlabel_space: full\n")
    parameters = load_parameters(path, {"ood_scores": ["energy"]})
    assert (parameters.crop, parameters.ood_scores, parameters.fpr_positive) == ("own", ["energy"], "ood")
    assert parameters.protocol == "openood-1.5 but crop, ood_scores", "what equals the preset is no deviation"
    assert deviations(parameters.model_dump())["crop"] == {"here": "own", "protocol": "standard"}


def test_notebooks_understand_what_the_file_meant(tmp_path):
    """They get every value, so they cannot tell a chosen default from one left out; the protocol says it."""
    path = tmp_path / "mine.yaml"
    path.write_text("protocol: openood-1.5\ncrop: own\n")
    parameters = load_parameters(path)
    assert parameters_from(parameters.model_dump(mode="json")) == parameters
    cell = {"protocol": "openood-1.5", "crop": "own", "fpr_positive": "id", "logit_scale": 2.0}
    there = parameters_from(cell)
    assert (there.crop, there.fpr_positive, there.logit_scale) == ("standard", "ood", 2.0)
    assert there.protocol == "openood-1.5 but logit_scale"
    assert parameters_from(cell | {"protocol": DEFAULT}).crop == "own"


@pytest.mark.parametrize("name", set(load_protocols()) - {DEFAULT})
def test_papermill_and_report_agree_on_a_preset(name, tmp_path):
    """papermill lays a file over the cells of the notebooks, which hold the suite `lab`."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"protocol: {name}\nn_bins: 7\ncalibration_fraction: 0.3\n")
    cells = load_parameters("params/lab.yaml").model_dump(mode="json")
    there, here = parameters_from(cells | yaml.safe_load(path.read_text())), load_parameters(path)
    for key in ("protocol", "n_bins", *load_protocols()[name]["parameters"]):
        assert getattr(there, key) == getattr(here, key), key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("protocol: mcm-2021", "protocol = 'mcm-2021': unknown protocol 'mcm-2021'; did you mean 'mcm-2022'?"),
        ("protocol: mcm-2022 but n_bin", "unknown parameter after 'mcm-2022' but 'n_bin'"),
        ("protocol: 3", "it should be a valid string"),
        ("logit_scale: 0", "logit_scale = 0: it should be greater than 0"),
        ("label_space: subsets", "did you mean 'subset'?"),
        ("crop: standart", "did you mean 'standard'?"),
        ("fpr_positive: odd", "did you mean 'ood'?"),
    ],
)
def test_wrong_protocols_are_one_line(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ClipsafeError) as error:
        load_parameters(path)
    assert said in str(error.value) and str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    if said.startswith("protocol"):
        with pytest.raises(ClipsafeError, match="did you mean"):
            parameters_from(yaml.safe_load(text))


# What they mean, run


def test_the_default_leaves_rows_as_they_were(values):
    study = run(values)
    assert study.parameters.protocol == DEFAULT
    assert set(sections.accuracy(study)["protocol"]) == {"prompts single", "classifier head"}


def test_mcm_takes_cosines_for_logits(values):
    study = run({k: v for k, v in values.items() if k != "prompt_sets"}, protocol="mcm-2022")
    assert study.parameters.protocol == "mcm-2022"
    rows = sections.ood_table(study).query("metric == 'auroc'")
    clip = rows[rows["model"] == "tiny"].set_index("protocol")["value"]
    assert list(clip.index) == [f"{score}, prompts photo, mcm-2022" for score in ("energy", "mcm", "msp")]
    plain = [cosines(study, name, "a photo of a {}", IMAGENET_CLASSNAMES) for name in ("imagenet_val", "textures")]
    inside, outside = (-softmax(c.astype(float), axis=1).max(axis=1) for c in plain)
    assert clip["mcm, prompts photo, mcm-2022"] == pytest.approx(auroc(inside, outside), abs=1e-3)
    assert clip["msp, prompts photo, mcm-2022"] == clip["mcm, prompts photo, mcm-2022"]
    assert set(rows.loc[rows["model"] == "tiny-0", "protocol"]) == {
        "energy, classifier head, mcm-2022",
        "msp, classifier head, mcm-2022",
    }
    np.testing.assert_allclose(study.outputs("tiny", "imagenet_val"), plain[0], atol=1e-5)


def test_clip_benchmark_scales_by_100_and_names_objects_as_their_set_does(values):
    study = run(values, protocol="clip-benchmark")
    assert study.parameters.protocol == "clip-benchmark but prompt_sets"
    expected = 100 * cosines(study, "imagenet_val", "a photo of a {}.", IMAGENET_CLASSNAMES)
    np.testing.assert_allclose(study.outputs("tiny", "imagenet_val"), expected, atol=1e-3)
    own = 100 * cosines(study, "objectnet", "a photo of a {}.", ["backpack", "banana", "alarm clock"])
    np.testing.assert_allclose(study.outputs("tiny", "objectnet"), own, atol=1e-3)
    usual = run(values)
    words = np.array(IMAGENET_CLASSNAMES)[[414, 954, 409, 530]]
    four = cosines(usual, "objectnet", "a photo of a {}.", words)
    scale = usual.head("tiny", "single", IMAGENET_CLASSNAMES)["logit_scale"]
    mapped = scale * np.stack([four[:, 0], four[:, 1], four[:, 2:].max(axis=1)], axis=1)
    np.testing.assert_allclose(usual.outputs("tiny", "objectnet"), mapped, atol=1e-3)
    assert np.abs(own - mapped).max() > 0.1, "the two readings differ"
    for name in ("imagenet_a", "objectnet"):  # classifiers have no words
        np.testing.assert_array_equal(study.outputs("tiny-1", name), usual.outputs("tiny-1", name))


def test_openood_judges_among_all_classes_and_flags_ood(values):
    study, usual = run(values, protocol="openood-1.5", crop="own"), run(values)
    rows = sections.accuracy(study)
    logits, labels = study.unit("tiny-2", "imagenet_a").array, study.unit("tiny-2", "imagenet_a").labels
    outputs = np.array([member for (member,) in imagenet_space("a").members])[labels]
    found = only(rows, model="tiny-2", test_set="imagenet_a")
    assert found["value"] == (logits.argmax(axis=1) == outputs).mean()
    assert found["protocol"] == "classifier head, openood-1.5 but crop, prompt_sets"
    clip = study.outputs("tiny", "objectnet")
    assert clip.shape == (18, 3 + 1000 - 4), "three objects, and the outputs that belong to none of them"
    np.testing.assert_allclose(
        clip[:, :3] * usual.head("tiny", "single", IMAGENET_CLASSNAMES)["logit_scale"],
        usual.outputs("tiny", "objectnet"),
        atol=1e-3,
    )
    # The x axis: the same ImageNet images, among all classes, of which one that ImageNet-A lacks wins everywhere.
    for given, expected in ((study, 0), (usual, 1)):
        unit = given.unit("tiny-2", "imagenet_val")
        logits = np.zeros((len(unit.labels), 1000), np.float32)
        logits[np.arange(len(logits)), unit.labels] = 5
        logits[:, 0] = 9
        fake = replace(unit, key="of these logits")
        vars(fake)["array"] = logits
        given._units["tiny-2", "imagenet_val"] = fake
        found = only(sections.accuracy(given), model="tiny-2", test_set="imagenet_val/a_classes")
        assert (found["n"], found["value"]) == (np.isin(unit.labels, A_CLASSES).sum(), expected)
    assert sections.shown_detection_metrics(study) == ("auroc", "fpr_id_at_tpr_ood95")
    assert sections.shown_detection_metrics(usual) == ("auroc", "fpr_ood_at_tpr_id95")
    same = ood_score(usual.unit("tiny-2", "textures").array, "energy")
    np.testing.assert_array_equal(sections.ood_scores(study, "tiny-2", "textures", "energy"), same)


def test_widened_spaces_keep_labels_and_lose_no_output(rng):
    space = LabelSpace("imagenet1k", ("Clock", "cat"), ((409, 530), (281,)))
    wide = space.widened(imagenet_space())
    assert wide.names[:2] == space.names and len(wide) == 2 + 1000 - 3
    logits = rng.normal(size=(5, 1000))
    np.testing.assert_array_equal(wide.reduce(logits)[:, :2], space.reduce(logits))
    assert sorted(output for members in wide.members for output in members) == list(range(1000))
    assert imagenet_space().widened(imagenet_space()) is imagenet_space()
    assert imagenet_space("a").by_name() is imagenet_space("a") and space.by_name().names == ("clock", "cat")


def test_the_standard_crop_is_resize_and_centre_and_makes_other_units(values, rng):
    study, own = run(values, crop="standard"), run(values)
    image = Image.fromarray(rng.integers(0, 256, (200, 300, 3), np.uint8))
    model = load_model(study.specs[1], device="cpu", crop="standard")
    size = model.preprocessing["input_size"][-1]
    by_hand = transforms.Compose(
        [
            transforms.Resize(int(size / 0.875), transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(model.preprocessing["mean"], model.preprocessing["std"]),
        ]
    )
    torch.testing.assert_close(model.transform(image), by_hand(image))
    assert not torch.equal(model.transform(image), own.adapters["tiny-0"].transform(image))
    for name, differ in (("tiny-0", True), ("tiny", False)):
        keys = {s.unit(name, "textures").key for s in (study, own)}
        assert (len(keys) == 2) is differ, "zero-shot models keep their own"
    with pytest.raises(ClipsafeError, match="unknown crop 'centre'"):
        load_model(study.specs[1], crop="centre")


@pytest.mark.parametrize("scale", ["logit", "linear"])
def test_taori_draws_its_line_on_logit_axes_unless_told_otherwise(values, scale):
    study = run(values, protocol="taori-2020", **({"line_scale": "linear"} if scale == "linear" else {}))
    but = "line_scale, prompt_sets" if scale == "linear" else "prompt_sets"
    rng = np.random.default_rng(0)
    table = study.table(
        {"model": spec.id, "test_set": name, "metric": "accuracy", "value": rng.uniform(0.2, 0.8), "n": 100}
        for spec in study.specs
        for name in ("imagenet_val", "imagenet_val/a_classes", "imagenet_a")
    )
    rows, lines, axes = sections.robustness(study, table, ["imagenet_a"], x_set="imagenet_val")
    assert axes["imagenet_a"] == "imagenet_val/a_classes"
    wide = table.pivot_table(index="model", columns="test_set", values="value")
    x, y = wide["imagenet_val/a_classes"], wide["imagenet_a"]
    standard = [f"tiny-{k}" for k in range(4)]
    line = fit_accuracy_line(x[standard].to_numpy(), y[standard].to_numpy(), scale)
    assert lines["imagenet_a"].slope == line.slope
    clip = only(rows, model="tiny")
    assert clip["value"] == pytest.approx(y["tiny"] - line.predict(x["tiny"]))
    expected = f"{scale} line over 4 standard models, x = imagenet_val/a_classes, taori-2020 but {but}"
    assert clip["protocol"] == expected


# Why do these two differ?


@pytest.fixture(scope="module")
def two(values):
    """Two suites that differ in protocol, and in what a user may have changed without thinking of it."""
    folder, lost = Path(values["outputs"]), Path(values["data"]) / "imagenet_val" / WNIDS[6] / "0.png"
    changed = {"protocol": "clip-benchmark", "n_bins": 10, "seed": 1, "ci_level": 0.9}
    values = values | {"select": {"id": ["tiny", "tiny-0", "tiny-1"]}, "shifted_sets": ["imagenet_a"]}
    finish(run(values, suite="first").parameters._parameters)
    lost.rename(folder / "away.png")
    finish(run(values, suite="second", **changed).parameters._parameters)
    (folder / "away.png").rename(lost)
    return folder / "first", folder / "second"


def finish(parameters):
    for notebook, section, name in (
        ("01_visual_factors", sections.accuracy, "accuracy"),
        ("02_ood_detection", sections.ood_table, "ood_detection"),
        ("03_calibration", sections.calibration, "calibration"),
    ):
        study = Study(parameters)
        study.save(section(study), name)
        study.finish(notebook)


def explained(two, **where):
    rows = [find_row(folder, **where) for folder in two]
    return explain_difference(*rows, *two).set_index("fact")


def test_the_record_tells_the_protocol_and_what_is_not_as_it_has_it(two):
    record = json.loads((two[1] / "provenance" / "03_calibration.json").read_text())
    assert record["parameters"]["protocol"] == "clip-benchmark but prompt_sets"
    assert record["not_as_the_protocol"] == {"prompt_sets": {"here": ["single"], "protocol": ["imagenet_80"]}}
    assert record["parameters"]["logit_scale"] == 100 and set(record["parameters"]) == set(record["parameters_used"])


def test_what_differs_and_what_of_it_moves_an_accuracy(two):
    found = explained(two, model="tiny", test_set="imagenet_val", metric="accuracy")
    moves = found["can_move"]
    assert moves["images"] == "the value" and moves["n"] == "the value" and moves["label_space"] == "the value"
    assert found.loc["n"].tolist()[:2] == [48, 47] and "47 read" in found.loc["images", "second"]
    assert moves["logit_scale"] == "nothing", "the largest cosine stays the largest"
    assert moves["ci_level"] == "its interval"
    assert "weights" not in found.index and "preprocessing: mean" not in found.index and "prompts" not in found.index
    assert list(moves) == sorted(moves, key=["the value", "its rounding", "its interval", "nothing"].index)
    classifier = explained(two, model="tiny-0", test_set="imagenet_val", metric="accuracy")
    assert "logit_scale" not in classifier.index and "n" in classifier.index


def test_what_moves_a_calibration_error_and_a_detection(two):
    found = explained(two, model="tiny", test_set="imagenet_val", metric="ece")["can_move"]
    assert {found[key] for key in ("n_bins", "seed", "logit_scale", "images", "ID images")} == {"the value"}
    found = explained(two, model="tiny", test_set="imagenet_val", metric="nll")["can_move"]
    assert found["n_bins"] == "nothing"
    rows = [pd.read_parquet(folder / "tables/ood_detection.parquet") for folder in two]
    rows = [r[(r["model"] == "tiny") & (r["metric"] == "auroc") & r["protocol"].str.startswith("msp")] for r in rows]
    found = explain_difference(rows[0].iloc[0], rows[1].iloc[0], *two).set_index("fact")["can_move"]
    assert found["logit_scale"] == "the value" and found["ID images"] == "the value" and "images" not in found.index
    assert "ood_scores" not in found.index, "the row names its score"


def test_equal_rows_differ_in_nothing_and_two_models_in_their_weights(two):
    row = find_row(two[0], model="tiny", test_set="imagenet_val", metric="accuracy")
    assert explain_difference(row, row, two[0], two[0]).empty
    bare = row.to_dict() | {"ci_low": np.nan, "ci_high": np.nan, "ci_level": np.nan}
    assert explain_difference(bare, bare, two[0], two[0]).empty, "a level that neither has is no difference"
    rows = [find_row(two[0], model=m, test_set="imagenet_a", metric="accuracy") for m in ("tiny-0", "tiny-1")]
    assert list(explain_difference(*rows, two[0], two[0])["fact"]) == ["model", "weights"]
    gone = explain_difference(row, row.to_dict() | {"protocol": "prompts other"}, two[0], two[0]).set_index("fact")
    assert "none in" in gone.loc["provenance", "second"] and gone.loc["protocol", "can_move"] == "the value"
    with pytest.raises(ClipsafeError, match="the row has no 'metric'"):
        explain_difference(row.drop("metric"), row, two[0], two[0])


def test_differ_on_the_command_line(two, capsys):
    wanted = ["--metric", "accuracy", "--test-set", "imagenet_val"]
    assert main(["differ", *map(str, two), *wanted, "--model", "tiny"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("tiny, imagenet_val: accuracy 0.") and "(n = 47)" in said
    assert "logit_scale" in said and "the value" in said
    assert main(["differ", str(two[0]), *wanted, "--model", "tiny-0", "tiny-1"]) == 0
    assert "weights" in capsys.readouterr().out
    for arguments, message in (
        ([str(two[0]), "--metric", "accurcy"], "no row of"),
        ([str(two[0]), *wanted], "3 rows of"),
        ([str(two[0] / "tables"), *wanted], "has no tables"),
        ([*map(str, two), str(two[0]), *wanted], "two rows are compared; got 3 values of folder"),
    ):
        assert main(["differ", *arguments]) == 2
        assert message in capsys.readouterr().err
