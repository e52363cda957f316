"""Tar shards as if they were folders: what lies in a set of *.tar files, each image read by its offset.

Two layouts are read, and any mixture of them over any number of shards:

- a plain tar of a folder of images: n01440764/ILSVRC2012_val_00000293.JPEG;
- WebDataset samples: KEY.jpg beside KEY.cls (class index or WordNet id), KEY.json or KEY.txt. Where the json has a
  `path` or `filename`, or the txt is nothing but the name of an image file, the image has that name again.

An image's id is its original path below the class folder's parent, so a set in shards and the same set in folders share
manifest and units.
"""

import functools
import io
import json
import re
import tarfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from clipsafe_utils.errors import ClipsafeError

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
LITTER = ("__MACOSX", "lost+found")
_SAMPLE = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]+)")  # key and extension, as WebDataset splits them
_SIDES = ("cls", "json", "txt")
_JSON_NAMES = ("path", "filename", "file_name")


def is_wanted(name):
    """Whether a file or folder of this name can hold images: hidden ones (macOS writes `._NAME.JPEG` twins) do not."""
    return not name.startswith(".") and name not in LITTER


@dataclass(frozen=True)
class ShardPath:
    """A file or folder in shards; has what the readers need of a `pathlib.Path`."""

    root: Path
    inside: str = ""
    _tree: dict = field(default=None, repr=False, compare=False)  # folder -> {name: None or (shard, offset, size)}

    def __truediv__(self, name):
        return ShardPath(self.root, f"{self.inside}/{name}".strip("/"), self._tree)

    def __str__(self):
        return str(self.root / self.inside)

    @property
    def name(self):
        return self.inside.rpartition("/")[2] or self.root.name

    @property
    def parent(self):
        return ShardPath(self.root, self.inside.rpartition("/")[0], self._tree) if self.inside else self.root.parent

    def is_dir(self):
        return self.inside in self._tree

    def is_file(self):
        return self._place() is not None

    def entries(self):
        """Names in this folder -> whether each is a folder."""
        return {name: place is None for name, place in self._tree.get(self.inside, {}).items()}

    @property
    def size(self):
        """Size in bytes of a file.

        Raises
        ------
        FileNotFoundError
        """
        return self._found()[2]

    def read_bytes(self):
        shard, offset, size = self._found()
        with open(shard, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def read_text(self):
        return self.read_bytes().decode()

    def open(self, mode="rb"):
        return io.BytesIO(self.read_bytes())

    def _place(self):
        folder, _, name = self.inside.rpartition("/")
        return self._tree.get(folder, {}).get(name)

    def _found(self):
        if (place := self._place()) is None:
            raise FileNotFoundError(f"no such file in the shards: {self}")
        return place


def shard_files(root):
    """The *.tar files that are, or lie in, `root`; none if images or folders lie beside them."""
    if root.suffix == ".tar" and root.is_file():
        return [root]
    return sorted(path for path in root.glob("*.tar") if path.is_file() and not path.name.startswith("."))


def open_shards(root, shards, class_folders=None):
    """Index shards; no image is read.

    Parameters
    ----------
    root : Path
        What the user named.
    shards : list of Path
        Tar files, not compressed.
    class_folders : sequence of str, optional
        Folder for each class index in a `cls`; by default the index itself.

    Returns
    -------
    ShardPath

    Raises
    ------
    ClipsafeError
        A shard is no tar file, compressed or cut short; an image comes twice; a `cls` names no class.
    """
    stamps = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in shards)
    return ShardPath(root, "", _tree(stamps, tuple(class_folders or ())))


@functools.lru_cache(maxsize=64)
def _tree(stamps, class_folders):
    tree = defaultdict(dict)
    tree[""]  # the root is there even if the shards are empty
    for shard, length, _ in stamps:
        for path, place in _files(shard, length, class_folders):
            folder, _, name = path.rpartition("/")
            if (known := tree[folder].get(name)) is not None:
                raise ClipsafeError(
                    f"{path} comes twice, in {known[0].name} and in {shard.name}; image ids must be unique."
                )
            tree[folder][name] = place
            while folder:  # make the folders above known
                folder, _, name = folder.rpartition("/")
                tree[folder].setdefault(name, None)
    return dict(tree)


def _files(shard, length, class_folders):
    """Original path and place of each file of a shard."""
    samples, files = defaultdict(dict), {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in filter(tarfile.TarInfo.isreg, tar):
                name = str(PurePosixPath(member.name))
                if not all(map(is_wanted, name.split("/"))):
                    continue
                files[name] = (shard, member.offset_data, member.size)
                if found := _SAMPLE.fullmatch(name):
                    samples[found[1]][found[2].lower()] = name
            if tar.offset >= length:  # cut between two members, which tarfile takes for the end
                raise tarfile.ReadError("its end is missing")
    except tarfile.TarError as error:
        raise ClipsafeError(
            f"shard {shard} cannot be read ({error}); fetch it again, and decompress it if it is compressed: images "
            "are read by their offset."
        ) from None
    with shard.open("rb") as file:

        def content(name):
            file.seek(files[name][1])
            return file.read(files[name][2]).decode(errors="replace").strip()

        for members in samples.values():
            images = [name for name in members.values() if PurePosixPath(name).suffix.lower() in SUFFIXES]
            sides = {side: content(members[side]) for side in _SIDES if side in members and len(images) == 1}
            if sides:
                original = _original_name(sides) or PurePosixPath(images[0])
                folder = next(filter(str, map(_folder, (original, PurePosixPath(images[0])))), "")
                folder = folder or _class_folder(sides.get("cls", ""), class_folders, shard)
                yield f"{folder}/{original.name}".strip("/"), files.pop(images[0])
    yield from files.items()


def _original_name(sides):
    """What json or txt say that the image was called, as a path; None if they do not."""
    try:
        facts = json.loads(sides.get("json", "{}"))
    except ValueError:
        facts = {}
    names = [facts.get(key) for key in _JSON_NAMES] if isinstance(facts, dict) else []
    names += [sides["txt"]] if PurePosixPath(sides.get("txt", "")).suffix.lower() in SUFFIXES else []
    path = next((PurePosixPath(name) for name in names if isinstance(name, str) and name), None)
    # An absolute path is of the machine that packed the shards: what counts is the file and its class folder.
    return PurePosixPath(*path.parts[-2:]) if path and path.is_absolute() else path


def _folder(path):
    return "" if str(path.parent) == "." else str(path.parent)


def _class_folder(label, class_folders, shard):
    if not (label.isdecimal() and class_folders):
        return label.replace("/", " ")
    if int(label) >= len(class_folders):
        raise ClipsafeError(f"shard {shard} has an image of class {label}; expected 0 ... {len(class_folders) - 1}.")
    return class_folders[int(label)]
