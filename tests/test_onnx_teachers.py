"""ONNX networks as teachers: any tensor, either layout, any format of features."""

import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alumnus.finetuning.backbone import open_backbone
from alumnus.images import renormalise
from alumnus.teachers import UnavailableError, exported, load_teacher

onnx = pytest.importorskip("onnx", reason="needs alumnus[onnx]")
pytest.importorskip("onnxruntime", reason="needs alumnus[onnx]")

WEIGHTS = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def write(
    file: Path,
    *,
    shape: tuple[object, ...] = (1, 3, 16, 16),
    external: bool = False,
    dead_end: bool = False,
) -> Path:
    """image -> "map" [B, 5, h, w] -> "sequence" [B, N, 5] -> "vector" [B, 5] -> "out"."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    image, first = "image", []
    if shape[-1] == 3:
        first = [helper.make_node("Transpose", ["image"], ["nchw"], perm=[0, 3, 1, 2])]
        image = "nchw"
    nodes = [
        *first,
        helper.make_node("Conv", [image, "weights"], ["map"], strides=[4, 4]),
        helper.make_node("Transpose", ["map"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "shape"], ["patches"]),
        helper.make_node("ReduceMean", ["patches"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["mean", "patches"], ["sequence"], axis=1),
        helper.make_node("ReduceMean", ["sequence"], ["vector"], axes=[1], keepdims=0),
        helper.make_node("Neg", ["vector"], ["out"]),
    ]
    if dead_end:  # would fail if it were run
        nodes.append(helper.make_node("Reshape", ["map", "shape"], ["wrong"]))
        nodes.append(helper.make_node("Add", ["wrong", "vector"], ["bad"]))
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", floats, shape)],
        [helper.make_tensor_value_info("out", floats, None)],
        [
            numpy_helper.from_array(WEIGHTS.numpy(), "weights"),
            numpy_helper.from_array(np.array([0, -1, 5]), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, file, save_as_external_data=external, size_threshold=0)
    return file


def expected_map(images: torch.Tensor, teacher: Any) -> torch.Tensor:
    pixels = renormalise(images, mean=teacher.mean, std=teacher.std)
    return torch.nn.functional.conv2d(pixels, WEIGHTS, stride=4)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)  # another convolution


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), ("n", 3, 16, 16), (1, 16, 16, 3)])
@pytest.mark.parametrize("tensor", ["map", "last"])
def test_maps_are_read_in_either_layout(
    shape: tuple[object, ...], tensor: str, tmp_path: Path
) -> None:
    teacher = load_teacher(f"onnx:{write(tmp_path / 'tiny.onnx', shape=shape)}#{tensor}")
    assert (teacher.dim, teacher.patch_size, teacher.input_size) == (5, 4, 16)
    assert (teacher.runs_on, teacher.fixed_size, teacher.token_types) == ("host", True, ("patch",))
    images = torch.randn(5, 3, 16, 16)
    close(teacher(images).as_map(), expected_map(images, teacher))


def test_tokens_and_vectors_are_features_too(tmp_path: Path) -> None:
    file, images = write(tmp_path / "tiny.onnx"), torch.randn(2, 3, 16, 16)
    teacher = load_teacher(f"onnx:{file}#sequence")
    assert teacher.token_types == ("cls", "patch")
    tokens, expected = teacher(images), expected_map(images, teacher)
    close(tokens.as_map(), expected)
    close(tokens.of("cls"), expected.mean(dim=(2, 3)))
    vector = load_teacher(f"onnx:{file}#vector")
    assert vector.token_types == ("cls",)
    close(vector(images).of("cls"), expected.mean(dim=(2, 3)))


def test_a_network_of_any_size_sees_images_as_they_come(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.onnx", shape=("n", 3, "h", "w"))
    images = torch.randn(2, 3, 16, 24)
    for tensor in ("map", "sequence"):
        teacher = load_teacher(f"onnx:{file}#{tensor}")
        assert (teacher.input_size, teacher.fixed_size, teacher.patch_size) == (None, False, 4)
        close(teacher(images).as_map(), expected_map(images, teacher))


def test_weights_beside_the_file_are_found_and_unused_nodes_are_not_run(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.onnx", external=True, dead_end=True)
    assert len(list(tmp_path.iterdir())) == 2
    teacher = load_teacher(f"onnx:{file}#map")
    images = torch.randn(1, 3, 16, 16)
    close(teacher(images).as_map(), expected_map(images, teacher))


def test_an_onnx_teacher_travels_to_other_processes(tmp_path: Path) -> None:
    teacher = load_teacher(f"onnx:{write(tmp_path / 'tiny.onnx')}#map")
    copy = pickle.loads(pickle.dumps(teacher))
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(copy(images).of("patch"), teacher(images).of("patch"))
    assert copy.fingerprint() == teacher.fingerprint()


@pytest.mark.parametrize("external", [False, True], ids=["inside", "beside"])
def test_a_head_tells_a_networks_weights_apart_wherever_they_are(
    external: bool, tmp_path: Path
) -> None:
    def fingerprint(folder: Path) -> str:
        return open_backbone(f"onnx:{folder}/tiny.onnx#map", torch.device("cpu")).fingerprint()

    ours, copy = tmp_path / "ours", tmp_path / "copy"
    ours.mkdir()
    write(ours / "tiny.onnx", external=external)
    shutil.copytree(ours, copy)
    assert fingerprint(ours) == fingerprint(copy)
    for path in copy.iterdir():
        old, new = (weights.numpy().tobytes() for weights in (WEIGHTS, 2 * WEIGHTS))
        path.write_bytes(path.read_bytes().replace(old, new))
    assert fingerprint(ours) != fingerprint(copy)


@pytest.mark.parametrize(
    ("shape", "tensor", "sentence"),
    [
        ((1, 3, 16, 16), "mop", "did you mean 'map'"),
        ((1, 3, 16, 24), "map", "needs single squares in RGB"),
        ((4, 3, 16, 16), "map", "needs single squares in RGB"),
        ((1, 1, 16, 16), "map", "in RGB"),
    ],
)
def test_what_cannot_teach_is_one_sentence(
    shape: tuple[int, ...], tensor: str, sentence: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "tiny.onnx", shape=shape)
    with pytest.raises(ValueError, match=sentence) as refused:
        load_teacher(f"onnx:{file}#{tensor}")
    assert "\n" not in str(refused.value)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "tiny.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnavailableError, match=r"pip install 'alumnus\[onnx\]'"):
        load_teacher(f"onnx:{file}#map")


def test_the_grid_of_a_sequence_divides_the_image() -> None:
    assert exported._grid_side(196 + 1, 224, name="ViT-B/16") == 14
    assert exported._grid_side(256 + 1 + 4, 224, name="ViT-B/14 with registers") == 16
    assert exported._grid_side(49, 224, name="no class token") == 7
