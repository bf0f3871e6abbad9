"""3D joints are found by a linear map of what a model sees, and measured from the pelvis."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alumnus import measure
from alumnus.data import Sample, names_of, open_source
from alumnus.evaluation.body_joints import body_regression, body_score, constant_body
from alumnus.evaluation.human_metrics import mpjpe_mm, pa_mpjpe_mm
from alumnus.evaluation.joints import ridge
from alumnus.evaluation.suite import CONSTANT, evaluate
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.tokens import Tokens

GENERATOR = torch.Generator().manual_seed(0)


class Limbs:
    """Grey pictures with a bright column, by whose place joint 1 lies from joint 0."""

    domain, generic, classes = "people", False, None

    def __init__(self, name: str, length: int, seed: int) -> None:
        self.name = name
        generator = np.random.default_rng(seed)
        self.columns = generator.integers(0, 8, length)
        self.pelvis = generator.normal(size=(length, 3))

    def __len__(self) -> int:
        return len(self.columns)

    def identity(self, index: int) -> str:
        return f"{self.name}/{index}"

    def read(self, index: int) -> Sample:
        picture = np.full((64, 64, 3), 90, np.uint8)
        column = int(self.columns[index])
        picture[:, 8 * column : 8 * column + 8] = 250
        limb = np.array([[0, 0, 0], [0.1 * column, 0.5, 0.1 * column]])
        return Sample(Image.fromarray(picture), {"joints": self.pelvis[index] + limb})


def eyes(images: Tensor) -> Tokens:
    return Tokens.from_map(torch.nn.functional.adaptive_avg_pool2d(images, (8, 8)))


def test_limbs_are_found_wherever_the_body_stands() -> None:
    task = TaskSpec(
        kind="body", train=Limbs("limbs", 60, 0), test=Limbs("limbs", 20, 1), size_px=64
    )
    blind = EvalModel(name="cls", kind="student", fn=lambda x: Tokens(cls=x.mean(dim=(2, 3))))
    results = evaluate([EvalModel(name="eyes", kind="teacher", fn=eyes), blind], [task])
    scores = results.scores["limbs MPJPE"]
    assert scores["eyes"].value < scores[CONSTANT].value / 3
    assert scores["eyes"].details["joints"] == 1
    assert "no patch tokens" in results.missing["limbs MPJPE"]["cls"]
    record = results.tasks[0]
    assert (record.unit, record.better) == ("mm", "lower")
    assert record.protocol["max_grid"] == [7, 7]


def test_errors_are_those_of_human_metrics_over_the_joints_beside_the_root() -> None:
    truth, prediction = torch.randn(2, 4, 9, 3, generator=GENERATOR)
    truth[:, 0], prediction[:, 0] = 0, 0
    score = body_score(prediction[:, 1:], truth[:, 1:])
    others = list(range(1, 9))
    mpjpe = [mpjpe_mm(p, t, scored=others) for p, t in zip(prediction, truth, strict=True)]
    assert score.mpjpe_mm == pytest.approx(np.mean(mpjpe), rel=1e-6)
    pa = [pa_mpjpe_mm(p, t, scored=others) for p, t in zip(prediction, truth, strict=True)]
    assert score.pa_mpjpe_mm == pytest.approx(np.mean(pa), rel=1e-6)


def test_the_constant_is_the_mean_pose_of_training() -> None:
    joints = torch.randn(50, 5, 3, generator=GENERATOR)
    still = joints[:1].expand(10, -1, -1) + torch.randn(10, 1, 3, generator=GENERATOR)
    assert constant_body(still, still, root=2).mpjpe_mm == pytest.approx(0, abs=1e-3)
    assert constant_body(joints, joints, root=2).mpjpe_mm > 100


def test_ridge_with_fewer_rows_than_columns_is_the_same_by_the_normal_equation() -> None:
    x, y = torch.randn(12, 30, generator=GENERATOR), torch.randn(12, 2, generator=GENERATOR)
    for strength, found in zip((0.1, 10.0), ridge(x, y, (0.1, 10.0)), strict=True):
        gram = (x.T @ x).double()
        unit = strength * gram.diagonal().mean() * torch.eye(30)
        expected = torch.linalg.solve(gram + unit, (x.T @ y).double())
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


def test_the_penalty_is_chosen_on_training_images_alone() -> None:
    tokens = torch.randn(40, 4, 6, generator=GENERATOR)
    joints = torch.randn(40, 3, 3, generator=GENERATOR)
    one = body_regression(tokens[:30], joints[:30], tokens[30:], joints[30:])
    other = body_regression(tokens[:30], joints[:30], tokens[30:], joints[30:] + 1)
    assert one.strength == other.strength
    assert one.val_mpjpe_mm == other.val_mpjpe_mm


def test_miniworld_names_its_joints_and_masks() -> None:
    people = open_source("miniworld:people:test[:4]")
    joints = names_of(people, "joints")
    assert joints is not None
    assert joints[0] == "pelvis"
    assert names_of(people, "mask") == ("background", "person", "other")
    things = open_source("miniworld:objects:test[:4]")
    assert names_of(things, "cls") == things.classes
    assert names_of(things, "mask") != things.classes
    texts = [f"{kind}=miniworld:people,miniworld:people:test" for kind in ("body", "joints")]
    body, flat = measure.parse_tasks(texts, trials=1, size_px=64)
    assert body.root == joints.index("pelvis")
    assert [[joints[a], joints[b]] for a, b in flat.torso] == [
        ["shoulder_left", "hip_right"],
        ["shoulder_right", "hip_left"],
    ]


def test_a_source_without_3d_joints_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 3D joints, which 'rooms' does not have"):
        measure.parse_tasks(["body=miniworld:rooms"], trials=1)
