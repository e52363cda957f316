"""The model tables: which models the study compares, and what is known about each.

A model is a row. To add one, write a CSV or YAML file with the columns `id, group, library, name` (the others are
optional, see `ModelSpec`) and give its path to `load_zoo`, or build a `ModelSpec` in a notebook.
"""

import csv
import difflib
import fnmatch
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from clipsafe_utils.errors import ClipsafeError, unknown

HERE = Path(__file__).parent
GROUPS = {
    "zero_shot_clip": "Zero-shot CLIP",
    "clip_finetuned": "Fine-tuned CLIP",
    "standard": "Standard",
    "contrastive": "Contrastive",
    "pretrained_more": "Pre-trained on more",
}
"""The study's five groups of models and how figures write them."""

LIBRARIES = ("open_clip", "timm", "hf_hub")


@dataclass(frozen=True)
class ModelSpec:
    """What identifies a model, and the facts the study groups it by.

    Parameters
    ----------
    id : str
        Canonical name: key of its results, row in tables, label in figures.
    group : str
        One of `GROUPS`.
    library : str
        "open_clip", "timm", or "hf_hub" (`pretrained` is then "repository:file").
    name : str
        Architecture as the library spells it; timm names carry their tag ("resnet50.a1_in1k").
    pretrained : str
        open_clip's tag, or "repository:file" on the hub.
    encoder_family, pretrain_source, pretrain_size, finetune : str
        Facts for comparisons ("vit", "laion", "2B", "in1k").
    input_size : int or None
        Pixels a side. A timm model takes the size that its weights are tested at, if it is named here.
    params_m, published_in1k_top1 : float or None
        Millions of parameters; published ImageNet-1k top-1 accuracy in percent, for zero-shot models with the prompts
        imagenet_80 and the class names openai.
    source : str
        Where these facts were read.
    checkpoint : str
        Local file with the weights; relative paths start at the folder of the table.
    config : str
        JSON file for an architecture the library does not list: open_clip's `model_cfg` and `preprocess_cfg`, or
        timm's `model_kwargs` and `preprocess`. Relative like `checkpoint`.
    outputs : str
        What a classifier's outputs are: "imagenet1k", or the label space of another world of images.
    facts : dict
        Further columns of a table, kept as they are; figures and regressions can group by them. In those of the package
        `init_from` is the model that a fine-tuned one started from, `run` a model of the training run that the weights
        come from (checkpoints and soups of one run, and what was trained on from it, share it; empty is a run of its
        own), and `samples_seen` the images that training looked at, repeats included, where the tag says it.
    """

    id: str
    group: str
    library: str
    name: str
    pretrained: str = ""
    encoder_family: str = ""
    pretrain_source: str = ""
    pretrain_size: str = ""
    finetune: str = "none"
    input_size: int | None = None
    params_m: float | None = None
    published_in1k_top1: float | None = None
    source: str = ""
    checkpoint: str = ""
    config: str = ""
    outputs: str = "imagenet1k"
    facts: dict = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self):
        for column in ("id", "group", "library", "name"):
            if not getattr(self, column):
                raise ClipsafeError(f"model {self.id or '(without id)'!r} has no {column}; every model needs one.")
        if self.group not in GROUPS:
            raise unknown(f"group of model {self.id!r}", self.group, GROUPS)
        if self.library not in LIBRARIES:
            raise unknown(f"library of model {self.id!r}", self.library, LIBRARIES)

    @property
    def is_zero_shot(self):
        """Whether class names and prompts make its classifier."""
        return self.group == "zero_shot_clip"


_NUMBERS = {"input_size": int, "params_m": float, "published_in1k_top1": float}
_COLUMNS = tuple(f.name for f in fields(ModelSpec) if f.name != "facts")


def available_zoos():
    """Names of the tables that come with the package, with their files."""
    lab = HERE.parent / "lab" / "zoo.csv"
    return {p.stem: p for p in sorted(HERE.glob("*.csv"))} | ({"lab": lab} if lab.exists() else {})


def load_zoo(name="paper", *, group=None, source=None, encoder=None, id=None):
    """Load a model table and select from it.

    Parameters
    ----------
    name : str, Path
        "paper" (the study's 210 models), "extended" (152 newer ones), "sample", or the path of a CSV or YAML table.
    group, source, encoder : str or list of str, optional
        Keep models of these groups, pre-training sources, encoder families.
    id : str or list of str, optional
        Keep these ids. All four may be shell patterns ("vit-b-*"), and each pattern must match something.

    Returns
    -------
    list of ModelSpec

    Raises
    ------
    ClipsafeError
        Unknown table, group or library; a misspelt column; duplicate ids; a selection that matches nothing.
    """
    zoos = available_zoos()
    path = zoos.get(str(name), Path(name))
    if not path.is_file():
        raise unknown("zoo", name, zoos, hint="A path to a CSV or YAML file works too.")
    models = [_spec(row, path) for row in _rows(path)]
    ids = [model.id for model in models]
    if twins := sorted({i for i in ids if ids.count(i) > 1}):
        raise ClipsafeError(f"{path.name}: model id {twins[0]!r} appears more than once; ids must be unique.")
    wanted = {"group": group, "pretrain_source": source, "encoder_family": encoder, "id": id}
    wanted = {column: [w] if isinstance(w, str) else list(w) for column, w in wanted.items() if w}
    for column, patterns in wanted.items():
        values = {getattr(model, column) for model in models}
        if unmatched := [p for p in patterns if not any(_matches(value, [p]) for value in values)]:
            raise unknown(f"{column} to select", unmatched[0], values, hint=f"Zoo: {name}.")
    kept = [m for m in models if all(_matches(getattr(m, column), patterns) for column, patterns in wanted.items())]
    if not kept:
        raise ClipsafeError(f"no model of zoo {str(name)!r} is all of {wanted}; select less at once.")
    return kept


def find_model(id, zoos=("paper", "extended", "sample", "lab")):
    """Look up one model by id in the tables of the package.

    Returns
    -------
    ModelSpec
    """
    known = {model.id: model for zoo in zoos if zoo in available_zoos() for model in load_zoo(zoo)}
    if id not in known:
        raise unknown("model", id, known, hint="See load_zoo('paper') and load_zoo('extended').")
    return known[id]


def zoo_frame(models):
    """One row a model, its facts as columns, indexed by id."""
    rows = [{k: v for k, v in asdict(model).items() if k != "facts"} | model.facts for model in models]
    return pd.DataFrame(rows, columns=None if rows else list(_COLUMNS)).set_index("id")


def _rows(path):
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            rows = yaml.safe_load(path.read_text(encoding="utf-8"))
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes the mark
                rows = list(csv.DictReader(file))
                for row in rows:
                    if None in row or None in row.values():
                        raise ClipsafeError(
                            f"{path.name}: the row of model {row.get('id')!r} has the wrong number of cells."
                        )
    except (UnicodeDecodeError, yaml.YAMLError, csv.Error) as error:
        raise ClipsafeError(f"{path} cannot be read as a model table: {str(error).splitlines()[0]}.") from None
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ClipsafeError(f"{path} must hold a list of models, each with id, group, library and name.")
    return rows


def _spec(row, path):
    row = {column: "" if value is None else value for column, value in row.items()}
    if missing := [column for column in _COLUMNS[:4] if column not in row]:
        raise ClipsafeError(f"{path.name}: no column {missing[0]!r}; a model table needs id, group, library and name.")
    for column in set(row) - set(_COLUMNS):
        if near := difflib.get_close_matches(str(column), set(_COLUMNS) - set(row), n=1, cutoff=0.85):
            raise ClipsafeError(f"{path.name}: column {column!r} looks like {near[0]!r} misspelt; rename it.")
    # An empty cell says nothing, so the default holds.
    known = dict.fromkeys(_COLUMNS[:4], "") | {c: str(row[c]) for c in _COLUMNS if str(row.get(c, "")).strip()}
    for column, number in _NUMBERS.items():
        try:
            known[column] = number(known[column]) if known.get(column) else None
        except ValueError:
            raise ClipsafeError(
                f"{path.name}: {column} of model {known['id']!r} must be a number; got {known[column]!r}."
            ) from None
    files = {column: str(path.parent / known[column]) for column in ("checkpoint", "config") if known.get(column)}
    return ModelSpec(**known | files, facts={column: row[column] for column in row if column not in _COLUMNS})


def _matches(value, patterns):
    return any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)


def distinct(models):
    """The models without further rows of the same weights, as published tables have them (column `distinct`)."""
    return models[models["distinct"].eq(True)] if "distinct" in models else models


def origins(models):
    """The training run that each model comes from, by its facts: models of one run vary together.

    Returns
    -------
    Series
        Model -> its `run`, or that of the model it was fine-tuned from (`init_from`); where these say nothing, the id
        of that model, or its own.
    """
    own = models.index.to_series()
    said = models.reindex(columns=["init_from", "run"]).astype(object).replace("", np.nan)
    start, run = said["init_from"].fillna(own), said["run"].fillna(own)
    return run.where(run.ne(own), start.map(run).fillna(start))


def quantity(size):
    """Number of images that a zoo writes as "400M", "2B" or "24k"; NaN for anything else."""
    match = re.fullmatch(r"([\d.]+)([kMB])", str(size))
    return float(match[1]) * {"k": 1e3, "M": 1e6, "B": 1e9}[match[2]] if match else float("nan")
