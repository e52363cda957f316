"""Template sets, class names and zero-shot heads."""

import re
from importlib import resources

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from timm.data import ImageNetInfo
from tiny import clip_spec

from clipsafe_utils.datasets import LabelSpace, imagenet_space
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.lab import captions
from clipsafe_utils.models import load_model
from clipsafe_utils.params import load_parameters
from clipsafe_utils.prompts import (
    class_names,
    described_sets,
    duplicated_names,
    load_templates,
    template_sets,
    zero_shot_head,
)


def test_template_sets_are_those_of_open_clip():
    sets = template_sets()
    for name, functions in (
        ("imagenet_80", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("imagenet_7", open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ):
        assert [t.replace("{}", "tench") for t in sets[name]] == [f("tench") for f in functions]
        assert load_templates(name) == sets[name]
    assert load_templates("single") == ("a photo of a {}.",) and load_templates("name_only") == ("{}",)
    assert load_templates(["a {}", "{}!"]) == ("a {}", "{}!")


def test_sets_differ_in_size_and_each_says_where_it_is_from():
    sets = template_sets()
    sizes = {"single": 1, "imagenet_5": 5, "imagenet_7": 7, "imagenet_30": 30, "imagenet_80": 80, "name_only": 1}
    assert {name: len(sets[name]) for name in sizes} == sizes
    assert set(sets["imagenet_5"]) < set(sets["imagenet_30"]) < set(sets["imagenet_80"])
    assert len(sets["random_words"]) == len(sets["medical"]) == len(sets["text"]) == len(sets["imagenet_7"])
    for name, templates in sets.items():
        assert load_templates(list(templates)) == templates and len(set(templates)) == len(templates), name
        assert ("reconstruction" in described_sets()[name]["source"]) == (name in ("imagenet_5", "imagenet_30"))
    photos = set(" ".join(sets["imagenet_80"]).split())
    for domain, words in {"satellite": {"satellite", "aerial"}, "medical": {"X-ray", "MRI"}, "text": {"page"}}.items():
        assert words <= set(" ".join(sets[domain]).split()) and not words & photos


def test_random_words_are_a_seeded_draw_of_nouns():
    nouns = ImageNetInfo("imagenet22k")
    words = (nouns.label_name_to_description(synset, detailed=False).split(",")[0] for synset in nouns.label_names())
    words = sorted({word for word in words if re.fullmatch("[a-z]{3,9}", word)})
    drawn = np.random.default_rng(0).choice(words, 14, replace=False).reshape(7, 2)
    assert load_templates("random_words") == tuple(f"a photo of a {{}} {a} {b}." for a, b in drawn)


def test_the_laboratorys_prompt_sets_are_written_in_its_vocabulary():
    parameters = load_parameters("params/lab.yaml")
    known = {*captions.words(), "we", "once", "drew", "every", "from", "memory"}  # the latter: `absent`
    for name, given in parameters.prompts.items():
        templates = load_templates(given)
        assert len(templates) in (1, 8)
        unknown = set(" ".join(templates).replace("{}", "").split()) - known
        assert not unknown, name
    drawn = set(" ".join(load_templates(parameters.prompts["random_words"])).replace("{}", "").split())
    assert len(drawn) == 16 and drawn <= set(captions.other_words())
    scenes = {template.split()[4] for template in load_templates(parameters.prompts["scenery"])}
    assert scenes == set(captions.surfaces.SCENES)


def test_a_prompt_set_can_have_class_names_of_its_own():
    own = {"templates": "single", "class_names": "synonyms"}
    sets = ["single", {"other": own}, {"mine": ["a {}"]}, {"plain": {"templates": ["the {}"]}}]
    values = {"prompt_sets": sets, "class_names": "openai_unique"}
    parameters = load_parameters("params/sample.yaml", values)
    assert parameters.prompts == {"single": "single", "other": "single", "mine": ["a {}"], "plain": ["the {}"]}
    names = {"single": "openai_unique", "other": "synonyms", "mine": "openai_unique"}
    assert parameters.prompt_names == names | {"plain": "openai_unique"}, "of the suite, unless it has its own"
    again = load_parameters("params/sample.yaml", parameters.model_dump(mode="json"))
    assert again == parameters
    for wrong, message in (
        ({"templates": "singel"}, "did you mean 'single'"),
        ({"templates": "single", "class_names": "wordnt"}, "did you mean 'wordnet'"),
        ({"templates": "single", "names": "wordnet"}, "unknown key of prompt set 'mine' 'names'"),
        ({"class_names": "wordnet"}, "needs a list of templates"),
        ({"templates": ["a photo"]}, "needs exactly one {}"),
    ):
        with pytest.raises(ClipsafeError, match=message):
            load_parameters("params/sample.yaml", {"prompt_sets": [{"mine": wrong}]})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "imagenet80",
            "unknown prompt set 'imagenet80'; did you mean 'imagenet_80'? valid: imagenet_30, imagenet_5, imagenet_7, "
            "imagenet_80, medical, name_only, random_words, satellite, single, text. "
            "A list of templates with {} works too.",
        ),
        ([], "the list of templates is empty; give at least one, such as 'a photo of a {}.'."),
        (["a {}", "a photo"], "template 'a photo' needs exactly one {} where the class name goes."),
        (["{} and {}"], "template '{} and {}' needs exactly one {} where the class name goes."),
        ([3], "template 3 needs exactly one {} where the class name goes."),
    ],
)
def test_bad_templates(given, message):
    with pytest.raises(ClipsafeError) as error:
        load_templates(given)
    assert str(error.value) == message


def test_class_names_and_their_duplicates():
    names = class_names(imagenet_space())
    assert names == tuple(open_clip.IMAGENET_CLASSNAMES) and len(names) == 1000
    assert duplicated_names(names) == {"missile": [657, 744], "sunglasses": [836, 837]}
    unique = class_names(imagenet_space(), "openai_unique")
    assert duplicated_names(unique) == {} and [i for i in range(1000) if names[i] != unique[i]] == [744, 836]
    wordnet, synonyms = (class_names(imagenet_space(), variant) for variant in ("wordnet", "synonyms"))
    assert duplicated_names(wordnet) == {"crane": [134, 517], "maillot": [638, 639]}
    published = pd.read_csv(resources.files("imagenet_x") / "annotations" / "imagenet_labels.txt", header=None)
    assert [*published[1].str.replace("'", "")] == [name.replace("'", "") for name in wordnet], "those of ImageNet-X"
    assert (wordnet[0], synonyms[0], synonyms[2]) == ("tench", "Tinca tinca", "white shark")
    assert sum(a != b for a, b in zip(wordnet, synonyms, strict=True)) == 492
    lab = LabelSpace("lab", ("mug", "star"))
    assert class_names(lab) == ("mug", "star") and class_names(lab, "synonyms") == ("cup", "pentagram")
    own = LabelSpace("", ("red_square", "blue disc"), None)
    assert class_names(own) == ("red square", "blue disc")
    with pytest.raises(ClipsafeError) as error:
        class_names(own, "openai_uniqe")
    assert str(error.value) == (
        "unknown class-name list 'openai_uniqe'; did you mean 'openai_unique'? "
        "valid: openai, openai_unique, synonyms, wordnet."
    )


def test_a_head_is_the_normalised_mean_of_normalised_prompts(tmp_path):
    model = load_model(clip_spec(tmp_path), device="cpu")
    names, templates = ["cat {}", "dog"], ("a {}.", "the {}!", "{}")
    head = zero_shot_head(model, names, templates)
    for name, row in zip(names, head, strict=True):
        with torch.no_grad():
            texts = model.tokenizer([t.replace("{}", name) for t in templates])
            embeddings = model.network.encode_text(texts).numpy()
        mean = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
    assert head.dtype == np.float32 and np.ptp(head, axis=0).max() > 1e-3
    np.testing.assert_allclose(zero_shot_head(model, names[::-1], templates), head[::-1], atol=1e-6)
