"""What models cost: multiplications counted once for every row of the zoos, what follows from them for a study, and a
machine's speed measured now.

``python -m clipsafe_utils.costs`` counts again and writes costs.csv, on the meta device, so without weights.
"""

import contextlib
import functools
import logging
import time
import warnings
from collections import Counter
from pathlib import Path

import open_clip
import pandas as pd
import timm
import torch
from open_clip import factory
from torch.utils.flop_counter import FlopCounterMode

from clipsafe_utils import hub
from clipsafe_utils.content import content_key
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.models import PRECISIONS, load_model
from clipsafe_utils.prompts import load_templates
from clipsafe_utils.zoo import available_zoos, load_zoo

FILE = Path(__file__).with_suffix(".csv")

CLASSES = 1000
"""Outputs of a classifier and names in a zero-shot head, where the zoo does not say otherwise."""

WIDE = 2048
"""Features before the head of a classifier that nobody has counted; few have more."""

DECODED = 16
"""Images that are decoded to learn how fast that goes."""


@functools.cache
def stated_costs():
    """Costs of the models of the package's zoos.

    Returns
    -------
    DataFrame
        Indexed by model id: `gmacs_image` and `gmacs_text`, 1e9 multiply-adds for one image and for one prompt at full
        context length, NaN for text towers that need a file of the hub to be built; `features`, what a classifier's
        head sees of an image.
    """
    return pd.read_csv(FILE, index_col="id")


@torch.no_grad()
def count_costs(spec):
    """Count one model on the meta device, where tensors have shapes and no numbers.

    Parameters
    ----------
    spec : ModelSpec

    Returns
    -------
    dict
        `gmacs_image`; `features` of classifiers; `gmacs_text` of zero-shot models whose text tower is open_clip's own.

    Raises
    ------
    ClipsafeError
        An architecture that no library here has.
    """
    model = load_model(spec, device="cpu")
    preprocessing = model.preprocessing
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both libraries deprecate parts of themselves
        if not spec.is_zero_shot:
            network = _classifier(model).eval().requires_grad_(False)
            images = torch.empty(1, *preprocessing["input_size"])
            return {"gmacs_image": _gmacs(network, images), "features": _width(network)}
        config, foreign = dict(model.architecture), "hf_model_name" in model.architecture["text_cfg"]
        if foreign:
            config["text_cfg"] = {"context_length": 8, "vocab_size": 8, "width": 64, "heads": 1, "layers": 1}
        factory._MODEL_CONFIGS["clipsafe-costs"] = config
        try:
            options = {"device": "meta", "force_preprocess_cfg": preprocessing}
            network = open_clip.create_model("clipsafe-costs", **options).eval().requires_grad_(False)
        finally:
            del factory._MODEL_CONFIGS["clipsafe-costs"]
        size = preprocessing["size"]
        size = (size, size) if isinstance(size, int) else size
        costs = {"gmacs_image": _gmacs(network.encode_image, torch.empty(1, 3, *size))}
        if not foreign:
            costs["gmacs_text"] = _gmacs(network.encode_text, torch.ones(1, network.context_length, dtype=torch.long))
        return costs


def _classifier(model):
    spec = model.spec
    if spec.name.startswith("dinov2-"):
        return hub.dinov2(spec.name.removeprefix("dinov2-"))
    if spec.library == "hf_hub" and "." not in spec.name:
        return hub.wide_resnet50(hub.RESNET50_WIDTHS[spec.name])
    given = {"pretrained_cfg_overlay": {"input_size": tuple(model.preprocessing["input_size"])}}
    if spec.library == "timm":
        given |= {"num_classes": model.width} | model.architecture
    return timm.create_model(spec.name, **given)


def _width(network):
    head = network.get_classifier() if hasattr(network, "get_classifier") else network.classifier
    return head.weight[0].numel() if hasattr(head, "weight") else None


def _gmacs(function, inputs):
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know the fused kernel
    try:
        with FlopCounterMode(display=False) as counter:
            function(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return round(counter.get_total_flops() / 2e9, 4)


def n_prompts(parameters):
    """Prompts that a suite has a zero-shot model read: each class in each template of each prompt set."""
    return CLASSES * sum(len(load_templates(given)) for given in parameters.prompts.values())


def stated_work(models, n_images, n_prompts):
    """What models have to do for a study.

    Parameters
    ----------
    models : iterable of Model
    n_images, n_prompts : int
        What a model, and what a zero-shot model, is shown.

    Returns
    -------
    DataFrame
        One row a model whose cost is counted, indexed by id: `images` and `prompts`, 1e9 multiply-adds; `prompts` is 0
        for classifiers, and for the text towers that need a file of the hub to be built.
    """
    models = {model.spec.id: model for model in models if model.spec.id in stated_costs().index}
    work = stated_costs().loc[list(models), ["gmacs_image", "gmacs_text"]].fillna({"gmacs_text": 0.0})
    work["gmacs_text"] *= [model.spec.is_zero_shot for model in models.values()]
    return (work * [n_images, n_prompts]).set_axis(["images", "prompts"], axis="columns")


def unit_width(model):
    """Numbers that a unit of a model holds for an image, each of 4 bytes."""
    features = stated_costs()["features"].get(model.spec.id, WIDE) if model.keeps_features else 0
    return model.width + (0 if pd.isna(features) else int(features))


def n_passes(models, models_per_pass):
    """How often engine `local` decodes every image: models of equal preprocessing share, a few at a time."""
    groups = Counter(content_key(model.preprocessing) for model in models)
    return sum(-(-size // models_per_pass) for size in groups.values())


def decoding_rate(images, transform, clock=time.perf_counter):
    """Images a second that one process decodes and prepares, measured on the first of a set.

    With ``clock=time.process_time``, what the machine does beside does not count, nor does waiting for a disk.
    """
    n, started = 0, clock()
    for i in range(min(DECODED, len(images))):
        with contextlib.suppress(OSError, SyntaxError, ValueError):  # what Pillow raises for broken files
            transform(images.image(i))
            n += 1
    return n / (clock() - started)


@torch.inference_mode()
def measure_speed(device, precision, seconds=1.5, clock=time.perf_counter):
    """Measure what a device does now: one layer of ViT-B/16 over and over, with random weights.

    Returns
    -------
    float
        1e9 multiply-adds a second.
    """
    layer = torch.nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True, device=device).eval()
    images = torch.randn(64 if device.type == "cuda" else 4, 197, 768, device=device)
    with torch.autocast(device.type, PRECISIONS[precision], enabled=PRECISIONS[precision] is not None):
        layer(images), _wait(device)
        n, started = 0, clock()
        while (elapsed := clock() - started) < seconds:
            layer(images), _wait(device)
            n += 1
    return n * len(images) * _LAYER / elapsed


_LAYER = 197 * (12 * 768**2 + 2 * 197 * 768) / 1e9
"""1e9 multiply-adds of one layer and image: projections, perceptron, attention."""


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_costs():
    """Count every model of the package's zoos and write costs.csv."""
    specs = {spec.id: spec for zoo in available_zoos() for spec in load_zoo(zoo)}
    rows = []
    for spec in specs.values():
        with contextlib.suppress(ClipsafeError):  # rows that name an architecture only their owner's code has
            rows.append({"id": spec.id} | count_costs(spec))
    pd.DataFrame(rows).astype({"features": "Int64"}).to_csv(FILE, index=False)


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # open_clip warns of each model that has no weights
    write_costs()
