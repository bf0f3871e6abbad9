"""Sources: what is found, what is decoded, and how each mistake is answered."""

import io
import json
import os
import pickle
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alumnus.data import BrokenImageError, Subset, hold_out, open_source, split_indices
from alumnus.data.decode import decode_rgb
from alumnus.data.holdout import held_out_count
from alumnus.data.packs import PackSource
from image_files import encoded, picture, write_folder, write_pack


def labelled(number: int, /, **record: object) -> dict[str, bytes]:
    return {
        "jpg": encoded(picture(number)),
        "cls": str(number % 3).encode(),
        "json": json.dumps(record).encode(),
    }


def rgb(data: bytes) -> Image.Image:
    return decode_rgb(data, source="s", identity="i")


# Folders


def test_folder_is_read_recursively_sorted_and_without_hidden_files(tmp_path: Path) -> None:
    names = ["b/2.JPG", "a/x/1.png", "a/0.jpeg", "a/.hidden.jpg", ".trash/3.jpg", "notes.txt"]
    source = open_source(write_folder(tmp_path / "photos", names))
    assert [source.identity(i) for i in range(len(source))] == ["a/0.jpeg", "a/x/1.png", "b/2.JPG"]
    assert source.name == "photos"


def test_first_level_of_folders_gives_the_classes(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, ["dog/1.jpg", "cat/2.jpg", "cat/deep/3.jpg"]))
    assert source.classes == ("cat", "dog")
    assert [source.read(i).fields["cls"] for i in range(3)] == [0, 0, 1]


@pytest.mark.parametrize("names", [["a/1.jpg", "2.jpg"], ["a/1.jpg", "a/2.jpg"], ["1.jpg"]])
def test_folder_without_class_folders_has_no_classes(tmp_path: Path, names: list[str]) -> None:
    source = open_source(write_folder(tmp_path, names))
    assert source.classes is None
    assert source.read(0).fields == {}


def test_folder_split_is_the_subfolder(tmp_path: Path) -> None:
    write_folder(tmp_path, ["train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg"])
    assert len(open_source(f"{tmp_path}:train")) == 2
    assert len(open_source(tmp_path, split="val")) == 1


def test_linked_folder_is_followed_but_a_loop_is_not(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", ["1.jpg"])
    write_folder(tmp_path / "photos", ["a/2.jpg"])
    (tmp_path / "photos/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/loop").symlink_to(tmp_path / "photos")
    source = open_source(tmp_path / "photos")
    assert [source.identity(i) for i in range(len(source))] == ["a/2.jpg", "linked/1.jpg"]


def test_file_removed_after_opening_is_a_broken_image(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, ["1.jpg"]))
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(BrokenImageError, match=r"'1.jpg' of .* cannot be decoded: No such file"):
        source.read(0)


# Packs


@pytest.mark.parametrize("packed", [False, True])
def test_pack_gives_images_and_fields_in_any_order(
    tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4) * 1000
    samples = [
        {**labelled(i, number=i), "depth.png": encoded(Image.fromarray(depth + i), "PNG")}
        for i in range(9)
    ]
    pack = write_pack(tmp_path / "pack", {"all": samples}, classes=list("xyz"), packed=packed)
    source = open_source(pack)
    assert len(source) == 9
    assert source.classes == ("x", "y", "z")
    assert source.identity(5).split("/")[1] == "000005"
    for i in (8, 0, 5, 4):
        sample = source.read(i)
        assert (sample.fields["cls"], sample.fields["json"]) == (i % 3, {"number": i})
        np.testing.assert_array_equal(sample.fields["depth"], depth + i)
        assert sample.image.tobytes() == rgb(samples[i]["jpg"]).tobytes()


def test_pack_without_a_split_opens_train_and_never_test(tmp_path: Path) -> None:
    pack = write_pack(tmp_path, {"test": [labelled(0)], "train": [labelled(1), labelled(2)]})
    assert len(open_source(pack)) == 2
    assert len(open_source(f"{pack}:test")) == 1


def test_where_selects_by_a_json_field(tmp_path: Path) -> None:
    domains = ["things", "people", "people", "things", "people"]
    pack = write_pack(
        tmp_path / "p", {"all": [labelled(i, domain=d) for i, d in enumerate(domains)]}
    )
    people = open_source(pack, where={"domain": "people"}, domain="people")
    assert [people.read(i).fields["cls"] for i in range(len(people))] == [1, 2, 1]
    assert (people.name, people.domain) == ("p-people", "people")


def _read_all(source: PackSource) -> list[bytes]:
    return [source.read(i).image.tobytes() for _ in range(20) for i in range(len(source))]


def test_one_pack_is_read_by_several_processes_at_once(tmp_path: Path) -> None:
    source = open_source(write_pack(tmp_path, {"all": [labelled(i) for i in range(8)]}))
    assert isinstance(source, PackSource)
    expected = _read_all(source)  # the files are open before the fork
    with get_context("fork").Pool(2) as pool:
        assert pool.map(_read_all, [source, source]) == [expected, expected]


def test_pickled_pack_takes_no_open_file_along(tmp_path: Path) -> None:
    source = open_source(write_pack(tmp_path, {"all": [labelled(0)]}))
    before = source.read(0)  # opens the shard
    again = pickle.loads(pickle.dumps(source))
    assert again._files == (-1, {})
    assert again.read(0).image.tobytes() == before.image.tobytes()


# Mistakes


def test_missing_folder_names_the_nearest_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", ["a/1.jpg"])
    with pytest.raises(
        ValueError, match=r"there is no folder '.*fotos/a'; did you mean '.*photos'"
    ):
        open_source(tmp_path / "fotos" / "a")


def test_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"there are no images in .* \(looked for .*\.jpg"):
        open_source(tmp_path)


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, ["1.jpg"])
    with pytest.raises(ValueError, match="is a file, but a folder of images, a pack or a list"):
        open_source(tmp_path / "1.jpg")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("{}:trian", {}, "'trian', expected one of test, train; did you mean 'train'?"),
        ("{}", {"where": {"domain": "peple"}}, "'peple', expected one of people; did you mean"),
        ("{}", {"where": {"domian": "people"}}, "'domian', expected one of domain; did you mean"),
        ("{}:test", {"split": "train"}, "names the split 'test', but split is 'train'"),
        ("miniworld:object", {}, "did you mean 'objects'?"),
        ("miniworld:objects:tset", {}, "did you mean 'test'?"),
    ],
)
def test_misspelt_choice_is_answered_with_the_choices(
    tmp_path: Path, spec: str, options: dict[str, object], message: str
) -> None:
    samples = [labelled(0, domain="people")]
    write_pack(tmp_path / "pack", {"train": samples, "test": samples})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        open_source(spec.format(tmp_path / "pack"), **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_on_a_folder_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"which the folder of images .* has not"):
        open_source(write_folder(tmp_path, ["1.jpg"]), where={"domain": "people"})


def _cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10240 - 700)


def _damage_a_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(b"000002.jpg")
    content[place : place + 200] = b"\xff" * 200
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut_short, _damage_a_header, Path.unlink])
def test_damaged_shard_is_refused_by_name(tmp_path: Path, damage: object) -> None:
    pack = write_pack(tmp_path, {"all": [labelled(i) for i in range(4)]})
    damage(pack / "all-00000.tar")  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"shard '.*all-00000.tar' is (damaged|missing)"):
        open_source(pack)


def test_cut_off_packed_shard_is_refused_and_leaves_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    pack = write_pack(tmp_path / "pack", {"all": [labelled(0)]}, packed=True)
    os.truncate(pack / "all-00000.tar.gz", 100)
    with pytest.raises(ValueError, match="is damaged"):
        open_source(pack)
    assert not list((tmp_path / "cache/unpacked").iterdir())


def test_index_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(ValueError, match="is no index of a pack"):
        open_source(tmp_path)


# Decoding


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_the_rgb_picture_it_shows(mode: str) -> None:
    image = picture(3).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    decoded = np.asarray(rgb(encoded(image, kind)), np.int16)
    assert np.abs(decoded - np.asarray(image.convert("RGB"), np.int16)).max() <= 2


def test_transparent_pixels_lie_on_white() -> None:
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    assert np.asarray(rgb(encoded(image, "PNG"))).min() == 255


def test_grey_of_sixteen_bits_keeps_its_contrast() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    decoded = np.asarray(rgb(encoded(Image.fromarray(ramp), "PNG")))
    np.testing.assert_array_equal(decoded[..., 0], np.rint(ramp / 257))


def test_photograph_is_turned_as_its_exif_says() -> None:
    image, buffer = picture(1, width=40, height=24), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, "JPEG", exif=exif, quality=95)
    upright = rgb(buffer.getvalue())
    assert upright.size == (24, 40)
    turned = np.asarray(image.transpose(Image.Transpose.ROTATE_270), np.int16)
    assert np.abs(np.asarray(upright, np.int16) - turned).mean() < 3


@pytest.mark.parametrize("content", [b"", b"no image", encoded(picture(0))[:-300]])
def test_broken_image_is_named_and_survives_a_process_boundary(content: bytes) -> None:
    with pytest.raises(BrokenImageError) as caught:
        decode_rgb(content, source="photos", identity="a/1.jpg")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert "image 'a/1.jpg' of 'photos' cannot be decoded: " in str(again)


def test_broken_field_is_a_broken_image(tmp_path: Path) -> None:
    source = open_source(write_pack(tmp_path, {"all": [{**labelled(0), "json": b"{"}]}))
    with pytest.raises(BrokenImageError, match="its field 'json' is damaged"):
        source.read(0)


# Subsets and held-out images


def test_subset_renumbers_samples_and_keeps_their_names(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, [f"{c}/{i}.jpg" for c in "ab" for i in range(3)]))
    subset = Subset(source, [4, 1], domain="other")
    assert [subset.identity(i) for i in range(2)] == ["b/1.jpg", "a/1.jpg"]
    assert (subset.name, subset.domain, subset.classes) == (source.name, "other", ("a", "b"))
    assert subset.read(0).fields == {"cls": 1}


@pytest.mark.parametrize(
    ("n", "held"), [(5, 0), (100, 10), (2559, 255), (3000, 256), (25600, 256), (100000, 1000)]
)
def test_one_percent_is_held_out_within_its_bounds(n: int, held: int) -> None:
    assert held_out_count(n) == held


class Named:
    """A source of names alone."""

    domain, generic, classes = "default", False, None

    def __init__(self, name: str, names: list[str]) -> None:
        self.name, self.names = name, names

    def __len__(self) -> int:
        return len(self.names)

    def identity(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> object:
        raise AssertionError("a split is decided by names, not by pixels")


def test_held_out_images_stay_held_out_when_others_come_and_go() -> None:
    names = [f"{i:05d}.jpg" for i in range(4000)]
    few, many = Named("s", names[:3900]), Named("s", names[::-1])
    [(_, before)] = split_indices([few])  # type: ignore[list-item]
    [(kept, after)] = split_indices([many])  # type: ignore[list-item]
    assert sorted([*kept, *after]) == list(range(4000))
    moved = {few.identity(i) for i in before} ^ {many.identity(i) for i in after}
    assert (len(before), len(after)) == (256, 256)
    assert len(moved) < 30


def test_copies_of_an_image_fall_on_the_same_side() -> None:
    names = [f"{i:05d}.jpg" for i in range(3000)]
    sources = [Named("s", names), Named("copy", names[::-1]), Named("tiny", ["x"])]
    training, held = hold_out(sources)  # type: ignore[arg-type]
    trained = {s.identity(i) for s in training for i in range(len(s))}
    kept_away = {s.identity(i) for s in held for i in range(len(s))}
    assert not trained & kept_away
    assert [s.name for s in training] == ["s", "copy", "tiny"]
    assert 250 <= sum(map(len, held)) <= 256


def test_a_source_may_be_cut_to_its_first_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", [f"{i}.jpg" for i in range(5)])
    whole, cut = (open_source(f"{tmp_path / 'photos'}{end}") for end in ("", "[:3]"))
    assert [cut.identity(i) for i in range(len(cut))] == [whole.identity(i) for i in range(3)]
    assert cut.name == whole.name
    assert len(open_source(f"{tmp_path / 'photos'}[:99]")) == 5


def test_a_slice_and_the_rest_of_a_source_are_all_of_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", [f"{i}.jpg" for i in range(5)])
    parts = [open_source(f"{tmp_path / 'photos'}{end}") for end in ("[:2]", "[2:3]", "[3:]")]
    names = [part.identity(i) for part in parts for i in range(len(part))]
    assert names == [f"{i}.jpg" for i in range(5)]
    with pytest.raises(ValueError, match="keeps none of the 5 images"):
        open_source(f"{tmp_path / 'photos'}[5:]")
