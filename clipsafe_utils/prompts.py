"""Prompt sets and class names: what a zero-shot head is made of."""

import functools
from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from clipsafe_utils.errors import ClipsafeError, unknown

CLASS_NAMES = ("openai", "openai_unique", "wordnet", "synonyms")
"""Class-name lists, see `class_names`."""


@functools.cache
def described_sets():
    """The prompt sets of `prompts.yaml`.

    Returns
    -------
    dict of str to dict
        Name -> source, which says so where a set is a reconstruction, and where its templates come from.
    """
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


@functools.cache
def template_sets():
    """Names of the template sets, with their templates (strings with one `{}`).

    Returns
    -------
    dict of str to tuple of str
    """
    import open_clip

    sets = {}
    for name, entry in described_sets().items():
        if "open_clip" in entry:
            sets[name] = tuple(template("{}") for template in getattr(open_clip, entry["open_clip"]))
        elif "of" in entry:
            whole, size = sets[entry["of"]], entry["size"]
            sets[name] = tuple(whole[len(whole) * k // size] for k in range(size))
        else:
            sets[name] = tuple(entry["templates"])
    return sets


def load_templates(prompt_set):
    """Templates of a named set, or the user's own.

    Parameters
    ----------
    prompt_set : str or sequence of str
        Name of a set, or templates that each hold `{}` where the class name goes.

    Returns
    -------
    tuple of str

    Raises
    ------
    ClipsafeError
        Unknown set; no templates; a template without exactly one `{}`.
    """
    if isinstance(prompt_set, str):
        sets = template_sets()
        if prompt_set not in sets:
            raise unknown("prompt set", prompt_set, sets, hint="A list of templates with {} works too.")
        return sets[prompt_set]
    templates = tuple(prompt_set)
    if not templates:
        raise ClipsafeError("the list of templates is empty; give at least one, such as 'a photo of a {}.'.")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ClipsafeError(f"template {template!r} needs exactly one {{}} where the class name goes.")
    return templates


def class_names(space, variant="openai"):
    """What the classes of a label space are called in prompts.

    Parameters
    ----------
    space : LabelSpace
        Its classifier outputs are named ("imagenet1k": open_clip's 1,000 names); other spaces name their own classes.
    variant : {"openai", "openai_unique", "wordnet", "synonyms"}, default "openai"
        Of ImageNet: `openai_unique` tells the duplicated names apart with their WordNet names; `wordnet` takes the
        first lemma of each synset (which two cranes and two maillots share), the names that ImageNet-X comes with;
        `synonyms` the second lemma where there is one. Of the laboratory: `synonyms` takes the second word that
        captions have for a class. Other spaces have one list.

    Returns
    -------
    tuple of str
    """
    if variant not in CLASS_NAMES:
        raise unknown("class-name list", variant, CLASS_NAMES)
    if space.outputs == "lab" and variant == "synonyms":
        from clipsafe_utils.lab.captions import SYNONYMS

        return tuple(SYNONYMS[name] for name in space.names)
    if space.outputs != "imagenet1k":
        return tuple(name.replace("_", " ") for name in space.names)
    if variant in ("wordnet", "synonyms"):
        return _lemmas(variant == "synonyms")
    from open_clip import IMAGENET_CLASSNAMES

    names = list(IMAGENET_CLASSNAMES)
    if variant == "openai_unique":
        for index, name in UNIQUE_NAMES.items():
            names[index] = name
    return tuple(names)


@functools.cache
def _lemmas(number):
    """First or second lemma of ImageNet's 1,000 synsets; the last where there are fewer."""
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo("imagenet1k")
    lemmas = [synsets.label_name_to_description(synset, detailed=False).split(", ") for synset in synsets.label_names()]
    return tuple(of[min(number, len(of) - 1)] for of in lemmas)


UNIQUE_NAMES = {744: "projectile", 836: "sunglass"}
"""Index -> name from WordNet for one of each pair that open_clip's list leaves identical (missile, sunglasses)."""


def duplicated_names(names):
    """Audit a class-name list: names that several classes share, so that no prompt can tell them apart.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    dict of str to list of int
        Name -> indices of its classes. Ties go to the lower index.
    """
    counts = Counter(names)
    return {name: [i for i, n in enumerate(names) if n == name] for name, count in counts.items() if count > 1}


def prompt_tokens(space, templates, names):
    """How many tokens the prompts have, by CLIP's tokenizer or the laboratory's, start and end included.

    Parameters
    ----------
    space : LabelSpace
    templates, names : sequence of str

    Returns
    -------
    str
        Fewest and most, "6 to 14", up to the length that a text is cut to; a name counts alike in every template.
    """
    if space.outputs == "lab":
        from clipsafe_utils.lab import captions

        tokenizer = captions.tokenizer()
    else:
        from open_clip.tokenizer import SimpleTokenizer

        tokenizer = SimpleTokenizer()

    def lengths(texts):
        return (tokenizer(list(texts)) != 0).sum(dim=1)

    frames = lengths(template.replace("{}", names[0]) for template in templates)
    inside = lengths(templates[int(frames.argmax())].replace("{}", name) for name in names)
    fewest, most = int(inside.min() - frames.max() + frames.min()), int(inside.max())
    return " to ".join(map(str, dict.fromkeys((fewest, most))))


N_NEGATIVES = 2000
"""Most words that `negative_words` takes from the nouns of ImageNet-22k."""


def negative_words(space, variant="openai"):
    """Words that name no class of a label space: candidates for the negative labels of the OOD score "neg_label".

    For the laboratory those words of its captions that name something else; otherwise nouns of WordNet: first lemmas of
    the 21,841 synsets of ImageNet-22k (a list that timm ships), at even steps in the order of their ids.

    Parameters
    ----------
    space : LabelSpace
    variant : str
        Class-name list, see `class_names`.

    Returns
    -------
    tuple of str
    """
    if space.outputs == "lab":
        from clipsafe_utils.lab.captions import other_words

        return other_words()
    from timm.data import ImageNetInfo

    nouns = ImageNetInfo("imagenet22k")
    synsets = [synset for synset in nouns.label_names() if synset not in space.names]
    words = (nouns.label_name_to_description(synset, detailed=False).split(",")[0] for synset in synsets)
    taken = {name.lower() for name in class_names(space, variant)}
    words = list(dict.fromkeys(word for word in words if word.lower() not in taken))
    return tuple(words[:: -(-len(words) // N_NEGATIVES)])


def zero_shot_head(model, names, templates):
    """Build a zero-shot classifier: embed every prompt, average over templates, normalise.

    Parameters
    ----------
    model : ClipModel
        Offers `encode_texts`.
    names : sequence of str, n_classes of them
    templates : sequence of str

    Returns
    -------
    ndarray of float32, shape (n_classes, width)
        Unit rows.

    References
    ----------
    Radford et al. ICML 2021, section 3.1.4.
    """
    prompts = [template.replace("{}", name) for name in names for template in templates]
    embeddings = model.encode_texts(prompts).reshape(len(names), len(templates), -1).mean(dim=1).numpy()
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
