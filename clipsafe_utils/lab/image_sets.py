"""Test sets of the laboratory: image sets like any other, rendered when looked at."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clipsafe_utils.datasets import LabelSpace
from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.lab.world import BENCHMARK_NAMES, CLASSES, FACTORS, TRAIN_SEED, World

DEV_SEEDS = (11, 12, 13, 7001)
"""Worlds that rates, difficulty and recipes were chosen on, by in-distribution accuracy and the accuracy of classifiers
on the conditions; no number of a report comes from them."""

TEST_SEEDS = (7002, 7003, 7004)
"""Worlds of the reported test sets, looked at by no choice; the first is the default."""

SPACE = LabelSpace("lab", BENCHMARK_NAMES, tuple((k,) for k in range(len(BENCHMARK_NAMES))))
"""The 32 classes of the benchmark: outputs of every classifier of the zoo, in this order."""


@dataclass(frozen=True)
class LabSet:
    """What is known of a test set: the world's stream, the number of images and what it is for."""

    stream: str
    images: int
    title: str
    is_ood: bool = False


LAB_SETS = {
    "lab_id": LabSet("id", 2000, "in-distribution validation; column `half` splits it"),
    "lab_factors": LabSet("factors", 2000, "fresh images at the rates of lab_id, with factor labels"),
    "lab_resample": LabSet("resample", 1000, "the same distribution once more: a control without shift"),
    "lab_art": LabSet("art", 1000, "flat colours, dark contours, coarse backgrounds"),
    "lab_sketch": LabSet("sketch", 1000, "pencil on paper, little colour"),
    "lab_viewpoint": LabSet("viewpoint", 1000, "unusual poses, backgrounds and proportions"),
    "lab_hard": LabSet("hard", 1000, "many atypical factors at once"),
    "lab_noise": LabSet("noise", 1000, "strong pixel noise"),
    "lab_dark": LabSet("dark", 1000, "little light"),
    "lab_renderer": LabSet("renderer", 1000, "another setting of the renderer: scenes, shadows, no anti-aliasing"),
    "lab_pairs": LabSet("typical", 500, "typical images and, for each factor, the same images with it switched on"),
    "lab_cue_conflict": LabSet("cue_conflict", 1280, "shape of one class, colour, pattern, material of another"),
    "lab_ood_classes": LabSet("ood_classes", 1000, "unseen classes of known superclasses (nearest)", True),
    "lab_ood_superclass": LabSet("ood_superclass", 1000, "classes of a superclass that no model has seen", True),
    "lab_ood_textures": LabSet("ood_textures", 1000, "patterns that fill the image, no outline", True),
    "lab_ood_scenes": LabSet("ood_scenes", 1000, "scenes without an object", True),
    "lab_ood_noise": LabSet("ood_noise", 1000, "noise of four grain sizes (farthest)", True),
}
"""Name -> test set. The eight conditions are lab_resample ... lab_renderer."""


@dataclass(frozen=True)
class LabImages:
    """A test set of the laboratory; has the attributes of an `ImageSet`.

    Attributes
    ----------
    name, image_ids, labels, space, is_ood, annotations, protocol
        As in `clipsafe_utils.datasets.ImageSet`. Annotations are the ten factors (bool); `shape` and `texture` for cue
        conflict; `pair` (images with the same number differ in one factor) and `forced` (that factor, "none" for the
        typical image) for lab_pairs.
    world : World
        Where the images come from.
    """

    name: str
    world: World
    position: np.ndarray = field(repr=False, compare=False)
    space: LabelSpace = field(default=SPACE, repr=False)

    @property
    def known(self):
        """The set's row of `LAB_SETS`."""
        return LAB_SETS[self.name]

    @property
    def is_ood(self):
        """Whether the images show none of the benchmark's classes."""
        return self.known.is_ood

    @property
    def root(self):
        """Rendered images lie in no folder; a nominal one."""
        return Path(self.name)

    @property
    def protocol(self):
        """How the set was made, in words."""
        return f"rendered at {self.world.size} px, seed {self.world.seed}: {self.known.title}"

    @cached_property
    def image_ids(self):
        """Unique ids; those of lab_pairs name the forced factor."""
        n = self.known.images
        if self.name != "lab_pairs":
            return tuple(f"{self.known.stream}/{i:05d}.png" for i in self.position)
        return tuple(f"{('none', *FACTORS)[i // n]}/{i % n:05d}.png" for i in self.position)

    @cached_property
    def labels(self):
        """Position among the benchmark's classes, -1 for images out of distribution."""
        if self.is_ood:
            return np.full(len(self), -1)
        facts = self.world.facts(self.known.stream, self.position % self._period)
        return np.searchsorted(CLASSES["benchmark"], facts["label"])

    @cached_property
    def annotations(self):
        """What is known about each image, aligned with `image_ids`."""
        stream, index = self.known.stream, self.position
        if self.name == "lab_pairs":
            forced = np.array(("none", *FACTORS))[index // self._period]
            frame = pd.DataFrame({factor: forced == factor for factor in FACTORS})
            return frame.assign(pair=index % self._period, forced=forced)
        frame = self.world.annotations(stream, index)
        if self.known.is_ood:
            return None
        # 32 classes take turns, so blocks of 32 alternate between the halves and both hold every class equally often.
        return frame.assign(half=index // len(SPACE) % 2) if self.name == "lab_id" else frame

    @property
    def _period(self):
        return self.known.images if self.name == "lab_pairs" else np.iinfo(np.int64).max

    def __len__(self):
        return len(self.position)

    def image(self, i):
        """Render one image as a PIL RGB image."""
        return Image.fromarray(self.render(i, i + 1)[0])

    def render(self, start, stop):
        """Render images start..stop; uint8 array (n, height, width, 3)."""
        position = self.position[start:stop]
        parts, n = [], self._period
        for block in np.unique(position // n):
            index = position[position // n == block] % n
            world = self.world.forcing(**{FACTORS[block - 1]: True}) if block else self.world
            parts.append(world.render(self.known.stream, world.facts(self.known.stream, index)))
        images = np.concatenate([part.permute(0, 2, 3, 1).numpy() for part in parts])
        return images[np.argsort(np.argsort(position // n, kind="stable"), kind="stable")]

    def manifest(self, *, deep=False):
        """Fingerprint: the world's digest of the stream and the positions; `deep` is for files only."""
        text = f"{self.name} {self.world.digest(self.known.stream)} {self.position.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def subset(self, where):
        """The images of a boolean mask or of positions, as another set of the same name."""
        return LabImages(self.name, self.world, self.position[np.asarray(where)], self.space)


def load_lab_images(name, *, seed=TEST_SEEDS[0], size=32):
    """A test set of the laboratory.

    Parameters
    ----------
    name : str
        A name of `LAB_SETS`.
    seed : int, default: the first of `TEST_SEEDS`
    size : int, default 32
        Side of the images in pixels.

    Returns
    -------
    LabImages

    Raises
    ------
    ClipsafeError
        Unknown name, or a seed that training used.
    """
    if name not in LAB_SETS:
        raise unknown("image set of the laboratory", name, LAB_SETS)
    if seed == TRAIN_SEED:
        raise ClipsafeError(f"seed {seed} is the world that the zoo was trained on; choose another, such as 7001.")
    n = LAB_SETS[name].images * (1 + len(FACTORS) if name == "lab_pairs" else 1)
    return LabImages(name, World(seed, size), np.arange(n))
