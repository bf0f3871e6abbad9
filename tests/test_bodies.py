"""People in photographs: squares and the way back, networks by name, body models, files."""

import argparse
import json
import logging
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import alumnus
from alumnus.bodies import find_people, load_people, open_body
from alumnus.bodies.drawing import people_picture
from alumnus.bodies.smplx import JOINTS, ROTATIONS, TURNED, SmplX, load_smplx
from alumnus.bodies.smplx_files import read_smplx
from alumnus.cli import app
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.heads.people import PeopleHead, PeopleNetwork, PeopleSpec, save_people_head
from alumnus.heads.people.camera import default_intrinsics, project
from alumnus.heads.people.photos import prepare_square
from alumnus.heads.people.rotations import matrix_from_rotvec
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.miniworld import render_person, teacher_folder
from alumnus.miniworld.torch_body import TorchBody
from alumnus.runs import save_encoder

RNG = np.random.default_rng(5)
MICRO = EncoderSpec(model="vit_micro", stem="conv", patch_size=8, image_size=32)
SMALL = PeopleSpec(
    dim=128, patch_size=8, grid=4, camera_bands=2, width=32, depth=1, head_dim=8, mlp_dim=32
)  # of SMPL-X: 53 rotations, 10 shape numbers


def random_picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(1, 255, (height, width, 3), np.uint8))


# squares


@pytest.mark.parametrize(("width", "height"), [(200, 100), (37, 91), (64, 64), (1000, 3)])
def test_points_of_the_square_are_where_they_are_in_the_photograph(width: int, height: int) -> None:
    square = prepare_square(random_picture(width, height), side_px=64, fov_deg=45)
    points = torch.randn(1, 20, 3) + torch.tensor([0, 0, 5.0])
    there = square.in_original(project(points, square.K))
    torch.testing.assert_close(there, project(points, square.original_K[None]), rtol=0, atol=1e-2)


def test_the_rest_of_the_square_is_black_and_a_photograph_of_its_size_stays_as_it_is() -> None:
    statistics = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_STD, IMAGENET_MEAN))
    std, mean = statistics
    wide = prepare_square(Image.new("RGB", (80, 40), "white"), side_px=64)
    pixels = (wide.images[0] * std + mean).clamp(0, 1)
    expected = torch.zeros(3, 64, 64)
    expected[:, 16:48] = 1
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    picture = random_picture(64, 64)
    same = (prepare_square(picture, side_px=64).images[0] * std + mean) * 255
    assert torch.equal(same.round().byte().permute(1, 2, 0), torch.from_numpy(np.array(picture)))


def test_field_of_view_is_across_the_long_side() -> None:
    photo = random_picture(30, 60)
    square = prepare_square(photo, side_px=32, fov_deg=90)
    edge = project(torch.tensor([[[0, math.tan(math.pi / 4), 1.0]]]), square.original_K[None])
    torch.testing.assert_close(edge[0, 0], torch.tensor([15.0, 60.0]))
    assumed = prepare_square(photo, side_px=32)
    torch.testing.assert_close(assumed.K[0], default_intrinsics(32), rtol=0, atol=1e-4)
    given = prepare_square(photo, side_px=32, K=square.original_K)
    torch.testing.assert_close(given.K, square.K)
    with pytest.raises(ValueError, match="field of view is 180 degrees, but must be 1 to 175"):
        prepare_square(photo, side_px=32, fov_deg=180)


# networks by name


def save_small(folder: Path, spec: PeopleSpec = SMALL) -> PeopleNetwork:
    torch.manual_seed(0)
    network = PeopleNetwork(build_encoder(MICRO), PeopleHead(spec)).eval()
    save_encoder(folder, network.encoder, MICRO)
    save_people_head(folder, network.head)
    return network


def test_networks_open_by_name_folder_file_and_encoder(tmp_path: Path) -> None:
    shipped = load_people("miniworld-people")
    assert not shipped.training
    saved = save_small(tmp_path / "run")
    images = torch.randn(1, 3, 32, 32)
    expected = saved(images).scores
    for name, encoder in (
        (tmp_path / "run", None),
        (tmp_path / "run" / "people.safetensors", None),
        (tmp_path / "run", tmp_path / "run"),
        (tmp_path / "run", saved.encoder),
    ):
        found = alumnus.load_people(name, encoder=encoder)
        torch.testing.assert_close(found(images).scores, expected)
    of_teacher = load_people(teacher_folder("people"), encoder="miniworld-people")
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(of_teacher(images).scores, shipped(images).scores)


def test_a_file_of_multihmr_opens_by_its_path_and_brings_its_encoder(tmp_path: Path) -> None:
    vit = EncoderSpec(model="vit", dim=64, depth=1, num_heads=1, patch_size=14, image_size=56)
    spec = replace(SMALL, dim=64, patch_size=14)
    encoder, head = build_encoder(vit), PeopleHead(spec)
    named = {f"backbone.encoder.{name}": x for name, x in encoder.state_dict().items()}
    model = {**named, **head.state_dict()}
    args = argparse.Namespace(xat_num_heads=spec.heads)
    torch.save({"model_state_dict": model, "args": args}, tmp_path / "multiHMR.pt")
    network = load_people(tmp_path / "multiHMR.pt")
    assert network.head.spec == replace(spec, camera_max_resolution=64)
    images = torch.randn(1, 3, 56, 56)
    expected = PeopleNetwork(encoder, head).eval()(images).scores
    torch.testing.assert_close(network(images).scores, expected)
    with pytest.raises(ValueError, match="holds its own encoder: leave encoder=elsewhere out"):
        load_people(tmp_path / "multiHMR.pt", encoder="elsewhere")


def test_networks_that_are_not_there_are_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'miniworld-peple'.*did you mean 'miniworld-people'"):
        load_people("miniworld-peple")
    with pytest.raises(ValueError, match=r"no people head at .*: expected people\.safetensors"):
        load_people(tmp_path)
    save_people_head(tmp_path, PeopleHead(SMALL))
    with pytest.raises(ValueError, match=r"there is no encoder beside .*: name one with encoder="):
        load_people(tmp_path)


# the command


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person of the miniworld, the picture cut to another shape."""
    path = tmp_path_factory.mktemp("photos") / "one.png"
    Image.fromarray(render_person(2, 0, 128).image).crop((10, 0, 110, 128)).save(path)
    return path


def test_command_writes_numbers_mesh_and_picture_of_each_photograph(
    photo: Path, tmp_path: Path
) -> None:
    again = tmp_path / "one.jpg"
    Image.open(photo).save(again)
    out = tmp_path / "out"
    words = ["people", str(photo), str(again), f"out={out}", "--threshold", "0.2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"{photo}  1 person" in done.stdout
    assert {file.name for file in out.iterdir()} == {
        f"one{number}.{ending}" for number in ("", "-2") for ending in ("json", "png", "obj")
    }
    told = json.loads((out / "one.json").read_text())
    assert told["size"] == [100, 128]
    assert told["body"] == "anny"
    assert "the middle of the first one is 0.5, 0.5" in told["about"]
    [person] = told["people"]
    truth = render_person(2, 0, 128).pixels - [10, 0]
    joints = np.array([joint["pixel"] for joint in person["joints"].values()])
    assert np.linalg.norm(joints - truth, axis=1).mean() < 128 / 6
    np.testing.assert_allclose(joints[4], person["location"], atol=0.01)  # the head
    np.testing.assert_allclose(person["joints"]["head"]["metres"], person["translation"], atol=1e-4)
    lines = (out / "one.obj").read_text().splitlines()
    assert sum(line.startswith("v ") for line in lines) == TorchBody().vertices
    with Image.open(out / "one.png") as drawn:
        assert drawn.size == (500, 640)
    done = CliRunner().invoke(app, words)
    assert "one.json is there already: add --overwrite" in str(done.exception)


def test_bad_requests_are_refused_in_one_sentence_before_a_network_is_loaded(
    photo: Path, tmp_path: Path
) -> None:
    for images, options, expected in (
        ([tmp_path / "no.png"], {}, "there is no photograph '.*no.png'"),
        ([tmp_path], {}, "no photograph in the folder"),
        ([], {}, "give at least one IMAGE"),
        ([photo], {"mesh": "stl"}, "unknown kind of mesh 'stl', expected one of none, npz, obj"),
        ([photo], {"threshold": 2.0}, "scores lie between 0 and 1"),
        ([photo], {"fov": 180.0, "model": "none"}, "view is 180 degrees, but must be 1 to 175"),
        ([photo], {"out": photo}, "is a file, but should be a folder"),
        ([photo], {"body": "smpl"}, "unknown body 'smpl', expected one of anny, anny-full, none"),
        ([photo], {"body": "smplx=no"}, "SMPL-X bodies take 53 rotations, .* predicts 20"),
    ):
        with pytest.raises(ValueError, match=expected):
            alumnus.people(images, **options)


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
def test_no_photograph_is_ever_written_over(
    photo: Path, tmp_path: Path, link: Callable[[Path, Path], None] | None
) -> None:
    mine = tmp_path / "photos" / "one.png"
    mine.parent.mkdir()
    mine.write_bytes(photo.read_bytes())
    out = mine.parent
    if link is not None:
        out = tmp_path / "out"
        out.mkdir()
        link(out / "one.png", mine)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"one\.png is a photograph that was given: choose"):
            alumnus.people(mine, "none", out, overwrite=overwrite)
    assert mine.read_bytes() == photo.read_bytes()
    with pytest.raises(ValueError, match=r"is the folder of the photographs, and what is drawn"):
        alumnus.people(mine.parent, "none", mine.parent, overwrite=True)


def test_a_broken_photograph_costs_its_own_row_and_the_others_come_one_by_one(
    photo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    (folder / "folder.png").mkdir(parents=True)
    for name in ("a.png", "c.png", "._p.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "b.png").write_bytes(photo.read_bytes()[:300])
    there = []
    found = alumnus.people(
        folder,
        out=out,
        mesh="none",
        on_found=lambda of_one: there.append((of_one.name, len(list(out.iterdir())))),
    )
    assert there == [(str(folder / "a.png"), 2), (str(folder / "c.png"), 4)]
    assert [of_one.name for of_one in found] == [name for name, _ in there]
    assert "left out: image 'b.png'" in caplog.text
    assert "1 of 3 photographs left out" in caplog.text
    with pytest.raises(ValueError, match=r"image 'b\.png' .* cannot be decoded"):
        alumnus.people(folder / "b.png")


def test_pictures_of_pillow_are_taken_and_answers_hold_no_pixels(
    photo: Path, tmp_path: Path
) -> None:
    picture = Image.open(photo).convert("RGB")
    [alone] = alumnus.people(picture)
    one, other, of_file = alumnus.people([picture, picture, photo], out=tmp_path, mesh="none")
    assert [one.name, other.name, of_file.name] == ["photograph", "photograph-2", str(photo)]
    assert {"photograph.png", "photograph-2.json", "one.png"} <= {
        f.name for f in tmp_path.iterdir()
    }
    torch.testing.assert_close(alone.translation, of_file.translation)
    held = [value for value in vars(alone).values() if isinstance(value, Image.Image | Tensor)]
    assert max(value.numel() for value in held if isinstance(value, Tensor)) < 100 * 128
    assert not any(isinstance(value, Image.Image) for value in held)


# SMPL-X


def fabricated(*, vertices: int = 40, numbers: int = 400) -> dict[str, Any]:
    """Arrays as the published file has them, of a body that is none."""
    parents = np.array([2**32 - 1, *(RNG.integers(0, j) for j in range(1, 55))], np.int64)
    weights = RNG.random((vertices, 55)) ** 8
    regressor = RNG.random((55, vertices)) ** 8
    return {
        "v_template": RNG.normal(size=(vertices, 3)),
        "shapedirs": RNG.normal(size=(vertices, 3, numbers)) * 0.1,
        "posedirs": RNG.normal(size=(vertices, 3, 486)) * 0.01,
        "J_regressor": regressor / regressor.sum(axis=1, keepdims=True),
        "weights": weights / weights.sum(axis=1, keepdims=True),
        "kintree_table": np.stack([parents, np.arange(55)]),
        "f": RNG.integers(0, vertices, (60, 3)).astype(np.uint32),
    }


@pytest.fixture(scope="module")
def licensed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file in the published format, its names of joints pickled in it."""
    folder = tmp_path_factory.mktemp("smplx")
    named: Any = {"joint2num": np.array({"pelvis": 0}, dtype=object)}
    np.savez(folder / "SMPLX_NEUTRAL.npz", **fabricated(), **named)
    return folder


def plainly(
    arrays: Mapping[str, NDArray[Any]],
    shape: NDArray[Any],
    turns: NDArray[Any],  # [55, 3, 3]
    face: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The paper's formulas in float64, a vertex and a joint at a time."""
    rest = arrays["v_template"] + arrays["shapedirs"][..., : len(shape)] @ shape
    rest = rest + arrays["shapedirs"][..., 300 : 300 + len(face)] @ face
    heads = arrays["J_regressor"] @ rest
    rest = rest + arrays["posedirs"] @ (turns[1:] - np.eye(3)).ravel()
    moves: list[NDArray[Any]] = []
    for joint in range(55):
        parent = int(arrays["kintree_table"][0, joint]) if joint else -1
        step = heads[joint] - (heads[parent] if joint else 0)
        local = np.vstack([np.column_stack([turns[joint], step]), [0, 0, 0, 1]])
        moves.append(moves[parent] @ local if joint else local)
    points = []
    for v in range(len(rest)):
        total = np.zeros(3)
        for joint in range(55):
            there = moves[joint] @ np.append(rest[v] - heads[joint], 1)
            total += arrays["weights"][v, joint] * there[:3]
        points.append(total)
    return np.array(points), np.array([move[:3, 3] for move in moves])


def random_turns(*sizes: int) -> Tensor:
    return matrix_from_rotvec(torch.randn(*sizes, 3) * 0.7)


def test_smplx_is_its_papers_formulas_vertex_by_vertex(licensed: Path) -> None:
    arrays = read_smplx(licensed)
    body = load_smplx(licensed, betas=10, expressions=4)
    shape, face, rotations = torch.randn(2, 10), torch.randn(2, 4), random_turns(2, ROTATIONS)
    vertices, joints = body.posed(shape, rotations, face)
    for i in range(2):
        turns = np.tile(np.eye(3), (55, 1, 1))
        turns[list(TURNED)] = rotations[i].numpy()
        expected = plainly(arrays, shape[i].numpy(), turns, face[i].numpy())
        np.testing.assert_allclose(vertices[i], expected[0], atol=2e-5)  # float32, sums of 55
        np.testing.assert_allclose(joints[i], expected[1], atol=2e-5)
    names = [body.joints[i] for i in TURNED]
    assert names[0] == "pelvis"
    assert names[21] == "wrist_right"
    assert names[22].endswith("left")
    assert names[37].endswith("right")
    assert names[52] == "jaw"
    assert not {"eye_left", "eye_right"} & set(names)
    assert len(JOINTS) == len(body.links) + 1


class Harm:
    """Would write a file when a careless reader unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickled_smplx_is_read_and_nothing_of_it_executed(
    licensed: Path, tmp_path: Path, protocol: int
) -> None:
    from scipy.sparse import csc_matrix

    arrays: dict[str, Any] = dict(read_smplx(licensed))
    sparse = csc_matrix(arrays["J_regressor"])
    touched = tmp_path / "touched"
    file = tmp_path / "SMPLX_NEUTRAL.pkl"
    file.write_bytes(
        pickle.dumps({**arrays, "J_regressor": sparse, "other": Harm(touched)}, protocol)
    )
    found = read_smplx(file)
    assert not touched.exists()
    for name, array in found.items():
        np.testing.assert_array_equal(array, arrays[name])


def test_other_files_than_smplx_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no SMPL-X model at .*registered users at https://smpl"):
        read_smplx(tmp_path / "nowhere")
    arrays = fabricated()
    np.savez(tmp_path / "a.npz", **{k: v for k, v in arrays.items() if k != "weights"})
    with pytest.raises(ValueError, match=r"a\.npz is no model of SMPL-X: it has no weights"):
        read_smplx(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **{**arrays, "posedirs": arrays["posedirs"][..., :207]})
    with pytest.raises(ValueError, match=r"posedirs has shape \(40, 3, 207\), not \(40, 3, 486\)"):
        read_smplx(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **fabricated(numbers=20))
    with pytest.raises(ValueError, match=r"predicts 11 shape .* serves at most 10 and 10"):
        load_smplx(tmp_path / "a.npz", betas=11, expressions=10)
    for name in ("a.npz", "a.pkl"):
        (tmp_path / name).write_bytes(b"no archive")
        with pytest.raises(ValueError, match="is damaged or no"):
            read_smplx(tmp_path / name)


def test_without_licensed_files_people_are_found_and_what_is_missing_is_said(
    licensed: Path, photo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_small(tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        [found] = alumnus.people(photo, tmp_path / "run", tmp_path / "out", threshold=0.001)
    assert "53 rotations and 10 shape numbers are for SMPL-X, whose file" in caplog.text
    assert len(found) > 0
    assert found.rotations.shape == (len(found), 53, 3, 3)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.joint_pixels is None
    assert {file.suffix for file in (tmp_path / "out").iterdir()} == {".json", ".png"}
    told = json.loads((tmp_path / "out" / "one.json").read_text())
    assert np.array(told["people"][0]["rotations"]).shape == (53, 3)

    [whole] = alumnus.people(
        photo,
        load_people(tmp_path / "run"),
        tmp_path / "out",
        body=f"smplx={licensed}",
        mesh="npz",
        threshold=0.001,
        overwrite=True,
    )
    assert isinstance(whole.body, SmplX)
    assert whole.points is not None
    head = whole.points.joints[:, whole.body.primary]
    torch.testing.assert_close(head, whole.translation, rtol=0, atol=1e-4)
    stored = np.load(tmp_path / "out" / "one.npz")
    assert stored["vertices"].shape == (len(whole), 40, 3)


def test_nobody_and_people_behind_the_camera_are_drawn_without_failing(photo: Path) -> None:
    network = load_people("miniworld-people")
    body = open_body("anny", network.head.spec)
    found = find_people(network, photo, body=body, threshold=0.999)
    assert found.table.endswith("nobody")
    picture = Image.open(photo).convert("RGB")
    assert people_picture(found, picture).size == (500, 640)
    assert len(find_people(network, photo, threshold=0.999, only_surest=True)) == 1
    near = find_people(network, photo, body=body, threshold=0.2, fov_deg=170)
    assert near.points is not None
    near.points.vertices[..., 2] -= float(near.translation[0, 2])
    near.points.joints[..., 2] -= float(near.translation[0, 2])
    assert people_picture(near, picture).size == (500, 640)


# the full Anny


def test_full_anny_says_how_to_install_it_where_it_is_not() -> None:
    try:
        import anny  # noqa: F401
    except ModuleNotFoundError:
        spec = load_people("miniworld-people").head.spec
        with pytest.raises(ValueError, match=r"needs the package anny: pip install 'alumnus\[anny"):
            open_body("anny-full", spec)
    else:
        pytest.skip("anny is installed")


@pytest.mark.slow
def test_full_anny_has_the_joints_and_the_surface_of_the_baked_body() -> None:
    pytest.importorskip("anny", reason="the package anny, a gigabyte with its data")
    spec = load_people("miniworld-people").head.spec
    full, baked = open_body("anny-full", spec), open_body("anny", spec)
    assert full is not None
    assert baked is not None
    person = render_person(2, 0)
    shape = torch.from_numpy(np.stack([person.shape, 0 * person.shape]))
    rotations = torch.from_numpy(person.rotations)[None].repeat(2, 1, 1, 1)
    nothing = torch.zeros(2, 0)
    vertices, joints = full.posed(shape, rotations, nothing)
    few, same_joints = baked.posed(shape, rotations, nothing)
    assert vertices.shape[1] > few.shape[1]
    assert full.faces.max() < vertices.shape[1]
    at = joints - joints[:, :1] - (same_joints - same_joints[:, :1])
    assert at.norm(dim=-1).mean() < 0.02
    gaps = torch.cdist(few - same_joints[:, :1], vertices - joints[:, :1]).amin(dim=2)
    assert gaps.mean() < 0.01
