"""The same study on this machine, on a real Ray cluster and as submitit's jobs: equal tables, also after a kill."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import classifier_spec, clip_spec, table_of

from clipsafe_utils import engine, sections
from clipsafe_utils.datasets import imagenet_wnids
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.models import Model
from clipsafe_utils.params import load_parameters
from clipsafe_utils.study import Study

pytestmark = [
    pytest.mark.slow,
    # Ray and submitit leave sockets and processes to the end of the interpreter.
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
CLASSES = range(0, 1000, 40)


@pytest.fixture(scope="module", autouse=True)
def _quiet(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSAFE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def values(real_dir, tmp_path_factory):
    """Two zero-shot models and a classifier of the real classes, with random weights, on real photos."""
    folder = tmp_path_factory.mktemp("suite")
    for k in CLASSES:
        wnid = imagenet_wnids()[k]
        (folder / "imagenet_val").mkdir(exist_ok=True)
        (folder / "imagenet_val" / wnid).symlink_to(real_dir / "imagenet_sample" / wnid)
    (folder / "plain").mkdir()
    for k in range(9):  # the ninth, in a batch of its own, takes a second
        size = (8000, 8000) if k == 8 else (64, 64)
        Image.new("L", size, 20 * k).save(folder / "plain" / f"{k}.png", compress_level=1)
    specs = [
        clip_spec(folder, "clip-1", seed=1),
        clip_spec(folder, "clip-2", seed=2),
        classifier_spec(folder, num_classes=1000),
    ]
    return {
        **{"suite": "s", "data": str(folder), "zoo": table_of(folder, *specs), "checkpoints": str(folder)},
        "image_sets": {
            "imagenet_val": {"partial": True},
            "plain": {"kind": "folder", "is_ood": True},
            "absent": {"kind": "folder"},
        },
        **{"id_set": "imagenet_val", "shifted_sets": [], "ood_sets": ["plain"], "cue_conflict_set": None},
        **{"prompt_sets": ["single", "name_only"], "ood_scores": ["msp", "mcm", "energy"], "n_bootstrap": 10},
        **{"device": "cpu", "workers": 0, "batch_size": 8},
    }


def study_of(values, outputs, **changed):
    return Study(load_parameters("params/sample.yaml", values | {"outputs": str(outputs)} | changed))


def tables(study):
    return {ask.__name__: ask(study) for ask in (sections.accuracy, sections.ood_table, sections.calibration)}


def assert_same(found, expected):
    for name, table in expected.items():
        assert len(table), name
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)


@pytest.fixture(scope="module")
def local(values, tmp_path_factory):
    study = study_of(values, tmp_path_factory.mktemp("local"))
    return study, tables(study)


@pytest.fixture(scope="module")
def ray(_quiet):
    """A real cluster: one node at 127.0.0.1 with two cores."""
    for variable, value in engine._LOOPBACK.items():
        os.environ.setdefault(variable, value)
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        engine._connect(ray, num_cpus=2)
    yield ray
    ray.shutdown()


def holder(store):
    """Process that writes a unit right now: it holds the unit's lock and has begun its array."""
    begun = {path.parent.name.partition(".")[0] for path in (store / "tmp").glob("*/array.safetensors")}
    for entry in Path("/proc").glob("[0-9]*/fd/*") if begun else ():
        with contextlib.suppress(OSError):
            file = Path(os.readlink(entry))
            if file.parent == store / "locks" and file.name in begun:
                return int(entry.parts[2]), file.name
    return None


def kill_one(store, killed):
    """Kill the first process seen in the middle of a unit."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not killed:
        if (found := holder(store)) and found[0] != os.getpid():
            os.kill(found[0], signal.SIGSTOP)
            if holder(store) == found and not (store / "units" / found[1]).exists():
                killed.append(found)
            os.kill(found[0], signal.SIGKILL if killed else signal.SIGCONT)
        time.sleep(0.05)


@contextlib.contextmanager
def a_kill(store):
    killed = []
    thread = threading.Thread(target=kill_one, args=(store, killed))
    thread.start()
    yield killed
    killed.append(None)
    thread.join()


def test_ray_gives_the_tables_of_local_though_a_worker_is_killed(values, local, ray, tmp_path):
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    study = study_of(values, tmp_path, engine="ray")
    with a_kill(study.store.path) as killed:
        found = tables(study)
    assert killed[0], "no worker was killed in the middle of a unit"
    assert_same(found, local[1])
    assert study.store.keys() == local[0].store.keys() and study.store.verify().empty
    assert list((study.store.path / "tmp").iterdir()) == []
    assert study.missing == local[0].missing and "absent" in study.missing, "what is not there stops nothing"


def test_submitit_gives_the_tables_of_local_though_a_job_is_killed(values, local, tmp_path):
    """Through an URL, whose objects nobody can rename, and with answers instead of arrays."""
    chosen = ["clip-1", "tiny-resnet"]
    study = study_of(
        values,
        tmp_path,
        **{"engine": "slurm", "nodes": {"executor": "local", "at_once": 2}, "select": {"id": chosen}},
        **{"store": f"local://{tmp_path}/bucket", "keep": "scores"},
    )
    assert not study.store.path.is_relative_to(tmp_path)
    with a_kill(study.store.path) as killed:
        found = tables(study)
    assert killed[0], "no job was killed in the middle of a unit"
    for name, table in local[1].items():
        expected = table[table["model"].isin(chosen)].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[name], expected, check_exact=True)
    objects = [path.name for path in (tmp_path / "bucket" / "units").rglob("*.*")]
    assert objects.count("record.json") == 4 and len(objects) == 12 and len(study.store) == 4
    assert study.store.verify().empty and not any("array" in name for name in objects)


def test_done_units_start_no_task_and_a_model_that_fails_there_is_named(values, local, ray, tmp_path, monkeypatch):
    shutil.copytree(local[0].folder, tmp_path / "s")
    done = study_of(values, tmp_path, engine="ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "ENGINES", {})
        assert_same(tables(done), local[1])
    folder = Path(values["data"])
    wrong = replace(clip_spec(folder, "wrong", seed=3), checkpoint=str(folder / "tiny-resnet.safetensors"))
    zoo = pd.concat([pd.read_csv(values["zoo"]), pd.read_csv(table_of(tmp_path, wrong))])
    zoo.to_csv(folder / "more.csv", index=False)
    waits, wait = [], ray.wait
    monkeypatch.setattr(ray, "wait", lambda running, **options: waits.append(len(running)) or wait(running, **options))
    study = study_of(values, tmp_path, engine="ray", zoo=str(folder / "more.csv"), nodes={"at_once": 1})
    assert_same(tables(study), local[1])
    assert study.missing["wrong"].startswith(f"checkpoint {wrong.checkpoint} does not fit 'wrong' (model 'wrong'): ")
    assert waits == [1]


def test_tasks_that_die_are_bounded_retried_and_named(values, ray, tmp_path, monkeypatch):
    def die(parameters, model, names):
        with open(f"{parameters['outputs']}/{model}", "a") as file:
            file.write("x")
        if model == "clip-1":
            raise KeyError("a mistake")
        os._exit(1)

    waits, wait = [], ray.wait
    monkeypatch.setattr(ray, "wait", lambda running, **options: waits.append(len(running)) or wait(running, **options))
    monkeypatch.setattr(engine, "look", die)
    study = study_of(values, tmp_path, engine="ray", nodes={"retries": 1, "at_once": 2})
    assert study.evaluate("imagenet_val") == [] and max(waits) == 2
    assert study.missing["clip-1"] == "its task raised KeyError: 'a mistake'"
    assert study.missing["clip-2"].startswith("the process of its task died 2 times, often for want of memory: ")
    assert [(tmp_path / model).read_text() for model in ("clip-1", "clip-2", "tiny-resnet")] == ["x", "xx", "xx"]


# -- keep: scores ------------------------------------------------------------------------------------------------------


@pytest.fixture
def looked(monkeypatch):
    """Ids of the models that were shown images in this process."""
    ids, encode = [], Model.encode_images
    monkeypatch.setattr(Model, "encode_images", lambda self, pixels: ids.append(self.spec.id) or encode(self, pixels))
    return ids


def test_kept_scores_give_the_same_tables_without_the_arrays(values, local, looked, tmp_path):
    study = study_of(values, tmp_path, keep="scores")
    found = {ask.__name__: ask(study) for ask in sections.PER_MODEL}
    assert_same(found, local[1] | {"prompt_grid": sections.prompt_grid(local[0])})
    for pair, scores in sections.drawn_scores(local[0]).items():
        np.testing.assert_array_equal(found["drawn_scores"][pair], scores)
    for model, curve in sections.reliability_curves(local[0]).items():
        np.testing.assert_array_equal(sections.reliability_curves(study)[model].confidence, curve.confidence)
    assert not list(tmp_path.rglob("array.safetensors")) and study.store.verify().empty
    kept, whole = (store.frame().sort_values("key") for store in (study.store, local[0].store))
    assert kept["key"].str.removesuffix("-answers").tolist() == whole["key"].tolist()
    kept, whole = (frame[frame["model"] == "tiny-resnet"]["bytes"].sum() for frame in (kept, whole))
    assert kept < whole / 4
    with pytest.raises(ClipsafeError, match=r"^of clip-1 on plain only the answers .*`keep: embeddings` runs"):
        _ = study.unit("clip-1", "plain").array
    looked.clear()
    changed = {"n_bins": 5, "n_bootstrap": 20, "ci_level": 0.9}
    found, expected = (tables(study_of(values, o, **changed, keep=k)) for o, k in both_outputs(tmp_path, local))
    assert_same(found, expected)
    assert looked == [], "bins, levels and resamples are not asked of the models"


def test_a_later_question_runs_the_models_again(values, local, looked, tmp_path):
    tables(study_of(values, tmp_path, keep="scores"))
    later = [{"prompt_sets": [{"mine": ["a drawing of a {}."]}]}, {"seed": 1}]
    for changed, models in zip(later, ({"clip-1", "clip-2"}, {"clip-1", "clip-2", "tiny-resnet"}), strict=True):
        looked.clear()
        found, expected = (tables(study_of(values, o, **changed, keep=k)) for o, k in both_outputs(tmp_path, local))
        assert_same(found, expected)
        assert set(looked) == models
        assert not list(tmp_path.rglob("array.safetensors"))
    looked.clear()
    assert_same(tables(study_of(values, tmp_path, keep="scores")), local[1])
    assert looked == [], "what was answered before is still known"
    assert_same(tables(study_of(values, tmp_path)), local[1])
    assert set(looked) == {"clip-1", "clip-2", "tiny-resnet"}, "a suite that keeps embeddings has them made again"
    assert_same(tables(study_of(values, tmp_path, keep="scores")), local[1])
    assert not list(tmp_path.rglob("array.safetensors")), "and they go when scores do"


def both_outputs(tmp_path, local):
    return (tmp_path, "scores"), (local[0].folder.parent, "embeddings")


def test_another_machines_view_is_not_mistaken_for_this_ones():
    assert engine._reason("the disk is full", "edges") == "the disk is full"
    assert engine._reason(32 * "a", "edges").startswith(f"the machine that ran it made unit {32 * 'a'} of edges, which")


REFUSED = {
    "no GPU": ({"device": "cuda"}, "a task asks for 1 GPU and no machine of this Ray cluster offers more than 0; set "),
    "part of a GPU": ({"nodes": {"gpus_per_task": 0.25}}, "a task asks for 0.25 GPU and no machine of this Ray"),
    "cores": ({"nodes": {"cpus_per_task": 3}}, "a task asks for 3 CPU cores and no machine of this Ray cluster"),
    "numbered GPU": ({"device": "cuda:1"}, "device 'cuda:1' is one GPU of one machine; engine 'ray' gives each task"),
    "no SLURM": ({"engine": "slurm"}, "engine 'slurm' needs a machine that can submit SLURM jobs, and this one has no"),
    "half a GPU of SLURM": (
        {"engine": "slurm", "nodes": {"executor": "local", "gpus_per_task": 0.5}},
        "SLURM gives whole GPUs, and a task asks for 0.5; set `nodes.gpus_per_task` to 1.",
    ),
    "option of submitit": (
        {"engine": "slurm", "nodes": {"executor": "local", "slurm": {"slurm_partitoin": "gpu"}}},
        "submitit does not know an option of `nodes.slurm`: ",
    ),
}


@pytest.mark.parametrize(("changed", "said"), REFUSED.values(), ids=REFUSED)
def test_what_no_machine_can_give_is_refused_at_once(values, ray, tmp_path, monkeypatch, changed, said):
    if "executor" not in str(changed):
        monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClipsafeError) as error:
        sections.accuracy(study_of(values, tmp_path, **{"engine": "ray"} | changed))
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_is_named(values, tmp_path, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ClipsafeError, match=rf"^this engine needs {library}, .*: pip install 'clipsafe-utils\[nodes\]'"
    ):
        sections.accuracy(study_of(values, tmp_path, engine=name))


UNREACHED = {
    "auto": "no Ray cluster answers at RAY_ADDRESS='auto' (ConnectionError: no Ray at auto). On the machine of `ray st",
    "127.0.0.1:1": "no Ray cluster answers at RAY_ADDRESS='127.0.0.1:1' (ConnectionRefusedError: ",
    "local": "Ray does not start on this machine (ConnectionError: no Ray at local); try `engine: local`.",
}


@pytest.mark.parametrize(("address", "said"), UNREACHED.items(), ids=UNREACHED)
def test_a_cluster_that_does_not_answer_is_one_line(address, said, monkeypatch):
    def init(address, **_):
        raise ConnectionError(f"no Ray\nat {address}")

    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClipsafeError) as error:
        engine._connect(SimpleNamespace(init=init, shutdown=lambda: None))
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
