"""What the models said: one unit a (model, image set), keyed by the content of what made it.

A unit is a folder `units/KEY/` that holds `array.safetensors` (image embeddings or logits, one row an image),
`features.safetensors` where a classifier's features before its head were asked for (`features: true`),
`images.parquet` (image id, label, annotations) and `record.json` (what made it, what failed, how long it took). It is
written beside its final place and renamed, so it is there whole or not at all.

A store behind an URL (s3://BUCKET/PATH, whatever fsspec opens) holds the same files as objects. Objects cannot be
renamed, so a unit's data are uploaded first, under names that carry their digests, and its record last: a unit is there
when its record is, and the record fits the data even where two machines wrote the same unit. What is read is kept in
a folder of the user's caches.

With `keep: scores`, `units/KEY-answers` takes a unit's place: `answers.safetensors`, what the sections asked of the
array, is there in its stead.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from clipsafe_utils.content import cache_folder, content_key, file_digest, whole_file, writing
from clipsafe_utils.errors import ClipsafeError

ANSWERS = "-answers"
"""Suffix of what stays of a unit with `keep: scores`."""

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
        Its folder; of a store behind an URL the copy, filled when needed.
    record : dict
        `model`, `image_set`, `kind`, `identity`, `n`, `failed`, `logit_scale`, `logit_bias`, `seconds`, `versions`.
    """

    key: str
    path: Path
    record: dict
    _bucket: object = field(default=None, repr=False)

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
        """Rows of the model's output, memory-mapped, read-only: float32 of shape (n, width).

        Raises
        ------
        ClipsafeError
            Damaged, or only the answers were kept.
        """
        if not self.has_array:
            raise ClipsafeError(
                f"of {self.record['model']} on {self.record['image_set']} only the answers to the sections' questions "
                "were kept (`keep: scores`); `keep: embeddings` runs the model again."
            )
        return self._rows("array.safetensors", self.kind)

    @cached_property
    def features(self):
        """What a classifier's head made the logits from, like `array`; None where it was not kept."""
        kept = "features.safetensors" in self.record["sha256"]
        return self._rows("features.safetensors", "features") if kept else None

    def _rows(self, name, tensor):
        with self._intact(name) as path:
            with path.open("rb") as file:
                header_size = int.from_bytes(file.read(8), "little")
                info = json.loads(file.read(header_size))[tensor]
            offset, shape = 8 + header_size, tuple(info["shape"])
            if path.stat().st_size != offset + info["data_offsets"][1]:
                raise ValueError("cut short")
        if 0 in shape:
            return np.zeros(shape, np.float32)
        return np.memmap(path, np.float32, "r", offset, shape)

    @property
    def has_array(self):
        """Whether the model's outputs are there, and not only answers that were drawn from them."""
        return "answers" not in self.record

    def answer(self, key):
        """What was kept under a key: an array, or a tuple of arrays; None if nothing was."""
        if (length := self.record.get("answers", {}).get(key)) is None:
            return None
        with self._intact("answers.safetensors") as path, safe_open(path, framework="numpy") as file:
            found = tuple(file.get_tensor(f"{key}.{i}") for i in range(max(length, 1)))
        return found if length else found[0]

    @cached_property
    def images(self):
        """One row an image, aligned with `array`: image_id, label, and the set's annotations."""
        with self._intact("images.parquet") as path:
            return pd.read_parquet(path)

    @property
    def labels(self):
        """Class indices, int64 of shape (n,); -1 where there is none."""
        return self.images["label"].to_numpy()

    def file(self, name):
        """Path of one of the unit's files, fetched first if the store is behind an URL."""
        path = self.path / name
        if self._bucket and not path.exists():
            self._bucket.get(_data_object(self.path.name, name, self.record), path)
        return path

    @contextlib.contextmanager
    def _intact(self, name):
        path = self.path / name
        try:
            yield self.file(name)
        except ClipsafeError:
            raise
        except (OSError, ValueError, KeyError, TypeError):  # what readers make of missing, cut and garbled files
            raise ClipsafeError(
                f"unit {self.key} is damaged: {path} cannot be read. Delete {self.path} and run again."
            ) from None


class Store:
    """A folder of units and zero-shot heads; several processes, and machines that share it, may use it at once.

    Parameters
    ----------
    path : str or Path
        Folder, created if missing, or an URL that fsspec opens. A lock keeps two processes from computing one unit
        twice; behind an URL only those of one machine.

    Raises
    ------
    ClipsafeError
        The folder cannot be made or written to, or the URL not be reached.
    """

    def __init__(self, path):
        url = str(path)
        self.bucket = _Bucket(url) if "://" in url and not url.startswith("file://") else None
        self.path = self.bucket.copy if self.bucket else Path(url.removeprefix("file://"))
        with writing(self.path):
            for name in ("units", "heads", "locks", "tmp"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            if not os.access(self.path / "tmp", os.W_OK):
                raise PermissionError(errno.EACCES, "not writable")

    def __contains__(self, key):
        if self.bucket:
            return self.bucket.has(f"units/{key}/record.json")
        return (self.path / "units" / key / "record.json").is_file()

    def __len__(self):
        return len(self.keys())

    def __repr__(self):
        return f"Store({self.place!r}, {len(self)} units)"

    @property
    def place(self):
        """Its folder or URL."""
        return self.bucket.url if self.bucket else str(self.path)

    def keys(self):
        """Keys of the finished units, sorted."""
        records = "units/*/record.json"
        paths = self.bucket.paths(records) if self.bucket else (self.path / "units").glob("*/record.json")
        return sorted(path.parent.name for path in paths)

    def load(self, key):
        """Open a unit; its array is memory-mapped on first use.

        Raises
        ------
        ClipsafeError
            No such unit, or an unreadable record.
        """
        folder = self.path / "units" / key
        try:
            if self.bucket and not (folder / "record.json").exists():
                self.bucket.get(f"units/{key}/record.json", folder / "record.json")
            record = json.loads((folder / "record.json").read_text())
            return Unit(key.removesuffix(ANSWERS), folder, record, self.bucket)
        except FileNotFoundError:
            raise ClipsafeError(f"no unit {key!r} in {self.place}; {len(self)} are there, see Store.frame().") from None
        except json.JSONDecodeError:
            raise ClipsafeError(f"unit {key} has a broken record. Delete {folder} and run again.") from None

    def frame(self):
        """One row a unit: key, model, image set, kind, n, failed images, seconds, bytes; a pandas frame."""
        columns = ["key", "model", "image_set", "kind", "n", "n_failed", "width", "seconds", "bytes"]
        rows = []
        for unit in map(self.load, self.keys()):
            widths = [unit.record[name] for name in ("width", "width_features") if name in unit.record]
            size = {"bytes": sum(8 + _HEADER_BYTES + 4 * unit.record["n"] * width for width in widths)}
            record = size | unit.record | {"key": unit.path.name, "n_failed": len(unit.failed)}
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
            if keys := self.keys():
                for key in keys if self.bucket else ():
                    self.load(key).file("images.parquet")
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
                    if file_digest(unit.file(name)) != digest:
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
            `append(rows, features)`, then `finish(images, record)`; without `finish` nothing is kept.
        """
        with self._placing(key) as folder:
            yield UnitWriter(folder, kind)

    @contextlib.contextmanager
    def _placing(self, key):
        """A folder that becomes a unit if it holds a record in the end."""
        for stale in (self.path / "tmp").glob(f"{key}.*"):
            shutil.rmtree(stale, ignore_errors=True)
        folder = self.path / "tmp" / f"{key}.{uuid.uuid4().hex[:8]}"
        try:
            with writing(folder):
                folder.mkdir()
            yield folder
            if (folder / "record.json").exists():
                if self.bucket:
                    record = json.loads((folder / "record.json").read_text())
                    for name in record["sha256"]:
                        self.bucket.put(folder / name, _data_object(key, name, record))
                    self.bucket.put(folder / "record.json", f"units/{key}/record.json")
                with writing(self.path):
                    final = self.path / "units" / key
                    shutil.rmtree(final, ignore_errors=True)
                    folder.rename(final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep_answers(self, unit, answers):
        """Put answers in the place of a unit's array; those kept before stay.

        Parameters
        ----------
        unit : Unit
        answers : dict of str to ndarray or tuple of ndarray
        """
        name = unit.key + ANSWERS
        with self.lock(unit.key):
            if name in self:
                kept = self.load(name)
                answers = {key: kept.answer(key) for key in kept.record["answers"]} | answers
            tensors = {
                f"{key}.{i}": np.array(array)
                for key, answer in answers.items()
                for i, array in enumerate(answer if isinstance(answer, tuple) else (answer,))
            }
            lengths = {key: len(answer) if isinstance(answer, tuple) else 0 for key, answer in answers.items()}
            with self._placing(name) as folder, writing(folder):
                shutil.copy(unit.file("images.parquet"), folder)
                (folder / "answers.safetensors").write_bytes(save(tensors))
                size = (folder / "answers.safetensors").stat().st_size
                _close(folder, unit.record | {"answers": lengths, "bytes": size}, "answers.safetensors")
            self._remove(unit.key)

    def _remove(self, key):
        if self.bucket:
            self.bucket.remove(f"units/{key}")
        (self.path / "units" / key / "record.json").unlink(missing_ok=True)
        shutil.rmtree(self.path / "units" / key, ignore_errors=True)

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
        name = f"heads/{key}.safetensors"
        path = self.path / name
        if not path.is_file():
            with self.lock(f"head-{key}"):
                if self.bucket and not path.is_file() and self.bucket.has(name):
                    self.bucket.get(name, path)
                if not path.is_file():
                    arrays = save({name: np.ascontiguousarray(array) for name, array in compute().items()})
                    with whole_file(path) as temporary:
                        temporary.write_bytes(arrays)
                        if self.bucket:
                            self.bucket.put(temporary, name)
        try:
            return load_file(path)
        except SafetensorError:
            raise ClipsafeError(f"the zero-shot head {path} is damaged. Delete it and run again.") from None


def _data_object(key, name, record):
    return f"units/{key}/{record['sha256'][name][:16]}.{name}"


class _Bucket:
    """Objects below an URL, and the folder that holds copies of them.

    Credentials, end points and the like come from where fsspec and its drivers look for them.
    """

    def __init__(self, url):
        self.url, self.copy = url.rstrip("/"), cache_folder() / "stores" / content_key(url.rstrip("/"))
        with self._reaching():
            self._system, root = url_to_fs(self.url)
            self._root = root.rstrip("/")
            self.has("units")  # an URL that nobody serves shall not surface after an hour of work

    def has(self, name):
        with self._reaching():
            self._system.invalidate_cache()  # other machines write too
            return self._system.exists(f"{self._root}/{name}")

    def paths(self, pattern):
        with self._reaching():
            self._system.invalidate_cache()
            return [PurePosixPath(path) for path in self._system.glob(f"{self._root}/{pattern}")]

    def get(self, name, path):
        with self._reaching(FileNotFoundError), whole_file(path) as temporary:
            self._system.get_file(f"{self._root}/{name}", str(temporary))

    def put(self, path, name):
        with self._reaching():
            if not isinstance(self._system, AsyncFileSystem):  # those are object stores, where it would make a bucket
                self._system.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
            self._system.put_file(str(path), f"{self._root}/{name}")

    def remove(self, name):
        with self._reaching():
            self._system.invalidate_cache()
            paths = self._system.find(f"{self._root}/{name}")
            for path in sorted(paths, key=lambda path: not path.endswith("record.json")):  # without it, no unit
                self._system.rm_file(path)

    @contextlib.contextmanager
    def _reaching(self, *expected):
        try:
            yield
        except (ClipsafeError, *expected):
            raise
        except Exception as error:  # each driver has errors of its own
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ClipsafeError(
                f"the store {self.url} cannot be used: {reason}. What is finished is kept: check the URL, its driver "
                "(s3fs for s3://, gcsfs for gs://) and your credentials, or choose another `store`, and run again."
            ) from None


class UnitWriter:
    """Streams rows into a safetensors file, so memory stays flat in the number of images."""

    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind
        self.n, self._widths = 0, {}
        self._start("array", 0)

    def append(self, rows, features=None):
        """Add rows: array of shape (n, width), and the features of the same images if they are kept."""
        self.n += len(rows)
        for name, block in {"array": rows, "features": features}.items():
            if block is None:
                continue
            block = np.ascontiguousarray(block, np.float32)
            if not self._widths.get(name):
                self._start(name, block.shape[1])
            with writing(self.folder), self._file(name).open("ab") as file:
                file.write(block)

    def _file(self, name):
        return self.folder / f"{name}.safetensors"

    def _start(self, name, width):
        self._widths[name] = width
        with writing(self.folder):  # room for a header, before the number of rows is known
            self._file(name).write_bytes(b" " * (8 + _HEADER_BYTES))

    def finish(self, images, record):
        """Close the unit with its image frame and record (a JSON-serialisable dict)."""
        with writing(self.folder):
            for name, width in self._widths.items():
                tensor = self.kind if name == "array" else name
                entry = {"dtype": "F32", "shape": [self.n, width], "data_offsets": [0, 4 * self.n * width]}
                header = json.dumps({tensor: entry}).encode().ljust(_HEADER_BYTES)  # the format admits trailing spaces
                with self._file(name).open("r+b") as file:
                    file.write(_HEADER_BYTES.to_bytes(8, "little") + header)
            images.to_parquet(self.folder / "images.parquet", index=False)
            widths = {"width" if name == "array" else f"width_{name}": width for name, width in self._widths.items()}
            record = record | {"kind": self.kind, "n": self.n} | widths
            _close(self.folder, record, *(f"{name}.safetensors" for name in self._widths))


def _close(folder, record, *data):
    """Write a unit's record, with the digests of its files, when everything else is on the disk."""
    digests = {name: file_digest(folder / name) for name in (*data, "images.parquet")}
    (folder / ".record.json").write_text(json.dumps(record | {"sha256": digests}, indent=1))
    for name in (*digests, ".record.json"):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    (folder / ".record.json").rename(folder / "record.json")
