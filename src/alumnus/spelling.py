"""Errors that help: an unknown name is answered with the choices and the nearest spelling."""

import difflib
from collections.abc import Iterable

__all__ = ["unknown"]

MOST_CHOICES = 24  # longer lists are left out of the sentence


def unknown(what: str, name: str, choices: Iterable[str]) -> ValueError:
    """The error for a name that is none of `choices`, to be raised by the caller.

    >>> str(unknown("projector kind", "lader", ["ladder", "mlp"]))
    "unknown projector kind 'lader', expected one of ladder, mlp; did you mean 'ladder'?"
    """
    known = sorted(choices)
    listed = f", expected one of {', '.join(known)}" if len(known) <= MOST_CHOICES else ""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {name!r}{listed}{guess}")
