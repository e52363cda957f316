"""Names by content, files written whole: what has the same key was made from the same things and is complete."""

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path

from clipsafe_utils.errors import ClipsafeError

_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)


def cache_folder():
    """Folder of what can be had again: CLIPSAFE_CACHE if set, else ~/.cache/clipsafe."""
    return Path(os.environ.get("CLIPSAFE_CACHE", Path.home() / ".cache" / "clipsafe"))


def content_key(identity):
    """Key of whatever a JSON-serialisable description identifies: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def file_digest(path):
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def writing(path):
    """Turn a disk that takes no files into one line.

    Raises
    ------
    ClipsafeError
        No permission, no space left, or a file where a folder should be.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise ClipsafeError(
            f"cannot write {path}: {os.strerror(error.errno).lower()}. What is finished is kept: free space or change "
            "permissions there, or choose another `outputs` folder, and run again."
        ) from None


@contextlib.contextmanager
def whole_file(path):
    """Write a file whole or not at all: yields a temporary path that takes the place of `path` at the end.

    Raises
    ------
    ClipsafeError
        As `writing`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
