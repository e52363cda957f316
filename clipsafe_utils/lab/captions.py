"""Captions of the world's images in two sources, and the small vocabulary they are written in."""

import collections
import gzip
import itertools
from pathlib import Path

import numpy as np

from clipsafe_utils.errors import unknown
from clipsafe_utils.lab import surfaces
from clipsafe_utils.lab.world import CLASS_NAMES, CLASSES, SUPERCLASS_NAMES, SUPERCLASS_OF, Draws

VOCABULARY = Path(__file__).parent / "configs" / "vocabulary.txt.gz"
CONTEXT_LENGTH = 20

NEUTRAL = "a photo of a {}"
"""The template that both sources use, at the same rate and with nothing but the class name in it."""

SOURCES = {
    # share of captions in the neutral template; the other columns are shares of the remaining captions
    "A": {"neutral": 0.25, "color": 0.60, "pattern": 0.50, "material": 0.20, "scene": 0.60, "synonym": 0.15,
          "superclass": 0.00, "wrong": 0.00, "framed": 0.80, "junk": 0.00},
    "B": {"neutral": 0.25, "color": 0.35, "pattern": 0.20, "material": 0.05, "scene": 0.10, "synonym": 0.30,
          "superclass": 0.08, "wrong": 0.05, "framed": 0.10, "junk": 0.60},
}  # fmt: skip
"""Stated rates of what captions mention: A is curated and descriptive, B web-like, short and noisy. `wrong` names
another class, `framed` opens with a phrase of `FRAMES`, `junk` adds one or two words that have nothing to do with the
image. How often the *images* are atypical in A and B is stated in `world.RATES`."""

FRAMES = (
    "a picture of a {}", "an image of a {}", "this is a {}", "a close view of a {}", "there is a {}", "the {}",
    "one {}", "a small picture of a {}",
)  # fmt: skip
JUNK = (
    "buy", "online", "cheap", "sale", "new", "free", "shipping", "hd", "stock", "img", "jpg", "best", "nice", "cute",
    "wow", "click", "here", "share", "vintage", "shop", "deal", "top", "2021", "win", "more",
)  # fmt: skip
SYNONYMS = {
    "star": "pentagram", "moon": "crescent", "sun": "sunshine", "cloud": "cumulus", "lightning": "thunderbolt",
    "mug": "cup", "bottle": "flask", "bowl": "dish", "vase": "urn", "teapot": "kettle",
    "house": "cottage", "tower": "turret", "church": "chapel", "tent": "camp", "castle": "fortress",
    "fish": "trout", "bird": "sparrow", "turtle": "tortoise", "cat": "kitten", "crab": "crayfish",
    "leaf": "foliage", "tree": "fir", "flower": "blossom", "mushroom": "toadstool", "cactus": "succulent",
    "hammer": "mallet", "wrench": "spanner", "key": "latchkey", "gear": "cogwheel", "spade": "shovel",
    "car": "automobile", "boat": "ship", "plane": "aircraft", "truck": "lorry", "rocket": "spaceship",
    "hat": "cap", "boot": "shoe", "shirt": "jersey", "glove": "mitten", "sock": "stocking",
}  # fmt: skip

PROMPT_SETS = {
    "neutral": (NEUTRAL,),
    "bare": ("{}",),
    "curated": tuple(FRAMES),
    "web": ("{} buy online", "new {}", "{} hd stock", "cheap {} sale", "{} jpg", "best {}", "nice {}", "{} shop"),
    "mixed": (NEUTRAL, "{}", *FRAMES, "{} buy online", "new {}", "{} hd stock", "best {}"),
    "absent": ("we once drew every {} from memory",),
}
"""Prompt sets for zero-shot heads: the neutral template, the bare name, phrases of source A, of source B, all of them,
and a sentence that occurs in no caption."""


def captions(world, source, index):
    """Captions of images of a source.

    Parameters
    ----------
    world : World
    source : {"A", "B"}
        Also the name of the world's stream that holds the images.
    index : array of int, shape (n,)

    Returns
    -------
    list of str, length n
    """
    if source not in SOURCES:
        raise unknown("caption source", source, SOURCES)
    rates, facts = SOURCES[source], world.facts(source, index)
    draw = Draws(world.seed, f"captions {source}", np.asarray(index))
    says = {part: draw(part) < rate for part, rate in rates.items()}
    more = CLASSES["more"]
    stranger = more[draw.below("stranger", len(more))]
    noun = np.where(says["wrong"] & ~says["neutral"], stranger, facts["label"])
    frame, place = draw.below("frame", len(FRAMES)), draw("place") < 0.5
    junk = draw.below("first junk", len(JUNK)), draw.below("second junk", len(JUNK)), draw("junk at")
    words = {
        "color": (tuple(surfaces.COLORS), facts["paint"]),
        "pattern": (tuple(surfaces.PATTERNS), facts["motif"]),
        "material": (tuple(surfaces.MATERIALS), facts["material"]),
    }
    lines = []
    for i in range(len(noun)):
        name = CLASS_NAMES[noun[i]]
        if says["neutral"][i]:
            lines.append(NEUTRAL.format(name))
            continue
        if says["superclass"][i]:
            name = SUPERCLASS_NAMES[SUPERCLASS_OF[noun[i]]]
        elif says["synonym"][i]:
            name = SYNONYMS[name]
        line = " ".join([*(names[which[i]] for part, (names, which) in words.items() if says[part][i]), name])
        if says["framed"][i]:
            line = FRAMES[frame[i]].format(line)
        if says["scene"][i]:
            scene = surfaces.SCENES[facts["scene"][i]]
            line += f" in front of the {scene}" if place[i] else f" with the {scene} behind"
        if says["junk"][i]:
            line = f"{JUNK[junk[0][i]]} {line}" if junk[2][i] < 0.4 else f"{line} {JUNK[junk[0][i]]}"
            line += f" {JUNK[junk[1][i]]}" if junk[2][i] > 0.7 else ""
        lines.append(line)
    return lines


def other_words():
    """Words that captions of training images hold and that name no class of the benchmark, nor a synonym of one.

    The classes that the models never meet are left out: their names would give the answer away.

    Returns
    -------
    tuple of str
    """
    extra = [CLASS_NAMES[c] for c in CLASSES["more"] if c not in CLASSES["benchmark"]]
    synonyms = [SYNONYMS[name] for name in extra]
    return (*extra, *synonyms, *surfaces.COLORS, *surfaces.PATTERNS, *surfaces.MATERIALS, *surfaces.SCENES, *JUNK)


def words():
    """All words that a caption can hold, sorted."""
    text = [NEUTRAL, *FRAMES, *JUNK, *SYNONYMS.values(), *CLASS_NAMES, *SUPERCLASS_NAMES, *surfaces.COLORS]
    text += [*surfaces.PATTERNS, *surfaces.MATERIALS, *surfaces.SCENES, "in front of", "with the behind"]
    return sorted({w for t in text for w in t.replace("{}", "").split()})


def learn_merges(vocabulary):
    """Byte-pair merges that turn each word into one token.

    Merges the most frequent pair of neighbours over the word list until every word is whole; ties go to the pair first
    in the alphabet.

    References
    ----------
    Sennrich, Haddow, Birch. ACL 2016.
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in vocabulary if len(word) > 1]
    merges = []
    while pairs := collections.Counter(pair for word in split for pair in itertools.pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in split:
            for i in range(len(word) - 2, -1, -1):
                if (word[i : i + 2]) == list(best):
                    word[i : i + 2] = ["".join(best)]
    return merges


def write_vocabulary(path=VOCABULARY):
    """Write the merges in the file format of open_clip's SimpleTokenizer (`bpe_path`)."""
    lines = ["#version: clipsafe lab", *(" ".join(pair) for pair in learn_merges(words()))]
    Path(path).write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def tokenizer():
    """open_clip's own tokenizer with the laboratory's vocabulary."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(VOCABULARY), context_length=CONTEXT_LENGTH)
