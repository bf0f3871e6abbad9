"""Published classification sets by name: `dtd:ROOT:test`, with their official splits.

Nothing is ever downloaded: each set lies where its user put it, in the layout of its publisher.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alumnus.data import benchmark_files as files
from alumnus.data.batch import Source
from alumnus.data.benchmark_files import Listing, ListingSource
from alumnus.data.folder import FolderSource
from alumnus.spelling import unknown

__all__ = ["BENCHMARKS", "Benchmark", "benchmark_spec", "open_benchmark", "shows_some_classes"]

COG_LEVELS = 5


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One set: what it is, where it comes from, how it lies below ROOT."""

    name: str
    classes: int
    images: dict[str, int]  # by split, as published
    layout: str
    origin: str
    listing: Callable[[Path, str], Listing | Path]  # a Path: a folder of class folders
    some_classes: bool = False  # a part of ImageNet-1K's: predictions are among these

    @property
    def splits(self) -> tuple[str, ...]:
        """What may follow ROOT; "train" is all that may be learned from."""
        return tuple(self.images)


def _imagenet(name: str, images: int, origin: str, *, classes: int = 1000) -> Benchmark:
    """A test set in class folders named by synset."""
    return Benchmark(
        name=name,
        classes=classes,
        images={"test": images},
        layout="SYNSET/*",
        origin=origin,
        listing=lambda root, split: root,
        some_classes=classes < 1000,
    )


BENCHMARKS: dict[str, Benchmark] = {
    row.name: row
    for row in (
        Benchmark(
            name="imagenet",
            classes=1000,
            images={"train": 1_281_167, "test": 50_000},
            layout="{train,val}/SYNSET/*.JPEG",
            origin="https://image-net.org (ILSVRC 2012; validation images sorted into folders)",
            listing=lambda root, split: root / ("train" if split == "train" else "val"),
        ),
        Benchmark(
            name="imagenet-v2",
            classes=1000,
            images={"test": 10_000},
            layout="{0..999}/*.jpeg",
            origin="https://github.com/modestyachts/ImageNetV2 (matched frequency)",
            listing=files.numbered_folders,
        ),
        _imagenet("imagenet-r", 30_000, "https://github.com/hendrycks/imagenet-r", classes=200),
        _imagenet(
            "imagenet-a",
            7_500,
            "https://github.com/hendrycks/natural-adv-examples",
            classes=200,
        ),
        _imagenet("imagenet-sketch", 50_889, "https://github.com/HaohanWang/ImageNet-Sketch"),
        *(
            Benchmark(
                name=f"cog-l{level}",
                classes=1000,
                images={"train": 0, "test": 0},
                layout=f"L{level}.txt (a synset a line), {{train,test}}/SYNSET/*",
                origin="https://europe.naverlabs.com/cog-benchmark (ImageNet-21K images)",
                listing=files.cog(level),
            )
            for level in range(1, COG_LEVELS + 1)
        ),
        Benchmark(
            name="aircraft",
            classes=100,
            images={"train": 6_667, "test": 3_333},
            layout="fgvc-aircraft-2013b/data/",
            origin="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
            listing=files.aircraft,
        ),
        Benchmark(
            name="cars196",
            classes=196,
            images={"train": 8_144, "test": 8_041},
            layout="stanford_cars/{devkit,cars_train,cars_test,cars_test_annos_withlabels.mat}",
            origin="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
            listing=files.cars196,
        ),
        Benchmark(
            name="dtd",
            classes=47,
            images={"train": 3_760, "test": 1_880},
            layout="dtd/dtd/{images,labels,imdb}",
            origin="https://www.robots.ox.ac.uk/~vgg/data/dtd",
            listing=files.dtd,
        ),
        Benchmark(
            name="eurosat",
            classes=10,
            images={"train": 18_900, "test": 8_100},
            layout="eurosat/2750/CLASS/*.jpg",
            origin="https://github.com/phelber/EuroSAT (RGB)",
            listing=files.eurosat,
        ),
        Benchmark(
            name="flowers102",
            classes=102,
            images={"train": 2_040, "test": 6_149},
            layout="flowers-102/{jpg,imagelabels.mat,setid.mat}",
            origin="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
            listing=files.flowers102,
        ),
        Benchmark(
            name="pets",
            classes=37,
            images={"train": 3_680, "test": 3_669},
            layout="oxford-iiit-pet/{images,annotations}",
            origin="https://www.robots.ox.ac.uk/~vgg/data/pets",
            listing=files.pets,
        ),
        Benchmark(
            name="food101",
            classes=101,
            images={"train": 75_750, "test": 25_250},
            layout="food-101/{images,meta}",
            origin="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
            listing=files.food101,
        ),
        Benchmark(
            name="sun397",
            classes=397,
            images={"train": 19_850, "test": 19_850},
            layout="SUN397/a/abbey/*.jpg, Partitions/{ClassName,Training_01,Testing_01}.txt",
            origin="https://vision.princeton.edu/projects/2010/SUN (images and partitions)",
            listing=files.sun397,
        ),
        *(
            Benchmark(
                name=f"inat{year}",
                classes=classes,
                images={"train": train, "test": val},
                layout=f"{{train{year},val{year}}}.json, train_val{year}/",
                origin=f"https://github.com/visipedia/inat_comp ({year})",
                listing=files.inaturalist(year),
            )
            for year, classes, train, val in (
                (2018, 8142, 437_513, 24_426),
                (2019, 1010, 265_213, 3_030),
            )
        ),
    )
}


def benchmark_spec(spec: str) -> tuple[Benchmark, Path, str | None] | None:
    """The set, ROOT and split of `NAME:ROOT` or `NAME:ROOT:SPLIT`; None for anything else.

    `dtd:test` is a split of a folder dtd where there is one.
    """
    name, colon, rest = spec.partition(":")
    if not colon or name not in BENCHMARKS:
        return None
    root, split = Path(rest).expanduser(), None
    if not root.is_dir() and ":" in rest:
        head, _, split = rest.rpartition(":")
        root = Path(head).expanduser()
    if not root.is_dir() and Path(name).is_dir():
        return None
    return BENCHMARKS[name], root, split


def shows_some_classes(spec: str) -> bool:
    """Whether `spec` is a test set with a part of ImageNet-1K's classes."""
    found = benchmark_spec(spec)
    return found is not None and found[0].some_classes


def open_benchmark(
    benchmark: Benchmark,
    root: Path,
    split: str | None = None,
    *,
    name: str | None = None,
    domain: str = "default",
    generic: bool = False,
) -> Source:
    """One split of a set: "train" or "test"; by default "train", or the only one.

    "train" is all that the publisher's rules let one learn from (train and validation parts);
    protocols hold out their own validation part. ValueError, one sentence with the layout and the
    origin, where the set is not at `root`.
    """
    what = f"{benchmark.name} at {str(root)!r}"
    split = split or benchmark.splits[0]
    if split not in benchmark.splits:
        raise unknown(f"split of {benchmark.name}", split, benchmark.splits)
    try:
        found = benchmark.listing(root, split)
        if isinstance(found, Path):
            return FolderSource(found, name=name or benchmark.name, domain=domain, generic=generic)
        return ListingSource(
            root, found, name=name or benchmark.name, domain=domain, generic=generic
        )
    except (OSError, RuntimeError, ValueError, LookupError) as error:  # torchvision's are any
        why = " ".join(str(error).split()).partition(" You can use download")[0].rstrip(".")
        raise ValueError(
            f"{what} cannot be opened ({why}): expected below it {benchmark.layout}, "
            f"from {benchmark.origin}"
        ) from error
