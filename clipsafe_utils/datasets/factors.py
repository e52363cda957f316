"""ImageNet-X: which visual factors distinguish an image of ImageNet's validation set from its class.

Annotations: Idrissi et al., "ImageNet-X", ICLR 2023, as shipped by the `imagenet-x` package (CC BY-NC).
"""

import functools
import json
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from clipsafe_utils.datasets.spaces import package_file
from clipsafe_utils.errors import ClipsafeError, unknown

FACTORS = (
    *("pose", "background", "pattern", "color", "smaller"),
    *("shape", "partial_view", "subcategory", "texture", "larger"),
)
"""The ten factors of the study."""

ALL_FACTORS = (*FACTORS, "darker", "object_blocking", "person_blocking", "style", "brighter", "multiple_objects")
"""The sixteen factors that ImageNet-X annotates."""


@functools.cache
def _annotations(which):
    with package_file("imagenet_x", "annotations", f"imagenet_x_val_{which}_factor.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines]
    prototypes = pd.read_csv(package_file("imagenet_x", "annotations", "prototypical_paths.csv"))
    frame = pd.DataFrame(rows, columns=["file_name", "class", *ALL_FACTORS]).set_index("file_name")
    frame = frame[~frame.index.isin(prototypes["file_name"])].rename(columns={"class": "label"})
    return frame.astype({factor: bool for factor in ALL_FACTORS}).sort_index()


def load_factor_annotations(which="top"):
    """Factor annotations of the ImageNet validation images.

    Parameters
    ----------
    which : {"top", "multi"}
        One factor an image (the most salient one), or all that apply.

    Returns
    -------
    DataFrame
        46,110 rows: the 48,868 annotated images without the class prototypes. Index: file name, sorted; columns:
        `label` (index among the ImageNet outputs) and a boolean for each of `ALL_FACTORS`. Parsed once; a copy.

    Raises
    ------
    ClipsafeError
        Unknown `which`; the `imagenet-x` package is not installed.
    """
    if which not in ("top", "multi"):
        raise unknown("factor annotation", which, ["top", "multi"])
    return _annotations(which).copy()


def factor_annotations(images, which="top"):
    """Factor annotations aligned with an image set.

    Parameters
    ----------
    images : ImageSet or sequence of str
        Image ids; joined on their last part, the ILSVRC file name, whatever its suffix.
    which : {"top", "multi"}
        See `load_factor_annotations`.

    Returns
    -------
    DataFrame (n rows)
        Row i belongs to image i. `annotated` says whether ImageNet-X knows the image (and it is no prototype); the
        booleans of `ALL_FACTORS` are False where it does not. No row is annotated where names are not ILSVRC names.

    Raises
    ------
    ClipsafeError
        An annotated image carries another label here: the set's labels are not in ImageNet's order.
    """
    ids = getattr(images, "image_ids", images)
    known = load_factor_annotations(which)
    known.index = [PurePosixPath(name).stem for name in known.index]
    stems = [PurePosixPath(image_id).stem for image_id in ids]
    labels = known.pop("label").reindex(stems, fill_value=-1).to_numpy()
    space = getattr(images, "space", None)
    if space is not None and space.outputs == "imagenet1k" and all(len(members) == 1 for members in space.members):
        outputs = np.array([space.members[k][0] if k >= 0 else -1 for k in images.labels], dtype=np.int64)
        wrong = np.flatnonzero((labels >= 0) & (outputs >= 0) & (labels != outputs))
        if len(wrong):
            raise ClipsafeError(
                f"{images.name}: {len(wrong):,} labels contradict ImageNet-X (first: {ids[wrong[0]]}); "
                "check the label file, its indices must follow the sorted WordNet ids."
            )
    return known.reindex(stems, fill_value=False).reset_index(drop=True).assign(annotated=labels >= 0)
