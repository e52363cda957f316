"""Image sets in tar shards: the same ids, labels, manifest, pixels and units as in folders."""

import io
import json
import tarfile

import numpy as np
import pandas as pd
import pytest
from test_datasets import refused, vid_robust, write
from tiny import clip_spec

from clipsafe_utils.datasets import imagenet_wnids, load_images
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.inference import evaluate, unit_identity
from clipsafe_utils.models import load_model
from clipsafe_utils.store import Store

WNIDS = imagenet_wnids()
PARTIAL = {"partial": True}


def shards(folder, members, n=3):
    """Write (name, bytes) members into n tar files, dealt round, with the litter that tar and macOS leave."""
    folder.mkdir(parents=True)
    for k in range(n):
        with tarfile.open(folder / f"{k:06}.tar", "w") as tar:
            for name in ("./._x.JPEG", "./.DS_Store", "__MACOSX/n01440764/a.JPEG"):
                add(tar, name, b"litter")
            for name, content in members[k::n]:
                add(tar, name, content)
    return folder


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def plain(root):
    """Members of `tar cf X.tar .` in a folder, in no order."""
    files = [path for path in root.rglob("*") if path.is_file()]
    np.random.default_rng(1).shuffle(files)
    return [(f"./{path.relative_to(root).as_posix()}", path.read_bytes()) for path in files]


def samples(root, **sides):
    """Members as WebDataset's writer orders them: KEY.jpg, then KEY.SIDE for each side, a function of the path."""
    members = []
    for k, path in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        name = path.relative_to(root)
        sample = {"jpg": path.read_bytes()} | {side: make(name).encode() for side, make in sides.items()}
        members.append([(f"{k:09}.{side}", content) for side, content in sample.items()])
    return members


def in_shards(folder, members, n=2):
    """Samples stay together in a shard."""
    for k in range(n):
        shards(folder / f"part{k}", [member for sample in members[k::n] for member in sample], 1)
        (folder / f"part{k}" / "000000.tar").rename(folder / f"{k}.tar")
        (folder / f"part{k}").rmdir()
    return folder


def assert_same(found, expected):
    assert found.image_ids == expected.image_ids and len(found) > 3
    assert found.labels.tolist() == expected.labels.tolist() and found.space == expected.space
    assert found.manifest(deep=True) == expected.manifest(deep=True)
    for i in (0, len(found) - 1):
        np.testing.assert_array_equal(np.asarray(found.image(i)), np.asarray(expected.image(i)))
    if expected.annotations is not None:
        pd.testing.assert_frame_equal(found.annotations, expected.annotations)


@pytest.fixture(scope="module")
def photos(real_dir, tmp_path_factory):
    """A folder of the real layout, its photos told apart by their names."""
    root = tmp_path_factory.mktemp("val")
    for k in range(0, 1000, 125):
        photo = next((real_dir / "imagenet_sample" / WNIDS[k]).iterdir())
        (root / WNIDS[k]).mkdir()
        (root / WNIDS[k] / f"ILSVRC2012_val_{k:08}.JPEG").write_bytes(photo.read_bytes())
    return root


def test_a_tarred_folder_is_that_folder(photos, tmp_path):
    expected = load_images("imagenet_val", photos, **PARTIAL)
    assert_same(load_images("imagenet_val", shards(tmp_path / "three", plain(photos)), **PARTIAL), expected)
    (single,) = shards(tmp_path / "one", plain(photos), 1).iterdir()
    found = load_images("imagenet_val", single, **PARTIAL)
    assert_same(found, expected)
    assert str(single) in repr(found)
    assert_same(load_images("mine", single, kind="folder"), load_images("mine", photos, kind="folder"))


SIDES = {
    "index, file name": {
        "cls": lambda p: str(WNIDS.index(p.parent.name)),
        "json": lambda p: f'{{"filename": "{p.name}"}}',
    },
    "WordNet id, text": {"cls": lambda p: p.parent.name + "\n", "txt": lambda p: p.name + "\n"},
    "path": {"json": lambda p: json.dumps({"path": str(p), "width": 3})},
    "path of another machine": {"cls": lambda p: "7", "json": lambda p: f'{{"path": "/data/val/{p}"}}'},
}


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
def test_samples_have_their_original_names_again(sides, photos, tmp_path):
    root = in_shards(tmp_path / "shards", samples(photos, **sides))
    assert_same(load_images("imagenet_val", root, **PARTIAL), load_images("imagenet_val", photos, **PARTIAL))


def test_samples_without_names_keep_key_and_class(photos, tmp_path):
    sides = {"cls": lambda p: str(WNIDS.index(p.parent.name)), "txt": lambda p: "a photo of a fish."}
    root = in_shards(tmp_path / "shards", samples(photos, **sides))
    found = load_images("imagenet_val", root, **PARTIAL)
    assert found.image_ids[:2] == ("n01440764/000000000.jpg", f"{WNIDS[125]}/000000001.jpg")
    assert found.labels.tolist() == list(range(0, 1000, 125))
    v2 = load_images("imagenet_v2_matched_frequency", root, **PARTIAL)
    assert v2.labels.tolist() == found.labels.tolist() and v2.image_ids[1] == "125/000000001.jpg"
    refused("imagenet_r", root, **PARTIAL, match="unexpected folders 0, 125, ")


def test_metadata_and_annotations_come_along(real_dir, tmp_path):
    vid_robust(tmp_path / "vid")
    expected = load_images("imagenet_vid_robust", tmp_path / "vid", **PARTIAL)
    found = load_images("imagenet_vid_robust", shards(tmp_path / "vid-shards", plain(tmp_path / "vid")), **PARTIAL)
    assert_same(found, expected)
    stimuli = real_dir / "cue_conflict"
    found = load_images("cue_conflict", shards(tmp_path / "cues", plain(stimuli), 4))
    assert_same(found, load_images("cue_conflict", stimuli))


def test_flat_shards_files_without_suffix_and_upper_case(tmp_path):
    root = write(tmp_path / "flat", "a.JPG", "b", "deep/er/c.png")
    (root / "notes.md").write_text("no image")
    ood = {"kind": "folder", "is_ood": True}
    found = load_images("x", shards(tmp_path / "shards", plain(root), 2), **ood)
    assert found.image_ids == load_images("x", root, **ood).image_ids == ("a.JPG", "b", "deep/er/c.png")


def test_what_a_model_says_of_shards_is_what_it_says_of_the_folder(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))
    model = load_model(clip_spec(tmp_path), device="cpu")
    folder = load_images("imagenet_val", photos, **PARTIAL)
    tarred = load_images("imagenet_val", shards(tmp_path / "shards", plain(photos)), **PARTIAL)
    assert unit_identity(model, folder) == unit_identity(model, tarred)
    quiet = {"progress": False, "batch_size": 2}
    pair = model.spec.id, "imagenet_val"
    one = evaluate([model], [folder], Store(tmp_path / "folder"), workers=0, **quiet)[pair]
    other = evaluate([model], [tarred], Store(tmp_path / "tar"), workers=2, **quiet)[pair]
    assert one.key == other.key and one.failed == other.failed == []
    np.testing.assert_array_equal(one.array, other.array)


def test_damaged_shards_are_named(photos, tmp_path):
    root = shards(tmp_path / "shards", plain(photos))
    first = root / "000000.tar"
    whole = first.read_bytes()
    with tarfile.open(first) as tar:
        ends = [member.offset for member in tar][-2:]
    for length, reason in (
        (3000, "unexpected end"),
        (ends[1], "its end is missing"),
        (ends[1] + 700, "unexpected end"),
    ):
        first.write_bytes(whole[:length])
        said = refused("imagenet_val", root, **PARTIAL, match=rf"cannot be read \({reason}.*\); fetch it again")
        assert str(first) in said
    with tarfile.open(first, "w:gz"):
        pass
    refused("imagenet_val", root, **PARTIAL, match=r"cannot be read \(.*\); fetch it again, and decompress it")
    first.write_bytes(whole)
    (root / "again.tar").write_bytes(whole)
    refused("imagenet_val", root, **PARTIAL, match=r"\d\.JPEG comes twice, in 000000\.tar and in again\.tar")
    (root / "again.tar").unlink()
    refused("imagenet_val", root, match="found 8 images of 8 classes, missing .* Unpack it completely")
    images = load_images("imagenet_val", root, **PARTIAL)
    first.unlink()
    failed = []
    for i in range(len(images)):
        try:
            images.image(i)
        except OSError as error:
            failed.append(str(error))
    assert len(failed) == 3 and all(str(first) in message for message in failed)


def test_a_class_beyond_the_last_is_refused(photos, tmp_path):
    root = in_shards(tmp_path / "shards", samples(photos, cls=lambda p: "1000"))
    with pytest.raises(ClipsafeError, match=r"0\.tar has an image of class 1000; expected 0 \.\.\. 999\."):
        load_images("imagenet_val", root, **PARTIAL)
