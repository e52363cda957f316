"""What lies in a folder: fast listings that open no image."""

import os
from pathlib import Path

from clipsafe_utils.datasets.shards import SUFFIXES, ShardPath, is_wanted, open_shards, shard_files
from clipsafe_utils.errors import ClipsafeError

MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"P5", b"P6")


def existing_folder(root, class_folders=None):
    """The folder as a path, `~` expanded; refused in one line if it is not there or is a file.

    A tar file, or a folder that holds nothing else, is opened as shards; `class_folders` as in `open_shards`.
    """
    root = Path(root).expanduser()
    if not root.exists():
        above = next((parent for parent in root.parents if parent.exists()), Path("/"))
        raise ClipsafeError(f"{root} does not exist (its nearest existing parent is {above}); check the path.")
    if (shards := shard_files(root)) and (root.is_file() or not any(listing(root))):
        return open_shards(root, shards, class_folders)
    if not root.is_dir():
        raise ClipsafeError(f"{root} is a file, not a folder; unpack archives first and give the folder of images.")
    return root


def listing(folder):
    """Subfolders and image files of a folder: two lists of names, sorted.

    Links are followed. Hidden files (macOS writes `._NAME.JPEG` twins) and files that are no images are left out; a
    file without any suffix counts if it starts like an image. A dangling link with an image suffix is an image: it
    shall surface as unreadable later, not vanish here.
    """
    if isinstance(folder, ShardPath):
        entries = folder.entries()
        files = [name for name in entries if not entries[name] and _is_image(name, folder / name)]
        return sorted(name for name in entries if entries[name]), sorted(files)
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_wanted(entry.name):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif _is_image(entry.name, Path(entry.path)):
                    files.append(entry.name)
    except OSError as error:
        raise ClipsafeError(f"{folder} cannot be listed ({error.strerror}); check that you may read it.") from error
    return sorted(folders), sorted(files)


def _is_image(name, path):
    suffix = os.path.splitext(name)[1].lower()
    if suffix:
        return suffix in SUFFIXES
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return True  # what cannot be read cannot be ruled out
    return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def images_below(folder, prefix="", _seen=frozenset()):
    """Images in a folder and all below it, as sorted posix paths that start with `prefix`; link loops are cut."""
    real = os.path.realpath(str(folder))
    if real in _seen:
        return []
    folders, files = listing(folder)
    found = [f"{prefix}{name}" for name in files]
    for name in folders:
        below = folder / name if isinstance(folder, ShardPath) else os.path.join(folder, name)
        found += images_below(below, f"{prefix}{name}/", _seen | {real})
    return found
