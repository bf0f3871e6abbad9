"""Words for people: unknown names are answered with the nearest spelling, sizes are readable."""

import difflib
from collections.abc import Iterable

__all__ = ["size_text", "unknown"]

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


def size_text(size_bytes: float) -> str:
    """`1.25 GiB`, `3.1 MiB`, `512 bytes`."""
    for unit, scale, digits in (("GiB", 2**30, 2), ("MiB", 2**20, 1)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.{digits}f} {unit}"
    return f"{size_bytes:.0f} bytes"
