"""Label files of flat ImageNet folders, in the forms in which they circulate."""

import re
from pathlib import Path

from clipsafe_utils.datasets.spaces import imagenet_wnids, package_file
from clipsafe_utils.errors import ClipsafeError

ILSVRC_NAME = re.compile(r"(^|/)ILSVRC2012_val_\d{8}$")


def read_labels(path, names):
    """ImageNet output index of each file.

    Parameters
    ----------
    path : path or None
        One line a file: "NAME,LABEL" or "NAME LABEL" with or without header and further fields (`val.txt`, the
        imagenet-x table, Kaggle's LOC_val_solution.csv), the label an index among the sorted WordNet ids or a
        WordNet id. Or one column in the order of the ILSVRC numbers: WordNet ids, or the ids 1..1000 of
        ILSVRC2012_validation_ground_truth.txt, which follow another order and need meta.mat beside it. None: the table
        that the `imagenet-x` package ships.
    names : sequence of str
        File names; joined on their last part, with or without its suffix.

    Returns
    -------
    list of int
        0..999, aligned with `names`.

    Raises
    ------
    ClipsafeError
        No such file, a label that is none, or an image without label.
    """
    path = Path(path).expanduser() if path else package_file("imagenet_x", "annotations", "filename_label.csv")
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ClipsafeError(
            f"label file {path} cannot be read ({error}); give a text file of names and labels."
        ) from None
    rows = [[field.strip('" ') for field in line.split("," if "," in line else None)] for line in lines]
    if rows and len(rows[0]) > 1 and not re.match(r"\d+$|n\d{8}\b", rows[0][1]):
        rows = rows[1:]
    if not rows:
        raise ClipsafeError(f"label file {path} is empty; expected one line an image: its name and its label.")
    if len(rows[0]) == 1:
        index = _column(path, [row[0] for row in rows])
        table = {f"ILSVRC2012_val_{i:08d}": label for i, label in enumerate(index, start=1)}
    else:
        values = [row[1].split()[0] if len(row) > 1 and row[1] else "" for row in rows]
        keys = [row[0].rpartition("/")[2] for row in rows]
        table = dict(zip(keys, _indices(path, values), strict=True))
    names = [name.rpartition("/")[2] for name in names]
    labels = [table.get(name, table.get(name.rpartition(".")[0])) for name in names]
    if (unlabelled := labels.count(None)) > 0:
        raise ClipsafeError(
            f"label file {path} has no label for {unlabelled:,} of {len(names):,} images "
            f"(first: {names[labels.index(None)]}); give the file that belongs to them."
        )
    return labels


def _indices(path, values):
    """Output indices from WordNet ids or from 0-based indices."""
    outputs = {wnid: i for i, wnid in enumerate(imagenet_wnids())} | {str(i): i for i in range(1000)}
    indices = [outputs.get(value) for value in values]
    if None in indices:
        wrong = values[indices.index(None)]
        hint = "; labels 1..1000 are ILSVRC ids in another order, give WordNet ids" if wrong == "1000" else ""
        raise ClipsafeError(
            f"label file {path}: {wrong!r} is neither an index 0..999 nor a WordNet id of ImageNet-1k{hint}."
        )
    return indices


def _column(path, values):
    """Output indices from a bare column, one line an ILSVRC number."""
    if len(values) != 50_000:
        raise ClipsafeError(
            f"label file {path} has one column of {len(values):,} lines; without names it needs 50,000."
        )
    if not values[0].isdigit():
        return _indices(path, values)
    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise ClipsafeError(
            f"label file {path} holds ILSVRC ids, which are not in the order of the WordNet ids; put the development "
            "kit's meta.mat beside it, or give labels by name."
        )
    from scipy.io import loadmat  # only this devkit needs it

    synsets = loadmat(meta, squeeze_me=True)["synsets"]
    wnids = {
        str(int(number)): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
    }
    return _indices(path, [wnids.get(value, value) for value in values])
