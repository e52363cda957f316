"""Image sets: known benchmarks and folders of the user, with labels that come from identity, never from order.

images = load_images("imagenet_v2_matched_frequency", "/data/imagenetv2-matched-frequency-format-val")
mine = load_images("my_photos", "~/photos", kind="folder")
"""

import functools
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import yaml

from clipsafe_utils.datasets.factors import ALL_FACTORS, FACTORS, factor_annotations, load_factor_annotations
from clipsafe_utils.datasets.folders import existing_folder, listing
from clipsafe_utils.datasets.image_set import ImageSet
from clipsafe_utils.datasets.readers import READERS, refuse, some
from clipsafe_utils.datasets.spaces import NO_CLASSES, LabelSpace, imagenet_space, imagenet_wnids
from clipsafe_utils.errors import ClipsafeError, unknown

__all__ = [
    "ALL_FACTORS",
    "FACTORS",
    "NO_CLASSES",
    "ImageSet",
    "KnownSet",
    "LabelSpace",
    "factor_annotations",
    "image_set_names",
    "imagenet_space",
    "imagenet_wnids",
    "known_image_sets",
    "load_factor_annotations",
    "load_images",
]

USER_KINDS = {
    "folder": "root/CLASS/*.jpg (class folders; WordNet ids of ImageNet are recognised)",
    "wnid": "root/n01440764/*.jpg (folders by WordNet id of ImageNet)",
    "index": "root/0 ... root/999/*.jpg (folders by ImageNet class index)",
    "flat": "root/*.jpg (out of distribution, or with a label file)",
}


@dataclass(frozen=True)
class KnownSet:
    """What is known of a test set before looking at the disk; a row of image_sets.yaml.

    `images`, `classes` and `anchors` are the counts of a complete copy (None: not checked); `tree` shows the layout
    expected below the root; `source` says where the set comes from, `licence` on what terms, `get` how its archive (of
    `gigabytes`, None: unknown) becomes the tree.
    """

    name: str
    title: str
    layout: str
    tree: str
    images: int | None = None
    classes: int | None = None
    anchors: int | None = None
    space: str = "imagenet1k"
    names: tuple = ()
    is_ood: bool = False
    border: int = 0
    licence: str = ""
    source: str = ""
    get: str = ""
    gigabytes: float | None = None


@functools.cache
def known_image_sets():
    """The registry: name -> KnownSet, in the order of image_sets.yaml."""
    rows = yaml.safe_load(Path(__file__).with_name("image_sets.yaml").read_text())
    return {name: KnownSet(name, **row) for name, row in rows.items()}


def image_set_names():
    """Names that `load_images` knows."""
    return tuple(known_image_sets())


def _spec(name, kind):
    known = known_image_sets()
    if kind is None and name not in known:
        raise unknown("image set", name, known, hint='A folder of your own is loaded with kind="folder".')
    if kind is None or kind in known:
        return replace(known[kind or name], name=name)
    if kind not in USER_KINDS:
        raise unknown("kind of image set", kind, [*USER_KINDS, *known])
    return KnownSet(name, name, kind, USER_KINDS[kind], is_ood=kind == "flat")


def load_images(name, root, *, partial=False, labels=None, kind=None, is_ood=None):
    """List the images of a test set and label them; no image is opened.

    Parameters
    ----------
    name : str
        A known set (`image_set_names()`); any name if `kind` is given; "lab_..." for a set of the laboratory.
    root : path
        Folder that the set's `tree` describes. Links are followed, hidden files ignored. Or a tar file, or a folder of
        tar files (WebDataset shards), that hold such a folder: see `clipsafe_utils.datasets.shards`.
    partial : bool, default False
        Admit a sample: fewer images or classes than the complete set, empty class folders. Folders that are no class
        of the set are refused all the same.
    labels : path, optional
        Label file of a flat folder of ImageNet classes; see `clipsafe_utils.datasets.labels.read_labels`. For
        `imagenet_val` with ILSVRC file names it defaults to the table of the `imagenet-x` package.
    kind : str, optional
        "folder": class folders, ImageNet's if all names are WordNet ids of it. "wnid", "index" (ImageNet class
        indices), "flat": that layout. Or a known set, read as it but named `name`.
    is_ood : bool, optional
        Out of distribution: no labels, no classes. By default what the registry says; "flat" folders without labels
        are, other folders of the user are not.

    Returns
    -------
    ImageSet

    Raises
    ------
    ClipsafeError
        Unknown name; folder missing, unreadable, of another layout, or not complete. The message says what was found,
        what was expected and what to do.
    """
    if name.startswith("lab_") and kind is None:  # the laboratory renders its images, so there is no folder
        return import_module("clipsafe_utils.lab").load_lab_images(name)
    spec = _spec(name, kind)
    root = existing_folder(root, imagenet_wnids() if spec.layout == "wnid" and spec.space == "imagenet1k" else None)
    if is_ood is None:
        is_ood = spec.is_ood and labels is None
    if labels is not None and (is_ood or spec.layout not in ("wnid", "flat", "folder")):
        reason = "out-of-distribution images have no labels" if is_ood else "the set brings its own labels"
        raise ClipsafeError(f"{name}: labels= was given, but {reason}; drop labels=.")
    if spec.layout in ("folder", "flat") and is_ood:
        spec = replace(spec, layout="flat", tree=spec.tree if spec.images else USER_KINDS["flat"])
    elif spec.layout == "flat" and labels is None:
        raise ClipsafeError(f"{name}: images without class folders need labels=FILE unless is_ood is true.")
    found = READERS[spec.layout](spec, root, labels)
    _check(spec, root, found, partial)
    return ImageSet(
        name=name,
        root=root,
        image_ids=found.ids,
        labels=np.full(len(found.ids), -1) if is_ood else found.labels,
        space=NO_CLASSES if is_ood else found.space,
        is_ood=is_ood,
        annotations=found.annotations,
        border=spec.border,
        protocol=found.protocol,
    )


def _check(spec, root, found, partial):
    """Refuse what is empty and, unless `partial`, what is not the complete set."""
    expected = found.expected or spec.images
    n = len(found.ids)
    complete = not found.missing and expected in (None, n) and spec.classes in (None, found.classes)
    if n and (partial or complete):
        return
    folders, files = listing(root)
    problem = f"found {n:,} images" + (f" of {found.classes:,} classes" if found.classes else "")
    problem += f", missing {some(found.missing)}" if found.missing else ""
    if len(folders) == 1 and not files and not n:
        remedy = f"It holds the single folder {folders[0]}: try {root / folders[0]}."
    elif not n:
        remedy = "Give the folder that holds the images, unpacked."
    elif expected and n > expected:
        remedy = "Remove what does not belong to it."
    else:
        remedy = "Unpack it completely, or pass partial=True to use what is there as a sample."
    raise refuse(spec, root, problem, remedy)
