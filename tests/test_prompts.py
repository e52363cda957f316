"""Template sets, class names and zero-shot heads."""

import numpy as np
import open_clip
import pytest
import torch
from tiny import clip_spec

from clipsafe_utils.datasets import LabelSpace, imagenet_space
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.models import load_model
from clipsafe_utils.prompts import class_names, duplicated_names, load_templates, template_sets, zero_shot_head


def test_template_sets_are_those_of_open_clip():
    sets = template_sets()
    assert {name: len(templates) for name, templates in sets.items()} == {
        "imagenet_80": 80,
        "imagenet_7": 7,
        "single": 1,
        "name_only": 1,
    }
    for name, functions in (
        ("imagenet_80", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("imagenet_7", open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ):
        assert [t.replace("{}", "tench") for t in sets[name]] == [f("tench") for f in functions]
        assert load_templates(name) == sets[name]
    assert load_templates("single") == ("a photo of a {}.",) and load_templates("name_only") == ("{}",)
    assert load_templates(["a {}", "{}!"]) == ("a {}", "{}!")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "imagenet80",
            "unknown prompt set 'imagenet80'; did you mean 'imagenet_80'? valid: imagenet_7, imagenet_80, name_only, "
            "single. A list of templates with {} works too.",
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
    own = LabelSpace("", ("red_square", "blue disc"), None)
    assert class_names(own) == ("red square", "blue disc")
    with pytest.raises(ClipsafeError) as error:
        class_names(own, "openai_uniqe")
    assert str(error.value) == (
        "unknown class-name list 'openai_uniqe'; did you mean 'openai_unique'? valid: openai, openai_unique."
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
