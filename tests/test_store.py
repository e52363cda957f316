"""Units and heads on disk: whole or not at all, read back as written, damage found."""

import errno
import multiprocessing
import os
import subprocess
import sys
import time

import fsspec
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


# -- behind an URL -----------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """URL of an empty store, and the file system behind it; each call of `machine` forgets what was copied here."""
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.rm("/bucket", recursive=True) if system.exists("/bucket") else None
    return "memory://bucket/store", system


def another_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / f"cache-{os.urandom(4).hex()}"))


def test_an_url_holds_what_a_folder_holds(bucket, tmp_path, monkeypatch):
    url, _ = bucket
    rows, images = put(Store(url), failed=[{"image_id": "x.png", "error": "truncated"}])
    put(Store(url), "k2", n=0, model="b")
    assert Store(url).head({"names": "a"}, lambda: {"weights": np.eye(2)})["weights"].shape == (2, 2)
    another_machine(tmp_path, monkeypatch)
    store = Store(url)
    assert repr(store) == f"Store('{url}', 2 units)" and "k1" in store and "k3" not in store
    unit = store.load("k1")
    assert not (unit.path / "array.safetensors").exists(), "nothing is fetched before it is asked for"
    assert unit.failed[0]["image_id"] == "x.png" and store.frame()["n"].tolist() == [5, 0]
    assert not (unit.path / "array.safetensors").exists()
    assert isinstance(unit.array, np.memmap)
    np.testing.assert_array_equal(unit.array, rows)
    pd.testing.assert_frame_equal(unit.images, images, check_dtype=False)
    assert store.query("select key, count(*) n from images group by key").to_dict("list") == {"key": ["k1"], "n": [5]}
    np.testing.assert_array_equal(store.head({"names": "a"}, None)["weights"], np.eye(2))
    assert store.verify().empty and list((store.path / "tmp").iterdir()) == []
    with pytest.raises(ClipsafeError, match=rf"^no unit 'k3' in {url}; 2 are there"):
        store.load("k3")


@pytest.mark.parametrize("uploads", [0, 1, 2])
def test_an_upload_that_breaks_off_leaves_no_unit(bucket, tmp_path, monkeypatch, uploads):
    url, system = bucket
    done, put_file = [], type(system).put_file

    def break_off(self, *arguments, **options):
        if len(done) == uploads:
            raise TimeoutError("the line is dead")
        done.append(arguments)
        return put_file(self, *arguments, **options)

    monkeypatch.setattr(type(system), "put_file", break_off)
    store = Store(url)
    with pytest.raises(ClipsafeError) as error:
        put(store)
    assert str(error.value).startswith(f"the store {url} cannot be used: the line is dead. What is finished is kept: ")
    monkeypatch.undo()
    another_machine(tmp_path, monkeypatch)
    assert len(system.find("/bucket")) == uploads and "k1" not in store and store.keys() == [] and len(Store(url)) == 0
    rows, _ = put(Store(url))
    another_machine(tmp_path, monkeypatch)
    np.testing.assert_array_equal(Store(url).load("k1").array, rows)
    assert Store(url).verify().empty


def test_two_machines_that_write_one_unit_leave_a_whole_one(bucket, tmp_path, monkeypatch):
    """Their bits may differ in the last place: data and record must still be of the same hand."""
    url, _ = bucket
    put(Store(url), n=5)
    first = Store(url).load("k1")
    another_machine(tmp_path, monkeypatch)
    put(Store(url), n=4)
    assert len(first.array) == 5 and len(Store(url).load("k1").array) == 4, "what was begun is read to its end"
    another_machine(tmp_path, monkeypatch)
    assert Store(url).load("k1").array.shape == (4, 3) and Store(url).verify().empty


def test_damage_behind_an_url_is_found(bucket, tmp_path, monkeypatch):
    url, system = bucket
    for key in ("cut", "gone", "good"):
        put(Store(url), key, n=len(key))
    for path in system.find("/bucket"):
        if "/cut/" in path and path.endswith("parquet"):
            system.pipe_file(path, system.cat_file(path)[:-3])
        if "/gone/" in path and path.endswith("safetensors"):
            system.rm_file(path)
    another_machine(tmp_path, monkeypatch)
    assert Store(url).verify()["key"].tolist() == ["cut", "gone"]
    with pytest.raises(ClipsafeError, match=r"^unit gone is damaged: "):
        _ = Store(url).load("gone").array


@pytest.mark.parametrize(("url", "reason"), [("s33://b/x", "Protocol not known: s33"), ("s3://b/x", "Install s3fs")])
def test_an_url_that_nothing_opens_is_one_line(url, reason, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ClipsafeError) as error:
        Store(url)
    assert str(error.value).startswith(f"the store {url} cannot be used: {reason}") and "\n" not in str(error.value)


def test_a_file_url_is_a_folder(tmp_path):
    put(Store(f"file://{tmp_path}/store"))
    assert Store(tmp_path / "store").keys() == ["k1"]


@pytest.mark.parametrize("remote", [False, True])
def test_answers_take_the_place_of_an_array(remote, bucket, tmp_path, monkeypatch):
    place = bucket[0] if remote else tmp_path / "store"
    store = Store(place)
    _, images = put(store, failed=[{"image_id": "x.png", "error": "truncated"}])
    store.keep_answers(store.load("k1"), {"a": np.arange(5), "b": (np.array(0.1), np.array([True]))})
    another_machine(tmp_path, monkeypatch)
    store = Store(place)
    assert store.keys() == ["k1-answers"] and "k1" not in store and store.verify().empty
    unit = store.load("k1-answers")
    assert unit.key == "k1" and not unit.has_array and unit.failed[0]["image_id"] == "x.png"
    pd.testing.assert_frame_equal(unit.images, images, check_dtype=False)
    assert unit.answer("a").tolist() == [0, 1, 2, 3, 4] and unit.answer("c") is None
    number, flags = unit.answer("b")
    assert number.shape == () and number == 0.1 and flags.tolist() == [True]
    rows, _ = put(store)  # a later question needs the outputs again
    np.testing.assert_array_equal(store.load("k1").array, rows)
    store.keep_answers(store.load("k1"), {"c": np.zeros(2)})
    assert store.keys() == ["k1-answers"] and store.frame()["bytes"].between(1, 1000).all()
    another_machine(tmp_path, monkeypatch)
    unit = Store(place).load("k1-answers")
    assert unit.answer("a").tolist() == [0, 1, 2, 3, 4] and unit.answer("c").tolist() == [0, 0]
    if remote:
        names = [path.rpartition("/")[2].partition(".")[2] for path in bucket[1].find("/bucket/store/units")]
        assert "array.safetensors" not in names, "and the bucket pays for no array"
