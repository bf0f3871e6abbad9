"""A linear head on frozen patches finds what is linear in them, and says how it was measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alumnus import measure
from alumnus.data import Sample
from alumnus.evaluation.head_training import keep_features
from alumnus.evaluation.mask_crops import random_crop
from alumnus.evaluation.masks import LabelledSource, census, cut, read_pair, scaled
from alumnus.evaluation.miou import IGNORE
from alumnus.evaluation.segmentation import (
    LRS,
    DenseModel,
    SegmentationProtocol,
)
from alumnus.evaluation.suite import CONSTANT, evaluate
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.evaluation.windows import window_boxes
from alumnus.tokens import Tokens
from image_files import encoded, picture, write_pack
from mask_pictures import Stripes, colours

EYES = EvalModel(name="eyes", kind="teacher", fn=colours(4), patch_px=4)
QUICK = SegmentationProtocol(steps=60, batch_size=4, lr=3e-2)


def blind(images: Tensor) -> Tokens:
    """All patches are alike."""
    return Tokens(patches=torch.ones(len(images), 16, 5), grid=(4, 4))


def no_patches(images: Tensor) -> Tokens:
    return Tokens(cls=images.mean(dim=(2, 3)))


@pytest.fixture
def task() -> TaskSpec:
    return TaskSpec(
        kind="segmentation",
        train=Stripes("train", 12, 0),
        test=Stripes("test", 6, 1),
        size_px=32,
        segmentation=QUICK,
    )


def test_a_model_that_sees_colours_finds_stripes_and_a_blind_one_equals_the_constant(
    task: TaskSpec,
) -> None:
    mole = EvalModel(name="mole", kind="student", fn=blind)
    cls = EvalModel(name="cls", kind="student", fn=no_patches)
    results = evaluate([EYES, mole, cls], [task])
    scores = results.scores["test mIoU"]
    assert scores["eyes"].value > 80  # the rest are patches between two stripes
    assert scores["mole"].value == pytest.approx(scores[CONSTANT].value)
    assert results.missing["test mIoU"] == {"cls": "no patch tokens"}
    details = scores["eyes"].details
    assert (details["size_px"], details["dim"], details["classes"]) == (32, 3, 3)
    assert set(details["iou"]) == {"blue", "green", "red"}  # type: ignore[arg-type]
    [record] = results.tasks
    assert (record.size_px, record.protocol["steps"], record.protocol["ignore"]) == (32, 60, IGNORE)


def test_ignored_pixels_are_neither_learned_nor_counted(task: TaskSpec) -> None:
    test = Stripes("test", 6, 1)
    [score] = [evaluate([EYES], [task]).scores["test mIoU"]["eyes"]]
    assert score.details["pixels"] == 6 * (48 * 32 - 16)
    counts = census(test).pixels
    assert counts[IGNORE] == 6 * 16


def test_sizes_are_rounded_to_the_patch_and_fixed_ones_stay(task: TaskSpec) -> None:
    seen: dict[str, set[tuple[int, ...]]] = {}

    def spy(name: str, patch: int) -> EvalModel:
        def fn(images: Tensor) -> Tokens:
            seen.setdefault(name, set()).add(tuple(images.shape[2:]))
            return colours(patch)(images)

        return EvalModel(name=name, kind="teacher", fn=fn, patch_px=patch, size_px=24)

    task = replace(task, segmentation=replace(QUICK, steps=2))
    evaluate([spy("five", 5), replace(spy("fixed", 4), fixed_size=True)], [task])
    assert seen == {"five": {(30, 30)}, "fixed": {(24, 24)}}


def test_results_do_not_depend_on_batches_and_workers(task: TaskSpec) -> None:
    first = evaluate([EYES], [task], batch_size=64)
    second = evaluate([EYES], [task], batch_size=3, num_workers=1)
    assert first.to_json() == second.to_json()


def test_image_and_mask_stay_together_when_scaled_and_cut() -> None:
    stripes = Stripes("train", 3, 0)
    image, mask = scaled(read_pair(stripes, 1), 64)
    assert image.shape == (3, 64, 96)
    assert mask.shape == (64, 96)
    windows = list(cut(image, mask, window=64, stride=40))
    assert len(windows) == 2
    colour = [windows[1][0][:, windows[1][1] == c].mean(dim=1).argmax().item() for c in range(3)]
    present = [c for c in range(3) if (windows[1][1] == c).any()]
    assert [colour[c] for c in present] == [{0: 2, 1: 1, 2: 0}[c] for c in present]


class Odd(Stripes):
    """Stripes with another mask."""

    def __init__(self, mask: object) -> None:
        super().__init__("odd", 2, 0)
        self.fields = {} if mask is None else {"mask": mask}

    def read(self, index: int) -> Sample:
        return Sample(super().read(index).image, self.fields)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (None, "there is no mask of 'odd/0' in 'odd'"),
        (np.zeros((3, 4), np.uint8), "the mask of 'odd/0' in 'odd' is 4x3 px, but its image 48x32"),
        (np.zeros((32, 48, 3), np.uint8), "is no picture of one channel"),
        (np.full((32, 48), 300, np.int32), "holds 300, but classes are 0 to 254"),
    ],
    ids=str,
)
def test_masks_that_do_not_fit_are_refused_in_one_sentence(mask: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_pair(Odd(mask), 0)


def test_a_mask_value_beyond_the_names_is_refused(task: TaskSpec) -> None:
    task = replace(task, train=Stripes("train", 12, 0, classes=2))
    with pytest.raises(ValueError, match="a mask holds 2, but there are 2 classes"):
        evaluate([EYES], [task])


def test_features_beyond_the_memory_are_refused_before_they_are_all_computed(
    task: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alumnus.evaluation.head_training.CACHE_GIB", 1e-5)
    with pytest.raises(ValueError, match="the features of 12 images of 'train' would take"):
        evaluate([EYES], [task])


def write_masked_pack(folder: str) -> str:
    """A pack of three classes with splits train and test."""
    samples: dict[str, list[dict[str, bytes]]] = {}
    for split in ("train", "test"):
        stripes = Stripes(split, 4, 0)
        read = [stripes.read(i) for i in range(4)]
        samples[split] = [
            {
                "jpg": encoded(sample.image),
                "mask.png": encoded(Image.fromarray(sample.fields["mask"]), "PNG"),
            }
            for sample in read
        ]
    write_pack(Path(folder), samples, classes=["blue", "green", "red"])
    return folder


def test_a_pack_with_masks_is_a_task_by_its_path(tmp_path: Path) -> None:
    pack = write_masked_pack(str(tmp_path / "stripes"))
    [task] = measure.parse_tasks([f"segmentation={pack}"], size_px=None, trials=1)
    assert (task.name, task.size_px) == ("stripes mIoU", 512)
    assert task.train.classes == ("blue", "green", "red")
    small = replace(task, size_px=32, segmentation=QUICK)
    scores = evaluate([EYES], [small]).scores["stripes mIoU"]
    assert scores["eyes"].value > scores[CONSTANT].value + 20


def test_images_without_masks_are_refused_before_any_work(tmp_path: Path) -> None:
    write_pack(tmp_path / "p", {s: [{"jpg": encoded(picture(0))}] for s in ("train", "test")})
    with pytest.raises(ValueError, match="needs masks, which 'p' does not have"):
        measure.parse_tasks([f"segmentation={tmp_path / 'p'}"], size_px=None, trials=1)


def test_random_crops_keep_image_and_mask_together_and_pad_with_what_is_ignored() -> None:
    stripes = Stripes("train", 4, 0)
    seen = set()
    for seed in range(30):
        pair = read_pair(stripes, seed % 4)
        generator = torch.Generator().manual_seed(seed)
        image, mask = random_crop(pair, window=32, generator=generator)
        assert (image.shape, mask.shape) == ((3, 32, 32), (32, 32))
        padding = (image == 0).all(dim=0)  # the mean colour
        assert (mask[padding] == IGNORE).all()
        seen.add(bool(padding.any()))
        for c, channel in ((0, 2), (1, 1), (2, 0)):
            if (inside := image[:, mask == c]).shape[1] > 32:
                assert inside.mean(dim=1).argmax() == channel
    assert seen == {True, False}


def test_a_head_learns_from_crops_as_it_does_from_kept_features(task: TaskSpec) -> None:
    augmented = replace(task, segmentation=replace(QUICK, augment=True))
    first = evaluate([EYES], [augmented])
    assert first.scores["test mIoU"]["eyes"].value > 80
    assert first.tasks[0].protocol["features"] == "computed in each step"
    second = evaluate([EYES], [augmented], batch_size=3, num_workers=1)
    assert first.to_json() == second.to_json()


def test_multi_scale_averages_over_sizes_and_mirror_images(task: TaskSpec) -> None:
    windows: list[Tensor] = []

    def spy(images: Tensor) -> Tokens:
        windows.extend(images)
        return colours(4)(images)

    several = replace(task, segmentation=replace(QUICK, inference="ms"))
    results = evaluate([replace(EYES, fn=spy)], [several])
    assert results.scores["test mIoU"]["eyes"].value > 80
    assert results.tasks[0].protocol["scales"] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert {tuple(window.shape) for window in windows} == {(3, 32, 32)}
    seen = len(windows)
    evaluate([replace(EYES, fn=spy)], [task])
    sizes = [(round(32 * s), round(48 * s)) for s in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
    each = [len([*window_boxes(max(h, 32), max(w, 32), window=32, stride=21)]) for h, w in sizes]
    more = 2 * sum(each) - each[2]  # than at the one size
    assert seen - (len(windows) - seen) == 6 * more  # of the six test images


def test_an_unknown_inference_is_answered_with_the_two_there_are() -> None:
    with pytest.raises(ValueError, match="expected one of ms, ss"):
        SegmentationProtocol(inference="mss")  # type: ignore[arg-type]


def test_the_learning_rate_is_chosen_on_training_images_that_the_head_has_not_seen(
    task: TaskSpec,
) -> None:
    free = replace(task, segmentation=replace(QUICK, lr=None))
    results = evaluate([EYES], [free])
    details = results.scores["test mIoU"]["eyes"].details
    assert details["lr"] in LRS
    assert isinstance(details["val_miou"], float)
    protocol = results.tasks[0].protocol
    assert (protocol["lr"], protocol["lr_chosen_on"]) == (list(LRS), "20% of the training images")
    fixed = evaluate([EYES], [task])
    assert fixed.scores["test mIoU"]["eyes"].details["val_miou"] is None
    assert fixed.tasks[0].protocol["lr_chosen_on"] is None


def test_windows_of_one_image_are_held_out_together(task: TaskSpec) -> None:
    dense = DenseModel(name="eyes", fn=lambda x: colours(4)(x).as_map(), window=24, dim=3)
    train = LabelledSource(task.train, census(task.train).indices)
    kept = keep_features(dense, train, loss_stride=8, batch_size=8)
    fitting, held_out = kept.split(0)
    assert len(fitting) + len(held_out) == len(kept.masks) > 12  # several windows an image
    seen, unseen = (set(kept.image[rows].tolist()) for rows in (fitting, held_out))
    assert (seen & unseen, len(unseen)) == (set(), 2)
    drawn = [next_ for next_, _ in zip(kept.batches(fitting, 4, "cpu", 0), range(3), strict=False)]
    assert all(features.shape[0] == 4 for features, _ in drawn)
