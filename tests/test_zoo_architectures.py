"""Every architecture of both zoo tables, with random weights; what needs a file of the hub is named."""

import json
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.pretrained import get_pretrained_cfg
from PIL import Image
from safetensors.torch import save_file
from tiny import clip_spec

from clipsafe_utils import hub
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.models import load_model
from clipsafe_utils.zoo import ModelSpec, load_zoo

pytestmark = pytest.mark.slow

ROWS = [*load_zoo("paper"), *load_zoo("extended")]
ARCHITECTURES = {}
for _spec in ROWS:
    _tagless = _spec.name if _spec.is_zero_shot else _spec.name.partition(".")[0]
    ARCHITECTURES.setdefault((_spec.is_zero_shot, _tagless, _spec.input_size), _spec)
ZERO_SHOT = [spec for (zero_shot, *_), spec in ARCHITECTURES.items() if zero_shot]
CLASSIFIERS = [spec for (zero_shot, *_), spec in ARCHITECTURES.items() if not zero_shot]

SIGMOID = ("SigLIP", "siglip")
"""Trained with a sigmoid loss."""

OWN_TOKENIZER = ("SigLIP", "CLIPA", "worldwide", "roberta", "nllb")
"""Text towers whose tokenizer is a file of the hub, so that a machine without a network cannot have it."""

OF_TRANSFORMERS = ("roberta", "nllb")
"""Text towers of transformers: their masks ask for values, which the meta device does not have."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def text_configs(monkeypatch):
    """Configurations of the text towers that open_clip would ask the hub for."""
    from transformers import M2M100Config, RobertaConfig, XLMRobertaConfig

    nllb = {"vocab_size": 256206, "d_model": 1024}
    known = {
        "roberta-base": RobertaConfig(vocab_size=50265, max_position_embeddings=514),
        "xlm-roberta-base": XLMRobertaConfig(vocab_size=250002, max_position_embeddings=514),
        "xlm-roberta-large": XLMRobertaConfig(
            vocab_size=250002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16
        ),
        "facebook/nllb-200-distilled-600M": M2M100Config(**nllb, encoder_layers=12, encoder_ffn_dim=4096),
        "facebook/nllb-200-distilled-1.3B": M2M100Config(**nllb, encoder_layers=24, encoder_ffn_dim=8192),
    }
    monkeypatch.setattr("open_clip.hf_model.AutoConfig", SimpleNamespace(from_pretrained=known.__getitem__))


def test_both_tables_are_covered():
    assert (len(load_zoo("paper")), len(load_zoo("extended"))) == (210, 152)
    assert len(ZERO_SHOT) > 90 and len(CLASSIFIERS) > 120


@torch.inference_mode()
@pytest.mark.filterwarnings("ignore")  # both libraries deprecate parts of themselves
@pytest.mark.parametrize("spec", ZERO_SHOT, ids=lambda spec: f"{spec.name}-{spec.input_size}")
def test_a_zero_shot_architecture_takes_its_images_and_texts(spec, text_configs):
    model = load_model(spec, device="cpu")
    with torch.device("meta"):
        options = {"device": "meta", "pretrained_text": False, "force_preprocess_cfg": model.preprocessing}
        network = open_clip.create_model(spec.name, **options).eval()
    size = network.visual.image_size
    size = size if isinstance(size, int) else size[0]
    pixels = model.transform(Image.new("RGB", (500, 375)))
    assert pixels.shape == (3, size, size) and spec.input_size in (None, size)
    assert network.encode_image(pixels[None].to("meta")).shape == (1, model.architecture["embed_dim"])
    tokens = torch.ones(2, network.context_length, dtype=torch.long)
    if any(mark in spec.name for mark in OWN_TOKENIZER):
        with pytest.raises(ClipsafeError, match=r"needs more than its checkpoint: .*where there is a network"):
            model.tokenizer  # noqa: B018
    else:
        tokens = model.tokenizer(["a photo of a cat", "two"])
        assert tokens.shape == (2, network.context_length)
    if any(mark in spec.name for mark in OF_TRANSFORMERS):
        assert network.text.transformer.config.hidden_size and network.text.proj is not None
    else:
        assert network.encode_text(tokens.to("meta")).shape == (2, model.architecture["embed_dim"])
    assert network.logit_scale.shape == ()
    is_sigmoid = any(mark in spec.name for mark in SIGMOID)
    assert (getattr(network, "logit_bias", None) is not None) is is_sigmoid
    assert ("init_logit_bias" in model.architecture) is is_sigmoid


@torch.inference_mode()
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", CLASSIFIERS, ids=lambda spec: f"{spec.name}-{spec.input_size}")
def test_a_classifier_takes_its_images(spec):
    model = load_model(spec, device="cpu")
    pixels = model.transform(Image.new("RGB", (640, 480)))
    assert list(pixels.shape) == model.preprocessing["input_size"] and pixels.shape[1] == spec.input_size
    with torch.device("meta"):
        if spec.name.startswith("dinov2-"):
            network = hub._Logits(hub.dinov2(spec.name.removeprefix("dinov2-")))
        elif spec.name in hub.RESNET50_WIDTHS and spec.library == "hf_hub":
            network = hub.wide_resnet50(hub.RESNET50_WIDTHS[spec.name])
        else:
            overlay = {"input_size": tuple(model.preprocessing["input_size"]), "num_classes": 1000}
            network = timm.create_model(spec.name, pretrained_cfg_overlay=overlay, num_classes=1000)
    assert network.eval()(pixels[None].to("meta")).shape == (1, 1000)
    if spec.params_m and spec.library == "timm":  # timm's result tables print millions
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(spec.params_m, rel=0.01, abs=0.01)


def test_sigmoid_models_keep_their_scale_and_bias(tmp_path):
    """Through the checkpoint, as trained; nobody resets them to what the configuration starts from."""
    start = {"init_logit_bias": -10, "init_logit_scale": float(np.log(10))}
    spec = clip_spec(tmp_path, **start)
    model = load_model(spec, device="cpu")
    assert (model.logit_scale, model.logit_bias) == (pytest.approx(10), -10)
    state = {key: value.contiguous() for key, value in model.network.state_dict().items()}
    state |= {"logit_bias": torch.tensor(-16.5), "logit_scale": torch.tensor(117.33).log()}
    save_file(state, tmp_path / "trained.safetensors")
    config = json.loads((tmp_path / "tiny.json").read_text())
    assert config["model_cfg"]["init_logit_bias"] == -10
    trained = clip_spec(tmp_path, checkpoint=tmp_path / "trained.safetensors", **start)
    model = load_model(trained, device="cpu")
    assert (model.logit_scale, model.logit_bias) == (pytest.approx(117.33), -16.5)


# The same checkpoint through both libraries


@pytest.fixture(scope="module", params=["ViT-B-32", "ViT-B-32-quickgelu", "RN50-quickgelu"])
def checkpoint(request, tmp_path_factory):
    """A whole CLIP with random weights, saved as open_clip does."""
    folder = tmp_path_factory.mktemp("both")
    torch.manual_seed(0)
    network = open_clip.create_model(request.param).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    save_file(network.state_dict(), folder / "clip.safetensors")
    return request.param, folder / "clip.safetensors"


TWINS = {
    "ViT-B-32": "vit_base_patch32_clip_224",
    "ViT-B-32-quickgelu": "vit_base_patch32_clip_quickgelu_224",
    "RN50-quickgelu": "resnet50_clip",
}


def features(spec, pixels):
    return load_model(spec, device="cpu").encode_images(pixels)


@pytest.mark.filterwarnings("ignore")
def test_one_checkpoint_gives_the_same_features_through_both_libraries(checkpoint, tmp_path):
    name, file = checkpoint
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    tag = "openai" if name.endswith("quickgelu") else "laion2b_s34b_b79k"
    ours = features(ModelSpec("clip", "zero_shot_clip", "open_clip", name, tag, checkpoint=str(file)), pixels)
    width = ours.shape[1]
    (tmp_path / "twin.json").write_text(json.dumps({"model_kwargs": {"num_classes": width}}))
    config = {"checkpoint": str(file), "config": str(tmp_path / "twin.json")}
    theirs = features(ModelSpec("twin", "standard", "timm", TWINS[name], **config), pixels)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    if name == "ViT-B-32-quickgelu":  # the named reason of features that differ: the other activation, no error at all
        wrong = features(ModelSpec("twin", "standard", "timm", TWINS["ViT-B-32"], **config), pixels)
        assert np.abs(wrong - ours).max() > 0.01


CROPS_TIGHTER = "timm resizes to 8/9 more and cuts the centre (crop_pct 0.9), open_clip to the input itself"
SQUASHES = "open_clip squashes the whole image, timm cuts the centre"
SAME_WEIGHTS = [
    ("ViT-L-14", "laion2b_s32b_b82k", "vit_large_patch14_clip_224.laion2b", ""),
    ("ViT-H-14", "laion2b_s32b_b79k", "vit_huge_patch14_clip_224.laion2b", ""),
    ("ViT-B-16-quickgelu", "dfn2b", "vit_base_patch16_clip_224.dfn2b", ""),
    ("ViT-B-16-quickgelu", "metaclip_fullcc", "vit_base_patch16_clip_quickgelu_224.metaclip_2pt5b", ""),
    ("ViT-L-14-336-quickgelu", "openai", "vit_large_patch14_clip_quickgelu_336.openai", ""),
    ("ViT-B-32", "laion2b_s34b_b79k", "vit_base_patch32_clip_224.laion2b", CROPS_TIGHTER),
    ("ViT-B-16-quickgelu", "openai", "vit_base_patch16_clip_quickgelu_224.openai", CROPS_TIGHTER),
    ("RN50-quickgelu", "openai", "resnet50_clip.openai", CROPS_TIGHTER),
    ("ViT-B-16-SigLIP", "webli", "vit_base_patch16_siglip_224.webli", SQUASHES),
]


@pytest.mark.parametrize(("name", "tag", "twin", "reason"), SAME_WEIGHTS, ids=lambda value: value[:40])
def test_both_libraries_prepare_images_alike_or_for_a_named_reason(name, tag, twin, reason, rng):
    ours = load_model(ModelSpec("clip", "zero_shot_clip", "open_clip", name, tag), device="cpu")
    theirs = load_model(ModelSpec("twin", "standard", "timm", twin), device="cpu")
    image = Image.fromarray(rng.integers(0, 256, (380, 500, 3), np.uint8))
    a, b = ours.transform(image), theirs.transform(image)
    assert a.shape == b.shape
    if not reason:
        torch.testing.assert_close(a, b)
        return
    assert (a - b).abs().max() > 0.1
    assert theirs.preprocessing["crop_pct"] == 0.9
    assert (ours.preprocessing["resize_mode"] == "squash") is (reason == SQUASHES)
    assert get_pretrained_cfg(name, tag), "the weights are published"


def test_dinov2_heads_load_under_the_names_they_were_saved_with(tmp_path):
    torch.manual_seed(0)
    network = hub.dinov2("small").eval()
    torch.nn.init.normal_(network.classifier.weight)
    network.save_pretrained(tmp_path)
    spec = ModelSpec(
        "dinov2-small-1layer", "contrastive", "hf_hub", "dinov2-small", "facebook/x:model.safetensors",
        checkpoint=str(tmp_path / "model.safetensors"),
    )  # fmt: skip
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(pixels).logits.numpy()
    np.testing.assert_allclose(features(spec, pixels), expected, atol=1e-4)
    state = {key: value for key, value in network.state_dict().items() if key != "classifier.bias"}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ClipsafeError, match=r"missing classifier\.bias"):
        features(spec, pixels)
