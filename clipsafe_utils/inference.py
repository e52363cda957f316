"""Embed once: run models over image sets and leave one unit each in the store."""

import contextlib
import platform
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from clipsafe_utils.content import content_key
from clipsafe_utils.errors import ClipsafeError, unknown
from clipsafe_utils.models import load_model
from clipsafe_utils.prompts import zero_shot_head
from clipsafe_utils.store import ANSWERS

PROTOCOL = 1
"""Version of what a unit means; raise it when the same inputs would give other numbers."""

_SMALL = 5_000_000
"""Parameters below which a network leaves most of a second core idle."""

_CACHED = 16 * 3 * 224 * 224
"""Pixel values that a CPU takes at once: what networks make of more than 16 usual images leaves its caches."""


def evaluate(
    models, image_sets, store, *, heads=(), batch_size=64, workers=2, models_per_pass=4, progress=True, on_error="raise"
):
    """Make sure that the store holds a unit for every model and image set.

    Units that are there already are not computed again. Images are decoded once for several models that share their
    preprocessing. An image that cannot be read is left out, and named in the unit's record.

    Parameters
    ----------
    models : iterable of ModelSpec, str or Model
        Specs and ids are loaded with `load_model`.
    image_sets : iterable of ImageSet
        Anything with name, image_ids, labels, annotations, manifest(), len() and image(i); `render(start, stop)`,
        where there is one, gives a batch at once (uint8 of shape (n, height, width, 3)).
    store : Store
    heads : iterable of (names, templates), optional
        Zero-shot heads that the store should hold too, see `stored_head`: made while a model is loaded for its images.
    batch_size : int, default 64
    workers : int, default 2
        Processes that decode images; 0 decodes in this one.
    models_per_pass : int, default 4
        At most this many models look at the same decoded images; also what a killed run can lose.
    progress : bool, default True
    on_error : {"raise", "skip"}
        What a model that cannot be loaded does: stop the run, or leave its units out with the reason as value.

    Returns
    -------
    dict of (str, str) to Unit
        By model id and image-set name; with `on_error="skip"` a ClipsafeError stands for what could not be had.

    Raises
    ------
    ClipsafeError
        Two models or image sets of one name, or what loading a model raises.
    """
    results, planned = plan(models, image_sets, store, on_error)
    passes = defaultdict(list)
    for tasks in planned:
        if any(task.pair not in results for task in tasks):
            passes[content_key(tasks[0].model.preprocessing)].append(tasks)
    # Models stay loaded for all image sets, so the outer loop goes over models.
    for same_preprocessing in passes.values():
        for start in range(0, len(same_preprocessing), models_per_pass):
            chunk = same_preprocessing[start : start + models_per_pass]
            for tasks in zip(*chunk, strict=True):
                results |= _run(tasks, store, batch_size, workers, progress, on_error)
            for model in (tasks[0].model for tasks in chunk):
                if model.kind == "embeddings" and model.is_loaded:
                    with contextlib.suppress(ClipsafeError):  # raised again for who asks for the head
                        for names, templates in heads:
                            stored_head(model, names, templates, store)
                model.release()
    return results


def stored_head(model, names, templates, store):
    """Zero-shot head of a model, computed once for its content, class names and templates.

    Parameters
    ----------
    model : ClipModel
        Its network is loaded only if the store has no such head.
    names, templates : sequence of str
    store : Store

    Returns
    -------
    dict of ndarray
        `weights` of shape (n_classes, width), see `zero_shot_head`; `logit_scale` and `logit_bias` of shape (1,).
    """
    identity = {"model": model.identity, "names": list(names), "templates": list(templates)}
    return store.head(
        identity,
        lambda: {
            "weights": zero_shot_head(model, names, templates),
            "logit_scale": np.float32([model.logit_scale]),
            "logit_bias": np.float32([model.logit_bias]),
        },
    )


def plan(models, image_sets, store, on_error="raise", *, answers_do=False):
    """What of `evaluate` is done, and what remains; no network is loaded for it.

    Parameters
    ----------
    answers_do : bool, default False
        Whether a unit may have lost its array to the answers that `keep: scores` keeps.

    Returns
    -------
    results : dict of (str, str) to Unit
        Those that are there; with `on_error="skip"` also a ClipsafeError for each of a model's units where its identity
        cannot be known.
    planned : list of list of Task
        One list a model, one task an image set.
    """
    if on_error not in ("raise", "skip"):
        raise unknown("on_error", on_error, ("raise", "skip"))
    models = [model if hasattr(model, "encode_images") else load_model(model) for model in models]
    image_sets = list(image_sets)
    _refuse_twins("model", [model.spec.id for model in models])
    _refuse_twins("image set", [images.name for images in image_sets])
    manifests = [images.manifest() for images in image_sets]
    results, planned, present = {}, [], set(store.keys())
    for model in models:
        try:
            tasks = [
                Task(model, images, unit_identity(model, images, manifest))
                for images, manifest in zip(image_sets, manifests, strict=True)
            ]
        except ClipsafeError as error:
            if on_error == "raise":
                raise
            results |= {(model.spec.id, images.name): error for images in image_sets}
            continue
        planned.append(tasks)
        for task in tasks:
            name = next((name for name in (task.key, task.key + ANSWERS)[: 1 + answers_do] if name in present), None)
            if name:
                results[task.pair] = store.load(name)
    return results, planned


def unit_identity(model, images, manifest=None):
    """What decides a unit's numbers, as a JSON-serialisable dict; its content key names the unit."""
    return {
        "model": model.identity,
        "images": {"name": images.name, "manifest": manifest or images.manifest()},
        "protocol": PROTOCOL,
    }


def _refuse_twins(kind, names):
    for name in names:
        if names.count(name) > 1:
            raise ClipsafeError(f"two {kind}s are called {name!r}; names key the results, so each needs its own.")


@dataclass(frozen=True, eq=False)
class Task:
    """One unit to be had: a model and an image set."""

    model: object
    images: object
    identity: dict

    @cached_property
    def key(self):
        return content_key(self.identity)

    @property
    def pair(self):
        return self.model.spec.id, self.images.name


def _run(tasks, store, batch_size, workers, progress, on_error):
    """Units of tasks that share images and preprocessing, the missing ones computed in one pass over the images."""
    images, failed = tasks[0].images, {}
    title = f"{images.name}: {tasks[0].model.spec.id}" + (f" and {len(tasks) - 1} more" if len(tasks) > 1 else "")
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(images), desc=title, unit="img", disable=None if progress else True, leave=False)
        )
        # Models of other names may be the same in content: one task a key. Sorted, so that processes which want
        # overlapping units take the locks in the same order.
        for key in sorted({task.key for task in tasks}):
            stack.enter_context(store.lock(key, lambda: bar.set_description(f"{images.name}: waiting for its turn")))
        bar.set_description(title)
        todo = []
        for task in {task.key: task for task in tasks if task.key not in store}.values():
            try:
                task.model.network  # noqa: B018  (loads the weights)
                todo.append(task)
            except ClipsafeError as error:
                if on_error == "raise":
                    raise
                failed[task.key] = error
        if todo:
            started = time.perf_counter()
            writers = [stack.enter_context(store.writer(task.key, task.model.kind)) for task in todo]
            kept, unreadable, own = _stream(images, todo, writers, batch_size, workers, bar)
            frame = _image_frame(images, kept)
            shared = (time.perf_counter() - started - sum(own)) / len(todo)
            for task, writer, seconds in zip(todo, writers, own, strict=True):
                writer.finish(frame, _record(task, unreadable, seconds + shared))
    return {task.pair: failed.get(task.key) or store.load(task.key) for task in tasks}


def _stream(images, tasks, writers, batch_size, workers, bar):
    kept, unreadable, seconds = [], [], np.zeros(len(tasks))
    models = [task.model for task in tasks]

    def look(model, writer, pixels):
        started = time.perf_counter()
        for part in _portions(pixels, model.device):
            writer.append(*_encode(model, part))
        return time.perf_counter() - started

    loader = DataLoader(
        _Decoded(images, models[0].transform),
        batch_size=batch_size,
        num_workers=workers if len(images) > batch_size else 0,
        collate_fn=_collate,
        pin_memory=models[0].device.type == "cuda",
    )
    with _side_by_side(models) as (mapped, n_threads):
        for indices, pixels, errors in loader:
            unreadable += [{"image_id": images.image_ids[i], "error": message} for i, message in errors]
            kept += indices
            if indices:
                seconds += list(mapped(look, models, writers, repeat(pixels)))
            bar.update(len(indices) + len(errors))
    return kept, unreadable, seconds / n_threads


def _is_small(network):
    return isinstance(network, torch.nn.Module) and sum(p.numel() for p in network.parameters()) < _SMALL


@contextlib.contextmanager
def _side_by_side(models):
    """A `map` in which small networks of a pass share a CPU's cores, and how many run at the same time.

    A core with a small network of its own does a third more than several that share each of its layers. Large ones
    keep all cores busy, and the smaller would wait for the largest.
    """
    cores = torch.get_num_threads()
    small = models[0].device.type == "cpu" and all(_is_small(model.network) for model in models)
    n_threads = min(cores, len(models)) if small else 1
    if n_threads == 1:
        yield map, 1
        return
    try:
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(cores // n_threads,)) as pool:
            yield pool.map, n_threads
    finally:
        torch.set_num_threads(cores)  # the threads' setting is also that of threads to come


def _portions(pixels, device):
    return pixels.split(max(1, _CACHED // pixels[0].numel()) if device.type == "cpu" else len(pixels))


def _encode(model, pixels):
    """Arguments of `UnitWriter.append`."""
    try:
        if getattr(model, "keeps_features", False):
            return model.encode_with_features(pixels)
        return (model.encode_images(pixels),)
    except torch.OutOfMemoryError:
        raise ClipsafeError(
            f"{model.device} has no memory left for model {model.spec.id!r} at batch size {len(pixels)}; finished "
            "units are kept: lower `batch_size`, and run again."
        ) from None


class _Decoded(Dataset):
    """Preprocessed images; what cannot be read comes with its error instead."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        try:
            image = self.images.image(index)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
            return index, None, " ".join(str(error).split())[:200]
        return index, self.transform(image), None

    def __getitems__(self, indices):
        """A batch: sets that render their images do so many at a time."""
        if not hasattr(self.images, "render"):
            return [self[index] for index in indices]
        rendered = self.images.render(indices[0], indices[-1] + 1)
        return [(i, self.transform(Image.fromarray(one)), None) for i, one in zip(indices, rendered, strict=True)]


def _collate(items):
    good = [(index, pixels) for index, pixels, error in items if error is None]
    pixels = torch.stack([pixels for _, pixels in good]) if good else None
    return [index for index, _ in good], pixels, [(index, error) for index, _, error in items if error is not None]


def _image_frame(images, kept):
    kept = np.asarray(kept, int)
    frame = pd.DataFrame({"image_id": np.asarray(images.image_ids, object)[kept], "label": images.labels[kept]})
    if images.annotations is not None:
        frame = frame.join(images.annotations.iloc[kept].reset_index(drop=True))
    return frame


def _record(task, unreadable, seconds):
    model = task.model
    return {
        "model": model.spec.id,
        "image_set": task.images.name,
        "identity": task.identity,
        "failed": unreadable,
        "logit_scale": model.logit_scale,
        "logit_bias": model.logit_bias,
        "seconds": round(seconds, 3),  # the model's own, and its share of what all models of the pass waited for
        "device": str(model.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
