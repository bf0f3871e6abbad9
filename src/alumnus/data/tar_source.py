"""Samples in tar shards (WebDataset layout), each read alone by its place, here or behind a URL."""

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from alumnus.data.batch import Sample
from alumnus.data.decode import DECODER_ERRORS, BrokenImageError, decode
from alumnus.data.names import Names
from alumnus.data.remote import RemoteFiles, is_remote
from alumnus.data.selection import chosen_rows
from alumnus.data.tar_index import IMAGE_FIELDS, index_shards, plain_tar

__all__ = ["Shard", "TarSource"]

HEADERS_BYTES = 1536  # of a member in a tar: header and padding, with room for a long name


class Shard(NamedTuple):
    """One tar file."""

    label: str  # names it in identities
    location: str  # path or URL
    samples: int | None  # as promised; None: as many as there are


class TarSource:
    """The samples of some shards, in their order.

    Fields are named by extension: "cls" an int, "json" a dict, rasters such as "depth.png"
    or "mask.png" arrays named "depth" and "mask" in the numbers of the file (a depth in
    millimetres stays one), others bytes.

    Local files are opened once a process and read with `pread`: no seek position is shared, so
    forked and spawned data workers may use one source at the same time. Of a remote shard a sample
    is one byte range, kept in a bounded cache (`RemoteFiles`).
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        what: str,
        class_names: tuple[str, ...] | None = None,
        where: Mapping[str, str] | None = None,
        name: str,
        domain: str = "default",
        generic: bool = False,
    ) -> None:
        self.name, self.domain, self.generic = name, domain, generic
        self._shards = [_plain(shard.location) for shard in shards]
        self._files: tuple[int, dict[int, int]] = (-1, {})  # process, {shard: file descriptor}
        self._remote = RemoteFiles() if any(map(is_remote, self._shards)) else None
        indexed = index_shards(self._shards, [shard.samples for shard in shards])
        self._versions = [shard.version for shard in indexed]
        counts = [len(shard.keys) for shard in indexed]
        if not any(counts):
            raise ValueError(f"{what} has no images (looked for {', '.join(IMAGE_FIELDS)})")
        self._identities = Names(
            f"{shard.label}/{key}"
            for shard, found in zip(shards, indexed, strict=True)
            for key in found.keys
        )
        self._extras = Names(text for found in indexed for text in found.others)
        number = np.repeat(np.arange(len(shards)), counts)
        self._place = np.column_stack([number, np.concatenate([s.images for s in indexed])])
        if where:
            self._select(where, what)
        labelled = {"cls", "mask.png"} & set(json.loads(self._extras[0]))
        self.classes = class_names if labelled else None

    def __len__(self) -> int:
        return len(self._place)

    def identity(self, index: int) -> str:
        """Shard and key: `train-00000.tar/000115`."""
        return self._identities[index]

    def fields(self, index: int) -> dict[str, Any]:
        """All but the image, decoded; BrokenImageError where one cannot be."""
        return self._decoded(index, partial(self._bytes, int(self._place[index, 0])))

    def read(self, index: int) -> Sample:
        """Decode one sample."""
        _, offset, size = (int(v) for v in self._place[index])
        identity = self.identity(index)
        try:
            read = self._reader(index)
            data = read(offset, size)
        except OSError as error:
            raise BrokenImageError(self.name, identity, error.strerror or str(error)) from error
        picture = decode(data, source=self.name, identity=identity)
        return Sample(picture, self._decoded(index, read))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": (-1, {})}

    def _decoded(self, index: int, read: Callable[[int, int], bytes]) -> dict[str, Any]:
        members: dict[str, tuple[int, int]] = json.loads(self._extras[index])
        fields: dict[str, Any] = {}
        for extension, (offset, size) in members.items():
            try:
                fields[extension.removesuffix(".png")] = _decode_field(
                    extension, read(offset, size)
                )
            except DECODER_ERRORS as error:
                why = f"its field {extension!r} is damaged ({error})"
                raise BrokenImageError(self.name, self.identity(index), why) from error
        return fields

    def _reader(self, index: int) -> Callable[[int, int], bytes]:
        """What gives the bytes of a sample: of a remote one all members, fetched as one range."""
        shard, *image = (int(v) for v in self._place[index])
        if not is_remote(self._shards[shard]):
            return partial(self._bytes, shard)
        members = [image, *json.loads(self._extras[index]).values()]
        first, last = min(o for o, _ in members), max(o + n for o, n in members)
        if last - first > sum(n + HEADERS_BYTES for _, n in members):  # scattered over the shard
            return partial(self._bytes, shard)
        data = self._bytes(shard, first, last - first)
        return lambda offset, size: data[offset - first : offset - first + size]

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        location = self._shards[shard]
        if self._remote is not None and is_remote(location):
            return self._remote.read(location, self._versions[shard], offset, size)
        process, files = self._files
        if process != os.getpid():  # after a fork: descriptors of our own
            files = {}
            self._files = (os.getpid(), files)
        if shard not in files:
            files[shard] = os.open(location, os.O_RDONLY)
        return os.pread(files[shard], size, offset)

    def _select(self, where: Mapping[str, str], what: str) -> None:
        """Keep the samples whose json agrees with `where`."""
        records = [self._record(i) for i in range(len(self))]

        def values_of(field: str) -> list[str | None]:
            return [str(r[field]) if field in r else None for r in records]

        fields = {field for record in records for field in record}
        wanted = {field: str(value) for field, value in where.items()}
        keep = chosen_rows(wanted, fields, values_of, of=what)
        self._place = self._place[keep]
        self._identities = Names(_at(self._identities, keep))
        self._extras = Names(_at(self._extras, keep))

    def _record(self, index: int) -> dict[str, Any]:
        """The json of a sample, the only member that is read for it."""
        member = json.loads(self._extras[index]).get("json")
        if member is None:
            return {}
        try:
            record = json.loads(self._bytes(int(self._place[index, 0]), *member))
        except OSError as error:
            raise BrokenImageError(self.name, self.identity(index), str(error)) from error
        except ValueError:  # damaged: it agrees with nothing
            return {}
        return record if isinstance(record, dict) else {}


def _plain(location: str) -> str:
    return location if is_remote(location) else str(plain_tar(Path(location)))


def _at(names: Names, indices: Iterable[int]) -> list[str]:
    return [names[int(i)] for i in indices]


def _decode_field(extension: str, data: bytes) -> Any:
    if extension == "cls":
        return int(data)
    if extension == "json":
        return json.loads(data)
    if extension == "txt":
        return data.decode()
    if extension.endswith(".png"):
        return np.asarray(Image.open(io.BytesIO(data)))
    if extension == "npy":
        return np.load(io.BytesIO(data), allow_pickle=False)
    return data
