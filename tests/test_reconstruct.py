"""`alumnus reconstruct`: cameras by matches, clouds, files, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import alumnus
from alumnus import cli
from alumnus.evaluation.human_metrics import fit_similarity
from alumnus.evaluation.relative_pose import rotation_angle_deg
from alumnus.heads.two_view import TwoViewNetwork, ViewPrediction
from alumnus.heads.two_view.geometry import into_camera
from alumnus.miniworld.rooms import RoomView, render_room, render_walk
from alumnus.scenes.cloud import Cloud, read_ply, write_ply
from alumnus.scenes.cloud_picture import cloud_picture
from alumnus.scenes.photographs import photo_names
from alumnus.scenes.reprojection import Refined, refined_by_matches
from box_room import FOCAL, Cameras, cameras, pairs


@pytest.fixture(autouse=True)
def fewer_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the starts of matches and of the pixels that cameras are fitted to."""
    monkeypatch.setattr("alumnus.scenes.pointmaps.STARTS", 32)
    monkeypatch.setattr("alumnus.scenes.alignment.SAMPLES", 256)


@pytest.fixture(scope="module")
def network() -> TwoViewNetwork:
    return alumnus.load_two_view("miniworld-rooms")


@pytest.fixture(scope="module")
def views() -> list[RoomView]:
    return render_walk(0, 0, 3, 64, overlap=0.7)


def by_matches(scene: Cameras, *, wrong: float = 0.0) -> Refined:
    """Cameras from shaken ones and from depths of unequal units."""
    count = len(scene.poses)
    seen = pairs(scene, [(i, j) for i in range(count) for j in range(i + 1, count)])
    generator = torch.Generator().manual_seed(0)
    if wrong:
        for pair in seen:
            other = torch.rand(len(pair.second), generator=generator) < wrong
            pair.second[other] = 36 * torch.rand(int(other.sum()), 2, generator=generator).double()
    depths = [
        into_camera(world[None], pose[None])[0, ..., 2] * 1.1**k
        for k, (world, pose) in enumerate(zip(scene.world, scene.poses, strict=True))
    ]
    start = scene.poses.clone()
    axis = torch.linalg.cross(torch.eye(3).double(), torch.ones(3, 3).double() / 3**0.5)
    for k in range(1, count):
        start[k, :3, :3] @= torch.linalg.matrix_exp(axis * np.radians(6) * (-1) ** k)
        start[k, :3, 3] += 0.2 * torch.randn(3, generator=generator)
    K = []
    for world in scene.world:
        height, width = world.shape[:2]
        x, y = (width - 1) / 2, (height - 1) / 2
        K.append(np.array([[FOCAL, 0, x], [0, FOCAL, y], [0, 0, 1]]))
    sures = [torch.ones_like(depth) for depth in depths]
    return refined_by_matches(seen, start, depths, sures, K)


def worst(found: Refined, scene: Cameras) -> tuple[float, float]:
    """Degrees, and the distance of a centre after the best similarity over the whole."""
    true = (torch.linalg.inv(scene.poses[0]) @ scene.poses).numpy()
    poses = found.poses.numpy()
    turned = rotation_angle_deg(poses[:, :3, :3], true[:, :3, :3])
    moved = fit_similarity(poses[:, :3, 3], true[:, :3, 3]).of(poses[:, :3, 3])
    return float(turned.max()), float(np.linalg.norm(moved - true[:, :3, 3], axis=1).max())


def test_exact_matches_give_exact_cameras_and_sizes() -> None:
    scene = cameras(3)
    found = by_matches(scene)
    degrees, metres = worst(found, scene)
    assert degrees < 0.1  # depths between pixels are read at the walls' edges, too
    assert metres < 5e-3
    assert found.error_px < 0.01
    sizes = found.sizes.numpy() * 1.1 ** np.arange(3)
    np.testing.assert_allclose(sizes, sizes.mean(), rtol=2e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fifth_of_wrong_matches_changes_cameras_little(seed: int) -> None:
    scene = cameras(3, seed=seed)
    degrees, metres = worst(by_matches(scene, wrong=0.2), scene)
    assert degrees < 1.0  # half a pixel is 0.7 degrees here
    assert metres < 0.1


def test_photographs_become_cameras_and_points(
    network: TwoViewNetwork, views: list[RoomView], tmp_path: Path
) -> None:
    for number, view in enumerate(views):
        Image.fromarray(view.image).resize((64 + 32 * number,) * 2).save(tmp_path / f"{number}.png")
    out = tmp_path / "scene"
    scene = alumnus.reconstruct(tmp_path, network, out)
    assert scene.names == ("0.png", "1.png", "2.png")
    poses = np.stack([view.pose for view in views]).astype(float)
    true = np.linalg.inv(poses[0]) @ poses
    turned = rotation_angle_deg(scene.poses[:, :3, :3], true[:, :3, :3])
    assert turned.max() < 8  # degrees; by a network of two million weights
    np.testing.assert_allclose(scene.poses[0], np.eye(4), atol=1e-9)
    focals = scene.K[:, 0, 0] / (64, 96, 128)
    np.testing.assert_allclose(focals, views[0].K[0, 0] / 64, rtol=0.25)

    cameras_file = json.loads((out / "cameras.json").read_text())["cameras"]
    assert [camera["file"] for camera in cameras_file] == ["0.png", "1.png", "2.png"]
    assert cameras_file[1]["width"] == 96
    np.testing.assert_allclose(cameras_file[2]["camera_to_world"], scene.poses[2])
    scene.save(str(tmp_path / "again"))
    assert (tmp_path / "again" / "cameras.json").read_bytes() == (out / "cameras.json").read_bytes()
    cloud = read_ply(out / "points.ply")
    assert np.array_equal(cloud.points, scene.cloud.points)
    assert len(cloud.points) == pytest.approx(0.75 * 3 * 64**2, rel=0.01)
    with Image.open(out / "views.png") as picture:
        assert picture.size == (1200, 400)
    with pytest.raises(ValueError, match=r"cameras\.json is there already: add --overwrite"):
        alumnus.reconstruct(tmp_path, "none", out)
    images = [view.image for view in views[:2]]
    given = [Image.fromarray(image) for image in images]
    with pytest.raises(ValueError, match="no point is as sure as 1000: the surest reaches "):
        alumnus.reconstruct(given, network, least_sure=1000)


def test_each_photograph_is_encoded_once_also_where_no_gradients_are_wanted(
    network: TwoViewNetwork, views: list[RoomView]
) -> None:
    calls: list[int] = []
    hook = network.encoder.register_forward_hook(lambda *_: calls.append(1))
    images = [Image.fromarray(view.image) for view in views]
    focal = float(views[0].K[0, 0])
    with torch.inference_mode():
        scene = alumnus.reconstruct(images, network, focal=focal)
    hook.remove()
    assert len(calls) == 3
    assert scene.pairs == 3
    with torch.inference_mode():
        again = alumnus.reconstruct(images[:2], "miniworld-rooms", focal=focal)
    assert np.isfinite(again.poses).all()


def test_photographs_of_several_folders_are_named_from_the_one_that_holds_all() -> None:
    image = Image.new("RGB", (8, 8))
    names = photo_names(["walk/a/1.png", Path("walk/b/../b/1.png"), image])
    assert names == ("a/1.png", "b/1.png", "2")
    assert photo_names(["walk/a/1.png"]) == ("1.png",)
    assert photo_names([image, image], ("left", "right")) == ("left", "right")


def test_points_that_are_not_finite_are_left_out(
    network: TwoViewNetwork, views: list[RoomView], tmp_path: Path
) -> None:
    def broken(_: object, __: object, pair: list[ViewPrediction]) -> tuple[ViewPrediction, ...]:
        for view in pair:
            view.points[:, :6, :6] = torch.nan
            view.conf[:, 10:12] = torch.inf
            view.desc_conf[:, 20:22] = torch.nan
        return tuple(pair)

    images = [Image.fromarray(view.image).resize((64, 64)) for view in views[:2]]
    hook = network.head.register_forward_hook(broken)
    scene = alumnus.reconstruct(images, network, tmp_path / "scene")
    found = alumnus.match(images[0], images[1], network, tmp_path / "match")
    hook.remove()
    assert np.isfinite(scene.poses).all()
    assert np.isfinite(scene.cloud.points).all()
    assert np.isfinite(found.confidence).all()
    for folder in ("scene", "match"):
        text = (tmp_path / folder / "cameras.json").read_text()
        assert "NaN" not in text
        assert "Infinity" not in text


def test_the_command_writes_a_scene(
    views: list[RoomView],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, view in enumerate(views[:2]):
        Image.fromarray(view.image).save(tmp_path / f"{number}.png")
    words = ["reconstruct", str(tmp_path), "--model", "miniworld-rooms", f"out={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", ["alumnus", *words, "--focal", "40"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    said = capsys.readouterr().out
    assert "2 cameras, 1 pairs that overlap" in said
    assert "focal lengths 40, 40 px" in said
    assert (tmp_path / "out" / "points.ply").is_file()


def test_mistakes_are_one_sentence_before_the_model_is_opened(tmp_path: Path) -> None:
    def refused(sentence: str, photographs: object = tmp_path, **options: object) -> None:
        with pytest.raises(ValueError, match=sentence) as error:
            alumnus.reconstruct(photographs, "none", **options)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)

    refused("there is no folder 'nowhere'", "nowhere")
    refused("a scene needs two photographs or more, but the folder .* holds 0")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    refused("a scene needs two photographs or more, but the folder .* holds 1")
    refused("a.png' is one photograph: name two or more, or a folder", tmp_path / "a.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "b.png")
    same = tmp_path / "below" / ".."
    refused("is the folder of the photographs, where views.png would be taken", out=same)
    refused("there is no photograph 'none.png'", [tmp_path / "a.png", "none.png"])
    refused("a window of 0 holds no photograph", window=0)
    refused("30 photographs make 435 pairs, which takes long", [tmp_path / "a.png"] * 30)


def test_a_broken_photograph_is_named_before_pairs_are_compared(
    network: TwoViewNetwork, tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"image 'b\.png' of .* cannot be decoded"):
        alumnus.reconstruct(tmp_path, network)


def test_photographs_of_other_places_and_without_a_focal_length_are_named(
    network: TwoViewNetwork, views: list[RoomView], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = render_room(5, 5, 64).views[0]
    images = [Image.fromarray(view.image) for view in (*views[:2], other)]
    with pytest.raises(ValueError, match=r"^2: nothing is seen there that the other photographs"):
        alumnus.reconstruct(images, network)
    monkeypatch.setattr(
        "alumnus.scenes.reconstruction.estimated_focal", lambda *_, step: float("nan")
    )
    with pytest.raises(ValueError, match=r"^0, 1: the points tell no focal length"):
        alumnus.reconstruct(images[:2], network)


def test_clouds_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)).astype(np.float32)
    cloud = Cloud(points, rng.integers(0, 256, (50, 3), dtype=np.uint8))
    write_ply(cloud, tmp_path / "cloud.ply")
    again = read_ply(tmp_path / "cloud.ply")
    assert np.array_equal(again.points, cloud.points)
    assert np.array_equal(again.colours, cloud.colours)
    (tmp_path / "other.ply").write_text("ply\nformat ascii 1.0\n")
    with pytest.raises(ValueError, match="is no point cloud of alumnus"):
        read_ply(tmp_path / "other.ply")


def test_cameras_that_look_in_opposite_directions_are_seen_as_the_first_one() -> None:
    poses = np.stack([np.eye(4), np.diag([-1.0, 1, -1, 1])])
    rng = np.random.default_rng(0)
    points = (rng.uniform(-1, 1, (500, 3)) + np.array([0, 0, 2])).astype(np.float32)
    cloud = Cloud(points, np.full((500, 3), 255, np.uint8))
    both, first = (np.array(cloud_picture(cloud, some)) for some in (poses, poses[:1]))
    white = [(picture == 255).all(axis=-1) for picture in (both, first)]
    assert white[1].sum() > 1000
    assert (white[0] & white[1]).sum() > 0.9 * white[1].sum()


def test_the_picture_shows_near_points_over_far_ones_from_three_sides() -> None:
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40)), -1).reshape(-1, 2)
    walls = [np.c_[grid, np.full(1600, depth)] for depth in (2.0, 4.0)]
    colours = np.repeat(np.array([[255, 0, 0], [0, 0, 255]], np.uint8), 1600, axis=0)
    cloud = Cloud(np.concatenate(walls).astype(np.float32), colours)
    poses = np.eye(4)[None]
    drawn = np.array(cloud_picture(cloud, poses))
    assert drawn.shape == (400, 1200, 3)
    middle = drawn[190:210, 190:210].reshape(-1, 3).mean(axis=0)
    assert middle[0] > 2 * middle[2]  # the near wall is before the far one
    assert all((drawn[:, 400 * k : 400 * k + 400, 2] > 200).any() for k in range(3))
