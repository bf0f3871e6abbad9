"""Linear depth: the loss and the errors as in their papers, and heads that learn what there is."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alumnus import measure
from alumnus.data import Sample, open_source
from alumnus.evaluation.depth import DepthObjective, DepthProtocol
from alumnus.evaluation.depth_maps import DepthScore, depth_score, read_depth, survey
from alumnus.evaluation.segmentation import SegmentationProtocol
from alumnus.evaluation.segmentation_task import dense_model
from alumnus.evaluation.suite import CONSTANT, evaluate
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.heads import expected_depth, sig_loss, uniform_bins
from alumnus.tokens import Tokens
from image_files import encoded, picture, write_pack
from mask_pictures import colours

EYES = EvalModel(name="eyes", kind="teacher", fn=colours(4), patch_px=4)
QUICK = DepthProtocol(steps=80, batch_size=4, lr=1e-1)
HEIGHT, WIDTH = 32, 48


class Steps:
    """Three upright steps, darker with distance, 1 to 4 m; one corner has no depth."""

    domain, generic, classes = "steps", False, None

    def __init__(self, name: str, length: int, seed: int) -> None:
        self.name = name
        self._depths = np.random.default_rng(seed).uniform(1, 4, (length, 3)).astype(np.float32)

    def __len__(self) -> int:
        return len(self._depths)

    def identity(self, index: int) -> str:
        return f"{self.name}/{index}"

    def read(self, index: int) -> Sample:
        depth = np.tile(np.repeat(self._depths[index], WIDTH // 3), (HEIGHT, 1))
        grey = np.rint(255 - 60 * depth).astype(np.uint8)
        depth = depth.copy()
        depth[:4, :4] = 0
        return Sample(Image.fromarray(np.stack([grey] * 3, axis=-1)), {"depth": depth})


@pytest.fixture
def task() -> TaskSpec:
    return TaskSpec(
        kind="depth", train=Steps("train", 12, 0), test=Steps("test", 6, 1), size_px=32, depth=QUICK
    )


def some_depths(seed: int) -> tuple[Tensor, Tensor]:  # [2, 5, 7], [2, 5, 7]
    """Predicted and true ones, a third of these missing."""
    generator = torch.Generator().manual_seed(seed)
    found, true = (0.5 + 5 * torch.rand(2, 5, 7, generator=generator) for _ in range(2))
    return found, true * (torch.rand(2, 5, 7, generator=generator) > 1 / 3)


@pytest.mark.parametrize("lambda_", [0.0, 0.85, 1.0])
def test_sig_loss_equals_the_formula_over_valid_pixels(lambda_: float) -> None:
    found, true = some_depths(0)
    pairs = zip(found.flatten().tolist(), true.flatten().tolist(), strict=True)
    g = [math.log(d) - math.log(t) for d, t in pairs if t > 0]
    expected = math.sqrt(sum(x * x for x in g) / len(g) - lambda_ * (sum(g) / len(g)) ** 2)
    # float32 against float64; measured 6e-8
    assert sig_loss(found, true, lambda_=lambda_).item() == pytest.approx(expected, abs=1e-6)


def test_sig_loss_has_finite_gradients_for_a_perfect_guess_and_for_no_depth_at_all() -> None:
    for true in (torch.full((1, 2, 2), 3.0), torch.zeros(1, 2, 2)):
        found = torch.full((1, 2, 2), 3.0, requires_grad=True)
        sig_loss(found, true).backward()
        assert found.grad is not None
        assert (found.grad == 0).all()


def test_errors_equal_the_formulas_over_valid_pixels() -> None:
    found, true = some_depths(1)
    pairs = [
        (d, t) for d, t in zip(found.flatten().tolist(), true.flatten().tolist(), strict=True) if t
    ]
    score = depth_score(found, true)
    share = [
        100 * sum(max(d / t, t / d) < 1.25**power for d, t in pairs) / len(pairs)
        for power in (1, 2, 3)
    ]
    assert [score.delta1, score.delta2, score.delta3] == pytest.approx(share)
    assert score.abs_rel == pytest.approx(sum(abs(d - t) / t for d, t in pairs) / len(pairs))
    rmse = math.sqrt(sum((d - t) ** 2 for d, t in pairs) / len(pairs))
    assert score.rmse_m == pytest.approx(rmse)


def test_what_is_predicted_where_there_is_no_depth_makes_no_difference() -> None:
    found, true = some_depths(2)
    other = torch.where(true > 0, found, 99.0)
    assert depth_score(found, true) == depth_score(other, true)
    assert sig_loss(found, true) == sig_loss(other, true)
    with pytest.raises(ValueError, match="no pixel has a depth"):
        depth_score(found, torch.zeros_like(true))


def test_median_scaling_forgives_a_wrong_scale_and_nothing_else_does() -> None:
    _, true = some_depths(3)
    doubled = 2 * true.clamp(min=0.1)
    assert depth_score(doubled, true).delta1 == 0
    assert depth_score(doubled, true, median_scaling=True).abs_rel == pytest.approx(0, abs=1e-6)


def test_images_weigh_the_same_in_the_mean() -> None:
    one = DepthScore(abs_rel=1, rmse_m=2, delta1=0, delta2=50, delta3=100)
    other = DepthScore(abs_rel=3, rmse_m=4, delta1=100, delta2=50, delta3=0)
    expected = DepthScore(abs_rel=2, rmse_m=3, delta1=50, delta2=50, delta3=50)
    assert DepthScore.mean([one, other]) == expected


def test_a_depth_is_the_mean_over_bins_weighed_by_their_logits() -> None:
    bins = uniform_bins(1, 5, 5)
    assert bins.tolist() == [1, 2, 3, 4, 5]
    logits = torch.tensor([-1.0, 0.0, 0.9, 0.0, 1.9]).view(1, 5, 1, 1).expand(1, 5, 2, 3)
    expected = (0.1 * 1 + 0.1 * 2 + 1.0 * 3 + 0.1 * 4 + 2.0 * 5) / 3.3
    for size, shape in ((None, (1, 8, 12)), ((5, 5), (1, 5, 5)), ((20, 30), (1, 20, 30))):
        depth = expected_depth(logits, bins, size=size)
        assert depth.shape == shape
        assert torch.allclose(depth, torch.tensor(expected))


def test_a_model_that_sees_brightness_finds_depth_and_a_blind_one_does_not(task: TaskSpec) -> None:
    def blind(images: Tensor) -> Tokens:
        return Tokens(patches=torch.ones(len(images), 16, 5), grid=(4, 4))

    def no_patches(images: Tensor) -> Tokens:
        return Tokens(cls=images.mean(dim=(2, 3)))

    mole = EvalModel(name="mole", kind="student", fn=blind)
    cls = EvalModel(name="cls", kind="student", fn=no_patches)
    results = evaluate([EYES, mole, cls], [task])
    scores = results.scores["test delta1"]
    assert scores["eyes"].value > 85  # the rest are patches between two steps
    assert scores["eyes"].value > max(scores["mole"].value, scores[CONSTANT].value) + 25
    assert results.missing["test delta1"] == {"cls": "no patch tokens"}
    details = scores["eyes"].details
    assert details["pixels"] == 6 * (HEIGHT * WIDTH - 16)
    assert details["delta1"] == scores["eyes"].value
    assert isinstance(details["rmse_m"], float)
    assert 0 < details["rmse_m"] < 0.5
    [record] = results.tasks
    assert (record.protocol["steps"], record.protocol["most_m"]) == (80, None)
    again = evaluate([EYES, mole, cls], [task], batch_size=3, num_workers=1)
    assert again.to_json() == results.to_json()


def test_the_learning_rate_is_chosen_on_held_out_training_images(task: TaskSpec) -> None:
    free = replace(task, depth=replace(QUICK, lr=None, steps=10))
    details = evaluate([EYES], [free]).scores["test delta1"]["eyes"].details
    assert details["lr"] in free.depth.rates
    assert isinstance(details["val_delta1"], float)


def test_each_patch_lies_beside_cls_where_a_model_has_one() -> None:
    def both(images: Tensor) -> Tokens:
        seen = colours(4)(images)
        return seen._replace(cls=images.mean(dim=(2, 3))[:, :2])

    dense = dense_model(replace(EYES, fn=both), 32, "cpu", with_cls=True)
    images = torch.randn(2, 3, 32, 32)
    features = dense.fn(images)
    assert (dense.dim, features.shape) == (5, (2, 5, 8, 8))
    assert torch.equal(features[:, :3], colours(4)(images).as_map())
    assert torch.equal(features[:, 3:, 2, 6], images.mean(dim=(2, 3))[:, :2])


def test_windows_without_any_depth_are_left_out_of_the_score() -> None:
    objective = DepthObjective(uniform_bins(1, 5, 5))
    truth = torch.stack([torch.full((4, 4), 3.0), torch.zeros(4, 4)])
    assert objective.score([(torch.zeros(2, 5, 2, 2), truth)]) == pytest.approx(100)


class Odd(Steps):
    """Steps with other depths."""

    def __init__(self, fields: dict[str, object]) -> None:
        super().__init__("odd", 2, 0)
        self.fields = fields

    def read(self, index: int) -> Sample:
        return Sample(super().read(index).image, self.fields)


def test_whole_numbers_are_millimetres_floats_are_metres_and_what_is_no_depth_is_0() -> None:
    whole = np.full((HEIGHT, WIDTH), 1500, np.uint16)
    whole[0, :2] = [0, 65535]
    found = read_depth(Odd({"depth": whole}), 0).mask
    assert found[0, :2].tolist() == [0, 0]
    assert (found.flatten()[2:] == 1.5).all()
    metres = np.full((HEIGHT, WIDTH), 1.5)
    metres[0, :5] = [np.nan, np.inf, -1, 0, 9]
    assert read_depth(Odd({"depth": metres}), 0).mask[0, :6].tolist() == [0, 0, 0, 0, 9, 1.5]
    assert read_depth(Odd({"depth": metres}), 0, most_m=8).mask[0, 4] == 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "there is no depth of 'odd/0' in 'odd'"),
        ({"depth": np.ones((3, 4))}, "the depth of 'odd/0' in 'odd' is 4x3 px, but its image 48x"),
        ({"depth": np.ones((HEIGHT, WIDTH, 3))}, "is no picture of one channel"),
    ],
    ids=["none", "size", "channels"],
)
def test_depths_that_do_not_fit_are_refused_in_one_sentence(
    fields: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_depth(Odd(fields), 0)


def test_images_without_any_depth_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    found = survey(Steps("train", 3, 0))
    depths = [Steps("train", 3, 0).read(i).fields["depth"] for i in range(3)]
    medians = sorted(float(np.median(d[d > 0])) for d in depths)
    assert found.median_m == pytest.approx(medians[1])
    assert found.most_m == pytest.approx(max(d.max() for d in depths))
    near = survey(Steps("train", 3, 0), most_m=medians[1])
    assert near.most_m <= medians[1]
    with pytest.raises(ValueError, match="none of the 3 images of 'train' can be read and has a d"):
        survey(Steps("train", 3, 0), most_m=0.5)
    assert "image 'train/0' of 'train' has no depth" in caplog.text


def write_depth_folder(folder: Path, ending: str) -> Path:
    """Steps as a folder of images and depths with splits train and val."""
    for seed, split in enumerate(("train", "val")):
        steps = Steps(split, 4, seed)
        for kind in ("images", "depth"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(4):
            sample = steps.read(i)
            image, fields = sample.image, sample.fields
            image.save(folder / "images" / split / f"{i}.png")
            path = folder / "depth" / split / f"{i}{ending}"
            if ending == ".npy":
                np.save(path, fields["depth"])
            else:
                Image.fromarray((1000 * fields["depth"]).astype(np.uint16)).save(path)
    return folder


@pytest.mark.parametrize("ending", [".png", ".npy"])
def test_a_folder_of_images_and_depths_is_a_task_by_its_path(tmp_path: Path, ending: str) -> None:
    folder = write_depth_folder(tmp_path / "steps", ending)
    [task] = measure.parse_tasks([f"depth={folder}"], trials=1, depth=QUICK)
    assert (task.name, task.size_px) == ("steps delta1", 480)
    true = Steps("train", 4, 0).read(2).fields["depth"]
    found = read_depth(task.train, 2).mask.numpy()
    assert np.abs(found - true).max() <= (0.001 if ending == ".png" else 0)
    scores = evaluate([EYES], [replace(task, size_px=32)]).scores["steps delta1"]
    assert scores["eyes"].value > scores[CONSTANT].value


def test_an_image_without_its_depth_is_named(tmp_path: Path) -> None:
    folder = write_depth_folder(tmp_path / "steps", ".png")
    (folder / "depth" / "train" / "2.png").unlink()
    with pytest.raises(ValueError, match="1 of 4 images of 'steps' have no depth; the first"):
        open_source(f"{folder}:train")


def test_what_cannot_be_measured_is_refused_before_any_work(tmp_path: Path) -> None:
    write_pack(tmp_path / "p", {s: [{"jpg": encoded(picture(0))}] for s in ("train", "test")})
    with pytest.raises(ValueError, match="needs depth, which 'p' does not have"):
        measure.parse_tasks([f"depth={tmp_path / 'p'}"], trials=1)
    multi_scale = SegmentationProtocol(inference="ms")
    with pytest.raises(ValueError, match="--inference ms is an option of segmentation"):
        measure.parse_tasks([f"depth={tmp_path / 'p'}"], trials=1, segmentation=multi_scale)
    with pytest.raises(ValueError, match=r"the largest depth is -1 m, but must be above"):
        DepthProtocol(most_m=-1)
