"""The baked body equals Anny; the rasteriser equals a loop over triangles and samples."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from alumnus.miniworld.body import BONES, FIELDS, JOINTS, PARENTS, Body, load_body, skin
from alumnus.miniworld.raster import interpolate, rasterise

Array = NDArray[np.float32]
FOLDER = Path(__file__).parent
RECORDED = load_file(FOLDER / "fixtures" / "anny_bodies.safetensors")
STILL = np.tile(np.eye(3, dtype=np.float32), (len(BONES), 1, 1))
ORIGIN = np.zeros(3, np.float32)


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.mark.parametrize("number", range(len(RECORDED["vertices"])))
def test_skinned_body_equals_that_of_anny(body: Body, number: int) -> None:
    rest = body.rest(RECORDED["coefficients"][number])
    posed = skin(body, rest, RECORDED["rotations"][number], ORIGIN)
    vertices, heads = posed.points[: body.vertices : 4], posed.points[body.vertices :]
    apart_mm = 1000 * np.linalg.norm(vertices - RECORDED["vertices"][number], axis=1)
    # 16 components, bones left out and float16; measured 0.4 to 0.9 and 4.8
    assert apart_mm.mean() < 1.2
    assert apart_mm.max() < 6
    heads_mm = 1000 * np.linalg.norm(heads - RECORDED["heads"][number], axis=1)
    assert heads_mm.max() < 3  # measured 2.5


def test_a_turned_parent_would_not_go_unnoticed(body: Body) -> None:
    """The comparison with Anny sees a transposed rotation."""
    rest = body.rest(RECORDED["coefficients"][1])
    posed = skin(body, rest, RECORDED["rotations"][1].transpose(0, 2, 1), ORIGIN)
    apart_mm = 1000 * np.linalg.norm(
        posed.points[: body.vertices : 4] - RECORDED["vertices"][1], axis=1
    )
    assert apart_mm.mean() > 50


def test_file_is_small_and_says_where_it_comes_from() -> None:
    folder = FOLDER.parent / "src" / "alumnus" / "miniworld" / "anny"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    card = (folder / "card.md").read_text()
    assert "Apache-2.0" in card
    assert "CC0" in card


def test_reference_pose_is_the_rest_shape_moved(body: Body) -> None:
    rest = body.rest(body.coefficients[3])
    moved = skin(body, rest, STILL, np.array([1, 2, 3], np.float32)).points
    pelvis = rest[body.vertices]
    np.testing.assert_allclose(moved, rest - pelvis + np.array([1, 2, 3]), atol=2e-6)


def test_turning_the_pelvis_turns_the_body_rigidly(body: Body) -> None:
    rest = body.rest(body.coefficients[5])
    c, s = np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
    rotations = STILL.copy()
    rotations[0] = turn
    turned = skin(body, rest, rotations, ORIGIN).points
    still = skin(body, rest, STILL, ORIGIN).points
    np.testing.assert_allclose(turned, still @ turn.T, atol=3e-6)


def test_turning_a_bone_leaves_what_does_not_hang_on_it(body: Body) -> None:
    rest = body.rest(np.zeros(16, np.float32))
    names = [name for name, _, _ in BONES]
    rotations = STILL.copy()
    rotations[names.index("forearm_left")] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    change = np.linalg.norm(
        skin(body, rest, rotations, ORIGIN).points - skin(body, rest, STILL, ORIGIN).points, axis=1
    )
    left_arm = body.fields[:, FIELDS.index("arm")] > 0
    left_arm &= rest[: body.vertices, 0] > 0
    assert change[: body.vertices][~left_arm].max() < 1e-6
    assert change[body.vertices + names.index("hand_left")] > 0.1
    assert change[body.vertices + names.index("hand_right")] < 1e-6


def test_parents_come_before_their_bones() -> None:
    assert PARENTS[0] == -1
    assert all(0 <= parent < bone for bone, parent in enumerate(PARENTS[1:], start=1))


def test_joints_are_where_their_names_say(body: Body) -> None:
    joints = dict(zip((n for n, _ in JOINTS), body.mean[body.joint_point], strict=True))
    for side, sign in (("left", 1), ("right", -1)):
        assert all(p[0] * sign > 0.03 for n, p in joints.items() if n.endswith(side))
        chain = [joints[f"{n}_{side}"][2] for n in ("shoulder", "elbow", "wrist", "fingers")]
        assert chain == sorted(chain, reverse=True)
        chain = [joints[f"{n}_{side}"][2] for n in ("hip", "knee", "ankle", "toes")]
        assert chain == sorted(chain, reverse=True)
    assert joints["head_top"][2] == body.mean[: body.vertices, 2].max()
    assert joints["nose"][1] < joints["head"][1] - 0.08
    assert len(joints) == len(body.joint_flesh)


def test_mesh_is_closed_but_for_eyes_and_mouth(body: Body) -> None:
    edges = np.sort(body.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, uses = np.unique(edges, axis=0, return_counts=True)
    assert (uses == 2).mean() > 0.98
    assert body.faces.max() < body.vertices


def slow_raster(
    x: Array, y: Array, inverse_depth: Array, triangles: NDArray[np.intp], size: int
) -> tuple[NDArray[np.intp], Array]:
    """Triangle (-1: none) and inverse depth of each sample, one triangle after the other."""
    owner, nearest = np.full((size, size), -1), np.zeros((size, size))
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    for number, (a, b, c) in enumerate(triangles):
        corner = np.array([[x[a], x[b], x[c]], [y[a], y[b], y[c]], [1, 1, 1]], np.float64)
        if np.linalg.det(corner) >= 0:  # seen from behind (y down)
            continue
        weights = np.linalg.solve(
            corner, np.stack([column.ravel(), row.ravel(), np.ones(size * size)])
        ).reshape(3, size, size)
        depth = np.tensordot(inverse_depth[[a, b, c]].astype(float), weights, axes=1)
        shown = (weights >= 0).all(axis=0) & (depth > nearest)
        owner[shown], nearest[shown] = number, depth[shown]
    return owner, nearest.astype(np.float32)


def random_triangles(count: int, size: int) -> tuple[Array, Array, Array, NDArray[np.intp]]:
    rng = np.random.default_rng(0)
    middle = rng.uniform(-5, size + 5, (count, 1, 2))
    corners = middle + rng.normal(0, 9, (count, 3, 2))
    x, y = corners.reshape(-1, 2).astype(np.float32).T
    depth = (1 / rng.uniform(1, 5, 3 * count)).astype(np.float32)
    return x, y, depth, np.arange(3 * count).reshape(-1, 3)


def test_rasteriser_equals_a_loop_over_triangles() -> None:
    x, y, depth, triangles = random_triangles(120, 40)
    owner, nearest = slow_raster(x, y, depth, triangles, 40)
    fragments = rasterise(x, y, depth, triangles, width=40, height=40)
    found = np.full(1600, -1)
    found[fragments.sample] = fragments.triangle
    assert (found == owner.ravel()).mean() > 0.998  # a centre on an edge may go either way
    same = found[fragments.sample] == owner.ravel()[fragments.sample]
    expected = nearest.ravel()[fragments.sample]
    np.testing.assert_allclose(fragments.inverse_depth[same], expected[same], atol=2e-5)


def test_values_are_interpolated_in_space_not_on_the_picture() -> None:
    """Camera x of a slanted triangle: known from the sample and its depth."""
    points = np.array([[-1, -1, 2], [-1, 1, 2], [3, 0, 6]], np.float32)
    inverse: Array = np.float32(1) / points[:, 2]
    x, y = points[:, 0] * inverse * 20 + 16, points[:, 1] * inverse * 20 + 16
    triangle = np.array([[0, 1, 2]])
    fragments = rasterise(x, y, inverse, triangle, width=32, height=32)
    assert len(fragments.sample) > 50
    across, _, depth = interpolate(fragments, triangle, points)
    column = fragments.sample % 32 + 0.5
    np.testing.assert_allclose(across, (column - 16) / 20 * depth, atol=1e-5)
    np.testing.assert_allclose(1 / fragments.inverse_depth, depth, rtol=1e-5)


def test_no_gap_shows_between_triangles_that_share_an_edge() -> None:
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0)), axis=-1)
    grid[1:-1, 1:-1] += rng.uniform(-0.3, 0.3, (7, 7, 2))
    x, y = (grid.reshape(-1, 2) * 8).T.astype(np.float32)
    at = np.arange(81).reshape(9, 9)
    a, b, c, d = at[:-1, :-1].ravel(), at[:-1, 1:].ravel(), at[1:, :-1].ravel(), at[1:, 1:].ravel()
    triangles = np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])
    fragments = rasterise(x, y, np.ones(81, np.float32), triangles, width=64, height=64)
    assert len(fragments.sample) == 64 * 64


def test_what_lies_behind_the_viewer_or_beside_the_picture_is_not_drawn() -> None:
    x = np.array([0, 0, 9, 100, 100, 109], np.float32)
    y = np.array([0, 9, 0, 0, 9, 0], np.float32)
    two = np.array([[0, 1, 2], [3, 4, 5]])
    shown = rasterise(x, y, np.ones(6, np.float32), two, width=10, height=10)
    assert set(shown.triangle) == {0}
    behind = np.array([-1, 1, 1, 1, 1, 1], np.float32)
    assert len(rasterise(x, y, behind, two, width=10, height=10).sample) == 0
