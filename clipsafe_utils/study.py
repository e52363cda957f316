"""A study in a notebook: its parameters, models, image sets and store, and where its results go."""

import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from clipsafe_utils.content import file_digest, whole_file
from clipsafe_utils.datasets import imagenet_space, load_images
from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.gate import complete_set, golden_numbers
from clipsafe_utils.memory import Memory
from clipsafe_utils.params import ROLES, Parameters, parameters_from
from clipsafe_utils.prompts import class_names, load_templates
from clipsafe_utils.protocols import DEFAULT, deviations, parse_protocol
from clipsafe_utils.published import published_models, published_table
from clipsafe_utils.published.files import FILES, published_file
from clipsafe_utils.store import Store
from clipsafe_utils.table import save_table, tidy
from clipsafe_utils.zoo import load_zoo, zoo_frame


class Study:
    """What a section works with.

    Parameters
    ----------
    parameters : Parameters or dict
        A suite's parameters, or the namespace of a notebook: ``Study(globals())``.

    Attributes
    ----------
    images : dict of str to ImageSet
        The image sets that are there.
    missing : dict of str to str
        What the suite names but cannot provide -> why, and how to provide it.
    """

    def __init__(self, parameters):
        given = isinstance(parameters, dict)
        self._declared = set(Parameters.model_fields) & parameters.keys() if given else None
        self.parameters = _Recorder(parameters_from(parameters) if given else parameters)
        self.folder = self.parameters.folder
        self.images, self.missing = {}, {}
        self._units, self._heads, self._evaluated, self._saved = {}, {}, set(), []
        self.told, self._models_missing = set(), set()
        self.memory = Memory()
        self.collected = None  # answers by unit and question, where they are written down
        for name, entry in self.parameters.image_sets.items():
            try:
                self.images[name] = load_images(
                    name,
                    self.parameters.image_root(name),
                    kind=entry.kind,
                    labels=entry.labels,
                    partial=entry.partial,
                    is_ood=entry.is_ood,
                )
            except ClipsafeError as error:
                self.missing[name] = str(error)

    def __repr__(self):
        return f"Study({self.parameters.suite!r}: {len(self.specs)} models, {len(self.images)} image sets)"

    @property
    def is_published(self):
        """Whether results come from what others published instead of images and models."""
        return not self.parameters.image_sets

    @cached_property
    def specs(self):
        """The selected models, none where no image set was named."""
        if self.is_published:
            return []
        return load_zoo(self.parameters.zoo, **self.parameters.select.model_dump())

    @cached_property
    def store(self):
        return Store(self.parameters.store_path)

    @property
    def published_folder(self):
        """Folder with published results: CLIPSAFE_PUBLISHED if set, else the parameter."""
        return Path(os.environ.get("CLIPSAFE_PUBLISHED") or self.parameters.path("published"))

    @cached_property
    def published(self):
        """Published results as (tidy table, quarantined rows)."""
        p = self.parameters
        return published_table(self.published_folder, level=p.ci_level, n_bins=p.n_bins)

    @cached_property
    def models(self):
        """Facts about the models of this suite: one row each, indexed by id."""
        if not self.is_published:
            return zoo_frame(self.specs)
        models = published_models(self.published_folder).set_index("model")
        return models.rename(columns={"source": "pretrain_source", "encoder": "encoder_family"})

    @cached_property
    def adapters(self):
        """Model id -> model, weights not yet loaded."""
        from clipsafe_utils.models import load_model

        p = self.parameters
        device = p.device if p.engine == "local" else "auto"  # this machine only hands out tasks
        adapters = {}
        for spec in self.specs:
            if not spec.is_zero_shot and spec.outputs != self.id_space.outputs:
                self.missing[spec.id] = (
                    f"its outputs are those of {spec.outputs!r}, and the classes of {p.id_set} are others "
                    f"({self.id_space.outputs or 'named by its folders'}): only zero-shot models can be asked for them."
                )
                continue
            try:
                adapters[spec.id] = load_model(
                    spec,
                    device=device,
                    precision=p.precision,
                    checkpoints=p.path("checkpoints"),
                    crop=p.crop,
                    features=p.features,
                )
            except ClipsafeError as error:
                self._miss_model(spec.id, error)
        return adapters

    def inputs(self):
        """What this suite reads, by content or by size and time: equal inputs and equal code give equal results.

        Returns
        -------
        dict
            JSON-serialisable; no network is loaded for it.
        """
        p = self.parameters
        published = [published_file(path, self.published_folder) for path in FILES.index] if self.is_published else []
        weights = [Path(file) for spec in self.specs for file in (spec.checkpoint, spec.config) if file]
        weights += sorted(p.path("checkpoints").glob("*")) if self.specs else []
        return {
            "images": {name: images.manifest() for name, images in self.images.items()} | self.missing,
            "models": self.models.to_csv() if self.specs else "",
            "checkpoints": [(str(path), *_stamp(path)) for path in weights],
            "published": [file_digest(path) for path in published],
        }

    def named(self, *names):
        """Those of the named image sets that are there; the others are noted in `missing`.

        Parameters
        ----------
        *names : str or None

        Returns
        -------
        list of str
        """
        for name in filter(None, names):
            if not self.is_published and name not in self.images and name not in self.missing:
                self.missing[name] = "not described under image_sets of the parameter file: add it there with its root."
        return [name for name in names if name in self.images]

    def playing(self, keys):
        """Names of the image sets that play a part, of those parts that `keys` names; each once.

        Parameters
        ----------
        keys : iterable of str
            Parameters, for example those that a notebook declares.
        """
        values = [getattr(self.parameters, role) for role in ROLES if role in keys]
        names = [name for value in values for name in (value if isinstance(value, list) else [value])]
        return [name for name in dict.fromkeys(names) if name in self.images]

    @property
    def in_play(self):
        """Names of the image sets that play a part in this notebook; in the suite, where no notebook is run."""
        return self.playing(ROLES if self._declared is None else self._declared)

    def evaluate(self, *names):
        """Make sure that every model has looked at these image sets; computes only what the store lacks.

        Returns
        -------
        list of str
            Ids of the models that have a unit for every one of them, without those in quarantine.
        """
        self._compute(*names, complete_set(self))  # at once, so that each model is loaded once
        found = [model for model in self.adapters if all((model, name) in self._units for name in names)]
        return [model for model in found if model not in self.quarantined]

    @cached_property
    def quarantined(self):
        """Ids of the models that contradict their published accuracy, each with the numbers in `missing`."""
        for model in self.parameters.admit:
            if model not in (ids := [spec.id for spec in self.specs]):
                raise unknown("model to admit", model, ids)
        numbers = golden_numbers(self)
        numbers = numbers[numbers["verdict"] == "quarantined"]
        self.missing |= dict(zip(numbers["model"], numbers["why"], strict=True))
        return frozenset(numbers["model"])

    def look_again(self, models):
        """Run models on all image sets though their units are there: what was kept of them does not suffice."""
        self._compute(*self.images, again=models)

    def _compute(self, *names, again=()):
        from clipsafe_utils import engine

        p = self.parameters
        wanted = [name for name in dict.fromkeys(filter(None, names)) if again or name not in self._evaluated]
        if wanted and (p.engine != "local" or p.keep == "scores"):  # then a task is a model on all its sets
            wanted = [name for name in self.images if again or name not in self._evaluated]
        if not wanted:
            return
        units = engine.run(self, wanted, again)
        for (model, _), unit in units.items():
            if isinstance(unit, ClipsafeError):
                self._miss_model(model, unit)
        self._evaluated.update(wanted)
        self._units |= {pair: unit for pair, unit in units.items() if not isinstance(unit, ClipsafeError)}

    @property
    def wanted_heads(self):
        """Class names and templates of the zero-shot heads that the suite is sure to need."""
        if not any(spec.is_zero_shot for spec in self.specs):
            return []
        return [(self.class_names(self.id_space, prompts), given) for prompts, given in self.prompt_sets.items()]

    def _miss_model(self, model, error):
        self.missing[model] = str(error)
        self._models_missing.add(model)

    def unit(self, model, name):
        """The unit of a model and an image set; evaluated if need be."""
        if (model, name) not in self._units:
            self._compute(name)
        if (model, name) not in self._units:
            raise ClipsafeError(f"model {model!r} has no results for {name!r}: {self.missing.get(model, 'unknown')}")
        return self._units[model, name]

    @cached_property
    def prompt_sets(self):
        """Name -> templates, the main set first."""
        return {name: load_templates(given) for name, given in self.parameters.prompts.items()}

    @property
    def main_prompts(self):
        return next(iter(self.parameters.prompts))

    def class_names(self, space, prompts=None):
        """What the classes of a space are called in a prompt set, the main one by default: a tuple of str."""
        return class_names(space, self.parameters.prompt_names[prompts or self.main_prompts])

    def space(self, name):
        """Label space that an image set is judged in: its own if it shares the outputs of the ID set's, else that.

        With `label_space: full`, the classes that only the ID set has come after its own.
        """
        own = self.images[name].space
        if not len(own) or own.outputs != self.id_space.outputs:
            return self.id_space
        return own.widened(self.id_space) if self.parameters.label_space == "full" else own

    @property
    def id_space(self):
        """Label space of the in-distribution set; ImageNet-1k where that set is missing."""
        images = self.images.get(self.parameters.id_set)
        return images.space if images else imagenet_space()

    def is_zero_shot(self, model):
        return self.adapters[model].spec.is_zero_shot

    def protocol(self, model, prompts=None):
        """How a model was made to classify, for the `protocol` column: "prompts imagenet_80", "classifier head".

        A protocol other than the default is named behind it: "prompts photo, mcm-2022".
        """
        how = f"prompts {prompts or self.main_prompts}" if self.is_zero_shot(model) else "classifier head"
        return how + self.protocol_suffix

    @property
    def protocol_suffix(self):
        """What tells rows of another protocol than the default apart: ", mcm-2022 but n_bins"."""
        protocol = self.parameters.protocol
        return "" if parse_protocol(protocol)[0] == DEFAULT else f", {protocol}"

    def outputs(self, model, name, *, prompts=None, space=None, cosines=False):
        """What a model says of an image set, in a label space.

        Parameters
        ----------
        model, name : str
            Model id and image set.
        prompts : str, optional
            Prompt set of zero-shot models; the main one by default.
        space : LabelSpace, optional
            By default the set's own, see `space`.
        cosines : bool, default False
            Plain cosines of zero-shot models instead of logits, which are at `logit_scale`, or at the scale and bias
            that the model was trained with.

        Returns
        -------
        ndarray of float32, shape (n, n_classes)
        """
        space = space or self.space(name)
        unit = self.unit(model, name)
        if unit.kind == "logits":
            return space.reduce(unit.array)
        p = self.parameters
        if p.label_space == "own_names":
            space = space.by_name()
        head = self.head(model, prompts or self.main_prompts, self.class_names(space, prompts))
        array = np.asarray(unit.array)
        scores = array @ head["weights"].T / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
        if not cosines:
            scale, bias = self._scale_and_bias(head)
            scores = scores * scale + bias
        return space.reduce(scores.astype(np.float32, copy=False))

    def _scale_and_bias(self, head):
        scale = self.parameters.logit_scale
        return (head["logit_scale"], head["logit_bias"]) if scale is None else (np.float32(scale), 0)

    def features(self, model, name):
        """What a model's classification is linear in: image embeddings of unit length, or what a head is applied to.

        Returns
        -------
        ndarray of float32, shape (n, width), or None
            None where the units of a classifier were made without (parameter `features`).
        """
        unit = self.unit(model, name)
        if unit.kind == "logits":
            return unit.features
        array = np.asarray(unit.array)
        return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)

    def linear_head(self, model, prompts=None):
        """What makes logits of `features`: dict with weights (n_outputs, width) and bias (n_outputs,).

        Of zero-shot models in the classes of the in-distribution set.
        """
        if self.is_zero_shot(model):
            names = self.class_names(self.id_space, prompts)
            head = self.head(model, prompts or self.main_prompts, names)
            scale, bias = self._scale_and_bias(head)
            return {"weights": head["weights"] * scale, "bias": np.full(len(names), bias, np.float32)}
        adapter = self.adapters[model]
        head = self.store.head({"model": adapter.identity, "head": "its own"}, lambda: adapter.linear_head)
        adapter.release()
        return head

    def ask(self, question, model, name, *, prompts=None, space=None, cosines=False, **arguments):
        """Ask something of a model's outputs: the way in which sections look at them. What was asked is remembered.

        Parameters
        ----------
        question : callable
            Function of a module: question(outputs, labels, **arguments), an array or a tuple of arrays.
        model, name, prompts, space, cosines
            As in `outputs`.
        **arguments
            JSON-serialisable.

        Returns
        -------
        ndarray or tuple of ndarray
            Read-only. With `keep: scores`, what was answered when the outputs were there.
        """
        space = space or self.space(name)
        asked = {"question": f"{question.__module__}.{question.__qualname__}", "arguments": arguments}
        identity = asked | {"cosines": cosines} | self.output_identity(model, space, prompts)

        def compute():
            outputs = self.outputs(model, name, prompts=prompts, space=space, cosines=cosines)
            return question(outputs, self.unit(model, name).labels, **arguments)

        return self.answer(model, name, identity, compute)

    def output_identity(self, model, space, prompts=None):
        """What decides a model's outputs beside the unit, as a JSON-serialisable dict."""
        p, classes = self.parameters, {"space": [space.outputs, space.names, space.members]}
        if not self.is_zero_shot(model):
            return classes
        prompts = prompts or self.main_prompts
        templates = list(self.prompt_sets[prompts])
        how = {"class_names": p.prompt_names[prompts], "label_space": p.label_space, "logit_scale": p.logit_scale}
        return classes | {"templates": templates} | how

    def answer(self, model, name, identity, compute):
        """What `compute` says of a model's outputs on an image set, or said when they were there (`keep: scores`).

        Parameters
        ----------
        model, name : str
        identity : dict
            What decides the answer beside the unit; JSON-serialisable.
        compute : callable
            Returns an array or a tuple of arrays.
        """
        from clipsafe_utils.answers import answer

        return answer(self, model, name, identity, compute)

    def head(self, model, prompts, names):
        """Zero-shot head of a model: dict with weights (n_classes, width), logit_scale, logit_bias.

        Classes that are some of the in-distribution set's are rows of its head. `prompts` names a prompt set of the
        suite, or is a tuple of templates.
        """
        from clipsafe_utils.inference import stored_head

        adapter = self.adapters[model]
        named = isinstance(prompts, str)
        templates = self.prompt_sets[prompts] if named else prompts
        whole = self.class_names(self.id_space, prompts if named else None)
        if len(names) < len(whole) and set(names) <= set(whole):
            head = self.head(model, prompts, whole)
            return head | {"weights": head["weights"][[whole.index(name) for name in names]]}
        key = model, tuple(names), tuple(templates)
        if key not in self._heads:
            self._heads[key] = stored_head(adapter, names, templates, self.store)
            adapter.release()
        return self._heads[key]

    def unreadable(self):
        """Images that could not be read, one row a model and image: model, image_set, image_id, error."""
        rows = [
            {"model": model, "image_set": name} | failure
            for (model, name), unit in self._units.items()
            for failure in unit.failed
        ]
        return pd.DataFrame(rows, columns=["model", "image_set", "image_id", "error"])

    def notes(self):
        """What is missing and how to provide it: a frame of name and remedy."""
        return pd.DataFrame(sorted(self.missing.items()), columns=["missing", "why, and what would help"])

    def table(self, rows):
        """Rows with the suite's name, in the tidy schema."""
        return tidy([{"suite": self.parameters.suite} | row for row in rows])

    def save(self, table, name):
        """Write a result table to outputs/SUITE/tables as Parquet and CSV; returns the table."""
        path = self.folder / "tables" / name
        if len(table):
            self._saved += [f"tables/{name}.parquet", f"tables/{name}.csv"]
            return save_table(table, path)
        for suffix in (".parquet", ".csv"):  # what an earlier run left is not this run's result
            path.with_suffix(suffix).unlink(missing_ok=True)
        return table

    def save_figure(self, figure, name):
        """Write a figure to outputs/SUITE/figures as SVG and PNG; returns the path of the PNG."""
        path = self.folder / "figures" / name
        self._saved += [f"figures/{name}.png", f"figures/{name}.svg"]
        for suffix, metadata in (("svg", {"Date": None}), ("png", None)):
            with whole_file(path.with_suffix(f".{suffix}")) as temporary:
                figure.savefig(temporary, format=suffix, dpi=144, bbox_inches="tight", metadata=metadata)
        return path.with_suffix(".png")

    def finish(self, notebook):
        """Write what a notebook's results were made of to outputs/SUITE/provenance.

        Raises
        ------
        ClipsafeError
            The notebook used a parameter that its parameters cell does not declare: a suite could not set it.
        """
        if self._declared is not None and (hidden := sorted(self.parameters.used - self._declared)):
            raise ClipsafeError(f"{notebook} uses {hidden}; declare them in its cell tagged `parameters`.")
        columns = ("key", "n", "seconds")
        units = [
            {"model": model, "image_set": name} | {c: {"key": unit.key, **unit.record}[c] for c in columns}
            for (model, name), unit in sorted(self._units.items())
        ]
        record = {
            "parameters_used": sorted(self.parameters.used),
            "parameters": self.parameters.values(),
            "not_as_the_protocol": deviations(self.parameters.values()),
            "files": self._saved,
            "units": units,
            "unreadable_images": self.unreadable().to_dict("records"),
            "not_available": self.notes().to_dict("records"),
            "models_not_available": sorted(self._models_missing),
        }
        with whole_file(self.folder / "provenance" / f"{notebook}.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1))


def _stamp(path):
    status = path.stat() if path.exists() else None
    return (status.st_size, status.st_mtime_ns) if status else ()


class _Recorder:
    """Parameters that remember which of them were read."""

    def __init__(self, parameters):
        self._parameters, self.used = parameters, set()

    def __getattr__(self, name):
        derived = {
            **{"folder": {"outputs", "suite"}, "store_path": {"store", "outputs", "suite"}},
            **{"image_root": {"data"}, "prompts": {"prompt_sets"}},
            "prompt_names": {"prompt_sets", "class_names"},
        }
        self.used |= derived.get(name, {name})
        return getattr(self._parameters, name)

    def path(self, key):
        self.used.add(key)
        return self._parameters.path(key)

    def changed(self, **values):
        """The same with other values, read unrecorded."""
        return _Recorder(self._parameters.model_copy(update=values))

    def given(self):
        """Those that were given, as plain values, for another machine; the others follow there as they did here."""
        return self._parameters.model_dump(mode="json", exclude_unset=True)

    def values(self):
        """Those that were read, as plain values."""
        return self._parameters.model_dump(mode="json", include=self.used)
