"""Parameters of a suite: one flat schema, read from one YAML file, refused where it does not fit.

Keys, meaning and defaults are the fields of `Parameters`; `params/` holds a commented file for each suite. Relative
paths start at the folder of the project, wherever a notebook or a command runs.
"""

import functools
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

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
from clipsafe_utils.protocols import DEFAULT, parse_protocol, with_protocol

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE if (_PACKAGE / "params").is_dir() else Path.cwd()
"""Folder of the project: the checkout, or the working directory where the package is installed away from one."""

STUDY_FACTORS = (
    *("pose", "background", "pattern", "color", "smaller"),
    *("shape", "partial_view", "subcategory", "texture", "larger"),
)
"""The ten factors of the study."""

PROMPT_SETS = (
    *("imagenet_80", "imagenet_7", "single", "name_only", "imagenet_5", "imagenet_30"),
    *("random_words", "satellite", "medical", "text"),
)
"""Those of clipsafe_utils/prompts.yaml."""

ROLES = ("id_set", "shifted_sets", "ood_sets", "cue_conflict_set", "factor_set", "paired_set")
"""Parameters that say which part an image set plays."""

OOD_SCORES = ("msp", "mcm", "max_logit", "energy", "gen", "neg_label", "knn", "mahalanobis", "rmd", "vim")
FITTED_SCORES = OOD_SCORES[6:]
"""Those that are fitted on in-distribution features."""

Factor = Literal[
    *STUDY_FACTORS, "darker", "brighter", "object_blocking", "person_blocking", "style", "multiple_objects"
]
ClassNames = Literal["openai", "openai_unique", "wordnet", "synonyms"]
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


class PromptParameters(_Group):
    """A prompt set with class names of its own."""

    templates: str | list[str] = Field(..., description="name of a prompt set, or templates with {}")
    class_names: ClassNames | None = Field(None, description="class names; default: those of the suite")


class NodeParameters(_Group):
    """What the engines `ray` and `slurm` ask for; one task is one model on all its image sets."""

    gpus_per_task: float | None = Field(
        None, ge=0, description="GPUs a task, for Ray also a fraction; default: 1 if `device` is or finds a GPU, else 0"
    )
    cpus_per_task: int | None = Field(None, ge=1, description="CPU cores a task; default: one, and one for each worker")
    at_once: int | None = Field(None, ge=1, description="tasks handed out at the same time; default: as many as fit")
    retries: int = Field(2, ge=0, description="further attempts for a task whose process or node died")
    executor: Literal["slurm", "local"] = Field(
        "slurm", description="of submitit: `local` runs the same jobs as processes of this machine, to try things out"
    )
    slurm: dict[str, str | int | float | bool] = Field(
        {}, description="further options of submitit, such as {slurm_partition: gpu, timeout_min: 720, mem_gb: 64}"
    )


class Parameters(_Strict):
    """Everything a suite can set; the defaults are those of params/published.yaml."""

    suite: str = Field("published", pattern=r"^\w[\w.-]*$", description="name of the suite and of its output folder")
    outputs: str = Field("outputs", description="folder for results; this suite writes into outputs/SUITE")
    store: str | None = Field(
        None,
        description="folder or fsspec URL (s3://BUCKET/PATH) for what the models said; default: outputs/SUITE/store",
    )
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
    control_sets: list[str] = Field(
        [], description="those of `shifted_sets` without a shift: figures show them, claims about shift leave them out"
    )
    ood_sets: list[str] = Field([], description="sets whose images count as out-of-distribution")
    cue_conflict_set: str | None = Field("cue_conflict", description="set for shape bias; null for none")
    factor_set: str | None = Field(None, description="set with factor annotations; null: the in-distribution set")
    paired_set: str | None = Field(None, description="set of image pairs that differ in one factor; null for none")
    factors: list[Factor] = Field(
        list(STUDY_FACTORS), description="visual factors (ImageNet-X); all: its sixteen", min_length=1
    )
    factor_annotation: Literal["top", "multi"] = Field(
        "top", description="one factor an image (top) or several (multi)"
    )
    protocol: str = Field(
        DEFAULT,
        description="preset of clipsafe_utils/protocols.yaml for the keys that this file leaves out: tu-2023, "
        "mcm-2022, openood-1.5, taori-2020, clip-benchmark",
    )
    prompt_sets: list[str | dict[str, list[str] | PromptParameters]] = Field(
        ["imagenet_80"],
        description="names of prompt sets (clipsafe_utils/prompts.yaml), {name: [templates with {}]} for your own, or "
        "{name: {templates: imagenet_80, class_names: wordnet}} for other class names; the first is the main one",
        min_length=1,
    )
    class_names: ClassNames = Field(
        "openai",
        description="class names for zero-shot heads; openai_unique tells the two pairs of equal names apart, wordnet "
        "and synonyms are the first and the second word that WordNet has for a class",
    )
    logit_scale: float | None = Field(
        None, gt=0, description="factor from cosine to logit of zero-shot models; null: what each was trained with"
    )
    label_space: Literal["subset", "full", "own_names"] = Field(
        "subset",
        description="classes of sets with fewer than the ID set: theirs alone (subset), all (full), or theirs under "
        "their own names in prompts (own_names)",
    )
    crop: Literal["own", "standard"] = Field(
        "own",
        description="images of classifiers: as the checkpoint has it (own), or resized by 8/7 and cut to the centre "
        "(standard: 256 to 224)",
    )
    ood_scores: list[str] = Field(
        ["msp", "max_logit", "energy"],
        description="scores for OOD detection: msp, max_logit, energy (energy_tN at temperature N), gen; mcm and "
        "neg_label of zero-shot models; knn (knn_kN for neighbour N), mahalanobis, rmd and vim, which are fitted on "
        "the share `calibration_fraction` of the ID set and judged on the rest",
        min_length=1,
    )
    features: bool = Field(
        False,
        description="keep the features before the head of classifiers beside their logits, which knn, mahalanobis, rmd "
        "and vim need: 4 bytes x width (some 2,000) an image more",
    )
    near_ood_sets: list[str] = Field(
        [], description="those of `ood_sets` whose images are most like the in-distribution ones; the rest is far"
    )
    fpr_positive: Literal["id", "ood"] = Field(
        "id", description="positive class of the false-positive rate that figures show; tables hold both"
    )
    n_bins: int = Field(15, ge=1, description="bins of the calibration error")
    calibration_fraction: Fraction = Field(0.5, description="share of the ID set that temperatures are fitted on")
    ci_level: Fraction = Field(0.95, description="level of all intervals")
    n_bootstrap: int = Field(1000, ge=1, description="bootstrap resamples")
    line_scale: Literal["probit", "logit", "linear"] = Field("probit", description="axes of accuracy-on-accuracy lines")
    baseline_group: str = Field("standard", description="group whose models define the baseline line")
    seed: int = Field(0, ge=0, description="seed of every split and resample")
    gate_tolerance: float = Field(
        0.5,
        ge=0,
        description="percentage points that a model's ImageNet accuracy may differ from the published one; beyond, it "
        "is quarantined (only where id_set is the whole validation set)",
    )
    admit: list[str] = Field([], description="ids of models to let in although their accuracy is not the published one")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    precision: Literal["float32", "bf16", "fp16"] = Field(
        "float32", description="arithmetic of inference; bf16 and fp16 are autocast"
    )
    batch_size: int = Field(64, ge=1, description="images a forward pass")
    models_per_pass: int = Field(4, ge=1, description="models that look at the same decoded images at once")
    workers: int = Field(2, ge=0, description="processes that read images")
    engine: Literal["local", "ray", "slurm"] = Field(
        "local", description="where models run: this machine, a Ray cluster, or SLURM jobs (docs/cluster.md)"
    )
    nodes: NodeParameters = Field(NodeParameters(), description="what the engines ray and slurm ask for")
    keep: Literal["embeddings", "scores"] = Field(
        "embeddings",
        description="what stays on disk: all that models said, or only what the sections asked of it (docs/cluster.md)",
    )

    @field_validator("factors", mode="before")
    @classmethod
    def _all_factors(cls, factors):
        return list(get_args(Factor)) if factors == "all" else factors

    @field_validator("factors", "ood_scores", "shifted_sets", "control_sets", "ood_sets", "near_ood_sets")
    @classmethod
    def _unique(cls, names):
        if twins := [name for name in names if names.count(name) > 1]:
            raise ClipsafeError(f"{twins[0]!r} is listed twice; remove one.")
        return names

    @field_validator("ood_scores")
    @classmethod
    def _known_scores(cls, scores):
        for score in scores:
            if score not in OOD_SCORES and not re.fullmatch(r"energy_t\d+(\.\d+)?|knn_k[1-9]\d*", score):
                raise unknown("OOD score", score, [*OOD_SCORES, "energy_t2", "knn_k50"])
        if all(score.partition("_")[0] in FITTED_SCORES for score in scores):
            raise ClipsafeError("all of them are fitted; add one that is not, such as msp, to compare them with.")
        return scores

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, protocol):
        parse_protocol(protocol)
        return protocol

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
                for name, given in entry.items():
                    _check_own_prompts(name, given)
            names += [entry] if isinstance(entry, str) else list(entry) if isinstance(entry, dict) else []
        if twins := [name for name in names if names.count(name) > 1]:
            raise ClipsafeError(f"prompt set {twins[0]!r} is listed twice; remove one.")
        return sets

    @model_validator(mode="after")
    def _sets_are_described(self):
        """With images at hand, a name that no image set has is a typing mistake, not a set without results."""
        given = [getattr(self, role) for role in ROLES if role in self.model_fields_set]
        named = [name for value in given for name in (value if isinstance(value, list) else [value])]
        for name in named if self.image_sets else []:
            if name is not None and name not in self.image_sets:
                raise unknown("image set", name, self.image_sets, hint="Describe it under image_sets.")
        for name in self.control_sets:
            if name not in (known := [*self.shifted_sets, *self.image_sets]):
                hint = "Control sets are some of shifted_sets or image_sets."
                raise unknown("control set", name, known, hint=hint)
        for name in self.near_ood_sets:
            if name not in self.ood_sets:
                raise unknown("near OOD set", name, self.ood_sets, hint="Near sets are some of ood_sets.")
        return self

    def path(self, key):
        """Absolute path of one of the folders `outputs`, `published`, `data`, `checkpoints`."""
        return resolve(getattr(self, key))

    @property
    def folder(self):
        """Folder that this suite writes into."""
        return self.path("outputs") / self.suite

    @property
    def store_path(self):
        """Where the store is: an absolute path, or an URL."""
        if self.store is None:
            return str(self.folder / "store")
        return self.store if "://" in self.store else str(resolve(self.store))

    @property
    def prompts(self):
        """Name of each prompt set -> name of its templates, or the templates themselves; both suit `load_templates`."""
        return {name: getattr(given, "templates", given) for name, given in self._named_prompts.items()}

    @property
    def prompt_names(self):
        """Name of each prompt set -> its list of class names."""
        own = {name: getattr(given, "class_names", None) for name, given in self._named_prompts.items()}
        return {name: names or self.class_names for name, names in own.items()}

    @property
    def _named_prompts(self):
        named = [{entry: entry} if isinstance(entry, str) else entry for entry in self.prompt_sets]
        return {name: given for entry in named for name, given in entry.items()}

    def image_root(self, name):
        """Absolute folder of one of `image_sets`."""
        return self.path("data") / (self.image_sets[name].root or name)


def _check_own_prompts(name, given):
    """Refuse a prompt set of the user's own that is not one; what is wrong is said better here than by its type."""
    templates = given
    if isinstance(given, dict):
        templates = given.get("templates")
        if stray := sorted(given.keys() - PromptParameters.model_fields.keys()):
            raise unknown(f"key of prompt set {name!r}", stray[0], PromptParameters.model_fields)
        if (names := given.get("class_names")) is not None and names not in get_args(ClassNames):
            raise unknown("class-name list", names, get_args(ClassNames))
        if isinstance(templates, str) and templates not in PROMPT_SETS:
            raise unknown("prompt set", templates, PROMPT_SETS)
        if isinstance(templates, str):
            return
    if not isinstance(templates, list) or not templates:
        raise ClipsafeError(f"prompt set {name!r} needs a list of templates such as 'a photo of a {{}}.'.")
    if without := [t for t in templates if not isinstance(t, str) or t.count("{}") != 1]:
        raise ClipsafeError(f"template {without[0]!r} of {name!r} needs exactly one {{}} for the class name.")


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
        Keys that the file leaves out are those of its `protocol`, else the schema's defaults; `suite` is then the name
        of the file.

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
    values |= overrides or {}
    return validated({"suite": found.stem} | _under_protocol(values, values, path), path)


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
    """The parameters that a notebook's namespace holds, for instance ``parameters_from(globals())``.

    A `protocol` other than the default sets those that have a default value, the schema's or the cell's, unless it
    names them after "but".
    """
    fields, cells = Parameters.model_fields, _cell_values()
    values = {key: namespace[key] for key in fields if key in namespace}
    chosen = [key for key in values if values[key] not in (fields[key].default, cells.get(key))]
    return validated(_under_protocol(values, chosen, origin), origin)


@functools.cache
def _cell_values():
    """What the parameters cells of the notebooks hold: the suite `lab`."""
    path = ROOT / "params" / "lab.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _under_protocol(values, given, origin):
    try:
        return with_protocol(values, given)
    except ClipsafeError as error:
        raise ClipsafeError(f"{origin}: protocol = {values['protocol']!r}: {error}") from None


def _explain(errors, origin):
    """One line: where, which key, what was given, what would work."""
    error = errors[0]
    key, value = ".".join(map(str, error["loc"])), error["input"]
    where = f"{origin}: {key} = {value!r}: " if key else f"{origin}: "
    if error["type"] == "extra_forbidden":
        groups = {"select": Selection, "nodes": NodeParameters, "image_sets": ImageSetParameters}
        model = groups[error["loc"][0]] if len(error["loc"]) > 1 else Parameters
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
