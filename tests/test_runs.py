"""Saved encoders and students: what is loaded is what was saved, damage is noticed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.projectors import ProjectorSpec
from alumnus.runs import (
    is_encoder,
    keeps_projectors,
    load,
    load_encoder,
    load_encoder_spec,
    load_student,
    save_encoder,
    save_student,
)
from alumnus.standardize import Standardizers
from alumnus.student import StudentSpec, build_student
from golden_files import golden, golden_json, golden_path

SPEC = EncoderSpec(
    model="vit", dim=24, depth=2, num_heads=2, image_size=32, patch_size=8, registers=2
)
STUDENT = StudentSpec(
    encoder=SPEC,
    projectors={
        "beta": ProjectorSpec(kind="ladder", dim=5, options={"hidden_dim": 4}),
        "alpha": ProjectorSpec(kind="transformer", dim=7, token_types=("patch",)),
    },
)
SPECS = {
    "vit": SPEC,
    "swiglu": EncoderSpec(model="vit_micro", patch_size=8, image_size=32, ffn="swiglu"),
    "conv stem": EncoderSpec(model="vit_micro", patch_size=8, image_size=32, stem="conv"),
    "cnn": EncoderSpec(model="timm:resnet18", image_size=64, in_channels=1),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_a_saved_encoder_loads_with_equal_outputs(spec: EncoderSpec, tmp_path: Path) -> None:
    encoder = build_encoder(spec).eval()
    save_encoder(tmp_path, encoder, spec, {"recipe": "tiny"})
    images = torch.randn(2, spec.in_channels, spec.image_size, spec.image_size)
    with torch.no_grad():
        expected = encoder(images).final.of("patch")
        for path in (tmp_path, tmp_path / "encoder.safetensors", str(tmp_path)):
            loaded = load(path)
            assert torch.equal(loaded(images).final.of("patch"), expected)
            assert not loaded.training
    assert load_encoder_spec(tmp_path) == spec
    assert json.loads((tmp_path / "encoder.json").read_text())["info"] == {"recipe": "tiny"}


def test_a_saved_student_loads_with_projectors_and_statistics(tmp_path: Path) -> None:
    student = build_student(STUDENT).eval()
    statistics: Any = {"beta": {"cls": (torch.randn(5), torch.rand(5))}}
    statistics["alpha"] = {"patch": (torch.randn(7), torch.rand(7))}
    standardizers = Standardizers.with_statistics(
        "batch", {name: statistics[name] for name in STUDENT.projectors}
    )
    save_student(tmp_path, student, STUDENT, standardizers, {"note": "tiny"})
    loaded = load(tmp_path, projectors=True)
    assert loaded.spec == STUDENT
    assert loaded.info == {"note": "tiny"}
    assert loaded.standardizers.kind == "batch"
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        for (name, ours), (other, theirs) in zip(
            loaded.student(images).items(), student(images).items(), strict=True
        ):
            assert name == other
            assert ours.types == theirs.types
            assert torch.equal(ours.of("patch"), theirs.of("patch"))
    for teacher, types in statistics.items():
        for token_type, pair in types.items():
            held = loaded.standardizers.statistics(teacher, token_type)
            assert all(torch.equal(a, b) for a, b in zip(held, pair, strict=True))


@pytest.mark.golden
@pytest.mark.parametrize("system", ["unic", "dune"])
def test_released_checkpoints_load_in_one_line(system: str) -> None:
    path = golden_path(f"{system}_checkpoint.pth")
    heads = golden_json(f"{system}_checkpoint")["encoder"]["num_heads"]
    image = golden(f"{system}_checkpoint_io")["image"]
    encoder, whole = load(path, num_heads=heads), load(path, projectors=True, num_heads=heads)
    with torch.no_grad():
        ours = encoder(image).final.of("patch")
        assert torch.equal(ours, whole.student.encoder(image).final.of("patch"))
    assert list(whole.standardizers.all_statistics()) == list(whole.spec.projectors)
    assert list(whole.predict(image)) == list(whole.spec.projectors)


def test_projectors_that_were_not_kept_are_asked_for_in_one_sentence(tmp_path: Path) -> None:
    save_encoder(tmp_path, build_encoder(SPEC), SPEC)
    with pytest.raises(ValueError, match="keeps no projectors"):
        load(tmp_path, projectors=True)


def test_what_can_be_loaded_is_told_without_loading_it(tmp_path: Path) -> None:
    run, bare = tmp_path / "run", tmp_path / "bare"
    save_student(run, build_student(STUDENT), STUDENT, Standardizers("none", {}))
    save_encoder(run, build_encoder(SPEC), SPEC)
    save_encoder(bare, build_encoder(SPEC), SPEC)
    (tmp_path / "released.pth").touch()
    for path, encoder, projectors in (
        (run, True, True),
        (bare, True, False),
        (bare / "encoder.safetensors", True, False),
        (tmp_path / "released.pth", True, True),
        (tmp_path, False, False),
        (bare / "encoder.json", False, False),
        ("timm:resnet18", False, False),
    ):
        assert is_encoder(path) == encoder, path
        assert keeps_projectors(path) == projectors, path


def test_damaged_weights_are_noticed(tmp_path: Path) -> None:
    save_encoder(tmp_path, build_encoder(SPEC), SPEC)
    weights = tmp_path / "encoder.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="damaged: its tensors are not those that were saved"):
        load(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path, build_encoder(SPEC), SPEC)
    weights = tmp_path / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes().replace(rb"\"registers\": 2", rb"\"registers\": 3"))
    with pytest.raises(ValueError, match=r"do not fit: reg_token is 1x2x\d+ and not 1x3x"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, None, "there is nothing at"),
        (".", None, "no finished run and no exported encoder"),
        ("notes.txt", "hello", "no run folder, no .safetensors file of alumnus and no released"),
        ("encoder.json", "{}", "holds no encoder.safetensors"),
        ("encoder.safetensors", "{}", "is damaged or no safetensors file"),
        ("model.pth", "nothing", "damaged or no torch checkpoint"),
    ],
)
def test_anything_else_is_one_sentence(
    name: str | None, content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / (name or "missing")
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_pickled_file_under_our_name_is_never_opened(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load(tmp_path)


def test_safetensors_of_others_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not hold an alumnus encoder"):
        load(tmp_path / "model.safetensors")


def test_the_weights_alone_are_enough(tmp_path: Path) -> None:
    save_encoder(tmp_path, build_encoder(SPEC), SPEC)
    (tmp_path / "encoder.json").unlink()
    (tmp_path / "encoder.safetensors").rename(tmp_path / "mine.safetensors")
    assert load(tmp_path / "mine.safetensors").dim == 24


SAVER = """
import sys
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.runs import save_encoder
spec = EncoderSpec(model="vit_micro", patch_size=8, image_size=32)
while True:
    encoder = build_encoder(spec)
    save_encoder(sys.argv[1], encoder, spec)
    print("saved", flush=True)
"""


def test_a_save_killed_at_any_moment_leaves_a_loadable_folder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "saved\n":
                break
        os.kill(process.pid, signal.SIGKILL)  # the next save is under way
    assert load_encoder(tmp_path).dim == 128


def test_nothing_is_downloaded_to_load_a_run(tmp_path: Path) -> None:
    spec = EncoderSpec(model="timm:resnet18", image_size=64)
    encoder = build_encoder(spec)
    save_encoder(tmp_path, encoder, replace(spec, pretrained=True))
    assert load_encoder(tmp_path).dim == 512
    student = StudentSpec(encoder=replace(spec, pretrained=True))
    save_student(
        tmp_path, build_student(StudentSpec(encoder=spec)), student, Standardizers("none", {})
    )
    assert load_student(tmp_path).spec.encoder.pretrained
