"""What covers things in the laboratory's world: colours, patterns, materials and scenes, as small banks of tiles."""

import numpy as np
from PIL import Image

COLORS = {
    "red": (0.84, 0.14, 0.14),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.95, 0.88, 0.16),
    "green": (0.16, 0.62, 0.22),
    "turquoise": (0.18, 0.80, 0.78),
    "blue": (0.15, 0.28, 0.85),
    "purple": (0.52, 0.18, 0.66),
    "pink": (0.97, 0.55, 0.75),
    "brown": (0.45, 0.27, 0.13),
    "white": (0.95, 0.95, 0.95),
}
"""Colour name -> red, green, blue in [0, 1]."""

PATTERNS = {
    "plain": lambda x, y: np.zeros_like(x),
    "striped": lambda x, y: _wave(y),
    "lined": lambda x, y: _wave(x * 1.5),
    "slanted": lambda x, y: _wave((x + y) * 0.8),
    "dotted": lambda x, y: (np.hypot(_tri(x), _tri(y)) < 0.5) * 1.0,
    "checked": lambda x, y: _wave(x * 0.7) != _wave(y * 0.7),
    "gridded": lambda x, y: np.maximum(_tri(x) > 0.65, _tri(y) > 0.65),
    "ringed": lambda x, y: _wave(np.hypot(x, y) * 1.1),
    "zigzag": lambda x, y: _wave(y + 0.6 * _tri(x)),
    "wavy": lambda x, y: _wave(x + 0.35 * np.sin(4 * y)),
    "scaly": lambda x, y: np.hypot(_tri(x + 0.5 * np.floor(y * 1.5)), (y * 1.5) % 1) > 0.75,
    "spotted": lambda x, y: _tile_noise(x.shape, 28, 5) > 0.62,
}
"""Pattern name -> indicator of the second colour on object coordinates; one period is about half an object radius."""

MATERIALS = {
    # name: relief, gloss, grain, bands, transparency, outline
    "matte": (0.5, 0.0, 0.00, 0.0, 0.00, 0.0),
    "shiny": (0.8, 0.9, 0.00, 0.0, 0.00, 0.0),
    "rough": (0.3, 0.0, 0.28, 0.0, 0.00, 0.0),
    "metal": (1.5, 0.3, 0.04, 0.5, 0.00, 0.0),
    "glass": (0.6, 0.5, 0.00, 0.0, 0.35, 0.6),
    "woolly": (0.2, 0.0, 0.16, 0.0, 0.00, 0.8),
}
"""Material name -> strength of six effects, each from 0 (none) to about 1."""

SCENES = ("meadow", "beach", "wall", "floor", "sky", "sea", "night", "snow")
N_SCENE_TILES = 24
SCENE_SIDE = 64
PATTERN_SIDE = 128
PATTERN_EXTENT = 3.0
"""A pattern tile covers object coordinates [-3, 3]; an object covers [-1, 1]."""


def _tri(x):
    """Triangle wave of period 1/2 in x, from 0 to 1."""
    return np.abs((2 * x) % 1 * 2 - 1)


def _wave(x):
    return (2 * x) % 1 < 0.5


def _tile_noise(shape, cells, seed):
    """Smooth noise in [0, 1] with about `cells` bumps a side."""
    rough = np.random.default_rng(seed).random((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(rough).resize(shape[::-1], Image.Resampling.BICUBIC))


def patterns():
    """Pattern tiles, float32 array (n_patterns, PATTERN_SIDE, PATTERN_SIDE) in [0, 1], averaged from twice the size."""
    line = (np.arange(2 * PATTERN_SIDE) + 0.5) / PATTERN_SIDE * PATTERN_EXTENT - PATTERN_EXTENT
    x, y = np.meshgrid(line, line)
    tiles = np.stack([np.asarray(mark(x, y), np.float32) for mark in PATTERNS.values()])
    return tiles.reshape(len(tiles), PATTERN_SIDE, 2, PATTERN_SIDE, 2).mean((2, 4), dtype=np.float32)


def scenes(seed=0):
    """Scene tiles, float32 array (n_scenes, N_SCENE_TILES, 3, SCENE_SIDE, SCENE_SIDE) in [0, 1]."""
    line = (np.arange(SCENE_SIDE) + 0.5) / SCENE_SIDE
    x, y = np.meshgrid(line, line)
    tiles = []
    for kind, scene in enumerate(SCENES):
        for k in range(N_SCENE_TILES):
            rng = np.random.default_rng([seed, kind, k])
            noise = [_tile_noise(x.shape, c, [seed, kind, k, c]) for c in (4, 10, 32, 64)]
            tiles.append(np.stack(_scene(scene, x, y, noise, rng)))
    return np.clip(np.asarray(tiles, np.float32), 0, 1).reshape(len(SCENES), N_SCENE_TILES, 3, SCENE_SIDE, SCENE_SIDE)


def _scene(scene, x, y, noise, rng):
    coarse, middle, fine, pixel = noise
    phase = rng.random()
    match scene:
        case "meadow":
            value, color = 0.45 + 0.35 * middle + 0.35 * (fine - 0.5), (0.48, 0.86, 0.30)
        case "beach":
            value, color = 0.72 + 0.15 * coarse + 0.16 * (pixel - 0.5), (1.0, 0.84, 0.58)
        case "wall":
            row = np.floor(y * 10)
            mortar = ((y * 10) % 1 < 0.16) | ((x * 5 + 0.5 * (row % 2) + phase) % 1 < 0.09)
            value, color = np.where(mortar, 0.95, 0.62 + 0.2 * middle), (0.95, 0.50, 0.40)
        case "floor":
            rings = _tri(x * 3 + 0.5 * coarse + 0.15 * middle + phase)
            value, color = np.where((x * 4 + phase) % 1 < 0.05, 0.25, 0.5 + 0.22 * rings), (1.0, 0.68, 0.40)
        case "sky":
            cloud = np.clip(2.2 * (0.6 * coarse + 0.4 * middle) - 0.8, 0, 1)
            return [c + (0.97 - c) * cloud for c in (0.36, 0.60, 0.92)]
        case "sea":
            crest = _tri(y * 4 + 0.6 * coarse + phase) ** 3
            value, color = 0.55 + 0.4 * crest, (0.25, 0.60, 0.78)
        case "night":
            star = (pixel > 0.97) * 0.9
            return [c * (0.6 + 0.8 * coarse) + star for c in (0.07, 0.06, 0.16)]
        case "snow":
            value, color = 0.86 + 0.16 * coarse - 0.1 * middle, (0.93, 0.96, 1.0)
    return [value * c for c in color]
