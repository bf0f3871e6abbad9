"""The files of published sets, as their publishers laid them out: images, labels, splits."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torchvision import datasets

from alumnus.data.batch import Sample
from alumnus.data.decode import BrokenImageError, decode
from alumnus.data.folder import FolderSource
from alumnus.data.names import Names

__all__ = [
    "Listing",
    "ListingSource",
    "aircraft",
    "cars196",
    "cog",
    "dtd",
    "eurosat",
    "flowers102",
    "food101",
    "inaturalist",
    "numbered_folders",
    "pets",
    "sun397",
]

EUROSAT_TEST = 0.3  # of each class


class Listing(NamedTuple):
    """The images of a split."""

    paths: list[str]  # relative to the root
    labels: list[int]
    classes: tuple[str, ...] | None  # None: numbered as ImageNet-1K's sorted synsets


class ListingSource:
    """A listing as a source; ValueError where it is empty or its first image is not there."""

    def __init__(
        self,
        root: Path,
        listing: Listing,
        *,
        name: str,
        domain: str = "default",
        generic: bool = False,
    ) -> None:
        self.root, self.name, self.domain, self.generic = root, name, domain, generic
        if not listing.paths:
            raise ValueError("it lists no images")
        if not (root / listing.paths[0]).is_file():
            raise ValueError(f"there is no file {str(root / listing.paths[0])!r}")
        self.classes = listing.classes
        self._paths = Names(listing.paths)
        self._cls = np.array(listing.labels, np.int32)

    def __len__(self) -> int:
        return len(self._cls)

    def identity(self, index: int) -> str:
        """The path relative to the root."""
        return self._paths[index]

    def fields(self, index: int) -> dict[str, Any]:
        """All but the image."""
        return {"cls": int(self._cls[index])}

    def read(self, index: int) -> Sample:
        """Decode one image; BrokenImageError also where the file is not there."""
        identity = self.identity(index)
        try:
            data = (self.root / identity).read_bytes()
        except OSError as error:
            raise BrokenImageError(self.name, identity, error.strerror or str(error)) from error
        picture = decode(data, source=self.name, identity=identity)
        return Sample(picture, self.fields(index))


def _from_torchvision(root: Path, *parts: Any) -> Listing:
    """Paths and labels of torchvision's data sets, opened with `loader=str`."""
    pairs = [part[i] for part in parts for i in range(len(part))]
    classes = getattr(parts[0], "classes", None)
    return Listing(
        [Path(path).relative_to(root).as_posix() for path, _ in pairs],
        [int(label) for _, label in pairs],
        tuple(classes) if classes else tuple(map(str, range(max(int(n) for _, n in pairs) + 1))),
    )


def aircraft(root: Path, split: str) -> Listing:
    """FGVC-Aircraft, 100 variants: trainval and test."""
    chosen = "trainval" if split == "train" else "test"
    return _from_torchvision(root, datasets.FGVCAircraft(root, split=chosen, loader=str))


def cars196(root: Path, split: str) -> Listing:
    """Stanford Cars: train and test."""
    return _from_torchvision(root, datasets.StanfordCars(root, split=split, loader=str))


def dtd(root: Path, split: str) -> Listing:
    """Describable Textures, the first of its ten partitions: train with val, and test."""
    parts = ["train", "val"] if split == "train" else ["test"]
    return _from_torchvision(root, *(datasets.DTD(root, split=p, loader=str) for p in parts))


def flowers102(root: Path, split: str) -> Listing:
    """Oxford Flowers: train with val, and test."""
    parts = ["train", "val"] if split == "train" else ["test"]
    return _from_torchvision(root, *(datasets.Flowers102(root, split=p, loader=str) for p in parts))


def food101(root: Path, split: str) -> Listing:
    """Food-101: train and test."""
    return _from_torchvision(root, datasets.Food101(root, split=split, loader=str))


def eurosat(root: Path, split: str) -> Listing:
    """EuroSAT (RGB), which has no official split: 30% of each class are for testing.

    They are drawn from the sorted file names with a fixed seed; a convention of this package.
    """
    listing = _from_torchvision(root, datasets.EuroSAT(root, loader=str))
    order = sorted(range(len(listing.paths)), key=listing.paths.__getitem__)
    labels = np.array([listing.labels[i] for i in order])
    generator = np.random.Generator(np.random.PCG64(0))
    is_test = np.zeros(len(order), bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        is_test[members[: round(EUROSAT_TEST * len(members))]] = True
    keep = [i for i, test in zip(order, is_test, strict=True) if test == (split == "test")]
    return Listing(
        [listing.paths[i] for i in keep], [listing.labels[i] for i in keep], listing.classes
    )


def pets(root: Path, split: str) -> Listing:
    """Oxford-IIIT Pets, 37 breeds: trainval and test."""
    folder = root / "oxford-iiit-pet"
    chosen = "trainval" if split == "train" else "test"
    rows = [line.split() for line in _lines(folder / "annotations" / f"{chosen}.txt")]
    breeds = {int(row[1]) - 1: row[0].rpartition("_")[0] for row in rows}
    return Listing(
        [f"oxford-iiit-pet/images/{row[0]}.jpg" for row in rows],
        [int(row[1]) - 1 for row in rows],
        tuple(breeds.get(i, str(i)) for i in range(max(breeds) + 1)),
    )


def sun397(root: Path, split: str) -> Listing:
    """SUN397, the first of its ten partitions."""
    partition = "Training_01.txt" if split == "train" else "Testing_01.txt"
    places = [line.strip("/") for line in _lines(root / "Partitions" / "ClassName.txt")]
    number = {place: i for i, place in enumerate(places)}
    images = [line.strip("/") for line in _lines(root / "Partitions" / partition)]
    return Listing(
        [f"SUN397/{image}" for image in images],
        [number[image.rpartition("/")[0]] for image in images],
        tuple(place.partition("/")[2] for place in places),
    )


def inaturalist(year: int) -> Callable[[Path, str], Listing]:
    """iNaturalist 2018 or 2019: train, and the labelled val as test."""

    def listing(root: Path, split: str) -> Listing:
        file = root / f"{'train' if split == 'train' else 'val'}{year}.json"
        held = json.loads(file.read_text())
        label = {row["image_id"]: int(row["category_id"]) for row in held["annotations"]}
        classes = {int(row["id"]): str(row["name"]) for row in held["categories"]}
        return Listing(
            [row["file_name"] for row in held["images"]],
            [label[row["id"]] for row in held["images"]],
            tuple(classes.get(i, str(i)) for i in range(max(classes) + 1)),
        )

    return listing


def cog(level: int) -> Callable[[Path, str], Listing]:
    """A level of ImageNet-CoG: the class folders that its list of synsets names."""

    def listing(root: Path, split: str) -> Listing:
        synsets = sorted({line.split()[0] for line in _lines(root / f"L{level}.txt")})
        paths, labels = [], []
        for number, synset in enumerate(synsets):
            folder = FolderSource(root / split / synset, name=synset)
            paths += [f"{split}/{synset}/{folder.identity(i)}" for i in range(len(folder))]
            labels += [number] * len(folder)
        return Listing(paths, labels, tuple(synsets))

    return listing


def numbered_folders(root: Path, split: str) -> Listing:
    """Class folders 0 to 999, by the place of the synset in sorted order (ImageNet-V2)."""
    folder = FolderSource(root, name="")
    paths = [folder.identity(i) for i in range(len(folder))]
    tops = [path.partition("/")[0] for path in paths]
    if odd := [top for top in tops if not top.isdecimal() or int(top) > 999]:
        raise ValueError(f"its folder {odd[0]!r} is not a class number from 0 to 999")
    return Listing(paths, [int(top) for top in tops], None)


def _lines(path: Path) -> Sequence[str]:
    """The lines of a text file, without empty ones and comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]
