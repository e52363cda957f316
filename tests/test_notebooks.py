"""The study end to end: both suites on real input through papermill and Sphinx, and what their tables must say."""

import json
import shutil
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import ndtr, ndtri
from tiny import clip_spec, table_of

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.models import Model
from clipsafe_utils.params import STUDY_FACTORS, load_parameters
from clipsafe_utils.published import published_models
from clipsafe_utils.report import NOTEBOOKS, build_report, check_report, declared_parameters, read_notebook
from clipsafe_utils.table import KEY

# Kernels and Sphinx run on libraries whose own deprecations are not ours to mend.
pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.filterwarnings(f"default::{kind}")
        for kind in ("DeprecationWarning", "PendingDeprecationWarning", "ResourceWarning")
    ),
]

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
SHIFTS = ("imagenet_v2_matched_frequency", "imagenet_a", "imagenet_r", "imagenet_sketch")
ZERO_SHOT = ["testbed/resnet50_clip_zeroshot", "testbed/vit_b_32_clip_zeroshot"]
OOD_SETS = ["cue_conflict", "edges", "filled_silhouettes"]


class Suite:
    """A built suite: its parameters, its tables, and how long the build took."""

    def __init__(self, name, top, **changed):
        self.parameters = load_parameters(f"params/{name}.yaml", changed | {"outputs": str(top)})
        self.folder, self.seconds = self.parameters.folder, self.build()

    def build(self, only=()):
        started = time.perf_counter()
        self.index = build_report(self.parameters, only)
        return time.perf_counter() - started

    def table(self, name):
        return pd.read_parquet(self.folder / "tables" / f"{name}.parquet")

    def files(self, pattern):
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.glob(pattern)}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSAFE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def published(published_dir, tmp_path_factory):
    return Suite("published", tmp_path_factory.mktemp("outputs"), published=str(published_dir))


@pytest.fixture(scope="module")
def sample(real_dir, published_dir, real_units, tmp_path_factory):
    folders = {"data": str(real_dir), "checkpoints": str(real_dir / "checkpoints"), "published": str(published_dir)}
    return Suite("sample", tmp_path_factory.mktemp("outputs"), store=str(real_units), **folders)


def run_here(name, parameters):
    """Run a notebook's cells in this process, where a test can watch; a kernel takes seconds to start."""
    notebook = read_notebook(NOTEBOOKS / f"{name}.py")
    declared = declared_parameters(notebook, name)
    namespace = declared | parameters.model_dump(mode="json", include=set(declared))
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            exec(compile(cell.source, name, "exec"), namespace)


@pytest.fixture(scope="module")
def small(real_dir, tmp_path_factory):
    """Both kinds of model on a few real images, with what the two suites leave out: prompts, class names."""
    folder = tmp_path_factory.mktemp("small")
    folders = {name: {"kind": "folder", "root": name} for name in ("filled_silhouettes", "edges")}
    values = {
        **{"suite": "small", "outputs": str(folder), "data": str(real_dir), "checkpoints": str(folder)},
        **{"zoo": table_of(folder, clip_spec(folder), clip_spec(folder, "tiny-2", seed=2)), "image_sets": folders},
        **{"id_set": "filled_silhouettes", "shifted_sets": ["edges"], "ood_sets": ["edges"], "cue_conflict_set": None},
        **{"prompt_sets": ["single", "name_only"], "ood_scores": ["msp", "mcm"], "n_bootstrap": 10, "workers": 0},
    }
    parameters = load_parameters("params/sample.yaml", values)
    for name in sorted(NAMES, key=lambda name: (name.startswith("00"), name)):
        run_here(name, parameters)
    return parameters


def one(rows, **where):
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, f"{len(rows)} rows of {where}"
    return rows.iloc[0]


# -- reports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["published", "sample"])
def test_report_is_complete(name, request):
    suite = request.getfixturevalue(name)
    check_report(suite.folder)
    assert {path.stem for path in suite.index.parent.glob("0*.html")} == set(NAMES)
    results = suite.table("results")
    assert not results.duplicated(KEY).any() and results["value"].notna().all()
    assert set(results["suite"]) == {name}
    figures = sorted(path.stem for path in (suite.folder / "figures").glob("*.png"))
    assert figures == sorted(path.stem for path in (suite.folder / "figures").glob("*.svg"))
    expected = {
        "published": {
            *("effective_robustness_factors", "effective_robustness_factors_rest", "effective_robustness_shifts"),
            *(f"accuracy_{shift}" for shift in SHIFTS),
            *("error_ratios", "shape_bias", "reliability"),
        },
        "sample": {"shape_bias", "ood_auroc", "ood_scores", "reliability", "calibration_before_after"},
    }
    assert expected[name] <= set(figures)
    for figure in figures:
        with Image.open(suite.folder / "figures" / f"{figure}.png") as image:
            assert min(image.size) > 150, figure


@pytest.mark.parametrize("name", ["published", "sample"])
def test_pages_say_what_made_them_and_what_is_missing(name, request):
    suite = request.getfixturevalue(name)
    said = {
        "published": {"02_ood_detection": "published tables hold no logits", "04_prompts": "SUITE=sample"},
        "sample": {"04_prompts": "prompts act on zero-shot CLIP models", "01_visual_factors": "no image of"},
    }
    for notebook in NAMES:
        page = (suite.index.parent / f"{notebook}.html").read_text()
        assert "Provenance" in page and f"suite = &quot;{name}&quot;" in page.replace('"', "&quot;"), notebook
        assert said[name].get(notebook, "") in page, notebook
        assert "Traceback" not in page
    if name == "sample":
        record = json.loads((suite.folder / "provenance" / "01_visual_factors.json").read_text())
        assert {unit["image_set"] for unit in record["units"]} == {"imagenet_val", "cue_conflict"}
        page = (suite.index.parent / "01_visual_factors.html").read_text()
        assert all(unit["key"] in page for unit in record["units"])


@pytest.mark.parametrize("notebook", NAMES)
def test_notebooks_declare_exactly_what_they_use(notebook, published, sample, small):
    """What some suite makes a notebook use; Study.finish refuses what it uses and does not declare."""
    declared = set(declared_parameters(read_notebook(NOTEBOOKS / f"{notebook}.py"), notebook))
    used = set()
    for folder in (published.folder, sample.folder, small.folder):
        used |= set(json.loads((folder / "provenance" / f"{notebook}.json").read_text())["parameters_used"])
    assert sorted(declared - used) == [], "declared, never used"
    assert sorted(used - declared) == [], "used, not declared"


@pytest.mark.parametrize("name", ["published", "sample"])
def test_a_second_build_runs_nothing_again(name, request):
    suite = request.getfixturevalue(name)
    executed = {path: path.stat().st_mtime_ns for path in suite.folder.glob("notebooks/*.ipynb")}
    tables, pages = suite.files("tables/*.parquet"), suite.files("report/0*.html")
    seconds = suite.build()
    assert len(executed) == len(NAMES)
    assert {path: path.stat().st_mtime_ns for path in suite.folder.glob("notebooks/*.ipynb")} == executed
    assert suite.files("tables/*.parquet") == tables and set(suite.files("report/0*.html")) == set(pages)
    check_report(suite.folder)
    assert seconds < suite.seconds / 4


@pytest.mark.parametrize("name", ["sample", "small"])
def test_notebooks_run_again_without_a_network_and_give_the_same_bits(name, request, tmp_path, monkeypatch):
    suite = request.getfixturevalue(name)
    parameters = getattr(suite, "parameters", suite)
    shutil.copytree(parameters.store_path, tmp_path / name / "store")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")}

    def forbidden(*_, **__):
        raise AssertionError("a network was asked for")

    for method in ("_loading", "encode_images"):
        monkeypatch.setattr(Model, method, forbidden)
    parameters = parameters.model_copy(update={"outputs": str(tmp_path), "store": None})
    for notebook in sorted(NAMES, key=lambda notebook: (notebook.startswith("00"), notebook)):
        run_here(notebook, parameters)
    tables = {path.name: path.read_bytes() for path in (suite.folder / "tables").iterdir()}
    assert len(tables) >= 8 and "results.parquet" in tables
    assert {path.name: path.read_bytes() for path in (tmp_path / name / "tables").iterdir()} == tables
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")} == before and before


def test_a_failing_notebook_leaves_one_line_and_the_last_report(small, tmp_path):
    shutil.copytree(small.folder, tmp_path / "small")
    parameters = small.model_copy(update={"outputs": str(tmp_path)})
    (tmp_path / "small" / "report").mkdir()
    (tmp_path / "small" / "report" / "index.html").write_text("the last report")
    for array in (tmp_path / "small" / "store").rglob("array.safetensors"):
        array.write_bytes(array.read_bytes()[:-4])
    with pytest.raises(ClipsafeError) as error:
        build_report(parameters, only=["04_prompts"])
    message, failed = str(error.value), tmp_path / "small" / "notebooks" / "04_prompts.failed.ipynb"
    assert message.startswith("04_prompts.py, cell [") and "\n" not in message
    assert "is damaged: " in message and message.endswith(f"and run again. (partial copy: {failed})")
    assert not failed.with_name("04_prompts.ipynb").exists() and len(nbformat.read(failed, 4).cells) > 5
    assert (tmp_path / "small" / "report" / "index.html").read_text() == "the last report"


# -- numbers of the suite `sample` -------------------------------------------------------------------------------------


def test_sample_accuracy_and_shape_bias(sample):
    accuracy = one(sample.table("accuracy"))
    assert (accuracy.test_set, accuracy.n) == ("imagenet_val", 1000) and abs(accuracy.value * 1000 - 872) <= 1
    cues = sample.table("shape_bias")
    bias, share = one(cues, metric="shape_bias"), one(cues, metric="share_decided")
    assert share.n == 1200 and share.value == pytest.approx(0.67, abs=0.005) and bias.n == round(share.value * 1200)
    assert bias.value == pytest.approx(0.2276, abs=0.005) and bias.ci_low < bias.value < bias.ci_high


def test_sample_detects_three_sets_by_three_scores(sample):
    rows = sample.table("ood_detection")
    scores = ("energy", "max_logit", "msp")
    metrics = ("aupr_in", "aupr_out", "auroc", "fpr_id_at_tpr_ood95", "fpr_ood_at_tpr_id95")
    key = rows[["test_set", "protocol", "metric"]].itertuples(index=False, name=None)
    assert sorted(key) == sorted((s, f"{p}, classifier head", m) for s in OOD_SETS for p in scores for m in metrics)
    auroc = rows[rows["metric"] == "auroc"]
    assert auroc["value"].between(0.8, 0.97).all(), "strange to the model, but not trivially so"
    assert ((auroc["ci_low"] < auroc["value"]) & (auroc["value"] < auroc["ci_high"])).all()
    assert dict(zip(auroc["test_set"], auroc["n"], strict=True)) == dict(zip(OOD_SETS, (1280, 160, 160), strict=True))
    assert set(rows.loc[rows["metric"] == "fpr_id_at_tpr_ood95", "n"]) == {1000}


def test_sample_is_calibrated_by_a_temperature_of_the_other_half(sample):
    rows = sample.table("calibration").set_index("metric")
    assert set(rows["n"]) == {500} and set(rows["test_set"]) == {"imagenet_val"}
    value = rows["value"]
    assert value["ece_scaled"] < 0.5 * value["ece"] and rows.loc["ece", "ci_low"] > value["ece_scaled"]
    assert value["nll_scaled"] < value["nll"] and value["brier_scaled"] < value["brier"]
    assert 0.5 < value["temperature"] < 1 and value["overconfidence"] < 0, "trained to be unsure"


# -- numbers of the suite `published` ----------------------------------------------------------------------------------


def test_published_factor_robustness_of_zero_shot_clip_against_the_rest(published, published_dir):
    rows = published.table("effective_robustness_factors_rest")
    rows = rows[rows["model"].isin(ZERO_SHOT)]
    key = set(rows[["model", "test_set"]].itertuples(index=False, name=None))
    assert len(rows) == 20
    assert key == {(model, f"imagenet_x/{factor}") for model in ZERO_SHOT for factor in STUDY_FACTORS}
    assert np.isfinite(rows[["value", "ci_low", "ci_high"]]).all(axis=None)
    assert ((rows["ci_low"] < rows["value"]) & (rows["value"] < rows["ci_high"])).all()
    # The same from the published table, with NumPy alone.
    printed = pd.read_csv(published_dir / "imagenet_x/factor_accuracies/imagenet_testbed.csv", index_col="model")
    table = published.table("visual_factors").query("metric == 'accuracy'")
    wide = table.pivot_table(index="model", columns="test_set", values="value")
    rest = ~wide.index.str.contains("clip_zeroshot")
    assert rest.sum() == 335 and rows["protocol"].str.startswith("probit line over 335 rest models").all()
    for row in rows.itertuples():
        x, y = (ndtri(np.clip(wide[name], 1e-4, 1 - 1e-4)) for name in ("imagenet_x", row.test_set))
        slope, intercept = np.polyfit(x[rest], y[rest], 1)
        accuracy = printed.loc[row.model.removeprefix("testbed/"), row.test_set.removeprefix("imagenet_x/")]
        assert row.value == pytest.approx(accuracy - ndtr(slope * x[row.model] + intercept), abs=1e-9)


def test_published_accuracies_under_four_shifts(published, published_dir):
    models = published_models(published_dir).set_index("model")
    distinct = models[models["distinct"]]["group"]
    accuracy = published.table("accuracy").assign(group=lambda rows: rows["model"].map(distinct))
    counts = accuracy.groupby(["test_set", "group"])["model"].nunique()
    for shift in SHIFTS:
        assert 110 <= counts[shift, "zero_shot_clip"] <= 130
        assert counts[shift, "clip_finetuned"] >= 33
        assert counts[shift, "standard"] >= 300
    robustness = published.table("effective_robustness_shifts")
    robustness = robustness.assign(group=robustness["model"].map(distinct))
    assert np.isfinite(robustness[["value", "ci_low", "ci_high"]]).all(axis=None)
    means = robustness.pivot_table(index="test_set", columns="group", values="value")
    assert (means.loc[list(SHIFTS), "zero_shot_clip"] > 0.02).all(), "what the literature agrees on"
    assert (means["standard"].abs() < 0.02).all(), "the line goes through the models it was fitted on"


def test_published_check_values(published):
    """Check values of the authors' own tables, or computed independently."""
    factors = published.table("visual_factors")
    for model, overall, ratios in (
        ("ResNet50", 0.746693, {"pose": 0.694739, "texture": 2.393863}),
        ("DINO", 0.754283, {"pose": 0.726197, "texture": 2.150316}),
    ):
        rows = factors[factors["model"] == f"imagenet_x/{model}"]
        found = one(rows, test_set="imagenet_x", metric="accuracy")
        assert (found.value, found.n) == (pytest.approx(overall, abs=1e-6), 46_110)
        for factor, ratio in ratios.items():
            found = one(rows, test_set=f"imagenet_x/{factor}", metric="error_ratio")
            assert found.value == pytest.approx(ratio, abs=1e-6) and found.ci_low < ratio < found.ci_high
    bias = published.table("shape_bias").query("metric == 'shape_bias'").set_index("model")["value"]
    for model, expected in {"resnet50": 0.2207, "alexnet": 0.2531, "vgg16": 0.0921}.items():
        assert bias[f"geirhos/{model}"] == pytest.approx(expected, abs=1e-4)
    humans = bias[bias.index.str.contains("subject-")]
    assert len(humans) == 10 and humans.mean() == pytest.approx(0.9576, abs=1e-4)
    ece = one(published.table("calibration"), model="imagenet_x/ResNet50", metric="ece")
    assert (ece["value"], ece["n"]) == (pytest.approx(0.0373, abs=5e-5), 50_000)


def test_published_quarantine_names_the_broken_models(published):
    page = (published.index.parent / "00_overview.html").read_text()
    results = published.table("results")
    for model in ("resnet101_0_epochs", "resnet18_50k_1_epochs"):
        assert f"testbed/{model}" in page
        assert f"testbed/{model}" not in set(results["model"])
