"""The people head and its helpers have the numbers of the published system."""

import argparse
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.heads.people import (
    Cells,
    PeopleHead,
    PeopleNetwork,
    PeopleSpec,
    detect,
    load_people_head,
    save_people_head,
)
from alumnus.heads.people.camera import (
    camera_embedding,
    default_intrinsics,
    distance_from_nearness,
    nearness_from_distance,
    project,
    unproject,
)
from alumnus.heads.people.losses import (
    Bodies,
    LossWeights,
    cell_targets,
    detection_loss,
    people_losses,
    pixel_l1,
    total_loss,
)
from alumnus.heads.people.placement import place
from alumnus.heads.people.regressor import BodyRegressor
from alumnus.heads.people.released import infer_people_spec, load_multihmr
from alumnus.heads.people.rotations import (
    matrix_from_rotvec,
    matrix_from_six,
    rotvec_from_matrix,
    six_from_matrix,
)
from golden_files import sub, threed
from procedural import compare_procedural, procedural, procedural_state

TENSORS, SETTINGS = threed("g_multihmr")
HELPERS, HELPER_SETTINGS = threed("g_multihmr_helpers")
LOSSES, LOSS_SETTINGS = threed("g_multihmr_losses")
MICRO = EncoderSpec(model="vit_micro", stem="conv", patch_size=8, image_size=32)
HEAD = {k: v for k, v in sub(TENSORS, "w/").items() if not k.startswith("backbone.")}


def close(found: Tensor, expected: Tensor, *, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the output's scale, as the fixtures' README asks."""
    atol = tolerance * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def golden_spec() -> PeopleSpec:
    cfg = SETTINGS["cfg"]
    return infer_people_spec(
        HEAD,
        patch_size=cfg["img"] // HEAD["x_attention_head.cross_queries_x"].shape[0],
        heads=cfg["xh"],
        camera_max_resolution=cfg["maxres"],
    )


@pytest.fixture(scope="module")
def head() -> PeopleHead:
    head = PeopleHead(golden_spec())
    head.load_state_dict(HEAD, strict=True)
    return head.eval()


def cells(prefix: str) -> Cells:
    return Cells(*(TENSORS[f"{prefix}idx{i}"] for i in range(3)))


@pytest.mark.golden
@pytest.mark.parametrize(
    "case", sorted({k.partition("/")[0] for k in TENSORS if k.startswith("hph") and "/out_" in k})
)
def test_regressor_gives_the_published_numbers(head: PeopleHead, case: str) -> None:
    found = head.x_attention_head(TENSORS["hph/in_feat"], cells(f"{case}/in_"))
    close(found.rotations[:, :1], TENSORS[f"{case}/out_global_orient"])
    close(found.rotations[:, 1:], TENSORS[f"{case}/out_body_pose"])
    close(found.shape, TENSORS[f"{case}/out_betas"])
    close(found.camera, TENSORS[f"{case}/out_cam"])
    close(found.expression, TENSORS[f"{case}/out_expression"])


@pytest.mark.golden
def test_camera_embedding_is_the_published_one() -> None:
    spec, grid = golden_spec(), TENSORS["mid/camera_embedding"].shape[1:3]
    found = camera_embedding(
        TENSORS["in/K"],
        grid=(grid[0], grid[1]),
        patch_size=spec.patch_size,
        bands=spec.camera_bands,
        max_resolution=spec.camera_max_resolution,
    )
    close(found.permute(0, 2, 3, 1), TENSORS["mid/camera_embedding"])


@pytest.mark.golden
def test_scores_are_the_published_ones(head: PeopleHead) -> None:
    close(head.scores(TENSORS["mid/backbone_tokens"]), TENSORS["mid/scores_raw"])


@pytest.mark.golden
@pytest.mark.parametrize("name", ["train_out", "out"])
def test_head_gives_the_published_people(head: PeopleHead, name: str) -> None:
    given = cells(f"det/nms{SETTINGS['nms']}/") if name == "train_out" else None
    found = head(
        TENSORS["mid/backbone_tokens"],
        TENSORS["in/K"],
        given,
        threshold=SETTINGS["threshold"],
    )
    expected = sub(TENSORS, f"{name}/")
    close(found.location, expected["loc"])
    close(found.shape, expected["shape"])
    close(found.expression, expected["expression"])
    if name == "out":
        close(found.distance[:, None], expected["dist"])
        close(found.translation, expected["transl"])
    else:
        close(found.nearness[:, None], expected["dist_postprocessed"])
        close(found.offset, expected["offset"])
        close(found.rotations, expected["rotmat"])


@pytest.mark.golden
def test_suppression_and_threshold_detect_the_published_cells() -> None:
    for window in (int(k.split("/")[1][3:]) for k in TENSORS if k.endswith("/scores_detected")):
        scores = TENSORS["mid/scores_raw"]
        found = detect(scores, threshold=SETTINGS["threshold"], window=window)
        for ours, theirs in zip(found, cells(f"det/nms{window}/"), strict=True):
            torch.testing.assert_close(ours, theirs)
        close(scores[found], TENSORS[f"det/nms{window}/scores_detected"])


@pytest.mark.golden
def test_people_of_one_image_do_not_see_those_of_another(head: PeopleHead) -> None:
    people = cells("hph/in_")
    features = TENSORS["hph/in_feat"]
    together = head.x_attention_head(features, people)
    for image in people.image.unique():
        mine = people.image == image
        alone = head.x_attention_head(features, Cells(*(x[mine] for x in people)))
        for ours, theirs in zip(alone, together, strict=True):
            close(ours, theirs[mine])


@pytest.mark.golden
def test_projection_and_its_inverse_are_the_published_ones() -> None:
    pixels = project(HELPERS["cam/pts"], HELPERS["cam/K"])
    close(pixels, HELPERS["cam/projected"])
    back = unproject(HELPERS["cam/projected"], HELPERS["cam/dist"], HELPERS["cam/K"])
    close(back, HELPERS["cam/unprojected"])


@pytest.mark.golden
def test_nearness_is_the_published_log_depth() -> None:
    depth = sub(HELPERS, "depth/")
    K = torch.diag_embed(torch.stack([depth["focal"]] * 3, dim=1))
    side = HELPER_SETTINGS["depth_img_size"]
    close(nearness_from_distance(depth["metric"], K, side_px=side), depth["target"])
    close(distance_from_nearness(depth["target"], K, side_px=side), depth["back"])


@pytest.mark.golden
def test_rotations_are_the_published_ones() -> None:
    close(matrix_from_six(HELPERS["rot6d/in"]), HELPERS["rot6d/rotmat"])
    close(matrix_from_six(HELPERS["rot6d_edge/in"]), HELPERS["rot6d_edge/rotmat"], tolerance=1e-4)
    other = HELPERS["rot6d/rotmat_rowmajor_3x2_layout"]
    assert (matrix_from_six(HELPERS["rot6d/in"]) - other).abs().max() > 0.1
    close(matrix_from_rotvec(HELPERS["rot/rotvec"]), HELPERS["rot/rotmat"])
    close(six_from_matrix(HELPERS["rot/rotmat"]), HELPERS["rot/rotmat_to_6d_columns"])
    close(matrix_from_rotvec(HELPERS["rot_edge/rotvec"]), HELPERS["rot_edge/rotmat"])
    close(rotvec_from_matrix(HELPERS["rot_edge/rotmat"]), HELPERS["rot_edge/rotvec_back"])
    close(
        rotvec_from_matrix(TENSORS["train_out/rotmat"]), TENSORS["train_out/rotvec"], tolerance=1e-4
    )


@pytest.mark.golden
@pytest.mark.parametrize("primary", ["None", "head"])
def test_bodies_are_placed_where_the_published_ones_are(primary: str) -> None:
    given = sub(HELPERS, f"place_{primary}/")
    translation = unproject(given["loc"][:, None], given["dist"][:, None], given["K"])[:, 0]
    close(translation, given["out_transl"])
    found = place(
        HELPERS["place/rest_vertices"],
        HELPERS["place/rest_joints"],
        root=matrix_from_rotvec(given["root_rotvec"]),
        translation=translation,
        primary=HELPER_SETTINGS["head_joint_index"] if primary == "head" else None,
    )
    close(found.vertices, given["out_v3d"])
    close(found.joints, given["out_j3d"])
    close(found.joints[:, :1], given["out_transl_pelvis"])
    close(project(found.vertices, given["K"]), given["out_v2d"])
    close(project(found.joints, given["K"]), given["out_j2d"])


@pytest.mark.golden
def test_detection_loss_is_the_published_one() -> None:
    given = sub(HELPERS, "focal/")
    close(detection_loss(given["pred"], given["gt"])[None], given["loss"])


def bodies(of: dict[str, Tensor]) -> Bodies:
    side = of["scores"].shape[1]
    return Bodies(
        scores=of["scores"].reshape(-1, side, side),
        offset=of["offset"],
        rotations=of["rotmat"],
        shape=of["shape"],
        nearness=of["dist_postprocessed"].reshape(-1),
        translation=of["transl"],
        pelvis=of["transl_pelvis"].reshape(-1, 3),
        joints=of["j3d"],
        vertices=of["v3d"],
        joint_pixels=of["j2d"],
        vertex_pixels=of["v2d"],
    )


PUBLISHED = {
    "detection": "bce",
    "offset": "offset",
    "rotations": "rotmat",
    "shape": "shape",
    "nearness": "dist",
    "translation": "transl",
    "joints": "j3d",
    "vertices": "v3d",
    "joint_pixels": "j2d",
    "vertex_pixels": "v2d",
}


@pytest.mark.golden
def test_losses_are_the_published_ones() -> None:
    truth, found = (bodies(sub(LOSSES, f"{who}/")) for who in ("gt", "pred"))
    terms = people_losses(found, truth, side_px=LOSS_SETTINGS["img_size"])
    for when, values in LOSS_SETTINGS["values"].items():
        for ours, theirs in PUBLISHED.items():
            assert terms[ours].item() == pytest.approx(values[theirs], rel=1e-5)
        pixels = int(when.removeprefix("epoch")) >= LOSS_SETTINGS["weights"]["start_2d_epoch"]
        total = total_loss(terms, LossWeights(), pixels=pixels)
        assert total.item() == pytest.approx(values["total"], rel=1e-5)


@pytest.mark.golden
def test_default_weights_are_the_released_ones() -> None:
    released = LOSS_SETTINGS["weights"]
    for ours, theirs in PUBLISHED.items():
        assert getattr(LossWeights(), ours) == released[f"alpha_{theirs}"]


@pytest.mark.golden
def test_targets_are_the_published_ones() -> None:
    targets = sub(LOSSES, "targets/")
    side, patch = LOSS_SETTINGS["img_size"], LOSS_SETTINGS["patch_size"]
    found = cell_targets(targets["loc"], grid=side // patch, patch_size=patch)
    close(found.offset, targets["offset"])
    assert torch.equal(torch.stack([found.column, found.row], dim=1), targets["cell_x_y"])
    near = nearness_from_distance(targets["dist"], targets["K"], side_px=side)
    close(near, targets["dist_postprocessed"])
    pixels = project(targets["primary_point"][:, None], targets["K"])[:, 0]
    close(pixels, targets["loc"])


def test_empty_batches_cost_nothing_but_detection() -> None:
    truth, found = (bodies(sub(LOSSES, f"{who}/")) for who in ("gt", "pred"))
    nobody = [
        x._replace(**{f: getattr(x, f)[:0] for f in Bodies._fields[1:]}) for x in (found, truth)
    ]
    assert all(
        v == 0
        for k, v in people_losses(*nobody, side_px=LOSS_SETTINGS["img_size"]).items()
        if k != "detection"
    )


def test_a_prediction_that_is_not_finite_shows_in_its_term_alone() -> None:
    truth, found = (bodies(sub(LOSSES, f"{who}/")) for who in ("gt", "pred"))
    broken = found._replace(translation=torch.full_like(found.translation, torch.nan))
    terms = people_losses(broken, truth, side_px=LOSS_SETTINGS["img_size"])
    assert [name for name, term in terms.items() if not term.isfinite()] == ["translation"]


def test_points_outside_of_the_picture_have_no_gradient_whatever_they_are() -> None:
    truth = torch.tensor([[[8.0, 8.0], [torch.nan, 3.0], [-torch.inf, 3.0], [99.0, 3.0]]])
    found = torch.tensor([[[9.0, 6.0], [1.0, 1.0], [torch.nan, torch.inf], [1.0, 1.0]]])
    found.requires_grad_()
    loss = pixel_l1(found, truth, side_px=16)
    assert loss == 3
    loss.backward()
    assert found.grad is not None
    assert torch.equal(found.grad[0], torch.tensor([[1.0, -1], [0, 0], [0, 0], [0, 0]]))


def test_two_people_in_one_cell_are_alike_and_mark_it_once() -> None:
    torch.manual_seed(0)
    spec = PeopleSpec(dim=8, grid=4, camera_bands=2, rotations=2, width=16, mlp_dim=16)
    regressor = BodyRegressor(spec)
    people = Cells(*torch.tensor([[0, 1, 2], [0, 3, 3], [0, 1, 2], [1, 0, 0]]).T)
    context = torch.randn(2, spec.context_dim, 4, 4)
    values = regressor.cross_values_x
    way = torch.zeros_like(values)
    way[1] = 3.0 * torch.randn(spec.context_dim)  # the row of two people

    def total() -> Tensor:
        found = regressor(context, people).shape
        assert torch.equal(found[0], found[2])
        error: Tensor = 1e3 * found.square().sum()
        return error

    (slope,) = torch.autograd.grad(total(), values)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            values += sign * 0.01 * way
            ends.append(total())
            values -= sign * 0.01 * way
    torch.testing.assert_close((slope * way).sum(), (ends[0] - ends[1]) / 0.02, rtol=0.05, atol=0)


@pytest.mark.parametrize("there", [True, False])
def test_projection_is_float32_under_autocast(there: bool) -> None:
    K = default_intrinsics(1000)[None]
    points = torch.tensor([[[0.123, -0.456, 3.21], [1.0, 2.0, 7.89]]])
    pixels = project(points, K)
    with torch.autocast("cpu", torch.bfloat16):
        found = project(points, K) if there else unproject(pixels, points[..., 2:], K)
    assert found.dtype == torch.float32
    assert torch.equal(found, pixels) if there else torch.allclose(found, points, atol=1e-5)


def test_network_refuses_images_and_intrinsics_of_other_shapes() -> None:
    spec = PeopleSpec(dim=128, patch_size=8, grid=4, camera_bands=2, rotations=2, betas=3, depth=1)
    network = PeopleNetwork(build_encoder(MICRO), PeopleHead(spec))
    with pytest.raises(ValueError, match="squares of 32 px, not images of 40 x 32 px"):
        network(torch.zeros(1, 3, 32, 40))
    with pytest.raises(ValueError, match=r"K has shape \(3, 3\), but should be \[2, 3, 3\]"):
        network(torch.zeros(2, 3, 32, 32), torch.eye(3))
    with pytest.raises(ValueError, match="encoder of width 128 and patches of 8 px, not 128 and 4"):
        PeopleNetwork(build_encoder(replace(MICRO, patch_size=4)), PeopleHead(spec))


def test_a_saved_head_comes_back(head: PeopleHead, tmp_path: Path) -> None:
    save_people_head(tmp_path, head)
    again = load_people_head(tmp_path)
    assert again.spec == head.spec
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_what_cannot_be_read_is_said_in_one_sentence(head: PeopleHead, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no people head at .*: expected people\.safetensors"):
        load_people_head(tmp_path)
    with pytest.raises(ValueError, match=r"'witdh'.*did you mean 'width'"):
        PeopleSpec.from_dict({"witdh": 3})
    with pytest.raises(ValueError, match="the people head takes"):
        head(torch.zeros(1, 3, head.spec.dim), torch.eye(3)[None])


MANIFEST = Path(__file__).parent / "golden" / "manifests" / "people" / "multihmr_672_L.json"


def released_shapes() -> dict[str, tuple[list[int], str]]:
    """The tensors of the released head: all that are not the backbone's."""
    tensors: dict[str, tuple[list[int], str]] = json.loads(MANIFEST.read_text())["tensors"]
    return {name: about for name, about in tensors.items() if not name.startswith("backbone.")}


@pytest.mark.golden
def test_default_head_has_the_names_and_shapes_of_the_released_file() -> None:
    with torch.device("meta"):
        state = PeopleHead(PeopleSpec()).state_dict()
    assert {name: list(x.shape) for name, x in state.items()} == {
        name: shape for name, (shape, _) in released_shapes().items()
    }


@pytest.mark.slow
@pytest.mark.golden
def test_released_regressor_gives_the_published_numbers_at_full_size() -> None:
    described = procedural("multihmr_672_L_head")
    text = described["input"]["features"]
    found = re.search(r"RandomState\((\d+)\)\.standard_normal\(\(([\d,]+)\)\)", text)
    assert found is not None
    shape = tuple(map(int, found[2].split(",")))
    features = np.random.RandomState(int(found[1])).standard_normal(shape).astype(np.float32)
    people = Cells(*torch.tensor(described["input"]["detections_batch_row_col"]).T)
    head = PeopleHead(PeopleSpec())
    head.load_state_dict(procedural_state(released_shapes()), strict=True)
    with torch.no_grad():
        body = head.x_attention_head(torch.from_numpy(features), people)
    compare_procedural(body.rotations[:, :1], described["global_orient"])
    compare_procedural(body.rotations[:, 1:], described["body_pose"])
    compare_procedural(body.shape, described["betas"])
    compare_procedural(body.camera, described["cam"])
    compare_procedural(body.expression, described["expression"])


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the authors' are: tensors with a body model's, arguments, counters."""
    model = {**sub(TENSORS, "w/"), "smpl_layer.neutral_10.v_template": torch.zeros(3, 3)}
    args = argparse.Namespace(
        img_size=[SETTINGS["cfg"]["img"]], xat_num_heads=SETTINGS["cfg"]["xh"]
    )
    file = tmp_path_factory.mktemp("released") / "multiHMR.pt"
    torch.save({"model_state_dict": model, "args": args, "epoch": 1, "iter": 2}, file)
    return file


@pytest.mark.golden
def test_released_file_gives_the_published_people_from_pictures(released: Path) -> None:
    cfg = SETTINGS["cfg"]
    network = load_multihmr(released, num_heads=cfg["nh"], camera_max_resolution=cfg["maxres"])
    assert network.head.spec.depth == cfg["xd"]
    assert network.head.spec.head_dim == cfg["xdh"]
    images, K = TENSORS["in/img"], TENSORS["in/K"]
    with torch.no_grad():
        close(network.encoder(images).final.of("patch"), TENSORS["mid/backbone_tokens"])
        found = network(images, K, threshold=SETTINGS["threshold"])
        close(K[found.cells.image], TENSORS["out/K"])
        close(found.scores[found.cells], TENSORS["out/det_scores"])
        close(found.location, TENSORS["out/loc"])
        close(found.translation, TENSORS["out/transl"])
        close(rotvec_from_matrix(found.rotations), TENSORS["out/rotvec"], tolerance=1e-4)
        close(found.shape, TENSORS["out/shape"])

        guessed = network(images, threshold=SETTINGS["threshold"])
        side = images.shape[-1]
        assert guessed.distance.shape == found.distance.shape
        assert default_intrinsics(side)[0, 0] == pytest.approx(side / 2 / math.tan(math.pi / 6))


def test_other_files_are_refused_in_one_sentence(tmp_path: Path, released: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not a checkpoint of Multi-HMR: no 'model_state_dict'"):
        load_multihmr(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no standard number of heads"):
        load_multihmr(released)
    torch.save({"model_state_dict": dict(TENSORS)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not the weights of a ViT"):
        load_multihmr(tmp_path / "other.pt")
