"""One reader a layout: from a folder to image ids, labels and label space, or to a message about what is wrong."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from clipsafe_utils.datasets.folders import images_below, listing
from clipsafe_utils.datasets.labels import ILSVRC_NAME, read_labels
from clipsafe_utils.datasets.spaces import NO_CLASSES, LabelSpace, imagenet_space, imagenet_wnids
from clipsafe_utils.errors import ClipsafeError

SPACES = {"imagenet1k": "", "imagenet_a": "a", "imagenet_r": "r"}


@dataclass
class Found:
    """What a reader made of a folder. `missing` names what a complete set would have; `expected` overrides the
    registry's number of images where the set's own metadata tells it."""

    ids: list
    labels: list
    space: LabelSpace
    protocol: str
    classes: int
    missing: list = field(default_factory=list)
    expected: int | None = None
    annotations: pd.DataFrame | None = None


def refuse(spec, root, problem, remedy=""):
    """The error for a folder that is not the set: what, where, found, expected, remedy."""
    counts = f" with {spec.images:,} images" if spec.images else ""
    counts += f" of {spec.classes:,} classes" if spec.images and spec.classes else ""
    return ClipsafeError(f"{spec.name} at {root}: {problem}; expected {spec.tree}{counts}. {remedy}".rstrip())


def some(names, limit=3):
    """The first names and how many there are."""
    names = list(map(str, names))
    return ", ".join(names[:limit]) + (f", ... {len(names):,} in all" if len(names) > limit else "")


def _class_images(spec, root, labels_of):
    """Read class folders: `labels_of` maps each allowed folder name to its label. Ids in the order of the labels."""
    folders, files = listing(root)
    if strange := [name for name in folders if name not in labels_of]:
        inside = [name for name in folders if labels_of.keys() & set(listing(root / name)[0])]
        problem = f"unexpected folders {some(strange)}" + ("" if len(strange) < len(folders) else ", no class folder")
        if inside or len(folders) == 1:
            remedy = f"It seems to lie deeper: try {root / (inside or folders)[0]}."
        elif all(name.isdigit() for name in folders) and spec.layout == "wnid":
            remedy = 'Folders named by class index, as in ImageNet-V2, are read with kind="index".'
        else:
            remedy = "Move other folders away or give the right root."
        raise refuse(spec, root, problem, remedy)
    if folders and files:
        raise refuse(
            spec,
            root,
            f"{len(files):,} images lie beside the class folders (first: {files[0]})",
            "Sort them into the folders or move them away.",
        )
    ids, labels = [], []
    missing = [f"{name}/" for name in labels_of.keys() - set(folders)] if spec.images else []
    for name in sorted(folders, key=lambda name: (labels_of[name], name)):
        images = images_below(root / name, f"{name}/")
        ids += images
        labels += [labels_of[name]] * len(images)
        missing += [] if images else [f"{name}/ (empty)"]
    return ids, labels, sorted(missing)


def _wnid(spec, root, labels):
    space = imagenet_space(SPACES[spec.space])
    folders, files = listing(root)
    if files and not folders:
        return _labelled_files(spec, root, files, labels, space)
    if labels is not None:
        raise refuse(spec, root, "labels= was given but the folder holds class folders", "Drop labels=.")
    index = {wnid: label for label, wnid in enumerate(space.names)}
    ids, targets, missing = _class_images(spec, root, index)
    return Found(ids, targets, space, "labels from WordNet-id folders", len(set(targets)), missing)


def _labelled_files(spec, root, files, labels, space):
    if labels is None and not all(ILSVRC_NAME.search(name.partition(".")[0]) for name in files):
        raise refuse(
            spec,
            root,
            f"{len(files):,} images without class folders and not all named ILSVRC2012_val_NUMBER",
            "Give labels=FILE with a name and a label a line.",
        )
    outputs = read_labels(labels, files)
    source = Path(labels).name if labels is not None else "the imagenet-x package"
    label_of = {members[0]: label for label, members in enumerate(space.members)}
    if foreign := [name for name, output in zip(files, outputs, strict=True) if output not in label_of]:
        raise refuse(spec, root, f"labels outside the {len(space):,} classes for {some(foreign)}", "Check labels=.")
    targets = [label_of[output] for output in outputs]
    return Found(files, targets, space, f"flat files, labels from {source}", len(set(targets)))


def _index(spec, root, labels):
    folders, _ = listing(root)
    space = imagenet_space()
    index = {name: int(name) for name in folders if name.isdecimal() and int(name) < len(space)}
    if len(set(index.values())) < len(index):
        raise refuse(spec, root, "two folders mean the same class (such as 1 and 01)", "Keep one spelling.")
    ids, targets, missing = _class_images(spec, root, index)
    missing += [f"{k}/" for k in sorted(set(range(len(space))) - set(index.values()))] if spec.images else []
    return Found(ids, targets, space, "folders are ImageNet class indices, as numbers", len(set(targets)), missing)


def _flat(spec, root, labels):
    if labels is not None:
        return _labelled_files(spec, root, images_below(root), labels, imagenet_space())
    base, prefix = (root / "images", "images/") if spec.images and (root / "images").is_dir() else (root, "")
    ids = images_below(base, prefix)
    classes = {image_id[len(prefix) :].partition("/")[0] for image_id in ids if "/" in image_id[len(prefix) :]}
    return Found(ids, [-1] * len(ids), NO_CLASSES, "all images below, no labels", len(classes))


def _folder(spec, root, labels):
    """Any folder of a user: what is inside decides."""
    folders, files = listing(root)
    if not folders:
        if labels is not None or not files:
            return _flat(spec, root, labels)
        raise refuse(
            spec,
            root,
            f"{len(files):,} images without class folders",
            "Give labels=FILE, or is_ood=True if the images are out of distribution and need no label.",
        )
    if set(folders) & set(imagenet_wnids()):  # then all must be: one stray folder shall not turn ids into names
        return _wnid(spec, root, labels)
    if labels is not None:
        raise refuse(spec, root, "labels= was given but the folder holds class folders", "Drop labels=.")
    if len(folders) == 1 and not listing(root / folders[0])[1] and listing(root / folders[0])[0]:
        raise refuse(spec, root, f"it holds the single folder {folders[0]}", f"Give {root / folders[0]}.")
    numeric = all(name.isdecimal() for name in folders)
    names = tuple(sorted(folders, key=(lambda name: (int(name), name)) if numeric else None))
    ids, targets, missing = _class_images(spec, root, {name: label for label, name in enumerate(names)})
    protocol = "folder names are class names"
    if numeric:
        protocol += ' (numbers, sorted as such; if they are ImageNet class indices use kind="index")'
    return Found(ids, targets, LabelSpace("", names), protocol, len(set(targets)), missing)


def _cue_conflict(spec, root, labels):
    ids, targets, missing = _class_images(spec, root, {name: label for label, name in enumerate(spec.names)})
    cues = [re.fullmatch(r"([a-z]+)\d+-([a-z]+)\d+", image_id.rpartition("/")[2].partition(".")[0]) for image_id in ids]
    for image_id, cue in zip(ids, cues, strict=True):
        if not (cue and cue[2] in spec.names and image_id.startswith(f"{cue[1]}/")):
            raise refuse(
                spec, root, f"{image_id} does not name its folder's shape and a texture", "Keep the file names."
            )
    annotations = pd.DataFrame({"shape": [cue[1] for cue in cues], "texture": [cue[2] for cue in cues]}, dtype="str")
    space = LabelSpace("", tuple(spec.names))
    return Found(ids, targets, space, "label is the shape", len(set(targets)), missing, annotations=annotations)


def _from_metadata(read):
    """Turn mapping files of another shape into a message."""

    def reader(spec, root, labels):
        try:
            return read(spec, root, labels)
        except ClipsafeError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise refuse(spec, root, f"its mapping files do not fit together ({error!r})", "Unpack it anew.") from error

    return reader


def _json(spec, root, name):
    try:
        return json.loads((root / name).read_text())
    except (OSError, ValueError) as error:
        inside = next((root / folder for folder in listing(root)[0] if (root / folder / name).is_file()), None)
        above = root.parent if (root.parent / name).is_file() else None
        remedy = f"Give {inside or above}." if inside or above else "Unpack the set anew."
        raise refuse(spec, root, f"{name} cannot be read ({type(error).__name__})", remedy) from None


@_from_metadata
def _objectnet(spec, root, labels):
    folder_names = _json(spec, root, "mappings/folder_to_objectnet_label.json")
    imagenet_names = _json(spec, root, "mappings/objectnet_to_imagenet_1k.json")
    lines = _json(spec, root, "mappings/pytorch_to_imagenet_2012_id.json")  # output -> line of the next file
    output_of_line = {int(line): int(output) for output, line in lines.items()}
    words = root / "mappings" / "imagenet_to_label_2012_v2"
    if not words.is_file():
        raise refuse(spec, root, f"mappings/{words.name} is missing", "Unpack the set anew.")
    output_of = {word.strip(): output_of_line.get(i) for i, word in enumerate(words.read_text().splitlines())}
    members = {}
    for folder, label in sorted(folder_names.items()):
        if label in imagenet_names:
            outputs = [output_of.get(word) for word in imagenet_names[label].split("; ")]
            if None in outputs:
                raise refuse(spec, root, f"the mapping of {label!r} names an unknown ImageNet class", "Unpack it anew.")
            members[folder] = tuple(sorted(outputs))
    base = root / "images" if (root / "images").is_dir() else root
    prefix = "images/" if base != root else ""
    folders = [name for name in listing(base)[0] if prefix or name != "mappings"]
    if strange := [name for name in folders if name not in folder_names]:
        raise refuse(
            spec, root, f"unexpected folders {some(strange)}", "Give the folder that holds images/ and mappings/."
        )
    ids, targets = [], []
    for label, name in enumerate(members):
        images = images_below(base / name, f"{prefix}{name}/") if name in folders else []
        ids += images
        targets += [label] * len(images)
    missing = [f"{prefix}{name}/" for label, name in enumerate(members) if label not in set(targets)]
    space = LabelSpace("imagenet1k", tuple(folder_names[name] for name in members), tuple(members.values()))
    protocol = "maximum over the ImageNet classes of each object, by the set's mapping files"
    return Found(ids, targets, space, protocol, len(set(targets)), missing)


@_from_metadata
def _vid_robust(spec, root, labels):
    neighbours = _json(spec, root, "metadata/pmsets.json")  # anchor -> frames within ten of it, by a person's check
    label_sets = _json(spec, root, "metadata/labels.json")
    vid_classes = _json(spec, root, "misc/imagenet_vid_class_index.json")  # "0" -> [WordNet id, name]
    vid_of = _json(spec, root, "misc/wnid_map.json")  # WordNet id in ImageNet -> in ImageNet-Vid
    members = {wnid: [] for wnid, _ in (vid_classes[str(k)] for k in range(len(vid_classes)))}
    for output, wnid in enumerate(imagenet_wnids()):
        if wnid in vid_of:
            members[vid_of[wnid]].append(output)
    names = tuple(vid_classes[str(k)][1] for k in range(len(vid_classes)))
    space = LabelSpace("imagenet1k", names, tuple(map(tuple, members.values())))

    anchor_of = {frame: anchor for anchor, frames in neighbours.items() for frame in [anchor, *frames]}
    listed = len(neighbours) + sum(map(len, neighbours.values()))
    if len(anchor_of) != listed or not anchor_of.keys() <= label_sets.keys():
        raise refuse(spec, root, "metadata/ lists a frame in two sets or without label", "Unpack the set anew.")
    videos = {frame.rpartition("/")[0] for frame in anchor_of}
    present = {f"{video}/{name}" for video in videos if (root / video).is_dir() for name in listing(root / video)[1]}
    ids = sorted(anchor_of.keys() & present)
    missing = sorted(anchor_of.keys() - present)
    if spec.anchors and len(neighbours) != spec.anchors:
        missing.insert(0, f"{spec.anchors - len(neighbours):,} of {spec.anchors:,} anchors in metadata/pmsets.json")
    number = {frame: int(frame.rpartition("/")[2].partition(".")[0]) for frame in anchor_of}
    annotations = pd.DataFrame(
        {
            "anchor": pd.Series([anchor_of[frame] for frame in ids], dtype="str"),
            "offset": np.array([number[frame] - number[anchor_of[frame]] for frame in ids], dtype=np.int64),
            "label_sets": pd.Series([tuple(label_sets[frame]) for frame in ids], dtype=object),
        }
    )
    targets = [label_sets[frame][0] for frame in ids]
    protocol = "maximum over the ImageNet classes of each class; label is the first of the correct ones (label_sets)"
    return Found(ids, targets, space, protocol, len(space), missing, expected=listed, annotations=annotations)


READERS = {
    "wnid": _wnid,
    "index": _index,
    "flat": _flat,
    "folder": _folder,
    "cue_conflict": _cue_conflict,
    "objectnet": _objectnet,
    "vid_robust": _vid_robust,
}
