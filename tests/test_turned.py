"""Images that lie on their side in the files are turned, whole or as the release does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alumnus.assembly import open_sources
from alumnus.config import load_config
from alumnus.data import Turned, Turning, open_source


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A wide picture, white at its left, in two folders."""
    pixels = np.full((4, 8, 3), 90, np.uint8)
    pixels[:, :2] = 255
    for scene in ("seq_closeup_1", "seq_wide_1"):
        (tmp_path / scene).mkdir()
        Image.fromarray(pixels).save(tmp_path / scene / "0.png")
    return tmp_path


def pictures(folder: Path, how: Turning) -> dict[str, np.ndarray]:
    source = Turned(open_source(str(folder)), "closeup", how=how)
    return {
        source.identity(i).split("_")[1]: np.asarray(source.read(i).image)[..., 0]
        for i in range(len(source))
    }


def test_the_whole_frame_turns_clockwise_where_the_word_is_in_the_path(frames: Path) -> None:
    seen = pictures(frames, "frame")
    assert seen["wide"].shape == (4, 8)
    assert seen["closeup"].shape == (8, 4)
    assert (seen["closeup"][:2] == 255).all()  # left came to lie on top
    assert (seen["closeup"][2:] == 90).all()


def test_as_released_the_canvas_stays_and_is_cut_and_padded_with_black(frames: Path) -> None:
    turned = pictures(frames, "canvas")["closeup"]
    assert turned.shape == (4, 8)
    assert (turned[:, :2] == 0).all()
    assert (turned[:, -2:] == 0).all()
    assert (turned[:, 2:6] == 90).all()  # white was cut off


@pytest.mark.parametrize(("turning", "height"), [("frame", 8), ("canvas", 4)])
def test_a_recipe_turns_the_source_that_says_so(frames: Path, turning: str, height: int) -> None:
    words = [f"data.root={frames.parent}", f"departures.turning={turning}"]
    name = frames.name
    source = f"data.sources={{{name}: {{turn: closeup}}}}"
    config = load_config("dune-s14-336", [*words, source, f"data.val={frames}"])
    (opened,) = open_sources(config, ["any"]).train
    sizes = {opened.identity(i): opened.read(i).image.height for i in range(len(opened))}
    assert {height if "closeup" in key else 4 for key in sizes} == {height, 4}
    assert all(sizes[key] == (height if "closeup" in key else 4) for key in sizes)
