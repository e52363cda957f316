"""The schema of parameters, the suites, and the notebooks that declare them."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.params import (
    FITTED_SCORES,
    OOD_SCORES,
    PROMPT_SETS,
    ROOT,
    Parameters,
    load_parameters,
    parameters_from,
    resolve,
)

SUITES = sorted((ROOT / "params").glob("*.yaml"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
SECTIONS = ["00_overview", "01_visual_factors", "02_ood_detection", "03_calibration", "04_prompts"]


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_suite_fits_the_schema(path):
    assert load_parameters(path).suite == path.stem


def test_defaults_are_the_published_suite():
    assert load_parameters(ROOT / "params" / "published.yaml") == Parameters()


def test_every_parameter_is_explained():
    assert all(len(field.description) > 5 for field in Parameters.model_fields.values())


def test_sample_reads_the_real_folders(real_dir):
    parameters = load_parameters("params/sample.yaml", {"data": str(real_dir)})
    assert all(parameters.image_root(name).is_dir() for name in parameters.image_sets)
    assert parameters.image_root("imagenet_val") == real_dir.resolve() / "imagenet_sample"


def test_relative_paths_start_at_the_project_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parameters = load_parameters("params/published.yaml")
    assert parameters.folder == ROOT / "outputs" / "published"
    assert parameters.path("published") == (ROOT / "../shared/published").resolve()
    assert resolve(tmp_path) == tmp_path.resolve()


def test_file_may_leave_out_keys_and_overrides_win(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("n_bins: 10\nci_level: 0.9\n")
    parameters = load_parameters(path, {"n_bins": 20})
    assert (parameters.suite, parameters.n_bins, parameters.ci_level) == ("mine", 20, 0.9)


REFUSED = {
    "unknown key": ("n_bin: 15", "n_bin = 15: unknown parameter 'n_bin'; did you mean 'n_bins'?"),
    "text for a number": ("n_bins: '15'", "n_bins = '15': it should be a valid integer"),
    "1e-4 is text": ("ci_level: 1e-4", "1e-4 as 1.0e-4"),
    "number for text": ("zoo: 3", "zoo = 3: it should be a valid string"),
    "true is no number": ("workers: true", "workers = True: it should be a valid integer"),
    "empty value": ("seed:", "seed = None: it should be a valid integer"),
    "out of range": ("calibration_fraction: 1.0", "it should be less than 1"),
    "not a number": ("ci_level: .nan", "finite"),
    "suite is a folder name": ("suite: ../x", "suite = '../x'"),
    "precision": ("precision: float23", "did you mean 'float32'? valid: bf16, float32, fp16."),
    "line scale": ("line_scale: prohibit", "did you mean 'probit'?"),
    "device": ("device: cuda:a", "unknown device 'cuda:a'; did you mean 'cuda:0'?"),
    "annotation": ("factor_annotation: tops", "did you mean 'top'?"),
    "factor": ("factors: [poise]", "factors.0 = 'poise': unknown value 'poise'; did you mean 'pose'?"),
    "factor twice": ("factors: [pose, pose]", "'pose' is listed twice"),
    "score": ("ood_scores: [energi]", "unknown OOD score 'energi'; did you mean 'energy'?"),
    "class names": ("class_names: openay", "did you mean 'openai'?"),
    "prompt set": ("prompt_sets: [imagenet_8]", "unknown prompt set 'imagenet_8'; did you mean 'imagenet_80'?"),
    "template": ("prompt_sets: [{mine: [a photo]}]", "template 'a photo' of 'mine' needs exactly one {}"),
    "no templates": ("prompt_sets: [{mine: []}]", "needs a list of templates"),
    "prompt set twice": ("prompt_sets: [single, single]", "prompt set 'single' is listed twice"),
    "selection": (
        "select: {groop: [standard]}",
        "select.groop = ['standard']: unknown parameter 'groop'; did you mean 'group'?",
    ),
    "image set key": (
        "image_sets: {a: {rot: x}}",
        "image_sets.a.rot = 'x': unknown parameter 'rot'; did you mean 'root'?",
    ),
    "image set name": (
        "image_sets: {edges: {}, imagenet_val: {}}\nshifted_sets: []\ncue_conflict_set: null\nood_sets: [edge]",
        "unknown image set 'edge'; did you mean 'edges'?",
    ),
    "control set": (
        "control_sets: [imagenet_b]",
        "unknown control set 'imagenet_b'; did you mean 'imagenet_r'?",
    ),
    "control set twice": ("control_sets: [imagenet_a, imagenet_a]", "'imagenet_a' is listed twice"),
    "key twice": ("seed: 1\nseed: 2", "key 'seed' is given twice"),
    "broken YAML": ("seed: [1", "is not valid YAML"),
    "no mapping": ("- seed", "must hold lines of the form `key: value`"),
    "empty file": ("", "must hold lines of the form `key: value`"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_refused_with_file_key_value_and_remedy(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ClipsafeError) as caught:
        load_parameters(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert said in message
    assert "\n" not in message


def test_missing_file_names_the_nearest():
    with pytest.raises(ClipsafeError, match=r"did you mean 'params/sample\.yaml'"):
        load_parameters("params/sampel.yaml")


def test_whole_number_serves_as_fraction_only_in_range():
    assert isinstance(load_parameters("params/sample.yaml", {"seed": 3}).seed, int)
    with pytest.raises(ClipsafeError, match="ci_level = 1: "):
        load_parameters("params/sample.yaml", {"ci_level": 1})


def test_own_prompts_and_energy_temperature():
    own = ["a drawing of a {}."]
    parameters = load_parameters(
        "params/sample.yaml", {"prompt_sets": ["single", {"mine": own}], "ood_scores": ["energy_t0.5"]}
    )
    assert parameters.prompts == {"single": "single", "mine": own}


def test_written_out_values_read_back_the_same():
    parameters = load_parameters("params/sample.yaml", {"select": {"group": ["standard"]}})
    plain = parameters.model_dump(mode="json")
    assert plain["select"] == {"group": ["standard"]}
    assert plain["image_sets"]["cue_conflict"] == {"root": "cue_conflict"}
    assert parameters_from(yaml.safe_load(yaml.safe_dump(plain))) == parameters


def test_namespace_holds_other_names_too():
    assert parameters_from({"n_bins": 10, "np": object(), "Path": Path}).n_bins == 10


def test_fixed_names_are_those_of_the_modules():
    from clipsafe_utils.metrics import fit_ood_score, is_fitted, ood_score
    from clipsafe_utils.prompts import template_sets

    assert set(PROMPT_SETS) == set(template_sets())
    assert {name for name in (*OOD_SCORES, "knn_k5") if is_fitted(name)} == {*FITTED_SCORES, "knn_k5"}
    for name in {*OOD_SCORES, "energy_t2"} - {*FITTED_SCORES, "neg_label"}:
        assert ood_score([[0.1, 0.2]], name).shape == (1,)
    bank = {"labels": [0] * 20, "logits": np.ones((20, 1)), "weights": np.eye(2)}
    features = np.random.default_rng(0).normal(size=(20, 2))
    for name in (*FITTED_SCORES, "knn_k5"):
        assert fit_ood_score(name, features, **bank)(features[:3], np.ones((3, 1))).shape == (3,)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_run_by_hand_is_the_default_suite(path):
    from clipsafe_utils.report import declared_parameters, read_notebook

    declared = declared_parameters(read_notebook(path), path.name)
    lab = load_parameters("params/lab.yaml").model_dump(mode="json", include=set(declared))
    assert parameters_from(declared).model_dump(mode="json", include=set(declared)) == lab
    assert "SUITE ?= lab" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_papermill_and_report_run_the_same_suite(path):
    """papermill lays a file over the cells, the report over the schema: the file decides where these differ."""
    from clipsafe_utils.report import declared_parameters, read_notebook

    given, suite = yaml.safe_load(path.read_text()), load_parameters(path)
    for notebook in NOTEBOOKS:
        declared = declared_parameters(read_notebook(notebook), notebook.name)
        cells = {key: given.get(key, value) for key, value in declared.items()}
        keys = set(declared)
        assert parameters_from(cells).model_dump(include=keys) == suite.model_dump(include=keys)


def test_every_parameter_is_declared_by_a_notebook():
    from clipsafe_utils.report import declared_parameters, read_notebook

    assert [path.stem for path in NOTEBOOKS] == SECTIONS
    declared = {key for path in NOTEBOOKS for key in declared_parameters(read_notebook(path), path.name)}
    assert declared == set(Parameters.model_fields), "a parameter that no notebook declares does nothing"


def test_notebooks_agree_with_their_twins():
    from clipsafe_utils.report import pair_notebooks

    assert pair_notebooks(write=False) == []
