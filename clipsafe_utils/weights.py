"""Files of weights: where they are, what they hold, and that reading them runs no code."""

import argparse
import contextlib
import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from clipsafe_utils.content import cache_folder, file_digest
from clipsafe_utils.errors import ClipsafeError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
HARMLESS = [argparse.Namespace]
"""Types beyond tensors that checkpoints may hold: training scripts store their options."""


def local_file(folder, *stems):
    """First file of weights in `folder` that is called like one of the stems; None if there is none."""
    if folder is None:
        return None
    paths = (Path(folder) / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES)
    return next(filter(Path.is_file, paths), None)


def hub_file(spec, repository, filename=""):
    """Path of a file of the Hugging Face hub, fetched into its cache if need be.

    Raises
    ------
    ClipsafeError
        The file is neither in the cache nor to be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    names = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    with fetching(spec, f"{repository}:{names[0]}"):
        for name in names[:-1]:
            with contextlib.suppress(EntryNotFoundError):
                return Path(hf_hub_download(repository, name))
        return Path(hf_hub_download(repository, names[-1]))


@contextlib.contextmanager
def fetching(spec, origin):
    """Turn whatever a download raises into one line."""
    try:
        yield
    except Exception as error:
        raise ClipsafeError(
            f"the weights of model {spec.id!r} are not on this machine and could not be fetched from {origin} "
            f"({type(error).__name__}). Fetch them where there is a network, or put a file named {spec.id}.safetensors "
            "into the `checkpoints` folder."
        ) from None


def refuse_code(path):
    """Raise unless a checkpoint can be read without running code.

    Raises
    ------
    ClipsafeError
        A pickle that names functions to call, or a file that is no checkpoint.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy"):
                return
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False):
                return
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings(action="ignore"):
            torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = str(error).split("GLOBAL ")[-1].split(" ")[0] if "GLOBAL" in str(error) else "unknown instructions"
        raise ClipsafeError(
            f"checkpoint {path} would run code when loaded ({blocked}); it was not loaded. Convert it to safetensors "
            "where you trust it."
        ) from None
    except Exception as error:  # broken files surface as RuntimeError, EOFError, BadZipFile, KeyError ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ClipsafeError(
            f"{path} is no readable checkpoint: {reason}. Fetch it again, or convert it to safetensors."
        ) from None


def cached_digest(path):
    """SHA-256 of a file, remembered among the user's caches by path, size and time of change."""
    status = os.stat(path)
    stamp = f"{Path(path).resolve()}:{status.st_size}:{status.st_mtime_ns}"
    cache = cache_folder() / "digests.json"
    known = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
    if stamp not in known:
        known[stamp] = file_digest(path)
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
            temporary.write_text(json.dumps(known))
            temporary.replace(cache)
    return known[stamp]
