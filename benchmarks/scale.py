"""Scale of a study: hours, disk and money of its units, and how they pack onto 1, 8 and 64 GPUs.

    python benchmarks/scale.py [-f params/paper.yaml] [--gmacs-per-second 3900 62400] [--price 2] [--networks ID ...]

What models have to do is counted (clipsafe_utils/costs.csv), what a machine does is measured here and now, or given,
and hours are one over the other, by the functions that `python -m clipsafe_utils doctor` asks. Measured too: how far
off that is for real networks with random weights, how fast photos are decoded, what a task needs before its first
image, and the bytes of an image in the store. The schedule is simulated event by event, with the engine's tasks.

On a CPU one thread is measured in its own time, so that the machine's other work does not count.
"""

import argparse
import heapq
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from clipsafe_utils.content import content_key
from clipsafe_utils.costs import decoding_rate, measure_speed, n_passes, n_prompts, stated_work, unit_width
from clipsafe_utils.datasets import known_image_sets, load_images
from clipsafe_utils.doctor import offline
from clipsafe_utils.inference import evaluate
from clipsafe_utils.models import load_model
from clipsafe_utils.params import load_parameters
from clipsafe_utils.prompts import load_templates, zero_shot_head
from clipsafe_utils.store import Store
from clipsafe_utils.study import Study
from clipsafe_utils.zoo import find_model, load_zoo

SHARED = Path(os.environ.get("CLIPSAFE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))
PEAKS = {
    "A100, float32": 19.5,
    "A100, bf16": 312.0,
    "H100, float32": 66.9,
    "H100, bf16": 989.4,
}
"""1e12 operations a second, two of them a multiply-add, in NVIDIA's data sheets (SXM modules, dense)."""

FULL_SIZE = (500, 375)
"""Pixels of a usual photo of ImageNet."""

CALIBRATED = ("vit-b-32-laion2b-s34b-b79k", "rn50-cc12m", "convnext-tiny-fb-in1k")
"""Networks that are really run: a transformer and a convolutional one of open_clip, and one of timm."""

NODE = 8
"""GPUs that a failing machine takes with it."""

READING = 0.5
"""Gigabytes of weights loaded a second where nothing is measured."""


# -- the schedule ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What the engine hands to a GPU.

    Attributes
    ----------
    load : float
        Time before its first unit: starting, listing images, loading weights.
    parts : tuple of float
        Time of each unit; a unit is in the store when its time is over.
    """

    load: float
    parts: tuple

    @property
    def length(self):
        return self.load + sum(self.parts)


@dataclass(frozen=True)
class Failure:
    """GPUs go away together at a time, and are back some time later."""

    at: float
    gpus: tuple
    away: float


@dataclass(frozen=True)
class Schedule:
    """How tasks were packed; times in the unit of the tasks, sums over GPUs.

    Attributes
    ----------
    makespan : float
        When the last task ends.
    work, loading, lost : float
        Time in units that were kept, in what comes before them, and since the last unit when a GPU went away.
    idle : float
        The rest of `gpus` x `makespan`.
    """

    makespan: float
    work: float
    loading: float
    lost: float
    idle: float

    @property
    def utilisation(self):
        """Share of all GPU time that went into units that were kept."""
        return self.work / (self.work + self.loading + self.lost + self.idle)


def schedule(tasks, gpus, failure=None):
    """List scheduling, event by event: the GPU that is free takes the first task that waits.

    Parameters
    ----------
    tasks : sequence of Task
        In the order in which they are handed out.
    gpus : int
    failure : Failure, optional
        A task it meets goes to the head of the queue with the units that are not in the store, and loads again.

    Returns
    -------
    Schedule
    """
    waiting, free, running, order = deque(tasks), list(range(gpus)), {}, count()
    work = loading = lost = now = 0.0
    events = []  # of equal time, ends come first: a unit that is finished is not lost
    if failure:
        events = [(failure.at, 1, next(order), gpu, None) for gpu in failure.gpus]
        events += [(failure.at + failure.away, 2, next(order), gpu, None) for gpu in failure.gpus]
        heapq.heapify(events)
    while waiting or running:
        while waiting and free:
            gpu, task = heapq.heappop(free), waiting.popleft()
            running[gpu] = run = (task, now)
            heapq.heappush(events, (now + task.length, 0, next(order), gpu, run))
        now = events[0][0]
        while events and events[0][0] == now:  # all that happens at a time, before tasks are handed out again
            _, kind, _, gpu, run = heapq.heappop(events)
            if kind == 0 and running.get(gpu) is run:
                task, _ = running.pop(gpu)
                work, loading = work + sum(task.parts), loading + task.load
                heapq.heappush(free, gpu)
            elif kind == 1 and gpu in running:
                task, start = running.pop(gpu)
                ends = start + task.load + np.cumsum(task.parts)
                done = int((ends <= now).sum())
                work, lost = work + sum(task.parts[:done]), lost + now - (ends[done - 1] if done else start)
                loading += task.load if done else 0.0
                waiting.appendleft(Task(task.load, task.parts[done:]))
            elif kind == 1:
                free.remove(gpu)
                heapq.heapify(free)
            elif kind == 2:
                heapq.heappush(free, gpu)
    return Schedule(now, work, loading, lost, max(0.0, gpus * now - work - loading - lost))


def longest_first(tasks):
    return sorted(tasks, key=lambda task: -task.length)


# -- what a study has to do --------------------------------------------------------------------------------------------


def image_counts(parameters, n_sets):
    """Expected images of a study's sets: the suite's own, the other known ones, then more of the median size."""
    known = known_image_sets()
    names = {name: entry.kind or name for name, entry in parameters.image_sets.items()}
    names |= {name: name for name in known if name not in names.values() and known[name].images}
    sizes = {name: known[kind].images if kind in known else None for name, kind in names.items()}
    median = int(np.median([size for size in sizes.values() if size]))
    sizes |= {f"set {k + 1}": None for k in range(len(sizes), n_sets)}
    return {name: sizes[name] or median for name in list(sizes)[:n_sets]}


def load_models(parameters, specs):
    """Adapters without weights, asked of no hub."""
    with offline():
        return [load_model(spec, device="cpu", crop=parameters.crop, features=parameters.features) for spec in specs]


@dataclass(frozen=True)
class Machine:
    """What one GPU with its processes does.

    Attributes
    ----------
    speed : float
        1e9 multiply-adds a second.
    decoding : float
        Images a second, all processes together.
    start : float
        Seconds from a task's process to its first weights.
    reading : float
        Gigabytes of weights a second.
    """

    speed: float
    decoding: float
    start: float
    reading: float


def unit_hours(models, counts, prompts, machine):
    """Hours of every unit, of the network and of decoding, which go on at the same time.

    Returns
    -------
    networks : DataFrame
        Hours of the networks, one row a model, one column an image set, and `prompts`.
    decoding : Series
        Hours of decoding each of these columns once.
    """
    networks = {name: stated_work(models, n, 0)["images"] / machine.speed for name, n in counts.items()}
    networks = pd.DataFrame(networks | {"prompts": stated_work(models, 0, prompts)["prompts"] / machine.speed})
    return networks / 3600, pd.Series(counts | {"prompts": 0}) / machine.decoding / 3600


def decoding_bound(models, counts, machine):
    """Number of models whose images take longer to decode than to look at."""
    networks, decoding = unit_hours(models, counts, 0, machine)
    return int((networks.sum(axis=1) < decoding.sum()).sum())


def study_tasks(models, counts, prompts, machine, shape, per_pass):
    """Tasks of a study, in the order of the zoo, in hours.

    Parameters
    ----------
    shape : {"unit", "model", "pass"}
        One unit a task; one model on all its image sets, as engines `ray` and `slurm` have it; or `per_pass` models of
        equal preprocessing that look at the same decoded images, as `local` has it.
    """
    networks, decoding = unit_hours(models, counts, prompts, machine)
    models = [model for model in models if model.spec.id in networks.index]
    weights = {model.spec.id: (model.spec.params_m or 0) * 4e-3 / machine.reading for model in models}
    alike = defaultdict(list)
    for model in models:
        alike[content_key(model.preprocessing) if shape == "pass" else model.spec.id].append(model.spec.id)
    groups = [ids[start : start + per_pass] for ids in alike.values() for start in range(0, len(ids), per_pass)]
    tasks = []
    for ids in groups:
        load = (machine.start + sum(weights[id] for id in ids)) / 3600
        parts = tuple(float(hours) for hours in np.maximum(networks.loc[ids].sum(), decoding) if hours)
        tasks += [Task(load, (part,)) for part in parts] if shape == "unit" else [Task(load, parts)]
    return tasks


# -- what is measured --------------------------------------------------------------------------------------------------


def photos_of_full_size(folder, given, n, rng):
    """An image set of JPEGs of a usual size: real photos, enlarged where they are smaller, or noise made smooth."""
    sources = sorted(path for path in given.rglob("*") if path.suffix.lower() == ".jpeg")[:: max(1, 1000 // n)][:n]
    for i in range(n):
        if sources:
            image = Image.open(sources[i % len(sources)]).convert("RGB")
        else:
            image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        (folder / "photos").mkdir(exist_ok=True)
        size = FULL_SIZE if image.width >= image.height else FULL_SIZE[::-1]
        image.resize(size, Image.Resampling.BICUBIC).save(folder / "photos" / f"{i:05}.jpeg", quality=95)
    return load_images("photos", folder / "photos", kind="folder", is_ood=True), "real" if sources else "generated"


def start_seconds(images, n_images, clock):
    """Seconds of a task before its weights: a process that imports the engine, and all images listed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import clipsafe_utils.engine, clipsafe_utils.study, timm"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    started = clock()
    load_images("photos", images.root, kind="folder", is_ood=True).manifest()
    return process, (clock() - started) / len(images) * n_images


def with_random_weights(id, folder):
    """A row of the zoo with a checkpoint of random weights, so that it loads and runs as the real one does."""
    spec, create = find_model(id), timm.create_model
    torch.manual_seed(0)
    network = open_clip.create_model(spec.name) if spec.is_zero_shot else create(spec.name, num_classes=1000)
    path = folder / f"{id}.safetensors"
    save_file(network.state_dict(), path)
    return replace(spec, checkpoint=str(path)), path


def calibration(images, folder, device, precision, clock, classes=4):
    """Predicted and measured seconds of real networks; also the gigabytes of weights that are loaded in a second."""
    rows, read, reading = [], 0.0, 0.0
    templates, names = load_templates("imagenet_7"), open_clip.IMAGENET_CLASSNAMES[:classes]
    prompts = len(names) * len(templates)

    def seconds(work):
        started = clock()
        work()
        return clock() - started

    for id in CALIBRATED:
        spec, path = with_random_weights(id, folder)
        model = load_model(spec, device=device, precision=precision)
        reading, read = reading + seconds(lambda model=model: model.network), read + path.stat().st_size / 1e9
        model.release = lambda: None  # stays loaded
        pixels = torch.stack([model.transform(images.image(i)) for i in range(16)])
        model.encode_images(pixels)
        speed = measure_speed(torch.device(device), precision, clock=clock)
        rate = decoding_rate(images, model.transform, clock)
        work = stated_work([model], 1, prompts).loc[id] / speed

        def forward(model=model, pixels=pixels):
            model.encode_images(pixels)

        def unit(model=model):
            with tempfile.TemporaryDirectory() as store:
                evaluate([model], [images], Store(store), workers=0, progress=False)

        def head(model=model):
            zero_shot_head(model, names, templates)

        rows.append((id, "16 images", 16 * work["images"], seconds(forward)))
        whole = len(images) * (work["images"] + 1 / rate)
        rows.append((id, f"a unit of {len(images)} photos, decoding included", whole, seconds(unit)))
        if spec.is_zero_shot:
            rows.append((id, f"{prompts} prompts", work["prompts"], seconds(head)))
    table = pd.DataFrame(rows, columns=["network", "what", "predicted s", "measured s"])
    return table.assign(ratio=table["measured s"] / table["predicted s"]), read / reading


def network_rates(ids, folder, device, precisions=("float32", "bf16"), at_once=64, seconds=2.0):
    """Images a second that real networks with random weights look at, from pixels on the host to embeddings there."""
    for id in ids:
        spec, path = with_random_weights(id, folder)
        for precision in precisions:
            model, n = load_model(spec, device=device, precision=precision), 0
            pixels = torch.randn(at_once, *model.transform(Image.new("RGB", FULL_SIZE)).shape)
            pixels = pixels.pin_memory() if device.type == "cuda" else pixels
            model.encode_images(pixels)
            started = time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds:
                model.encode_images(pixels)
                n += at_once
            speed = n / elapsed * float(stated_work([model], 1, 0).loc[id, "images"])
            yield {"network": id, "precision": precision, "images/s": n / elapsed, "GMAC/s": speed}
            model.release()
        path.unlink()


def bytes_of_embeddings(folder, rng, n=2000):
    """Bytes of a unit as the store writes it: those of an image beside its numbers, those of a number, of a unit."""
    ids = [f"n{rng.integers(10**8):08}/ILSVRC2012_val_{i:08}.JPEG" for i in rng.permutation(50_000)[:n]]
    frame = pd.DataFrame({"image_id": ids, "label": rng.integers(0, 1000, n)})
    store, sizes = Store(folder / "bytes"), []
    for width in (512, 1000):
        with store.lock(f"{width}"), store.writer(f"{width}", "logits") as writer:
            writer.append(rng.normal(size=(n, width)).astype(np.float32))
            writer.finish(frame, {"model": "one", "image_set": "one", "failed": []})
        parts = {path.name: path.stat().st_size for path in (store.path / "units" / f"{width}").iterdir()}
        sizes.append((parts["array.safetensors"], parts["images.parquet"], parts["record.json"]))
    (few, about, record), (many, *_) = sizes
    number = (many - few) / n / (1000 - 512)
    return about / n, number, record


def bytes_of_answers(parameters, folder):
    """Bytes that `keep: scores` leaves of an image: two tiny models asked this suite's questions in the laboratory.

    On as many shifted and OOD sets, with the same templates; class names are the laboratory's own.
    """
    lab = load_parameters("params/lab.yaml")
    id_set, *shifted = lab.shifted_sets
    sets = {"id_set": id_set, "near_ood_sets": [], "cue_conflict_set": None, "factor_set": None, "paired_set": None}
    sets["shifted_sets"] = shifted[: len(parameters.shifted_sets)]
    sets["ood_sets"] = lab.ood_sets[: len(parameters.ood_sets)]
    names = [id_set, *sets["shifted_sets"], *sets["ood_sets"]]
    asked = {key: getattr(parameters, key) for key in ("ood_scores", "features", "n_bins")}
    asked["prompt_sets"] = [{name: list(load_templates(given))} for name, given in parameters.prompts.items()]
    models = {}
    for spec in load_zoo("lab"):
        models.setdefault(spec.is_zero_shot, spec.id)
    given = {"outputs": str(folder), "keep": "scores", "select": {"id": list(models.values())}, "device": "cpu"}
    study = Study(load_parameters("params/lab.yaml", given | asked | sets | {"image_sets": {n: {} for n in names}}))
    study.evaluate(*study.images)
    units = study.store.frame().set_index("key")
    files = {key: study.store.path / "units" / key for key in units.index}
    units["kept"] = [
        sum((f / n).stat().st_size for n in ("answers.safetensors", "images.parquet")) for f in files.values()
    ]
    units["zero_shot"] = [model == models[True] for model in units["model"]]
    sums = units.groupby("zero_shot")[["kept", "n"]].sum()
    record = np.mean([(f / "record.json").stat().st_size for f in files.values()])
    return (sums["kept"] / sums["n"]).to_dict(), record


# -- tables ------------------------------------------------------------------------------------------------------------


def show(title, rows, note=""):
    """Print a table in Markdown's pipes, so that it can go into a document as it is."""
    frame = pd.DataFrame(rows)
    cells = [
        [str(column) for column in frame],
        *([text(value) for value in row] for row in frame.itertuples(index=False)),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    print(f"\n{title}\n")
    for row in cells:
        print("| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |")
    if note:
        print(f"\n{note}")
    sys.stdout.flush()


def text(value):
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def total_rows(models, counts, prompts, speeds, decoding, passes, price):
    """Hours on one device, by the formula of the doctor: networks and prompts, and decoding at the same time."""
    for name, speed in speeds.items():
        networks, once = unit_hours(models, counts, prompts, Machine(speed, decoding, 0, 1))
        images, texts = float(networks.drop(columns="prompts").to_numpy().sum()), float(networks["prompts"].sum())
        hours = max(images + texts, passes * float(once.sum()))
        yield {
            **{"device": name, "GMAC/s": speed, "networks h": images, "prompts h": texts},
            **{"decoding h": passes * float(once.sum()), "GPU-hours": hours, "cost": hours * price},
            **{"GPU-hours x10": 10 * hours, "cost x10": 10 * hours * price},
        }


def schedule_rows(tasks, gpus, price):
    """Each shape of tasks on each number of GPUs, the longest first as the engine has it, and in the zoo's order."""
    for n in gpus:
        for shape, listed in tasks.items():
            found, in_order = schedule(longest_first(listed), n), schedule(listed, n)
            lengths = [task.length for task in listed]
            yield {
                **{"GPUs": n, "one task is": shape, "tasks": len(listed), "hours": found.makespan},
                **{"at least": max(sum(lengths) / n, *lengths), "in the zoo's order": in_order.makespan},
                **{"utilisation": f"{found.utilisation:.0%}", "idle GPU-h": found.idle, "loading GPU-h": found.loading},
                **{"paid GPU-h": n * found.makespan, "cost": n * found.makespan * price},
            }


def failure_rows(tasks, gpus, away, draws, rng):
    """What it costs that a machine with its GPUs goes away once, at any time of the run."""
    tasks = longest_first(tasks)
    whole = [Task(task.load, (sum(task.parts),)) for task in tasks]
    for n in gpus:
        alone = schedule(tasks, n)
        at = rng.uniform(0, alone.makespan, draws)
        first = rng.integers(0, max(1, n // NODE), draws) * NODE
        failures = [Failure(a, tuple(range(f, min(f + NODE, n))), away) for a, f in zip(at, first, strict=True)]
        kept, redone = ([schedule(given, n, failure) for failure in failures] for given in (tasks, whole))
        later = np.mean([one.makespan for one in kept]) - alone.makespan
        yield {
            **{"GPUs": n, "GPUs that fail": min(n, NODE)},
            **{"lost GPU-h, mean": float(np.mean([one.lost for one in kept])), "worst": max(one.lost for one in kept)},
            **{"mean, without": float(np.mean([one.lost for one in redone]))},
            **{"worst, without": max(one.lost for one in redone), "ends later by h, mean": float(later)},
        }


def disk_rows(models, counts, embeddings, answers):
    """Gigabytes of a study, by what `keep` leaves of it."""
    n_images, n_units = sum(counts.values()), len(models) * len(counts)
    about, number, record = embeddings
    for keep, features in {"embeddings": False, "embeddings, features: true": True}.items():
        numbers = sum(unit_width(load_model(model.spec, device="cpu", features=features)) for model in models)
        yield {"keep": keep, "GB": (n_images * (number * numbers + about * len(models)) + n_units * record) / 1e9}
    kept, record = answers
    kept = sum(kept[model.spec.is_zero_shot] for model in models)
    yield {"keep": "scores", "GB": (n_images * kept + n_units * record) / 1e9}
    yield {"keep": "weights, fetched once", "GB": sum((model.spec.params_m or 0) * 4e-3 for model in models)}


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("-f", "--file", default="params/paper.yaml", help="the suite")
    add("--sets", type=int, default=20, help="image sets: the suite's, other known ones, then of the median size")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64])
    add("--gmacs-per-second", type=float, nargs="+", help="of GPUs to schedule on; default: what this device does")
    add("--utilisation", type=float, default=0.4, help="share of the data sheets' peaks that is reached")
    add("--images-per-second", type=float, help="decoded by one process; default: measured on --photos")
    add("--processes", type=int, help="that decode for a GPU; default: the suite's `workers`")
    add("--price", type=float, default=2.0, help="of a GPU-hour, in any currency")
    add("--away", type=float, default=1.0, help="hours until a machine that failed is back")
    add("--draws", type=int, default=100, help="times at which it fails")
    add("--photos", default=str(SHARED / "real" / "imagenet_sample"), help="folder; generated where it is absent")
    add("--calibrate", type=int, default=32, help="photos for real networks; 0 leaves them out")
    add("--networks", nargs="+", default=[], metavar="ID", help="of a zoo: how fast each runs here, random weights")
    add("--device", default="auto")
    add("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parsed(arguments)
    logging.disable(logging.WARNING)  # open_clip warns of each model that has no weights
    p, rng = load_parameters(options.file), np.random.default_rng(options.seed)
    models, counts = load_models(p, load_zoo(p.zoo, **p.select.model_dump())), image_counts(p, options.sets)
    prompts, n_images = n_prompts(p), sum(counts.values())
    print(
        f"{p.suite}: {len(models)} models x {len(counts)} image sets ({n_images:,} images) = "
        f"{len(models) * len(counts):,} units; {prompts:,} prompts a zero-shot model; {p.precision}"
    )

    on_gpu = options.device.startswith("cuda") or (options.device == "auto" and torch.cuda.is_available())
    device, clock = torch.device("cuda" if on_gpu else "cpu"), time.perf_counter if on_gpu else time.process_time
    threads = torch.get_num_threads()
    if not on_gpu:
        torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            images, kind = photos_of_full_size(folder, Path(options.photos), max(options.calibrate, 16), rng)
            rate = max(decoding_rate(images, models[0].transform, time.process_time) for _ in range(3))
            process, listing = start_seconds(images, n_images, time.process_time)
            speed, (table, reading) = measure_speed(device, p.precision, clock=clock), (None, READING)
            if options.calibrate:
                table, reading = calibration(images, folder, device, p.precision, clock)
            rates = list(network_rates(options.networks, folder, device))
            embeddings, answers = bytes_of_embeddings(folder, rng), bytes_of_answers(p, folder)
    finally:
        torch.set_num_threads(threads)
    here = torch.cuda.get_device_name() if on_gpu else "one thread of this CPU"
    measured = {
        f"1e9 multiply-adds a second, {here}, {p.precision}": speed,
        f"{kind} photos of {FULL_SIZE[0]} x {FULL_SIZE[1]} pixels prepared a second, one process": rate,
        "seconds until a process has imported the engine": process,
        f"seconds to list {n_images:,} images": listing,
        "GB of weights loaded a second, disk not counted" + ("" if options.calibrate else " (assumed)"): reading,
        "bytes of a number in a unit": embeddings[1],
        "bytes of an image beside its numbers": embeddings[0],
        "bytes of an image, keep: scores, zero-shot models": answers[0][True],
        "bytes of an image, keep: scores, classifiers": answers[0][False],
    }
    show("Measured on this machine", [{"what": what, "value": value} for what, value in measured.items()])
    if options.calibrate:
        show("How good the model of costs is", table.to_dict("records"))
    if rates:
        show(f"Networks on {here}, 64 images at once", rates)

    rate, processes = options.images_per_second or rate, options.processes or max(p.workers, 1)
    speeds = {here: speed} | {name: 500 * peak * options.utilisation for name, peak in PEAKS.items()}
    speeds |= {f"given, {given:,.0f}": given for given in options.gmacs_per_second or ()}
    passes = n_passes(models, p.models_per_pass)
    show(
        f"The study and ten times more on one device, {options.price:g} a GPU-hour",
        list(total_rows(models, counts, prompts, speeds, rate * processes, passes, options.price)),
        f"Of the data sheets' peaks {options.utilisation:.0%} is assumed. At the same time {processes} processes "
        f"decode {rate * processes:,.0f} images/s, each image {passes} times (engine local). GPU-hours: the longer.",
    )
    for given in options.gmacs_per_second or [speed]:
        machine = Machine(given, rate * processes, process + listing, reading)
        shapes = {"unit": "a unit", "model": "a model", "pass": f"{p.models_per_pass} models"}
        tasks = {
            label: study_tasks(models, counts, prompts, machine, shape, p.models_per_pass)
            for shape, label in shapes.items()
        }
        lengths = sorted(task.length for task in tasks["a model"])
        show(
            f"Simulated schedule at {given:,.0f} GMAC/s a GPU",
            list(schedule_rows(tasks, options.gpus, options.price)),
            f"Tasks of a model take {text(lengths[0])} to {text(lengths[-1])} hours, half of them at most "
            f"{text(float(np.median(lengths)))}; decoding bounds {decoding_bound(models, counts, machine)} of "
            f"{len(lengths)}.",
        )
        ten = schedule_rows({"a model": 10 * tasks["a model"]}, options.gpus, options.price)
        show(f"Ten times the models at {given:,.0f} GMAC/s a GPU", list(ten))
        show(
            f"A machine fails once at {given:,.0f} GMAC/s a GPU, and is back after {options.away:g} h",
            list(failure_rows(tasks["a model"], options.gpus, options.away, options.draws, rng)),
            f"Over {options.draws} random times; one task is a model. `without`: had a task that is cut short to be "
            "done again as a whole.",
        )
    show("Disk", [row | {"GB x10": 10 * row["GB"]} for row in disk_rows(models, counts, embeddings, answers)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
