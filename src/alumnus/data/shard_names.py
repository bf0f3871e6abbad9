"""Names of many shards in one word: `shards-{000..099}.tar`, `*.tar`, here or behind a URL."""

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from alumnus.data.remote import filesystem, is_remote

__all__ = ["expand_braces", "is_shards", "shard_locations"]

ENDINGS = (".tar", ".tar.gz")
MOST = 1_000_000  # shards: more are a mistake in a range


def is_shards(spec: str) -> bool:
    """Whether a spec names tar files rather than a folder: any URL, any name ending in .tar."""
    return is_remote(spec) or spec.endswith(ENDINGS)


def _without_query(spec: str) -> str:
    return spec.partition("?")[0] if spec.startswith(("http://", "https://")) else spec


def shard_locations(spec: str) -> list[str]:
    """Paths or URLs of the shards, in the order of the braces, those of a `*` sorted.

    ValueError, one sentence, where there are none.
    """
    if not _without_query(spec).endswith(ENDINGS):
        example = "s3://bucket/shards-{000..099}.tar"
        raise ValueError(f"{spec!r} should name tar shards and end in .tar, e.g. {example}")
    if is_remote(spec) and _without_query(spec).endswith(".gz"):
        raise ValueError(f"{spec!r} is compressed, so no part can be read alone: store plain .tar")
    found = [location for name in expand_braces(spec) for location in _matches(name)]
    if not found:
        raise ValueError(f"there are no shards {spec!r}")
    return found


def expand_braces(pattern: str) -> list[str]:
    """`a-{08..11}` as a-08, a-09, a-10, a-11 and `{x,y}` as x, y; ranges keep their zeros."""
    return list(_expanded(pattern))


def _expanded(pattern: str) -> Iterator[str]:
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        yield pattern
        return
    for choice in _choices(braces[1], pattern):
        yield from _expanded(pattern[: braces.start()] + choice + pattern[braces.end() :])


def _choices(inside: str, pattern: str) -> list[str]:
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if span is None:
        return inside.split(",")
    first, last = int(span[1]), int(span[2])
    if not 0 <= last - first < MOST:
        raise ValueError(f"the range {{{inside}}} in {pattern!r} is empty or too long")
    return [f"{i:0{len(span[1])}d}" for i in range(first, last + 1)]


def _matches(name: str) -> list[str]:
    local = str(Path(name).expanduser())
    if not any(c in _without_query(name) for c in "*?["):
        return [name if is_remote(name) else local]  # whether it is there, its index will say
    if not is_remote(name):
        return sorted(glob.glob(local, recursive=True))  # noqa: PTH207 (Path has no such call)
    system, path = filesystem(name)
    return [str(system.unstrip_protocol(found)) for found in sorted(system.glob(path))]
