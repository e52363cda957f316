"""Silhouettes of the laboratory's classes: three variants each, the third one the rare sub-variant.

A drawing is a list of marks on the square [-1, 1] x [-1, 1] with y pointing down: `(kind, points, paint)`, where paint
1 adds to the silhouette and 0 cuts a hole.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

N_VARIANTS = 3
TILE = 64
"""Side of a silhouette in the atlas, in pixels; drawn four times as large and averaged."""


def _poly(*xy, on=1):
    return ("polygon", xy, on)


def _disc(x, y, rx, ry=None, on=1):
    ry = rx if ry is None else ry
    return ("ellipse", (x - rx, y - ry, x + rx, y + ry), on)


def _box(x0, y0, x1, y1, on=1):
    return ("rectangle", (x0, y0, x1, y1), on)


def _bar(x0, y0, x1, y1, width, on=1):
    length = math.hypot(x1 - x0, y1 - y0)
    dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return _poly(x0 + dx, y0 + dy, x1 + dx, y1 + dy, x1 - dx, y1 - dy, x0 - dx, y0 - dy, on=on)


def _ray(n, inner, outer=0.95, turn=-0.25):
    turns = [turn + k / (2 * n) for k in range(2 * n)]
    radii = [outer if k % 2 == 0 else inner for k in range(2 * n)]
    return _poly(*(r * f(2 * math.pi * t) for t, r in zip(turns, radii, strict=True) for f in (math.cos, math.sin)))


def _ring(n, radius, mark, turn=0.0):
    angles = (2 * math.pi * (k / n + turn) for k in range(n))
    return [mark(radius * math.cos(a), radius * math.sin(a)) for a in angles]


SUPERCLASSES = {
    "weather": {
        "star": lambda v: [_ray((5, 5, 7)[v], (0.38, 0.5, 0.55)[v])],
        "moon": lambda v: [_disc(0, 0, 0.9), _disc((0.4, 0.3, 0)[v], (-0.1, 0, -0.5)[v], (0.75, 0.7, 0.72)[v], on=0)],
        "sun": lambda v: (
            [_ray((12, 16)[v], (0.62, 0.72)[v])]
            if v < 2
            else [_disc(0, 0, 0.5), *_ring(8, 0.78, lambda x, y: _disc(x, y, 0.17))]
        ),
        "cloud": lambda v: [
            _disc(-0.5, 0.2, 0.42, 0.4),
            _disc(0.5, 0.2, 0.42, 0.38),
            _disc((0.05, 0.1, -0.15)[v], (-0.1, -0.2, -0.3)[v], 0.5),
            _box(-0.5, 0.2, 0.5, 0.6 - 0.02 * v),
            *([_disc(0.4, -0.2, 0.36)] if v == 2 else []),
        ],
        "lightning": lambda v: [
            _poly(
                0.2, -0.95, -0.55 + 0.1 * v, 0.1, -0.05, 0.1, -0.3, 0.95, 0.6 - 0.1 * v, -0.25, 0.08, -0.25, 0.5, -0.95
            )
        ],
        "comet": lambda v: [
            _disc(0.45, 0.45, 0.45),
            _poly(-0.95, -0.9 + 0.2 * v, 0.85, 0.2, 0.2, 0.85),
            _poly(-0.6 - 0.1 * v, -0.1, 0.6, 0.1, 0.1, 0.6),
        ],
    },
    "kitchenware": {
        "mug": lambda v: [
            _disc(0.5, 0.02, 0.42, 0.42),
            _disc(0.5, 0.02, 0.25, 0.25, on=0),
            _box(-0.75, (-0.75, -0.55, -0.95)[v], 0.45, (0.75, 0.7, 0.95)[v]),
        ],
        "bottle": lambda v: [
            _box((-0.16, -0.2, -0.12)[v], -0.95, (0.16, 0.2, 0.12)[v], 0),
            _poly(-0.16, -0.5, 0.16, -0.5, 0.45, (-0.1, -0.25, 0.3)[v], -0.45, (-0.1, -0.25, 0.3)[v]),
            _box(-0.45, (-0.1, -0.25, 0.3)[v], 0.45, 0.95),
        ],
        "bowl": lambda v: [
            _disc(0, -0.35, 0.95, (0.95, 0.8, 1.1)[v]),
            _box(-1, -1.5, 1, -0.35, on=0),
            _box(-0.35, 0.5, 0.35, (0.7, 0.6, 0.9)[v]),
        ],
        "vase": lambda v: [
            _poly(-0.45, -0.95, 0.45, -0.95, 0.18, -0.4, -0.18, -0.4),
            _disc(0, 0.2, (0.6, 0.45, 0.7)[v], (0.6, 0.68, 0.45)[v]),
            _poly(-0.2, 0.6, 0.2, 0.6, 0.38, 0.95, -0.38, 0.95),
        ],
        "teapot": lambda v: [
            _disc(-0.6, 0.1, 0.35),
            _disc(-0.6, 0.1, 0.2, on=0),
            _disc(0, 0.15, 0.58, 0.52),
            _poly(0.35, 0.3, 0.75, -0.35 - 0.1 * v, 0.95, -0.3, 0.6, 0.45),
            _disc(0, -0.4, 0.14, 0.14 + 0.05 * v),
        ],
        "goblet": lambda v: [
            _disc(0, -0.85, (0.5, 0.6, 0.4)[v], 1.05),
            _box(-1, -1.9, 1, -0.85, on=0),
            _box(-0.09, 0, 0.09, 0.85),
            _box(-0.45, 0.78, 0.45, 0.95),
        ],
    },
    "building": {
        "house": lambda v: [
            _poly(-0.95, -0.05, 0, -0.9, 0.95, -0.05),
            _box(-0.7, -0.1, 0.7, 0.9),
            _box((-0.18, 0.15, -0.5)[v], 0.3, (0.18, 0.5, -0.2)[v], 0.95, on=0),
            *([_box(0.35, -0.9, 0.6, -0.2)] if v < 2 else [_box(0.05, 0.15, 0.5, 0.5, on=0)]),
        ],
        "tower": lambda v: [
            _box(-0.35, -0.5, 0.35, 0.95),
            _box(-0.5, -0.7, 0.5, -0.4),
            *[_box(x - 0.12, -0.95, x + 0.12, -0.65) for x in (-0.38, 0, 0.38)],
            *([_box(-0.55, 0.6, 0.55, 0.95)] if v == 1 else []),
            *([_box(-0.12, -0.1, 0.12, 0.25, on=0), _box(-0.12, 0.5, 0.12, 0.95, on=0)] if v == 2 else []),
        ],
        "church": lambda v: [
            _box(-0.75, -0.3, -0.25, 0.9),
            _poly(-0.85, -0.25, -0.5, (-0.95, -0.85, -0.6)[v], -0.15, -0.25),
            _box(-0.3, 0.2, 0.9, 0.9),
            _poly(-0.35, 0.25, 0.3, (-0.25, -0.1, 0)[v], 0.95, 0.25),
            *([_box(0.4, 0.5, 0.65, 0.9, on=0), _box(-0.06, 0.45, 0.2, 0.7, on=0)] if v == 2 else []),
        ],
        "tent": lambda v: [
            _poly(-0.95, 0.75, (0, -0.1, 0.3)[v], -0.75, 0.95, 0.75),
            _poly((-0.25, -0.2, 0.1)[v], 0.76, (0, -0.1, 0.3)[v], -0.2, (0.25, 0.3, 0.55)[v], 0.76, on=0),
        ],
        "castle": lambda v: [
            _box(-0.9, -0.7, -0.4, 0.8),
            _box(0.4, -0.7, 0.9, 0.8),
            _box(-0.9, -0.1, 0.9, 0.8),
            _box(-0.2, 0.3 - 0.15 * v, 0.2, 0.8, on=0),
            _box(-0.72, -0.75, -0.58, -0.5, on=0),
            _box(0.58, -0.75, 0.72, -0.5, on=0),
            *([_box(-0.25, -0.6, 0.25, 0)] if v == 2 else []),
        ],
        "windmill": lambda v: [
            _poly(-0.25, -0.2, 0.25, -0.2, 0.5, 0.95, -0.5, 0.95),
            _bar(-0.85, -0.95 + 0.1 * v, 0.85, 0.45, 0.16),
            _bar(0.85, -0.95 + 0.1 * v, -0.85, 0.45, 0.16),
        ],
    },
    "animal": {
        "fish": lambda v: [
            _disc(0.15, 0, 0.72, (0.38, 0.5, 0.3)[v]),
            _poly(-0.95, -0.45, -0.4, 0, -0.95, 0.45),
            *([_poly(-0.1, -0.2, 0.35, -0.8, 0.5, -0.15)] if v == 2 else []),
            _disc(0.55, -0.08, 0.08, on=0),
        ],
        "bird": lambda v: [
            _disc(-0.05, 0.2, 0.55, 0.38),
            _disc(0.5, -0.3, 0.28),
            _poly(0.7, -0.4, 0.98, -0.25, 0.7, -0.15),
            _poly(-0.95, -0.1, -0.4, 0.05, -0.4, 0.4),
            *([_poly(-0.35, 0.1, -0.3, -0.9, 0.3, 0.1)] if v == 2 else [_bar(-0.1, 0.5, -0.1, 0.95, 0.09)]),
            *([_bar(0.15, 0.5, 0.15, 0.95, 0.09)] if v == 0 else []),
        ],
        "turtle": lambda v: [
            _disc(-0.05, 0, (0.58, 0.5, 0.62)[v], (0.5, 0.55, 0.36)[v]),
            _disc(0.72, (0, 0, -0.25)[v], 0.24, 0.18),
            *[_disc(x, y, 0.2) for x in (-0.45, 0.35) for y in (-0.5, 0.5)],
        ],
        "cat": lambda v: [
            _disc(0, 0.15, (0.65, 0.75, 0.6)[v], (0.65, 0.55, 0.6)[v]),
            _poly(-0.65, 0.1, (-0.65, -0.75, -0.9)[v], -0.85, -0.05, -0.35),
            _poly(0.65, 0.1, (0.65, 0.75, 0.9)[v], -0.85, 0.05, -0.35),
            _disc(-0.25, 0.05, 0.11, on=0),
            _disc(0.25, 0.05, 0.11, on=0),
            *([_box(-0.3, 0.4, 0.3, 0.5, on=0)] if v == 2 else []),
        ],
        "crab": lambda v: [
            _disc(0, 0.15, 0.55, (0.38, 0.38, 0.26)[v]),
            *[_disc(s * 0.68, -0.6, 0.28) for s in (-1, 1)],
            *[_disc(s * 0.68, -0.68, 0.13, on=0) for s in (-1, 1)],
            *[_bar(s * 0.4, 0, s * 0.65, -0.4, 0.14) for s in (-1, 1)],
            *[_bar(s * 0.3, 0.3, s * (0.75 + 0.1 * k), 0.85 - 0.3 * k, 0.1) for s in (-1, 1) for k in range(2 + v % 2)],
        ],
        "jellyfish": lambda v: [
            _disc(0, -0.15, 0.75, 0.75),
            _box(-1, 0, 1, 1, on=0),
            *[_bar(x, -0.05, x + 0.12 * (v - 1), 0.95, 0.11) for x in (-0.5, -0.17, 0.17, 0.5)],
        ],
    },
    "plant": {
        "leaf": lambda v: [
            _disc(0, -0.2, (0.5, 0.66, 0.33)[v], 0.6),
            _poly(-0.4, 0, 0, -0.98, 0.4, 0) if v < 2 else _poly(-0.28, 0, 0, -0.98, 0.28, 0),
            _poly((-0.42, -0.55, -0.3)[v], 0, (0.42, 0.55, 0.3)[v], 0, 0, 0.65),
            _bar(0, 0.4, 0.1, 0.95, 0.1),
        ],
        "tree": lambda v: [
            _box(-0.13, 0.5, 0.13, 0.95),
            *(
                [
                    _poly(-0.45 - 0.15 * k, -0.3 + 0.42 * k, 0, -0.95 + 0.4 * k, 0.45 + 0.15 * k, -0.3 + 0.42 * k)
                    for k in range(3 - v)
                ]
                if v < 2
                else [_disc(0, -0.25, 0.6, 0.68)]
            ),
            *([_box(-0.13, 0, 0.13, 0.9)] if v else []),
        ],
        "flower": lambda v: [
            *_ring((5, 6, 8)[v], 0.58, lambda x, y: _disc(x, y, (0.36, 0.3, 0.22)[v])),
            _disc(0, 0, 0.45),
            _disc(0, 0, (0.22, 0.22, 0.34)[v], on=0),
        ],
        "mushroom": lambda v: [
            _disc(0, -0.05, 0.9, (0.8, 0.6, 0.9)[v]),
            _box(-1, -0.05, 1, 1, on=0),
            _box((-0.25, -0.3, -0.14)[v], -0.1, (0.25, 0.3, 0.14)[v], 0.85),
        ],
        "cactus": lambda v: [
            _box(-0.2, -0.95, 0.2, 0.95),
            _box(-0.75, 0.1, 0, 0.35),
            _box(-0.75, -0.4 + 0.2 * v, -0.5, 0.35),
            _box(0, -0.15, 0.75, 0.1),
            _box(0.5, -0.65 + 0.1 * v, 0.75, 0.1),
        ],
        "tulip": lambda v: [
            _poly(-0.45, -0.9, -0.2, -0.6, 0, -0.95, 0.2, -0.6, 0.45, -0.9, 0.4, -0.25, 0.2, 0, -0.2, 0, -0.4, -0.25),
            _bar(0, -0.1, 0, 0.95, 0.12),
            _disc(0.3, (0.5, 0.4, 0.6)[v], 0.28, 0.12),
        ],
    },
    "tool": {
        "hammer": lambda v: [
            _box(-0.12, -0.5, 0.12, 0.95),
            _box(-0.6, -0.9, 0.55, -0.45),
            *([_poly(0.5, -0.9, 0.95, -0.45, 0.5, -0.5)] if v < 2 else [_box(0.4, -0.95, 0.75, -0.35)]),
            *([_box(-0.75, -0.95, -0.55, -0.4)] if v else []),
        ],
        "wrench": lambda v: [
            _bar(0, -0.5, 0, 0.6, (0.26, 0.3, 0.2)[v]),
            _disc(0, -0.6, 0.38),
            _box(-0.15, -1, 0.15, -0.6, on=0),
            _disc(0, 0.68, (0.3, 0.26, 0.36)[v]),
            _disc(0, 0.68, 0.14, on=0) if v < 2 else _box(-0.14, 0.7, 0.14, 1.1, on=0),
        ],
        "key": lambda v: [
            _disc(0, -0.55, 0.42) if v < 2 else _box(-0.4, -0.95, 0.4, -0.2),
            _disc(0, -0.55, (0.22, 0.18, 0.2)[v], on=0),
            _box(-0.1, -0.2, 0.1, 0.95),
            _box(0, 0.65, 0.45, 0.85),
            *([_box(0, 0.3, 0.35, 0.48)] if v != 1 else []),
        ],
        "gear": lambda v: [
            _disc(0, 0, 0.68),
            *_ring((8, 8, 6)[v], 0.75, lambda x, y: _disc(x, y, (0.18, 0.2, 0.24)[v]), turn=0.06 * v),
            _disc(0, 0, (0.28, 0.2, 0.42)[v], on=0),
        ],
        "spade": lambda v: [
            _box(-0.1, -0.9, 0.1, 0.3),
            _box(-0.35, -0.95, 0.35, -0.78),
            _poly(-0.42, 0.1, 0.42, 0.1, 0.42, 0.5, 0, 0.98 - 0.1 * v, -0.42, 0.5),
        ],
        "scissors": lambda v: [
            _bar(-0.45, 0.6, 0.4 + 0.1 * v, -0.95, 0.14),
            _bar(0.45, 0.6, -0.4 - 0.1 * v, -0.95, 0.14),
            *[_disc(s * 0.48, 0.65, 0.32) for s in (-1, 1)],
            *[_disc(s * 0.48, 0.65, 0.17, on=0) for s in (-1, 1)],
        ],
    },
    "vehicle": {
        "car": lambda v: [
            _box(-0.95, 0, 0.95, 0.4),
            _poly(
                *(
                    (-0.6, 0.05, -0.35, -0.45, 0.35, -0.45, 0.65, 0.05),
                    (-0.75, 0.05, -0.6, -0.45, 0.2, -0.45, 0.5, 0.05),
                    (-0.9, 0.05, -0.85, -0.5, 0.55, -0.5, 0.6, 0.05),
                )[v]
            ),
            *[_disc(x, 0.42, 0.25) for x in (-0.5, 0.5)],
            *([_box(-0.6, -0.35, -0.1, -0.02, on=0)] if v == 2 else []),
        ],
        "boat": lambda v: [
            _poly(-0.95, 0.4, 0.95, 0.4, 0.6, 0.85, -0.6, 0.85),
            _bar(0, -0.95, 0, 0.5, 0.1),
            *(
                [_poly(0.1, -0.85, 0.1, 0.25, 0.75, 0.25), _poly(-0.1, -0.6, -0.1, 0.25, -0.65, 0.25)]
                if v < 2
                else [_box(-0.5, -0.7, 0.5, 0.15)]
            ),
            *([_poly(-0.1, -0.95, -0.1, 0.25, -0.9, 0.25)] if v == 1 else []),
        ],
        "plane": lambda v: [
            _disc(0, 0, (0.16, 0.2, 0.16)[v], 0.95),
            _poly(
                -0.95,
                (0.2, 0.05, -0.3)[v],
                0,
                -0.3,
                0.95,
                (0.2, 0.05, -0.3)[v],
                0.95,
                0.32 - 0.2 * v,
                0,
                0.15,
                -0.95,
                0.32 - 0.2 * v,
            ),
            _poly(-0.4, 0.9, 0, 0.55, 0.4, 0.9),
        ],
        "truck": lambda v: [
            _box(-0.95, (-0.6, -0.45, -0.1)[v], 0.3, 0.35),
            _poly(0.35, -0.25, 0.7, -0.25, 0.95, 0.05, 0.95, 0.35, 0.35, 0.35),
            _box(-0.9, 0.25, 0.9, 0.4),
            *[_disc(x, 0.45, 0.22) for x in ((-0.6, 0.6), (-0.6, 0.6), (-0.65, -0.15, 0.6))[v]],
            *([_box(-0.95, -0.5, -0.75, 0.3)] if v == 2 else []),
        ],
        "rocket": lambda v: [
            _disc(0, -0.15, 0.3 + 0.04 * v, 0.8),
            _poly(-0.7, 0.8, -0.25, 0.1, 0.25, 0.1, 0.7, 0.8, 0, 0.55),
            _disc(0, -0.3, 0.12, on=0),
        ],
        "balloon": lambda v: [
            _disc(0, -0.3, 0.62 - 0.06 * v, 0.65),
            _poly(-0.45, 0.1, 0.45, 0.1, 0.18, 0.6, -0.18, 0.6),
            _box(-0.2, 0.68, 0.2, 0.95),
            _bar(-0.12, 0.5, -0.12, 0.8, 0.06),
            _bar(0.12, 0.5, 0.12, 0.8, 0.06),
        ],
    },
    "clothing": {
        "hat": lambda v: [
            _disc(0, 0.5, 0.95, 0.24),
            _box(-0.5, (-0.5, -0.1, -0.9)[v], 0.5, 0.5),
            *([_disc(0, -0.1, 0.5, 0.45)] if v == 1 else []),
        ],
        "boot": lambda v: [
            _box(-0.6, (-0.9, -0.95, -0.3)[v], 0.05, 0.85),
            _disc(0.3, 0.6, 0.55, 0.32),
            _box(-0.6, 0.6, 0.85, 0.85),
            *([_box(-0.7, -0.95, 0.15, -0.65)] if v == 1 else []),
            *([_box(-0.25, 0.8, 0.05, 0.95, on=0), _box(-0.6, 0.8, -0.3, 0.98)] if v == 2 else []),
        ],
        "shirt": lambda v: [
            _box(-0.5, -0.7, 0.5, 0.85),
            _poly(-0.5, -0.7, -0.95, (-0.2, -0.1, 0.7)[v], -0.65, (0.05, 0.1, 0.8)[v], -0.4, -0.2),
            _poly(0.5, -0.7, 0.95, (-0.2, -0.1, 0.7)[v], 0.65, (0.05, 0.1, 0.8)[v], 0.4, -0.2),
            _disc(0, -0.72, 0.2, 0.2) if v == 0 else _disc(0, -0.72, 0.24, 0.2, on=0),
            *([_disc(0, -0.75, 0.2, 0.16, on=0)] if v == 0 else []),
        ],
        "glove": lambda v: [
            _box(-0.45, -0.1, 0.35, 0.9),
            *(
                [_disc(-0.05, -0.3, 0.4, 0.62)]
                if v < 2
                else [_bar(x, 0, x, -0.9, 0.17) for x in (-0.36, -0.12, 0.12, 0.3)]
            ),
            _bar(0.2, 0.35, 0.75, (-0.15, 0.05, -0.1)[v], 0.26),
            *([_box(-0.55, 0.65, 0.45, 0.92)] if v == 1 else []),
        ],
        "sock": lambda v: [
            _box(-0.45, -0.95, 0.05, 0.6),
            _disc(-0.05, 0.55, 0.42, 0.36),
            _disc(0.35, 0.6, 0.5 - 0.08 * v, 0.28),
        ],
        "trousers": lambda v: [
            _poly(
                -0.5,
                -0.95,
                0.5,
                -0.95,
                (0.7, 0.55, 0.7)[v],
                0.95,
                0.15,
                0.95,
                0,
                -0.3,
                -0.15,
                0.95,
                (-0.7, -0.55, -0.7)[v],
                0.95,
            ),
            *([_box(-0.9, 0.6, 0.9, 1, on=0)] if v == 2 else []),
        ],
    },
    "instrument": {
        "note": lambda v: [
            _disc(-0.35, 0.65, 0.4, 0.28),
            _bar(0, 0.65, 0, -0.9, 0.13),
            _poly(0, -0.95, 0.65, -0.5, 0.65, -0.1 + 0.1 * v, 0, -0.5),
        ],
        "guitar": lambda v: [
            _disc(0, 0.5, 0.5, 0.45),
            _disc(0, 0, 0.36, 0.32),
            _box(-0.09, -0.85, 0.09, 0),
            _box(-0.2, -0.98, 0.2, -0.75),
            _disc(0, 0.3, 0.14 + 0.05 * v, on=0),
        ],
        "bell": lambda v: [
            _disc(0, -0.25, 0.45 + 0.05 * v, 0.6),
            _poly(-0.45, -0.25, 0.45, -0.25, 0.85, 0.6, -0.85, 0.6),
            _disc(0, 0.72, 0.2),
            _disc(0, -0.85, 0.13),
        ],
        "drum": lambda v: [
            _box(-0.75, -0.15, 0.75, 0.6),
            _disc(0, 0.6, 0.75, 0.3),
            _disc(0, -0.15, 0.75, 0.3),
            _bar(-0.2, -0.2, -0.85 + 0.1 * v, -0.95, 0.1),
            _bar(0.2, -0.2, 0.85, -0.95, 0.1),
        ],
    },
}
"""Superclass -> class -> drawing of a variant. In the first eight superclasses the first four classes form the
benchmark, the fifth is extra (part of "more data") and the sixth is held out; no model ever sees the ninth."""


def draw(marks):
    """Draw marks as a silhouette; uint8 array (TILE, TILE), 255 inside."""
    scale = TILE * 4
    image = Image.new("L", (scale, scale))
    pen = ImageDraw.Draw(image)
    for kind, points, on in marks:
        # 0.92 keeps a margin, so that bilinear sampling finds an empty border.
        getattr(pen, kind)([round((0.92 * p + 1) / 2 * scale, 2) for p in points], fill=255 * on)
    return image.resize((TILE, TILE), Image.Resampling.BOX)


def build():
    """Draw all silhouettes.

    Returns
    -------
    ndarray of float32, shape (n_classes, N_VARIANTS, 2, TILE, TILE)
        Channel 0: coverage in [0, 1]. Channel 1: the same blurred, a height map (0.5 near the outline, 1 deep inside).
    """
    planes = []
    for drawing in (d for classes in SUPERCLASSES.values() for d in classes.values()):
        for variant in range(N_VARIANTS):
            mask = draw(drawing(variant))
            planes.append([np.asarray(mask), np.asarray(mask.filter(ImageFilter.GaussianBlur(TILE / 16)))])
    shape = (-1, N_VARIANTS, 2, TILE, TILE)
    return np.asarray(planes, np.float32).reshape(shape) / np.float32(255)
