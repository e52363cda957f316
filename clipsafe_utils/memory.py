"""What sections asked already, for the time of a notebook."""

from collections import OrderedDict

import numpy as np


class Memory:
    """What was answered already, so that nothing is worked out twice: small answers for good, others while they fit.

    Parameters
    ----------
    most : int
        Bytes of answers larger than `small`; those that were asked for longest ago go first.
    small : int
        Bytes up to which an answer stays.
    """

    def __init__(self, most=2**31, small=2**12):
        self.most, self.small, self.size = most, small, 0
        self._small, self._large = {}, OrderedDict()

    def get(self, key):
        """The answer, or None."""
        if key in self._large:
            self._large.move_to_end(key)
            return self._large[key][0]
        return self._small.get(key)

    def keep(self, key, answer):
        """Remember an answer; returns it, read-only."""
        arrays = [np.asarray(array) for array in (answer if isinstance(answer, tuple) else (answer,))]
        for array in arrays:
            array.flags.writeable = False
        answer, size = tuple(arrays) if isinstance(answer, tuple) else arrays[0], sum(a.nbytes for a in arrays)
        if size <= self.small:
            self._small[key] = answer
        elif size <= self.most:
            self._large[key], self.size = (answer, size), self.size + size
            while self.size > self.most:
                self.size -= self._large.popitem(last=False)[1][1]
        return answer
