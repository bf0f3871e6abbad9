"""Poses and similarities from exact synthetic geometry, with and without what is wrong."""

import sys
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from alumnus.evaluation.focal import focal_length
from alumnus.evaluation.human_metrics import fit_similarity
from alumnus.evaluation.relative_pose import angle_between_deg, rotation_angle_deg
from alumnus.scenes.poses import (
    RelativePose,
    both_ways_similarity,
    pose_from_matches,
    pose_from_points,
    robust_similarity,
)

Array = NDArray[np.float64]
SEEDS = range(4)


class Pair(NamedTuple):
    """Two cameras and what both see."""

    rotation: Array
    translation: Array  # metres
    points: Array  # [k, 3] in the frame of camera 1
    first: Array  # [k, 2] pixels
    second: Array
    K1: Array
    K2: Array


def turned(rng: np.random.Generator, most_deg: float) -> Array:
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis) * np.radians(rng.uniform(5, most_deg))
    angle = np.linalg.norm([x, y, z])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) / angle
    rotation: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation


def pair(seed: int, count: int = 300) -> Pair:
    """Points in front of two cameras of different focal lengths."""
    rng = np.random.default_rng(seed)
    K1, K2 = (np.array([[f, 0, 250], [0, f, 190], [0, 0, 1.0]]) for f in rng.uniform(350, 700, 2))
    rotation, translation = turned(rng, 25), rng.uniform(-0.8, 0.8, 3)
    points = rng.uniform((-1.5, -1.5, 3), (1.5, 1.5, 8), (count, 3))
    return Pair(
        rotation,
        translation,
        points,
        projected(points, K1),
        projected(points @ rotation.T + translation, K2),
        K1,
        K2,
    )


def projected(points: Array, K: Array) -> Array:
    flat = points @ K.T
    pixels: Array = flat[:, :2] / flat[:, 2:]
    return pixels


def spoiled(
    pixels: Array, share: float, rng: np.random.Generator
) -> tuple[Array, NDArray[np.bool_]]:
    """Some pixels elsewhere, and which."""
    wrong = rng.random(len(pixels)) < share
    other = rng.uniform((0, 0), (500, 380), pixels.shape)
    return np.where(wrong[:, None], other, pixels), wrong


def check(found: RelativePose | None, true: Pair, *, degrees: float) -> RelativePose:
    assert found is not None
    assert rotation_angle_deg(found.rotation, true.rotation) < degrees
    assert angle_between_deg(found.translation, true.translation) < degrees
    eye = -true.rotation.T @ true.translation
    assert float(found.eye @ eye) > 0  # not the mirrored solution
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_matches_tell_the_pose_but_for_its_length(seed: int) -> None:
    true = pair(seed)
    found = pose_from_matches(true.first, true.second, K1=true.K1, K2=true.K2)
    found = check(found, true, degrees=1e-3)
    assert np.linalg.norm(found.translation) == pytest.approx(1)
    assert found.agree.all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_third_of_wrong_and_all_shaky_matches_change_the_pose_little(seed: int) -> None:
    true, rng = pair(seed), np.random.default_rng(seed)
    shaky = true.second + rng.normal(0, 0.3, true.second.shape)
    second, wrong = spoiled(shaky, 0.33, rng)
    found = pose_from_matches(true.first, second, K1=true.K1, K2=true.K2)
    found = check(found, true, degrees=1.5)
    assert found.agree[~wrong].mean() > 0.9
    assert found.agree[wrong].mean() < 0.1  # on its epipolar line by chance


@pytest.mark.parametrize("seed", SEEDS)
def test_points_tell_the_pose_and_its_length(seed: int) -> None:
    true, rng = pair(seed), np.random.default_rng(seed)
    exact = pose_from_points(true.points, true.second, K2=true.K2)
    found = check(exact, true, degrees=1e-3)
    np.testing.assert_allclose(found.translation, true.translation, atol=1e-4)
    pixels, wrong = spoiled(true.second, 0.4, rng)
    robust = check(pose_from_points(true.points, pixels, K2=true.K2), true, degrees=1e-2)
    np.testing.assert_allclose(robust.translation, true.translation, atol=1e-3)
    assert robust.agree[~wrong].all()
    assert found.turn_deg == pytest.approx(float(rotation_angle_deg(np.eye(3), true.rotation)))


def test_the_same_matches_give_the_same_pose() -> None:
    true = pair(0)
    second, _ = spoiled(true.second, 0.4, np.random.default_rng(0))
    one, other = (pose_from_matches(true.first, second, K1=true.K1, K2=true.K2) for _ in range(2))
    assert one is not None
    assert other is not None
    assert np.array_equal(one.rotation, other.rotation)


def test_without_agreement_there_is_no_pose() -> None:
    true = pair(0, count=40)
    rng = np.random.default_rng(0)
    assert pose_from_matches(true.first[:7], true.second[:7], K1=true.K1, K2=true.K2) is None
    elsewhere = rng.uniform((0, 0), (500, 380), true.second.shape)
    assert pose_from_points(true.points, elsewhere, K2=true.K2, within_px=0.5) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pair_seen_from_both_sides_tells_pose_and_relative_size(seed: int) -> None:
    true, rng = pair(seed), np.random.default_rng(seed)
    size = rng.uniform(0.5, 2)
    there = true.points[:200], true.points[200:]
    moved = [size * (points @ true.rotation.T + true.translation) for points in there]
    weights = rng.uniform(0, 1, 200), rng.uniform(0, 1, 100)
    moved[0][:40] += rng.normal(0, 3, (40, 3))  # metres: a fifth of one view is wrong
    found = both_ways_similarity(there, (moved[0], moved[1]), weights)
    assert rotation_angle_deg(found.rotation, true.rotation) < 1e-2
    assert found.scale == pytest.approx(size, rel=1e-4)
    np.testing.assert_allclose(found.translation, size * true.translation, atol=1e-3)


def test_points_of_no_weight_change_nothing() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 20, 3))
    weights = np.r_[np.ones(15), np.zeros(5)]
    whole, part = fit_similarity(source, target, weights), fit_similarity(source[:15], target[:15])
    np.testing.assert_allclose(whole.of(source), part.of(source), atol=1e-12)
    same = robust_similarity(source, source)
    np.testing.assert_allclose(same.of(source), source, atol=1e-12)


@pytest.mark.parametrize("method", ["median", "weiszfeld"])
def test_the_focal_length_of_exact_points_is_found_among_wrong_ones(method: str) -> None:
    rng = np.random.default_rng(0)
    focal, centre = 437.0, (159.5, 119.5)
    depth = rng.uniform(1, 6, (240, 320))
    y, x = np.mgrid[:240, :320]
    points = np.stack([(x - centre[0]) / focal, (y - centre[1]) / focal, np.ones_like(depth)], -1)
    points *= depth[..., None]
    wrong = rng.random(depth.shape) < 0.2
    points[wrong, :2] += rng.normal(0, 1, (wrong.sum(), 2))
    points[0, :5] = np.nan
    found = focal_length(points, centre=centre, method=method)  # type: ignore[arg-type]
    assert found == pytest.approx(focal, rel=1e-3)


def test_without_poselib_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "poselib", None)
    true = pair(0)
    with pytest.raises(ValueError, match=r"poses of cameras need poselib: pip install 'alumnus"):
        pose_from_matches(true.first, true.second, K1=true.K1, K2=true.K2)
