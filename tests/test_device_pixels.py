"""Crops made on the training device: those of the data workers, to a level or two of 8 bits."""

import dataclasses
import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import alumnus
import toys
from alumnus.data import (
    UNIC,
    AugmentConfig,
    Batch,
    DevicePixels,
    Mixture,
    Source,
    crop_box,
    draw,
    make_loader,
    open_source,
)
from alumnus.data.device_pixels import Stored, crop_resize
from alumnus.images import IMAGENET_STD
from image_files import encoded, picture, write_folder
from no_host_reads import NoHostReads

CPU = torch.device("cpu")
LEVEL = 1 / (255 * min(IMAGENET_STD))  # of 8 bits, in a normalised image
GEOMETRY = AugmentConfig(kind="crop_flip")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Images of many sizes, one of them broken."""
    for i, (width, height) in enumerate([(40, 30), (300, 20), (17, 61), (1, 1), (90, 90), (64, 8)]):
        path = tmp_path / "photos" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(picture(i, width=width, height=height), "PNG"))
    (tmp_path / "photos" / "broken.png").write_bytes(b"broken")
    return open_source(tmp_path / "photos")


def both(
    source: Source, config: AugmentConfig, *, channels: int = 3, teacher_size: int | None = None
) -> list[list[Batch]]:
    """The same batches from files and from pixels on the device."""
    mixture, there = Mixture([source], seed=1), DevicePixels([source], CPU, short_px=None)
    make = partial(
        make_loader,
        mixture,
        config,
        size=24,
        batch_size=6,
        seed=2,
        channels=channels,
        teacher_size=teacher_size,
    )
    return [list(itertools.islice(loader, 5)) for loader in (make(), make(on_device=there))]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("teacher_size", [24, 16])
def test_crops_are_those_of_the_workers(source: Source, channels: int, teacher_size: int) -> None:
    files, device = both(source, GEOMETRY, channels=channels, teacher_size=teacher_size)
    for theirs, ours in zip(files, device, strict=True):
        for name, x in ours.tensors.items():
            y = theirs.tensors[name]
            assert (x.shape, x.dtype) == (y.shape, y.dtype), name
            if x.is_floating_point():
                difference = (x - y).abs()
                assert difference.max() < 2.1 * LEVEL, name
                assert (difference > 0.01 * LEVEL).float().mean() < 0.02, name
            else:
                assert torch.equal(x, y), name


def test_colours_are_those_of_the_workers(source: Source) -> None:
    files, device = both(source, UNIC)
    for theirs, ours in zip(files, device, strict=True):
        difference = (ours.images - theirs.images).abs()
        assert difference.mean() < 0.05 * LEVEL  # a level before colour may be several after it


def test_broken_images_are_replaced_by_the_same_ones(source: Source) -> None:
    mixture, there = Mixture([source], seed=1), DevicePixels([source], CPU, short_px=None)
    files = make_loader(mixture, GEOMETRY, size=8, batch_size=7)
    device = make_loader(mixture, GEOMETRY, size=8, batch_size=7, on_device=there)
    for loader in (files, device):
        list(itertools.islice(loader, 3))
    assert device.bad_images == files.bad_images
    assert len(files.bad_images) == 3


@pytest.mark.parametrize(("height", "width"), [(9, 9), (40, 40), (100, 7), (3, 90), (1, 1)])
def test_resize_is_torchs_of_bytes(height: int, width: int) -> None:
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    theirs = F.interpolate(
        image.permute(2, 0, 1)[None], size=(12, 20), mode="bicubic", antialias=True
    )
    ours = crop_resize(
        image.reshape(-1, 3), [Stored(0, height, width)], [(0, 0, height, width)], (12, 20)
    )
    assert ours.shape == (1, 3, 12, 20)
    assert (ours.int() - theirs.int()).abs().max() <= 1


def test_chunks_change_nothing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    there = DevicePixels([source], CPU, short_px=None)
    [held] = there.sources
    images = [held.read(i) for i in range(6)]
    params = draw(0, 0, range(6), 0, UNIC)
    boxes = [
        crop_box(params[i], height_px=s.height_px, width_px=s.width_px, config=UNIC)
        for i, s in enumerate(images)
    ]
    whole = crop_resize(there.pixels, images, boxes, 16)
    monkeypatch.setattr("alumnus.data.device_pixels.CHUNK_VALUES", 1)
    assert torch.equal(crop_resize(there.pixels, images, boxes, 16), whole)


def test_batches_are_made_without_reading_the_device(source: Source) -> None:
    there = DevicePixels([source], CPU, short_px=None)
    loader = make_loader(Mixture([source]), UNIC, size=16, batch_size=4, on_device=there)
    batches = iter(loader)
    next(batches)
    with NoHostReads():  # type: ignore[no-untyped-call]
        next(batches)


def test_crops_are_the_same_under_autocast(source: Source) -> None:
    """Statistics are calibrated from batches made in a step's precision."""
    there = DevicePixels([source], CPU, short_px=None)
    images = [there.sources[0].read(i) for i in range(6)]
    boxes = [(0, 0, s.height_px, s.width_px) for s in images]
    whole = crop_resize(there.pixels, images, boxes, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crop_resize(there.pixels, images, boxes, 16), whole)


def test_more_pixels_than_expected_find_room(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = DevicePixels([source], CPU, short_px=None)
    monkeypatch.setattr("alumnus.data.device_pixels.resident_bytes", lambda *_, **__: 300)
    grown = DevicePixels([source], CPU, short_px=None)
    [ours], [theirs] = grown.sources, whole.sources
    assert ours.images[:6] == theirs.images[:6]  # the last one is broken
    used = 40 * 30 + 300 * 20 + 17 * 61 + 1 + 90 * 90 + 64 * 8
    assert torch.equal(grown.pixels[:used], whole.pixels[:used])


def test_large_images_are_kept_smaller(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(Image.new("RGB", (640, 400), (3, 4, 5)), "PNG"))
    there = DevicePixels([open_source(tmp_path)], CPU, short_px=64)
    assert dataclasses.astuple(there.sources[0])[1] == [Stored(0, 64, 102)]
    assert there.pixels[: 64 * 102].unique(dim=0).tolist() == [[3, 4, 5]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    toys.write_recipe(tmp_path)
    write_folder(tmp_path / "images", [f"{i}.png" for i in range(12)])
    return tmp_path


def test_run_learns_from_images_on_the_device(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        result = alumnus.distill("toy.yaml", "data.train=images", "data.resident=device", "out=run")
    assert "decoded once and kept on cpu" in caplog.text
    files = alumnus.distill("toy.yaml", "data.train=images", "data.resident=false", "out=files")
    assert result.loss == pytest.approx(files.loss, abs=0.02)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("data.augment.kind=none", "images are not cropped at random"),
        ("teachers.red.model=python:toys:host", "teacher 'red' runs on the host"),
    ],
)
def test_what_workers_must_do_is_refused(place: Path, word: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        alumnus.distill("toy.yaml", "data.train=images", "data.resident=device", word, "out=run")
