"""Adapters against the libraries' own classes: embeddings, heads, logits, preprocessing; and what they refuse."""

import json
import os
import pickle
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny import CLIP, HALF, classifier_spec, clip_network, clip_spec, noise_images

from clipsafe_utils import hub
from clipsafe_utils.datasets import load_images
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.inference import evaluate
from clipsafe_utils.models import load_model
from clipsafe_utils.prompts import load_templates, zero_shot_head
from clipsafe_utils.store import Store
from clipsafe_utils.weights import refuse_code
from clipsafe_utils.zoo import ModelSpec, find_model, load_zoo


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def photos(real_dir):
    return load_images("imagenet_val", real_dir / "imagenet_sample", partial=True)


def loading_fails(spec, message, **kwargs):
    """Assert the whole message of what identity or network raise."""
    with pytest.raises(ClipsafeError) as error:
        model = load_model(spec, **{"device": "cpu"} | kwargs)
        _ = model.identity
        _ = model.network
    assert str(error.value) == message


# -- CLIP ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "ViT-B-32"])
def test_a_clip_equals_open_clip(name, photos, tmp_path):
    torch.manual_seed(0)
    reference, _, preprocess = open_clip.create_model_and_transforms(name)
    reference.eval()
    path = tmp_path / "random.safetensors"
    save_file(reference.state_dict(), path)
    try:
        model = load_model(ModelSpec("random", "zero_shot_clip", "open_clip", name, checkpoint=str(path)), device="cpu")
        images = photos.subset(np.arange(0, 1000, 125))
        unit = evaluate([model], [images], Store(tmp_path / "store"), progress=False, workers=0, batch_size=6)[
            "random", images.name
        ]
        with torch.no_grad():
            own = reference.encode_image(torch.stack([preprocess(images.image(i)) for i in range(8)])).numpy()
        assert unit.array.shape == own.shape and np.ptp(own, axis=0).min() > 0
        np.testing.assert_allclose(unit.array, own, atol=1e-5)
        names, templates = open_clip.IMAGENET_CLASSNAMES[:3], load_templates("imagenet_7")
        head = zero_shot_head(model, names, templates)
        own = open_clip.build_zero_shot_classifier(
            reference, open_clip.get_tokenizer(name), names, open_clip.SIMPLE_IMAGENET_TEMPLATES
        )
        np.testing.assert_allclose(head, own.T.numpy(), atol=1e-5)
        assert unit.record["logit_scale"] == pytest.approx(1 / 0.07) and unit.record["logit_bias"] == 0
    finally:
        path.unlink()


def test_a_sigmoid_clip_keeps_scale_and_bias(tmp_path):
    sigmoid = {"init_logit_scale": float(np.log(10)), "init_logit_bias": -10.0, "custom_text": True}
    model = load_model(clip_spec(tmp_path, **sigmoid), device="cpu")
    reference = clip_network(CLIP | sigmoid)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    texts = ["a cat", "the dog"]
    with torch.no_grad():
        own = reference.get_logits(pixels, model.tokenizer(texts))[0].numpy()
    images = model.encode_images(pixels)
    cosines = images / np.linalg.norm(images, axis=1, keepdims=True) @ model.encode_texts(texts).numpy().T
    assert (model.logit_scale, model.logit_bias) == (pytest.approx(10), -10)
    np.testing.assert_allclose(model.logit_scale * cosines + model.logit_bias, own, atol=1e-5)


def test_a_vocabulary_lies_beside_its_configuration(tmp_path):
    spec = clip_spec(tmp_path)
    model = load_model(spec, device="cpu")
    assert model.tokenizer.vocab_size == CLIP["text_cfg"]["vocab_size"]
    assert model.tokenizer(["cat"]).shape == (1, 24)
    key = model.identity
    (tmp_path / "vocabulary.txt.gz").write_bytes((tmp_path / "vocabulary.txt.gz").read_bytes() + b"\0")
    assert load_model(spec, device="cpu").identity != key
    (tmp_path / "vocabulary.txt.gz").unlink()
    loading_fails(spec, f"bpe_path of model 'tiny' is not there: {tmp_path / 'vocabulary.txt.gz'}.")
    assert "clipsafe-tiny" not in open_clip.list_models()


def test_a_file_is_preprocessed_like_the_weights_of_its_architecture():
    """open_clip itself falls back on OpenAI's mean for any local file (open_clip issue 1068)."""

    def preprocessing(name, **kwargs):
        return load_model(ModelSpec("x", "zero_shot_clip", "open_clip", name, **kwargs), device="cpu").preprocessing

    siglip = preprocessing("ViT-B-16-SigLIP", checkpoint="x.safetensors")
    assert siglip["mean"] == siglip["std"] == (0.5, 0.5, 0.5) and siglip["resize_mode"] == "squash"
    assert siglip == preprocessing("ViT-B-16-SigLIP", pretrained="webli")
    openai = preprocessing("ViT-B-32", checkpoint="x.safetensors")
    assert openai["mean"] == open_clip.OPENAI_DATASET_MEAN and openai["size"] == 224
    with pytest.raises(ClipsafeError) as error:
        preprocessing("ViT-L-14", checkpoint="x.safetensors")
    assert str(error.value) == (
        "the published weights of ViT-L-14 do not share one preprocessing, and the checkpoint of model 'x' does not "
        "say which is its own: give `pretrained`, a tag that shares its own, or `config`, a JSON file with its "
        "`preprocess_cfg`."
    )
    inception = preprocessing("ViT-L-14", checkpoint="x.safetensors", pretrained="laion2b_s32b_b82k")
    assert inception["mean"] == (0.5, 0.5, 0.5)
    scaling = load_model("vit-l-14-laion80m-s34b", device="cpu").preprocessing
    assert scaling["mean"] == open_clip.OPENAI_DATASET_MEAN


def test_preprocessing_alone_may_be_configured(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"preprocess_cfg": HALF}))
    spec = ModelSpec("x", "zero_shot_clip", "open_clip", "ViT-L-14", config=str(tmp_path / "c.json"))
    model = load_model(replace(spec, checkpoint="x.safetensors"), device="cpu")
    assert model.preprocessing["mean"] == [0.5, 0.5, 0.5] and model.preprocessing["size"] == 224
    image = noise_images(tmp_path / "images", 1).image(0)
    assert model.transform(image).shape == (3, 224, 224)


@pytest.mark.parametrize("zoo", ["paper", "extended"])
def test_preprocessing_of_published_weights_is_open_clips_own(zoo):
    for spec in load_zoo(zoo, group="zero_shot_clip"):
        if spec.library == "open_clip":
            own = open_clip.get_pretrained_cfg(spec.name, spec.pretrained)
            ours = load_model(spec, device="cpu").preprocessing
            for key in ("mean", "std", "interpolation", "resize_mode", "fill_color"):
                assert own.get(key) is None or tuple(np.atleast_1d(own[key])) == tuple(np.atleast_1d(ours[key])), (
                    spec.id
                )


def test_clip_by_a_wrong_name():
    spec = ModelSpec("x", "zero_shot_clip", "open_clip", "ViT-B-32", "openai")
    loading_fails(
        spec,
        "the weights 'openai' of model 'x' were trained with QuickGELU, and 'ViT-B-32' has none: its numbers would be "
        "wrong. Use the name 'ViT-B-32-quickgelu'.",
    )
    for name in ("ViT-B32", "hf-hub:some/one", ""):
        with pytest.raises(ClipsafeError, match=rf"^unknown open_clip architecture '{name}'|has no name"):
            _ = load_model(replace(spec, name=name), device="cpu").identity
    tags = ", ".join(sorted(open_clip.list_pretrained_tags_by_model("ViT-B-32-quickgelu")))
    loading_fails(
        replace(spec, name="ViT-B-32-quickgelu", pretrained="opnai"),
        f"unknown pretrained tag of ViT-B-32-quickgelu 'opnai'; did you mean 'openai'? valid: {tags}.",
    )
    loading_fails(
        replace(spec, name="ViT-M-32", pretrained=""),
        "model 'x' names no weights: give `pretrained` (a tag of ViT-M-32: none) or `checkpoint` (a file).",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config of model 'tiny' cannot be read: Expecting property name"),
        ("{}", " configures no model: it needs model_cfg or preprocess_cfg."),
        ('{"model_cfg": {"embed_dim": 3}}', ": model_cfg needs embed_dim, vision_cfg and text_cfg."),
    ],
)
def test_configurations_that_are_none(tmp_path, text, message):
    spec = clip_spec(tmp_path)
    Path(spec.config).write_text(text)
    with pytest.raises(ClipsafeError, match=re.escape(message)):
        _ = load_model(spec, device="cpu").identity
    Path(spec.config).unlink()
    with pytest.raises(ClipsafeError, match=r"cannot be read: .*No such file"):
        _ = load_model(spec, device="cpu").identity


# -- classifiers ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_classifier_equals_timm_and_knows_the_photos(real_dir, photos, real_units):
    folder = real_dir / "checkpoints"
    model = load_model("tf-efficientnet-lite0", device="cpu", checkpoints=folder)
    unit = evaluate([model], [photos], Store(real_units), progress=False, workers=1, batch_size=16)[
        "tf-efficientnet-lite0", photos.name
    ]
    assert abs(int((unit.array.argmax(1) == unit.labels).sum()) - 872) <= 1
    assert unit.array.shape == (1000, 1000) and unit.failed == []
    overlay = {"file": str(folder / "tf_efficientnet_lite0.safetensors")}
    own = timm.create_model("tf_efficientnet_lite0.in1k", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(own), is_training=False)
    with torch.no_grad():
        logits = own(torch.stack([transform(photos.image(i)) for i in range(16)])).numpy()
    np.testing.assert_allclose(unit.array[:16], logits, atol=1e-5)


def test_a_classifier_of_the_user(tmp_path):
    spec = classifier_spec(tmp_path)
    model = load_model(spec, device="cpu")
    own = timm.create_model("resnet18", num_classes=10, channels=[8] * 4).eval()
    own.load_state_dict(load_file(spec.checkpoint))
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(model.encode_images(pixels), own(pixels).numpy(), atol=1e-6)
    assert model.preprocessing["input_size"] == [3, 32, 32] and (model.logit_scale, model.logit_bias) == (1, 0)


def test_a_transformer_of_the_user_at_its_own_size(tmp_path):
    kwargs = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}
    torch.manual_seed(0)
    own = timm.create_model("vit_tiny_patch16_224", num_classes=5, **kwargs).eval()
    save_file(own.state_dict(), tmp_path / "vit.safetensors")
    config = {"model_kwargs": kwargs | {"num_classes": 5}, "preprocess": {"size": 32}}
    (tmp_path / "vit.json").write_text(json.dumps(config))
    files = {"checkpoint": str(tmp_path / "vit.safetensors"), "config": str(tmp_path / "vit.json")}
    model = load_model(ModelSpec("v", "standard", "timm", "vit_tiny_patch16_224", **files), device="cpu")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(model.encode_images(pixels), own(pixels).numpy(), atol=1e-6)


def test_the_test_size_of_timm_is_taken_where_the_row_names_it():
    spec = ModelSpec("x", "standard", "timm", "resnet50.a1_in1k", input_size=288)
    model = timm.create_model("resnet50.a1_in1k")
    for size, at_test_size in ((224, False), (288, True), (None, False)):
        own = timm.data.resolve_model_data_config(model, use_test_size=at_test_size)
        ours = load_model(replace(spec, input_size=size), device="cpu").preprocessing
        assert ours == {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}
        assert ours["input_size"][-1] == (288 if at_test_size else 224)


def test_files_in_the_checkpoint_folder_are_found_by_unmistakable_names(tmp_path):
    def found(file, id):
        (tmp_path / file).touch()
        path = load_model(id, device="cpu", checkpoints=tmp_path).checkpoint
        (tmp_path / file).unlink()
        return path.name

    assert found("tf_efficientnet_lite0.safetensors", "tf-efficientnet-lite0") == "tf_efficientnet_lite0.safetensors"
    resnet = next(m for m in load_zoo("paper") if m.name.startswith("resnet50."))
    assert found(f"{resnet.id}.pth", resnet.id) == f"{resnet.id}.pth"
    assert found(f"{resnet.name}.bin", resnet.id) == f"{resnet.name}.bin"
    with pytest.raises(ClipsafeError, match="could not be fetched"):
        found("resnet50.pth", resnet.id)  # of which training?
    with pytest.raises(ClipsafeError, match="could not be fetched"):
        found("RN50-quickgelu.pt", "rn50-openai")


def test_classifiers_by_a_wrong_name(tmp_path):
    with pytest.raises(ClipsafeError, match=r"^unknown timm architecture 'resnet5O'; did you mean 'resnet50'\?"):
        _ = load_model(ModelSpec("x", "standard", "timm", "resnet5O", checkpoint=__file__), device="cpu").preprocessing
    spec = ModelSpec("x", "standard", "timm", "resnet50.a1_in2k")
    with pytest.raises(ClipsafeError, match=r"^unknown pretrained tag of resnet50 'a1_in2k'; did you mean 'a1_in1k'\?"):
        _ = load_model(spec, device="cpu").identity
    with pytest.raises(ClipsafeError) as error:
        load_model("vit-b-32-opnai")
    assert str(error.value).startswith("unknown model 'vit-b-32-opnai'; did you mean 'vit-b-32-openai'?")


# -- checkpoints ---------------------------------------------------------------------------------------------------


class Harm:
    def __reduce__(self):
        return (os.mkdir, ("harm-was-done",))


@pytest.mark.parametrize("make", [clip_spec, classifier_spec])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch, make, suffix):
    monkeypatch.chdir(tmp_path)
    spec = make(tmp_path)
    spec = replace(spec, checkpoint=str(tmp_path / f"bad{suffix}"))
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Harm()}, spec.checkpoint)
    with pytest.raises(ClipsafeError) as error:
        _ = load_model(spec, device="cpu").network
    if suffix == ".pt":
        assert str(error.value) == (
            f"checkpoint {spec.checkpoint} would run code when loaded (posix.mkdir); it was not loaded. Convert "
            "it to safetensors where you trust it."
        )
    else:
        assert str(error.value).startswith(f"{spec.checkpoint} is no readable checkpoint: ")
    Path(spec.checkpoint).write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ClipsafeError, match=r"would run code|no readable checkpoint"):
        _ = load_model(spec, device="cpu").network
    assert not (tmp_path / "harm-was-done").exists()
    pickle.loads(pickle.dumps(Harm()))
    assert (tmp_path / "harm-was-done").exists(), "the pickle does harm where it is loaded"


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_is_refused_whatever_its_protocol(tmp_path, protocol):
    path = tmp_path / "bad.pt"
    path.write_bytes(pickle.dumps(Harm(), protocol=protocol))
    with pytest.raises(ClipsafeError, match="would run code when loaded"):
        refuse_code(path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\3\4broken"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_a_file_that_is_no_checkpoint(tmp_path, content, suffix):
    spec = replace(classifier_spec(tmp_path), checkpoint=str(tmp_path / f"x{suffix}"))
    Path(spec.checkpoint).write_bytes(content)
    with pytest.raises(ClipsafeError) as error:
        _ = load_model(spec, device="cpu").network
    assert re.fullmatch(
        rf"{spec.checkpoint} is no readable checkpoint: .+\. Fetch it again, or convert it to safetensors\.|"
        rf"checkpoint {spec.checkpoint} would run code when loaded \(unknown instructions\); it was not loaded\. "
        r"Convert it to safetensors where you trust it\.",
        str(error.value),
    )
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_architecture(tmp_path):
    clip, classifier = clip_spec(tmp_path), classifier_spec(tmp_path)
    for spec, other in ((clip, classifier), (classifier, clip)):
        wrong = replace(spec, checkpoint=other.checkpoint)
        with pytest.raises(ClipsafeError) as error:
            _ = load_model(wrong, device="cpu").network
        assert str(error.value).startswith(
            f"checkpoint {other.checkpoint} does not fit {spec.name!r} (model {spec.id!r}): "
        )
        assert str(error.value).endswith(
            ". Give the checkpoint of this architecture, or the architecture of this checkpoint."
        )
        assert "\n" not in str(error.value)
    wider = classifier_spec(tmp_path, "wider", num_classes=11)
    with pytest.raises(ClipsafeError, match=r"size mismatch for fc\.weight"):
        _ = load_model(replace(classifier, checkpoint=wider.checkpoint), device="cpu").network


def test_checkpoints_of_training_scripts_load(tmp_path):
    for spec in (clip_spec(tmp_path), classifier_spec(tmp_path)):
        state = load_file(spec.checkpoint)
        whole = {"epoch": 3, "args": Namespace(lr=0.1), "state_dict": {f"module.{k}": v for k, v in state.items()}}
        torch.save(whole, tmp_path / "trained.pt")
        pixels = torch.randn(2, 3, 32, 32)
        outputs = [
            load_model(replace(spec, checkpoint=str(path)), device="cpu").encode_images(pixels)
            for path in (spec.checkpoint, tmp_path / "trained.pt")
        ]
        np.testing.assert_array_equal(*outputs)


def test_a_missing_checkpoint(tmp_path):
    loading_fails(
        ModelSpec("x", "standard", "timm", "resnet18", checkpoint=str(tmp_path / "x.pt")),
        f"checkpoint of model 'x' is not there: {tmp_path / 'x.pt'}.",
    )


@pytest.mark.parametrize(
    ("id", "origin"),
    [
        ("rn50-openai", "timm/resnet50_clip.openai/"),
        ("resnet50-a1-in1k", "timm/resnet50.a1_in1k:model.safetensors"),
        ("vit-l-14-laion80m-s3b", "laion/scaling-laws-openclip:Model-L-14_Data-80M_Samples-3B_lr-1e-3_bs-88k.pt"),
        ("simclr-v1-resnet50-2x", "lightly-ai/simclrv1-imagenet1k-resnet50-2x:resnet50-2x.pth"),
        ("byol-resnet50-linhead", "niels-c/resnet50_byol_linhead:model.safetensors"),
    ],
)
def test_weights_that_are_not_to_be_had(id, origin, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loading_fails(
        find_model(id),
        f"the weights of model {id!r} are not on this machine and could not be fetched from {origin} "
        f"({'FileNotFoundError' if id == 'rn50-openai' else 'LocalEntryNotFoundError'}). Fetch them where there is a "
        f"network, or put a file named {id}.safetensors into the `checkpoints` folder.",
        checkpoints=tmp_path,
    )


@pytest.mark.parametrize("name", ["roberta-ViT-B-32", "ViT-B-16-SigLIP"])
def test_text_towers_and_tokenizers_that_are_not_to_be_had(name, tmp_path):
    spec = ModelSpec("x", "zero_shot_clip", "open_clip", name, checkpoint=classifier_spec(tmp_path).checkpoint)
    with pytest.raises(ClipsafeError) as error:
        _ = load_model(spec, device="cpu").tokenizer
    assert str(error.value).startswith("model 'x' needs more than its checkpoint: ")
    assert str(error.value).endswith("Load it once where there is a network; the hub's cache then serves it.")
    if name.startswith("roberta"):
        with pytest.raises(ClipsafeError, match=r"^model 'x' needs more than its checkpoint: "):
            _ = load_model(spec, device="cpu").network


# -- device and precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"precision": "fp32"}, "unknown precision 'fp32'; did you mean 'float32'? valid: bf16, float32, fp16."),
        ({"precision": "fp16"}, "precision 'fp16' needs a GPU; on a CPU use 'float32' or 'bf16'."),
        ({"device": "gpu"}, "unknown device 'gpu'; did you mean 'cpu'? valid: auto, cpu, cuda, cuda:0, mps."),
        ({"device": "meta"}, "unknown device 'meta'; valid: auto, cpu, cuda, cuda:0, mps."),
        ({"device": "cuda:99"}, "device 'cuda:99' was asked for, but it is not there; use 'auto' or 'cpu'."),
    ],
)
def test_wrong_device_or_precision(kwargs, message):
    loading_fails(ModelSpec("x", "standard", "timm", "resnet18"), message, **kwargs)


def test_import_and_identity_cost_no_network(tmp_path):
    spec = classifier_spec(tmp_path)
    model = load_model(spec, device="cpu")
    assert "network" not in vars(model) and model.identity["checkpoint"] and "network" not in vars(model)
    _ = model.network
    model.release()
    assert "network" not in vars(model)
    assert repr(model) == "ClassifierModel('tiny-resnet', cpu, float32)"


# -- contrastive classifiers of the hub ----------------------------------------------------------------------------


@pytest.mark.parametrize(("id", "width"), [("simclr-v1-resnet50-1x", 1), ("simclr-v1-resnet50-4x", 4)])
def test_wide_resnets_have_the_published_size(id, width):
    with torch.device("meta"):
        network = hub.wide_resnet50(width)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(find_model(id).params_m, abs=0.005)


@pytest.fixture(scope="session")
def resnet():
    torch.manual_seed(0)
    network = timm.create_model("resnet50").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return network


def simclr_v2_key(key):
    """The converter's name of a torchvision-like one, written apart from the code under test."""
    parts = key.split(".")
    if parts[0] == "conv1":
        return "net.0.0.weight"
    if parts[0] == "bn1":
        return f"net.0.1.0.{parts[1]}"
    if parts[0] == "fc":
        return key
    block = f"net.{parts[0][-1]}.blocks.{parts[1]}."
    if parts[2] == "downsample":
        return block + ("projection.shortcut.weight" if parts[3] == "0" else f"projection.bn.0.{parts[4]}")
    number = int(parts[2][-1]) - 1
    return block + (f"net.{2 * number}.weight" if parts[2].startswith("conv") else f"net.{2 * number + 1}.0.{parts[3]}")


@pytest.mark.parametrize(
    ("id", "wrap"),
    [
        ("simclr-v1-resnet50-1x", lambda state: {"state_dict": state}),
        ("simclr-v2-resnet50-1x-sk0", lambda s: {"resnet": {simclr_v2_key(k): v for k, v in s.items()}, "head": {}}),
        (
            "byol-resnet50-linhead",
            lambda s: {("" if k[:2] == "fc" else "model.backbone.") + k: v for k, v in s.items()},
        ),
        ("simsiam-resnet50-linhead", lambda s: {k.replace("fc.", "module.linear."): v for k, v in s.items()}),
        ("barlowtwins-resnet50-linhead", lambda s: {"model": {f"module.{k}": v for k, v in s.items()}}),
    ],
)
def test_contrastive_resnets_of_the_hub(tmp_path, resnet, id, wrap):
    torch.save(wrap(resnet.state_dict()), tmp_path / f"{id}.pth")
    model = load_model(id, device="cpu", checkpoints=tmp_path)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        np.testing.assert_allclose(model.encode_images(pixels), resnet(pixels).numpy(), atol=1e-5)
    image = noise_images(tmp_path, 1, size=300).image(0)
    low, high = model.transform(image).min(), model.transform(image).max()
    assert (low >= 0 and high <= 1) if id.startswith("simclr") else (low < -1 and high > 1)
    assert model.preprocessing["crop_pct"] == 0.875 and model.preprocessing["input_size"] == [3, 224, 224]


def test_dino_is_timms_backbone_under_the_head_of_the_hub(tmp_path):
    id, name = "dino-vit-base-patch16-224-linhead", "vit_base_patch16_224.dino"
    torch.manual_seed(0)
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0).eval()
    random = {key: 0.05 * torch.randn(value.shape) for key, value in backbone.state_dict().items()}
    backbone.load_state_dict(random, assign=True)
    head = torch.nn.Linear(768, 1000)
    save_file(backbone.state_dict(), tmp_path / f"{name}.safetensors")
    state = {f"module.linear.{k}": v for k, v in head.state_dict().items()}
    torch.save({"epoch": 100, "state_dict": state, "optimizer": {"state": {}}, "best_acc": 77.6}, tmp_path / f"{id}.pt")
    model = load_model(id, device="cpu", checkpoints=tmp_path)
    pixels = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        own = head(backbone.forward_features(pixels)[:, 0])
    np.testing.assert_allclose(model.encode_images(pixels), own.numpy(), atol=1e-5)
    identity = model.identity
    assert identity["backbone"] != identity["checkpoint"]
    state["module.linear.weight"] = torch.zeros(1000, 3072)
    torch.save({"state_dict": state}, tmp_path / f"{id}.pt")
    with pytest.raises(
        ClipsafeError, match=r"does not fit 'vit_base_patch16_224.dino' .* size mismatch for head.weight"
    ):
        _ = load_model(id, device="cpu", checkpoints=tmp_path).network


def test_hub_files_of_unknown_layout_are_refused(tmp_path, resnet):
    id = "byol-resnet50-linhead"
    state = resnet.state_dict()
    without_head = {k: v for k, v in state.items() if not k.startswith("fc.")}
    torch.save(without_head, tmp_path / f"{id}.pth")
    with pytest.raises(
        ClipsafeError, match=r'does not fit \'resnet50\' .*Missing key\(s\) in state_dict: "fc\.weight"'
    ):
        _ = load_model(id, device="cpu", checkpoints=tmp_path).network
    torch.save(state | {f"encoder.{k}": v for k, v in state.items()}, tmp_path / f"{id}.pth")
    with pytest.raises(ClipsafeError) as error:
        _ = load_model(id, device="cpu", checkpoints=tmp_path).network
    assert str(error.value) == (
        f"{tmp_path / id}.pth holds several networks; save the one to evaluate, with its head, to a file."
    )
    other = ModelSpec("x", "contrastive", "hf_hub", "dinov2-tiny", "someone/x:x.bin")
    with pytest.raises(
        ClipsafeError, match=r"^unknown contrastive architecture of the hub 'dinov2-tiny'; did you mean"
    ):
        _ = load_model(other, device="cpu").preprocessing


def test_the_metrics_need_no_torch():
    code = "import sys, clipsafe_utils.zoo, clipsafe_utils.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
