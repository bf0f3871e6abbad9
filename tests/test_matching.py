"""Patches are matched between two views of known depth and camera."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alumnus import measure
from alumnus.data import Sample
from alumnus.evaluation.matching import (
    Truth,
    View,
    match_grid,
    match_score,
    nearest_patches,
    same_place,
    true_places,
)
from alumnus.evaluation.suite import CONSTANT, evaluate
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.evaluation.view_pairs import MOST_PAIRS, Posed, pairs_of
from alumnus.tokens import Tokens

SIDE, CELL = 64, 8
FOCAL, AWAY = 64.0, 2.0  # px, metres


def view(shift_px: float, depth: Tensor | None = None) -> View:
    """A camera before a wall, moved to the right so that the picture moves left by `shift_px`."""
    K = torch.tensor([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = shift_px * AWAY / FOCAL
    return View(torch.full((SIDE, SIDE), AWAY) if depth is None else depth, K, pose)


class Walls:
    """Pairs of views of a wall of random colours, 8 px a patch, moved by whole patches."""

    domain, generic, classes = "rooms", False, None

    def __init__(self, pairs: int = 6) -> None:
        self.name = "walls"
        generator = np.random.default_rng(0)
        wall = generator.integers(0, 255, (pairs, 8, 12, 3), np.uint8)
        self.walls = wall.repeat(CELL, axis=1).repeat(CELL, axis=2)
        self.shifts = generator.integers(1, 4, pairs) * CELL

    def __len__(self) -> int:
        return 2 * len(self.walls)

    def identity(self, index: int) -> str:
        return f"{self.name}/{index}"

    def read(self, index: int) -> Sample:
        pair, second = divmod(index, 2)
        shift = int(self.shifts[pair]) * second
        seen = view(shift)
        fields = {"depth": seen.depth.numpy(), "K": seen.K.numpy(), "pose": seen.pose.numpy()}
        picture = Image.fromarray(self.walls[pair][:, shift : shift + SIDE])
        return Sample(picture, {**fields, "pair": pair})


class Walk(Walls):
    """The same views as frames of a walk: nobody says which belong together."""

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        image, fields = sample.image, sample.fields
        K = np.array(fields["K"])
        K[:2, 2] -= 0.5  # pixels from the centre of the first one
        record = {"K": K.tolist(), "T_cam_to_world": fields["pose"].tolist()}
        return Sample(image, {"depth": fields["depth"], "json": {"scene": index // 2, **record}})


def colours(images: Tensor) -> Tokens:
    """Mean colour of each patch and, as length is not looked at, how bright it is."""
    mean = torch.nn.functional.adaptive_avg_pool2d(images, (8, 8))
    return Tokens.from_map(torch.cat([mean, torch.ones_like(mean[:, :1])], dim=1))


def halves(images: Tensor) -> Tokens:
    tokens = colours(images)
    return Tokens.from_map(tokens.as_map().repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_wall_is_seen_where_the_camera_moved_it() -> None:
    seen, places = true_places(view(0), view(16), (8, 8))
    shown = seen.view(8, 8)
    assert not shown[:, :2].any()  # left the picture
    assert shown[:, 2:].all()
    x = places.view(8, 8, 2)[0, 2:, 0] * SIDE
    torch.testing.assert_close(x, torch.arange(2, 8) * CELL + 4.5 - 16, atol=1e-4, rtol=0)


def test_what_is_hidden_or_has_no_depth_does_not_count() -> None:
    near = torch.full((SIDE, SIDE), AWAY)
    near[:32] = 1.0  # something before the wall in the second view
    near[32:48] = 0.0  # no depth there
    seen, _ = true_places(view(0), view(0, near), (8, 8))
    assert seen.view(8, 8)[:6].sum() == 0
    assert seen.view(8, 8)[6:].all()
    holes = torch.full((SIDE, SIDE), AWAY)
    holes[:, :32] = 0.0
    seen, _ = true_places(view(0, holes), view(0), (8, 8))
    assert seen.view(8, 8)[:, 4:].all()
    assert not seen.view(8, 8)[:, :4].any()


def test_distances_are_of_the_centre_of_the_match_from_the_true_place() -> None:
    grid = (8, 8)
    places = torch.tensor([[20.0, 12.0]]) / SIDE  # the centre of column 2, row 1
    truth = Truth(
        torch.ones(1, 1, dtype=torch.bool).expand(3, 64),
        places.expand(3, 64, 2),
        torch.full((3, 2), SIDE),
    )
    found = torch.tensor([8 + 2, 8 + 3, 16 + 3])[:, None].expand(3, 64)  # exact, beside, diagonal
    score = match_score(found, truth, grid)
    assert score.exact == pytest.approx(100 / 3)
    assert score.within_one == pytest.approx(200 / 3)
    assert score.median_error_px == pytest.approx(8)
    assert score.patches == 3 * 64


def test_the_nearest_patch_is_that_of_the_largest_cosine_whatever_its_length() -> None:
    first = torch.randn(70, 5, 8, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 4, 1, 2])
    found = nearest_patches(first[:, order], first * torch.tensor([1, 9, 0.1, 3, 2])[:, None])
    assert torch.equal(found, order.expand(70, 5))


def test_a_model_that_sees_finds_what_moved_and_finer_grids_are_averaged() -> None:
    task = TaskSpec(kind="matching", train=Walls(), test=Walls(), size_px=SIDE)
    models = [
        EvalModel(name="eyes", kind="teacher", fn=colours),
        EvalModel(name="finer", kind="student", fn=halves),
        EvalModel(name="cls", kind="student", fn=lambda x: Tokens(cls=x.mean(dim=(2, 3)))),
    ]
    results = evaluate(models, [task])
    scores = results.scores["walls matches"]
    assert scores["eyes"].value == scores["finer"].value == 100
    assert scores["eyes"].details["exact"] == 100
    assert scores["finer"].details["grid"] == [16, 16]
    assert scores[CONSTANT].value < 40
    assert "no patch tokens" in results.missing["walls matches"]["cls"]
    record = results.tasks[0]
    assert record.train == {}
    assert record.test["images"] == 12
    assert record.protocol["grid"] == [8, 8]


def test_frames_of_a_scene_that_overlap_are_pairs() -> None:
    walk = Walk()
    task = TaskSpec(kind="matching", train=walk, test=walk, size_px=SIDE)
    results = evaluate([EvalModel(name="eyes", kind="teacher", fn=colours)], [task])
    score = results.scores["walls matches"]["eyes"]
    assert score.value == 100
    assert score.details["pairs"] == 6


def test_of_many_pairs_of_frames_some_are_drawn_by_the_seed() -> None:
    near = {i: Posed(view(i / 10), "hall", paired=False) for i in range(25)}
    drawn = pairs_of(near, name="hall")
    assert len(drawn) == MOST_PAIRS == len(set(drawn))
    assert drawn == pairs_of(near, name="hall") != pairs_of(near, name="hall", seed=1)
    far = {i: Posed(view(50.0 * i), "hall", paired=False) for i in range(3)}
    with pytest.raises(ValueError, match="no two images of 'hall' are views of the same place"):
        pairs_of(far, name="hall")


def test_the_same_place_is_right_where_nothing_moved() -> None:
    seen, places = true_places(view(0), view(0), (8, 8))
    truth = Truth(seen[None], places[None], torch.tensor([[SIDE, SIDE]]))
    assert match_score(same_place(1, (8, 8)), truth, (8, 8)).exact == 100


def test_the_grid_follows_the_size_up_to_that_of_a_vit_at_224_px() -> None:
    assert [match_grid(px) for px in (64, 96, 224, 518)] == [(8, 8), (12, 12), (14, 14), (14, 14)]


def test_pairs_that_do_not_follow_each_other_are_refused_in_one_sentence() -> None:
    task = measure.parse_tasks(["matching=miniworld:rooms:test[1:5]"], trials=1, size_px=64)[0]
    model = EvalModel(name="eyes", kind="teacher", fn=colours)
    with pytest.raises(ValueError, match="are of the pairs 0 and 1, but views of a pair should"):
        evaluate([model], [task])


def test_a_source_without_pairs_is_refused_before_any_model_runs() -> None:
    with pytest.raises(ValueError, match=r"needs pairs of views \(depth, K, pose and pair"):
        measure.parse_tasks(["matching=miniworld:people:test[:4]"], trials=1)


def test_matching_learns_nothing_and_takes_the_test_split() -> None:
    assert measure.parse_task("matching=miniworld:rooms")[2] == ("miniworld:rooms:test",)
    assert measure.parse_task("matching=rooms:val,b[:4]")[2] == ("rooms:val", "b[:4]")
