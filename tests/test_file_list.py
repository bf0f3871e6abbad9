"""File lists: what is read, where paths start, which labels come out, how mistakes are answered."""

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from alumnus.data import BrokenImageError, open_source
from alumnus.data.file_list import FileListSource
from image_files import write_folder

NAMES = ["b/1.jpg", "a/0.jpg", "a/2.jpg"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of images with room for lists in `lists`."""
    (tmp_path / "lists").mkdir()
    return write_folder(tmp_path, NAMES)


def listed(path: Path, content: str, **options: Any) -> FileListSource:
    path.write_text(content)
    source = open_source(path, **options)
    assert isinstance(source, FileListSource)
    return source


def labels(source: FileListSource) -> list[int]:
    return [source.read(i).fields["cls"] for i in range(len(source))]


def test_lines_of_text_are_paths_from_the_folder_of_the_list(place: Path) -> None:
    absolute = place / "a/2.jpg"
    content = f"../b/1.jpg\r\n\n../a/0.jpg\n{absolute}"
    source = listed(place / "lists/train.txt", content)
    assert [source.identity(i) for i in range(3)] == ["../b/1.jpg", "../a/0.jpg", str(absolute)]
    assert source.name == "train"
    assert source.classes is None
    assert source.read(2).fields == {}


def test_a_tab_separates_the_label(place: Path) -> None:
    source = listed(place / "all.txt", "b/1.jpg\tdog\na/0.jpg\tcat\na/2.jpg\tdog\n")
    assert (source.classes, labels(source)) == (("cat", "dog"), [1, 0, 1])


def test_labels_that_are_numbers_stay_these_numbers(place: Path) -> None:
    source = listed(place / "all.txt", "b/1.jpg\t3\na/0.jpg\t0\na/2.jpg\t3\n")
    assert labels(source) == [3, 0, 3]
    assert source.classes == ("0", "1", "2", "3")


def test_columns_are_found_by_usual_names_or_as_chosen(place: Path) -> None:
    usual = listed(place / "u.csv", 'id,path,label\n7,"b/1.jpg",x\n8,a/0.jpg,y\n')
    odd = listed(
        place / "odd.tsv",
        "label\tphoto\tkind\n1\tb/1.jpg\tx\n1\ta/0.jpg\ty\n",
        columns={"image": "photo", "label": "kind"},
    )
    for source in (usual, odd):
        assert [source.identity(i) for i in range(2)] == ["b/1.jpg", "a/0.jpg"]
        assert (source.classes, labels(source)) == (("x", "y"), [0, 1])


def test_where_keeps_the_rows_with_these_values(place: Path) -> None:
    content = "path,domain,year\nb/1.jpg,things,1999\na/0.jpg,people,1999\na/2.jpg,people,2001\n"
    source = listed(place / "all.csv", content, where={"domain": "people", "year": "2001"})
    assert [source.identity(i) for i in range(len(source))] == ["a/2.jpg"]
    assert source.name == "all-people-2001"


def test_a_column_split_is_the_split_of_the_spec(place: Path) -> None:
    (place / "all.csv").write_text("path,split\nb/1.jpg,train\na/0.jpg,test\na/2.jpg,train\n")
    for source in (
        open_source(f"{place / 'all.csv'}:train"),
        open_source(place / "all.csv", split="train"),
    ):
        assert [source.identity(i) for i in range(len(source))] == ["b/1.jpg", "a/2.jpg"]
        assert source.name == "all"
    with pytest.raises(ValueError, match="did you mean 'train'"):
        open_source(f"{place / 'all.csv'}:trian")


def test_parquet_is_read_like_csv(place: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import parquet

    table = pyarrow.table({"file": NAMES, "label": [5, 0, 5], "domain": ["x", "x", "y"]})
    parquet.write_table(table, place / "all.parquet")
    source = open_source(place / "all.parquet", where={"domain": "x"})
    assert [source.read(i).fields["cls"] for i in range(len(source))] == [5, 0]


def test_parquet_without_pyarrow_says_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, *rest: Any) -> Any:
        if name == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *rest)

    real = builtins.__import__
    (place / "all.parquet").touch()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"need pyarrow: pip install 'alumnus\[parquet\]'"):
        open_source(place / "all.parquet")


def test_a_listed_file_that_is_missing_is_a_broken_image(place: Path) -> None:
    source = listed(place / "all.txt", "b/1.jpg\ngone.jpg\n")
    with pytest.raises(BrokenImageError, match=r"'gone.jpg' of 'all' cannot be decoded: No such"):
        source.read(1)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("e.txt", "", {}, "names no images"),
        ("e.csv", "", {}, "is empty"),
        ("m.txt", "x/1.jpg\nx/2.jpg\n", {}, "none of 2 files looked for in the list"),
        ("c.csv", "photo\nb/1.jpg\n", {}, "no column of paths, only photo"),
        ("c.csv", "photo\nb/1.jpg\n", {"columns": {"image": "foto"}}, "did you mean 'photo'?"),
        ("c.csv", "path\nb/1.jpg\n", {"columns": {"imgae": "path"}}, "did you mean 'image'?"),
        ("w.csv", "path,k\nb/1.jpg,ant\n", {"where": {"k": "aunt"}}, "did you mean 'ant'?"),
        ("w.csv", "path,k\nb/1.jpg,ant\n", {"where": {"q": "ant"}}, "expected one of k, path"),
        ("l.txt", "b/1.jpg\tdog\na/0.jpg\n", {}, "row 2 of the list"),
        ("s.txt", "b/1.jpg\n", {"split": "train"}, "has no column split, so no split 'train'"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    place: Path, name: str, content: str, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        listed(place / name, content, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_list_names_the_nearest_file(place: Path) -> None:
    (place / "train.txt").touch()
    with pytest.raises(ValueError, match=r"there is no list '.*trian.txt'; did you mean '.*train"):
        open_source(place / "trian.txt")


def test_columns_of_a_folder_are_refused(place: Path) -> None:
    with pytest.raises(ValueError, match="columns are those of a list"):
        open_source(place, columns={"image": "path"})
