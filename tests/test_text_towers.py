"""Text towers at the length of the prompts give what they give at the length of their context."""

import numpy as np
import open_clip
import pytest
import torch
from tiny import CLIP, clip_spec, noise_images, table_of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, PreTrainedTokenizerFast

from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.models import ClipModel, load_model
from clipsafe_utils.params import load_parameters
from clipsafe_utils.prompts import load_templates, zero_shot_head
from clipsafe_utils.study import Study

PROMPTS = ["cat", "a photo of a cat.", "the", "a much longer text of a small red cat and two dogs in the sun", "cat"]
WHOLE = "the whole context"


def network_of(model, text, custom=False):
    """open_clip's own class around a text tower, with tokens that matter to each other as in a trained one."""
    torch.manual_seed(0)
    config = {"embed_dim": 32, "vision_cfg": CLIP["vision_cfg"], "text_cfg": text}
    model.network = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()
    tower = getattr(model.network, "text", model.network)
    for name, parameter in tower.named_parameters():
        if name in ("positional_embedding", "token_embedding.weight"):
            torch.nn.init.normal_(parameter)
        elif name.startswith("transformer.resblocks") and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)


def seen_lengths(model, texts, **kwargs):
    """Embeddings of texts, those of the whole context, and how many tokens each batch let the tower see."""
    seen = []
    transformer = model._text_tower.transformer
    hook = transformer.register_forward_pre_hook(
        lambda _, args, named: seen.append((args[0] if args else named["input_ids"]).shape[1]), with_kwargs=True
    )
    embeddings = model.encode_texts(texts, **kwargs)
    hook.remove()
    with torch.no_grad():
        whole = model.network.encode_text(model.tokenizer(texts), normalize=True)
    assert whole.std(dim=0).max() > 1e-2, "the texts differ"
    return embeddings, whole, seen


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_whole_architectures_give_the_same_head_at_a_fraction_of_the_length(name, tmp_path):
    torch.manual_seed(0)
    model = load_model(clip_spec(tmp_path), device="cpu")
    model.network, model.tokenizer = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
    names, templates = open_clip.IMAGENET_CLASSNAMES[:4], load_templates("imagenet_7")
    head = zero_shot_head(model, names, templates)
    own = open_clip.build_zero_shot_classifier(
        model.network, model.tokenizer, names, open_clip.SIMPLE_IMAGENET_TEMPLATES
    )
    np.testing.assert_allclose(head, own.T.numpy(), rtol=0, atol=1e-5)
    assert max(seen_lengths(model, [t.replace("{}", names[0]) for t in templates])[2]) < 20


# One architecture of each kind of text tower that open_clip knows, by what its configuration asks for.
TOWERS = {
    "ViT-L-14": 24,
    "EVA02-L-14": 24,  # custom text
    "PE-Core-B-16": 24,
    "ViTamin-L": 24,
    "ViT-H-14-worldwide": 24,  # ends at an id of its tokenizer
    "MobileCLIP2-S0": WHOLE,  # bidirectional
    "coca_ViT-B-32": WHOLE,  # class token behind the text
    "ViT-B-16-SigLIP2": WHOLE,  # bidirectional, pooled at the last position
    "ViT-L-14-CLIPA": WHOLE,
}


@pytest.mark.parametrize("name", TOWERS)
def test_towers_that_look_ahead_see_their_whole_context(name, tmp_path):
    config = open_clip.get_model_config(name)
    small = {"width": 32, "heads": 2, "layers": 2, "vocab_size": 2000, "mlp_ratio": 4, "output_tokens": False}
    end = 3 if config["text_cfg"].get("pool_type") == "eos" else 1999  # else the highest id is the end
    text = config["text_cfg"] | small | {"eos_id": end}
    model = load_model(clip_spec(tmp_path), device="cpu")
    network_of(model, text, custom=config.get("custom_text", False) or "multimodal_cfg" in config)
    context = text.get("context_length", 77)

    def tokenizer(texts):
        """Two to 24 ids, the last of them the end, then padding."""
        rows = torch.zeros(len(texts), context, dtype=torch.long)
        for row, n in zip(rows, np.linspace(2, 24, len(texts)).astype(int), strict=True):
            row[:n] = torch.arange(n) * 7 + 5
            row[n - 1] = end
        return rows

    model.tokenizer = tokenizer
    expected = TOWERS[name]
    for texts in (PROMPTS, PROMPTS[::-1]):
        embeddings, whole, seen = seen_lengths(model, texts, batch_size=2)
        torch.testing.assert_close(embeddings, whole, rtol=0, atol=1e-5)
        extra = 1 if text.get("embed_cls") else 0
        assert max(seen) == (context + extra if expected == WHOLE else expected)
        assert (min(seen) < 10) == (expected != WHOLE)


def test_towers_of_transformers_see_their_whole_context(tmp_path):
    words = ["[PAD]", "[UNK]", *sorted(set(" ".join(PROMPTS).split()))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertConfig(vocab_size=len(words), max_position_embeddings=40, **sizes).save_pretrained(tmp_path / "bert")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(tmp_path / "bert")
    text = {"hf_model_name": str(tmp_path / "bert"), "hf_model_pretrained": False, "hf_pooler_type": "mean_pooler"}
    model = load_model(clip_spec(tmp_path), device="cpu")
    network_of(model, text | {"hf_proj_type": "mlp"}, custom=True)
    model.tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path / "bert"), context_length=24)
    embeddings, whole, seen = seen_lengths(model, PROMPTS, batch_size=1)
    torch.testing.assert_close(embeddings, whole, rtol=0, atol=1e-5)
    assert set(seen) == {24}


def test_a_mask_that_only_looks_causal_is_not_taken_for_one(tmp_path):
    model = load_model(clip_spec(tmp_path), device="cpu")
    model.network.attn_mask[:, 20] = 0  # every token sees one behind most texts
    embeddings, whole, seen = seen_lengths(model, PROMPTS, batch_size=1)
    torch.testing.assert_close(embeddings, whole, rtol=0, atol=1e-5)
    assert set(seen) == {24}


@pytest.mark.parametrize(
    "changes", [{}, {"custom_text": True}, {"init_logit_bias": -10.0}, {"custom_text": True, "init_logit_bias": -10.0}]
)
def test_order_repeats_and_batches_do_not_matter(changes, tmp_path):
    model = load_model(clip_spec(tmp_path, **changes), device="cpu")
    alone = torch.cat([model.encode_texts([text]) for text in PROMPTS])
    for batch_size in (1, 2, 256):
        torch.testing.assert_close(model.encode_texts(PROMPTS, batch_size), alone, rtol=0, atol=1e-6)
    assert torch.equal(alone[0], alone[4])


def test_a_text_longer_than_the_context_is_cut_by_the_tokenizer(tmp_path):
    model = load_model(clip_spec(tmp_path), device="cpu")
    embeddings, whole, seen = seen_lengths(model, ["cat " * 40, "cat", "dog"], batch_size=1)
    torch.testing.assert_close(embeddings, whole, rtol=0, atol=1e-5)
    assert max(seen) == 24 and min(seen) < 10


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A CLIP and a classifier on two folders of classes with names of their own, one with a part of the other's."""
    monkeypatch.setenv("CLIPSAFE_CACHE", str(tmp_path / "cache"))
    for name, classes in (("whole", ("bear", "cat", "dog")), ("part", ("dog", "bear"))):
        for label in classes:
            noise_images(tmp_path / name / label, 2)
    kinds = {name: {"kind": "folder"} for name in ("whole", "part")}
    values = {
        **{"suite": "heads", "outputs": str(tmp_path), "data": str(tmp_path), "image_sets": kinds, "id_set": "whole"},
        **{"shifted_sets": ["part"], "ood_sets": [], "cue_conflict_set": None},
        **{"zoo": table_of(tmp_path, clip_spec(tmp_path)), "device": "cpu", "workers": 0},
        "prompt_sets": [{"mine": ["a photo of a {}.", "a drawing of a {}."]}, "name_only"],
    }
    return load_parameters("params/sample.yaml", values)


@pytest.fixture
def loaded(monkeypatch):
    """List that grows with each network that is loaded."""
    loaded, create = [], open_clip.create_model
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: loaded.append(1) or create(*args, **kwargs))
    return loaded


def test_a_network_is_loaded_once_for_images_and_heads(suite, loaded):
    study = Study(suite)
    loaded.clear()
    assert study.evaluate("whole", "part") == ["tiny"]
    for prompts in study.prompt_sets:
        assert study.outputs("tiny", "whole", prompts=prompts).shape == (6, 3)
        assert study.outputs("tiny", "part", prompts=prompts).shape == (4, 2)
    assert len(loaded) == 1 and not study.adapters["tiny"].is_loaded
    assert len(list((study.store.path / "heads").iterdir())) == 2, "one a prompt set, for both label spaces"


def test_a_head_that_is_asked_for_later_leaves_no_network_behind(suite, loaded):
    study = Study(suite)
    study.evaluate("whole")
    loaded.clear()
    study.head("tiny", "mine", ["another"])
    assert len(loaded) == 1 and not study.adapters["tiny"].is_loaded
    study.head("tiny", "mine", ["another"])
    assert len(loaded) == 1


def test_the_head_of_some_classes_is_rows_of_the_whole(suite):
    study = Study(suite)
    part = study.head("tiny", "mine", study.images["part"].space.names)
    assert study.images["part"].space.names == ("bear", "dog")
    alone = zero_shot_head(study.adapters["tiny"], ("bear", "dog"), study.prompt_sets["mine"])
    np.testing.assert_allclose(part["weights"], alone, atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3 and part["logit_scale"] == pytest.approx(1 / 0.07)
    reordered = study.head("tiny", "mine", ["dog", "bear"])
    np.testing.assert_array_equal(reordered["weights"], part["weights"][::-1])


def test_a_tokenizer_that_is_missing_spoils_no_images(suite, monkeypatch):
    def refuse(*_):
        raise ClipsafeError("no tokenizer")

    monkeypatch.setattr(ClipModel, "encode_texts", refuse)
    study = Study(suite)
    assert study.evaluate("whole") == ["tiny"] and study.unit("tiny", "whole").array.shape == (6, 16)
    with pytest.raises(ClipsafeError, match="no tokenizer"):
        study.outputs("tiny", "whole")
