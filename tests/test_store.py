"""Units and heads on disk: whole or not at all, read back as written, damage found."""

import errno
import multiprocessing
import os
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from clipsafe_utils.content import content_key
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.store import Store


def put(store, key="k1", n=5, width=3, **record):
    """A finished unit of numbers that say where they are."""
    rows = np.arange(n * width, dtype=np.float32).reshape(n, width) if n else np.zeros((0, 0), np.float32)
    images = pd.DataFrame({"image_id": [f"{i}.png" for i in range(n)], "label": np.arange(n) % 2})
    record = {"model": "m", "image_set": "s", "failed": [], "seconds": 1.5} | record
    with store.lock(key), store.writer(key, "logits") as writer:
        for start in range(0, n, 2):
            writer.append(rows[start : start + 2])
        writer.finish(images, record)
    return rows, images


def test_a_unit_is_read_back_as_written(tmp_path):
    store = Store(tmp_path / "deep" / "store")
    rows, images = put(store, failed=[{"image_id": "x.png", "error": "truncated"}])
    unit = Store(tmp_path / "deep" / "store").load("k1")
    assert isinstance(unit.array, np.memmap) and not unit.array.flags.writeable and unit.array.dtype == np.float32
    np.testing.assert_array_equal(unit.array, rows)
    np.testing.assert_array_equal(load_file(unit.path / "array.safetensors")["logits"], rows)
    pd.testing.assert_frame_equal(unit.images, images, check_dtype=False)
    assert unit.labels.tolist() == [0, 1, 0, 1, 0] and unit.kind == "logits" and unit.failed[0]["image_id"] == "x.png"
    assert "k1" in store and "k2" not in store and store.keys() == ["k1"] and len(store) == 1
    assert list((store.path / "tmp").iterdir()) == []


def test_a_unit_without_images(tmp_path):
    store = Store(tmp_path)
    put(store, n=0)
    unit = store.load("k1")
    assert unit.array.shape == (0, 0) and len(unit.images) == 0 and store.verify().empty
    assert load_file(unit.path / "array.safetensors")["logits"].size == 0


def test_a_unit_that_is_not_finished_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    with store.lock("k1"), store.writer("k1", "logits") as writer:
        writer.append(np.ones((2, 2)))
    with pytest.raises(KeyError), store.lock("k1"), store.writer("k1", "logits") as writer:
        writer.append(np.ones((2, 2)))
        raise KeyError
    assert [*(store.path / "units").iterdir(), *(store.path / "tmp").iterdir()] == []


def test_frame_and_query(tmp_path):
    store = Store(tmp_path)
    assert store.frame().empty and store.query("select * from images").empty
    put(store, "k1", model="a")
    put(store, "k2", n=3, model="b", failed=[{"image_id": "x", "error": "y"}])
    put(store, "k3", n=0, model="c")
    frame = store.frame().set_index("key")
    assert frame.loc["k1", ["model", "image_set", "kind", "n", "n_failed", "width", "seconds"]].tolist() == [
        *("a", "s", "logits", 5, 0, 3, 1.5)
    ]
    assert (
        frame["n"].tolist() == [5, 3, 0] and frame["n_failed"].tolist() == [0, 1, 0] and frame["bytes"].gt(1000).all()
    )
    counts = store.query("select model, count(*) as n from units join images using (key) group by model order by model")
    assert counts.to_dict("list") == {"model": ["a", "b"], "n": [5, 3]}
    with pytest.raises(
        ClipsafeError, match=r"^the store cannot answer 'select modle from units': Binder Error: .*modle"
    ):
        store.query("select modle from units")


@pytest.mark.parametrize("file", ["array.safetensors", "images.parquet"])
def test_verify_finds_a_flipped_byte(tmp_path, file):
    store = Store(tmp_path)
    put(store, "good")
    put(store, "bad")
    assert store.verify().empty
    path = tmp_path / "units" / "bad" / file
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    problems = store.verify()
    assert problems["key"].unique().tolist() == ["bad"]
    assert problems["problem"].item() == f"{file} has changed since it was written"


def test_damage_is_named(tmp_path):
    store = Store(tmp_path)
    for key in ("cut", "broken", "gone"):
        put(store, key)
    cut = tmp_path / "units" / "cut"
    (cut / "array.safetensors").write_bytes((cut / "array.safetensors").read_bytes()[:-4])
    (tmp_path / "units" / "broken" / "record.json").write_text("{")
    (tmp_path / "units" / "gone" / "images.parquet").unlink()
    assert sorted(store.verify()["key"].unique()) == ["broken", "cut", "gone"]
    with pytest.raises(ClipsafeError) as error:
        _ = store.load("cut").array
    assert str(error.value) == (
        f"unit cut is damaged: {cut / 'array.safetensors'} cannot be read. Delete {cut} and run again."
    )
    with pytest.raises(ClipsafeError) as error:
        store.load("broken")
    assert str(error.value) == (
        f"unit broken has a broken record. Delete {tmp_path / 'units' / 'broken'} and run again."
    )
    with pytest.raises(ClipsafeError) as error:
        store.load("none")
    assert str(error.value) == f"no unit 'none' in {tmp_path}; 3 are there, see Store.frame()."


def test_a_head_is_computed_once(tmp_path):
    store, calls = Store(tmp_path), []

    def compute():
        calls.append(1)
        return {"weights": np.eye(3, dtype=np.float32)[:, ::-1], "logit_scale": np.float32([100])}

    identity = {"names": ["a"], "templates": ["{}"]}
    head = store.head(identity, compute)
    np.testing.assert_array_equal(Store(tmp_path).head(identity, compute)["weights"], head["weights"])
    np.testing.assert_array_equal(head["weights"], np.eye(3)[:, ::-1])
    assert len(calls) == 1
    store.head(identity | {"names": ["b"]}, compute)
    assert len(calls) == 2 and len(list((tmp_path / "heads").iterdir())) == 2
    damaged = tmp_path / "heads" / f"{content_key(identity)}.safetensors"
    damaged.write_bytes(b"no head")
    with pytest.raises(ClipsafeError) as error:
        store.head(identity, compute)
    assert str(error.value) == f"the zero-shot head {damaged} is damaged. Delete it and run again."


REMEDY = (
    "What is finished is kept: free space or change permissions there, or choose another `outputs` folder, and run "
    "again."
)


def test_a_store_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "file" / "store", "not a directory"), (tmp_path / "file", "not a directory")):
        with pytest.raises(ClipsafeError) as error:
            Store(path)
        assert str(error.value) == f"cannot write {path}: {reason}. {REMEDY}"


def test_a_store_without_write_permission_is_refused(tmp_path, monkeypatch):
    Store(tmp_path)
    if os.geteuid():
        (tmp_path / "tmp").chmod(0o555)
    else:  # nothing is forbidden to root
        monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ClipsafeError) as error:
        Store(tmp_path)
    assert str(error.value) == f"cannot write {tmp_path}: permission denied. {REMEDY}"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 128 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("n", [20_000, 2_000])
def test_a_full_disk_keeps_what_is_finished(small_disk, n):
    store = Store(small_disk / "store")
    rows, _ = put(store, "small")
    with pytest.raises(ClipsafeError) as error, store.lock("large"), store.writer("large", "logits") as writer:
        # Either the array is too large, or it fits just so and the table of images does not.
        writer.append(np.ones((n, 15)))
        writer.finish(pd.DataFrame({"image_id": [os.urandom(20).hex() for _ in range(n)], "label": 0}), {})
    assert str(error.value).endswith(f": no space left on device. {REMEDY}")
    with pytest.raises(ClipsafeError, match="no space left on device"):
        store.head({}, lambda: {"weights": np.ones(50_000)})
    assert store.keys() == ["small"] and store.verify().empty and list((store.path / "tmp").iterdir()) == []
    assert list((store.path / "heads").iterdir()) == []
    np.testing.assert_array_equal(store.load("small").array, rows)
    put(store, "another")
    assert store.keys() == ["another", "small"]


def test_a_full_disk_at_the_last_moment(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClipsafeError, match="no space left on device"):
        put(store)
    assert len(store) == 0 and list((store.path / "tmp").iterdir()) == []


def hold(path, key, held):
    with Store(path).lock(key):
        held.set()
        time.sleep(60)


def test_a_lock_excludes_others_and_dies_with_its_process(tmp_path):
    fork = multiprocessing.get_context("fork")
    held, waited = fork.Event(), []
    process = fork.Process(target=hold, args=(tmp_path, "k", held))
    process.start()
    assert held.wait(30)
    with Store(tmp_path).lock("other"):
        pass

    def waiting():
        waited.append(process.is_alive())
        process.kill()

    with Store(tmp_path).lock("k", waiting):
        assert waited == [True]
    process.join()
