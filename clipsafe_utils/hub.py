"""Contrastive classifiers of the hub: linear heads on frozen backbones, in the layouts of those who published them.

None of these repositories says how its images are preprocessed in a file, so `PREPROCESSING` does.
"""

import re

import timm
import torch
from safetensors.torch import load_file
from torch import nn

from clipsafe_utils.errors import ClipsafeError

RESNET50_WIDTHS = {"resnet50": 1, "resnet50_1x": 1, "resnet50_1x_sk0": 1, "resnet50_2x": 2, "resnet50_4x": 4}
"""Name in the zoo -> factor on every width of a ResNet-50, that of the stem included (SimCLR)."""

DINOV2 = {"small": (384, 6, 12), "base": (768, 12, 12), "large": (1024, 16, 24), "giant": (1536, 24, 40)}
"""Size of a DINOv2 backbone -> width, heads, layers."""

_CROP = {"input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center"}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_SIMCLR = _CROP | {"interpolation": "bilinear", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
PREPROCESSING = dict.fromkeys(RESNET50_WIDTHS, _SIMCLR) | {
    "resnet50": _CROP | _IMAGENET | {"interpolation": "bilinear"},
    "vit_base_patch16_224.dino": _CROP | _IMAGENET | {"interpolation": "bicubic"},
    **{f"dinov2-{size}": _CROP | _IMAGENET | {"interpolation": "bicubic"} for size in DINOV2},
}
"""Name in the zoo -> timm's words for it. SimCLR takes pixels in [0, 1]; the others torchvision's evaluation
transform, DINO and DINOv2 with bicubic interpolation as in their own evaluation."""

CLIP_DEFAULTS = ("laion/scaling-laws-openclip",)
"""Repositories of CLIP checkpoints that are meant for open_clip's default preprocessing."""


def load_classifier(name, checkpoint, backbone=None):
    """Build a classifier and fill it from a checkpoint of the hub.

    Parameters
    ----------
    name : str
        A key of `PREPROCESSING`.
    checkpoint : Path
        Weights of the whole network, or of the linear head alone where there is a `backbone`.
    backbone : Path, optional
        timm's weights of the backbone.

    Returns
    -------
    Module
        1,000 ImageNet logits.

    Raises
    ------
    RuntimeError
        The weights do not fit, as torch says it.

    References
    ----------
    Layouts: github.com/tonylins/simclr-converter (v1), github.com/Separius/SimCLRv2-Pytorch (v2),
    github.com/facebookresearch/dino, eval_linear.py (head on the class token).
    """
    state = _state_dict(checkpoint)
    if name.startswith("dinov2-"):
        return _dinov2(name.removeprefix("dinov2-"), state)
    with torch.device("meta"):  # no time for random weights
        network = timm.create_model(name, num_classes=1000) if backbone else wide_resnet50(RESNET50_WIDTHS[name])
    if backbone:
        state = _state_dict(backbone) | {re.sub(r"^(linear|fc)\.", "head.", key): state[key] for key in state}
    else:
        state = {_resnet_key(key): value for key, value in state.items()}
    network.load_state_dict(state, assign=True)
    return network


def dinov2(size):
    """DINOv2 with a linear head on its class token and the mean of its patch tokens, as transformers builds it.

    Parameters
    ----------
    size : str
        A key of `DINOV2`.

    Returns
    -------
    Module
        Random weights; transformers' own output, with `logits`.
    """
    from transformers import Dinov2ForImageClassification

    return Dinov2ForImageClassification(_dinov2_config(size))


def _dinov2_config(size):
    from transformers import Dinov2Config

    width, heads, layers = DINOV2[size]
    shape = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers}
    # Trained at 518 pixels, judged at 224: transformers resizes the position embeddings.
    return Dinov2Config(**shape, patch_size=14, image_size=518, use_swiglu_ffn=size == "giant", num_labels=1000)


class _Logits(nn.Module):
    """A network of transformers that gives its logits and nothing else."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixels):
        return self.network(pixels).logits


def _dinov2(size, state):
    from transformers import Dinov2ForImageClassification

    # It knows the names that weights had in its older versions.
    network, found = Dinov2ForImageClassification.from_pretrained(
        None, config=_dinov2_config(size), state_dict=state, output_loading_info=True
    )
    if wrong := [f"{kind} {sorted(map(str, keys))[0]}" for kind, keys in found.items() if keys]:
        raise RuntimeError(", ".join(wrong).replace("_keys", ""))
    return _Logits(network)


def wide_resnet50(width):
    """ResNet-50 with every width times `width`; timm's own wide ResNets widen neither stem nor stages."""
    network = timm.create_model("resnet50", channels=tuple(width * c for c in (64, 128, 256, 512)))
    if width > 1:
        stem, first = 64 * width, network.layer1[0]
        network.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        network.bn1 = nn.BatchNorm2d(stem)
        first.conv1 = nn.Conv2d(stem, stem, 1, bias=False)
        first.downsample[0] = nn.Conv2d(stem, 4 * stem, 1, bias=False)
    return network


def _state_dict(path):
    """Weights by name, without the wrappings of training scripts."""
    whole = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    state = next((whole[key] for key in ("state_dict", "resnet", "model") if isinstance(whole.get(key), dict)), whole)
    bare = {re.sub(r"^((module|model|backbone|encoder)\.)+", "", key): value for key, value in state.items()}
    if len(bare) < len(state):
        raise ClipsafeError(f"{path} holds several networks; save the one to evaluate, with its head, to a file.")
    return bare


_SIMCLR_V2 = (
    (r"^net\.0\.0\.", "conv1."),
    (r"^net\.0\.1\.0\.", "bn1."),
    (r"^net\.(\d)\.blocks\.(\d)\.projection\.shortcut\.", r"layer\1.\2.downsample.0."),
    (r"^net\.(\d)\.blocks\.(\d)\.projection\.bn\.0\.", r"layer\1.\2.downsample.1."),
    *((rf"^net\.(\d)\.blocks\.(\d)\.net\.{2 * i}\.", rf"layer\1.\2.conv{i + 1}.") for i in range(3)),
    *((rf"^net\.(\d)\.blocks\.(\d)\.net\.{2 * i + 1}\.0\.", rf"layer\1.\2.bn{i + 1}.") for i in range(3)),
)


def _resnet_key(key):
    for pattern, name in (*_SIMCLR_V2, (r"^(head|linear|classifier)\.", "fc.")):
        key = re.sub(pattern, name, key)
    return key
