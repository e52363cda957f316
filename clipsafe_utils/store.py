"""What the models said: one unit a (model, image set), keyed by the content of what made it.

A unit is a folder `units/KEY/` that holds `array.safetensors` (image embeddings or logits, one row an image),
`images.parquet` (image id, label, annotations) and `record.json` (what made it, what failed, how long it took). It is
written beside its final place and renamed, so it is there whole or not at all.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from clipsafe_utils.content import content_key, file_digest, whole_file, writing
from clipsafe_utils.errors import ClipsafeError

_HEADER_BYTES = 1024
_HELD = set()  # files of locks
# A forked worker would share the lock, and keep it when its parent is killed.
os.register_at_fork(after_in_child=lambda: [_HELD.pop().close() for _ in range(len(_HELD))])


@dataclass(frozen=True)
class Unit:
    """What one model said about one image set.

    Attributes
    ----------
    key : str
        Content key.
    path : Path
        Its folder.
    record : dict
        `model`, `image_set`, `kind`, `identity`, `n`, `failed`, `logit_scale`, `logit_bias`, `seconds`, `versions`.
    """

    key: str
    path: Path
    record: dict

    @property
    def kind(self):
        """ "embeddings" (zero-shot CLIP, not normalised) or "logits" (classifiers)."""
        return self.record["kind"]

    @property
    def failed(self):
        """Images that could not be read: list of {"image_id", "error"}."""
        return self.record["failed"]

    @cached_property
    def array(self):
        """Rows of the model's output, memory-mapped, read-only: float32 of shape (n, width)."""
        path = self.path / "array.safetensors"
        with self._intact(path):
            with path.open("rb") as file:
                header_size = int.from_bytes(file.read(8), "little")
                info = json.loads(file.read(header_size))[self.kind]
            offset, shape = 8 + header_size, tuple(info["shape"])
            if path.stat().st_size != offset + info["data_offsets"][1]:
                raise ValueError("cut short")
        if 0 in shape:
            return np.zeros(shape, np.float32)
        return np.memmap(path, np.float32, "r", offset, shape)

    @cached_property
    def images(self):
        """One row an image, aligned with `array`: image_id, label, and the set's annotations."""
        with self._intact(self.path / "images.parquet") as path:
            return pd.read_parquet(path)

    @property
    def labels(self):
        """Class indices, int64 of shape (n,); -1 where there is none."""
        return self.images["label"].to_numpy()

    @contextlib.contextmanager
    def _intact(self, path):
        try:
            yield path
        except (OSError, ValueError, KeyError, TypeError):  # what readers make of missing, cut and garbled files
            raise ClipsafeError(
                f"unit {self.key} is damaged: {path} cannot be read. Delete {self.path} and run again."
            ) from None


class Store:
    """A folder of units and zero-shot heads; several processes may use it at once.

    Parameters
    ----------
    path : str or Path
        Created if missing.

    Raises
    ------
    ClipsafeError
        The folder cannot be made or written to.
    """

    def __init__(self, path):
        self.path = Path(path)
        with writing(self.path):
            for name in ("units", "heads", "locks", "tmp"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            if not os.access(self.path / "tmp", os.W_OK):
                raise PermissionError(errno.EACCES, "not writable")

    def __contains__(self, key):
        return (self.path / "units" / key / "record.json").is_file()

    def __len__(self):
        return len(self.keys())

    def __repr__(self):
        return f"Store({str(self.path)!r}, {len(self)} units)"

    def keys(self):
        """Keys of the finished units, sorted."""
        return sorted(p.parent.name for p in (self.path / "units").glob("*/record.json"))

    def load(self, key):
        """Open a unit; its array is memory-mapped on first use.

        Raises
        ------
        ClipsafeError
            No such unit, or an unreadable record.
        """
        folder = self.path / "units" / key
        try:
            return Unit(key, folder, json.loads((folder / "record.json").read_text()))
        except FileNotFoundError:
            raise ClipsafeError(f"no unit {key!r} in {self.path}; {len(self)} are there, see Store.frame().") from None
        except json.JSONDecodeError:
            raise ClipsafeError(f"unit {key} has a broken record. Delete {folder} and run again.") from None

    def frame(self):
        """One row a unit: key, model, image set, kind, n, failed images, seconds, bytes; a pandas frame."""
        columns = ["key", "model", "image_set", "kind", "n", "n_failed", "width", "seconds", "bytes"]
        rows = []
        for unit in map(self.load, self.keys()):
            size = (unit.path / "array.safetensors").stat().st_size
            record = unit.record | {"key": unit.key, "n_failed": len(unit.failed), "bytes": size}
            rows.append({column: record[column] for column in columns})
        return pd.DataFrame(rows, columns=columns)

    def query(self, sql):
        """Ask the store in SQL (DuckDB).

        Parameters
        ----------
        sql : str
            May use the tables `units` (as `frame`) and `images` (key, image_id, label, annotations of every unit).

        Returns
        -------
        DataFrame

        Examples
        --------
        >>> store.query("select model, count(*) from units join images using (key) group by model")  # doctest: +SKIP
        """
        import duckdb

        with duckdb.connect() as connection:
            connection.register("units", self.frame())
            connection.register("images", pd.DataFrame(columns=["key", "image_id", "label"]))
            if len(self):
                files = str(self.path.resolve() / "units" / "*" / "images.parquet").replace("'", "''")
                connection.execute(
                    "create or replace temp view images as "
                    "select parse_path(filename)[-2] as key, * exclude (filename) "
                    f"from read_parquet('{files}', union_by_name=true, filename=true)"
                )
            try:
                return connection.execute(sql).df()
            except duckdb.Error as error:
                raise ClipsafeError(f"the store cannot answer {sql!r}: {str(error).splitlines()[0]}") from None

    def verify(self):
        """Recompute every unit's checksums; returns a frame of key and problem, empty if all is well."""
        problems = []
        for key in self.keys():
            try:
                unit = self.load(key)
                for name, digest in unit.record["sha256"].items():
                    if file_digest(unit.path / name) != digest:
                        problems.append((key, f"{name} has changed since it was written"))
            except (ClipsafeError, OSError) as error:
                problems.append((key, str(error)))
        return pd.DataFrame(problems, columns=["key", "problem"])

    @contextlib.contextmanager
    def lock(self, key, waiting=lambda: None):
        """Hold a unit's lock; the operating system releases it if the process dies.

        Parameters
        ----------
        key : str
        waiting : callable
            Called once if another process holds the lock.
        """
        with writing(self.path):
            file = (self.path / "locks" / key).open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            _HELD.add(file)
            try:
                yield
            finally:
                _HELD.discard(file)

    @contextlib.contextmanager
    def writer(self, key, kind):
        """Write a unit row block by row block; call with the unit's lock held.

        Yields
        ------
        UnitWriter
            `append(rows)`, then `finish(images, record)`; without `finish` nothing is kept.
        """
        for stale in (self.path / "tmp").glob(f"{key}.*"):
            shutil.rmtree(stale, ignore_errors=True)
        folder = self.path / "tmp" / f"{key}.{uuid.uuid4().hex[:8]}"
        try:
            writer = UnitWriter(folder, kind)
            yield writer
            if writer.finished:
                with writing(self.path):
                    final = self.path / "units" / key
                    shutil.rmtree(final, ignore_errors=True)
                    folder.rename(final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def head(self, identity, compute):
        """A zero-shot head by the content that makes it; computed once.

        Parameters
        ----------
        identity : dict
            Model identity, class names, templates.
        compute : callable
            Returns dict of arrays: `weights` of shape (n_classes, width), `logit_scale`, `logit_bias`.

        Returns
        -------
        dict of ndarray
        """
        key = content_key(identity)
        path = self.path / "heads" / f"{key}.safetensors"
        if not path.is_file():
            with self.lock(f"head-{key}"):
                if not path.is_file():
                    arrays = save({name: np.ascontiguousarray(array) for name, array in compute().items()})
                    with whole_file(path) as temporary:
                        temporary.write_bytes(arrays)
        try:
            return load_file(path)
        except SafetensorError:
            raise ClipsafeError(f"the zero-shot head {path} is damaged. Delete it and run again.") from None


class UnitWriter:
    """Streams rows into a safetensors file, so memory stays flat in the number of images."""

    def __init__(self, folder, kind):
        self.folder, self.kind, self.finished = folder, kind, False
        self.n, self.width, self._array = 0, 0, folder / "array.safetensors"
        with writing(folder):
            folder.mkdir()
            self._array.write_bytes(b" " * (8 + _HEADER_BYTES))

    def append(self, rows):
        """Add rows: array of shape (n, width)."""
        rows = np.ascontiguousarray(rows, np.float32)
        self.width = rows.shape[1]
        self.n += len(rows)
        with writing(self.folder), self._array.open("ab") as file:
            file.write(rows)

    def finish(self, images, record):
        """Close the unit with its image frame and record (a JSON-serialisable dict)."""
        shape = [self.n, self.width]
        header = {self.kind: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * self.n * self.width]}}
        with writing(self.folder):
            with self._array.open("r+b") as file:
                # Room was left before the number of rows was known; the format admits trailing spaces.
                file.write(_HEADER_BYTES.to_bytes(8, "little") + json.dumps(header).encode().ljust(_HEADER_BYTES))
            images.to_parquet(self.folder / "images.parquet", index=False)
            digests = {name: file_digest(self.folder / name) for name in ("array.safetensors", "images.parquet")}
            record = record | {"kind": self.kind, "n": self.n, "width": self.width, "sha256": digests}
            (self.folder / "record.json").write_text(json.dumps(record, indent=1))
            for name in (*digests, "record.json"):
                with (self.folder / name).open("rb") as file:
                    os.fsync(file.fileno())
        self.finished = True
