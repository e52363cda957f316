"""One adapter for every model: zero-shot CLIP through open_clip, classifiers through timm.

A model is cheap until it is asked to look at an image: its identity (checkpoint digest, preprocessing, architecture)
is known without loading weights, so a finished study is read again without touching a network.
"""

import contextlib
import copy
import json
import logging
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
from open_clip import factory
from open_clip import transform as clip_transform
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from timm.data import create_transform, resolve_data_config
from torch import nn
from tqdm import tqdm

from clipsafe_utils import hub
from clipsafe_utils.content import file_digest
from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.weights import HARMLESS, cached_digest, fetching, hub_file, local_file, refuse_code
from clipsafe_utils.zoo import ModelSpec, find_model

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(spec_or_id, *, device="auto", precision="float32", checkpoints=None, crop="own", features=False):
    """Make a model ready to look at images; its weights are read when first needed.

    Parameters
    ----------
    spec_or_id : ModelSpec or str
        A row of a zoo, or the id of a row of the package's tables.
    device : str, default "auto"
        "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" ...
    precision : {"float32", "bf16", "fp16"}
        Autocast type of the forward pass; outputs are float32 always.
    checkpoints : str or Path, optional
        Folder with local checkpoints: `ID.safetensors` (.pt, .pth, .bin, .npz). timm's may be called like the name
        with its tag, or without where timm knows one tag only. What is not there, the library's cache or hub serves.
    crop : {"own", "standard"}, default "own"
        How classifiers cut images: as their checkpoint has it, or shorter side to 8/7 of the input (256 for 224,
        bilinear) and the centre of it. Zero-shot models keep their own.
    features : bool, default False
        Whether units of a classifier also hold what its head makes the logits from; see `encode_with_features`.

    Returns
    -------
    ClipModel or ClassifierModel

    Raises
    ------
    ClipsafeError
        Unknown id, architecture, tag, device or precision; a missing checkpoint, one of another architecture, or one
        that would run code when loaded; weights that need QuickGELU under a name without it.
    """
    spec = spec_or_id if isinstance(spec_or_id, ModelSpec) else find_model(spec_or_id)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if crop not in ("own", "standard"):
        raise unknown("crop", crop, ("own", "standard"))
    device = _device(device)
    if precision == "fp16" and device.type == "cpu":
        raise ClipsafeError("precision 'fp16' needs a GPU; on a CPU use 'float32' or 'bf16'.")
    return (ClipModel if spec.is_zero_shot else ClassifierModel)(spec, device, precision, checkpoints, crop, features)


class Model:
    """What both kinds share: identity, precision, the forward pass.

    Attributes
    ----------
    spec : ModelSpec
    kind : str
        "embeddings" or "logits": what `encode_images` returns.
    preprocessing : dict
        The checkpoint's own preprocessing, part of the identity.
    keeps_features : bool
        Whether its units hold features beside logits, part of the identity.
    """

    def __init__(self, spec, device, precision, checkpoints=None, crop="own", features=False):
        self.spec, self.device, self.precision, self._folder, self._crop = spec, device, precision, checkpoints, crop
        self.keeps_features = features and not spec.is_zero_shot

    def __repr__(self):
        return f"{type(self).__name__}({self.spec.id!r}, {self.device}, {self.precision})"

    @cached_property
    def checkpoint(self):
        """Path of the weights; what is not on this machine is fetched into the library's cache."""
        if self.spec.checkpoint:
            path = Path(self.spec.checkpoint)
            if not path.is_file():
                raise ClipsafeError(f"checkpoint of model {self.spec.id!r} is not there: {path}.")
            return path
        if path := local_file(self._folder, *self._file_stems):
            return path
        if self.spec.library == "hf_hub":
            repository, _, filename = self.spec.pretrained.partition(":")
            return hub_file(self.spec, repository, filename)
        return self._published_checkpoint()

    @cached_property
    def digest(self):
        """SHA-256 of the checkpoint file."""
        return cached_digest(self.checkpoint)

    @property
    def identity(self):
        """What decides this model's outputs, as a JSON-serialisable dict."""
        return {
            "name": self.spec.name,
            "config": self._config,
            "checkpoint": self.digest,
            "preprocessing": self.preprocessing,
            "precision": self.precision,
            "library": f"{self.library} {self.library_version}",
            **({"features": True} if self.keeps_features else {}),
        }

    @torch.inference_mode()
    def encode_images(self, pixels):
        """Run the network on preprocessed images.

        Parameters
        ----------
        pixels : Tensor, shape (n, 3, height, width)

        Returns
        -------
        ndarray of float32, shape (n, width)
            Image embeddings as the network gives them, not normalised, or class logits.
        """
        pixels = pixels.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        with self._autocast():
            return self._forward(pixels).float().cpu().numpy()

    @property
    def is_loaded(self):
        """Whether the network is in memory."""
        return "network" in vars(self)

    def release(self):
        """Give the network's memory back; it is loaded again when needed."""
        self.__dict__.pop("network", None)

    def _autocast(self):
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()

    @cached_property
    def _config(self):
        if not self.spec.config:
            return {}
        try:
            config = json.loads(Path(self.spec.config).read_text())
        except (OSError, ValueError) as error:
            raise ClipsafeError(f"config of model {self.spec.id!r} cannot be read: {error}.") from None
        if not isinstance(config, dict) or not set(config) & set(self._config_keys):
            raise ClipsafeError(f"{self.spec.config} configures no model: it needs {' or '.join(self._config_keys)}.")
        return config

    @contextlib.contextmanager
    def _loading(self, *files):
        """Refuse files that run code, and turn what the libraries raise while loading into one line."""
        for file in files:
            refuse_code(file)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # both libraries chat about what they load
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
                warnings.simplefilter("ignore")
                yield
        except ClipsafeError:
            raise
        except (OSError, ImportError) as error:  # text towers and tokenizers of transformers
            raise ClipsafeError(
                f"model {self.spec.id!r} needs more than its checkpoint: {' '.join(str(error).split())[:200]}. Load it "
                "once where there is a network; the hub's cache then serves it."
            ) from None
        except (RuntimeError, KeyError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ClipsafeError(
                f"{f'checkpoint {files[0]}' if files else 'the tokenizer'} does not fit {self.spec.name!r} (model "
                f"{self.spec.id!r}): "
                f"{reason[:200]}. Give the checkpoint of this architecture, or the architecture of this checkpoint."
            ) from None
        finally:
            logging.root.setLevel(level)


class ClipModel(Model):
    """Zero-shot CLIP through open_clip: by name and tag, local checkpoint, or file on the hub."""

    kind, library, library_version = "embeddings", "open_clip", open_clip.__version__
    _config_keys = ("model_cfg", "preprocess_cfg")

    @property
    def _file_stems(self):
        return (self.spec.id,)

    @property
    def identity(self):
        vocabulary = self.architecture["text_cfg"].get("tokenizer_kwargs", {}).get("bpe_path")
        if vocabulary and not Path(vocabulary).is_file():
            raise ClipsafeError(f"bpe_path of model {self.spec.id!r} is not there: {vocabulary}.")
        return super().identity | ({"vocabulary": file_digest(vocabulary)} if vocabulary else {})

    @cached_property
    def _tag(self):
        """open_clip's description of published weights; of a mere file, the preprocessing it must have had."""
        spec = self.spec
        config = self.architecture
        if self._config or spec.pretrained.partition(":")[0] in hub.CLIP_DEFAULTS:
            return {}
        if spec.library == "hf_hub" or not spec.pretrained:
            return self._shared_preprocessing()
        tag = get_pretrained_cfg(spec.name, spec.pretrained)
        if not tag:
            raise unknown(f"pretrained tag of {spec.name}", spec.pretrained, list_pretrained_tags_by_model(spec.name))
        if tag.get("quick_gelu") and not config.get("quick_gelu"):
            raise ClipsafeError(
                f"the weights {spec.pretrained!r} of model {spec.id!r} were trained with QuickGELU, and {spec.name!r} "
                f"has none: its numbers would be wrong. Use the name {spec.name + '-quickgelu'!r}."
            )
        return tag

    def _shared_preprocessing(self):
        """A file does not say its preprocessing; take it from the architecture's tags where they agree."""
        tags = [get_pretrained_cfg(self.spec.name, tag) for tag in list_pretrained_tags_by_model(self.spec.name)]
        merged = [clip_transform.merge_preprocess_dict(clip_transform.PreprocessCfg(), tag) for tag in tags]
        if any(one != merged[0] for one in merged):
            raise ClipsafeError(
                f"the published weights of {self.spec.name} do not share one preprocessing, and the checkpoint of "
                f"model {self.spec.id!r} does not say which is its own: give `pretrained`, a tag that shares its own, "
                "or `config`, a JSON file with its `preprocess_cfg`."
            )
        return merged[0] if merged else {}

    def _published_checkpoint(self):
        if not self.spec.pretrained:
            raise ClipsafeError(
                f"model {self.spec.id!r} names no weights: give `pretrained` (a tag of {self.spec.name}: "
                f"{', '.join(list_pretrained_tags_by_model(self.spec.name)) or 'none'}) or `checkpoint` (a file)."
            )
        tag = self._tag
        with fetching(self.spec, tag.get("hf_hub") or tag.get("url")):
            return Path(download_pretrained(tag))

    @property
    def width(self):
        """Numbers that `encode_images` returns for an image."""
        return self.architecture["embed_dim"]

    @cached_property
    def architecture(self):
        """open_clip's model configuration; a tokenizer's file is relative to the configuration's folder."""
        if "model_cfg" not in self._config:
            if self.spec.name not in open_clip.list_models():
                raise unknown("open_clip architecture", self.spec.name, open_clip.list_models())
            return open_clip.get_model_config(self.spec.name)
        config = copy.deepcopy(self._config["model_cfg"])
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
            raise ClipsafeError(f"{self.spec.config}: model_cfg needs embed_dim, vision_cfg and text_cfg.")
        tokenizer = config["text_cfg"].get("tokenizer_kwargs", {})
        if "bpe_path" in tokenizer:
            tokenizer["bpe_path"] = str(Path(self.spec.config).parent / tokenizer["bpe_path"])
        return config

    @cached_property
    def preprocessing(self):
        overlay = self._config.get("preprocess_cfg") or self._tag
        size = {"size": self.architecture["vision_cfg"].get("image_size", 224)}
        return clip_transform.merge_preprocess_dict(
            clip_transform.merge_preprocess_dict(clip_transform.PreprocessCfg(), overlay), size
        )

    @cached_property
    def transform(self):
        """PIL image -> Tensor of shape (3, height, width)."""
        return clip_transform.image_transform_v2(clip_transform.PreprocessCfg(**self.preprocessing), is_train=False)

    @cached_property
    def network(self):
        with self._registered() as name, self._loading(self.checkpoint):
            network = open_clip.create_model(
                name, pretrained=str(self.checkpoint), device=self.device, force_preprocess_cfg=self.preprocessing
            )
        return network.eval().to(memory_format=torch.channels_last)  # convolutions run up to twice as fast

    @cached_property
    def tokenizer(self):
        with self._registered() as name, self._loading():
            return open_clip.get_tokenizer(name)

    def _forward(self, pixels):
        return self.network.encode_image(pixels)

    @torch.inference_mode()
    def encode_texts(self, texts, batch_size=256):
        """Embed texts, short ones together: a causal tower then runs at the length of the longest of a batch.

        Parameters
        ----------
        texts : list of str
        batch_size : int, default 256

        Returns
        -------
        Tensor of float32, shape (n, width)
            L2-normalised, on the CPU, in the order of `texts`.
        """
        tokens = self.tokenizer(list(texts))
        lengths = self._lengths(tokens)
        order = lengths.argsort(stable=True)
        batches, parts = order.split(batch_size), []
        for batch in tqdm(batches, f"prompts of {self.spec.id}", unit="batch", disable=len(batches) < 20, leave=False):
            with self._autocast():
                parts.append(self._encode_tokens(tokens[batch].to(self.device), int(lengths[batch[-1]])).float().cpu())
        return torch.cat(parts)[order.argsort()]

    @property
    def _text_tower(self):
        return getattr(self.network, "text", self.network)  # open_clip's CLIP is its own text tower

    def _lengths(self, tokens):
        """How many tokens of each text its embedding depends on, int64 of shape (n,).

        Where attention is causal and the answer is read at the end of the text, nothing behind the end is seen. Every
        other tower (bidirectional, pooled at the last position, with a class token behind the text, of another
        library) is given its whole context.
        """
        tower = self._text_tower
        mask, pool, end = (
            getattr(tower, name, getattr(tower, f"text_{name}", None)) for name in ("attn_mask", "pool_type", "eos_id")
        )
        causal = mask is not None and torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))
        if not causal or pool not in ("argmax", "eos") or getattr(tower, "cls_emb", None) is not None:
            return torch.full((len(tokens),), tokens.shape[1])
        return 1 + (tokens if pool == "argmax" else (tokens == end).int()).argmax(dim=1)

    def _encode_tokens(self, tokens, length):
        """Normalised embeddings of the first `length` tokens of each text."""
        network, tower = self.network, self._text_tower
        if length == tokens.shape[1]:
            return network.encode_text(tokens, normalize=True)
        # open_clip adds every position and applies the whole mask, so a shorter text needs them cut to its length.
        prefix = "" if tower is network else "text."
        cut = {
            f"{prefix}positional_embedding": tower.positional_embedding[:length],
            f"{prefix}attn_mask": tower.attn_mask[:length, :length],
        }
        output = torch.func.functional_call(network, cut, (None, tokens[:, :length]))
        return output["text_features"] if isinstance(output, dict) else output[1]

    @property
    def logit_scale(self):
        """Factor between cosine and logit that the model was trained with."""
        return float(self.network.logit_scale.detach().exp())

    @property
    def logit_bias(self):
        """Additive bias of models with a sigmoid loss, else 0."""
        bias = getattr(self.network, "logit_bias", None)
        return 0.0 if bias is None else float(bias.detach())

    @contextlib.contextmanager
    def _registered(self):
        """Name under which open_clip knows the architecture; a local configuration is known for the moment only."""
        if "model_cfg" not in self._config:
            yield self.spec.name
            return
        name = f"clipsafe-{self.spec.id}"
        factory._MODEL_CONFIGS[name] = self.architecture
        try:
            yield name
        finally:
            del factory._MODEL_CONFIGS[name]


class ClassifierModel(Model):
    """Classifiers, fine-tuned CLIP among them, through timm: by name, local checkpoint, or file on the hub."""

    kind, library, library_version = "logits", "timm", timm.__version__
    logit_scale, logit_bias = 1.0, 0.0
    _config_keys = ("model_kwargs", "preprocess")

    @property
    def _file_stems(self):
        if self.spec.library == "hf_hub":
            return (self.spec.id,)
        name = self.spec.name.partition(".")[0]
        return (self.spec.id, self.spec.name, *([name] if len(_timm_tags(name)) < 2 else []))

    @property
    def identity(self):
        return super().identity | ({"backbone": cached_digest(self._backbone)} if self._backbone else {})

    @cached_property
    def _pretrained_cfg(self):
        name, _, tag = self.spec.name.partition(".")
        if self.spec.library == "hf_hub" and self.spec.name not in hub.PREPROCESSING:
            raise unknown("contrastive architecture of the hub", self.spec.name, hub.PREPROCESSING)
        if self.spec.library == "hf_hub":
            return hub.PREPROCESSING[self.spec.name]
        if not timm.is_model(name):
            raise unknown("timm architecture", name, timm.list_models())
        try:
            cfg = timm.get_pretrained_cfg(self.spec.name)
        except RuntimeError:
            raise unknown(f"pretrained tag of {name}", tag, _timm_tags(name)) from None
        cfg = {k: v for k, v in cfg.to_dict().items() if v is not None} if cfg else {}
        own = dict(self._config.get("preprocess", {}))
        if "size" in own:
            own["input_size"] = (3, own["size"], own.pop("size"))
        return cfg | own | {"num_classes": self.architecture.get("num_classes", cfg.get("num_classes", 1000))}

    @property
    def width(self):
        """Numbers that `encode_images` returns for an image."""
        return self._pretrained_cfg.get("num_classes", 1000)

    @property
    def architecture(self):
        """What timm is told of the network beside its name."""
        return self._config.get("model_kwargs", {})

    def _published_checkpoint(self):
        return self._timm_file(self._pretrained_cfg)

    @cached_property
    def _backbone(self):
        """timm's weights under a head of the hub; None where one file holds both."""
        if self.spec.library != "hf_hub" or "." not in self.spec.name:
            return None
        return local_file(self._folder, self.spec.name) or self._timm_file(
            timm.get_pretrained_cfg(self.spec.name).to_dict()
        )

    def _timm_file(self, cfg):
        if not cfg.get("hf_hub_id"):
            raise ClipsafeError(f"timm publishes no weights for {self.spec.name!r}: give `checkpoint`, a file.")
        return hub_file(self.spec, cfg["hf_hub_id"], cfg.get("hf_hub_filename") or "")

    @cached_property
    def preprocessing(self):
        cfg = self._pretrained_cfg
        at_test_size = not self._config and self.spec.input_size == cfg.get("test_input_size", (None,))[-1]
        config = resolve_data_config({}, pretrained_cfg=cfg, use_test_size=at_test_size)
        if self._crop == "standard":
            config |= {"crop_pct": 0.875, "crop_mode": "center", "interpolation": "bilinear"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}

    @cached_property
    def transform(self):
        """PIL image -> Tensor of shape (3, height, width)."""
        return create_transform(**self.preprocessing, is_training=False)

    @cached_property
    def network(self):
        file, backbone, name = self.checkpoint, self._backbone, self.spec.name
        with self._loading(file, *([backbone] if backbone else [])):
            if self.spec.library == "hf_hub":
                network = hub.load_classifier(name, file, backbone)
            else:
                cfg = {"file": str(file), "custom_load": file.suffix == ".npz"}
                cfg |= {"num_classes": self.width}
                cfg |= {"input_size": tuple(self.preprocessing["input_size"])}
                network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=cfg, **self.architecture)
        return network.eval().to(self.device, memory_format=torch.channels_last)

    def _forward(self, pixels):
        return self.network(pixels)

    def encode_with_features(self, pixels):
        """Logits as from `encode_images`, and in the same pass what the head made them from.

        Parameters
        ----------
        pixels : Tensor, shape (n, 3, height, width)

        Returns
        -------
        logits : ndarray of float32, shape (n, n_outputs)
        features : ndarray of float32, shape (n, width), or None
            None where the last step is not one linear map of one vector an image.
        """
        if not (head := self._linear):
            return self.encode_images(pixels), None
        seen = []
        with head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
            logits = self.encode_images(pixels)
        features = seen[0].flatten(1).float().cpu().numpy()
        width = head.weight[0].numel()
        return logits, features if len(seen) == 1 and features.shape == (len(logits), width) else None

    @property
    def linear_head(self):
        """Weights (n_outputs, width) and bias (n_outputs,) that make logits of features; None where it has no such."""
        if not (head := self._linear):
            return None
        weights = head.weight.detach().flatten(1).float().cpu().numpy()
        bias = np.zeros(len(weights), np.float32) if head.bias is None else head.bias.detach().float().cpu().numpy()
        return {"weights": weights, "bias": bias}

    @property
    def _linear(self):
        """The network's last layer, if it is one linear map."""
        head = self.network.get_classifier()
        return head if isinstance(head, (nn.Linear, nn.Conv2d)) else None


def _device(name):
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
        there = counts[device.type]
    except (RuntimeError, KeyError):
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:0", "mps"]) from None
    if (device.index or 0) >= there:
        raise ClipsafeError(f"device {name!r} was asked for, but it is not there; use 'auto' or 'cpu'.")
    torch.backends.cudnn.allow_tf32 = False  # cuDNN would round the convolutions of float32 models to 10 bits
    return device


def _timm_tags(name):
    return [tag.partition(".")[2] for tag in timm.list_pretrained(f"{name}.*")]
