"""Real model classes, small enough to make in a moment, and images made of noise."""

import gzip
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import timm
import torch
from open_clip import factory
from PIL import Image
from safetensors.torch import save_file

from clipsafe_utils.datasets import ImageSet, LabelSpace
from clipsafe_utils.zoo import ModelSpec

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1, "vocab_size": 514 + 200},
}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}


def clip_network(config, seed=0):
    """open_clip's own class for a configuration, random weights."""
    factory._MODEL_CONFIGS["tiny-reference"] = config
    torch.manual_seed(seed)
    try:
        return open_clip.create_model("tiny-reference").eval()
    finally:
        del factory._MODEL_CONFIGS["tiny-reference"]


def clip_spec(folder, id="tiny", seed=0, preprocess=HALF, checkpoint="", **changes):
    """A zero-shot model as a user would bring it: configuration, vocabulary and checkpoint in one folder."""
    config = CLIP | changes
    merges = gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes()).decode().split("\n")[: 1 + 200]
    (folder / "vocabulary.txt.gz").write_bytes(gzip.compress("\n".join(merges).encode(), mtime=0))
    if not checkpoint:
        save_file(clip_network(config, seed).state_dict(), folder / f"{id}.safetensors")
    config = config | {"text_cfg": config["text_cfg"] | {"tokenizer_kwargs": {"bpe_path": "vocabulary.txt.gz"}}}
    (folder / f"{id}.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    checkpoint = str(checkpoint or folder / f"{id}.safetensors")
    return ModelSpec(id, "zero_shot_clip", "open_clip", id, checkpoint=checkpoint, config=str(folder / f"{id}.json"))


def classifier_spec(folder, id="tiny-resnet", name="resnet18", seed=0, **kwargs):
    """A small timm classifier of ten classes."""
    kwargs = {"num_classes": 10, "channels": [8, 8, 8, 8]} | kwargs
    torch.manual_seed(seed)
    save_file(timm.create_model(name, **kwargs).state_dict(), folder / f"{id}.safetensors")
    (folder / f"{id}.json").write_text(
        json.dumps({"model_kwargs": kwargs, "preprocess": {"size": 32, "crop_pct": 1.0}})
    )
    return ModelSpec(
        id, "standard", "timm", name, checkpoint=str(folder / f"{id}.safetensors"), config=str(folder / f"{id}.json")
    )


def table_of(folder, *specs):
    """Write models as a user's table; returns its path."""
    rows = [{key: value for key, value in asdict(spec).items() if key != "facts"} for spec in specs]
    pd.DataFrame(rows).to_csv(folder / "zoo.csv", index=False)
    return str(folder / "zoo.csv")


def noise_images(folder, n=12, name="noise", n_classes=3, size=40, **kwargs):
    """Image set of n noise PNGs."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (size, size + i, 3), np.uint8)).save(folder / f"{i:03}.png")
    space = LabelSpace("", tuple(f"class {i}" for i in range(n_classes)), None)
    ids = [f"{i:03}.png" for i in range(n)]
    return ImageSet(name, folder, ids, np.arange(n) % n_classes, space, **kwargs)
