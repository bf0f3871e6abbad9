"""Pairs of posed pictures: whatever is cut, turned and mirrored, geometry stays true."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from alumnus.data import BrokenImageError, Sample
from alumnus.evaluation.pair_poses import Poses, pointmap_poses, pose_scores, true_poses
from alumnus.evaluation.view_pairs import read_posed
from alumnus.finetuning.two_view.examples import Example, PairExamples, plain_pairs
from alumnus.finetuning.two_view.frames import (
    Frame,
    Frames,
    Gaze,
    ahead,
    drawn_gaze,
    following,
    look,
)
from alumnus.finetuning.two_view.pairing import Pairing, find_pairs, split_pairs
from alumnus.heads.two_view import ViewPrediction
from alumnus.heads.two_view.geometry import unprojected
from alumnus.heads.two_view.pairs import swapped, truth_of

SIDE = 32
WIDTH, HEIGHT = 96, 64
K = np.array([[80.0, 0, 50], [0, 78, 31], [0, 0, 1]])  # pixels from the corner; off centre, wide
WALL = np.array([0.1, 0.2, 1.0]), 3.0  # normal and distance: n . X = d, in the world
AXES = np.array([[1.0, 0, -0.1], [0, 1, -0.2]])  # two directions along the wall

Array = NDArray[np.float64]


def wall_pose(index: int) -> Array:
    """A camera that walks to the right and turns back to the left, and a little down."""
    angle, roll = -0.06 * index, 0.03 * index
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    ) @ np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, [0.2 * index, 0.03 * index, 0.05 * index]
    return pose


def on_wall(rays: Array, pose: Array) -> tuple[Array, Array]:
    """Depths (for rays of z = 1) and points of the wall along rays [..., 3] of a camera."""
    normal, distance = WALL
    world = rays @ pose[:3, :3].T
    depth = (distance - normal @ pose[:3, 3]) / (world @ normal)
    return depth, world * depth[..., None] + pose[:3, 3]


def paint(points: Array) -> Array:  # [..., 3] -> [..., 3] in [0, 255]
    """Colours of the wall: two say where along it a point is."""
    along = points @ AXES.T
    red, green = 128 + 40 * along[..., 0], 128 + 40 * along[..., 1]
    return np.stack([red, green, np.full_like(red, 60)], axis=-1).clip(0, 255)


class Walk:
    """Frames of a walk along a painted wall; some without depth, one broken where asked."""

    domain, generic, classes, name = "walls", False, None, "walk"

    def __init__(self, frames: int = 12, *, broken: int | None = None) -> None:
        self.frames, self.broken = frames, broken

    def __len__(self) -> int:
        return self.frames

    def identity(self, index: int) -> str:
        return f"walk/{index:03d}"

    def read(self, index: int) -> Sample:
        if index == self.broken:
            raise BrokenImageError("walk", self.identity(index), "cut short")
        x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(K).T
        depth, points = on_wall(rays, wall_pose(index))
        depth[:6, :6] = 0  # unknown there
        picture = Image.fromarray(paint(points).round().astype(np.uint8))
        centred = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        record = {"scene": "wall", "K": centred.tolist()}
        record["T_cam_to_world"] = wall_pose(index).tolist()
        return Sample(picture, {"depth": depth.astype(np.float32), "json": record})


def frames(**settings: int) -> Frames:
    return Frames(Walk(**settings), size_px=SIDE)


def projected(points: Tensor, K: Tensor, pose: Tensor) -> Tensor:  # [..., 3] -> [..., 2] pixels
    """Where a camera shows points of the world."""
    seen = (points.double() - pose[:3, 3].double()) @ pose[:3, :3].double()
    image = seen @ K.double().T
    return image[..., :2] / image[..., 2:]


def points_of(seen: Frame) -> Tensor:  # [S, S, 3]
    """The world, as the depth and the camera of a look say."""
    return unprojected(*(v[None].float() for v in seen.view), centre=0.5)[0]


def pixel_centres(side: int) -> Tensor:  # [S, S, 2]
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1).double()


GAZES = [ahead(), Gaze(0.1, -0.05, 1.1), Gaze(-0.15, 0.08, 1.6), Gaze(0.25, 0.0, 0.8)]


@pytest.mark.parametrize("gaze", GAZES)
def test_a_look_shows_the_wall_where_its_camera_says(gaze: Gaze) -> None:
    seen = look(frames()[4], gaze, size_px=SIDE)
    rays = pixel_centres(SIDE)
    rays = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1) @ seen.view.K.inverse().T
    depth, points = on_wall(rays.numpy(), seen.view.pose.numpy())
    known = (seen.view.depth > 0).numpy()
    assert known.mean() > 0.6
    # the depth is that of the nearest stored pixel: half a pixel of a slanted wall, 0.4%
    assert np.abs(seen.view.depth.numpy() / depth - 1)[known].max() < 0.008
    inner = known.copy()
    inner[:2], inner[-2:], inner[:, :2], inner[:, -2:] = False, False, False, False
    off = np.abs(seen.picture.permute(1, 2, 0).numpy() - paint(points))[inner]
    assert off.max() < 3.5  # of 255, along the border; a pixel of the look is 2 to 4 of them
    assert off.mean() < 0.4  # measured 0.2


@pytest.mark.parametrize("gaze", GAZES)
def test_points_of_a_look_fall_on_their_pixels_in_any_camera_of_the_frame(gaze: Gaze) -> None:
    frame = frames()[4]
    seen = look(frame, gaze, size_px=SIDE)
    world = points_of(seen)
    known = seen.view.depth > 0
    again = projected(world, seen.view.K, seen.view.pose)
    torch.testing.assert_close(again[known], pixel_centres(SIDE)[known], atol=1e-3, rtol=0)
    # in the stored picture they are where their depth was read: half a pixel at most
    stored = projected(world, frame.view.K, frame.view.pose)[known]
    read = frame.view.depth[stored[:, 1].long(), stored[:, 0].long()]
    turned = (world[known].double() - frame.view.pose[:3, 3]) @ frame.view.pose[:3, :3]
    torch.testing.assert_close(turned[:, 2].float(), read, atol=1e-3, rtol=0)


def test_straight_ahead_is_the_middle_of_the_picture_with_square_pixels() -> None:
    seen = look(frames()[0], ahead(), size_px=SIDE)
    matrix = seen.view.K.numpy()
    assert matrix[0, 0] == matrix[1, 1]
    assert matrix[:2, 2].tolist() == [SIDE / 2, SIDE / 2]
    # the lower half of the frame is 33 px high, the upper one 31: that bounds the square
    assert matrix[0, 0] == pytest.approx(SIDE / 2 / (31 / 78))
    assert (seen.view.depth > 0).all()


def test_drawn_looks_stay_inside_and_the_second_follows_the_first() -> None:
    draw = torch.Generator().manual_seed(0)
    held = frames()
    plain: list[float] = []
    followed: list[float] = []
    for _ in range(20):
        first, second = held[2], held[7]
        gaze = drawn_gaze(first.view, draw)
        seen = look(first, gaze, size_px=SIDE)
        assert (seen.view.depth > 0).float().mean() > 0.9
        there = following(first, gaze, second, zoom=1.1)
        for gazes, other in ((plain, ahead()), (followed, there)):
            both = look(second, other, size_px=SIDE)
            world = points_of(seen)
            where = projected(world, both.view.K, both.view.pose)
            inside = ((where > 0) & (where < SIDE)).all(dim=-1)
            gazes.append(inside.float().mean().item())
    assert np.mean(followed) > np.mean(plain) + 0.05


def example(number: int, **settings: int) -> Example:
    held = frames(**settings)
    found = find_pairs(held, overlap=(0.2, 0.95), seed=0)
    return PairExamples(held, found.pairs, size_px=SIDE, matches=256, seed=0)[number]


@pytest.mark.parametrize("number", range(6))
def test_matches_reproject_within_half_a_pixel(number: int) -> None:
    """Whatever was swapped, cut and mirrored: the returned cameras say so."""
    one = example(number)
    world = unprojected(one.depth, one.K, one.pose, centre=0.5)  # [2, S, S, 3]
    first, second = one.first[one.valid], one.second[one.valid]
    assert len(first) > 60
    points = world[0][first[:, 1], first[:, 0]]
    there = projected(points, one.K[1], one.pose[1])
    assert (there - second - 0.5).abs().max() <= 0.5 + 1e-3
    back = projected(world[1][second[:, 1], second[:, 0]], one.K[0], one.pose[0])
    assert (back - first - 0.5).abs().max() <= 0.5 + 1e-3


def test_the_points_of_both_views_are_those_of_one_wall() -> None:
    one = example(3)
    pairs = Example(*(values[None] for values in one)).pairs
    truth = truth_of(pairs)
    # a wall in the frame of camera 1: some n . X = 1 for the points of both views
    points = torch.cat([p[v] for p, v in zip(truth.points, truth.valid, strict=True)]).double()
    normal = torch.linalg.lstsq(points, torch.ones(len(points), 1).double()).solution
    assert (points @ normal - 1).abs().max() < 0.02  # depths of the nearest stored pixels


def test_examples_are_functions_of_their_number() -> None:
    one, same, other = example(5), example(5), example(6)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.images, other.images)


def test_pairs_overlap_as_much_as_asked_for() -> None:
    held = frames()
    near = find_pairs(held, overlap=(0.9, 1.0), seed=0).pairs
    far = find_pairs(held, overlap=(0.4, 0.7), seed=0).pairs
    assert near
    assert far
    assert not set(near) & set(far)
    assert max(j - i for i, j in near) < max(j - i for i, j in far)
    with pytest.raises(ValueError, match="no two images of 'walk' are views of the same place"):
        find_pairs(held, overlap=(0.9999, 1.0), seed=0)


def test_no_picture_is_learned_from_and_held_out() -> None:
    held = frames(frames=24)
    found = find_pairs(held, overlap=(0.2, 0.9), seed=0)
    learned, held_out = split_pairs(held.source, found)
    assert learned
    assert held_out
    assert not {i for pair in learned for i in pair} & {i for pair in held_out for i in pair}
    named = Pairing([(2 * i, 2 * i + 1) for i in range(20)], paired=True)
    learned, held_out = split_pairs(held.source, named)
    assert sorted(learned + held_out) == named.pairs  # none is lost where the source names them


def test_a_broken_picture_is_left_out() -> None:
    pairs = find_pairs(frames(broken=3), overlap=(0.2, 0.95), seed=0).pairs
    assert pairs
    assert all(3 not in pair for pair in pairs)


def prediction(points: Tensor, *, outliers: bool) -> ViewPrediction:
    """True points as if a network said them, a seventh of the rows somewhere else."""
    said, sure = points.clone(), torch.ones(points.shape[:3])
    if outliers:
        draw = torch.Generator().manual_seed(0)
        said[:, ::7] += 3 * torch.randn(said[:, ::7].shape, generator=draw)
    return ViewPrediction(said, sure, said, sure)


def test_poses_from_true_points_are_true_whatever_outliers_say() -> None:
    held = frames()
    pairs = plain_pairs(held, [(0, 5), (2, 9), (4, 6)], size_px=SIDE)
    there = truth_of(pairs.at(slice(None)))
    plain = pairs.at(slice(None))
    back = truth_of(swapped(plain, torch.ones(len(plain), dtype=torch.bool)))
    views = [
        tuple(prediction(points, outliers=truth is back) for points in truth.points)
        for truth in (there, back)
    ]
    found = pointmap_poses((views[0][0], views[0][1]), (views[1][0], views[1][1]))
    true = true_poses(pairs)
    torch.testing.assert_close(found.rotation, true.rotation, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.translation, true.translation, atol=5e-3, rtol=0)
    assert pose_scores(found, true)["auc5"] > 90
    identity = Poses(torch.eye(3).expand(3, 3, 3).double(), torch.ones(3, 3).double())
    assert pose_scores(identity, true)["auc5"] == 0


def test_a_kept_frame_is_the_frame_that_was_read() -> None:
    held = frames()
    first = held[3]
    assert held[3] is first
    assert isinstance(first, Frame)
    stored = read_posed(Walk(), 3).view
    assert torch.equal(first.view.K, stored.K)
    assert first.picture.shape[1] < HEIGHT  # no larger than a look needs
