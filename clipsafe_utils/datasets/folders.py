"""What lies in a folder: fast listings that open no image."""

import os
from pathlib import Path

from clipsafe_utils.errors import ClipsafeError

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"P5", b"P6")
LITTER = ("__MACOSX", "lost+found")


def existing_folder(root):
    """The folder as a path, `~` expanded; refused in one line if it is not there or is a file."""
    root = Path(root).expanduser()
    if not root.exists():
        above = next((parent for parent in root.parents if parent.exists()), Path("/"))
        raise ClipsafeError(f"{root} does not exist (its nearest existing parent is {above}); check the path.")
    if not root.is_dir():
        raise ClipsafeError(f"{root} is a file, not a folder; unpack archives first and give the folder of images.")
    return root


def listing(folder):
    """Subfolders and image files of a folder: two lists of names, sorted.

    Links are followed. Hidden files (macOS writes `._NAME.JPEG` twins) and files that are no images are left out; a
    file without any suffix counts if it starts like an image. A dangling link with an image suffix is an image: it
    shall surface as unreadable later, not vanish here.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in LITTER:
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif _is_image(entry):
                    files.append(entry.name)
    except OSError as error:
        raise ClipsafeError(f"{folder} cannot be listed ({error.strerror}); check that you may read it.") from error
    return sorted(folders), sorted(files)


def _is_image(entry):
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix:
        return suffix in SUFFIXES
    if not entry.is_file():
        return False
    try:
        with open(entry.path, "rb") as file:
            head = file.read(12)
    except OSError:
        return True  # what cannot be read cannot be ruled out
    return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def images_below(folder, prefix="", _seen=frozenset()):
    """Images in a folder and all below it, as sorted posix paths that start with `prefix`; link loops are cut."""
    real = os.path.realpath(folder)
    if real in _seen:
        return []
    folders, files = listing(folder)
    found = [f"{prefix}{name}" for name in files]
    for name in folders:
        found += images_below(os.path.join(folder, name), f"{prefix}{name}/", _seen | {real})
    return found
