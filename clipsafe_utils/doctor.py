"""Doctor: what a suite needs, what is there, and what a run will cost, before a single weight is loaded.

Listing folders and looking into caches takes seconds; what that cannot tell is said, and `deep` reads every file.
"""

import contextlib
import os
import re
import shutil
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from clipsafe_utils.content import file_digest
from clipsafe_utils.datasets import known_image_sets, load_images
from clipsafe_utils.errors import ClipsafeError
from clipsafe_utils.published.files import FILES
from clipsafe_utils.zoo import load_zoo


@dataclass
class Diagnosis:
    """What a doctor found; `str()` is the report.

    Attributes
    ----------
    sets : DataFrame
        One row an image set: status ("complete", "sample", "as it is", "rendered", "incomplete", "missing", "refused"),
        `images` and `classes` found, those expected (NA: not known), layout, licence, where from and how.
    models : DataFrame
        One row a model: whether its library knows it, its checkpoint ("here", "to fetch", "missing"), gigabytes,
        published accuracy in percent and `problem`.
    published : DataFrame
        One row a file of published results: whether it is there, and its licence; empty where images are run.
    machine : list of str
        Device, disk and time.
    problems : list of str
        What keeps the suite from running in full; the suite is ready if there is none.
    unchecked : list of str
    """

    sets: pd.DataFrame
    models: pd.DataFrame
    published: pd.DataFrame
    machine: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    unchecked: list = field(default_factory=list)

    @property
    def ready(self):
        return not self.problems

    def __str__(self):
        origins = self.sets[self.sets["source"] != ""] if len(self.sets) else self.sets
        origins = [f"{row.name}: {row.licence}. {row.source}; {row.get}" for row in origins.itertuples()]
        counts = self.sets.assign(images=_of(self.sets, "images"), classes=_of(self.sets, "classes"))
        known = Counter(self.models["checkpoint"])
        parts = {
            f"Image sets ({len(self.sets)})": _aligned(counts[["name", "status", "images", "classes", "layout"]]),
            "Licence, where and how to get them": origins,
            f"Models ({', '.join(f'{n} {what}' for what, n in known.items())})": _aligned(
                self.models.drop(columns="problem")
            ),
            f"Published results ({len(self.published)} files)": _aligned(self.published),
            "Machine": self.machine,
            "Not checked": self.unchecked,
            "Problems": self.problems,
        }
        lines = [
            line for title, lines in parts.items() if len(lines) for line in ["", title, *(f"  {x}" for x in lines)]
        ]
        verdict = f"not ready: {len(self.problems)} problems" if self.problems else "ready"
        return "\n".join([*lines[1:], "", verdict])


def examine(parameters, *, deep=False):
    """Look at everything a suite names.

    Parameters
    ----------
    parameters : Parameters
    deep : bool, default False
        Also decode every image, hash images and checkpoints, and make sure that no checkpoint runs code.

    Returns
    -------
    Diagnosis

    Raises
    ------
    ClipsafeError
        The zoo or the selection of models cannot be read.
    """
    p, found = parameters, Diagnosis(_frame(_SET), _frame(_MODEL), _frame(("file", "status", "licence")))
    if not p.image_sets:
        _published(p, found, deep)
        return found
    images = _image_sets(p, found)
    specs = load_zoo(p.zoo, **p.select.model_dump())
    adapters = _models(p, found, specs)
    device = _device(p, found)
    _disk(p, found, images, adapters)
    if device:
        _time(p, found, images, adapters, device)
    left_out = [name for name in known_image_sets() if name not in p.image_sets]
    if any(name in known_image_sets() for name in p.image_sets) and left_out:
        found.unchecked.append(f"sets that this suite leaves out: {', '.join(left_out)}")
    if deep:
        _read_images(found, images, p.workers)
        _read_checkpoints(found, adapters)
    else:
        found.unchecked.append("contents: names and numbers of files were read; --deep decodes images and hashes all")
    found.unchecked.append(
        "whether what is to be fetched can be had from here, and what models answer: the run checks "
        "their accuracy against the published one where ImageNet is complete"
    )
    return found


_SET = ("name", "status", "images", "expected", "classes", "expected_classes", "layout", "licence", "source", "get")
_MODEL = ("id", "library", "known", "checkpoint", "gigabytes", "published", "problem")


def _frame(columns, rows=()):
    return pd.DataFrame(rows, columns=list(columns))


def _published(p, found, deep):
    folder = Path(os.environ.get("CLIPSAFE_PUBLISHED") or p.path("published"))
    rows = []
    for path, origin in FILES.iterrows():
        here = folder / path
        status = "here" if here.is_file() else "to download"
        if deep and here.is_file() and file_digest(here) != origin["sha256"]:
            status = "another file than the one recorded"
            found.problems.append(f"{here}: its content is not the recorded one (sha256); get it from {origin['url']}")
        rows.append({"file": path, "status": status, "licence": origin["licence"]})
    found.published = _frame(found.published, rows)
    found.unchecked += [] if deep else ["contents of these files: --deep hashes them"]


def _image_sets(p, found):
    """Fill in the table of sets; returns name -> (ImageSet or None, images that a run would look at)."""
    rows, images = [], {}
    for name, entry in p.image_sets.items():
        known = known_image_sets().get(entry.kind or name)
        root = p.image_root(name)
        given = {"kind": entry.kind, "labels": entry.labels, "is_ood": entry.is_ood}
        row = dict.fromkeys(_SET, "") | {"name": name, "images": 0, "expected": pd.NA, "expected_classes": pd.NA}
        row |= {"classes": pd.NA, "layout": f"expected {known.tree}" if known else ""}
        if known:
            row |= {"expected": known.images or pd.NA, "expected_classes": known.classes or pd.NA}
            row |= {column: getattr(known, column) for column in ("licence", "source", "get")}
        one, problem = None, ""
        try:
            one = load_images(name, root, partial=entry.partial, **given)
            row["status"] = _status(one, known)
        except ClipsafeError as error:
            problem = str(error) if name in str(error).split(" ")[0] else f"{name}: {error}"
            row["status"] = "refused" if root.exists() else "missing"
            with contextlib.suppress(ClipsafeError):
                one = load_images(name, root, partial=True, **given)
                row["status"] = "incomplete"
        if one is not None:
            row |= {"images": len(one), "classes": _classes(one, known), "layout": one.protocol}
        if problem:
            found.problems.append(problem)
        rows.append(row)
        images[name] = (one, (known.images if known and problem else None) or row["images"])
    found.sets = _frame(_SET, rows)
    return images


def _status(images, known):
    if hasattr(images, "render"):
        return "rendered"
    if known is None or known.images is None:
        return "as it is"
    return "complete" if len(images) == known.images else "sample"


def _classes(images, known):
    """Classes with images; of sets without labels their folders."""
    if not images.is_ood:
        return len({int(label) for label in images.labels})
    folders = {image_id.rpartition("/")[0] for image_id in images.image_ids}
    return len(folders) if known and known.classes else pd.NA


@contextlib.contextmanager
def offline():
    """Let the hub's library look into its cache only."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _models(p, found, specs):
    """Fill in the table of models; returns id -> adapter of those that a library knows."""
    from clipsafe_utils.models import load_model

    rows, adapters = [], {}
    options = {"device": "cpu", "checkpoints": p.path("checkpoints"), "crop": p.crop, "features": p.features}
    with offline():
        for spec in specs:
            row = {"id": spec.id, "library": spec.library, "known": "no", "checkpoint": "", "problem": ""}
            row |= {"gigabytes": (spec.params_m or 0) * 4e-3 or pd.NA, "published": spec.published_in1k_top1 or pd.NA}
            try:
                model = load_model(spec, **options)
                model.preprocessing  # noqa: B018  (asks the library for the architecture and its tag)
                row["known"], adapters[spec.id] = "yes", model
                row |= _checkpoint(model)
            except ClipsafeError as error:
                row |= {"checkpoint": "missing", "problem": str(error)}
            rows.append(row)
    found.models = _frame(_MODEL, rows)
    found.problems += [row["problem"] for row in rows if row["checkpoint"] == "missing"]
    fetched = found.models[found.models["checkpoint"] == "to fetch"]
    if len(fetched):
        found.problems.append(
            f"{len(fetched)} of {len(rows)} checkpoints are not on this machine (first: {fetched['id'].iloc[0]}; "
            f"{fetched['gigabytes'].sum():,.0f} GB at 4 bytes a parameter): the run fetches them where it reaches the "
            f"hub, or put files named ID.safetensors into {p.path('checkpoints')}."
        )
    texts = sorted({name for model in adapters.values() for name in _absent_text_files(model)})
    if texts:
        found.problems.append(f"text towers or tokenizers need files of the hub that are not here: {', '.join(texts)}.")
    return adapters


def _checkpoint(model):
    if model.spec.library == "open_clip" and (url := _plain_url(model)):
        path = Path("~/.cache/clip").expanduser() / url.rpartition("/")[2]
        return _size(path) if path.is_file() else {"checkpoint": "to fetch"}
    try:
        files = [model.checkpoint, getattr(model, "_backbone", None)]
    except ClipsafeError as error:
        if model.spec.checkpoint or "fetched from" not in str(error):
            raise
        return {"checkpoint": "to fetch"}
    return _size(*filter(None, files))


def _plain_url(model):
    """Where open_clip fetches weights that no hub serves; looking there would fetch them."""
    local = model.spec.checkpoint or "checkpoint" in vars(model)
    tag = {} if local or model.spec.config else model._tag
    return "" if tag.get("hf_hub") else tag.get("url", "")


def _size(*paths):
    return {"checkpoint": "here", "gigabytes": sum(path.stat().st_size for path in paths) / 1e9}


def _absent_text_files(model):
    """Repositories of the hub that a zero-shot model's text tower and tokenizer need and the cache lacks."""
    from huggingface_hub import try_to_load_from_cache

    text = model.architecture["text_cfg"] if model.spec.is_zero_shot else {}
    needs = {"hf_model_name": ["config.json"], "hf_tokenizer_name": ["tokenizer.json", "tokenizer_config.json"]}
    for key, names in needs.items():
        repository = text.get(key)
        if repository and not any(isinstance(try_to_load_from_cache(repository, name), str) for name in names):
            yield repository


def _device(p, found):
    import torch

    from clipsafe_utils import models

    cores = os.cpu_count()
    try:
        device = models._device(p.device)
    except ClipsafeError as error:
        found.problems.append(str(error))
        return None
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        n = torch.cuda.device_count()
        found.machine.append(f"device: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB ({n} of them), {cores} cores")
    else:
        found.machine.append(f"device: {device} ({cores} cores), no GPU is used; precision {p.precision}")
    return device


def _disk(p, found, images, adapters):
    """Compare what the run will write with what is free, on each file system."""
    from huggingface_hub import constants

    from clipsafe_utils.costs import unit_width

    n = sum(n for _, n in images.values())
    store = sum(4e-9 * n * unit_width(model) for model in adapters.values())
    fetched = found.models.loc[found.models["checkpoint"] == "to fetch", "gigabytes"].sum()
    wanted = [(p.folder, "results", store)] if "://" not in p.store_path else []
    wanted.append((Path(constants.HF_HUB_CACHE), "checkpoints", fetched))
    absent = [
        known_image_sets().get(p.image_sets[name].kind or name) for name, (one, _) in images.items() if one is None
    ]
    sizes = [known.gigabytes for known in absent if known]
    wanted.append((p.path("data"), "image sets, archive and unpacked", 2 * sum(filter(None, sizes))))
    if None in sizes:
        unknown = ", ".join(known.name for known in absent if known and known.gigabytes is None)
        found.unchecked.append(f"disk for the archives of {unknown}: their sizes are not known here")
    disks = defaultdict(list)
    for folder, what, gigabytes in wanted:
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        disks[there.stat().st_dev].append((there, what, gigabytes))
        if gigabytes and not os.access(there, os.W_OK):
            found.problems.append(f"{there} cannot be written to, and {what} are to go there.")
    for entries in disks.values():
        need, there = sum(gigabytes for *_, gigabytes in entries), entries[0][0]
        free = shutil.disk_usage(there).free / 1e9
        listed = ", ".join(f"{what} {gigabytes:,.1f} GB" for _, what, gigabytes in entries if gigabytes)
        found.machine.append(f"disk of {there}: {need:,.1f} GB needed ({listed or 'nothing'}), {free:,.1f} GB free")
        if need > free:
            found.problems.append(f"the disk of {there} lacks {need - free:,.1f} GB.")


def _time(p, found, images, adapters, device):
    """Estimate hours from counted multiplications and from what this machine does now."""
    from clipsafe_utils.costs import measure_speed, n_passes, n_prompts, stated_work

    n, prompts = sum(n for _, n in images.values()), n_prompts(p)
    work = stated_work(adapters.values(), n, prompts)
    speed = measure_speed(device, p.precision)
    passes = n_passes(adapters.values(), p.models_per_pass)
    rate, basis = _decoding_rate(images, adapters)
    decoding = passes * n / (rate * max(p.workers, 1))
    hours = [seconds / 3600 for seconds in (work["images"].sum() / speed, work["prompts"].sum() / speed, decoding)]
    found.machine.append(
        f"time: {max(sum(hours[:2]), hours[2]):,.1f} hours on one such device: networks {hours[0]:,.1f} ({n:,} images, "
        f"{len(work)} models), prompts {hours[1]:,.1f} ({prompts:,} a zero-shot model), and at the same time "
        f"decoding {hours[2]:,.1f} ({passes} passes, {max(p.workers, 1)} processes)"
    )
    found.machine.append(
        f"time is based on multiplications counted for each architecture, {speed:,.0f} GMAC/s measured now with one "
        f"layer of ViT-B/16 ({p.precision}), and {rate:,.0f} images/s a process ({basis}); convolutions take up to "
        "twice as long, prompts cut to their length a fourth; units that the store holds already are not subtracted"
    )
    if uncounted := [name for name in adapters if name not in work.index]:
        found.unchecked.append(f"time of {len(uncounted)} models whose cost is not counted (first: {uncounted[0]})")


def _decoding_rate(images, adapters):
    """Images a second that one process prepares, and how that is known."""
    from clipsafe_utils.costs import DECODED, decoding_rate

    one = next((one for one, _ in images.values() if one is not None and len(one)), None)
    model = next(iter(adapters.values()), None)
    if one is None or model is None:
        return 100.0, "assumed, no image is here"
    return decoding_rate(one, model.transform), f"measured on {min(DECODED, len(one))} of {one.name}"


def _read_images(found, images, workers):
    """Decode every image and hash every file of the sets that are there."""

    def fault(one, i):
        try:
            one.image(i)
        except OSError as error:
            return str(error)

    for name, (one, _) in images.items():
        if one is None or hasattr(one, "render"):
            continue
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            answers = pool.map(lambda i, one=one: fault(one, i), range(len(one)))
            faults = [why for why in tqdm(answers, f"decode {name}", len(one), unit="img", leave=False) if why]
        found.machine.append(f"{name}: {len(one):,} images read, sha256 of all {one.manifest(deep=True)}")
        if faults:
            found.problems.append(
                f"{name}: {len(faults):,} of {len(one):,} images cannot be decoded (first: {faults[0]})"
            )


def _read_checkpoints(found, adapters):
    """Hash the checkpoints that are here; a file of the hub's cache is called like its hash."""
    from clipsafe_utils.weights import refuse_code

    here = [adapters[name] for name in found.models.loc[found.models["checkpoint"] == "here", "id"]]
    with offline():
        for model in tqdm(here, "hash checkpoints", unit="file", leave=False):
            try:
                refuse_code(model.checkpoint)
                name, digest = model.checkpoint.resolve().name, file_digest(model.checkpoint)
                if re.fullmatch("[0-9a-f]{64}", name) and name != digest:
                    found.problems.append(f"{model.spec.id}: {model.checkpoint} is not what the hub sent; delete it.")
            except (ClipsafeError, OSError) as error:
                found.problems.append(f"{model.spec.id}: {error}")


def _of(sets, column):
    """Found of expected, as text."""
    expected = sets["expected" if column == "images" else f"expected_{column}"]
    return [
        _number(a) + (f" of {_number(b)}" if b is not pd.NA else "")
        for a, b in zip(sets[column], expected, strict=True)
    ]


def _number(value):
    if value is pd.NA or value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _aligned(frame):
    """Lines of a table, columns as wide as their widest cell."""
    if frame.empty:
        return []
    cells = [
        [str(column).replace("_", " ") for column in frame],
        *([_number(x) for x in row] for row in frame.itertuples(index=False)),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
