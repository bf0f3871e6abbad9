"""Images kept in memory: those of the files, to the bit where they are not larger than needed."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import alumnus
import toys
from alumnus.data import (
    UNIC,
    BrokenImageError,
    FolderSource,
    Loader,
    Mixture,
    Resident,
    Sample,
    Source,
    make_loader,
    open_source,
    resident_bytes,
)
from image_files import encoded, picture, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten small images of two classes, of which one is broken."""
    write_folder(tmp_path / "photos", [f"{'ab'[i % 2]}/{i}.png" for i in range(10)])
    (tmp_path / "photos" / "a" / "4.png").write_bytes(b"broken")
    return tmp_path / "photos"


def batches(source: Source, *, workers: int = 0) -> Loader:
    mixture = Mixture([source], seed=1)
    return make_loader(mixture, UNIC, size=16, batch_size=6, seed=2, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_memory_are_those_from_files(folder: Path, workers: int) -> None:
    source = open_source(folder)
    files, memory = batches(source), batches(Resident(source, short_px=64), workers=workers)
    for ours, theirs in itertools.islice(zip(memory, files, strict=True), 6):
        for name, x in ours.tensors.items():
            assert torch.equal(x, theirs.tensors[name]), name
    assert memory.bad_images == files.bad_images
    assert files.bad_images


def test_kept_images_are_not_read_again(folder: Path) -> None:
    source = open_source(folder)
    kept = Resident(source, short_px=64)
    for path in folder.rglob("*.png"):
        path.unlink()
    assert (len(kept), kept.name, kept.classes) == (10, source.name, ("a", "b"))
    assert kept.identity(0) == source.identity(0)
    assert kept.read(0).image.size == (40, 30)
    with pytest.raises(BrokenImageError, match=r"a/4\.png"):
        kept.read([source.identity(i) for i in range(10)].index("a/4.png"))


def test_large_images_are_kept_at_a_bound_that_crops_hardly_notice(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i, width=640, height=400), "PNG"))
    source = open_source(tmp_path)
    kept = Resident(source, short_px=64)
    assert kept.read(0).image.size == (102, 64)
    assert kept.nbytes == 4 * 102 * 64 * 3 == resident_bytes(source, short_px=64)
    [ours], [theirs] = (list(itertools.islice(batches(s), 1)) for s in (kept, source))
    difference = (ours.images - theirs.images).abs().flatten(1)
    # one resize more, and a box rounded to other pixels; in standard deviations of ImageNet
    assert difference.mean() < 0.1
    shifted = (ours.images - theirs.images.roll(1, dims=0)).abs().mean()
    assert difference.mean() < shifted / 5


def test_size_is_estimated_without_the_broken_images(folder: Path) -> None:
    source = open_source(folder)
    assert resident_bytes(source, short_px=64) == 10 * 40 * 30 * 3
    assert Resident(source, short_px=64).nbytes == 9 * 40 * 30 * 3


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    toys.write_recipe(tmp_path)
    toys.write_images(tmp_path / "images")
    return tmp_path


def distil(out: str, *words: str) -> dict[str, torch.Tensor]:
    words = ("data.train=images", "optim.steps=10", f"out={out}", *words)
    return load_file(alumnus.distill("toy.yaml", *words).folder / "student.safetensors")


def test_run_from_memory_equals_the_run_from_files(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = distil("files", "data.resident=false")
    reads: list[int] = []
    read = FolderSource.read

    def counted(self: FolderSource, index: int) -> Sample:
        reads.append(index)
        return read(self, index)

    monkeypatch.setattr(FolderSource, "read", counted)
    with caplog.at_level(logging.INFO):
        memory = distil("memory")  # auto: ten steps of eight are more than three passes
    assert "decoded once" in caplog.text
    assert max(np.bincount(reads)) <= 4  # a check, an estimate, the one decoding, held-out images
    for name, weights in files.items():
        assert torch.equal(weights, memory[name]), name


def test_short_run_reads_files(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        distil("short", "optim.steps=2")
    assert "decoded once" not in caplog.text


def test_set_that_does_not_fit_is_refused_where_it_was_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alumnus.assembly.images.memory_bytes", lambda _: 10_000)
    with pytest.raises(ValueError, match="too much for data"):
        distil("run", "data.resident=true")
    distil("run")  # auto reads files


def test_image_of_one_pixel_is_kept(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(Image.new("RGB", (1, 1), (3, 4, 5)), "PNG"))
    kept = Resident(open_source(tmp_path), short_px=8)
    assert kept.read(0).image.getpixel((0, 0)) == (3, 4, 5)
