"""Odd image files, each made here, through a real folder and the training loader."""

import io
import itertools
import random
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features
from torch import Tensor

from alumnus.data import (
    UNIC,
    AugmentConfig,
    BrokenImageError,
    Mixture,
    eval_transform,
    make_loader,
    open_source,
)
from alumnus.data import decode as module
from alumnus.data.augment import draw
from alumnus.data.decode import decode, decode_rgb
from alumnus.data.picture import as_image, as_pixels
from alumnus.data.pixels import eval_view, view
from image_files import encoded, picture

COLOUR = (200, 30, 90)
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def opened(folder: Path, content: bytes, name: str = "odd.jpg") -> Pixels:
    """The pixels of a file's content, read by a folder and seen by a training batch."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    source = open_source(folder)
    for augment in (UNIC, AugmentConfig(kind="none")):
        batches = make_loader(Mixture([source]), augment, size=16, batch_size=2)
        [batch] = itertools.islice(batches, 1)
        assert batch.images.shape == (2, 3, 16, 16)
        assert batch.images.isfinite().all()
        assert not batches.bad_images
    found = np.asarray(source.read(0).image)
    assert np.array_equal(found, np.asarray(decode_rgb(content, source="s", identity="i")))
    return found


def refused(folder: Path, content: bytes) -> str:
    """Why a file's content is no image; the loader takes the other image of the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "bad.jpg").write_bytes(content)
    (folder / "good.jpg").write_bytes(encoded(picture(0)))
    source = open_source(folder)
    batches = make_loader(Mixture([source]), UNIC, size=16, batch_size=2)
    [batch] = itertools.islice(batches, 1)
    assert len(batch.images) == 2
    [bad] = batches.bad_images
    assert (bad.identity, bad.replaced_by) == ("bad.jpg", "good.jpg")
    with pytest.raises(BrokenImageError) as by_pillow:
        decode_rgb(content, source=source.name, identity="bad.jpg")
    with pytest.raises(BrokenImageError, match=re.escape(str(by_pillow.value))):
        source.read(0)
    assert "\n" not in bad.why
    return bad.why


def png(rows: "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]", *, colour_type: int) -> bytes:
    """A PNG of 16 bits, of kinds that Pillow reads but does not write."""
    height, width = rows.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def close(pixels: Pixels, expected: Sequence[int], *, within: int = 3) -> bool:
    return bool(np.abs(pixels.astype(int) - np.array(expected)).max() <= within)


# The fast way for plain JPEGs


def jpegs() -> dict[str, bytes]:
    made = {}
    for name, mode, settings in [
        ("baseline", "RGB", {}),
        ("progressive", "RGB", {"progressive": True}),
        ("full colour", "RGB", {"subsampling": 0, "quality": 97}),
        ("half colour", "RGB", {"subsampling": 1, "quality": 30}),
        ("restarts", "RGB", {"restart_marker_rows": 1}),
        ("grey", "L", {}),
        ("cmyk", "CMYK", {}),
    ]:
        buffer = io.BytesIO()
        image = picture(5, width=61, height=47).convert(mode)
        image.save(buffer, "JPEG", **settings)  # type: ignore[arg-type]
        made[name] = buffer.getvalue()
    return made


def outcome(way: Callable[..., Any], content: bytes) -> "Pixels | str":
    try:
        return np.asarray(as_image(way(content, source="s", identity="i")))
    except BrokenImageError as error:
        return error.why


@pytest.mark.parametrize("name", jpegs())
def test_jpegs_are_what_pillow_makes_of_them_whole_cut_or_damaged(name: str) -> None:
    content, draws = jpegs()[name], random.Random(name)
    versions = [content, content[:-1], content[:-2], content[:-40], content[:30]]
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(draws.choice([1, 1, 4])):
            damaged[draws.randrange(2, len(damaged))] = draws.randrange(256)
        versions.append(bytes(damaged))
    for version in versions:
        ours, pillows = outcome(decode, version), outcome(decode_rgb, version)
        assert np.array_equal(ours, pillows)
    fast = isinstance(decode(content, source="s", identity="i"), Tensor)
    assert fast is (
        name not in ("grey", "cmyk") and getattr(module, "decode_jpeg", None) is not None
    )


def test_without_the_fast_way_pillow_decodes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpegs()["baseline"]
    pixels = decode(content, source="s", identity="i")
    monkeypatch.setattr(module, "decode_jpeg", None)
    image = decode(content, source="s", identity="i")
    assert isinstance(image, Image.Image)
    assert np.array_equal(np.asarray(as_image(pixels)), np.asarray(image))


def test_pixels_are_cropped_as_the_image_is() -> None:
    image = as_image(decode(jpegs()["baseline"], source="s", identity="i"))
    pixels = as_pixels(image)
    assert torch.equal(eval_view(pixels, 16), eval_view(image, 16))
    params = draw(0, [0] * 8, range(8), [0] * 8, UNIC)
    for i in range(8):
        assert torch.equal(view(pixels, params[i], 24, UNIC), view(image, params[i], 24, UNIC))


# Broken


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_file_is_replaced(tmp_path: Path, kind: str) -> None:
    content = encoded(picture(1), kind)
    refused(tmp_path, content[: len(content) // 2])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"<html>404 Not Found</html>", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "its format EPS is"),
    ],
)
def test_file_that_is_no_picture_is_replaced(tmp_path: Path, content: bytes, why: str) -> None:
    assert why in refused(tmp_path, content)


def test_no_damage_escapes_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"]
    kinds += ["AVIF"] if features.check("avif") else []
    whole = {kind: encoded(picture(2, width=20, height=16), kind) for kind in kinds}
    source = open_source(_one(tmp_path, whole["JPEG"]))
    outcomes = set()
    for kind, _ in itertools.product(kinds, range(60)):
        content = bytearray(whole[kind])
        for place in rng.integers(0, min(len(content), 300), 4):
            content[place] = rng.integers(256)
        (tmp_path / "0.jpg").write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's remarks on damaged metadata
                source.read(0)
            outcomes.add("read")
        except BrokenImageError:
            outcomes.add("broken")
    assert outcomes == {"read", "broken"}


def _one(folder: Path, content: bytes) -> Path:
    (folder / "0.jpg").write_bytes(content)
    return folder


# Depth and colour spaces


def test_colour_of_sixteen_bits_keeps_its_high_byte(tmp_path: Path) -> None:
    stored = np.array([[[65535, 32768, 257], [0, 1000, 60000]]], np.uint16)
    found = opened(tmp_path, png(stored, colour_type=2))
    assert close(found, (stored >> 8).tolist(), within=1)


@pytest.mark.parametrize("brightest", [65535, 200])
def test_grey_of_sixteen_bits_has_one_scale_bright_or_dark(tmp_path: Path, brightest: int) -> None:
    stored = np.array([[0, brightest // 2, brightest]], np.uint16)
    expected = np.rint(stored / 257)
    for name, content in (
        ("png", png(stored, colour_type=0)),
        ("pgm", b"P5\n3 1\n65535\n" + stored.astype(">u2").tobytes()),
        ("tiff", encoded(Image.fromarray(stored), "TIFF")),
    ):
        found = opened(tmp_path / name, content)
        np.testing.assert_array_equal(found[..., 0], expected, err_msg=name)


def test_transparent_pixels_of_sixteen_bits_lie_on_white(tmp_path: Path) -> None:
    stored = np.array([[[0, 0, 0, 0], [0, 0, 0, 65535]]], np.uint16)
    assert opened(tmp_path, png(stored, colour_type=6)).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 70000, 140000]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[-5, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[np.nan, np.inf, 1]], np.float32), [0, 0, 255]),
    ],
)
def test_grey_of_thirty_two_bits_is_scaled_by_its_values(
    tmp_path: Path, values: "np.ndarray[tuple[int, int], np.dtype[np.float32]]", expected: list[int]
) -> None:
    found = opened(tmp_path, encoded(Image.fromarray(values), "TIFF"))
    assert found[0, :, 0].tolist() == expected


def test_cmyk_jpeg_shows_its_colours(tmp_path: Path) -> None:
    content = encoded(Image.new("RGB", (16, 16), COLOUR).convert("CMYK"))
    assert close(opened(tmp_path, content), COLOUR)


def test_ycck_jpeg_shows_its_colours(tmp_path: Path) -> None:
    # Adobe stores CMYK inverted and YCCK as the YCbCr of 255 - stored CMY; Pillow inverts too
    inks = tuple(255 - value for value in COLOUR)
    planes = [255 - value for value in Image.new("RGB", (1, 1), inks).convert("YCbCr").tobytes()]
    content = bytearray(encoded(Image.new("CMYK", (16, 16), (*planes, 0))))
    marker = content.index(b"Adobe")
    content[marker + 11] = 2  # the transform: YCCK
    assert close(opened(tmp_path, bytes(content)), COLOUR)


def test_animations_show_their_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (12, 12), colour) for colour in ("red", "lime")]
    for kind in ("GIF", "WEBP", "PNG"):
        path = tmp_path / f"{kind}.tmp"
        frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=50)
        assert close(opened(tmp_path / kind, path.read_bytes()), (255, 0, 0)), kind


# Transparency


def test_transparent_palette_entries_lie_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, *COLOUR])
    image.putpixel((0, 0), 0)
    opaque = opened(tmp_path / "opaque", encoded(image, "PNG"))
    assert opaque[0, 0].tolist() == [10, 20, 30]
    for kind in ("PNG", "GIF"):
        path = tmp_path / f"{kind}.tmp"
        image.save(path, kind, transparency=0)
        found = opened(tmp_path / kind, path.read_bytes())
        assert found[0, 0].tolist() == [255, 255, 255], kind
        assert close(found[1:], COLOUR), kind


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    content = encoded(Image.new("RGBA", (8, 8), (0, 0, 200, 128)), "PNG")
    assert close(opened(tmp_path, content), (127, 127, 227), within=1)


# Sizes and orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (48, 32), "black")
    upright.paste("white", (0, 0, 24, 16))  # the top left quarter
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "stored.tmp"
    stored.save(path, "JPEG", exif=exif, quality=95)
    found = opened(tmp_path / "photos", path.read_bytes())
    assert found.shape == (32, 48, 3)
    assert np.abs(found.astype(int) - np.asarray(upright).astype(int)).mean() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3)])
def test_images_of_a_few_pixels_are_trained_on(tmp_path: Path, size: tuple[int, int]) -> None:
    found = opened(tmp_path, encoded(Image.new("RGB", size, COLOUR), "PNG"))
    assert found.shape == (size[1], size[0], 3)


def test_of_a_very_thin_image_the_middle_is_kept(tmp_path: Path) -> None:
    image = Image.new("RGB", (50_000, 1), "black")
    image.paste(COLOUR, (24_900, 0, 25_100, 1))
    found = opened(tmp_path, encoded(image, "PNG"))
    assert found.shape == (1, 100, 3)
    assert close(found, COLOUR, within=0)
    assert eval_transform(Image.fromarray(found), 64).shape == (3, 64, 64)


def test_huge_jpeg_is_decoded_at_a_fraction(tmp_path: Path) -> None:
    # 200 million pixels, more than Pillow opens by itself
    found = opened(tmp_path, encoded(Image.new("RGB", (20_000, 10_000), COLOUR)))
    assert found.shape == (2500, 5000, 3)
    assert close(found[0, :9], COLOUR)


def test_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    stored = np.zeros((1, 1), np.uint16)
    content = bytearray(png(stored, colour_type=0))
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 16, 0, 0, 0, 0)
    content[16 : 16 + len(header)] = header
    content[29:33] = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert "10000000000 pixels" in refused(tmp_path / "png", bytes(content))

    jpeg = bytearray(encoded(picture(0), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    assert "65000 x 65000 pixels are more than" in refused(tmp_path / "jpeg", bytes(jpeg))


def test_name_of_a_file_does_not_decide_its_format(tmp_path: Path) -> None:
    image = picture(4)
    found = opened(tmp_path, encoded(image, "PNG"), "really-a-png.jpg")
    np.testing.assert_array_equal(found, np.asarray(image))
