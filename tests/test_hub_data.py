"""Data sets in the format of Hugging Face, made here: no hub is asked."""

import builtins
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from alumnus.data import UNIC, BrokenImageError, Mixture, make_loader, open_source
from alumnus.data.decode import decode_rgb
from image_files import encoded, picture


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder written by save_to_disk, with splits train and test and classes cat and dog."""
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    features = datasets.Features(
        {
            "caption": datasets.Value("string"),
            "picture": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )

    def rows(first: int, count: int) -> Any:
        numbers = range(first, first + count)
        table = {
            "caption": [f"number {i % 2}" for i in numbers],
            "picture": [{"bytes": encoded(picture(i)), "path": None} for i in numbers],
            "label": [i % 2 for i in numbers],
        }
        return datasets.Dataset.from_dict(table, features=features)

    splits = datasets.DatasetDict({"train": rows(0, 8), "test": rows(100, 3)})
    splits.save_to_disk(str(tmp_path / "pets"))
    return tmp_path / "pets"


def test_rows_are_images_with_the_names_of_their_classes(saved: Path) -> None:
    source = open_source(f"hf:{saved}")
    assert (len(source), source.name, source.classes) == (8, "pets", ("cat", "dog"))
    assert source.identity(5) == "train/000005"
    for i in (7, 0, 3):
        sample = source.read(i)
        assert sample.fields == {"cls": i % 2}
        expected = decode_rgb(encoded(picture(i)), source="s", identity="i")
        assert sample.image.tobytes() == expected.tobytes()


def test_a_split_is_named_in_the_spec_or_beside_it(saved: Path) -> None:
    for source in (open_source(f"hf:{saved}:test"), open_source(f"hf:{saved}", split="test")):
        assert [source.identity(i) for i in range(3)] == [f"test/{i:06d}" for i in range(3)]
    assert len(open_source(f"hf:{saved}:train[:5]")) == 5


def test_where_keeps_rows_by_class_name_or_word(saved: Path) -> None:
    dogs = open_source(f"hf:{saved}", where={"label": "dog", "caption": "number 1"})
    assert [dogs.identity(i) for i in range(len(dogs))] == [f"train/{i:06d}" for i in (1, 3, 5, 7)]
    assert dogs.read(1).fields == {"cls": 1}


def test_columns_may_be_chosen_and_words_are_classes(saved: Path) -> None:
    chosen = open_source(f"hf:{saved}", columns={"image": "picture", "label": "caption"})
    assert chosen.classes == ("number 0", "number 1")
    assert chosen.read(3).fields == {"cls": 1}


def test_workers_and_copies_read_the_same_rows(saved: Path) -> None:
    source = open_source(f"hf:{saved}")
    again = pickle.loads(pickle.dumps(source))
    assert again.read(4).image.tobytes() == source.read(4).image.tobytes()
    alone, helped = (
        next(iter(make_loader(Mixture([source]), UNIC, size=16, batch_size=8, num_workers=n)))
        for n in (0, 1)
    )
    assert alone.images.equal(helped.images)


def test_rows_without_an_image_or_label_are_no_end(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    table = {
        "image": [{"bytes": b"no image", "path": None}, None, {"bytes": encoded(picture(1))}],
        "label": [0, 1, -1],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(table, features=features).save_to_disk(str(tmp_path / "odd"))
    source = open_source(f"hf:{tmp_path / 'odd'}")
    for index, why in ((0, "not an image of a known format"), (1, "the row has no image")):
        with pytest.raises(BrokenImageError, match=why):
            source.read(index)
    assert source.read(2).fields == {}


@pytest.mark.parametrize(
    ("end", "options", "message"),
    [
        (":tset", {}, "did you mean 'test'?"),
        (":test", {"split": "train"}, "names the split 'test', but split is 'train'"),
        ("", {"where": {"lable": "dog"}}, "did you mean 'label'?"),
        ("", {"where": {"label": "dug"}}, "did you mean 'dog'?"),
        ("", {"columns": {"image": "pictre"}}, "did you mean 'picture'?"),
        ("nowhere", {}, "cannot be had: "),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    saved: Path, end: str, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        open_source(f"hf:{saved}{end}", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *rest: Any) -> Any:
        if name == "datasets":
            raise ModuleNotFoundError("No module named 'datasets'", name="datasets")
        return real(name, *rest)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"need datasets: pip install 'alumnus\[hf\]'"):
        open_source("hf:org/name:train")


def test_a_spec_of_too_many_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="should read hf:ORG/NAME"):
        open_source("hf:a:b:c:d")
