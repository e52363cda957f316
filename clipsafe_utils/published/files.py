"""Where the published files are, and how a CSV of somebody else's is read without trusting it."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd

from clipsafe_utils.errors import ClipsafeError, unknown

HERE = Path(__file__).parent
FILES = pd.read_csv(HERE / "files.csv", index_col="path")
"""Path within the folder -> url, sha256, licence."""


def published_file(path, folder=None):
    """Local path of a published file, downloaded if need be.

    Parameters
    ----------
    path : str
        As in `files.csv`, for example "accuracy/openclip_results.csv".
    folder : path, optional
        Where to look first; default: the environment variable CLIPSAFE_PUBLISHED, else ../shared/published.

    Returns
    -------
    Path
        In the folder, as it is; or in the cache (CLIPSAFE_CACHE, else the user's), with the recorded sha256.

    Raises
    ------
    ClipsafeError
        Unknown path; no connection; or a file that is not the one recorded.
    """
    folder = _folder(folder)
    if (folder / path).is_file():
        return folder / path
    if path not in FILES.index:
        raise unknown("published file", path, FILES.index)
    import pooch  # only where something is missing: it brings the network with it

    origin = FILES.loc[path]
    cached = Path(os.environ.get("CLIPSAFE_CACHE") or pooch.os_cache("clipsafe")) / "published" / path
    try:
        pooch.retrieve(origin.url, f"sha256:{origin.sha256}", fname=cached.name, path=cached.parent)
    except (OSError, ValueError) as error:
        tampered = isinstance(error, ValueError) and "hash" in str(error)
        why = "its content is not the recorded one (sha256)" if tampered else f"no download ({type(error).__name__})"
        raise ClipsafeError(
            f"the published file {path} is not in {folder}, and {origin.url} failed: {why}; "
            f"get it by hand and put it at {folder / path}, or set CLIPSAFE_PUBLISHED to a folder that holds it."
        ) from None
    return cached


def members(prefix, folder):
    """Files of one kind: the recorded ones, and those a user added to the folder."""
    recorded = [path for path in FILES.index if path.startswith(f"{prefix}/")]
    added = sorted(f"{prefix}/{file.name}" for file in (_folder(folder) / prefix).glob("*.csv"))
    return list(dict.fromkeys([*recorded, *added]))


def read_csv(path, columns, folder=None, *, numbers=(), key=()):
    """Read a published CSV file as text, its numbers as floats.

    Parameters
    ----------
    path, folder
        See `published_file`.
    columns : list of str
        Columns that must be there; further ones are kept.
    numbers : list of str, or None for all but the key
        Columns of numbers; empty cells become NaN.
    key : list of str
        Columns that together name a row, once.

    Raises
    ------
    ClipsafeError
        The file cannot be had or read, lacks a column, is cut short, repeats a key, or has a word among its numbers.
    """
    try:
        text = published_file(path, folder).read_text(encoding="utf-8")
        header, *rows = [row for row in csv.reader(io.StringIO(text)) if row] or [[]]
    except OSError as error:
        raise ClipsafeError(f"{path} cannot be read: {error.strerror}; check its permissions.") from None
    except (ValueError, csv.Error) as error:  # undecodable bytes, broken quotes
        raise ClipsafeError(f"{path} is no CSV table ({error}); get it again.") from None
    if missing := [column for column in columns if column not in header]:
        raise ClipsafeError(f"{path} lacks the column {missing[0]!r}; its columns are {header[:8]}.")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ClipsafeError(f"{path} has {len(row)} cells in row {number}, {len(header)} columns; get it again.")
    if not rows or not text.endswith("\n"):
        raise ClipsafeError(f"{path} is cut short after row {len(rows) + 1}; get it again.")
    frame = pd.DataFrame(rows, columns=header, dtype=str)
    if key and (twins := frame.duplicated(key)).any():
        raise ClipsafeError(
            f"{path}: column {key[0]!r} lists {frame.loc[twins, key[0]].iloc[0]!r} twice; keep one row."
        )
    for column in frame.columns.difference(key, sort=False) if numbers is None else numbers:
        values = pd.to_numeric(frame[column].str.replace(",", ""), errors="coerce").astype(np.float64)
        if (words := values.isna() & ~frame[column].str.strip().isin(["", "NaN", "nan"])).any():
            row = int(np.argmax(words))
            raise ClipsafeError(
                f"{path}: column {column!r} holds numbers; got {frame[column][row]!r} in row {row + 2}."
            )
        frame[column] = values
    return frame


def _folder(folder):
    default = HERE.parents[2] / "shared" / "published"
    return Path(folder or os.environ.get("CLIPSAFE_PUBLISHED") or default)
