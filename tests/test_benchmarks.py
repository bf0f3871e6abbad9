"""Published sets open from their publishers' layouts, with their splits, and nothing is fetched."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from alumnus import describe, measure
from alumnus.data import BENCHMARKS, open_source, shows_some_classes
from alumnus.evaluation.suite import CONSTANT, evaluate
from alumnus.evaluation.tasks import EvalModel
from alumnus.tokens import Tokens

Expected = dict[str, list[tuple[str, str]]]  # split -> (path below ROOT, class)


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 9), (len(path.name) * 7 % 256, 40, 90)).save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def class_folders(root: Path, files: list[str]) -> list[tuple[str, str]]:
    for file in files:
        draw(root / file)
    return [(file, Path(file).parts[-2]) for file in files]


def imagenet(root: Path) -> Expected:
    train = [f"train/{wnid}/{wnid}_{i}.JPEG" for wnid in ("n01", "n02", "n03") for i in range(2)]
    val = [f"val/{wnid}/ILSVRC2012_val_{i}.JPEG" for i, wnid in enumerate(("n01", "n02", "n03"))]
    below = class_folders(root, train), class_folders(root, val)
    return {
        split: [(Path(*Path(f).parts[1:]).as_posix(), wnid) for f, wnid in part]
        for split, part in zip(("train", "test"), below, strict=True)
    }


def variant(root: Path) -> Expected:
    write(root / "README.txt", "text beside the folders")
    return {"test": class_folders(root, ["n01/art_0.jpg", "n03/art_1.jpg"])}


def imagenet_v2(root: Path) -> Expected:
    return {"test": class_folders(root, ["0/a.jpeg", "10/b.jpeg", "2/c.jpeg"])}


def cog(level: int) -> Callable[[Path], Expected]:
    def make(root: Path) -> Expected:
        write(root / f"L{level}.txt", "n07", "n05 a comment")
        files = {
            s: [f"{s}/{w}/{w}_1.JPEG" for w in ("n05", "n06", "n07")] for s in ("train", "test")
        }
        made = {split: class_folders(root, names) for split, names in files.items()}
        return {
            split: [pair for pair in pairs if pair[1] != "n06"] for split, pairs in made.items()
        }

    return make


def aircraft(root: Path) -> Expected:
    data = root / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", "707-320", "A300B4")
    rows = {"trainval": ["0001 A300B4", "0002 707-320"], "test": ["0003 A300B4"]}
    for split, lines in rows.items():
        write(data / f"images_variant_{split}.txt", *lines)
        for line in lines:
            draw(data / "images" / f"{line.split()[0]}.jpg")
    base = "fgvc-aircraft-2013b/data/images"
    return {
        "train": [(f"{base}/0001.jpg", "A300B4"), (f"{base}/0002.jpg", "707-320")],
        "test": [(f"{base}/0003.jpg", "A300B4")],
    }


def cars196(root: Path) -> Expected:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array(["Acura TL", "BMW M3"], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    kind = [("bbox_x1", "O"), ("fname", "O"), ("class", "O")]

    def annotate(path: Path, rows: list[tuple[str, int]]) -> None:
        held = np.zeros((1, len(rows)), dtype=kind)
        for i, (name, number) in enumerate(rows):
            held[0, i] = (1, name, np.uint8(number))
        savemat(path, {"annotations": held})

    annotate(folder / "devkit" / "cars_train_annos.mat", [("00001.jpg", 2), ("00002.jpg", 1)])
    annotate(folder / "cars_test_annos_withlabels.mat", [("00001.jpg", 1), ("00002.jpg", 2)])
    for part in ("cars_train", "cars_test"):
        for i in (1, 2):
            draw(folder / part / f"0000{i}.jpg")
    return {
        "train": [
            ("stanford_cars/cars_train/00001.jpg", "BMW M3"),
            ("stanford_cars/cars_train/00002.jpg", "Acura TL"),
        ],
        "test": [
            ("stanford_cars/cars_test/00001.jpg", "Acura TL"),
            ("stanford_cars/cars_test/00002.jpg", "BMW M3"),
        ],
    }


def dtd(root: Path) -> Expected:
    data = root / "dtd" / "dtd"
    listed = {
        split: [f"{texture}/{texture}_{split}.jpg" for texture in ("banded", "zigzagged")]
        for split in ("train", "val", "test")
    }
    for split, files in listed.items():
        write(data / "labels" / f"{split}1.txt", *files)
        for file in files:
            draw(data / "images" / file)

    def expected(*splits: str) -> list[tuple[str, str]]:
        return [
            (f"dtd/dtd/images/{file}", file.partition("/")[0])
            for split in splits
            for file in listed[split]
        ]

    return {"train": expected("train", "val"), "test": expected("test")}


def eurosat(root: Path) -> Expected:
    files = [f"eurosat/2750/{c}/{c}_{i}.jpg" for c in ("Forest", "River") for i in range(10)]
    pairs = class_folders(root, files)
    test = [(f, c) for f, c in pairs if open_of(root, "eurosat:test", f)]
    return {"train": [pair for pair in pairs if pair not in test], "test": test}


def open_of(root: Path, spec: str, file: str) -> bool:
    """Whether a file is in a split, where which ones are is drawn."""
    name, _, split = spec.partition(":")
    source = open_source(f"{name}:{root}:{split}")
    return file in [source.identity(i) for i in range(len(source))]


def flowers102(root: Path) -> Expected:
    folder = root / "flowers-102"
    folder.mkdir()
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]], np.uint8)})
    ids = {"trnid": [[1, 2]], "valid": [[3, 5]], "tstid": [[4, 6]]}
    savemat(folder / "setid.mat", {key: np.array(value, np.uint16) for key, value in ids.items()})
    for i in range(1, 7):
        draw(folder / "jpg" / f"image_{i:05d}.jpg")

    def expected(*numbers: int) -> list[tuple[str, str]]:
        names = ("pink primrose", "hard-leaved pocket orchid")  # of odd and even numbers
        return [(f"flowers-102/jpg/image_{n:05d}.jpg", names[(n + 1) % 2]) for n in numbers]

    return {"train": expected(1, 2, 3, 5), "test": expected(4, 6)}


def pets(root: Path) -> Expected:
    folder = root / "oxford-iiit-pet"
    trainval = ["Abyssinian_100 1 1 1", "great_pyrenees_7 2 2 1"]
    write(folder / "annotations" / "trainval.txt", *trainval)
    write(
        folder / "annotations" / "test.txt",
        "#Image CLASS-ID SPECIES BREED ID",
        "great_pyrenees_9 2 2 1",
        "Abyssinian_201 1 1 1",
    )
    for name in ("Abyssinian_100", "great_pyrenees_7", "great_pyrenees_9", "Abyssinian_201"):
        draw(folder / "images" / f"{name}.jpg")
    image = "oxford-iiit-pet/images/{}.jpg".format
    cat, dog = "Abyssinian", "great_pyrenees"
    return {
        "train": [(image("Abyssinian_100"), cat), (image("great_pyrenees_7"), dog)],
        "test": [(image("great_pyrenees_9"), dog), (image("Abyssinian_201"), cat)],
    }


def food101(root: Path) -> Expected:
    folder = root / "food-101"
    listed = {"train": {"apple_pie": ["apple_pie/1"], "waffles": ["waffles/2"]},
              "test": {"apple_pie": ["apple_pie/3"], "waffles": ["waffles/4"]}}  # fmt: skip
    for split, held in listed.items():
        write(folder / "meta" / f"{split}.json", json.dumps(held))
        for (name,) in held.values():
            draw(folder / "images" / f"{name}.jpg")
    return {
        split: [(f"food-101/images/{names[0]}.jpg", label) for label, names in held.items()]
        for split, held in listed.items()
    }


def sun397(root: Path) -> Expected:
    write(root / "Partitions" / "ClassName.txt", "/a/abbey", "/a/apartment_building/outdoor")
    write(
        root / "Partitions" / "Training_01.txt",
        "/a/abbey/sun_a.jpg",
        "/a/apartment_building/outdoor/sun_b.jpg",
    )
    write(root / "Partitions" / "Testing_01.txt", "/a/apartment_building/outdoor/sun_c.jpg")
    for image in (
        "abbey/sun_a",
        "apartment_building/outdoor/sun_b",
        "apartment_building/outdoor/sun_c",
    ):
        draw(root / "SUN397" / "a" / f"{image}.jpg")
    outdoor = "apartment_building/outdoor"
    return {
        "train": [
            ("SUN397/a/abbey/sun_a.jpg", "abbey"),
            (f"SUN397/a/{outdoor}/sun_b.jpg", outdoor),
        ],
        "test": [(f"SUN397/a/{outdoor}/sun_c.jpg", outdoor)],
    }


def inaturalist(year: int) -> Callable[[Path], Expected]:
    def make(root: Path) -> Expected:
        expected: Expected = {}
        for split, file in (("train", "train"), ("test", "val")):
            images = [
                {"id": 40 + i, "file_name": f"train_val{year}/Plantae/{i}/{split}{i}.jpg"}
                for i in range(2)
            ]
            held = {
                "images": images,
                "annotations": [{"id": i, "image_id": 41 - i, "category_id": i} for i in range(2)],
                "categories": [{"id": 0, "name": "Rosa"}, {"id": 1, "name": "Viola"}],
            }
            write(root / f"{file}{year}.json", json.dumps(held))
            for image in images:
                draw(root / str(image["file_name"]))
            expected[split] = [
                (str(image["file_name"]), label)
                for image, label in zip(images, ("Viola", "Rosa"), strict=True)
            ]
        return expected

    return make


LAYOUTS: dict[str, Callable[[Path], Expected]] = {
    "imagenet": imagenet,
    "imagenet-v2": imagenet_v2,
    "imagenet-r": variant,
    "imagenet-a": variant,
    "imagenet-sketch": variant,
    **{f"cog-l{level}": cog(level) for level in range(1, 6)},
    "aircraft": aircraft,
    "cars196": cars196,
    "dtd": dtd,
    "eurosat": eurosat,
    "flowers102": flowers102,
    "pets": pets,
    "food101": food101,
    "sun397": sun397,
    "inat2018": inaturalist(2018),
    "inat2019": inaturalist(2019),
}


def test_the_fifteen_transfer_sets_and_imagenets_family_are_there() -> None:
    assert set(LAYOUTS) == set(BENCHMARKS)
    assert len([name for name in BENCHMARKS if not name.startswith("imagenet")]) == 15


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_set_in_its_publishers_layout_opens_with_its_splits_and_classes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket", None)  # whoever wanted to download could not
    # torchvision compares a checksum, which no other file can have
    monkeypatch.setattr(
        "torchvision.datasets.flowers102.check_integrity",
        lambda path, md5=None: Path(path).exists(),
    )
    expected = LAYOUTS[name](tmp_path)
    assert tuple(expected) == BENCHMARKS[name].splits
    for split, pairs in expected.items():
        source = open_source(f"{name}:{tmp_path}:{split}")
        assert source.name == name
        assert sorted(source.identity(i) for i in range(len(source))) == sorted(f for f, _ in pairs)
        for i in range(len(source)):
            sample = source.read(i)
            assert sample.image.size == (12, 9)
            label = dict(pairs)[source.identity(i)]
            held = sample.fields["cls"]
            assert (str(held) if source.classes is None else source.classes[held]) == label
    first = next(iter(expected))
    assert len(open_source(f"{name}:{tmp_path}")) == len(expected[first])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_set_that_is_not_there_is_answered_with_its_layout_and_origin(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="expected below it") as said:
        open_source(f"{name}:{tmp_path}")
    assert BENCHMARKS[name].layout in str(said.value)
    assert BENCHMARKS[name].origin in str(said.value)
    assert "\n" not in str(said.value)


def test_eurosat_splits_each_class_by_thirty_in_a_hundred(tmp_path: Path) -> None:
    expected = eurosat(tmp_path)
    assert [label for _, label in expected["test"]] == ["Forest"] * 3 + ["River"] * 3
    assert len(expected["train"]) == 14


def test_a_head_of_imagenet_is_scored_on_its_variants(tmp_path: Path) -> None:
    for name in ("imagenet", "imagenet-v2", "imagenet-r"):
        LAYOUTS[name](tmp_path / name)
    # renumbered in v2: three classes only
    (tmp_path / "imagenet-v2" / "10").rename(tmp_path / "imagenet-v2" / "1")
    specs = [f"{name}:{tmp_path / name}" for name in ("imagenet", "imagenet-v2", "imagenet-r")]
    tasks = measure.parse_tasks(
        [f"knn={specs[0]},{specs[0]}:test,{specs[1]},{specs[2]}"], size_px=8, trials=1
    )
    assert [(task.name, task.among) for task in tasks] == [
        ("imagenet k-NN", "train"),
        ("imagenet-v2 k-NN", "train"),
        ("imagenet-r k-NN", "test"),
    ]
    model = EvalModel(
        name="eyes", kind="teacher", fn=lambda images: Tokens(cls=images.mean(dim=(2, 3)))
    )
    results = evaluate([model], tasks)
    assert [results.value(task.name, CONSTANT) for task in tasks] == [
        pytest.approx(100 / 3),
        pytest.approx(100 / 3),
        pytest.approx(100 / 2),  # of the two classes that this variant shows
    ]
    assert all(results.value(task.name, "eyes") is not None for task in tasks)
    shown = {str(task.train["identities_sha256"]) for task in results.tasks}
    assert len(shown) == 1


def test_only_parts_of_imagenet_restrict_predictions() -> None:
    partial = [name for name in BENCHMARKS if shows_some_classes(f"{name}:/")]
    assert partial == ["imagenet-r", "imagenet-a"]
    assert not shows_some_classes("packs/caltech50:test")


def test_a_folder_with_the_name_of_a_set_is_still_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "dtd" / "test" / "a.png")
    assert len(open_source("dtd:test")) == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("imagenet-r:{}:train", "unknown split of imagenet-r 'train', expected one of test"),
        ("dtd:{}:tset", "unknown split of dtd 'tset'.*did you mean 'test'"),
        ("imagenet-v2:{}", "folder 'n01' is not a class number"),
        ("dtd:/nowhere", "/nowhere' cannot be opened"),
    ],
)
def test_mistakes_are_said_in_one_sentence(spec: str, words: str, tmp_path: Path) -> None:
    variant(tmp_path)
    with pytest.raises(ValueError, match=words):
        open_source(spec.format(tmp_path))


def test_the_documentation_says_how_every_set_lies_and_where_it_comes_from() -> None:
    text = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    for benchmark in BENCHMARKS.values():
        if not benchmark.name.startswith("cog-l"):
            assert f"| `{benchmark.name}` | {benchmark.classes:,} |" in text
            assert f"`{benchmark.layout}`" in text
        assert benchmark.origin.split()[0] in text


def test_list_datasets_shows_every_set_and_where_it_comes_from() -> None:
    shown = describe.describe("datasets")
    for benchmark in BENCHMARKS.values():
        assert f"{benchmark.name}:ROOT" in shown
        assert benchmark.origin in shown
