"""Files of tensors may be read by whoever may read other new files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from alumnus import api
from alumnus.encoders import EncoderSpec
from alumnus.runs import save_encoder, save_student
from alumnus.standardize import Standardizers
from alumnus.student import StudentSpec, build_student
from alumnus.tensor_files import write_tensors
from image_files import write_folder


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def permissions(request: pytest.FixtureRequest) -> Iterator[int]:
    """Those of new files, under several umasks."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def of_files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}


def test_tensors_come_back_and_permissions_follow_the_umask(
    tmp_path: Path, permissions: int
) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4)}
    path = tmp_path / "x.safetensors"
    write_tensors(tensors, path, metadata={"note": "tiny"})
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"note": "tiny"}
    assert of_files(tmp_path) == {"x.safetensors": permissions}


def test_saved_models_may_be_read_like_other_files(tmp_path: Path, permissions: int) -> None:
    spec = EncoderSpec(model="vit", dim=16, depth=1, num_heads=2, image_size=16, patch_size=8)
    described = StudentSpec(encoder=spec, projectors={})
    student = build_student(described)
    save_student(tmp_path, student, described, Standardizers("none", {}))
    save_encoder(tmp_path, student.encoder, spec)
    written = ("encoder.json", "encoder.safetensors", "student.json", "student.safetensors")
    assert of_files(tmp_path) == dict.fromkeys(written, permissions)


def test_extracted_features_may_be_read_like_other_files(tmp_path: Path, permissions: int) -> None:
    photos = write_folder(tmp_path / "photos", ["a.jpg", "b.jpg"])
    api.extract("python:toys:red", str(photos), tmp_path / "x.safetensors", size=16)
    assert of_files(tmp_path) == {"x.safetensors": permissions}
