"""Image sets on generated trees of the real layouts, with their traps, and on real photos."""

import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipsafe_utils.datasets import (
    ALL_FACTORS,
    FACTORS,
    NO_CLASSES,
    ImageSet,
    LabelSpace,
    factor_annotations,
    image_set_names,
    imagenet_space,
    imagenet_wnids,
    known_image_sets,
    load_factor_annotations,
    load_images,
)
from clipsafe_utils.datasets.spaces import package_file
from clipsafe_utils.errors import ClipsafeError

WNIDS = imagenet_wnids()


def write(root, *names, size=(8, 6), color=(200, 30, 60), mode="RGB", **options):
    """Write tiny images under their names; the suffix decides the format, JPEG if there is none."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix.lower()
        kind = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}.get(suffix, "JPEG")
        Image.new(mode, size, color).save(path, kind, **options)
    return root


def touch(root, names):
    """Empty files: enough for listings, which open no image."""
    for folder in {os.path.dirname(name) for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()
    return root


def refused(*arguments, match, **options):
    """The one-line message with which a load is refused."""
    with pytest.raises(ClipsafeError, match=match) as error:
        load_images(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Label spaces


def test_full_space_is_the_identity_and_copies_nothing(rng):
    logits = rng.normal(size=(3, 1000))
    assert imagenet_space().reduce(logits) is logits
    assert NO_CLASSES.reduce(logits) is logits


@pytest.mark.parametrize("subset", ["a", "r"])
def test_200_class_masks_equal_timms_index_lists(subset, rng):
    indices = np.loadtxt(package_file("timm", "data", "_info", f"imagenet_{subset}_indices.txt"), dtype=int)
    space, logits = imagenet_space(subset), rng.normal(size=(4, 1000))
    assert len(space) == 200
    np.testing.assert_array_equal(space.reduce(logits), logits[:, np.sort(indices)])
    assert [WNIDS[members[0]] for members in space.members] == list(space.names)


def test_reduction_takes_the_maximum_over_members(rng):
    space = LabelSpace("imagenet1k", ("dog", "one", "pair"), (tuple(range(151, 269)), (7,), (999, 0)))
    logits = rng.normal(size=(5, 1000))
    slow = np.array([[max(row[i] for i in members) for members in space.members] for row in logits])
    np.testing.assert_array_equal(space.reduce(logits), slow)


def test_a_permuted_full_space_is_not_mistaken_for_the_identity(rng):
    space = LabelSpace("imagenet1k", WNIDS[::-1], tuple((k,) for k in range(999, -1, -1)))
    logits = rng.normal(size=(2, 1000))
    np.testing.assert_array_equal(space.reduce(logits), logits[:, ::-1])


def test_reduction_refuses_other_outputs():
    with pytest.raises(ClipsafeError, match=r"21,841 columns.*1,000"):
        imagenet_space("a").reduce(np.zeros((1, 21841)))
    with pytest.raises(ClipsafeError, match="needs 2"):
        LabelSpace("", ("cat", "dog")).reduce(np.zeros((1, 1000)))
    own = LabelSpace("mine", ("cat", "dog"), ((0,), (3,)))  # an output space this package does not know
    assert own.reduce(np.array([[1, 2, 3, 4, 5]])).tolist() == [[1, 4]]
    with pytest.raises(ClipsafeError, match="3 columns, this label space needs 4"):
        own.reduce(np.zeros((1, 3)))
    with pytest.raises(ClipsafeError, match="at least one output"):
        LabelSpace("imagenet1k", ("cat",), ((),))
    with pytest.raises(ClipsafeError, match="unknown ImageNet subset 'b'"):
        imagenet_space("b")


# ImageNet and its variants


def test_importing_is_light():
    code = "import sys, clipsafe_utils.datasets; sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_registry_is_complete():
    known = known_image_sets()
    assert len(image_set_names()) == 16
    images = {name: known[name].images for name in known}
    assert images["imagenet_val"] == 50_000 and images["objectnet"] == 18_574 and images["imagenet_sketch"] == 50_889
    assert [name for name in known if known[name].is_ood] == [
        *("imagenet_o", "inaturalist", "sun", "places", "textures")
    ]
    assert all(row.licence and row.source and row.tree.startswith("root") for row in known.values())


def test_labels_come_from_wordnet_ids(tmp_path):
    write(tmp_path, f"{WNIDS[999]}/a.JPEG", f"{WNIDS[2]}/b.JPEG", f"{WNIDS[2]}/a.JPEG")
    images = load_images("imagenet_val", tmp_path, partial=True)
    assert images.image_ids == (f"{WNIDS[2]}/a.JPEG", f"{WNIDS[2]}/b.JPEG", f"{WNIDS[999]}/a.JPEG")
    assert images.labels.tolist() == [2, 2, 999] and images.labels.dtype == np.int64
    assert images.space == imagenet_space() and not images.is_ood and len(images) == 3


def test_subsets_label_within_their_200_classes(tmp_path):
    wnid = imagenet_wnids("a")[5]
    write(tmp_path, f"{wnid}/x.jpg")
    images = load_images("imagenet_a", tmp_path, partial=True)
    assert images.space.names[images.labels[0]] == wnid and len(images.space) == 200
    outside = sorted(set(WNIDS) - set(imagenet_wnids("a")))[0]
    write(tmp_path, f"{outside}/x.jpg")
    refused("imagenet_a", tmp_path, partial=True, match=f"unexpected folders {outside};.*200 folders")


def test_numeric_folders_are_sorted_as_numbers(tmp_path):
    touch(tmp_path, [f"{k}/a.jpeg" for k in range(1000) if k != 7])
    images = load_images("imagenet_v2_matched_frequency", tmp_path, partial=True)
    assert images.labels.tolist() == [k for k in range(1000) if k != 7]
    assert [image_id.split("/")[0] for image_id in images.image_ids[:5]] == ["0", "1", "2", "3", "4"]
    refused(
        "imagenet_v2_top_images", tmp_path, match=r"found 999 images of 999 classes, missing 7/; expected .* 10,000"
    )


def test_numeric_folders_may_be_padded_but_not_twice(tmp_path):
    write(tmp_path, "0002/a.jpeg", "0010/a.jpeg", "0100/a.jpeg")
    images = load_images("imagenet_v2_threshold07", tmp_path, partial=True)
    assert images.labels.tolist() == [2, 10, 100]
    write(tmp_path, "2/a.jpeg")
    refused("imagenet_v2_threshold07", tmp_path, partial=True, match="two folders mean the same class")


def test_one_based_and_named_folders_are_no_imagenet_v2(tmp_path):
    touch(tmp_path, [f"{k}/a.jpeg" for k in range(1, 1001)])
    refused("imagenet_v2_top_images", tmp_path, partial=True, match="unexpected folders 1000;")
    refused("imagenet_val", tmp_path, partial=True, match='unexpected folders 1, 10, 100, .*kind="index"')


@pytest.mark.parametrize(
    "text",
    [
        "file_name,label\nILSVRC2012_val_00000002.JPEG,65\nILSVRC2012_val_00000010.JPEG,970\n",
        "ILSVRC2012_val_00000010.JPEG 970\nILSVRC2012_val_00000002.JPEG 65\n",
        f"ImageId,PredictionString\nILSVRC2012_val_00000002,{WNIDS[65]} 1 2 3 4 {WNIDS[65]} 5 6 7 8 \n"
        f"ILSVRC2012_val_00000010,{WNIDS[970]} 85 1 499 272 \n",
        f'val/ILSVRC2012_val_00000002.JPEG,"{WNIDS[65]}",more\nval/ILSVRC2012_val_00000010.JPEG,"{WNIDS[970]}",more\n',
        None,
    ],
    ids=["imagenet-x", "val.txt", "kaggle", "wnid csv", "default"],
)
def test_flat_files_take_their_labels_from_a_file(text, tmp_path):
    root = write(tmp_path / "val", "ILSVRC2012_val_00000002.JPEG", "ILSVRC2012_val_00000010.JPEG")
    labels = None
    if text is not None:
        labels = tmp_path / "labels.txt"
        labels.write_text(text)
    images = load_images("imagenet_val", root, labels=labels, partial=True)
    if text is None:  # the true labels, known to imagenet-x
        known = load_factor_annotations()["label"]
        images = load_images("imagenet_val", touch(tmp_path / "more", known.index[:50]), partial=True)
        assert images.labels.tolist() == known.iloc[:50].tolist()
    else:
        assert images.labels.tolist() == [65, 970]


def test_bare_columns_need_the_ilsvrc_order(tmp_path):
    from scipy.io import savemat

    root = write(tmp_path / "val", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00050000.JPEG")
    labels = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    labels.write_text("\n".join(["3"] + ["1000"] * 49_999))
    refused("imagenet_val", root, partial=True, labels=labels, match="ILSVRC ids.*meta.mat")
    synsets = np.zeros(1001, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    synsets["ILSVRC2012_ID"] = np.arange(1, 1002)
    synsets["WNID"] = [*WNIDS[::-1], "n00001740"]  # the devkit's order is not that of the WordNet ids
    savemat(tmp_path / "meta.mat", {"synsets": synsets})
    assert load_images("imagenet_val", root, partial=True, labels=labels).labels.tolist() == [997, 0]
    labels.write_text("\n".join([WNIDS[4]] * 49_999 + [WNIDS[8]]))
    assert load_images("imagenet_val", root, partial=True, labels=labels).labels.tolist() == [4, 8]
    labels.write_text("1\n2\n")
    refused("imagenet_val", root, partial=True, labels=labels, match="one column of 2 lines")


def test_label_files_are_checked(tmp_path):
    root = write(tmp_path / "val", "a.JPEG", "b.JPEG")
    labels = tmp_path / "labels.csv"
    refused("imagenet_val", root, partial=True, match="not all named ILSVRC2012_val_NUMBER.*labels=FILE")
    refused("imagenet_val", root, partial=True, labels=labels, match="cannot be read")
    for text, message in [
        ("", "is empty"),
        ("a.JPEG,1\n", r"no label for 1 of 2 images \(first: b.JPEG\)"),
        ("a.JPEG,1\nb.JPEG,1000\n", "1..1000 are ILSVRC ids"),
        ("a.JPEG,1\nb.JPEG,n00000000\n", "'n00000000' is neither"),
        ("a.JPEG,1\nb.JPEG\n", "'' is neither"),
    ]:
        labels.write_text(text)
        refused("imagenet_val", root, partial=True, labels=labels, match=message)
    labels.write_text("a.JPEG,1\nb.JPEG,3\n")
    refused("imagenet_a", root, partial=True, labels=labels, match="outside the 200 classes")
    refused("cue_conflict", root, labels=labels, match="brings its own labels")
    refused("x", root, kind="flat", is_ood=True, labels=labels, match="have no labels")
    write(root, f"{WNIDS[0]}/a.JPEG")
    refused("imagenet_val", root, partial=True, match="images lie beside the class folders.*a.JPEG")
    refused("imagenet_val", root, partial=True, labels=labels, match="Drop labels")


# Sets that are partial, mislaid or not there


def test_partial_sets_are_refused_with_found_and_expected(tmp_path):
    touch(tmp_path, [f"{wnid}/{i}.JPEG" for wnid in WNIDS[:3] for i in range(2)])
    (tmp_path / WNIDS[3]).mkdir()
    message = refused("imagenet_val", tmp_path, match="partial=True")
    for part in ("imagenet_val", str(tmp_path), "found 6 images of 3 classes", "50,000 images of 1,000 classes"):
        assert part in message
    assert f"missing {WNIDS[3]}/ (empty), {WNIDS[4]}/, {WNIDS[5]}/, ... 997 in all" in message
    assert len(load_images("imagenet_val", tmp_path, partial=True)) == 6


def test_complete_sets_are_accepted_and_half_unzipped_ones_are_not(tmp_path):
    names = known_image_sets()["cue_conflict"].names
    root = touch(tmp_path, [f"{shape}/{shape}{i}-{names[i % 16]}1.png" for shape in names for i in range(80)])
    images = load_images("cue_conflict", root)
    assert len(images) == 1280 and (images.annotations["shape"] == images.annotations["texture"]).sum() == 80
    for file in (root / "cat").iterdir():
        file.unlink()
    refused("cue_conflict", root, match=r"found 1,200 images of 15 classes, missing cat/ \(empty\);")
    (root / "cat").rmdir()
    refused("cue_conflict", root, match="missing cat/;")
    touch(root, [f"cat/cat{i}-dog1.png" for i in range(81)])
    refused("cue_conflict", root, match=r"found 1,281 images of 16.*Remove what does not belong")


@pytest.mark.parametrize("partial", [False, True])
def test_empty_missing_and_mislaid_roots(partial, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    refused("imagenet_r", tmp_path / "empty", partial=partial, match="found 0 images.*Give the folder")
    refused("imagenet_r", tmp_path / "none/at/all", partial=partial, match=f"does not exist .*{tmp_path}\\)")
    (tmp_path / "imagenet-r.zip").touch()
    refused("imagenet_r", tmp_path / "imagenet-r.zip", partial=partial, match="is a file.*unpack")
    deep = write(tmp_path / "data", f"imagenet-r/{imagenet_wnids('r')[0]}/a.jpg").resolve()
    refused(
        "imagenet_r", deep, partial=partial, match=f"unexpected folders imagenet-r, no class folder.*{deep}/imagenet-r"
    )
    flat = touch(tmp_path / "flat", ["val/ILSVRC2012_val_00000001.JPEG"])
    refused("imagenet_val", flat, partial=partial, match=f"try {flat}/val")
    touch(tmp_path / "two", ["train/n01440764/a.JPEG", "val/n01440764/b.JPEG", "other/c.txt"])
    refused("imagenet_val", tmp_path / "two", partial=partial, match=f"try {tmp_path}/two/train")

    def deny(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("clipsafe_utils.datasets.folders.os.scandir", deny)
    refused("imagenet_r", tmp_path / "empty", partial=partial, match="cannot be listed .Permission denied")


def test_unknown_names(tmp_path):
    refused("imagnet_val", tmp_path, match="did you mean 'imagenet_val'.*kind=\"folder\"")
    refused("mine", tmp_path, kind="foldr", match="unknown kind of image set 'foldr'; did you mean 'folder'")


def test_what_counts_as_an_image(tmp_path):
    root = tmp_path / "set"
    wnid = WNIDS[0]
    names = ["a.JPEG", "b.JPG", "c.PNG", "d.WEBP", "e.BMP", "f.jpeg", "n01440764_tench", "ILSVRC2012_val_00000001"]
    write(root, *(f"{wnid}/{name}" for name in names))
    for litter in (".hidden.jpg", "._a.JPEG", "Thumbs.db", "README.txt", "labels"):
        (root / wnid / litter).write_bytes(b"not an image")
    touch(root, ["README.md", ".DS_Store", "__MACOSX/._x.jpg", "lost+found/x", ".ipynb_checkpoints/a.jpg"])
    images = load_images("imagenet_val", root, partial=True)
    assert {os.path.basename(image_id) for image_id in images.image_ids} == set(names)
    assert all(images.image(i).size == (8, 6) for i in range(len(images)))


def test_links_are_followed_and_dangling_ones_not_lost(tmp_path):
    store = write(tmp_path / "store", "x/1.jpg", "x/2.jpg")
    root = tmp_path / "set"
    root.mkdir()
    (root / WNIDS[1]).symlink_to(store / "x")
    (root / WNIDS[0]).mkdir()
    (root / WNIDS[0] / "3.jpg").symlink_to(store / "x/1.jpg")
    (root / WNIDS[0] / "gone.jpg").symlink_to(store / "nowhere.jpg")
    (store / "x" / "loop").symlink_to(store)
    linked = tmp_path / "link"
    linked.symlink_to(root)
    images = load_images("imagenet_val", linked, partial=True)
    listed = [f"{WNIDS[0]}/3.jpg", f"{WNIDS[0]}/gone.jpg", f"{WNIDS[1]}/1.jpg", f"{WNIDS[1]}/2.jpg"]
    assert list(images.image_ids) == listed
    with pytest.raises(OSError, match=r"gone\.jpg"):
        images.image(1)
    assert images.image(3).size == (8, 6) and len(images.manifest()) == 64


# ObjectNet, Vid-Robust, cue conflict, out-of-distribution sets


def objectnet(root, lines=("analog clock", "backpack, back pack", "banana", "digital clock", "crane", "crane")):
    """Three shared objects and one that ImageNet lacks; line numbers differ from outputs, as in the release."""
    mappings = root / "mappings"
    mappings.mkdir(parents=True)
    folders = {"clock": "Alarm clock", "backpack": "Backpack", "banana": "Banana", "air_freshener": "Air freshener"}
    overlap = {"Banana": "banana", "Alarm clock": "analog clock; digital clock", "Backpack": "backpack, back pack"}
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(folders))
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(overlap))
    (mappings / "imagenet_to_label_2012_v2").write_text("".join(f"{line}\n" for line in lines))
    outputs = {"409": 0, "414": 1, "954": 2, "530": 3, "134": 4, "517": 5}
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps(outputs))
    return root


@pytest.mark.parametrize("base", ["images/", ""], ids=["images folder", "at top"])
def test_objectnet_maps_its_own_classes_and_loses_its_border(base, tmp_path, rng):
    root = objectnet(tmp_path / "objectnet-1.0")
    write(root, f"{base}clock/b.png", f"{base}backpack/a.png", f"{base}air_freshener/c.png", f"{base}banana/d.png")
    pixels = np.zeros((12, 10, 3), dtype=np.uint8)
    pixels[:] = (255, 0, 0)
    pixels[2:-2, 2:-2] = (0, 255, 0)
    Image.fromarray(pixels).save(root / base / "clock/b.png")
    images = load_images("objectnet", root, partial=True)
    assert images.image_ids == (f"{base}backpack/a.png", f"{base}banana/d.png", f"{base}clock/b.png")
    assert images.space.names == ("Backpack", "Banana", "Alarm clock") and images.labels.tolist() == [0, 1, 2]
    assert images.space.members == ((414,), (954,), (409, 530))
    logits = rng.normal(size=(2, 1000))
    expected = np.stack([logits[:, 414], logits[:, 954], np.maximum(logits[:, 409], logits[:, 530])], axis=1)
    np.testing.assert_array_equal(images.space.reduce(logits), expected)
    assert images.image(2).size == (6, 8) and (np.asarray(images.image(2)) == (0, 255, 0)).all()
    refused("objectnet", root, match="found 3 images of 3 classes; expected .* 18,574 images of 113 classes")


def test_objectnet_mislaid(tmp_path):
    root = write(objectnet(tmp_path / "objectnet-1.0"), "images/clock/b.png", "images/banana/c.png")
    refused(
        "objectnet", root / "images", partial=True, match=f"folder_to_objectnet_label.json cannot be read.*Give {root}"
    )
    refused("objectnet", tmp_path, partial=True, match=f"Give {root}\\.")
    refused("objectnet", root, match="missing images/backpack/;")
    write(root, "images/sofa/a.png")
    refused("objectnet", root, partial=True, match="unexpected folders sofa;")
    (root / "images/sofa/a.png").unlink()
    (root / "images/sofa").rmdir()
    (root / "mappings/imagenet_to_label_2012_v2").write_text("analog clock\n")
    refused("objectnet", root, partial=True, match="unknown ImageNet class")
    (root / "mappings/pytorch_to_imagenet_2012_id.json").write_text('["a"]')
    refused("objectnet", root, partial=True, match="do not fit together")
    (root / "mappings/objectnet_to_imagenet_1k.json").write_text("{")
    refused("objectnet", root, partial=True, match="cannot be read .JSONDecodeError")


def vid_robust(root):
    """Two anchors, one without neighbours; frames of a class pair; three classes."""
    video, other = "val/ILSVRC2015_val_00004000", "val/ILSVRC2017_val_00758000"
    frames = [f"{video}/{k:06d}.JPEG" for k in (77, 86, 87, 97)]
    alone = f"{other}/000358.JPEG"
    pmsets = {frames[2]: [frames[0], frames[1], frames[3]], alone: []}
    labels = {frame: [1, 2] for frame in frames} | {alone: [0], f"{video}/000001.JPEG": [1]}
    classes = {"0": ["n02691156", "airplane"], "1": ["n02084071", "dog"], "2": ["n02121808", "domestic_cat"]}
    wnid_map = {WNIDS[404]: "n02691156", WNIDS[281]: "n02121808", WNIDS[285]: "n02121808", WNIDS[151]: "n02084071"}
    (root / "metadata").mkdir(parents=True)
    (root / "misc").mkdir()
    (root / "metadata/pmsets.json").write_text(json.dumps(pmsets))
    (root / "metadata/labels.json").write_text(json.dumps(labels))
    (root / "misc/imagenet_vid_class_index.json").write_text(json.dumps(classes))
    (root / "misc/wnid_map.json").write_text(json.dumps(wnid_map))
    write(root, *frames, alone, f"{video}/000001.JPEG")
    return frames, alone


def test_vid_robust_keeps_several_labels_and_its_anchors(tmp_path):
    frames, alone = vid_robust(tmp_path / "vid")
    images = load_images("imagenet_vid_robust", tmp_path / "vid", partial=True)
    assert images.image_ids == (*frames, alone)  # the frame in no set stays out
    assert images.space.names == ("airplane", "dog", "domestic_cat")
    assert images.space.members == ((404,), (151,), (281, 285))
    assert images.labels.tolist() == [1, 1, 1, 1, 0]
    assert images.annotations["offset"].tolist() == [-10, -1, 0, 10, 0]
    assert images.annotations["label_sets"].tolist() == [(1, 2)] * 4 + [(0,)]
    correct = np.array([True, True, True, False, True])  # by frame: one neighbour of the first anchor is missed
    groups = pd.Series(correct).groupby(images.annotations["anchor"])
    assert correct[images.annotations["offset"] == 0].mean() == 1.0  # pm-0
    assert groups.min().mean() == 0.5  # pm-10


def test_vid_robust_mislaid(tmp_path):
    frames, _ = vid_robust(tmp_path / "vid")
    message = "missing 1,107 of 1,109 anchors in metadata/pmsets.json;"
    refused("imagenet_vid_robust", tmp_path / "vid", match=message)
    refused("imagenet_vid_robust", tmp_path, partial=True, match=f"Give {tmp_path}/vid")
    refused("imagenet_vid_robust", tmp_path / "vid/val", partial=True, match=f"Give {tmp_path}/vid")
    (tmp_path / "vid" / frames[0]).unlink()
    refused("imagenet_vid_robust", tmp_path / "vid", match=f"{frames[0]};")
    assert len(load_images("imagenet_vid_robust", tmp_path / "vid", partial=True)) == 4
    pmsets = tmp_path / "vid/metadata/pmsets.json"
    pmsets.write_text(json.dumps(json.loads(pmsets.read_text()) | {frames[1]: [frames[3]]}))
    refused("imagenet_vid_robust", tmp_path / "vid", partial=True, match="a frame in two sets")
    pmsets.write_text(json.dumps({frames[1]: [frames[3]]}))
    (tmp_path / "vid/metadata/labels.json").write_text("{}")
    refused("imagenet_vid_robust", tmp_path / "vid", partial=True, match="without label")


def test_real_cue_conflict(real_dir):
    images = load_images("cue_conflict", real_dir / "cue_conflict")
    assert len(images) == 1280 and len(images.space) == 16 and images.space.members is None
    cues = images.annotations
    assert (cues["shape"] == cues["texture"]).sum() == 80
    assert cues["shape"].tolist() == [images.space.names[label] for label in images.labels]
    assert cues.loc[images.image_ids.index("bear/bear10-bottle1.jpg")].tolist() == ["bear", "bottle"]
    assert images.image(7).size == (224, 224) and images.image(7).mode == "RGB"
    strangers = load_images("cue_conflict", real_dir / "cue_conflict", is_ood=True)
    assert strangers.is_ood and (strangers.labels == -1).all() and strangers.annotations is not None


def test_cue_conflict_names_must_fit(tmp_path):
    write(tmp_path, "bear/bear1-cat2.png")
    assert load_images("cue_conflict", tmp_path, partial=True).annotations.loc[0].tolist() == ["bear", "cat"]
    refused("cue_conflict", tmp_path, match="found 1 images of 1 classes")
    write(tmp_path, "bear/dog1-cat2.png")
    refused("cue_conflict", tmp_path, partial=True, match="dog1-cat2.png does not name its folder's shape")
    (tmp_path / "bear/dog1-cat2.png").rename(tmp_path / "bear/bear1-tiger2.png")
    refused("cue_conflict", tmp_path, partial=True, match="bear1-tiger2.png does not name")
    write(tmp_path, "tiger/tiger1-cat2.png")
    refused("cue_conflict", tmp_path, partial=True, match="unexpected folders tiger")


def test_ood_sets_have_no_labels(tmp_path):
    root = touch(tmp_path / "dtd", [f"images/class{k}/{i}.jpg" for k in range(47) for i in range(120)])
    touch(root, ["labels/train1.txt", "imdb/imdb.mat"])
    images = load_images("textures", root)
    assert len(images) == 5640 and images.is_ood and (images.labels == -1).all() and images.space is NO_CLASSES
    assert load_images("textures", root / "images").image_ids[0] == "class0/0.jpg"
    (root / "images/class3").rename(root / "images/class4/more")
    refused("textures", root, match=r"found 5,640 images of 46 classes; expected .* 5,640 images of 47 classes")
    (root / "images/class4/more").rename(root / "images/class3")
    (root / "images/class3/7.jpg").unlink()
    refused("textures", root, match=r"found 5,639 images of 47 classes; expected root/images/banded")

    flat = touch(tmp_path / "iNaturalist", [f"images/{i}.jpg" for i in range(20)])
    assert load_images("inaturalist", flat, partial=True).image_ids[0] == "images/0.jpg"
    refused("sun", flat, match="found 20 images; expected root/images/.* with 10,000 images")
    o = touch(tmp_path / "imagenet-o", [f"{wnid}/{i}.jpg" for wnid in WNIDS[:200] for i in range(10)])
    assert (load_images("imagenet_o", o).labels == -1).all()
    refused("imagenet_o", o, is_ood=False, match="need labels=FILE")


# Folders of the user


def test_user_folders_real(real_dir):
    photos = load_images("photos", real_dir / "imagenet_sample", kind="folder")
    assert len(photos) == 1000 and photos.space == imagenet_space() and photos.labels.tolist() == list(range(1000))
    sample = load_images("imagenet_val", real_dir / "imagenet_sample", partial=True)
    assert sample.image_ids == photos.image_ids and sample.name == "imagenet_val"
    assert load_images("mine", sample.root, kind="imagenet_val", partial=True).name == "mine"
    refused("imagenet_val", real_dir / "imagenet_sample", match="found 1,000 images of 1,000 classes")
    refused("imagenet_val", real_dir, partial=True, match=r"deeper: try \S+/imagenet_sample\.")
    for name in ("edges", "filled_silhouettes"):
        shapes = load_images(name, real_dir / name, kind="folder")
        assert len(shapes) == 160 and shapes.space.names[0] == "airplane" and shapes.space.outputs == ""
        ood = load_images(name, real_dir / name, kind="folder", is_ood=True)
        assert ood.is_ood and set(ood.labels) == {-1} and sorted(ood.image_ids) == sorted(shapes.image_ids)


def test_user_folder_kinds(tmp_path):
    root = write(tmp_path / "digits", "0/a.png", "2/a.png", "10/b.png")
    digits = load_images("digits", root, kind="folder")
    assert digits.space.names == ("0", "2", "10") and digits.labels.tolist() == [0, 1, 2]
    assert "sorted as such" in digits.protocol and 'kind="index"' in digits.protocol
    indexed = load_images("digits", root, kind="index")
    assert indexed.labels.tolist() == [0, 2, 10] and indexed.space == imagenet_space()

    root = write(tmp_path / "pets", "Cat/a.png", "dog/x/b.png", "dog/c.png")
    pets = load_images("pets", root, kind="folder")
    assert pets.image_ids == ("Cat/a.png", "dog/c.png", "dog/x/b.png") and pets.labels.tolist() == [0, 1, 1]
    (root / "empty").mkdir()
    refused("pets", root, kind="folder", match=r"missing empty/ \(empty\)")
    assert len(load_images("pets", root, kind="folder", partial=True).space) == 3
    refused("pets", root, kind="wnid", match="unexpected folders Cat")
    write(root, "stray.png")
    refused("pets", root, kind="folder", partial=True, match="beside the class folders .first: stray.png")
    assert len(load_images("pets", root, kind="folder", is_ood=True)) == 4
    refused(
        "pets",
        write(tmp_path / "deep", "pets/cat/a.png"),
        kind="folder",
        match=f"single folder pets;.*Give {tmp_path}/deep/pets",
    )


def test_user_flat_folders_say_what_they_need(tmp_path):
    root = write(tmp_path / "flat", "a.png", "b.PNG")
    refused("flat", root, kind="folder", match="2 images without class folders.*labels=FILE.*is_ood=True")
    flat = load_images("flat", root, kind="flat")
    assert flat.is_ood and flat.image_ids == ("a.png", "b.PNG")
    (tmp_path / "labels.txt").write_text("a.png 3\nb 7\n")
    for kind in ("flat", "folder", "wnid"):
        images = load_images("flat", root, kind=kind, labels=tmp_path / "labels.txt")
        assert images.labels.tolist() == [3, 7] and not images.is_ood
    refused("flat", root, kind="flat", is_ood=False, match="need labels=FILE")
    (tmp_path / "nothing").mkdir()
    refused("flat", tmp_path / "nothing", kind="folder", match="found 0 images")


def test_one_stray_folder_does_not_turn_wordnet_ids_into_names(tmp_path):
    write(tmp_path, f"{WNIDS[0]}/a.png", "n99999999/a.png")
    refused("mine", tmp_path, kind="folder", match="unexpected folders n99999999;")


# The set itself


def test_images_are_decoded_to_rgb(tmp_path):
    write(tmp_path, "x/cmyk.jpg", mode="CMYK", color=(0, 255, 255, 0))
    write(tmp_path, "x/grey.png", mode="L", color=100)
    write(tmp_path, "x/alpha.png", mode="RGBA", color=(1, 2, 3, 0))
    palette = Image.new("P", (8, 6), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.save(tmp_path / "x/palette.png", transparency=bytes([255, 128]))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    write(tmp_path, "x/turned.jpg", exif=exif)
    images = load_images("x", tmp_path, kind="folder")
    decoded = {image_id[2:]: images.image(i) for i, image_id in enumerate(images.image_ids)}
    assert {image.mode for image in decoded.values()} == {"RGB"}
    assert decoded["palette.png"].getpixel((0, 0)) == (9, 8, 7)
    assert decoded["alpha.png"].getpixel((0, 0)) == (1, 2, 3) and decoded["grey.png"].getpixel((0, 0)) == (100,) * 3
    assert decoded["turned.jpg"].size == (8, 6)  # EXIF is not applied
    with Image.open(tmp_path / "x/cmyk.jpg") as cmyk:
        np.testing.assert_array_equal(np.asarray(decoded["cmyk.jpg"]), np.asarray(cmyk.convert("RGB")))


def test_unreadable_images_raise_oserror_with_their_path(tmp_path, rng):
    root = tmp_path / "set"
    (root / "x").mkdir(parents=True)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(root / "x/half.jpg")
    noise.save(root / "x/half.png")
    for name in ("half.jpg", "half.png"):
        content = (root / "x" / name).read_bytes()
        (root / "x" / name).write_bytes(content[: len(content) // 2])
    (root / "x/empty.jpg").touch()
    (root / "x/text.jpg").write_text("<html>404</html>")
    (root / "x/header.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    (root / "x/folder_later.jpg").touch()
    images = load_images("x", root, kind="folder")
    (root / "x/folder_later.jpg").unlink()
    for i, image_id in enumerate(images.image_ids):
        with pytest.raises(OSError, match=re.escape(str(root / image_id))):
            images.image(i)


def test_manifest_follows_content_not_place(tmp_path):
    trees = [write(tmp_path / place, "cat/a.png", "dog/b.bmp") for place in ("one", "two")]
    one, two = (load_images("pets", tree, kind="folder") for tree in trees)
    assert one.manifest() == two.manifest() and re.fullmatch("[0-9a-f]{64}", one.manifest())
    assert one.manifest(deep=True) == two.manifest(deep=True) != one.manifest()
    changed = [
        replace(one, labels=one.labels[::-1]),
        replace(one, space=LabelSpace("", ("cat", "wolf"))),
        replace(one, border=2),
        one.subset([0]),
        load_images("pets", trees[0], kind="folder", is_ood=True),
    ]
    assert len({images.manifest() for images in [one, *changed]}) == 6
    write(trees[1], "dog/b.bmp", color=(9, 9, 10))  # same size, other pixels: only the deep one sees it
    assert one.manifest() == two.manifest()
    assert one.manifest(deep=True) != two.manifest(deep=True)
    before = two.manifest()
    write(trees[1], "dog/b.bmp", size=(50, 50))
    assert two.manifest() != before  # read anew, never remembered


def test_subset_and_checks(tmp_path):
    vid_robust(tmp_path)
    images = load_images("imagenet_vid_robust", tmp_path, partial=True)
    anchors = images.subset(images.annotations["offset"] == 0)
    assert len(anchors) == 2 and anchors.annotations["offset"].tolist() == [0, 0] and anchors.labels.tolist() == [1, 0]
    assert images.subset([4, 0]).image_ids == (images.image_ids[4], images.image_ids[0])
    assert list(anchors.annotations.index) == [0, 1]
    with pytest.raises(ClipsafeError, match="unique"):
        images.subset([0, 0])
    with pytest.raises(ClipsafeError, match="needs 5 entries"):
        images.subset(np.ones(4, dtype=bool))
    with pytest.raises(ClipsafeError, match="as many labels"):
        ImageSet("x", ".", ["a"], [0, 0], imagenet_space())
    with pytest.raises(ClipsafeError, match=r"-1 \.\.\. 999"):
        ImageSet("x", ".", ["a"], [1000], imagenet_space())
    again = pickle.loads(pickle.dumps(images))  # DataLoader workers get it this way
    assert again.manifest() == images.manifest() and "5 images, 3 classes" in repr(again)
    assert len(images.subset([])) == 0


# ImageNet-X


def test_factor_annotations_are_those_of_the_package():
    top, multi = load_factor_annotations("top"), load_factor_annotations("multi")
    assert len(top) == len(multi) == 46_110 and top.index.equals(multi.index) and top.index.is_unique
    assert list(top.columns) == ["label", *ALL_FACTORS] and set(top.dtypes.iloc[1:].astype(str)) == {"bool"}
    assert len(FACTORS) == 10 and len(set(ALL_FACTORS)) == 16
    assert top[list(ALL_FACTORS)].sum(axis=1).max() == 1 and multi[list(ALL_FACTORS)].sum(axis=1).max() > 1
    prototypes = pd.read_csv(package_file("imagenet_x", "annotations", "prototypical_paths.csv"))["file_name"]
    assert len(prototypes) == 3000 and not top.index.isin(prototypes).any()
    with package_file("imagenet_x", "annotations", "imagenet_x_val_multi_factor.jsonl").open() as lines:
        first = next(row for row in map(json.loads, lines) if row["file_name"] in multi.index)
    row = multi.loc[first["file_name"]]
    assert row["label"] == first["class"] and all(row[factor] == bool(first[factor]) for factor in ALL_FACTORS)
    top["pose"] = False  # a copy: the next caller sees the truth
    assert load_factor_annotations("top")["pose"].sum() > 1000
    with pytest.raises(ClipsafeError, match="unknown factor annotation 'tpo'; did you mean 'top'"):
        load_factor_annotations("tpo")


def test_factors_join_on_file_names(tmp_path, real_dir):
    known = load_factor_annotations("multi")
    names = [known.index[5], known.index[2], "ILSVRC2012_val_99999999.JPEG"]
    wnids = [WNIDS[known["label"].iloc[5]], WNIDS[known["label"].iloc[2]], WNIDS[0]]
    touch(tmp_path, [f"{wnid}/{name.replace('.JPEG', '.jpg')}" for wnid, name in zip(wnids, names, strict=True)])
    images = load_images("imagenet_val", tmp_path, partial=True)
    factors = factor_annotations(images, "multi")
    assert list(factors.columns) == [*ALL_FACTORS, "annotated"] and set(factors.dtypes.astype(str)) == {"bool"}
    for i, image_id in enumerate(images.image_ids):
        name = os.path.basename(image_id).replace(".jpg", ".JPEG")
        assert factors.loc[i, "annotated"] == (name in known.index)
        expected = known.loc[name, list(ALL_FACTORS)].tolist() if name in known.index else [False] * 16
        assert factors.loc[i, list(ALL_FACTORS)].tolist() == expected
    pd.testing.assert_frame_equal(factors, factor_annotations(images.image_ids, "multi"))
    with pytest.raises(ClipsafeError, match="labels contradict ImageNet-X"):
        factor_annotations(replace(images, labels=(images.labels + 1) % 1000))
    sample = load_images("imagenet_val", real_dir / "imagenet_sample", partial=True)
    assert not factor_annotations(sample)["annotated"].any()
