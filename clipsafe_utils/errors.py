"""Errors a user can act on: what is wrong, what was given, what would work."""

import difflib


class ClipsafeError(ValueError):
    """A mistake in what the user gave; its message is one line with a cause and a remedy.

    The command line prints the message alone, and so does Jupyter: the traceback would lead into our code, not to
    the cause.
    """

    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]


def unknown(kind, given, options, *, hint=""):
    """Build the error for a name that is not among the known ones.

    Parameters
    ----------
    kind : str
        What was named, for example "image set".
    given : str
        The name that was given.
    options : iterable of str
        Valid names.
    hint : str, default ""
        Where to read more; appended as a sentence.

    Returns
    -------
    ClipsafeError
        Names the nearest valid name, and lists all of them if there are at most thirty.
    """
    options = sorted(map(str, options))
    nearest = difflib.get_close_matches(str(given), options, n=1, cutoff=0.5)
    listed = f"valid: {', '.join(options)}" if len(options) <= 30 else f"{len(options)} are known"
    message = f"unknown {kind} {str(given)!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ";") + f" {listed}."
    return ClipsafeError(f"{message} {hint}".rstrip())
