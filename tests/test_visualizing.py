"""Models look at whole images, near their aspect, at sizes that they take."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from alumnus import visualizing
from alumnus.evaluation.tasks import EvalModel
from alumnus.report.sheet import Column
from alumnus.tokens import Tokens
from alumnus.visualizing import own_size, parse_place, patch_maps, write_sheet
from image_files import picture
from mask_pictures import colours


def model(**options: object) -> EvalModel:
    return EvalModel(name="eyes", kind="student", fn=colours(8), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "size_px", "seen"),
    [
        ({"size_px": 64, "patch_px": 16}, None, (128, 64)),
        ({"size_px": 64, "patch_px": 14}, None, (140, 70)),
        ({"patch_px": 16}, None, (448, 224)),
        ({"size_px": 64, "patch_px": 16}, 100, (192, 96)),
        ({"size_px": 64, "fixed_size": True}, 100, (64, 64)),
    ],
    ids=str,
)
def test_the_short_side_is_the_models_own_unless_it_is_told_another(
    options: dict[str, object], size_px: int | None, seen: tuple[int, int]
) -> None:
    assert own_size(model(**options), Image.new("RGB", (600, 300)), size_px) == seen


def test_maps_lie_as_the_image_does() -> None:
    wide, tall = picture(0, width=60, height=30), picture(0, width=30, height=60)
    maps = patch_maps(model(size_px=32, patch_px=8), [wide, tall], size_px=None)
    assert maps is not None
    assert [tuple(m.shape) for m in maps] == [(4, 8, 3), (8, 4, 3)]
    left = Image.new("RGB", (60, 30), "white")
    left.paste("black", (0, 0, 30, 30))
    [[found]] = [patch_maps(model(size_px=32, patch_px=8), [left], size_px=None) or []]
    assert (found[:, :3] < -1).all()
    assert (found[:, 5:] > 1).all()


def test_a_model_without_patches_has_no_maps() -> None:
    blind = EvalModel(name="pooled", kind="teacher", fn=pooled)
    assert patch_maps(blind, [picture(0)], size_px=None) is None


@pytest.mark.parametrize("text", ["", "0.5", "0.5,0.5,0.5", "a,b", "1.2,0.1", "-0.1,0", "nan,0"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no place in an image"):
        parse_place(text)


def test_a_place_is_in_shares_of_width_and_height() -> None:
    assert parse_place("0.25, 1") == (0.25, 1.0)
    assert torch.tensor(parse_place("0,0")).tolist() == [0.0, 0.0]


def pooled(images: Tensor) -> Tokens:
    return Tokens(cls=images.mean(dim=(2, 3)))


def test_a_picture_has_a_row_an_image_and_a_column_a_model_with_patches(tmp_path: Path) -> None:
    rows = [
        replace(model(size_px=32, patch_px=8), name="teacher", kind="teacher"),
        replace(model(size_px=32, patch_px=8), name="pupil as teacher", kind="projected"),
        EvalModel(name="pooled", kind="teacher", fn=pooled),
    ]
    images = [picture(i, width=64, height=32) for i in range(2)]
    path = write_sheet(rows, images, tmp_path / "pictures" / "pca.png")
    with Image.open(path) as drawn:
        width, height = drawn.size
    # three columns of 2:1 cells, two rows, and two lines of headings
    assert 2.2 < width / height < 2.8


def test_a_picture_of_models_without_patches_is_refused(tmp_path: Path) -> None:
    blind = EvalModel(name="pooled", kind="teacher", fn=pooled)
    with pytest.raises(ValueError, match="need patch tokens, which pooled do not have"):
        write_sheet([blind], [picture(0)], tmp_path / "pca.png")


def test_a_projection_is_drawn_beside_its_teacher_with_its_colours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = replace(model(size_px=32, patch_px=8), name="lite", kind="teacher", space="lite")
    guess = replace(teacher, name="pupil as lite", kind="projected")
    bare = replace(teacher, name="pupil", kind="student", space=None, fn=colours(4))
    drawn: list[Column] = []

    def keep(columns: list[Column], aspects: list[float], path: Path, **options: object) -> Path:
        drawn.extend(columns)
        return path

    monkeypatch.setattr(visualizing, "draw_sheet", keep)
    write_sheet([bare, guess, teacher], [picture(0)], Path("pca.png"))
    assert [c.heading[0] for c in drawn] == ["image", "lite", "pupil as lite", "pupil"]
    assert torch.equal(drawn[1].cells[0], drawn[2].cells[0])
    assert drawn[3].cells[0].shape == (8, 10, 3)
