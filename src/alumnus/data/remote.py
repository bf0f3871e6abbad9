"""Files on object storage or a web server, read by byte ranges through fsspec."""

import logging
import os
import time
from typing import Any

from alumnus.cachedir import cache_dir, remote_cache_bytes
from alumnus.data.range_cache import RangeCache

__all__ = ["RemoteFiles", "filesystem", "is_remote"]

log = logging.getLogger(__name__)

WAITS_S = (1.0, 4.0)  # before the second and the third try


def is_remote(location: str) -> bool:
    """Whether a location is a URL of some kind."""
    return "://" in location


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path on it; ValueError where a package is missing."""
    protocol = url.partition("://")[0]
    try:
        import fsspec

        system, path = fsspec.url_to_fs(url)
    except ImportError as error:  # fsspec's sentence for a missing s3fs, gcsfs, aiohttp, ...
        raise ValueError(
            f"reading {protocol}:// needs another package ({error}): pip install 'alumnus[cloud]'"
        ) from error
    except ValueError as error:
        raise ValueError(f"{url!r} cannot be read: {error}") from error
    return system, str(path)


class RemoteFiles:
    """Byte ranges of files named by URL, kept in a bounded cache shared by all processes.

    Connections are made by each process for itself, so data workers may use one object.
    """

    def __init__(self) -> None:
        self._cache = RangeCache(cache_dir("remote"), most_bytes=remote_cache_bytes())
        self._systems: tuple[int, dict[str, tuple[Any, str]]] = (-1, {})  # process, {url: ...}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_systems": (-1, {})}

    def read(self, url: str, version: str, offset: int, size: int) -> bytes:
        """A byte range, of the file's `version`; OSError where three tries fail."""
        key = f"{url}|{version}|{offset}|{size}"
        return self._cache.get(key, lambda: self._fetch(url, offset, size))

    def _fetch(self, url: str, offset: int, size: int) -> bytes:
        for wait_s in (*WAITS_S, None):
            try:
                system, path = self._opened(url)
                data = bytes(system.cat_file(path, start=offset, end=offset + size))
                if len(data) != size:
                    raise OSError(f"{len(data)} bytes instead of {size}")
                return data
            except Exception as error:  # each backend has errors of its own
                if wait_s is None or isinstance(error, FileNotFoundError):
                    raise OSError(f"{url} could not be read: {error}") from error
                log.debug("%s: %s; again in %.0f s", url, error, wait_s)
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _opened(self, url: str) -> tuple[Any, str]:
        process, systems = self._systems
        if process != os.getpid():
            systems = {}
            self._systems = (os.getpid(), systems)
        if url not in systems:
            systems[url] = filesystem(url)
        return systems[url]
