"""The demo: mini-dune's short form; its pictures read tokens by maps that are right."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import alumnus
from alumnus import reading_out
from alumnus.config import load_config
from alumnus.evaluation.tasks import EvalModel
from alumnus.reading_out import fit_pixels, write_readouts
from alumnus.report import readouts
from alumnus.tokens import Tokens

GREEN, RED = (torch.tensor(c) / 255 for c in (readouts.RIGHT, readouts.WRONG))


def test_the_demo_is_the_short_form_of_mini_dune() -> None:
    long, short = load_config("mini-dune"), load_config("demo")
    for section in ("student", "projector", "teachers", "standardize", "loss", "balance"):
        assert getattr(short, section) == getattr(long, section)
    assert [s.domain for s in short.data.train] == [s.domain for s in long.data.train]
    assert short.data.sampling == long.data.sampling == "balanced"
    assert (short.optim.steps or 0) < (long.optim.steps or 0) / 4


def test_a_linear_map_of_tokens_gives_back_every_pixel_it_determines() -> None:
    maps = torch.rand(300, 2, 8, 8)
    pixels = torch.nn.functional.unfold(maps, 4, stride=4).transpose(1, 2)  # [n, 4, 32]
    mix = torch.randn(32, 40)
    read = fit_pixels(pixels[:200] @ mix + 3.0, maps[:200], (2, 2))
    # a ridge of 1e-3 of the mean diagonal takes off about as much
    torch.testing.assert_close(read(pixels[200:] @ mix + 3.0), maps[200:], atol=0.05, rtol=0)


def test_tokens_that_say_nothing_leave_the_mean_of_each_pixel() -> None:
    maps = torch.rand(50, 1, 8, 8)
    read = fit_pixels(torch.zeros(50, 4, 6), maps, (2, 2))
    torch.testing.assert_close(read(torch.zeros(1, 4, 6))[0], maps.mean(dim=0))


def has(picture: Tensor, colour: Tensor) -> bool:
    return bool(((picture - colour).abs().amax(dim=-1) < 1e-3).any())


def test_matches_are_green_where_right_and_red_where_wrong() -> None:
    view = Image.new("RGB", (64, 64))
    places = torch.tensor([[[0.2, 0.2], [0.7, 0.3]], [[0.1, 0.9], [0.5, 0.8]]])
    for right in (True, False):
        drawn = readouts.match_picture(view, view, places, torch.tensor([right, right]))
        assert drawn.shape == (128, 256, 3)
        assert (has(drawn, GREEN), has(drawn, RED)) == (right, not right)


def test_near_is_bright() -> None:
    depth = torch.tensor([[1.0, 3.0], [3.0, 9.0]])
    drawn = readouts.depth_picture(depth, least_m=1.0, most_m=3.0)
    assert drawn[0, 0].tolist() == [1, 1, 1]
    assert not drawn[-1, -1].any()


def test_background_stays_grey_under_a_mask() -> None:
    image = Image.new("RGB", (8, 8), (10, 200, 30))
    mask = torch.zeros(8, 8, dtype=torch.int64)
    mask[:, 4:] = 1
    drawn = readouts.mask_picture(image, mask)
    left, right = drawn[0, 0], drawn[0, -1]
    assert left.unique().numel() == 1
    assert right.unique().numel() > 1


def colours(width: int) -> Callable[[Tensor], Tokens]:
    """Tokens of 8 px patches: fixed linear maps of their pixels."""
    mix = torch.randn(3 * 64, width, generator=torch.Generator().manual_seed(width))

    def tokens(images: Tensor) -> Tokens:
        pixels = torch.nn.functional.unfold(images, 8, stride=8).transpose(1, 2)
        return Tokens(patches=pixels @ mix, grid=(8, 8))

    return tokens


@pytest.mark.slow  # the whole command with few of its steps: minutes
def test_the_demo_runs_from_nothing_to_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    shown = alumnus.demo(tmp_path / "demo", steps=10)
    assert shown.steps == 10
    assert shown.results is not None
    for task in shown.results.tasks:
        scores = shown.results.scores[task.name]
        best = (min if task.better == "lower" else max)(s.value for s in scores.values())
        home = task.name.split()[0]
        assert scores[home].value == best, task.name  # the teacher that is at home
    for picture in shown.pictures:
        with Image.open(picture) as drawn:
            assert min(drawn.size) > 300


@pytest.mark.slow  # renders pictures of all three domains
def test_all_readouts_are_drawn_for_any_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reading_out, "FITTED", 24)
    model = EvalModel(name="colours", kind="teacher", fn=colours(16), patch_px=8)
    teachers = dict.fromkeys(("objects", "rooms", "people"), model)
    sheet = write_readouts(teachers, [model], tmp_path / "sheet.png")
    with Image.open(sheet) as drawn:
        assert drawn.width > 600
        assert drawn.height > drawn.width
