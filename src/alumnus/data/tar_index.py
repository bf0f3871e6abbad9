"""Where the samples of a tar shard lie: byte offsets, so that any one can be read alone."""

import gzip
import hashlib
import json
import logging
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alumnus.cachedir import cache_dir, whole_file
from alumnus.data.remote import filesystem, is_remote

__all__ = ["IMAGE_FIELDS", "IndexedShard", "Member", "index_shards", "index_tar", "plain_tar"]

log = logging.getLogger(__name__)

IMAGE_FIELDS = ("jpg", "jpeg", "png", "webp")  # the first of these is the image of a sample
KEPT_FROM_BYTES = 32 << 20  # a smaller local shard is scanned again in well under a second
BLOCK_BYTES = 4 << 20  # read ahead of a remote shard while it is scanned
VERSION_MARKS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
THREADS = 8  # remote shards scanned at a time: they wait for the network


class Member(NamedTuple):
    """One file inside a shard."""

    offset: int  # bytes
    size: int  # bytes


Index = dict[str, dict[str, Member]]  # by sample key and extension


class IndexedShard(NamedTuple):
    """Where the samples with an image lie in a shard, and which version of the file that is."""

    keys: list[str]
    images: "np.ndarray[tuple[int, int], np.dtype[np.int64]]"  # [n, 2]: offset and size, bytes
    others: list[str]  # the other members, {"cls": [offset, size]} as JSON
    samples: int  # also those without an image
    version: str


def index_shards(
    locations: Sequence[str], samples: Sequence[int | None] | None = None
) -> list[IndexedShard]:
    """The index of each shard, made once and kept in the cache folder (remote or large shards).

    A remote shard is read through once for it, or in part where its members are large.
    """
    expected = list(samples or [None] * len(locations))
    remote = [location for location in locations if is_remote(location)]
    if not remote:
        return [_indexed(a, samples=b) for a, b in zip(locations, expected, strict=True)]
    log.info("looking up %d remote shards", len(remote))
    with ThreadPoolExecutor(min(THREADS, len(remote))) as pool:
        return list(pool.map(lambda a, b: _indexed(a, samples=b), locations, expected))


def _indexed(location: str, *, samples: int | None) -> IndexedShard:
    version, length = _version(location)
    if not is_remote(location) and length < KEPT_FROM_BYTES:
        return _compact(index_tar(location, samples=samples), version)
    name = hashlib.sha256(f"{location}|{version}".encode()).hexdigest()[:32]
    kept = cache_dir("tar-index") / f"{name}.json"
    try:
        record = json.loads(kept.read_bytes())
        images = np.array(record["images"], np.int64).reshape(-1, 2)
        found = IndexedShard(record["keys"], images, record["others"], record["samples"], version)
        if samples in (None, found.samples):
            return found
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not kept yet, or damaged
    found = _compact(index_tar(location, samples=samples), version)
    with whole_file(kept) as file:
        record = {**found._asdict(), "images": found.images.tolist()}
        file.write(json.dumps(record, separators=(",", ":")).encode())
    return found


def _compact(index: Index, version: str) -> IndexedShard:
    keys: list[str] = []
    images: list[Member] = []
    others: list[str] = []
    for key, members in index.items():
        image = next((field for field in IMAGE_FIELDS if field in members), None)
        if image is not None:
            keys.append(key)
            images.append(members.pop(image))
            others.append(json.dumps(members, separators=(",", ":")))
    places = np.array(images, np.int64).reshape(-1, 2)
    return IndexedShard(keys, places, others, len(index), version)


def index_tar(location: str | Path, *, samples: int | None = None) -> Index:
    """Members by sample key and extension, in the order of the shard (WebDataset layout).

    A member `folder/000115.depth.png` is the field "depth.png" of the sample `folder/000115`. Tars
    inside the tar are looked into, one level deep, as folders of their name: ImageNet's
    ILSVRC2012_img_train.tar has one for each class.
    Raises ValueError for a missing, damaged or cut-off file, also where there are not `samples`
    keys: after a damaged header tarfile sees the end of the archive.
    """
    location = str(location)
    found: Index = {}
    try:
        _, length = _version(location)
        with _opened(location) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps 1.5 KB for each
                if not member.isfile():
                    continue
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError("unexpected end of data")
                if not member.name.endswith(".tar"):
                    _add(found, member.name, Member(member.offset_data, member.size))
                    continue
                with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inside:
                    for inner in inside:
                        inside.members = []  # type: ignore[attr-defined]
                        name = f"{member.name.removesuffix('.tar')}/{inner.name}"
                        place = Member(member.offset_data + inner.offset_data, inner.size)
                        if inner.isfile():
                            _add(found, name, place)
        if samples is not None and len(found) != samples:
            raise tarfile.ReadError(f"{len(found)} samples instead of {samples}")
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"shard {location!r} is damaged ({error}); fetch it again") from error
    return found


def _add(found: Index, path: str, place: Member) -> None:
    folder, slash, name = path.rpartition("/")
    stem, _, extension = name.partition(".")
    found.setdefault(folder + slash + stem, {})[extension.lower()] = place


def _opened(location: str) -> Any:
    if not is_remote(location):
        return Path(location).open("rb")
    system, path = filesystem(location)
    return system.open(path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")


def _version(location: str) -> tuple[str, int]:
    """What changes with the file's content, and its length; ValueError where it is missing."""
    try:
        if not is_remote(location):
            state = Path(location).stat()
            return f"{state.st_size}-{state.st_mtime_ns}", state.st_size
        system, path = filesystem(location)
        info = system.info(path)
        length = info.get("size")
        if not isinstance(length, int):
            raise ValueError(f"shard {location!r} has no known length, so no part can be read")
        marks = [str(info[k]) for k in VERSION_MARKS if info.get(k) is not None]
        return "-".join([str(length), *marks]), length
    except FileNotFoundError as error:
        raise ValueError(f"shard {location!r} is missing") from error
    except ValueError:
        raise
    except Exception as error:  # each backend has errors of its own
        raise ValueError(f"shard {location!r} cannot be looked up: {error}") from error


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
    with whole_file(target) as unpacked, gzip.open(path, "rb") as packed:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
