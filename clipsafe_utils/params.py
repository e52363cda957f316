"""Parameters of a suite: one flat schema, read from one YAML file, refused where it does not fit.

Keys, meaning and defaults are the fields of `Parameters`; `params/` holds a commented file for each suite. Relative
paths start at the folder of the project, wherever a notebook or a command runs.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from clipsafe_utils.errors import ClipsafeError, unknown

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE if (_PACKAGE / "params").is_dir() else Path.cwd()
"""Folder of the project: the checkout, or the working directory where the package is installed away from one."""

STUDY_FACTORS = (
    *("pose", "background", "pattern", "color", "smaller"),
    *("shape", "partial_view", "subcategory", "texture", "larger"),
)
"""The ten factors of the study."""

PROMPT_SETS = ("imagenet_80", "imagenet_7", "single", "name_only")
OOD_SCORES = ("msp", "mcm", "max_logit", "energy")

Factor = Literal[
    *STUDY_FACTORS, "darker", "brighter", "object_blocking", "person_blocking", "style", "multiple_objects"
]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Group(_Strict):
    """Nested keys; written out, it names only those that were set."""

    @model_serializer(mode="wrap")
    def _set_ones(self, write):
        fields = type(self).model_fields
        return {key: value for key, value in write(self).items() if value != fields[key].default}


class Selection(_Group):
    """Which models of the zoo to keep; an empty list keeps all."""

    group: list[str] = Field([], description="groups, for example zero_shot_clip")
    source: list[str] = Field([], description="pre-training sources, for example laion")
    encoder: list[str] = Field([], description="encoder families, for example vit")
    id: list[str] = Field([], description="shell patterns of ids, for example vit-b-*")


class ImageSetParameters(_Group):
    """Where one image set lies and how to read it."""

    root: str | None = Field(None, description="folder under `data`, or an absolute one; default: the set's name")
    kind: str | None = Field(
        None, description="`folder` reads any folder of images; default: the known set of that name"
    )
    labels: str | None = Field(None, description="file with labels, for sets that are not sorted into folders")
    partial: bool = Field(False, description="admit a sample of a known set")
    is_ood: bool | None = Field(None, description="whether the images are out-of-distribution; default: as known")


class Parameters(_Strict):
    """Everything a suite can set; the defaults are those of params/published.yaml."""

    suite: str = Field("published", pattern=r"^\w[\w.-]*$", description="name of the suite and of its output folder")
    outputs: str = Field("outputs", description="folder for results; this suite writes into outputs/SUITE")
    published: str = Field(
        "../shared/published", description="folder with published results; a file missing there is downloaded once"
    )
    data: str = Field("data", description="folder that holds the image sets")
    checkpoints: str = Field("checkpoints", description="folder with checkpoints given by file name")
    zoo: str = Field("paper", description="models: paper, extended, sample, or the path of a CSV or YAML table")
    select: Selection = Field(Selection(), description="keep models by group, source, encoder or id; empty keeps all")
    image_sets: dict[str, ImageSetParameters] = Field(
        {}, description="image sets that are there, by name; without any, published results alone are used"
    )
    id_set: str = Field("imagenet_val", description="the in-distribution set")
    shifted_sets: list[str] = Field(
        ["imagenet_v2_matched_frequency", "imagenet_a", "imagenet_r", "imagenet_sketch"],
        description="test sets under distribution shift",
    )
    ood_sets: list[str] = Field([], description="sets whose images count as out-of-distribution")
    cue_conflict_set: str | None = Field("cue_conflict", description="set for shape bias; null for none")
    factor_set: str | None = Field(None, description="set with factor annotations; null: the in-distribution set")
    paired_set: str | None = Field(None, description="set of image pairs that differ in one factor; null for none")
    factors: list[Factor] = Field(list(STUDY_FACTORS), description="visual factors (ImageNet-X)", min_length=1)
    factor_annotation: Literal["top", "multi"] = Field(
        "top", description="one factor an image (top) or several (multi)"
    )
    prompt_sets: list[str | dict[str, list[str]]] = Field(
        ["imagenet_80"],
        description="names of prompt sets, or {name: [templates with {}]} for your own; the first is the main one",
        min_length=1,
    )
    class_names: Literal["openai", "openai_unique"] = Field(
        "openai", description="class names for zero-shot heads; openai_unique tells the two pairs of equal names apart"
    )
    ood_scores: list[str] = Field(
        ["msp", "max_logit", "energy"],
        description="scores for OOD detection: msp, mcm, max_logit, energy, or energy_tN at temperature N",
        min_length=1,
    )
    n_bins: int = Field(15, ge=1, description="bins of the calibration error")
    calibration_fraction: Fraction = Field(0.5, description="share of the ID set that temperatures are fitted on")
    ci_level: Fraction = Field(0.95, description="level of all intervals")
    n_bootstrap: int = Field(1000, ge=1, description="bootstrap resamples")
    line_scale: Literal["probit", "logit", "linear"] = Field("probit", description="axes of accuracy-on-accuracy lines")
    baseline_group: str = Field("standard", description="group whose models define the baseline line")
    seed: int = Field(0, ge=0, description="seed of every split and resample")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    precision: Literal["float32", "bf16", "fp16"] = Field(
        "float32", description="arithmetic of inference; bf16 and fp16 are autocast"
    )
    batch_size: int = Field(64, ge=1, description="images a forward pass")
    models_per_pass: int = Field(4, ge=1, description="models that look at the same decoded images at once")
    workers: int = Field(2, ge=0, description="processes that read images")

    @field_validator("factors", "ood_scores", "shifted_sets", "ood_sets")
    @classmethod
    def _unique(cls, names):
        if twins := [name for name in names if names.count(name) > 1]:
            raise ClipsafeError(f"{twins[0]!r} is listed twice; remove one.")
        return names

    @field_validator("ood_scores")
    @classmethod
    def _known_scores(cls, scores):
        for score in scores:
            if score not in OOD_SCORES and not re.fullmatch(r"energy_t\d+(\.\d+)?", score):
                raise unknown("OOD score", score, [*OOD_SCORES, "energy_t2"])
        return scores

    @field_validator("device")
    @classmethod
    def _known_device(cls, device):
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise unknown("device", device, ["auto", "cpu", "cuda", "cuda:0", "mps"])
        return device

    @field_validator("prompt_sets", mode="before")
    @classmethod
    def _known_prompts(cls, sets, info: ValidationInfo):
        names = []
        for entry in sets if isinstance(sets, list) else []:
            if isinstance(entry, str) and entry not in PROMPT_SETS:
                raise unknown("prompt set", entry, PROMPT_SETS, hint="Write your own as {name: [templates with {}]}.")
            if isinstance(entry, dict):
                for name, templates in entry.items():
                    if not isinstance(templates, list) or not templates:
                        raise ClipsafeError(
                            f"prompt set {name!r} needs a list of templates such as 'a photo of a {{}}.'."
                        )
                    if without := [t for t in templates if not isinstance(t, str) or t.count("{}") != 1]:
                        raise ClipsafeError(
                            f"template {without[0]!r} of {name!r} needs exactly one {{}} for the class name."
                        )
            names += [entry] if isinstance(entry, str) else list(entry) if isinstance(entry, dict) else []
        if twins := [name for name in names if names.count(name) > 1]:
            raise ClipsafeError(f"prompt set {twins[0]!r} is listed twice; remove one.")
        return sets

    @model_validator(mode="after")
    def _sets_are_described(self):
        """With images at hand, a name that no image set has is a typing mistake, not a set without results."""
        roles = ("id_set", "shifted_sets", "ood_sets", "cue_conflict_set", "factor_set", "paired_set")
        given = [getattr(self, role) for role in roles if role in self.model_fields_set]
        named = [name for value in given for name in (value if isinstance(value, list) else [value])]
        for name in named if self.image_sets else []:
            if name is not None and name not in self.image_sets:
                raise unknown("image set", name, self.image_sets, hint="Describe it under image_sets.")
        return self

    def path(self, key):
        """Absolute path of one of the folders `outputs`, `published`, `data`, `checkpoints`."""
        return resolve(getattr(self, key))

    @property
    def folder(self):
        """Folder that this suite writes into."""
        return self.path("outputs") / self.suite

    @property
    def prompts(self):
        """Name of each prompt set -> that name, or the templates of the user's own; either suits `load_templates`."""
        named = [{entry: entry} if isinstance(entry, str) else entry for entry in self.prompt_sets]
        return {name: templates for entry in named for name, templates in entry.items()}

    def image_root(self, name):
        """Absolute folder of one of `image_sets`."""
        return self.path("data") / (self.image_sets[name].root or name)


def resolve(path):
    """Absolute path; a relative one starts at the folder of the project."""
    return (ROOT / Path(path).expanduser()).resolve()


def load_parameters(path, overrides=None):
    """Read the parameter file of a suite.

    Parameters
    ----------
    path : str or Path
        YAML file; a relative path starts at the working directory or at the folder of the project.
    overrides : dict, optional
        Values that replace those of the file.

    Returns
    -------
    Parameters
        Keys that the file leaves out have the schema's defaults; `suite` is then the name of the file.

    Raises
    ------
    ClipsafeError
        Missing file, broken YAML, a key given twice, an unknown key, a wrong type or value.
    """
    path = Path(path).expanduser()
    found = path if path.is_file() else resolve(path)
    if not found.is_file():
        options = [f"params/{p.name}" for p in sorted((ROOT / "params").glob("*.yaml"))]
        raise unknown("parameter file", path, options)
    try:
        values = yaml.load(found.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ClipsafeError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ClipsafeError(f"{path} must hold lines of the form `key: value`; got {values!r}.")
    return validated({"suite": found.stem} | values | (overrides or {}), path)


def validated(values, origin):
    """Check values against the schema.

    Parameters
    ----------
    values : dict
        Parameter -> value.
    origin : str or Path
        Where they come from, for the error.

    Returns
    -------
    Parameters

    Raises
    ------
    ClipsafeError
        Names origin, key, value and the nearest valid name.
    """
    try:
        return Parameters.model_validate(values)
    except ValidationError as error:
        raise ClipsafeError(_explain(error.errors(), origin)) from None


def parameters_from(namespace, origin="parameters cell"):
    """The parameters that a notebook's namespace holds, for instance ``parameters_from(globals())``."""
    return validated({key: namespace[key] for key in Parameters.model_fields if key in namespace}, origin)


def _explain(errors, origin):
    """One line: where, which key, what was given, what would work."""
    error = errors[0]
    key, value = ".".join(map(str, error["loc"])), error["input"]
    where = f"{origin}: {key} = {value!r}: " if key else f"{origin}: "
    if error["type"] == "extra_forbidden":
        model = {1: Parameters, 2: Selection}.get(len(error["loc"]), ImageSetParameters)
        reason = unknown("parameter", error["loc"][-1], model.model_fields)
    elif error["type"] == "literal_error":
        reason = unknown("value", value, re.findall(r"'([^']+)'", error["ctx"]["expected"]))
    elif error["type"] == "value_error":
        reason = error["ctx"]["error"]
    else:
        reason = error["msg"].replace("Input should be", "it should be") + "."
        if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value, re.IGNORECASE):
            reason += " Write numbers without quotes, and 1e-4 as 1.0e-4: YAML reads 1e-4 as text."
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}{reason}{more}"


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice: plain YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if twins := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key {twins[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)
