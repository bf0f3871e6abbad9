"""Photographs as heads read them: all pixels of a file, the same from a path and an open image."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alumnus.data.decode import decode_rgb
from alumnus.heads.people.photos import prepare_square
from alumnus.heads.photos import read_photo
from image_files import picture


def turned(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, width=40, height=24).save(path / "turned.jpg", exif=exif)
    return path / "turned.jpg"


def grey_of_sixteen_bits(path: Path) -> Path:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(path / "grey.png")
    return path / "grey.png"


def transparent(path: Path) -> Path:
    Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(path / "clear.png")
    return path / "clear.png"


@pytest.mark.parametrize("write", [turned, grey_of_sixteen_bits, transparent])
def test_an_open_image_is_the_picture_of_its_file(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = write(tmp_path)
    expected = read_photo(path)
    with Image.open(path) as image:
        found = read_photo(image)
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    again = read_photo(found)  # what is upright is not turned a second time
    assert np.array_equal(np.asarray(again), np.asarray(expected))


def test_photographs_keep_all_pixels_where_training_reduces_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alumnus.data.decode.HUGE_PX", 64)
    path = tmp_path / "large.jpg"
    picture(0, width=200, height=160).save(path)
    assert decode_rgb(path.read_bytes(), source="s", identity="i").size == (50, 40)
    assert read_photo(path).size == (200, 160)
    assert prepare_square(path, side_px=32).picture.size == (200, 160)


def test_an_image_without_its_end_is_one_sentence() -> None:
    file = io.BytesIO()
    picture(0, width=200, height=160).save(file, "JPEG")
    with pytest.raises(ValueError, match=r"without a name' .* cannot be decoded"):
        read_photo(Image.open(io.BytesIO(file.getvalue()[:-300])))
