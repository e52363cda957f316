"""A rendered world whose every image knows its visual factors.

Each image is a pure function of (world seed, stream, index): its random numbers come from a counter-based hash, so it
has the same bytes whatever the chunk, the batch or the number of threads it is rendered in, and turning one factor on
leaves all its other draws alone (a paired counterfactual).
"""

import functools
import hashlib
import json
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from PIL import Image

from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.lab import atlas, surfaces
from clipsafe_utils.lab.render import banks, render

VERSION = 1
"""Part of every manifest: raise it when a pixel changes."""

TRAIN_SEED = 1
"""Seed of the world that all training images come from; development and test seeds are in `image_sets`."""

FACTORS = (
    "pose", "background", "pattern", "color", "smaller", "shape", "partial_view", "subcategory", "texture", "larger",
)  # fmt: skip
"""The ten factors of the study; True means atypical for the class."""

_TREE = [(s, c) for s, classes in atlas.SUPERCLASSES.items() for c in classes]
CLASS_NAMES = tuple(c for _, c in _TREE)
SUPERCLASS_NAMES = tuple(atlas.SUPERCLASSES)
SUPERCLASS_OF = np.array([SUPERCLASS_NAMES.index(s) for s, _ in _TREE])
_POSITION = np.array([list(atlas.SUPERCLASSES[s]).index(c) for s, c in _TREE])
_SEEN = SUPERCLASS_OF < 8
CLASSES = {
    "benchmark": np.flatnonzero(_SEEN & (_POSITION < 4)),
    "more": np.flatnonzero(_SEEN & (_POSITION < 5)),
    "held_out": np.flatnonzero(_SEEN & (_POSITION == 5)),
    "unseen": np.flatnonzero(~_SEEN),
}
"""Class indices: the 32 of the benchmark; these and 8 extra ("more data"); 8 near-OOD ones of known superclasses and 4
of an unseen superclass, which no model of the zoo has met."""
BENCHMARK_NAMES = tuple(CLASS_NAMES[c] for c in CLASSES["benchmark"])

# 7 and 5 share no divisor with 10 and 12, so every class has a (colour, pattern) pair of its own.
_INDEX = np.arange(len(CLASS_NAMES))
TYPICAL_COLOR = (7 * _INDEX + 3) % 10
TYPICAL_PATTERN = (5 * _INDEX + 1) % 12
TYPICAL_MATERIAL = np.array(
    [list(surfaces.MATERIALS).index(m) for m in
     ("glass", "shiny", "rough", "woolly", "matte", "metal", "shiny", "woolly", "metal")]
)[SUPERCLASS_OF]  # fmt: skip
TYPICAL_SCENES = np.array(
    [[surfaces.SCENES.index(s) for s in row.split()] for row in
     ("sky night snow", "floor wall beach", "meadow sky snow", "sea meadow beach", "meadow snow wall",
      "floor wall night", "sky sea beach", "floor snow meadow", "wall night sea")]
)[SUPERCLASS_OF]  # fmt: skip

_OTHER_SCENES = np.array([[s for s in range(len(surfaces.SCENES)) if s not in row] for row in TYPICAL_SCENES])

RATES = {
    # P(atypical):  pose, background, pattern, color, smaller, shape, partial, subcategory, texture, larger
    "benchmark": (0.12, 0.20, 0.15, 0.15, 0.10, 0.12, 0.10, 0.12, 0.15, 0.10),
    "curated": (0.30, 0.40, 0.12, 0.12, 0.10, 0.06, 0.10, 0.12, 0.15, 0.10),
    "web": (0.12, 0.12, 0.25, 0.25, 0.10, 0.24, 0.10, 0.12, 0.15, 0.10),
    "viewpoint": (0.50, 0.60, 0.15, 0.15, 0.15, 0.30, 0.15, 0.12, 0.15, 0.10),
    "hard": (0.25, 0.40, 0.35, 0.35, 0.20, 0.25, 0.20, 0.30, 0.30, 0.15),
    "typical": (0.0,) * 10,
}
"""Rates of the ten factors in the benchmark (training sets of classifiers and in-distribution tests), in the two
caption sources A (curated) and B (web) and in two test conditions. A and B differ from the benchmark in pose,
background, pattern, color and shape only: these differences are built in, whatever else appears is found."""


@dataclass(frozen=True)
class Stream:
    """One kind of images: which classes, how often each factor is atypical, and how it is rendered.

    `content` is "object", "cue_conflict" (shape of one class, pattern, colour and material of another), "texture" (no
    object outline), "scene" (no object) or "noise". `noise` and `gain` are ranges of the noise's standard deviation and
    of the brightness, in units of the full intensity range.
    """

    rates: str = "benchmark"
    classes: str = "benchmark"
    content: str = "object"
    style: str = "photo"
    noise: tuple = (0.01, 0.04)
    gain: tuple = (0.85, 1.15)


STREAMS = {
    "id": Stream(),
    "train": Stream(),
    "train_more": Stream(classes="more"),
    "A": Stream(rates="curated", classes="more"),
    "B": Stream(rates="web", classes="more"),
    "factors": Stream(),
    "typical": Stream(rates="typical"),
    "resample": Stream(),
    "art": Stream(style="art"),
    "sketch": Stream(style="sketch"),
    "viewpoint": Stream(rates="viewpoint"),
    "hard": Stream(rates="hard", gain=(0.6, 1.2)),
    "noise": Stream(noise=(0.06, 0.16)),
    "dark": Stream(gain=(0.35, 0.65), noise=(0.01, 0.04)),
    "renderer": Stream(style="renderer"),
    "cue_conflict": Stream(rates="typical", content="cue_conflict"),
    "ood_classes": Stream(classes="held_out"),
    "ood_superclass": Stream(classes="unseen"),
    "ood_textures": Stream(content="texture"),
    "ood_scenes": Stream(content="scene"),
    "ood_noise": Stream(content="noise"),
}


def _mix(z):
    """Finaliser of splitmix64 on uint64 arrays (Steele, Lea, Flood. OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Draws:
    """Uniform numbers, one a named channel and image."""

    def __init__(self, seed, stream, index):
        start = np.array([seed & 0xFFFFFFFF, zlib.crc32(stream.encode())], np.uint64)
        start = _mix(_mix(start[:1] + np.uint64(0x9E3779B97F4A7C15)) ^ start[1:])
        self.state = _mix(start ^ (index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)))

    def __call__(self, channel, low=0.0, high=1.0):
        bits = _mix(self.state ^ np.uint64(zlib.crc32(channel.encode()) * 0x9E3779B1))
        return low + (high - low) * ((bits >> np.uint64(11)).astype(np.float64) / 2**53)

    def below(self, channel, n):
        return (self(channel) * n).astype(np.int64)


@dataclass(frozen=True)
class World:
    """A world of images.

    Parameters
    ----------
    seed : int, default 0
        Two worlds of different seeds share no image.
    size : int, default 32
        Side of an image in pixels.
    force : dict of str to bool
        Factors switched on or off in every image, whatever the rates say; all other draws stay as they are.

    Examples
    --------
    >>> World(seed=3).dataset("id")[0][0].shape
    torch.Size([3, 32, 32])
    """

    seed: int = 0
    size: int = 32
    force: dict = field(default_factory=dict)

    def __post_init__(self):
        for factor in set(self.force) - set(FACTORS):
            raise unknown("factor", factor, FACTORS)
        if not 16 <= self.size <= 64 or self.size % 4:
            raise ClipsafeError(f"size must be a multiple of 4 from 16 to 64 pixels; got {self.size}.")

    def forcing(self, **force):
        """The same world with factors switched on or off."""
        return replace(self, force={**self.force, **force})

    def facts(self, stream, index):
        """Everything that decides how images look.

        Parameters
        ----------
        stream : str
            A name of `STREAMS`.
        index : array of int, shape (n,)
            Which images of the stream.

        Returns
        -------
        dict of str to ndarray, each of shape (n,)
            `label` (index into `CLASS_NAMES`), the ten factors (bool), variant, paint, motif, material, scene (indices
            into the names of `surfaces`), `surface` (the class that gives colour, pattern and material), geometry and
            light.
        """
        if stream not in STREAMS:
            raise unknown("stream of the world", stream, STREAMS)
        spec, index = STREAMS[stream], np.asarray(index)
        draw = Draws(self.seed, stream, index)
        classes = CLASSES[spec.classes]
        label = surface = classes[index % len(classes)]
        if spec.content == "cue_conflict":
            # All 32 x 31 pairs of different classes in turn.
            n = len(classes)
            surface = classes[(index % n + 1 + (index // n) % (n - 1)) % n]
        f = {"index": index, "label": label, "surface": surface} | self._factors(draw, RATES[spec.rates])

        def typical_or(factor, channel, typical, n):
            return np.where(f[factor], (typical + 1 + draw.below(channel, n - 1)) % n, typical)

        f["variant"] = np.where(f["subcategory"], 2, draw.below("variant", 2))
        f["paint"] = typical_or("color", "paint", TYPICAL_COLOR[surface], len(surfaces.COLORS))
        f["motif"] = typical_or("pattern", "motif", TYPICAL_PATTERN[surface], len(surfaces.PATTERNS))
        f["material"] = typical_or("texture", "material", TYPICAL_MATERIAL[surface], len(surfaces.MATERIALS))
        if spec.content == "object":
            usual, rest = TYPICAL_SCENES[label], _OTHER_SCENES[label]
            rows, k, j = np.arange(len(index)), draw.below("scene", 3), draw.below("other scene", rest.shape[1])
            f["scene"] = np.where(f["background"], rest[rows, j], usual[rows, k])
        else:
            f["scene"] = draw.below("scene", len(surfaces.SCENES))
        return f | self._geometry(f, draw) | self._light(draw, spec)

    def _factors(self, draw, rates):
        rate = dict(zip(FACTORS, rates, strict=True))
        on = {factor: draw(factor) < rate[factor] for factor in FACTORS}
        # One draw for both, since an object cannot be smaller and larger; a forced one switches the other off.
        on["larger"] = draw("smaller") >= 1 - rate["larger"]
        for factor, value in self.force.items():
            on[factor] = np.full_like(on[factor], value)
        for one, two in (("smaller", "larger"), ("larger", "smaller")):
            if self.force.get(one):
                on[two] = np.zeros_like(on[two])
        return {factor: on[factor] for factor in FACTORS}

    def _geometry(self, f, draw):
        """Object to image: scale, turn, shear, stretch and centre, in units of half an image."""
        sign = np.where(draw("sign") < 0.5, -1.0, 1.0)
        scale = np.select(
            [f["smaller"], f["larger"]],
            [draw("scale", 0.36, 0.46), draw("scale", 1.15, 1.40)],
            draw("scale", 0.74, 0.94),
        )
        angle = sign * np.where(f["pose"], draw("angle", 60, 180), draw("angle", 0, 12)) * (np.pi / 180)
        tall = np.where(draw("tall") < 0.5, -1.0, 1.0)
        stretch = np.exp(tall * np.where(f["shape"], draw("stretch", 0.25, 0.4), draw("stretch", 0, 0.06)))
        shear = np.where(draw("lean") < 0.5, -1, 1) * np.where(
            f["shape"], draw("shear", 0.3, 0.6), draw("shear", 0, 0.06)
        )
        cos, sin = np.cos(angle), np.sin(angle)
        # Inverse map: image offset -> object coordinates; rows of the matrix inv(turn @ shear @ stretch) / scale.
        inverse = {
            "xx": (cos - shear * -sin) / (scale * stretch), "xy": (sin - shear * cos) / (scale * stretch),
            "yx": -sin * stretch / scale, "yy": cos * stretch / scale,
        }  # fmt: skip
        room = np.clip(0.95 - scale, 0.05, 0.2)
        x, y = draw("x", -1, 1) * room, draw("y", -1, 1) * room
        away, side = 1 - scale * draw("away", 0.0, 0.25), draw.below("side", 4)
        x = np.where(f["partial_view"] & (side < 2), np.where(side == 0, -away, away), x)
        y = np.where(f["partial_view"] & (side >= 2), np.where(side == 2, -away, away), y)
        return {"scale": scale, "angle": angle, "stretch": stretch, "shear": shear, "x": x, "y": y, **inverse}

    def _light(self, draw, spec):
        angle = draw("light angle", 0, 2 * np.pi)
        light = {
            "gain": draw("gain", *spec.gain), "noise": draw("noise", *spec.noise), "slope": draw("slope", 0, 0.2),
            "light_x": np.cos(angle), "light_y": np.sin(angle), "noise_at": draw.below("noise at", 2**20 - 2**15),
            "tile": draw.below("tile", surfaces.N_SCENE_TILES), "zoom": draw("zoom", 0.35, 0.6),
            "tile_x": draw("tile x", -1, 1), "tile_y": draw("tile y", -1, 1), "mirror": draw.below("mirror", 2) * 2 - 1,
            "motif_scale": draw("motif scale", 0.85, 1.15), "motif_x": draw("motif x", -0.5, 0.5),
            "motif_y": draw("motif y", -0.5, 0.5), "block": draw.below("block", 4),
        }  # fmt: skip
        light |= {f"tint_{c}": draw(f"tint {c}", -0.04, 0.04) for c in "rgb"}
        for k in range(3):
            light |= {f"blob_{v}{k}": draw(f"blob {v}{k}", -1, 1) for v in "xyrc"}
        return light

    def render(self, stream, facts, *, chunk=64):
        """Render images from their facts.

        Parameters
        ----------
        stream : str
            A name of `STREAMS`; its content and style decide the renderer's path.
        facts : dict
            What `facts` returned.
        chunk : int, default 64
            Images rendered at once: memory and speed, never a pixel.

        Returns
        -------
        Tensor of uint8, shape (n, 3, size, size)
        """
        n = len(facts["index"])
        images = torch.empty((n, 3, self.size, self.size), dtype=torch.uint8)
        with torch.inference_mode():
            for start in range(0, n, chunk):
                part = {
                    name: torch.from_numpy(np.ascontiguousarray(v[start : start + chunk])) for name, v in facts.items()
                }
                part = {name: v.float() if v.dtype == torch.float64 else v for name, v in part.items()}
                images[start : start + chunk] = render(part, self.size, STREAMS[stream].content, STREAMS[stream].style)
        return images

    def images(self, stream, start, stop):
        """Images start..stop of a stream as a uint8 tensor (n, 3, size, size)."""
        return self.render(stream, self.facts(stream, np.arange(start, stop)))

    def annotations(self, stream, index):
        """Factor labels of images, a DataFrame of bool columns; for cue conflict the two cues' class names."""
        f = self.facts(stream, index)
        if STREAMS[stream].content == "cue_conflict":
            names = np.array(CLASS_NAMES)
            return pd.DataFrame({"shape": names[f["label"]], "texture": names[f["surface"]]})
        return pd.DataFrame({factor: f[factor] for factor in FACTORS})

    def dataset(self, stream, n=2000):
        """The first n images of a stream as a torch Dataset."""
        return WorldDataset(self, stream, n)

    def digest(self, stream):
        """Fingerprint of everything that decides a stream's images: version, world, stream and all tiles."""
        spec = {"version": VERSION, "seed": self.seed, "size": self.size, "force": self.force, "stream": stream}
        spec |= {"spec": vars(STREAMS[stream]), "rates": RATES[STREAMS[stream].rates]}
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode() + _banks_digest()).hexdigest()


@functools.lru_cache(maxsize=1)
def _banks_digest():
    return hashlib.sha256(b"".join(bank.numpy().tobytes() for bank in banks().values())).digest()


class WorldDataset(torch.utils.data.Dataset):
    """Images of one stream: item i is (uint8 tensor (3, size, size), label); a batch comes from `batch`."""

    def __init__(self, world, stream, n):
        self.world, self.stream, self.n = world, stream, n
        self.facts = world.facts(stream, np.arange(n))

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(f"image {i} of {self.n}")
        return self.world.images(self.stream, i, i + 1)[0], int(self.facts["label"][i])

    def batch(self, start, stop):
        """Images start..stop, uint8 tensor (n, 3, size, size); much faster than one by one."""
        return self.world.images(self.stream, start, min(stop, self.n))

    def sheet(self, rows=6, columns=16, scale=2):
        """A contact sheet of the first images, a PIL image."""
        return contact_sheet(self.batch(0, rows * columns), columns, scale)


def contact_sheet(images, columns=16, scale=2):
    """Lay uint8 images (n, 3, h, w) out in rows; a PIL image enlarged `scale` times."""
    n, c, h, w = images.shape
    blank = images.new_full((-n % columns, c, h, w), 255)
    grid = torch.cat([images, blank]).reshape(-1, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(-1, columns * w, c)
    sheet = Image.fromarray(grid.numpy())
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
