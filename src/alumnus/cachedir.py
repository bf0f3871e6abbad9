"""Where alumnus keeps what can be made or fetched again: weights, features, remote images."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import platformdirs

__all__ = ["cache_dir", "remote_cache_bytes", "whole_file"]

REMOTE_CACHE_GB = 20.0  # default of ALUMNUS_CACHE_GB


def cache_dir(*parts: str) -> Path:
    """A folder under `ALUMNUS_CACHE` (default: the platform's user cache); made if missing."""
    root = os.environ.get("ALUMNUS_CACHE") or platformdirs.user_cache_dir("alumnus")
    folder = Path(root).expanduser().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remote_cache_bytes() -> int:
    """How much of remote shards is kept: `ALUMNUS_CACHE_GB`, 10^9 bytes each, 20 by default."""
    text = os.environ.get("ALUMNUS_CACHE_GB") or str(REMOTE_CACHE_GB)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        raise ValueError(f"ALUMNUS_CACHE_GB is {text!r}, but must be a number of gigabytes, or 0")
    return int(gigabytes * 1e9)


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name when it is complete: nobody ever sees half of it."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
