"""Released UNIC and DUNE checkpoints: equal in numbers, safe to open, and back again."""

import argparse
import ast
import json
import os
import pickle
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alumnus.encoders import EncoderSpec
from alumnus.projectors import ProjectorSpec
from alumnus.released import (
    ReleasedCheckpoint,
    load_released,
    name_from_reference,
    read_reference_state,
    student_from_reference_state,
    student_to_reference,
)
from alumnus.student import Student, StudentSpec, build_student
from alumnus.tokens import TOKEN_TYPES, EncoderOutput, Tokens
from golden_files import golden, golden_json, golden_path, sub

OUTPUTS = 2e-5  # of encoders and projectors; the suggested tolerance, measured 4e-6


def close(ours: Tensor | None, theirs: Tensor) -> None:
    assert ours is not None
    torch.testing.assert_close(ours, theirs, rtol=0, atol=OUTPUTS)


def sequence(tokens: Tokens, *, registers: bool = True) -> Tensor:  # [B, 1 + R + N, D]
    parts = [tokens.of("cls").unsqueeze(1), tokens.of("patch")]
    if registers and tokens.registers is not None:
        parts.insert(1, tokens.registers)
    return torch.cat(parts, dim=1)


def with_all_types(student: StudentSpec) -> StudentSpec:
    """The fixtures hold [CLS] outputs of teachers that have none, too."""
    projectors = {k: replace(v, token_types=TOKEN_TYPES) for k, v in student.projectors.items()}
    return replace(student, projectors=projectors)


def loaded(released: ReleasedCheckpoint) -> Student:
    student = build_student(with_all_types(released.student_spec))
    student.load_state_dict(released.state_dict)
    return student.eval()


def golden_state(name: str) -> dict[str, Tensor]:
    """The state of a model in its own order; safetensors sorts the names."""
    tensors = golden(name)
    return {key: tensors[f"state/{key}"] for key in golden_json(name)["state_keys"]}


def golden_unic() -> Student:
    heads = golden_json("unic_model")["encoder"]["num_heads"]
    return student_from_reference_state(golden_state("unic_model"), num_heads=heads).eval()


def golden_dune() -> Student:
    settings = golden_json("dune_model")
    return loaded(
        read_reference_state(
            golden_state("dune_model"),
            num_heads=settings["encoder"]["num_heads"],
            projector_heads=settings["projector"]["num_heads"],
            projector_scale=settings["projector"]["scale"],
            apply_last_norm=settings["apply_last_enc_norm"],
        )
    )


def assert_intermediates(student: Student, data: dict[str, Tensor]) -> None:
    """Last two blocks after the final norm, first and last block raw."""
    depth = student.encoder.depth
    output: EncoderOutput = student.encoder(data["image"], blocks=range(depth))
    normed = sub(data, "intermediate/last2_norm_")
    assert normed
    for name, expected in normed.items():
        kind, index = name.split("/")
        x = student.encoder.get_submodule("norm")(sequence(output.blocks[depth - 2 + int(index)]))
        prefix = x.shape[1] - output.final.of("patch").shape[1]
        close(x if kind == "alltokens" else x[:, prefix:], expected)
    raw = sub(data, "intermediate/first_and_last_raw_reshaped/")
    for place, block in enumerate((0, depth - 1)):
        close(output.blocks[block].cls, raw[f"{place}/cls"])
        close(output.blocks[block].as_map(), raw[f"{place}/patch_map"])


@pytest.mark.golden
def test_unic_student_equals_the_reference_at_every_resolution() -> None:
    student, tensors = golden_unic(), golden("unic_model")
    settings = golden_json("unic_model")
    assert settings["resolutions"]
    for name in settings["resolutions"]:
        data = sub(tensors, f"{name}/")
        with torch.no_grad():
            output: EncoderOutput = student.encoder(data["image"])
            predictions: dict[str, Tokens] = student(data["image"])
        close(output.final.cls, data["encoder/x_norm_clstoken"])
        close(output.final.patches, data["encoder/x_norm_patchtokens"])
        close(sequence(output.prenorm), data["encoder/x_prenorm"])
        positions: Any = student.encoder
        close(positions.position_embedding(output.final.grid), data["pos_embed_used"])
        assert list(predictions) == [teacher["name"] for teacher in settings["teachers"]]
        for teacher, tokens in predictions.items():
            for token_type in TOKEN_TYPES:
                close(tokens.of(token_type), data[f"out/{teacher}/{token_type}"])


@pytest.mark.golden
@pytest.mark.parametrize("system", ["unic", "dune"])
def test_intermediate_blocks_equal_the_reference(system: str) -> None:
    student = golden_unic() if system == "unic" else golden_dune()
    tensors = golden(f"{system}_model")
    cases = [n for n in golden_json(f"{system}_model")["resolutions"] if sub(tensors, f"{n}/inter")]
    assert cases
    for name in cases:
        with torch.no_grad():
            assert_intermediates(student, sub(tensors, f"{name}/"))


@pytest.mark.golden
def test_masked_patches_equal_the_reference() -> None:
    student, tensors = golden_unic(), golden("unic_model")
    cases = [name.removesuffix("/masks") for name in tensors if name.endswith("_masked/masks")]
    assert cases
    for case in cases:
        data = sub(tensors, f"{case}/")
        with torch.no_grad():
            image = tensors[f"{case.removesuffix('_masked')}/image"]
            output = student.encoder(image, masks=data["masks"])
        close(output.final.cls, data["x_norm_clstoken"])
        close(output.final.patches, data["x_norm_patchtokens"])


@pytest.mark.golden
def test_ladder_options_equal_the_reference() -> None:
    base, tensors = golden("unic_model"), golden("unic_lp_variants")
    settings = golden_json("unic_model")["encoder"]
    heads, side = settings["num_heads"], settings["image_size"]
    (image,) = (v for k, v in base.items() if k.endswith("/image") and v.shape[2:] == (side, side))
    encoder = {k: v for k, v in sub(base, "state/").items() if k.startswith("encoder.")}
    variants = golden_json("unic_lp_variants")["variants"]
    assert variants
    for index, variant in enumerate(variants):
        state = sub(tensors, f"variant{index}/state/")
        released = read_reference_state({**encoder, **state}, num_heads=heads)
        for projector in released.student_spec.projectors.values():
            assert projector.options["prenorm"] == variant["prenorm"]
            assert projector.options["midnorm"] == variant["midnorm"]
            every = list(range(settings["depth"]))
            assert projector.options.get("blocks", every) == variant["which_blocks"]
        with torch.no_grad():
            predictions = loaded(released)(image)
        assert predictions
        for teacher, tokens in predictions.items():
            for token_type in TOKEN_TYPES:
                expected = tensors[f"variant{index}/out/{teacher}/{token_type}"]
                close(tokens.of(token_type), expected)


@pytest.mark.golden
def test_dune_student_equals_the_reference_at_every_resolution() -> None:
    student, tensors = golden_dune(), golden("dune_model")
    settings = golden_json("dune_model")
    assert settings["resolutions"]
    for name in settings["resolutions"]:
        data = sub(tensors, f"{name}/")
        with torch.no_grad():
            output: EncoderOutput = student.encoder(data["image"])
            predictions: dict[str, Tokens] = student(data["image"])
        for tokens, normed in ((output.final, "true"), (output.prenorm, "false")):
            close(tokens.cls, data[f"encoder_apply_norm_{normed}/x_norm_clstoken"])
            if settings["encoder"]["num_register_tokens"]:
                close(tokens.registers, data[f"encoder_apply_norm_{normed}/x_norm_regtokens"])
            close(tokens.patches, data[f"encoder_apply_norm_{normed}/x_norm_patchtokens"])
        close(sequence(output.prenorm), data["encoder_x_prenorm"])
        close(sequence(output.prenorm, registers=False), data["encoder_output_concat"])
        positions: Any = student.encoder
        close(positions.position_embedding(output.final.grid), data["pos_embed_used"])
        assert list(predictions) == [teacher["name"] for teacher in settings["teachers"]]
        for teacher, predicted in predictions.items():
            close(predicted.cls, data[f"proj/{teacher}/cls"])
            close(predicted.patches, data[f"proj/{teacher}/patch"])
            close(predicted.as_map(), data[f"proj/{teacher}/patch_map"])


@pytest.mark.golden
def test_dune_token_types_and_statistics_come_from_the_state() -> None:
    settings, state = golden_json("dune_model"), golden_state("dune_model")
    released = read_reference_state(state, num_heads=settings["encoder"]["num_heads"])
    for teacher in settings["teachers"]:
        projector = released.student_spec.projectors[teacher["name"]]
        assert list(projector.token_types) == teacher["token_types"]
        assert projector.dim == teacher["num_features"]
        statistics = released.statistics[teacher["name"]]
        assert list(statistics) == teacher["token_types"]
        for token_type, (mean, std) in statistics.items():
            name = f"teacher_norms.{teacher['name']}.normalizers.{token_type}"
            assert torch.equal(mean, state[f"{name}.mean"])
            assert torch.equal(std, state[f"{name}.std"])


@pytest.mark.golden
def test_dune_variants_equal_the_reference() -> None:
    tensors, variants = golden("dune_variants"), golden_json("dune_variants")
    assert variants
    for name, settings in variants.items():
        released = read_reference_state(
            sub(tensors, f"{name}/state/"),
            num_heads=settings["encoder"]["num_heads"],
            projector_heads=settings["projector"]["num_heads"],
            projector_scale=settings["projector"]["scale"],
            apply_last_norm=settings["apply_last_enc_norm"],
        )
        student = loaded(released)
        images = [key for key in tensors if key.startswith(f"{name}/") and key.endswith("/image")]
        assert images
        for key in images:
            data = sub(tensors, key.removesuffix("image"))
            with torch.no_grad():
                output = student.encoder(data["image"])
                (tokens,) = student(data["image"]).values()
            read = output.final if settings["apply_last_enc_norm"] else output.prenorm
            close(sequence(read, registers=False), data["encoder_output_concat"])
            close(tokens.cls, data["proj/cls"])
            close(tokens.patches, data["proj/patch"])


def golden_checkpoint(system: str, suffix: str = "") -> ReleasedCheckpoint:
    heads = golden_json(f"{system}_checkpoint")["encoder"]["num_heads"]
    return load_released(golden_path(f"{system}_checkpoint{suffix}.pth"), num_heads=heads)


@pytest.mark.golden
@pytest.mark.parametrize(("system", "suffix"), [("unic", ""), ("dune", ""), ("dune", "_compiled")])
def test_released_file_loads_and_equals_the_reference(system: str, suffix: str) -> None:
    released = golden_checkpoint(system, suffix)
    assert released.info["system"] == system
    tensors, student = golden(f"{system}_checkpoint_io"), loaded(released)
    encoder = "encoder" if system == "unic" else "encoder_apply_norm_true"
    outputs = "out" if system == "unic" else "proj"
    images = [key for key in tensors if "/" not in key]
    assert images
    for name in images:
        data = sub(tensors, f"{name}/")
        with torch.no_grad():
            output: EncoderOutput = student.encoder(tensors[name])
            predictions = student(tensors[name])
        close(output.final.cls, data[f"{encoder}/x_norm_clstoken"])
        close(output.final.patches, data[f"{encoder}/x_norm_patchtokens"])
        if f"{encoder}/x_prenorm" in data:  # DUNE
            close(sequence(output.prenorm), data[f"{encoder}/x_prenorm"])
            close(output.final.registers, data[f"{encoder}/x_norm_regtokens"])
        assert list(predictions) == released.info["args"]["teachers"]
        for teacher, tokens in predictions.items():
            for token_type in TOKEN_TYPES:
                close(tokens.of(token_type), data[f"{outputs}/{teacher}/{token_type}"])


@pytest.mark.golden
def test_released_metadata_is_read() -> None:
    unic, dune = golden_checkpoint("unic"), golden_checkpoint("dune")
    settings = golden_json("unic_checkpoint")
    assert unic.info["progress"] == settings["epoch"]
    assert dune.info["progress"] == golden_json("dune_checkpoint")["iter"]
    assert unic.info["args"]["teachers"] == settings["args"]["teachers"]
    json.dumps([unic.info, dune.info])  # plain data only
    lp_args = ast.literal_eval(settings["args"]["lp_args"])
    for projector in unic.student_spec.projectors.values():
        assert projector.options["last_hidden_dim"] == lp_args["last_hidden_dim"]
    for teacher in settings["teachers"]:
        for mean, std in unic.statistics[teacher["name"]].values():
            assert mean.shape == std.shape == (teacher["num_features"],)


@pytest.mark.golden
@pytest.mark.parametrize("system", ["unic", "dune"])
def test_conversion_to_the_reference_and_back_loses_nothing(system: str) -> None:
    released = golden_checkpoint(system)
    back = student_to_reference(released.state_dict, released.statistics)
    original = torch.load(
        golden_path(f"{system}_checkpoint.pth"), map_location="cpu", weights_only=False
    )
    theirs = {k.removeprefix("module."): v for k, v in original["model"].items()}
    assert set(back["model"]) == set(theirs)
    assert all(torch.equal(back["model"][name], theirs[name]) for name in theirs)
    if system == "unic":
        for teacher, types in original["teacher_ft_stats"].items():
            for token_type, pair in types.items():
                ours = back["teacher_ft_stats"][teacher][token_type]
                assert all(torch.equal(ours[key], pair[key]) for key in ("mean", "std"))


@pytest.mark.golden
def test_parameters_come_in_the_reference_order() -> None:
    for system in ("unic", "dune"):
        student = golden_unic() if system == "unic" else golden_dune()
        theirs = [
            name_from_reference(name)
            for name in golden_json(f"{system}_model")["state_keys"]
            if not name.startswith("teacher_norms.")
        ]
        assert [name for name, _ in student.named_parameters()] == theirs


@pytest.mark.golden
def test_unknown_number_of_heads_is_asked_for() -> None:
    state = sub(golden("unic_model"), "state/")
    if state["encoder.cls_token"].shape[-1] % 64 == 0:
        pytest.skip("these fixtures have a width that 64-wide heads divide")
    with pytest.raises(ValueError, match="pass num_heads"):
        read_reference_state(state)


class Bomb:
    """Pickled, it creates a file as soon as anyone unpickles it naively."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("place", ["args", "model", "lp_args"])
def test_a_malicious_file_is_refused_and_executes_nothing(place: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "bad.pth"
    namespace = argparse.Namespace(lp_args=Bomb(target) if place == "lp_args" else "{}")
    checkpoint: dict[str, Any] = {"model": {"w": torch.zeros(1)}, "args": namespace}
    if place != "lp_args":
        checkpoint[place] = Bomb(target)
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"asks for \w+\.mkdir.*nothing from it was executed"):
        load_released(path)
    assert not target.exists()


def test_old_style_pickles_are_refused_too(tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps({"model": Bomb(target)}))
    with pytest.raises(ValueError, match=str(path)):
        load_released(path)
    assert not target.exists()


def test_option_strings_are_parsed_and_never_evaluated(tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "tiny.pth"
    code = f"__import__('os').mkdir({str(target)!r})"
    checkpoint = tiny_checkpoint()
    checkpoint["args"] = argparse.Namespace(lp_args=code, dune_args=code, proj_args=code)
    torch.save(checkpoint, path)
    assert load_released(path).info["args"]["lp_args"] == code
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 broken zip"])
def test_a_damaged_file_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged or no torch checkpoint"):
        load_released(path)


def test_a_file_of_something_else_is_one_sentence(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no 'model'"):
        load_released(tmp_path / "other.pth")
    torch.save({"model": {"fc.weight": torch.zeros(2, 2)}}, tmp_path / "linear.pth")
    with pytest.raises(ValueError, match="not the weights of a ViT"):
        load_released(tmp_path / "linear.pth")
    with pytest.raises(ValueError, match="there is no file"):
        load_released(tmp_path / "missing.pth")


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numpy_1_and_2_module_names_load(core: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    checkpoint["args"] = argparse.Namespace(
        lr_schedule=np.linspace(0, 1, 3), lr=np.float64(0.1), seed=np.int64(3)
    )
    torch.save(checkpoint, tmp_path / "today.pth")
    with (
        zipfile.ZipFile(tmp_path / "today.pth") as today,
        zipfile.ZipFile(tmp_path / "renamed.pth", "w") as renamed,
    ):
        for name in today.namelist():
            content = today.read(name)
            if name.endswith("data.pkl"):
                assert b"core.multiarray\n" in content
                content = re.sub(rb"numpy\._?core\.", f"numpy.{core}.".encode(), content)
            renamed.writestr(name, content)
    assert load_released(tmp_path / "renamed.pth").info["system"] == "unic"


def tiny_checkpoint() -> dict[str, Any]:
    """A made-up UNIC checkpoint of one block with 64-wide heads."""
    spec = StudentSpec(
        encoder=EncoderSpec(
            model="vit", dim=64, depth=1, num_heads=1, image_size=16, patch_size=8, mask_token=True
        ),
        projectors={"alpha": ProjectorSpec(kind="ladder", dim=5, options={"last_hidden_dim": 7})},
    )
    return student_to_reference(build_student(spec).state_dict(), {})


MANIFESTS = sorted((Path(__file__).parent / "golden" / "manifests").glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_released_checkpoint_would_load_strictly(path: Path, tmp_path: Path) -> None:
    """From the list of names and shapes: the files themselves weigh 0.1 to 3 GB."""
    manifest = json.loads(path.read_text())
    model = {
        name: torch.zeros(1, dtype=getattr(torch, dtype)).expand(shape)
        for name, (shape, dtype) in manifest["tensors"].items()
    }
    statistics = {
        teacher: {
            token_type: {key: torch.zeros(shape) for key, (shape, _) in pair.items()}
            for token_type, pair in types.items()
        }
        for teacher, types in manifest.get("teacher_ft_stats", {}).items()
    }
    file = tmp_path / "released.pth"
    torch.save({"model": model, "teacher_ft_stats": statistics or None}, file)
    released = load_released(file)
    with torch.device("meta"):
        student = build_student(released.student_spec)
    missing, unexpected = student.load_state_dict(released.state_dict, assign=True)
    assert not missing
    assert not unexpected
