"""Linear heads: DINOv2's layout in files, one layer or several, refused where they do not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from alumnus import measure
from alumnus.encoders import EncoderSpec, build_encoder, last_layers
from alumnus.evaluation.miou import IGNORE
from alumnus.evaluation.segmentation import SegmentationProtocol
from alumnus.evaluation.suite import evaluate
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.heads import LinearHead, load_linear_head, save_linear_head
from alumnus.teachers import load_teacher
from mask_pictures import Stripes, colours

CPU = torch.device("cpu")
EYES = EvalModel(name="eyes", kind="teacher", fn=colours(4), patch_px=4)


def released(dim: int, classes: int) -> dict[str, Any]:
    """What a file of DINOv2's released heads holds, with random numbers."""
    generator = torch.Generator().manual_seed(0)
    return {
        "meta": {"CLASSES": ["wall", "sky"], "PALETTE": [[1, 2, 3]], "mmcv_version": "1.5.0"},
        "state_dict": {
            "decode_head.conv_seg.weight": torch.randn(classes, dim, 1, 1, generator=generator),
            "decode_head.conv_seg.bias": torch.randn(classes, generator=generator),
            "decode_head.bn.weight": torch.rand(dim, generator=generator),
            "decode_head.bn.bias": torch.randn(dim, generator=generator),
            "decode_head.bn.running_mean": torch.randn(dim, generator=generator),
            "decode_head.bn.running_var": torch.rand(dim, generator=generator),
            "decode_head.bn.num_batches_tracked": torch.tensor(40_000),
        },
    }


@pytest.mark.parametrize(("dim", "classes"), [(384, 150), (4 * 1024, 150), (768, 21)])
def test_a_released_head_is_batch_norm_and_one_linear_map(
    dim: int, classes: int, tmp_path: Path
) -> None:
    path = tmp_path / "head.pth"
    torch.save(released(dim, classes), path)
    head = load_linear_head(path)
    assert (head.dim, head.classes) == (dim, classes)
    features = torch.randn(2, dim, 3, 4, generator=torch.Generator().manual_seed(1))
    state = {k.split(".", 1)[1]: v for k, v in released(dim, classes)["state_dict"].items()}
    scale = state["bn.weight"] / (state["bn.running_var"] + 1e-5).sqrt()
    normal = (features - state["bn.running_mean"].view(-1, 1, 1)) * scale.view(-1, 1, 1)
    normal = normal + state["bn.bias"].view(-1, 1, 1)
    expected = torch.einsum("kd,bdhw->bkhw", state["conv_seg.weight"][..., 0, 0], normal)
    expected = expected + state["conv_seg.bias"].view(-1, 1, 1)
    # other order of summation over up to 4096 products of size 1 to 100
    torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_saved_head_loads_again_in_the_released_layout(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"head{suffix}"
    torch.save(released(8, 3), tmp_path / "released.pth")
    head = load_linear_head(tmp_path / "released.pth")
    save_linear_head(head, path)
    held = torch.load(path)["state_dict"] if suffix == ".pth" else load_file(path)
    expected = released(8, 3)["state_dict"]
    assert held.keys() == expected.keys()
    assert all(torch.equal(held[name], expected[name]) for name in expected)
    again = load_linear_head(path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in head.state_dict().items())


def test_what_stands_beside_the_head_in_a_file_is_left_out(tmp_path: Path) -> None:
    content = released(8, 3)
    content["state_dict"] |= {"backbone.norm.weight": torch.ones(8)}
    del content["state_dict"]["decode_head.bn.num_batches_tracked"]  # older files have none
    torch.save(content, tmp_path / "whole.pth")
    assert load_linear_head(tmp_path / "whole.pth").dim == 8


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("1/0",))


def test_files_that_hold_no_head_or_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"weight": torch.ones(3)}}, path)
    with pytest.raises(ValueError, match=r"is no linear head: it holds no decode_head\.conv_seg"):
        load_linear_head(path)
    content = released(8, 3)
    content["state_dict"]["decode_head.bn.running_mean"] = torch.zeros(9)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"do not fit: bn\.running_mean is 9 and not 8"):
        load_linear_head(path)
    torch.save({"state_dict": {}, "meta": Evil()}, path)
    with pytest.raises(ValueError, match="refused, and nothing from it was executed"):
        load_linear_head(path)
    with pytest.raises(ValueError, match="there is no file"):
        load_linear_head(tmp_path / "absent.pth")


def stripes_task(**protocol: Any) -> TaskSpec:
    quick = SegmentationProtocol(steps=60, batch_size=4, lr=3e-2)
    return TaskSpec(
        kind="segmentation",
        train=Stripes("train", 12, 0),
        test=Stripes("test", 6, 1),
        size_px=32,
        segmentation=replace(quick, **protocol),
    )


def test_a_head_that_was_trained_and_written_scores_the_same_when_it_is_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "stripes.pth"

    def keep(task: TaskSpec, model: str, head: LinearHead) -> None:
        assert (task.name, model) == ("test mIoU", "eyes")
        save_linear_head(head, path)

    trained = evaluate([EYES], [stripes_task()], on_head=keep)
    wide = replace(EYES, name="wide", fn=lambda x: colours(4)(torch.cat([x, x[:, :1]], dim=1)))
    read = evaluate([EYES, wide], [stripes_task(head=str(path))])
    expected, found = (r.scores["test mIoU"]["eyes"] for r in (trained, read))
    assert {**found.details, "lr": 3e-2, "val_miou": None} == expected.details
    assert read.missing["test mIoU"] == {"wide": "its patches are 4 wide, the head takes 3"}


def test_a_released_head_is_measured_on_the_folder_of_ade20k(tmp_path: Path) -> None:
    root = tmp_path / "ADEChallengeData2016"
    for split in ("training", "validation"):
        stripes = Stripes(split, 2, 0)
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(2):
            sample = stripes.read(i)
            image, fields = sample.image, sample.fields
            image.save(root / "images" / split / f"{i}.jpg")
            classes = (fields["mask"] + 1) * (fields["mask"] != IGNORE)  # 0 is ignored, as there
            Image.fromarray(classes.astype("uint8")).save(root / "annotations" / split / f"{i}.png")
    torch.save(released(3, 150), tmp_path / "head.pth")
    protocol = SegmentationProtocol(head=str(tmp_path / "head.pth"))
    tasks = measure.parse_tasks(
        [f"segmentation={root}"], size_px=32, trials=1, segmentation=protocol
    )
    score = evaluate([EYES], tasks).scores["ADEChallengeData2016 mIoU"]["eyes"]
    assert (score.details["classes"], score.details["pixels"]) == (3, 2 * (48 * 32 - 16))


def test_a_head_that_fits_no_model_or_other_classes_is_refused_in_one_sentence(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "head.pth")
    torch.save(released(8, 3), path)
    with pytest.raises(ValueError, match=r"fits no model: eyes: its patches are 3 wide, the head"):
        evaluate([EYES], [stripes_task(head=path)])
    torch.save(released(3, 150), path)
    with pytest.raises(ValueError, match=r"has 150 classes, but 'train' has 3"):
        evaluate([EYES], [stripes_task(head=path)])


def tiny(**options: Any) -> EncoderSpec:
    return EncoderSpec(
        model="vit", dim=16, depth=3, num_heads=2, image_size=16, patch_size=8, **options
    )


@torch.no_grad()
def test_the_last_layers_stand_side_by_side_each_after_the_norm() -> None:
    encoder = build_encoder(tiny(registers=2)).eval()
    torch.nn.init.normal_(encoder.norm.weight)  # type: ignore[arg-type, union-attr]
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    joined = last_layers(encoder, images, 2)
    output = encoder(images, blocks=[1])
    assert joined.grid == (2, 3)
    torch.testing.assert_close(joined.of("patch")[..., 16:], output.final.of("patch"))
    norm: Any = encoder.norm
    torch.testing.assert_close(joined.of("patch")[..., :16], norm(output.blocks[1].of("patch")))
    with pytest.raises(ValueError, match="has no 4 last blocks"):
        last_layers(encoder, images, 4)


def test_a_wide_head_takes_as_many_layers_as_make_up_its_width(tmp_path: Path) -> None:
    path = str(tmp_path / "head.pth")
    torch.save(released(3 * 16, 3), path)
    encoder = build_encoder(tiny()).eval()
    row = measure.encoder_model("tiny", encoder, CPU)
    results = evaluate([row, EYES], [stripes_task(head=path)])
    assert results.scores["test mIoU"]["tiny"].details["dim"] == 48
    assert results.missing["test mIoU"] == {"eyes": "its patches are 3 wide, the head takes 48"}


@torch.no_grad()
def test_layers_of_timm_teachers_are_those_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    from alumnus.teachers.timm_teacher import TimmNetwork

    model: Any = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    network = TimmNetwork(model)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    joined = network.last_layers(images, 2)
    width = network.dim
    assert joined.of("patch").shape == (1, 4 * 6, 2 * width)
    torch.testing.assert_close(joined.of("patch")[..., width:], network(images).of("patch"))
    cnn: Any = timm.create_model("test_efficientnet", num_classes=0)
    with pytest.raises(ValueError, match="has no 2 last blocks"):
        TimmNetwork(cnn).last_layers(images, 2)


def test_layers_are_those_of_the_image_that_the_teacher_sees(tmp_path: Path) -> None:
    from alumnus.runs import save_encoder

    encoder = build_encoder(tiny()).eval()
    save_encoder(tmp_path, encoder, tiny())
    teacher = load_teacher(str(tmp_path))
    images: Tensor = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(
        teacher.last_layers(images, 2).of("patch"), last_layers(encoder, images, 2).of("patch")
    )
