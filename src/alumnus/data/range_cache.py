"""Pieces of remote files on the local disk, at most so many bytes, the least recently used go."""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from alumnus.cachedir import whole_file

__all__ = ["RangeCache"]

log = logging.getLogger(__name__)

TRIM_EVERY = 0.02  # of the limit, written by a process, between looks at the whole folder
TRIM_TO = 0.9  # of the limit
ABANDONED_S = 3600.0  # a temporary file this old was left by a killed process


class RangeCache:
    """`get(key, fetch)`: the bytes of `key`, fetched unless they are in `folder`.

    Several processes may share the folder: files appear whole, one process at a time trims.
    Between two looks each may write 2% of the limit, so n processes exceed it by at most n * 2%
    and what is being written. A full disk means fewer kept pieces, no error.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._written: float = most_bytes  # the first piece makes a process look

    def get(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes of a key; errors are those of `fetch`."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        path = self.folder / digest[:2] / digest[2:34]
        try:
            data = path.read_bytes()
        except OSError:  # not there, usually
            data = fetch()
        else:
            with suppress(OSError):  # it went just now
                os.utime(path)  # used just now
            return data
        if len(data) <= self.most_bytes * TRIM_EVERY:
            self._keep(path, data)
        return data

    def trim(self) -> None:
        """Remove the least recently used pieces above the limit; not while another process does."""
        with (self.folder / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
            pieces = self._pieces()
            total = sum(size for _, size, _ in pieces)
            if total <= self.most_bytes:
                return
            for _, size, path in sorted(pieces):
                Path(path).unlink(missing_ok=True)
                total -= size
                if total <= TRIM_TO * self.most_bytes:
                    return

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                file.write(data)
            self._written += len(data)
            if self._written > TRIM_EVERY * self.most_bytes:
                self._written = 0
                self.trim()
        except OSError as error:
            log.debug("not kept in %s: %s", self.folder, error)

    def _pieces(self) -> list[tuple[float, int, str]]:
        """Last use, size and path of everything there; abandoned temporary files are removed."""
        found: list[tuple[float, int, str]] = []
        for folder in os.scandir(self.folder):
            if not folder.is_dir():
                continue
            for entry in os.scandir(folder):
                try:
                    state = entry.stat()
                except FileNotFoundError:
                    continue
                if not entry.name.startswith("."):
                    found.append((state.st_mtime, state.st_size, entry.path))
                elif state.st_mtime < time.time() - ABANDONED_S:
                    Path(entry.path).unlink(missing_ok=True)
        return found
