"""A pack: tar shards in WebDataset layout with an index.json, read by random access."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from alumnus.data.batch import Sample
from alumnus.data.decode import DECODER_ERRORS, BrokenImageError, decode_rgb
from alumnus.data.names import Names
from alumnus.data.tar_index import index_tar, plain_tar
from alumnus.spelling import unknown

__all__ = ["PackSource", "Shard", "pack_splits"]

IMAGE_FIELDS = ("jpg", "jpeg", "png", "webp")  # the first of these is the image of a sample


class Shard(NamedTuple):
    """A shard as index.json lists it."""

    file: str
    samples: int | None


def pack_splits(folder: Path) -> dict[str, list[Shard]]:
    """Shards by split, as index.json says; ValueError where that cannot be understood."""
    try:
        splits = json.loads((folder / "index.json").read_text())["splits"]
        return {
            name: [Shard(shard["file"], shard.get("samples")) for shard in split["shards"]]
            for name, split in splits.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(folder / 'index.json')!r} is no index of a pack, which lists "
            '{"splits": {name: {"shards": [{"file": ...}]}}}'
        ) from error


class PackSource:
    """The samples of one split of a pack, in the order of its shards.

    Without `split`: the only one, or "train". `where` keeps the samples whose json has these
    values. Fields are named by extension: "cls" an int, "json" a dict, rasters such as "depth.png"
    or "mask.png" arrays named "depth" and "mask" in the numbers of the file (a depth in
    millimetres stays one), others bytes.

    Files are opened once a process and read with `pread`: no seek position is shared, so forked
    and spawned data workers may use one source at the same time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        split: str | None = None,
        where: Mapping[str, str] | None = None,
        name: str,
        domain: str = "default",
        generic: bool = False,
    ) -> None:
        self.folder, self.name, self.domain, self.generic = folder, name, domain, generic
        splits = pack_splits(folder)
        self.split = _choose_split(folder, split, list(splits))
        shards = splits[self.split]
        self._shards = [plain_tar(folder / shard.file) for shard in shards]
        self._files: tuple[int, dict[int, int]] = (-1, {})  # process, {shard: file descriptor}

        identities: list[str] = []
        place: list[tuple[int, int, int]] = []  # shard, image offset, image size
        extras: list[str] = []  # the other members: {"cls": [offset, size]} as JSON
        for number, (shard, path) in enumerate(zip(shards, self._shards, strict=True)):
            for key, members in index_tar(path, samples=shard.samples).items():
                image = next((f for f in IMAGE_FIELDS if f in members), None)
                if image is None:
                    continue
                identities.append(f"{shard.file}/{key}")
                place.append((number, *members[image]))
                extras.append(json.dumps({f: m for f, m in members.items() if f != image}))
        if not identities:
            raise ValueError(
                f"split {self.split!r} of pack {str(folder)!r} has no images "
                f"(looked for {', '.join(IMAGE_FIELDS)})"
            )
        self._identities, self._extras = Names(identities), Names(extras)
        self._place = np.array(place, np.int64)  # [n, 3]
        if where:
            self._select(where)
        self.classes = self._class_names()

    def __len__(self) -> int:
        return len(self._place)

    def identity(self, index: int) -> str:
        """Shard and key: `train-00000.tar/000115`."""
        return self._identities[index]

    def fields(self, index: int) -> dict[str, Any]:
        """All but the image, decoded; BrokenImageError where one cannot be."""
        shard = int(self._place[index, 0])
        members: dict[str, tuple[int, int]] = json.loads(self._extras[index])
        fields: dict[str, Any] = {}
        for extension, (offset, size) in members.items():
            try:
                fields[extension.removesuffix(".png")] = _decode_field(
                    extension, self._pread(shard, offset, size)
                )
            except DECODER_ERRORS as error:
                why = f"its field {extension!r} is damaged ({error})"
                raise BrokenImageError(self.name, self.identity(index), why) from error
        return fields

    def read(self, index: int) -> Sample:
        """Decode one sample."""
        shard, offset, size = (int(v) for v in self._place[index])
        identity = self.identity(index)
        try:
            data = self._pread(shard, offset, size)
        except OSError as error:
            raise BrokenImageError(self.name, identity, error.strerror or str(error)) from error
        image = decode_rgb(data, source=self.name, identity=identity)
        return Sample(image, self.fields(index))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": (-1, {})}

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        process, files = self._files
        if process != os.getpid():  # after a fork: descriptors of our own
            files = {}
            self._files = (os.getpid(), files)
        if shard not in files:
            files[shard] = os.open(self._shards[shard], os.O_RDONLY)
        return os.pread(files[shard], size, offset)

    def _select(self, where: Mapping[str, str]) -> None:
        """Keep the samples whose json agrees with `where`."""
        records = [self.fields(i).get("json") or {} for i in range(len(self))]
        for field, wanted in where.items():
            fields = {f for record in records for f in record}
            if field not in fields:
                raise unknown(f"json field of {str(self.folder)!r}", field, fields)
            values = {str(record[field]) for record in records if field in record}
            if str(wanted) not in values:
                raise unknown(f"{field} of {str(self.folder)!r}", str(wanted), values)
        keep = [
            i
            for i, r in enumerate(records)
            if all(str(r.get(f)) == str(w) for f, w in where.items())
        ]
        if not keep:
            raise ValueError(f"no sample of {str(self.folder)!r} has all of where {dict(where)}")
        self._place = self._place[keep]
        self._identities = Names(self._identities[i] for i in keep)
        self._extras = Names(self._extras[i] for i in keep)

    def _class_names(self) -> tuple[str, ...] | None:
        """Names of index.json's "classes", where the samples carry a class."""
        names = json.loads((self.folder / "index.json").read_text()).get("classes")
        if not names or "cls" not in json.loads(self._extras[0]):
            return None
        return tuple(n["name"] if isinstance(n, dict) else str(n) for n in names)


def _choose_split(folder: Path, split: str | None, choices: list[str]) -> str:
    if split is None and (len(choices) == 1 or "train" in choices):
        return "train" if "train" in choices else choices[0]
    if split is None:
        raise ValueError(f"pack {str(folder)!r} needs a split, one of {', '.join(choices)}")
    if split not in choices:
        raise unknown(f"split of pack {str(folder)!r}", split, choices)
    return split


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
