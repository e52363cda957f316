"""Who is who among the published models: rules.yaml, read and applied."""

import re
from pathlib import Path

import yaml

from clipsafe_utils.errors import ClipsafeError

RULES = yaml.safe_load(Path(__file__).with_name("rules.yaml").read_text())
SIZES = RULES["sizes"]
"""Training source -> images, of sources that come in one size."""


def group_and_source(table, name):
    """Group and training source of a model of one of the tables open_clip, timm, testbed, imagenet_x, geirhos."""
    return _first(table, name)[0]


def encoder(name):
    """Encoder family, from the name alone."""
    return _first("encoders", name)[0][0]


def open_clip_input_size(name):
    """Pixels a side that an open_clip model (NAME/PRETRAINED) takes."""
    (size,), match = _first("open_clip_input_size", name)
    return int(match[1]) if size is None else size


def _first(rules, name):
    for pattern, *answer in RULES[rules]:
        if match := re.search(pattern, name):
            return answer, match
    raise ClipsafeError(f"no rule under {rules!r} of published/rules.yaml covers the model {name!r}; add one.")
