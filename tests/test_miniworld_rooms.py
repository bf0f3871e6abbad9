"""Miniworld's rooms: two views agree in depth, cameras and colours, and overlap as stated."""

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from alumnus.data import open_source
from alumnus.miniworld import MiniworldSource, render_dataset
from alumnus.miniworld.domains import DOMAINS, ROOMS
from alumnus.miniworld.furnish import Furnished, draw_furnished, stands_free
from alumnus.miniworld.hits import first_hits, nearest_hits, shadowed
from alumnus.miniworld.joinery import KINDS, ball, box, rod
from alumnus.miniworld.pairs import Camera, correspondences, intrinsics, pose
from alumnus.miniworld.room import meet_room
from alumnus.miniworld.rooms import RoomPair, RoomView, render_room
from alumnus.miniworld.solids import Part, Piece, Turn, collect
from alumnus.miniworld.textures import plain
from alumnus.miniworld.vectors import Vec, look_at
from alumnus.miniworld.viewpoints import draw_cameras, ray_directions
from plain_instructions import assert_same_plainly

Values = NDArray[np.float64]
FLOOR, CEILING = KINDS.index("floor"), KINDS.index("ceiling")
WHITE = plain((1.0, 1.0, 1.0))

# (index, view) of seed 1: the overlap, the mean depth, the mean grey of a 4 x 4 grid
PINNED: dict[tuple[int, int], tuple[float, float, list[int]]] = {
    (0, 0): (0.522, 2.451,
             [110, 109, 87, 88, 73, 89, 86, 80, 70, 96, 104, 81, 105, 127, 136, 113]),
    (0, 1): (0.489, 2.173,
             [161, 138, 183, 194, 136, 133, 177, 162, 124, 120, 128, 149, 170, 174, 128, 135]),
    (1, 0): (0.833, 2.478,
             [192, 211, 237, 219, 201, 203, 211, 194, 180, 151, 117, 113, 76, 102, 132, 138]),
    (1, 1): (0.967, 2.458,
             [176, 190, 229, 200, 181, 189, 192, 184, 160, 133, 103, 97, 58, 96, 116, 126]),
    (2, 0): (0.813, 2.779,
             [103, 104, 108, 101, 98, 94, 109, 97, 84, 68, 55, 52, 47, 43, 64, 62]),
    (2, 1): (0.925, 2.723,
             [109, 108, 100, 108, 92, 103, 105, 95, 93, 79, 63, 50, 67, 44, 59, 59]),
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs() -> list[RoomPair]:
    return [render_room(4, index) for index in range(16)]


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Furnished, Camera]]:
    """Furnished rooms and a camera in each."""
    drawn = []
    for index in range(4):
        rng, cameras = np.random.default_rng(index), None
        while cameras is None:
            scene = draw_furnished(rng)
            cameras = draw_cameras(rng, scene, 0.5)
        drawn.append((scene, cameras[1]))
    return drawn


def in_world(view: RoomView) -> NDArray[np.float64]:  # [H, W, 3]
    """The points that a view's pixels show, by depth, K and pose."""
    size = len(view.depth)
    j, i = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    rays = np.stack([j, i, np.ones_like(j)], axis=-1) @ np.linalg.inv(view.K.astype(float)).T
    points = rays * view.depth[..., None]
    return np.asarray(points @ view.pose[:3, :3].T.astype(float) + view.pose[:3, 3])


def looked_up(image: Values, x: Values, y: Values) -> Values:
    """Values between pixels, whose centres are at halves."""
    size = len(image)
    x, y = np.clip(x - 0.5, 0, size - 1.001), np.clip(y - 0.5, 0, size - 1.001)
    j, i = x.astype(int), y.astype(int)
    x, y = (x - j)[..., None], (y - i)[..., None]
    top = image[i, j] * (1 - x) + image[i, j + 1] * x
    return np.asarray(top * (1 - y) + (image[i + 1, j] * (1 - x) + image[i + 1, j + 1] * x) * y)


# ---- scenes


def test_pair_is_the_same_whatever_was_rendered_before() -> None:
    first = render_room(3, 5, 16)
    render_room(4, 9, 16)
    again = render_room(3, 5, 16)
    for one, other in zip(first.views, again.views, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.depth, other.depth)
        assert np.array_equal(one.ids, other.ids)
        assert (one.overlap, one.pose.tolist()) == (other.overlap, other.pose.tolist())


def test_pictures_are_those_of_the_stated_generator_version() -> None:
    for (index, side), (overlap, depth, greys) in PINNED.items():
        view = render_room(1, index).views[side]
        assert view.overlap == pytest.approx(overlap, abs=0.01)
        assert view.depth.mean() == pytest.approx(depth, abs=0.01)
        grid = view.image.astype(float).reshape(4, 16, 4, 16, 3).mean(axis=(1, 3, 4))
        np.testing.assert_allclose(grid.ravel(), greys, atol=1.5)  # other compilers may round


HASH = """
import hashlib
from alumnus.miniworld.rooms import render_room
arrays = [a for i in range(3) for view in render_room(1, i, 24).views for a in view[:5]]
digest = hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()
"""


@pytest.mark.slow
def test_pictures_are_the_same_bit_for_bit_with_plain_instructions_and_other_blas_kernels() -> None:
    assert_same_plainly(HASH)


def test_scenes_of_other_seeds_and_numbers_differ() -> None:
    images = [render_room(seed, index, 8).views[0].image for seed in (1, 2) for index in (0, 1)]
    assert len({hashlib.sha256(image.tobytes()).digest() for image in images}) == 4


def test_rooms_hold_nine_to_fifteen_pieces_of_furniture_and_pictures() -> None:
    aside = {"window", "door", "picture", "ornament", "rug"}
    for index in range(12):
        scene = draw_furnished(np.random.default_rng(index))
        kinds = [piece.kind for piece in scene.pieces]
        assert set(kinds) <= set(KINDS)
        furniture = len([kind for kind in kinds if kind not in aside]) - 1  # the ceiling's lamp
        assert 8 <= furniture <= 15
        assert kinds.count("picture") >= 2
        assert len(kinds) <= 61  # numbers of things, of floor, walls and ceiling are a byte each


def test_furniture_stands_within_the_room(scenes: list[tuple[Furnished, Camera]]) -> None:
    for scene, _ in scenes:
        for cover in scene.covers:
            for axis, span in enumerate((cover.x, cover.y)):
                assert scene.room.low[axis] <= span[0] < span[1] <= scene.room.high[axis]


def test_no_thing_fills_a_view_and_several_are_seen(pairs: list[RoomPair]) -> None:
    for view in (view for pair in pairs for view in pair.views):
        counts = np.bincount(view.ids.ravel(), minlength=64)
        assert counts.max() < 0.65 * view.ids.size
        assert counts[3:].max() < 0.45 * view.ids.size
        assert (counts[3:] > 10).sum() >= 4
        assert (view.depth < 0.5).mean() < 0.1


@pytest.mark.parametrize(("seed", "index", "size"), [(-1, 0, 64), (0, -1, 64), (0, 0, 4)])
def test_impossible_pair_is_refused(seed: int, index: int, size: int) -> None:
    with pytest.raises(ValueError, match="must"):
        render_room(seed, index, size)


# ---- geometry


def test_camera_is_a_rotation_and_stands_free(scenes: list[tuple[Furnished, Camera]]) -> None:
    for scene, camera in scenes:
        matrix = pose(camera)
        np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-6)
        assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1, abs=1e-6)
        assert stands_free(scene, camera.eye)


def test_depth_and_cameras_put_floor_and_ceiling_where_they_are(pairs: list[RoomPair]) -> None:
    for pair in pairs:
        heights = []
        for view in pair.views:
            z, kind = in_world(view)[..., 2], pair.kinds[view.ids]
            if (kind == FLOOR).any():
                np.testing.assert_allclose(z[kind == FLOOR], 0, atol=2e-3)  # a grazing ray or two
            heights.extend(z[kind == CEILING])
        if heights:
            np.testing.assert_allclose(heights, np.median(heights), atol=2e-3)


def test_depth_is_that_of_a_ray_through_the_pixels_centre(
    scenes: list[tuple[Furnished, Camera]], pairs: list[RoomPair]
) -> None:
    """A picture of twice the size has the same centres between its pixels: planes agree."""
    small, large = render_room(4, 0, 32).views[0], render_room(4, 0, 96).views[0]
    centre = large.depth[1::3, 1::3]  # 3 x 3 pixels of the large picture: one of the small
    same = large.ids[1::3, 1::3] == small.ids
    wrong = np.abs(small.depth / centre - 1)[same]
    assert same.mean() > 0.9
    assert np.quantile(wrong, 0.8) < 1e-5
    assert np.quantile(wrong, 0.95) < 0.03  # another side of the same thing; a rounded one


def test_windows_of_the_picture_miss_no_part(scenes: list[tuple[Furnished, Camera]]) -> None:
    """Twin: parts tried within their rectangles equal all parts tried on all rays."""
    for scene, camera in scenes:
        grid = ray_directions(camera, 48)
        x, y, z = (c.ravel() for c in grid)
        shell, _ = meet_room(scene.room, camera.eye, (x, y, z))
        depth, part = nearest_hits(scene.solids, camera.eye, (x, y, z), shell)
        nearest = shell.reshape(48, 48).copy()
        owner = first_hits(scene.solids, camera.eye, camera.turn, camera.focal, grid, nearest)
        np.testing.assert_allclose(nearest.ravel(), depth, rtol=1e-5)
        assert (owner.ravel() == part).mean() > 0.995  # where two parts touch, either may win


def test_shadows_equal_rays_to_the_lamp(scenes: list[tuple[Furnished, Camera]]) -> None:
    """Twin: parts tried within what they cover from the lamp equal all parts tried."""
    rng = np.random.default_rng(0)
    for scene, _ in scenes:
        low, high = (np.array(corner) for corner in (scene.room.low, scene.room.high))
        points = rng.uniform(low + 0.05, (high[0] - 0.05, high[1] - 0.05, 1.5), (60, 3))
        x, y, z = points.T.astype(np.float32)
        towards = tuple(np.float32(o) - c for o, c in zip(scene.lamp, (x, y, z), strict=True))
        dark = shadowed(scene.solids, scene.lamp, (x, y, z), (towards[0], towards[1], towards[2]))
        casting = collect([piece for piece in scene.pieces if piece.casts])
        # seen from the lamp: something before the point, or around it
        rays = tuple(-c for c in towards)
        to_point: Vec = (rays[0], rays[1], rays[2])
        _, part = nearest_hits(casting, scene.lamp, to_point, np.ones(60, np.float32))
        np.testing.assert_array_equal(dark, part >= 0)
        assert 0 < dark.sum() < 60


@pytest.mark.parametrize(
    ("part", "inside"),
    [
        (box((-0.4, 0.4), (0.0, 0.5), (0.2, 0.9), WHITE), lambda q: np.abs(q).max(axis=-1) < 1),
        (ball((-0.4, 0.4), (0.0, 0.5), (0.2, 0.9), WHITE), lambda q: (q**2).sum(axis=-1) < 1),
        (
            rod(0.3, (0.2, 0.9), WHITE, y=0.25),
            lambda q: ((q[..., :2] ** 2).sum(axis=-1) < 1) & (np.abs(q[..., 2]) < 1),
        ),
    ],
    ids=["box", "ball", "rod"],
)
def test_ray_meets_a_solid_where_it_first_is_inside(part: Part, inside: object) -> None:
    """Against many points along each ray, for a turned and moved piece."""
    assert callable(inside)
    turn, place, eye = Turn(0.6, 0.8), (0.3, -0.2, 0.1), (2.0, 1.5, 1.4)
    camera = Camera(eye, look_at(eye, (0.2, 0.0, 0.6)), 2.5)
    x, y, z = (c.ravel() for c in ray_directions(camera, 24))
    solids = collect([Piece("table", (part,), place, turn)])
    t, _ = nearest_hits(solids, eye, (x, y, z), np.full(24 * 24, 9, np.float32))
    along = np.linspace(0, 5, 2501)
    points = np.array(eye) + along[:, None, None] * np.stack([x, y, z], axis=-1) - np.array(place)
    local = points.copy()
    local[..., 0] = turn.cos * points[..., 0] + turn.sin * points[..., 1]
    local[..., 1] = turn.cos * points[..., 1] - turn.sin * points[..., 0]
    low, high = np.array(part.low), np.array(part.high)
    within = inside((local - low) / (high - low) * 2 - 1)
    sampled = np.where(within.any(axis=0), along[within.argmax(axis=0)], 9)
    thick = within.sum(axis=0)
    clear = (thick == 0) | (thick > 30)  # others graze it
    assert (thick > 30).sum() > 25
    np.testing.assert_allclose(t[clear & (sampled < 9)], sampled[clear & (sampled < 9)], atol=3e-3)
    assert (t[thick > 30] < 9).all()


# ---- correspondences


def test_correspondences_of_a_wall_are_shifted_by_focal_times_baseline_over_depth() -> None:
    camera = Camera((0.0, 0.0, 1.0), look_at((0.0, 0.0, 1.0), (0.0, 1.0, 1.0)), 1.5)
    moved = camera._replace(eye=(0.25, 0.0, 1.0))
    K, wall = intrinsics(camera, 32), np.full((32, 32), 2.0, np.float32)
    found = correspondences(wall, wall, K1=K, K2=K, pose1=pose(camera), pose2=pose(moved))
    shift = 1.5 * 16 * 0.25 / 2  # pixels to the left
    j, i = np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5)
    expected = j - shift >= 0
    assert np.array_equal(found.visible, expected)
    np.testing.assert_allclose(found.x[expected], (j - shift)[expected], atol=1e-5)
    np.testing.assert_allclose(found.y[expected], i[expected], atol=1e-5)
    assert (found.x[~expected] == -1).all()
    assert found.share == expected.mean()


def test_what_another_thing_hides_and_what_is_behind_have_no_correspondence() -> None:
    camera = Camera((0.0, 0.0, 1.0), look_at((0.0, 0.0, 1.0), (0.0, 1.0, 1.0)), 1.5)
    K, wall = intrinsics(camera, 32), np.full((32, 32), 2.0, np.float32)
    hidden = wall.copy()
    hidden[8:16, 8:16] = 1.0
    here = pose(camera)
    found = correspondences(wall, hidden, K1=K, K2=K, pose1=here, pose2=here)
    assert np.array_equal(~found.visible, hidden == 1.0)
    back = Camera((0.0, 0.0, 1.0), look_at((0.0, 0.0, 1.0), (0.0, -1.0, 1.0)), 1.5)
    away = correspondences(wall, wall, K1=K, K2=K, pose1=here, pose2=pose(back))
    assert not away.visible.any()


def test_corresponding_pixels_show_the_same_thing_at_the_same_place(pairs: list[RoomPair]) -> None:
    for pair in pairs:
        one, other = pair.views
        found = pair.correspondences()
        seen = found.visible
        j, i = found.x[seen].astype(int), found.y[seen].astype(int)
        assert (one.ids[seen] == other.ids[i, j]).mean() > 0.85  # the rest: half a pixel at edges
        # neighbouring pixels' points lie around the point, a pixel's width apart
        apart = np.linalg.norm(in_world(one)[seen] - in_world(other)[i, j], axis=-1)
        width = other.depth[i, j] / other.K[0, 0]
        assert np.median(apart / width) < 1.2


def test_what_is_called_hidden_is_hidden_by_exact_geometry() -> None:
    """Twin: depths compared between pixels agree with rays to each point."""
    called: list[NDArray[np.bool_]] = []
    for index in range(4):
        rng, cameras = np.random.default_rng([9, index]), None
        while cameras is None:
            scene = draw_furnished(rng)
            cameras = draw_cameras(rng, scene, 0.4)
        one, other = cameras
        depths, points = [], []
        for camera in cameras:
            ray = [c.ravel() for c in ray_directions(camera, 64)]
            rays: Vec = (ray[0], ray[1], ray[2])
            shell, _ = meet_room(scene.room, camera.eye, rays)
            depth, _ = nearest_hits(scene.solids, camera.eye, rays, shell)
            depths.append(depth.reshape(64, 64))
            points.append(
                [np.float32(e) + depth * c for e, c in zip(camera.eye, rays, strict=True)]
            )
        K1, K2 = intrinsics(one, 64), intrinsics(other, 64)
        found = correspondences(
            depths[0], depths[1], K1=K1, K2=K2, pose1=pose(one), pose2=pose(other)
        )
        x, y, z = (c - np.float32(e) for c, e in zip(points[0], other.eye, strict=True))
        almost = np.full(64 * 64, 0.99, np.float32)
        _, before = nearest_hits(scene.solids, other.eye, (x, y, z), almost)
        hidden, inside = (before >= 0).reshape(64, 64), found.x >= 0
        assert found.visible[inside & ~hidden].mean() > 0.95  # the rest: half a pixel along edges
        called.append(~found.visible[inside & hidden])
    assert np.concatenate(called).mean() > 0.6
    assert len(np.concatenate(called)) > 200


def test_corresponding_pixels_have_the_same_colour_up_to_exposure(pairs: list[RoomPair]) -> None:
    right: list[float] = []
    shifted: list[float] = []
    for pair in pairs:
        one, other = (view.image.astype(float) for view in pair.views)
        found = pair.correspondences()
        seen = found.visible & (one.max(axis=-1) < 250) & (one.min(axis=-1) > 5)
        x, y = found.x[seen].astype(float), found.y[seen].astype(float)
        for into, offset in ((right, 0), (shifted, 4)):
            there = looked_up(other, x + offset, y)
            gain = np.median(there / one[seen], axis=0)  # exposure and tint, per channel
            into.append(np.median(np.abs(there / gain - one[seen])))
    assert np.median(right) < 4  # of 255; edges fall between samples
    assert np.median(shifted) > 2 * np.median(right)


def test_overlap_is_the_share_of_visible_pixels_and_spreads_over_its_band(
    pairs: list[RoomPair],
) -> None:
    for pair in pairs:
        assert pair.views[0].overlap == pair.correspondences().share
    overlaps = [pair.views[0].overlap for pair in pairs]
    assert min(overlaps) > 0.1
    assert max(overlaps) < 0.98
    assert np.std(overlaps) > 0.15  # 0.2 if even from 0.2 to 0.9


def test_exposure_differs_between_views(pairs: list[RoomPair]) -> None:
    ratios = []
    for pair in pairs:
        one, other = (view.image.astype(float) for view in pair.views)
        found = pair.correspondences()
        x, y = found.x[found.visible].astype(float), found.y[found.visible].astype(float)
        ratios.append(np.median((looked_up(other, x, y) + 1) / (one[found.visible] + 1)))
    assert np.std(np.log(ratios)) > 0.1


# ---- as a source


def test_source_gives_the_two_views_of_a_scene_one_after_the_other() -> None:
    source = MiniworldSource("rooms", "test", length=8, size_px=16)
    for scene in (0, 3):
        drawn = render_room(source.seed, scene, 16)
        for side, view in enumerate(drawn.views):
            sample = source.read(2 * scene + side)
            image, fields = sample.image, sample.fields
            assert np.array_equal(np.asarray(image), view.image)
            assert fields["pair"] == scene
            np.testing.assert_allclose(fields["depth"], view.depth, rtol=2**-11)  # float16
            assert np.array_equal(fields["K"], view.K)
            assert np.array_equal(fields["pose"], view.pose)
            assert np.array_equal(fields["ids"], view.ids)
            assert np.array_equal(fields["mask"], drawn.kinds[view.ids])
            assert fields["overlap"] == pytest.approx(view.overlap)
    assert source.classes == KINDS


def test_spec_opens_the_rooms() -> None:
    assert len(open_source("miniworld:rooms:train")) == 9600
    assert open_source("miniworld:rooms").classes == KINDS


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="2 pictures of each scene"):
        MiniworldSource("rooms", "test", length=7)


def test_killed_rendering_of_rooms_goes_on_where_it_was() -> None:
    source = MiniworldSource("rooms", "test", length=2 * ROOMS.chunk, size_px=8)

    def kill(ready: int, total: int) -> None:
        if ready >= ROOMS.chunk:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_dataset(source, progress=kill)
    assert source.missing() == [1]
    seen: list[int] = []
    render_dataset(source, progress=lambda ready, total: seen.append(ready))
    assert seen == [ROOMS.chunk, 2 * ROOMS.chunk]
    pair = source.fields(ROOMS.chunk)["pair"]
    assert pair == ROOMS.chunk // 2  # the second file goes on counting


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=lambda domain: domain.name)
def test_every_domain_fits_the_table(domain: object) -> None:
    row = DOMAINS[getattr(domain, "name", "")]
    records = row.render(0, 0, 16)
    assert len(records) == row.views
    assert row.chunk % row.views == 0
    stored = np.array([tuple(record) for record in records], row.dtype(16))
    assert stored["image"].shape == (row.views, 16, 16, 3)
    fields = row.fields(stored[0])
    if row.classes:
        assert {"cls", "mask"} & set(fields)
