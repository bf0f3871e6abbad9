"""`alumnus match`: pixels of the photographs themselves, cameras, files, mistakes."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import alumnus
from alumnus import cli
from alumnus.heads.two_view import TwoViewNetwork, prepare_photo
from alumnus.miniworld.rooms import RoomView, render_walk
from alumnus.scenes.cameras import camera_matrix, estimated_focal, given_focals, seen_camera
from alumnus.scenes.match_picture import match_picture
from alumnus.scenes.matches import PhotoMatches


@pytest.fixture(scope="module")
def network() -> TwoViewNetwork:
    return alumnus.load_two_view("miniworld-rooms")


@pytest.fixture(scope="module")
def views() -> list[RoomView]:
    return render_walk(0, 0, 2, 128, overlap=0.75)


@pytest.fixture
def photographs(views: list[RoomView], tmp_path: Path) -> tuple[Path, Path]:
    """The second one cut at its sides and enlarged: another size and shape."""
    Image.fromarray(views[0].image).save(tmp_path / "left.png")
    other = Image.fromarray(views[1].image).crop((16, 0, 112, 128)).resize((192, 256))
    other.save(tmp_path / "right.jpg", quality=95)
    return tmp_path / "left.png", tmp_path / "right.jpg"


def test_matches_are_pixels_of_photographs_of_any_size(
    network: TwoViewNetwork, views: list[RoomView], photographs: tuple[Path, Path]
) -> None:
    found = alumnus.match(*photographs, network, focal=float(views[0].K[0, 0]))
    assert len(found) > 50
    assert (np.diff(found.confidence) <= 0).all()
    x, y = found.left.round().astype(int).clip(0, 127).T
    depth = views[0].depth[y, x]
    rays = np.c_[found.left + 0.5, np.ones(len(found))] @ np.linalg.inv(views[0].K).T
    world = (rays * depth[:, None]) @ views[0].pose[:3, :3].T + views[0].pose[:3, 3]
    local = (world - views[1].pose[:3, 3]) @ views[1].pose[:3, :3]
    flat = local @ views[1].K.T
    true = (flat[:, :2] / flat[:, 2:] - (16, 0)) * 2 - 0.5  # in the cut and enlarged photograph
    off = np.linalg.norm(found.right - true, axis=1)
    assert np.median(off) < 12  # px, of 256: the network looks at 64


def test_what_agrees_does_not_depend_on_the_sizes_of_the_photographs(
    network: TwoViewNetwork, views: list[RoomView]
) -> None:
    left, right = (Image.fromarray(view.image).resize((64, 64)) for view in views)
    focal = float(views[0].K[0, 0]) / 2
    larger = right.resize((640, 640), Image.Resampling.NEAREST)  # of it the network sees the same
    small = alumnus.match(left, right, network, focal=focal)
    mixed = alumnus.match(left, larger, network, focal=[focal, 10 * focal])
    for one, other in ((small.pose, mixed.pose), (small.direction, mixed.direction)):
        assert one is not None
        assert other is not None
        shares = one.agree.mean(), other.agree.mean()
        assert shares[1] == pytest.approx(shares[0], abs=0.05)


def test_it_writes_what_it_found(photographs: tuple[Path, Path], tmp_path: Path) -> None:
    found = alumnus.match(*photographs, "miniworld-rooms", tmp_path / "out")
    with (tmp_path / "out" / "matches.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found)
    found.save(str(tmp_path / "again"))
    for name in ("matches.csv", "cameras.json", "matches.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    written = np.array([[float(row["right_x"]), float(row["right_y"])] for row in rows])
    np.testing.assert_allclose(written, found.right, atol=0.006)
    cameras = json.loads((tmp_path / "out" / "cameras.json").read_text())
    assert cameras["photographs"] == ["left.png", "right.jpg"]
    assert cameras["focals"] == pytest.approx(found.focals)
    assert found.pose is not None
    assert cameras["pose_metres"]["R"] == found.pose.rotation.tolist()
    assert sum(row["agrees"] == "1" for row in rows) == found.pose.agree.sum()
    with Image.open(tmp_path / "out" / "matches.png") as picture:
        assert picture.size == (480 + 360, 480)
    with pytest.raises(ValueError, match=r"matches\.csv is there already: add --overwrite"):
        alumnus.match(*photographs, "none", tmp_path / "out")  # before the model is looked for
    alumnus.match(*photographs, "miniworld-rooms", tmp_path / "out", overwrite=True)


def test_a_photograph_is_never_written_over(photographs: tuple[Path, Path], tmp_path: Path) -> None:
    left, right = photographs
    own = tmp_path / "matches.png"
    own.write_bytes(left.read_bytes())
    for given in (own, tmp_path / "linked.png"):
        if given != own:
            given.symlink_to(own)
        with pytest.raises(
            ValueError, match=r"matches\.png is a photograph that was given: choose"
        ):
            alumnus.match(given, right, "miniworld-rooms", tmp_path, overwrite=True)
    assert own.read_bytes() == left.read_bytes()


def test_the_command_prints_matches_focal_lengths_and_the_camera(
    photographs: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["match", *map(str, photographs), f"out={tmp_path / 'out'}", "--model"]
    monkeypatch.setattr("sys.argv", ["alumnus", *words, "miniworld-rooms", "--focal", "90"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    said = capsys.readouterr().out
    assert "matches, confidence" in said
    assert "focal lengths: 90 px and 90 px (given)" in said
    assert "the right camera: " in said
    assert (tmp_path / "out" / "matches.png").is_file()


def test_the_focal_length_of_a_photograph_does_not_depend_on_how_it_is_seen() -> None:
    for size in ((640, 480), (300, 517), (80, 80)):
        photo = prepare_photo(Image.new("RGB", size), patch_size=16, long_side_px=256)
        focal = 0.9 * max(size)
        y, x = torch.meshgrid(*(torch.arange(n) for n in photo.images.shape[2:]), indexing="ij")
        rays = torch.stack([x, y, torch.ones_like(x)], dim=-1).double()
        points = rays @ torch.from_numpy(np.linalg.inv(seen_camera(photo, focal))).T
        found = estimated_focal(points * 3, torch.ones(x.shape), photo)
        assert found == pytest.approx(focal, rel=5e-3)  # sides are resized to whole pixels
        corner = photo.in_original(torch.tensor([[7.0, 5.0]]))
        original = np.linalg.inv(camera_matrix(photo, focal)) @ [*corner[0].tolist(), 1]
        np.testing.assert_allclose(points[5, 7].numpy(), original, atol=1e-5)


def test_points_behind_the_camera_tell_no_focal_length() -> None:
    photo = prepare_photo(Image.new("RGB", (64, 48)), patch_size=16, long_side_px=64)
    points = torch.rand(48, 64, 3) - torch.tensor([0.5, 0.5, 3.0])
    assert np.isnan(estimated_focal(points, torch.ones(48, 64), photo))
    image = Image.new("RGB", (64, 48))
    unknown = PhotoMatches(
        left=np.zeros((3, 2)),
        right=np.zeros((3, 2)),
        confidence=np.ones(3),
        focals=(float("nan"), 90.0),
        known=False,
        pose=None,
        direction=None,
        names=("a", "b"),
        images=(image, image),
    )
    assert "focal lengths: unknown and 90 px (estimated)" in str(unknown)


def test_the_picture_has_lines_where_the_matches_are() -> None:
    images = Image.new("RGB", (200, 100)), Image.new("RGB", (50, 80))
    places = np.array([[10.0, 20.0]]), np.array([[25.0, 40.0]])
    drawn = np.array(match_picture(images, *places, np.array([True])))
    assert drawn.shape == (480, 960 + 300, 3)
    assert drawn[round(20.5 * 4.8), round(10.5 * 4.8)].any()
    assert drawn[243, 960 + 153].any()
    assert not drawn[:, :40].any()


@pytest.mark.parametrize("given", [(100.0, 90.0), [100, 90], np.array([100, 90])])
def test_focal_lengths_are_any_list_of_numbers(given: Sequence[float]) -> None:
    assert given_focals(given, 2) == [100.0, 90.0]
    assert given_focals(np.float64(100), 2) == [100.0, 100.0]
    assert given_focals(None, 2) == [None, None]


def test_mistakes_are_one_sentence_before_the_model_is_opened(
    photographs: tuple[Path, Path], tmp_path: Path
) -> None:
    left, right = photographs
    (tmp_path / "broken.jpg").write_bytes(right.read_bytes()[:200])
    for second, options, sentence in (
        ("none.jpg", {}, "there is no photograph 'none.jpg'"),
        (tmp_path / "broken.jpg", {}, "'broken.jpg' of .* cannot be decoded"),
        (right, {"focal": [1.0, 2.0, 3.0]}, "3 focal lengths are given: name one for all, or 2"),
        (right, {"focal": (100.0, float("nan"))}, "a focal length of nan px cannot be"),
        (right, {"focal": -3.0}, "a focal length of -3.0 px cannot be"),
        (right, {"out": right}, "is a file, but should be a folder"),
        (right, {}, "unknown two-view network 'none'"),
    ):
        with pytest.raises(ValueError, match=sentence) as refused:
            alumnus.match(left, second, "none", **options)
        assert "\n" not in str(refused.value)
