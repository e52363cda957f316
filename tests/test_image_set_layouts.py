"""Every known image set as a generated tree of its real layout and full size: whole, half unpacked, and linked."""

import json
import os
from collections import Counter
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from clipsafe_utils.datasets import imagenet_wnids, known_image_sets, load_images
from clipsafe_utils.errors import ClipsafeError

pytestmark = pytest.mark.slow

WNIDS = imagenet_wnids()
SHAPES = known_image_sets()["cue_conflict"].names
OBJECTS = 313
"""Folders of ObjectNet; the first 113 here are ImageNet's, of one or two classes each."""
LITTER = ("README.txt", ".DS_Store", "._README.txt", "__MACOSX/._images.jpg")


def spread(n, folders, name):
    """n names in folders, as evenly as it goes; `name` makes a file name of folder and number."""
    return [f"{folder}/{name(folder, i)}" for k, folder in enumerate(folders) for i in range((n + k) // len(folders))]


def imagenet_val():
    return spread(50_000, WNIDS, lambda folder, i: f"ILSVRC2012_val_{WNIDS.index(folder) * 50 + i + 1:08}.JPEG")


def imagenet_v2():
    return [f"{k}/{i:040x}.jpeg" for k in range(1000) for i in range(10)]


def objectnet():
    names = [f"object_{k:03}" for k in range(OBJECTS)]
    shared = spread(18_574, names[:113], lambda folder, i: f"{folder}{i:06}.png")
    return [f"images/{name}" for name in shared + spread(5_000, names[113:], lambda folder, i: f"{i}.png")]


def videos():
    """1,109 anchors with 19 neighbours each, but for one with 18: frames on both sides of the anchor."""
    anchors = {}
    for k in range(1109):
        video = f"val/ILSVRC2015_val_{k:08}"
        near = [i for i in range(100, 120) if i != 110][: 19 if k else 18]
        anchors[f"{video}/000110.JPEG"] = [f"{video}/{i:06}.JPEG" for i in near]
    return anchors


LAYOUTS = {
    "imagenet_val": imagenet_val(),
    **{f"imagenet_v2_{kind}": imagenet_v2() for kind in ("matched_frequency", "threshold07", "top_images")},
    "imagenet_a": spread(7_500, imagenet_wnids("a"), lambda _, i: f"0.0{i:05}_goldfinch _ hen_0.85.jpg"),
    "imagenet_r": spread(30_000, imagenet_wnids("r"), lambda _, i: f"{('art', 'cartoon', 'tattoo')[i % 3]}_{i}.jpg"),
    "imagenet_sketch": spread(50_889, WNIDS, lambda _, i: f"sketch_{i}.JPEG"),
    "objectnet": objectnet(),
    "imagenet_vid_robust": [frame for anchor, near in videos().items() for frame in (anchor, *near)],
    "stylized_imagenet": spread(50_000, WNIDS, lambda _, i: f"ILSVRC2012_val_{i:08}.png"),
    "cue_conflict": [f"{s}/{s}{i}-{SHAPES[i % 16]}{i % 10}.png" for s in SHAPES for i in range(80)],
    "imagenet_o": spread(2_000, imagenet_wnids("a"), lambda _, i: f"{i}.jpg"),
    **{name: [f"images/{i:08x}.jpg" for i in range(10_000)] for name in ("inaturalist", "sun", "places")},
    "textures": [f"images/texture{k:02}/texture{k:02}_{i:04}.jpg" for k in range(47) for i in range(120)],
}


def unpack(root, name, names):
    """Files as an archive leaves them: empty, which listings do not mind, with what authors put beside them."""
    first = PurePosixPath(names[0])
    everything = (*names, *LITTER, first.with_name(f"._{first.name}"), first.with_name(".directory"))
    for folder in sorted({os.path.dirname(file) for file in everything}):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for file in everything:
        os.close(os.open(root / file, os.O_CREAT | os.O_WRONLY))
    if name == "objectnet":
        mappings(root / "mappings")
    if name == "imagenet_vid_robust":
        metadata(root)
    return root


def mappings(folder):
    """ObjectNet's own files; the lines of one are numbered otherwise than ImageNet's outputs."""
    folder.mkdir()
    members = {k: [3 * k, *([3 * k + 1] if k % 2 else [])] for k in range(113)}
    (folder / "folder_to_objectnet_label.json").write_text(
        json.dumps({f"object_{k:03}": f"Object {k}" for k in range(OBJECTS)})
    )
    (folder / "objectnet_to_imagenet_1k.json").write_text(
        json.dumps(
            {f"Object {k}": "; ".join(f"class {o}, its synonym" for o in outputs) for k, outputs in members.items()}
        )
    )
    lines = [f"class {999 - line}, its synonym" for line in range(1000)]
    (folder / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    (folder / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({str(o): 999 - o for o in range(1000)}))


def metadata(root):
    """Vid-Robust's own files: some frames show two of its 30 classes."""
    (root / "metadata").mkdir()
    (root / "misc").mkdir()
    (root / "metadata/pmsets.json").write_text(json.dumps(videos()))
    labels = {}
    for k, (anchor, near) in enumerate(videos().items()):
        labels |= {frame: [k % 30, (k + 7) % 30] if k % 5 == 0 else [k % 30] for frame in (anchor, *near)}
    (root / "metadata/labels.json").write_text(json.dumps(labels))
    classes = {str(k): [f"n{k:08}", f"thing_{k}"] for k in range(30)}
    (root / "misc/imagenet_vid_class_index.json").write_text(json.dumps(classes))
    (root / "misc/wnid_map.json").write_text(json.dumps({WNIDS[k]: f"n{k % 30:08}" for k in range(290)}))


def expected_label(name, image_id, images):
    """The label that a file must have, from its place alone."""
    folder = image_id.partition("/")[0]
    if images.is_ood:
        return -1
    if name == "objectnet":
        return int(image_id.split("/")[1].removeprefix("object_"))
    if name == "imagenet_vid_robust":
        return int(image_id.split("_")[-1][:8]) % 30
    if name == "cue_conflict":
        return SHAPES.index(folder)
    if name.startswith("imagenet_v2"):
        return int(folder)
    return images.space.names.index(folder) if name in ("imagenet_a", "imagenet_r") else WNIDS.index(folder)


def test_the_layouts_are_those_of_the_registry():
    known = known_image_sets()
    assert set(LAYOUTS) == set(known)
    for name, files in LAYOUTS.items():
        n = len(files) - (5_000 if name == "objectnet" else 0)
        assert n == known[name].images and len(set(files)) == len(files), name


@pytest.mark.parametrize("name", LAYOUTS)
def test_whole_half_unpacked_and_linked(name, tmp_path):
    known, files = known_image_sets()[name], LAYOUTS[name]
    root = unpack(tmp_path / "whole", name, files)
    images = load_images(name, root)
    assert len(images) == known.images and images.is_ood is known.is_ood and images.border == known.border
    assert set(images.image_ids) <= set(files), "nothing of the litter"
    labels = [expected_label(name, image_id, images) for image_id in images.image_ids]
    assert images.labels.tolist() == labels
    if not known.is_ood:
        assert len(Counter(labels)) == len(images.space) == known.classes
        assert images.space.reduce(np.zeros((1, 1000)) if images.space.members else np.zeros((1, 16))).shape[1]

    linked = tmp_path / "linked"
    linked.symlink_to(root)
    assert load_images(name, linked).manifest() == images.manifest()

    lost = next(file for file in reversed(files) if file in set(images.image_ids))
    (root / lost).unlink()
    with pytest.raises(ClipsafeError) as error:
        load_images(name, root)
    said = str(error.value)
    assert f"{known.images - 1:,} images" in said and f"{known.images:,} images" in said and "\n" not in said
    assert "partial=True" in said
    assert len(load_images(name, root, partial=True)) == known.images - 1

    half = unpack(tmp_path / "half", name, sorted(files)[: len(files) // 2])  # unpacking stopped in the middle
    with pytest.raises(ClipsafeError, match=r"expected .*images.*partial=True"):
        load_images(name, half)
    sample = load_images(name, half, partial=True)
    assert 0 < len(sample) < known.images and len(sample.space) == len(images.space)
    assert sample.labels.tolist() == [expected_label(name, image_id, sample) for image_id in sample.image_ids]
    with pytest.raises(OSError, match=r"identify|truncated|empty"):  # and the last file was not written to its end
        sample.image(len(sample) - 1)


@pytest.mark.parametrize("name", ["imagenet_val", "imagenet_v2_top_images", "cue_conflict", "objectnet", "textures"])
def test_spellings_of_file_names_do_not_matter(name, tmp_path):
    """Upper-case suffixes, other formats, no suffix at all, and links to files elsewhere."""
    chosen = [file for file in LAYOUTS[name] if not file.startswith("images/object_2")][:4]
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (12, 10), (200, 30, 60)).save(tmp_path / "elsewhere/image", "JPEG")
    spellings = [
        lambda p: p.with_suffix(".JPG"),
        lambda p: p.with_suffix(".WebP"),
        lambda p: p.with_suffix(""),
        lambda p: p,
    ]
    expected = set()
    for k, (file, spelling) in enumerate(zip(chosen, spellings, strict=True)):
        path = tmp_path / "set" / spelling(PurePosixPath(file))
        path.parent.mkdir(parents=True, exist_ok=True)
        expected.add(path.relative_to(tmp_path / "set").as_posix())
        if k == 3:
            path.symlink_to(tmp_path / "elsewhere/image")
        else:
            path.write_bytes((tmp_path / "elsewhere/image").read_bytes())
    if name == "objectnet":
        mappings(tmp_path / "set/mappings")
    images = load_images(name, tmp_path / "set", partial=True)
    assert set(images.image_ids) == expected
    assert {images.image(i).size for i in range(4)} == {(12 - 2 * images.border, 10 - 2 * images.border)}


def test_vid_robust_knows_every_correct_label(tmp_path):
    images = load_images("imagenet_vid_robust", unpack(tmp_path, "imagenet_vid_robust", LAYOUTS["imagenet_vid_robust"]))
    frames = images.annotations
    several = frames["label_sets"].map(len) == 2
    assert several.sum() == 20 * 222 - 1 and frames["anchor"].nunique() == 1109
    assert all(label in labels for label, labels in zip(images.labels, frames["label_sets"], strict=True))
    assert (frames["offset"] == 0).sum() == 1109 and frames["offset"].abs().max() == 10
    assert images.space.members[0] == tuple(range(0, 290, 30)) and len(images.space.members[29]) == 9
