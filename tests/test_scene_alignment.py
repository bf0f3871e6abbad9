"""Many pairs brought into one world: exact answers give exact cameras."""

import numpy as np
import pytest
import torch

from alumnus.evaluation.relative_pose import rotation_angle_deg
from alumnus.heads.two_view.geometry import into_camera
from alumnus.scenes.alignment import Aligned, align, apart, fused_points
from box_room import Cameras, cameras, pairs


def errors(found: Aligned, scene: Cameras) -> tuple[float, float]:
    """The largest error of a camera's direction, degrees, and of its centre, metres."""
    true = torch.linalg.inv(scene.poses[0]) @ scene.poses
    turned = rotation_angle_deg(found.poses[:, :3, :3].numpy(), true[:, :3, :3].numpy())
    return float(turned.max()), float((found.poses - true)[:, :3, 3].norm(dim=-1).max())


@pytest.mark.parametrize(
    "ends",
    [
        [(0, 1)],
        [(0, 1), (1, 2), (2, 3)],
        [(2, 0), (0, 1), (3, 1), (1, 2), (0, 3), (4, 3)],
    ],
    ids=["two", "chain", "net"],
)
def test_exact_answers_in_any_unit_give_exact_cameras(ends: list[tuple[int, int]]) -> None:
    count = 1 + max(max(pair) for pair in ends)
    scene = cameras(count)
    seen = pairs(scene, ends)
    found = align(seen, count)
    degrees, metres = errors(found, scene)
    assert degrees < 0.01
    assert metres < 1e-3
    assert found.error < 1e-4
    for number in range(count):
        points, sure = fused_points(seen, found.scales, number)
        true = into_camera(scene.world[number][None], scene.poses[number][None])[0].float()
        torch.testing.assert_close(points, true, atol=2e-3, rtol=0)
        assert (sure > 0).all()


def test_many_shaky_answers_are_better_than_one() -> None:
    scene = cameras(4)
    chain = [(k, k + 1) for k in range(3)]
    net = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    alone, together = (
        errors(align(pairs(scene, ends, noise=0.3), 4), scene) for ends in (chain, net)
    )
    assert together[0] < alone[0]
    assert together[1] < alone[1]
    assert together[0] < 1.5


def test_refinement_is_better_than_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = cameras(4)
    seen = pairs(scene, [(i, j) for i in range(4) for j in range(i + 1, 4)], noise=0.3)
    refined = align(seen, 4)
    monkeypatch.setattr("alumnus.scenes.alignment.STEPS", 0)
    started = align(seen, 4)
    assert refined.error < started.error
    assert errors(refined, scene)[0] < errors(started, scene)[0]


def test_what_hangs_apart_is_named() -> None:
    scene = cameras(6)
    assert apart(pairs(scene, [(0, 1), (1, 4), (2, 3)]), 6) == [2, 3, 5]
    assert apart(pairs(scene, [(k, k + 1) for k in range(5)]), 6) == []


def test_the_world_is_the_first_photographs_frame_and_the_same_every_time() -> None:
    scene = cameras(3)
    seen = pairs(scene, [(1, 2), (0, 2)], noise=0.05)
    one, other = align(seen, 3), align(seen, 3)
    assert torch.equal(one.poses, other.poses)
    torch.testing.assert_close(one.poses[0], torch.eye(4, dtype=torch.float64))
    assert float(one.scales.log().mean()) == pytest.approx(0, abs=1e-9)
    rotations = one.poses[:, :3, :3]
    unit = np.broadcast_to(np.eye(3), rotations.shape)
    np.testing.assert_allclose(rotations @ rotations.transpose(1, 2), unit, atol=1e-9)
