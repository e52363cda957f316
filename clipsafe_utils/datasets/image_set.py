"""A set of images with labels, read lazily."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clipsafe_utils.datasets.shards import ShardPath
from clipsafe_utils.datasets.spaces import LabelSpace
from clipsafe_utils.errors import ClipsafeError


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images of one test set; whatever has these attributes and methods can take its place.

    Attributes
    ----------
    name : str
        Name in tables and figures.
    root : Path or ShardPath
        Folder of the images, or the shards that hold them.
    image_ids : tuple of str
        Posix paths below `root`, unique, in the order of the classes and then of the names.
    labels : int64 array (n,)
        Index into `space.names`; -1 where there is none (out-of-distribution images).
    space : LabelSpace
        Classes of the set.
    is_ood : bool
        Whether the images are out of distribution for ImageNet.
    annotations : DataFrame (n rows) or None
        Facts about each image: `shape`, `texture` (cue conflict); `anchor`, `offset`, `label_sets` (Vid-Robust).
    border : int
        Pixels cut off at each side (ObjectNet: 2).
    protocol : str
        How the folder was understood, in words.
    """

    name: str
    root: Path
    image_ids: tuple
    labels: np.ndarray
    space: LabelSpace
    is_ood: bool = False
    annotations: pd.DataFrame | None = None
    border: int = 0
    protocol: str = ""

    def __post_init__(self):
        object.__setattr__(self, "root", self.root if isinstance(self.root, ShardPath) else Path(self.root))
        object.__setattr__(self, "image_ids", tuple(self.image_ids))
        object.__setattr__(self, "labels", np.array(self.labels, dtype=np.int64))
        n = len(self.image_ids)
        if len(set(self.image_ids)) != n:
            raise ClipsafeError(f"{self.name}: an image is listed twice; image ids must be unique.")
        if self.labels.shape != (n,) or (self.annotations is not None and len(self.annotations) != n):
            raise ClipsafeError(f"{self.name}: {n:,} images need as many labels and annotation rows.")
        if n and not -1 <= self.labels.min() <= self.labels.max() < len(self.space):
            raise ClipsafeError(f"{self.name}: labels must lie in -1 ... {len(self.space) - 1}.")

    def __len__(self):
        return len(self.image_ids)

    def __repr__(self):
        classes = "out of distribution" if self.is_ood else f"{len(self.space):,} classes"
        return f"ImageSet({self.name}: {len(self):,} images, {classes}, {self.root}; {self.protocol})"

    def image(self, i):
        """Decode one image.

        Parameters
        ----------
        i : int
            Position in `image_ids`.

        Returns
        -------
        PIL.Image.Image
            RGB, as PIL converts it: CMYK without a colour profile, palettes resolved, transparency dropped. The EXIF
            orientation is not applied, as in torchvision, timm and open_clip. The border is cut off.

        Raises
        ------
        OSError
            The file is missing, truncated or no image; the message starts with its path.
        """
        path = self.root / self.image_ids[i]
        try:
            with path.open("rb") as file, Image.open(file) as image:
                if image.mode == "P":  # PIL warns about transparency that the conversion drops anyway
                    image.info.pop("transparency", None)
                image = image.convert("RGB")
        except MemoryError:
            raise
        except Exception as error:  # broken files surface as OSError, SyntaxError, ValueError, struct.error ...
            raise OSError(f"{path}: {error}") from error
        width, height = image.size
        if not self.border:
            return image
        return image.crop((self.border, self.border, width - self.border, height - self.border))

    def manifest(self, *, deep=False):
        """Fingerprint of the set: sha256 over border, image ids in order, sizes in bytes, labels and class names.

        Two copies of a set in different places share it. Sizes are read anew at each call (50,000 files: a fraction of
        a second on a local disk). An edit that keeps the size of a file goes unnoticed unless `deep` hashes the
        contents as well; a missing file counts as size -1.
        """
        names = (*self.space.names, "")
        digest = hashlib.sha256(f"border {self.border}\n".encode())
        for image_id, label in zip(self.image_ids, self.labels, strict=True):
            path = self.root / image_id
            try:
                size = path.size if isinstance(path, ShardPath) else path.stat().st_size
                content = hashlib.sha256(path.read_bytes()).hexdigest() if deep else ""
            except OSError:
                size, content = -1, ""
            digest.update(
                f"{image_id}\0{size}\0{label}\0{names[label]}\0{content}\n".encode("utf-8", "surrogateescape")
            )
        return digest.hexdigest()

    def subset(self, which):
        """The images that a boolean mask (n,) or unique positions select, in that order; the name stays."""
        which = np.asarray(which)
        if which.dtype == bool and which.shape != (len(self),):
            raise ClipsafeError(f"{self.name}: a mask needs {len(self):,} entries, got shape {which.shape}.")
        positions = np.flatnonzero(which) if which.dtype == bool else which.astype(np.int64)
        return replace(
            self,
            image_ids=[self.image_ids[i] for i in positions],
            labels=self.labels[positions],
            annotations=None if self.annotations is None else self.annotations.iloc[positions].reset_index(drop=True),
        )
