"""Where the samples of a tar shard lie: byte offsets, so that any one can be read alone."""

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

from alumnus.cachedir import cache_dir

__all__ = ["Member", "index_tar", "plain_tar"]


class Member(NamedTuple):
    """One file inside a shard."""

    offset: int  # bytes
    size: int  # bytes


def index_tar(path: Path, *, samples: int | None = None) -> dict[str, dict[str, Member]]:
    """Members by sample key and extension, in the order of the shard (WebDataset layout).

    A member `folder/000115.depth.png` is the field "depth.png" of the sample `folder/000115`.
    Raises ValueError for a missing, damaged or cut-off file, also where there are not `samples`
    keys: after a damaged header tarfile sees the end of the archive.
    """
    found: dict[str, dict[str, Member]] = {}
    try:
        length = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError("unexpected end of data")
                folder, slash, file = member.name.rpartition("/")
                stem, _, extension = file.partition(".")
                key = folder + slash + stem
                place = Member(member.offset_data, member.size)
                found.setdefault(key, {})[extension.lower()] = place
        if samples is not None and len(found) != samples:
            raise tarfile.ReadError(f"{len(found)} samples instead of {samples}")
    except FileNotFoundError as error:
        raise ValueError(f"shard {str(path)!r} is missing") from error
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"shard {str(path)!r} is damaged ({error}); fetch it again") from error
    return found


def plain_tar(path: Path) -> Path:
    """The shard itself, or for `.tar.gz` its unpacked copy in the cache (made on first use)."""
    if path.suffix != ".gz":
        return path
    try:
        state = path.stat()
        key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
        target = cache_dir("unpacked") / (
            f"{path.name.removesuffix('.tar.gz')}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.tar"
        )
        if not target.exists():
            _unpack(path, target)
    except FileNotFoundError as error:
        raise ValueError(f"shard {str(path)!r} is missing") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"shard {str(path)!r} is damaged ({error}); fetch it again") from error
    return target


def _unpack(path: Path, target: Path) -> None:
    """Through a temporary file, so that no process ever sees half a shard."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(handle, "wb") as unpacked, gzip.open(path, "rb") as packed:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
