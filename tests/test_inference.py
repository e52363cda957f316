"""Units: what decides them, what they hold, and that neither kill -9 nor a second process harms them."""

import multiprocessing
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import HALF, classifier_spec, clip_spec, noise_images

from clipsafe_utils.content import content_key
from clipsafe_utils.datasets import load_images
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.inference import evaluate, unit_identity
from clipsafe_utils.models import load_model
from clipsafe_utils.store import Store, UnitWriter
from clipsafe_utils.zoo import ModelSpec

fork = multiprocessing.get_context("fork")
QUIET = {"workers": 0, "progress": False, "batch_size": 4}


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Means:
    """The least a model needs: two numbers an image."""

    kind, precision, logit_scale, logit_bias = "logits", "float32", 1.0, 0.0
    device, preprocessing, network = torch.device("cpu"), {"means": 1}, None

    def __init__(self, id="means", factor=1.0, log=None):
        self.spec, self.factor, self.log = ModelSpec(id, "standard", "timm", "none"), factor, log

    @property
    def identity(self):
        return {"means": self.factor, "preprocessing": self.preprocessing}

    @staticmethod
    def transform(image):
        return torch.from_numpy(np.asarray(image.resize((4, 4)), np.float32)).permute(2, 0, 1)

    def encode_images(self, pixels):
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{self.spec.id} {len(pixels)}\n")
        return self.factor * pixels.mean((2, 3)).numpy()[:, :2]

    def release(self):
        pass


class Slow:
    """An image set that tells when an image is asked for, and takes its time."""

    def __init__(self, images, at, reached, seconds=60):
        self.images, self.at, self.reached, self.seconds = images, at, reached, seconds

    def __getattr__(self, name):
        if name == "images":
            raise AttributeError(name)
        return getattr(self.images, name)

    def __len__(self):
        return len(self.images)

    def image(self, i):
        if i == self.at:
            self.reached.set()
            time.sleep(self.seconds)
        return self.images.image(i)


def bits(units):
    return {pair: (unit.key, unit.array.tobytes(), unit.images.to_csv()) for pair, unit in units.items()}


def test_a_unit_holds_what_the_network_says(tmp_path):
    images = noise_images(tmp_path / "images", annotations=pd.DataFrame({"texture": list("abcdefghijkl")}))
    model = load_model(clip_spec(tmp_path, init_logit_bias=-10.0), device="cpu")
    unit = evaluate([model], [images], Store(tmp_path / "store"), **QUIET)["tiny", "noise"]
    pixels = torch.stack([model.transform(images.image(i)) for i in range(12)])
    with torch.no_grad():
        np.testing.assert_allclose(unit.array, model.network.encode_image(pixels).numpy(), atol=1e-6)
    assert unit.images["image_id"].tolist() == list(images.image_ids)
    assert unit.labels.tolist() == images.labels.tolist() and unit.images["texture"].tolist() == list("abcdefghijkl")
    record = unit.record
    assert (record["model"], record["image_set"], record["n"], record["failed"]) == ("tiny", "noise", 12, [])
    assert record["logit_scale"] == pytest.approx(1 / 0.07) and record["logit_bias"] == -10
    assert record["identity"] == unit_identity(model, images) and unit.key == content_key(record["identity"])
    assert record["identity"]["model"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


def test_the_key_follows_every_input(tmp_path):
    images = noise_images(tmp_path / "images")
    spec = clip_spec(tmp_path)

    def key(spec=spec, images=images, **kwargs):
        return content_key(unit_identity(load_model(spec, device="cpu", **kwargs), images))

    base = key()
    (tmp_path / "copy").mkdir()
    assert key() == base
    assert key(clip_spec(tmp_path / "copy")) == base, "where the files lie does not matter"
    assert key(replace(spec, params_m=3.0, source="elsewhere")) == base, "facts do not matter"
    others = {
        "checkpoint": key(clip_spec(tmp_path, "tiny", seed=1)),
        "preprocessing": key(clip_spec(tmp_path, preprocess=HALF | {"mean": [0.4, 0.5, 0.5]})),
        "precision": key(clip_spec(tmp_path), precision="bf16"),
        "fewer images": key(clip_spec(tmp_path), images.subset(np.arange(11))),
        "labels": key(clip_spec(tmp_path), replace(images, labels=images.labels[::-1])),
        "name": key(clip_spec(tmp_path), replace(images, name="other")),
    }
    (tmp_path / "images" / "000.png").write_bytes((tmp_path / "images" / "000.png").read_bytes() + b"0")
    others["an image"] = key()
    assert len({base, *others.values()}) == 1 + len(others), others


def test_a_second_run_loads_no_network(tmp_path, monkeypatch):
    images = [noise_images(tmp_path / "a", name="a"), noise_images(tmp_path / "b", 3, name="b")]
    specs, store = [clip_spec(tmp_path), classifier_spec(tmp_path)], Store(tmp_path / "store")
    first = bits(evaluate(specs, images, store, **QUIET))

    def forbidden(*_, **__):
        raise AssertionError("the network was loaded")

    monkeypatch.setattr("open_clip.create_model", forbidden)
    monkeypatch.setattr("timm.create_model", forbidden)
    monkeypatch.setattr("clipsafe_utils.weights.file_digest", forbidden)
    assert bits(evaluate(specs, images, store, **QUIET)) == first and len(first) == 4
    with pytest.raises(AssertionError):
        evaluate(specs, [noise_images(tmp_path / "c", 2, name="c")], store, **QUIET)


def test_many_models_a_pass_equal_one_a_pass_and_decode_once(tmp_path, monkeypatch):
    images = noise_images(tmp_path / "images", 10)
    specs = [clip_spec(tmp_path, f"m{i}", seed=i) for i in range(3)] + [classifier_spec(tmp_path)]
    decoded = []
    decode = type(images).image
    monkeypatch.setattr(type(images), "image", lambda self, i: decoded.append(i) or decode(self, i))
    together = evaluate(specs, [images], Store(tmp_path / "together"), **QUIET)
    assert len(decoded) == 20, "once for the CLIPs, once for the classifier"
    alone = evaluate(specs, [images], Store(tmp_path / "alone"), models_per_pass=1, **QUIET)
    assert len(decoded) == 60
    assert bits(together) == bits(alone) and len({unit.key for unit in alone.values()}) == 4
    assert all(np.ptp(unit.array, axis=0).min() > 0 for unit in alone.values())


def test_workers_change_nothing(tmp_path):
    images = noise_images(tmp_path / "images", 30)
    (tmp_path / "images" / "011.png").write_bytes(b"broken")
    spec = clip_spec(tmp_path)
    runs = [
        bits(evaluate([spec], [images], Store(tmp_path / f"{n}"), **QUIET | {"workers": n, "progress": bool(n)}))
        for n in (0, 2)
    ]
    assert runs[0] == runs[1]


def test_unreadable_images_are_listed_and_left_out(tmp_path, real_dir):
    photos = load_images("imagenet_val", real_dir / "imagenet_sample", partial=True).subset(np.arange(6))
    for image_id in photos.image_ids:
        (tmp_path / image_id).parent.mkdir()
        (tmp_path / image_id).write_bytes((photos.root / image_id).read_bytes())
    ids = photos.image_ids
    (tmp_path / ids[1]).write_bytes((photos.root / ids[1]).read_bytes()[:3000])
    (tmp_path / ids[2]).write_text("no image")
    (tmp_path / ids[3]).write_bytes(b"")
    (tmp_path / ids[5]).unlink()
    images = replace(photos, root=tmp_path)
    spec, store = clip_spec(tmp_path), Store(tmp_path / "store")
    unit = evaluate([spec], [images], store, **QUIET)["tiny", photos.name]
    assert [failure["image_id"] for failure in unit.failed] == [ids[1], ids[2], ids[3], ids[5]]
    for failure, reason in zip(
        unit.failed, ("truncated", "cannot identify", "cannot identify", "No such"), strict=True
    ):
        assert reason in failure["error"] and failure["image_id"] in failure["error"]
    assert unit.record["n"] == len(unit.array) == 2 and unit.images["image_id"].tolist() == [ids[0], ids[4]]
    whole = evaluate([spec], [photos], Store(tmp_path / "whole"), **QUIET)["tiny", photos.name]
    np.testing.assert_allclose(unit.array, whole.array[[0, 4]], atol=1e-6)
    assert store.frame()["n_failed"].tolist() == [4]


def test_a_set_without_a_readable_image(tmp_path):
    images = noise_images(tmp_path / "images", 3)
    for image_id in images.image_ids:
        (tmp_path / "images" / image_id).write_bytes(b"")
    store = Store(tmp_path / "store")
    unit = evaluate([Means()], [images], store, **QUIET)["means", "noise"]
    assert unit.record["n"] == 0 and len(unit.failed) == 3 and unit.array.shape == (0, 0)
    assert len(unit.labels) == 0 and store.verify().empty
    assert bits(evaluate([Means()], [images], store, **QUIET)) == bits({("means", "noise"): unit})


def test_a_model_that_cannot_be_loaded_stops_the_run_or_is_named(tmp_path):
    images, store = noise_images(tmp_path / "images"), Store(tmp_path / "store")
    good = clip_spec(tmp_path, "good")
    missing = replace(good, id="missing", checkpoint=str(tmp_path / "none.pt"))
    misfit = clip_spec(tmp_path, "misfit", embed_dim=8, checkpoint=good.checkpoint)
    with pytest.raises(ClipsafeError) as error:
        evaluate([missing, good], [images], store, **QUIET)
    assert str(error.value) == f"checkpoint of model 'missing' is not there: {tmp_path / 'none.pt'}."
    with pytest.raises(ClipsafeError, match=r"does not fit 'misfit' \(model 'misfit'\)"):
        evaluate([misfit, good], [images], store, **QUIET)
    assert len(store) == 0
    units = evaluate([missing, misfit, good], [images], store, on_error="skip", **QUIET)
    assert len(store) == 1 and units["good", "noise"].record["n"] == 12
    assert "is not there" in str(units["missing", "noise"]) and "does not fit" in str(units["misfit", "noise"])
    with pytest.raises(ClipsafeError, match=r"^unknown on_error 'ignore'"):
        evaluate([good], [images], store, on_error="ignore", **QUIET)


def test_two_names_for_the_same_weights_share_a_unit(tmp_path):
    images, store = noise_images(tmp_path / "images"), Store(tmp_path / "store")
    log = tmp_path / "log"
    units = evaluate([Means("a", log=log), Means("b", log=log)], [images], store, **QUIET)
    assert units["a", "noise"].key == units["b", "noise"].key and len(store) == 1
    assert len(log.read_text().splitlines()) == 3


def test_names_must_differ(tmp_path):
    images, store = noise_images(tmp_path / "images"), Store(tmp_path / "store")
    with pytest.raises(ClipsafeError) as error:
        evaluate([Means(), Means(factor=2)], [images], store, **QUIET)
    assert str(error.value) == "two models are called 'means'; names key the results, so each needs its own."
    with pytest.raises(ClipsafeError, match=r"^two image sets are called 'noise'"):
        evaluate([Means()], [images, images], store, **QUIET)
    assert evaluate([], [images], store) == {} and evaluate([Means()], [], store) == {}


def test_too_little_memory_is_said(tmp_path):
    class Greedy(Means):
        def encode_images(self, pixels):
            raise torch.OutOfMemoryError("CUDA out of memory")

    store = Store(tmp_path / "store")
    with pytest.raises(ClipsafeError) as error:
        evaluate([Greedy("greedy")], [noise_images(tmp_path / "images")], store, **QUIET)
    assert str(error.value) == (
        "cpu has no memory left for model 'greedy' at batch size 4; finished units are kept: lower `batch_size`, and "
        "run again."
    )
    assert len(store) == 0 and list((store.path / "tmp").iterdir()) == []


MODELS = [("a", 1.0), ("b", 2.0)]


def run_until(moment, path, images, reached, workers):
    """A run that stops for a minute at a moment, for the test to kill it there."""
    a, b = images

    def stop(method):
        def stopped(*args, **kwargs):
            reached.set()
            time.sleep(60)
            return method(*args, **kwargs)

        return stopped

    if moment == "first image":
        a = Slow(a, 0, reached)
    elif moment == "last image":
        a = Slow(a, len(a) - 1, reached)
    elif moment == "second set":
        b = Slow(b, 5, reached)
    elif moment == "table of images":
        pd.DataFrame.to_parquet = stop(pd.DataFrame.to_parquet)
    elif moment == "rename":
        type(path).rename = stop(type(path).rename)
    elif moment == "after finish":
        UnitWriter.finish = (lambda finish: lambda *args: (finish(*args), stop(finish)()))(UnitWriter.finish)
    evaluate([Means(*m) for m in MODELS], [a, b], Store(path), **QUIET | {"workers": workers})


@pytest.mark.parametrize(
    ("moment", "finished", "workers"),
    [
        ("first image", 0, 0),
        ("last image", 0, 0),
        ("table of images", 0, 0),
        ("after finish", 0, 0),
        ("rename", 0, 0),
        ("second set", 2, 0),
        ("second set", 2, 2),
    ],
)
def test_kill_9_loses_only_what_is_in_flight(tmp_path, moment, finished, workers):
    images = [noise_images(tmp_path / "a", 10, "a"), noise_images(tmp_path / "b", 9, "b")]
    undisturbed = bits(evaluate([Means(*m) for m in MODELS], images, Store(tmp_path / "undisturbed"), **QUIET))
    reached = fork.Event()
    process = fork.Process(target=run_until, args=(moment, tmp_path / "store", images, reached, workers))
    process.start()
    assert reached.wait(60)
    process.kill()
    process.join()
    store, log = Store(tmp_path / "store"), tmp_path / "log"
    assert len(store) == finished and store.verify().empty
    started = time.monotonic()
    again = evaluate([Means(*m, log=log) for m in MODELS], images, store, **QUIET)
    assert time.monotonic() - started < 30, "a worker of the killed run held the lock"
    assert bits(again) == undisturbed and store.verify().empty and len(store) == 4
    assert list((store.path / "tmp").iterdir()) == [], "what the killed run left is gone"
    assert log.read_text().count("a ") == (3 if finished else 6), "finished units are not computed again"


def run_and_tell(path, images, log, reached, queue):
    units = evaluate([Means(*m, log=log) for m in MODELS], [Slow(images, 3, reached, 1)], Store(path), **QUIET)
    queue.put(bits(units))


def test_two_processes_that_want_the_same_units_share_them(tmp_path):
    images, log = noise_images(tmp_path / "images"), tmp_path / "log"
    reached, queue = fork.Event(), fork.Queue()
    processes = [
        fork.Process(target=run_and_tell, args=(tmp_path / "store", images, log, reached, queue)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert results[0] == results[1] == results[2] and len(results[0]) == 2
    assert log.read_text().count("a 4") == log.read_text().count("b 4") == 3, "three batches a model, once"


def test_bf16_is_near_float32(tmp_path):
    images, spec = noise_images(tmp_path / "images"), clip_spec(tmp_path)
    arrays = [
        evaluate([load_model(spec, device="cpu", precision=p)], [images], Store(tmp_path / "store"), **QUIET)
        for p in ("float32", "bf16")
    ]
    full, half = (units["tiny", "noise"].array for units in arrays)
    assert half.dtype == np.float32 and 0 < np.abs(full - half).max() < 0.03 * np.abs(full).max()


def test_a_changed_checkpoint_is_never_met_by_a_stale_unit(tmp_path):
    images, spec, store = noise_images(tmp_path / "images"), clip_spec(tmp_path), Store(tmp_path / "store")
    before = evaluate([spec], [images], store, **QUIET)["tiny", "noise"].array.copy()
    save_file({k: v * 1.5 for k, v in load_file(spec.checkpoint).items()}, spec.checkpoint)
    after = evaluate([spec], [images], store, **QUIET)["tiny", "noise"].array
    assert len(store) == 2 and np.abs(before - after).max() > 1e-3


def test_units_of_one_pass_share_its_time(tmp_path):
    class Slower(Means):
        def encode_images(self, pixels):
            time.sleep(0.1)
            return super().encode_images(pixels)

    started = time.perf_counter()
    units = evaluate([Means(), Slower("slow", 2.0)], [noise_images(tmp_path / "noise", 12)], Store(tmp_path), **QUIET)
    elapsed = time.perf_counter() - started
    quick, slow = (units[name, "noise"].record["seconds"] for name in ("means", "slow"))
    assert slow - quick > 0.2 and 0 < quick + slow < elapsed


def test_a_cpu_takes_a_batch_in_portions(tmp_path, monkeypatch):
    images = noise_images(tmp_path / "noise", 7)
    sizes = {}
    for name, at_once in (("whole", 100), ("two", 2), ("less than one", 0.5)):
        monkeypatch.setattr("clipsafe_utils.inference._CACHED", int(at_once * 3 * 4 * 4))
        model = Means(log=tmp_path / name)
        unit = evaluate([model], [images], Store(tmp_path / f"store {name}"), **QUIET)["means", "noise"]
        sizes[name] = [int(line.split()[1]) for line in model.log.read_text().splitlines()]
        whole = model.encode_images(torch.stack([model.transform(images.image(i)) for i in range(7)]))
        np.testing.assert_allclose(unit.array, whole, rtol=1e-6)
        assert unit.images["image_id"].tolist() == list(images.image_ids)
    assert sizes == {"whole": [4, 3], "two": [2, 2, 2, 1], "less than one": [1] * 7}
