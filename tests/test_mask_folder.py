"""Folders of images with masks: each layout gives classes from 0, and 255 for the rest."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alumnus.data import BrokenImageError, open_source
from image_files import encoded, picture

SIZE = (8, 6)  # width, height


def write(path: Path, mask: list[int] | None = None) -> None:
    """A picture, or a mask whose first pixels have these values and whose others are 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture(0, width=SIZE[0], height=SIZE[1])
    if mask is not None:
        values = np.zeros(SIZE[::-1], np.uint8)
        values.flat[: len(mask)] = mask
        image = Image.fromarray(values)
    path.write_bytes(encoded(image, "PNG" if path.suffix == ".png" else "JPEG"))


def start_of_mask(spec: str, count: int) -> list[int]:
    source = open_source(spec)
    sample = source.read(0)
    image, fields = sample.image, sample.fields
    assert fields["mask"].shape == (image.height, image.width)
    assert set(fields) == {"mask"}
    return [int(value) for value in fields["mask"].flat[:count]]


def test_ade20k_counts_from_one_and_ignores_zero(tmp_path: Path) -> None:
    root = tmp_path / "ADEChallengeData2016"
    for split, word in (("training", "train"), ("validation", "val")):
        write(root / "images" / split / f"ADE_{word}_00000001.jpg")
        write(root / "annotations" / split / f"ADE_{word}_00000001.png", [0, 1, 150, 200])
    header = "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
    (root / "objectInfo150.txt").write_text(header + "1\t0.1\t2\t3\t1\twall\n2\t0\t1\t1\t1\tsky, x")
    assert start_of_mask(f"{root}:train", 4) == [255, 0, 149, 255]
    assert open_source(f"{root}:test").identity(0) == "ADE_val_00000001.jpg"
    classes = open_source(str(root)).classes
    assert classes is not None
    assert (len(classes), classes[:3]) == (150, ("wall", "sky", "3"))


def test_cityscapes_has_nineteen_classes_and_its_test_is_val(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        stem = f"{split}/aachen/aachen_0_0"
        write(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        values = [7, 33, 0, 31] if split == "val" else [0]
        write(tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png", values)
    assert start_of_mask(f"{tmp_path}:test", 4) == [0, 18, 255, 16]
    source = open_source(f"{tmp_path}:train")
    assert source.identity(0) == "aachen/aachen_0_0_leftImg8bit.png"
    assert source.classes is not None
    assert (source.classes[0], source.classes[18]) == ("road", "bicycle")


def test_any_other_folder_holds_images_and_masks_by_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "images" / split / "a" / "x.jpeg")
        write(tmp_path / "masks" / split / "a" / "x.png", [2, 255, 1])
    assert start_of_mask(f"{tmp_path}:train", 4) == [2, 255, 1, 0]
    assert start_of_mask(f"{tmp_path}:test", 1) == [2]  # val, in the absence of a test
    assert open_source(str(tmp_path)).classes is None
    (tmp_path / "classes.txt").write_text("sky\nroad\nrear light\n")
    assert open_source(str(tmp_path)).classes == ("sky", "road", "rear light")


def test_palette_masks_are_read_as_numbers(tmp_path: Path) -> None:
    write(tmp_path / "images" / "train" / "x.jpg")
    mask = Image.fromarray(np.full(SIZE[::-1], 4, np.uint8), "L").convert("P")
    mask.putdata([3] * (SIZE[0] * SIZE[1]))
    mask.putpalette([0, 0, 0] * 3 + [200, 10, 10])
    (tmp_path / "masks" / "train").mkdir(parents=True)
    mask.save(tmp_path / "masks" / "train" / "x.png")
    assert start_of_mask(f"{tmp_path}:train", 2) == [3, 3]


def test_an_image_without_a_mask_is_named_before_any_work(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write(tmp_path / "images" / "train" / f"{name}.jpg")
    write(tmp_path / "masks" / "train" / "x.png", [1])
    with pytest.raises(ValueError, match=r"1 of 2 images of .* have no mask; .*y\.png"):
        open_source(f"{tmp_path}:train")


def test_a_damaged_mask_is_a_broken_image(tmp_path: Path) -> None:
    write(tmp_path / "images" / "train" / "x.jpg")
    (tmp_path / "masks" / "train").mkdir(parents=True)
    (tmp_path / "masks" / "train" / "x.png").write_bytes(b"no picture")
    with pytest.raises(BrokenImageError, match=r"its mask 'x\.png' is damaged"):
        open_source(f"{tmp_path}:train").read(0)


def test_an_unknown_split_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path / "images" / "train" / "x.jpg")
    write(tmp_path / "masks" / "train" / "x.png", [1])
    with pytest.raises(ValueError, match="train"):
        open_source(f"{tmp_path}:trian")
