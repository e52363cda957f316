"""The renderer: facts in, pixels out.

Only additions, multiplications, comparisons and bilinear sampling are used on pixels, so no value depends on where in a
vector register it was computed; that keeps images byte-identical across chunks and threads.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F

from clipsafe_utils.lab import atlas, surfaces

_EFFECTS = ("relief", "gloss", "grain", "bands", "clear", "outline")


@functools.lru_cache(maxsize=1)
def banks():
    """Tiles that all worlds share, as float32 tensors: silhouettes, patterns, scenes, noise, colours, materials."""
    arrays = {
        "atlas": atlas.build(),
        "patterns": surfaces.patterns()[:, None],
        "photo": surfaces.scenes(0),
        "renderer": surfaces.scenes(1),
        "noise": np.random.default_rng(5).standard_normal(2**20).astype(np.float32),
        "colors": np.array(list(surfaces.COLORS.values()), np.float32),
        "materials": np.array(list(surfaces.MATERIALS.values()), np.float32),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _grid(size):
    line = (torch.arange(size) * 2 + 1) / size - 1
    return line[None, None, :], line[None, :, None]


def _sample(tiles, x, y, mode="bilinear"):
    at = torch.empty((*torch.broadcast_shapes(x.shape, y.shape), 2))
    at[..., 0], at[..., 1] = x, y
    return F.grid_sample(tiles, at, mode=mode, padding_mode="border", align_corners=False)


def _noise(at, n):
    """Standard normal numbers, n an image, read from the bank at the image's own place."""
    return banks()["noise"].unfold(0, n, 1)[at]


def _triangle(x):
    return ((x - x.floor()) * 2 - 1).abs()


def render(f, size, content, style):
    """Render a batch.

    Parameters
    ----------
    f : dict of str to Tensor, each of shape (n,)
        Facts of the images, see `World.facts`.
    size : int
        Side of the images in pixels.
    content, style : str
        See `Stream`.

    Returns
    -------
    Tensor of uint8, shape (n, 3, size, size)
    """
    if content == "noise":
        image = _blocks(f, size)
    elif content == "texture":
        image = _surface(f, *_object_xy(f, size, whole=True)) * _shade(f, size)
    else:
        image = _scene(f, size, style)
        if content != "scene":
            image = _paint(image, f, size, style)
        if style in ("photo", "renderer"):
            image = image * _shade(f, size)
    image = image * f["gain"][:, None, None, None]
    grain = _noise(f["noise_at"], 3 * size * size).reshape(-1, 3, size, size)
    image += grain.mul_(f["noise"][:, None, None, None])  # in place here and below: memory is what rendering waits for
    return image.clamp_(0, 1).mul_(255).add_(0.5).to(torch.uint8)


def _column(f, *names):
    return [f[name][:, None, None] for name in names]


def _object_xy(f, size, *, whole=False):
    """Object coordinates of all pixels; `whole` centres the object and lets it cover the image."""
    x, y = _grid(size)
    cx, cy, xx, xy, yx, yy = _column(f, "x", "y", "xx", "xy", "yx", "yy")
    if whole:
        cx, cy = cx * 0, cy * 0
    x, y = x - cx, y - cy
    return xx * x + xy * y, yx * x + yy * y


def _scene(f, size, style):
    x, y = _grid(size)
    zoom, tile_x, tile_y, mirror = _column(f, "zoom", "tile_x", "tile_y", "mirror")
    tiles = banks()["renderer" if style == "renderer" else "photo"][f["scene"], f["tile"]]
    if style == "sketch":
        return torch.full((len(tiles), 3, size, size), 0.94)
    at_x = (x * zoom + tile_x * (1 - zoom)) * mirror
    at_y = y * zoom + tile_y * (1 - zoom)
    image = _sample(tiles, at_x, at_y)
    if style == "art":
        # Broad strokes: the scene in blocks of a quarter of the image, halfway to its mean colour.
        image = F.avg_pool2d(image, size // 4).repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)
        return image * 0.6 + image.mean((2, 3), keepdim=True) * 0.4
    for k in range(3):
        bx, by, br, bc = _column(f, f"blob_x{k}", f"blob_y{k}", f"blob_r{k}", f"blob_c{k}")
        radius = 0.12 + 0.06 * br
        distance = (x - bx * 1.1) * (x - bx * 1.1) + (y - by * 1.1) * (y - by * 1.1)
        alpha = ((1 - distance / (radius * radius)) * 2).clamp(0, 1) * (br > -0.4) * 0.8
        paint = banks()["colors"][((bc[:, 0, 0] + 1) * 5).long().clamp(0, 9)][:, :, None, None]
        image += (paint - image).mul_(alpha[:, None])
    return image


def _surface(f, u, v, style="photo"):
    """Colour of a patterned surface at object coordinates (u, v); (n, 3, size, size)."""
    motif_scale, motif_x, motif_y = _column(f, "motif_scale", "motif_x", "motif_y")
    stretch = motif_scale * (1.25 if style == "renderer" else 1.0) / surfaces.PATTERN_EXTENT
    at_x, at_y = u * stretch + motif_x, v * stretch + motif_y
    # Reflection would turn stripes into zigzags, so the tile repeats: its extent is a whole number of periods.
    at_x, at_y = (t - 2 * ((t + 1) / 2).floor() for t in (at_x, at_y))
    motif = _sample(banks()["patterns"][f["motif"]], at_x, at_y)
    first = banks()["colors"][f["paint"]]
    # Dark colours come with a pale companion, light ones with a dark one.
    second = torch.where(first.mean(1, keepdim=True) < 0.42, first * 0.3 + 0.68, first * 0.3)
    if style == "renderer":
        first, second = first * 0.8 + 0.1, second * 0.8 + 0.1
    first, second = first[:, :, None, None], second[:, :, None, None]
    return (motif * (second - first)).add_(first)


def _paint(image, f, size, style):
    """Draw the object onto the scene."""
    fine = size if style == "renderer" else 2 * size
    mode = "nearest" if style == "renderer" else "bilinear"
    tiles = banks()["atlas"][f["label"], f["variant"]]
    planes = _sample(tiles, *_object_xy(f, fine), mode=mode)
    if fine > size:
        planes = planes[..., ::2, :] + planes[..., 1::2, :]
        planes = (planes[..., ::2] + planes[..., 1::2]) * 0.25
    mask, height = planes[:, :1], planes[:, 1:]
    u, v = _object_xy(f, size)
    color = _surface(f, u, v, style)
    edge = ((0.85 - height) * 4).clamp(0, 1)
    if style == "sketch":
        gray = color.mean(1, keepdim=True)
        ink = 0.5 * color + 0.5 * (0.45 + 0.55 * gray)
        ink = ink * (1 - 0.8 * edge)
        return image + mask * (ink - image)
    if style == "art":
        color = (color * 3 + 0.5).floor() / 3
        color = color * (1 - 0.8 * ((0.75 - height) * 5).clamp(0, 1))
        return image + mask * (color - image)
    effects = banks()["materials"][f["material"]]
    relief, gloss, grain, bands, clear, outline = (effects[:, k, None, None, None] for k in range(6))
    light_x, light_y = _column(f, "light_x", "light_y")
    slope = torch.zeros_like(height)
    slope[..., 1:-1] = height[..., 2:] - height[..., :-2]
    slope[:, 0] *= light_x
    rise = torch.zeros_like(height)
    rise[..., 1:-1, :] = height[..., 2:, :] - height[..., :-2, :]
    slope[:, 0] += rise[:, 0] * light_y
    shade = 1 + relief * (0.9 if style == "renderer" else 0.6) * slope
    shade = shade + grain * _noise(f["noise_at"] + 4 * size * size, size * size).reshape(-1, 1, size, size)
    shade = shade * (1 + bands * (_triangle(u * 0.9 + v * 0.5)[:, None] * 1.6 - 0.8))
    shade = shade * (1 - outline * edge)
    color *= shade
    far = (u + 0.3) * (u + 0.3) + (v + 0.35) * (v + 0.35)
    color += gloss * (1 - far[:, None] * 4).clamp(0, 1)
    color += (image - color).mul_(clear * (1 - edge))
    if style == "renderer":
        shadow = F.pad(mask, (2, 0, 2, 0))[..., :size, :size]
        image = image * (1 - 0.45 * shadow)
    return (color - image).mul_(mask).add_(image)


def _shade(f, size):
    """Light that falls off across the image, and its tint."""
    x, y = _grid(size)
    slope, light_x, light_y = _column(f, "slope", "light_x", "light_y")
    tint = torch.stack([f["tint_r"], f["tint_g"], f["tint_b"]], 1)[:, :, None, None]
    return (1 + slope * (light_x * x + light_y * y))[:, None] * (1 + tint)


def _blocks(f, size):
    """Noise of block sizes 1, 2, 4 and 8 pixels around mid-gray."""
    values = _noise(f["noise_at"], 3 * size * size).reshape(-1, 3, size, size)
    steps = torch.tensor([1, 2, 4, 8])[f["block"]][:, None]
    at = torch.arange(size)[None] // steps
    rows = values.gather(2, at[:, None, :, None].expand_as(values))
    return 0.5 + 0.25 * rows.gather(3, at[:, None, None, :].expand_as(values))
