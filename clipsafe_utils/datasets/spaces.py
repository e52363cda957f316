"""Label spaces: how the outputs of a classifier become the classes of a test set."""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsafe_utils.errors import ClipsafeError, unknown

OUTPUT_SIZES = {"imagenet1k": 1000}
"""Output space -> number of outputs; others (a user's, the laboratory's) hold at least their largest member."""


@dataclass(frozen=True, repr=False)
class LabelSpace:
    """The classes of an image set and where they sit among a classifier's outputs.

    Attributes
    ----------
    outputs : str
        Output space that `members` index, "imagenet1k" or "" if there is none.
    names : tuple of str
        One name a class. ImageNet spaces carry WordNet ids, since English names differ between lists (and two of them
        are shared by two classes); the prompts turn ids into words.
    members : tuple of tuple of int, or None
        Outputs that belong to each class: its logit is their maximum. None where no classifier output is meant.
    """

    outputs: str
    names: tuple
    members: tuple | None = None

    def __post_init__(self):
        if self.members is not None and (len(self.members) != len(self.names) or not all(self.members)):
            raise ClipsafeError(f"a label space of {len(self.names)} classes needs at least one output for each.")

    def __len__(self):
        return len(self.names)

    def __repr__(self):
        return f"LabelSpace({len(self):,} classes" + (f" of {self.outputs})" if self.outputs else ")")

    def reduce(self, logits):
        """Logits of the classes from logits of the outputs.

        Parameters
        ----------
        logits : array (n, n_outputs)
            Scores over the whole output space; over the classes already where the space has no `members`.

        Returns
        -------
        array (n, n_classes)
            Column subset if each class is one output, else the maximum over its outputs; `logits` itself, uncopied,
            if the classes are the outputs. Subset first, softmax after: probabilities then sum to one over the classes.

        Raises
        ------
        ClipsafeError
            The number of columns is not that of the output space.
        """
        width = logits.shape[1]
        if self.members is None:
            expected = len(self.names) or width
        else:
            expected = OUTPUT_SIZES.get(self.outputs, max(width, 1 + max(map(max, self.members))))
        if width != expected:
            raise ClipsafeError(
                f"logits have {width:,} columns, this label space needs {expected:,} "
                f"({self.outputs or 'one a class'}); use a model with these outputs."
            )
        if self.members is None:
            return logits
        columns = [output for members in self.members for output in members]
        if columns == list(range(expected)) and len(self.members) == expected:
            return logits
        starts = np.cumsum([0, *map(len, self.members[:-1])])
        logits = np.asarray(logits)[:, columns]
        return logits if len(columns) == len(self.members) else np.maximum.reduceat(logits, starts, axis=1)

    def widened(self, whole):
        """These classes, and behind them those of a larger space that share no output with them.

        Labels stay what they were; an image can now be mistaken for a class that its set does not have.
        """
        taken = {output for members in self.members or () for output in members}
        rest = [k for k, members in enumerate(whole.members or ()) if taken.isdisjoint(members)]
        if self.members is None or not rest:
            return self
        names = (*self.names, *(whole.names[k] for k in rest))
        return LabelSpace(self.outputs, names, (*self.members, *(whole.members[k] for k in rest)))

    def by_name(self):
        """The classes as prompts alone know them, where the set names them in words; else the space itself."""
        if self.outputs != "imagenet1k" or set(self.names) <= set(imagenet_wnids()):
            return self
        return LabelSpace("", tuple(name.lower() for name in self.names))


NO_CLASSES = LabelSpace("", ())
"""Of out-of-distribution sets: they have no classes of their own, scores use the space of the in-distribution set."""


def package_file(package, *parts):
    """Path of a data file that another package ships, found without importing it."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent.joinpath(*parts) if spec else None
    if path is None or not path.is_file():
        raise ClipsafeError(f"{'/'.join(parts)} of the package {package} is missing; install the pinned {package}.")
    return path


@functools.cache
def imagenet_wnids(subset=""):
    """WordNet ids of ImageNet-1k in the order of the outputs, or of its subset "a" or "r" (lists shipped by timm)."""
    if subset not in ("", "a", "r"):
        raise unknown("ImageNet subset", subset, ["a", "r"])
    name = f"imagenet_{subset}_synsets.txt" if subset else "imagenet_synsets.txt"
    return tuple(package_file("timm", "data", "_info", name).read_text().split())


@functools.cache
def imagenet_space(subset=""):
    """Label space of ImageNet-1k, or of the 200 classes of ImageNet-A ("a") or -R ("r")."""
    index = {wnid: k for k, wnid in enumerate(imagenet_wnids())}
    wnids = sorted(imagenet_wnids(subset), key=index.__getitem__)
    return LabelSpace("imagenet1k", tuple(wnids), tuple((index[wnid],) for wnid in wnids))
