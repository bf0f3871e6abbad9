"""Projectors and students: shapes, token types, which blocks are read, refusals."""

import json
from typing import Any

import pytest
import torch

from alumnus.encoders import EncoderSpec
from alumnus.losses import side_of
from alumnus.projectors import Ladder, ProjectorSpec, build_projector
from alumnus.student import StudentSpec, build_student
from alumnus.tokens import EncoderOutput, Tokens, TokenType

ENCODER = EncoderSpec(model="vit", dim=24, depth=3, num_heads=2, image_size=32, patch_size=8)
KINDS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_dim": 11},
    "ladder": {"hidden_dim": 7, "last_hidden_dim": 11},
    "transformer": {"num_blocks": 2},
    "linear": {},
}


def spec(kind: Any, *, dim: int = 5, **changes: Any) -> ProjectorSpec:
    return ProjectorSpec(kind=kind, dim=dim, **{"options": KINDS[kind], **changes})


@pytest.mark.parametrize("types", [("cls",), ("patch",), ("cls", "patch")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoder", [ENCODER, EncoderSpec(model="timm:convnext_atto")])
def test_every_kind_gives_the_teachers_width_and_types(
    kind: str, types: tuple[TokenType, ...], encoder: EncoderSpec
) -> None:
    student = build_student(
        StudentSpec(encoder=encoder, projectors={"alpha": spec(kind, token_types=types)})
    )
    tokens = student(torch.randn(2, 3, 64, 96))["alpha"]
    assert tokens.types == types
    if "patch" in types:
        h, w = 64 // student.encoder.patch_size, 96 // student.encoder.patch_size
        assert tokens.grid == (h, w)
        assert tokens.of("patch").shape == (2, h * w, 5)
    if "cls" in types:
        assert tokens.of("cls").shape == (2, 5)


def test_student_reads_only_the_blocks_its_projectors_need() -> None:
    projectors = {
        "a": spec("ladder", options={"blocks": [0, 2]}),
        "b": spec("mlp"),
        "c": spec("transformer"),
    }
    assert build_student(StudentSpec(encoder=ENCODER, projectors=projectors)).blocks == [0, 2]
    assert (
        build_student(StudentSpec(encoder=ENCODER, projectors={"c": spec("transformer")})).blocks
        == []
    )


def test_a_ladder_is_the_sum_of_its_rungs() -> None:
    ladder = Ladder([6, 6], 4, hidden_dim=5, last_hidden_dim=7)
    rungs = {i: Tokens(torch.randn(2, 9, 6), (3, 3), torch.randn(2, 6)) for i in range(2)}
    output = EncoderOutput(final=rungs[1], prenorm=rungs[1], blocks=rungs)
    expected = sum(ladder.get_submodule(f"heads.patch.{i}")(rungs[i].of("patch")) for i in range(2))
    torch.testing.assert_close(ladder(output).of("patch"), expected)
    for parameter in ladder.parameters():
        assert parameter.ndim == 2 or not parameter.any()  # zero biases


def test_a_ladder_brings_finer_stages_to_the_last_grid() -> None:
    ladder = Ladder([3, 6], 4, hidden_dim=5, last_hidden_dim=7)
    fine = Tokens(torch.randn(1, 16, 3), (4, 4), torch.randn(1, 3))
    last = Tokens(torch.randn(1, 4, 6), (2, 2), torch.randn(1, 6))
    out = ladder(EncoderOutput(final=last, prenorm=last, blocks={0: fine, 1: last}))
    assert out.grid == (2, 2)
    pooled = fine.as_map().unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean(dim=(3, 5))
    coarse = pooled.flatten(2).transpose(1, 2)
    heads = ladder.get_submodule("heads.patch")
    expected = heads.get_submodule("0")(coarse) + heads.get_submodule("1")(last.of("patch"))
    torch.testing.assert_close(out.of("patch"), expected)


def test_the_mlp_is_the_last_rung_of_a_ladder() -> None:
    shape: dict[str, Any] = {"block_dims": (6, 6, 6), "width": 6, "num_heads": 1}
    mlp = build_projector(spec("mlp"), **shape)
    ladder = build_projector(spec("ladder"), **shape)
    assert mlp.blocks == (2,)
    last = {k for k in ladder.state_dict() if ".2." in k and k.split(".")[2] == "2"}
    assert set(mlp.state_dict()) == last


def test_the_transformer_reads_before_the_norm_unless_told() -> None:
    prenorm = Tokens(torch.randn(1, 4, 6), (2, 2), torch.randn(1, 6))
    final = Tokens(torch.randn(1, 4, 6), (2, 2), torch.randn(1, 6))
    results = []
    for apply_last_norm, changed in ((False, "final"), (True, "prenorm")):
        options = {"num_heads": 2, "apply_last_norm": apply_last_norm}
        projector = build_projector(
            spec("transformer", options=options), block_dims=(6,), width=6, num_heads=1
        )
        output = EncoderOutput(final=final, prenorm=prenorm, blocks={})
        zeros = Tokens(torch.zeros(1, 4, 6), (2, 2))
        other = (
            output._replace(final=zeros) if changed == "final" else output._replace(prenorm=zeros)
        )
        results.append(torch.equal(projector(output).of("patch"), projector(other).of("patch")))
    assert results == [True, True]


def test_a_learned_scale_starts_at_one() -> None:
    options = {"scale": "learned"}
    projector = build_projector(
        spec("transformer", options=options), block_dims=(6,), width=6, num_heads=2
    )
    assert dict(projector.named_parameters())["scale"].tolist() == [1.0]


def test_cls_takes_part_in_attention_where_only_patches_are_wanted() -> None:
    projector = build_projector(
        spec("transformer", token_types=("patch",), options={"layer_scale": None}),
        block_dims=(6,),
        width=6,
        num_heads=2,
    )
    patches = torch.randn(1, 4, 6)
    outputs = []
    for cls in (torch.zeros(1, 6), torch.ones(1, 6) * torch.arange(6)):
        tokens = Tokens(patches, (2, 2), cls)
        outputs.append(projector(EncoderOutput(tokens, tokens, {})).of("patch"))
    assert not torch.allclose(outputs[0], outputs[1])


def test_student_spec_survives_json() -> None:
    projectors = {kind: spec(kind) for kind in KINDS}
    sides = {"mlp": spec("linear")}
    original = StudentSpec(encoder=ENCODER, projectors=projectors, sides=sides)
    assert StudentSpec.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_a_student_saved_before_there_were_side_heads_still_loads() -> None:
    values = StudentSpec(encoder=ENCODER, projectors={"a": spec("mlp")}).to_dict()
    del values["sides"]
    assert StudentSpec.from_dict(values).sides == {}


def test_the_linear_projector_reads_what_users_of_the_bare_encoder_see() -> None:
    final = Tokens(torch.randn(2, 4, 6), (2, 2), torch.randn(2, 6))
    prenorm = Tokens(torch.randn(2, 4, 6), (2, 2), torch.randn(2, 6))
    linear = build_projector(spec("linear"), block_dims=(6,), width=6, num_heads=1)
    made = linear(EncoderOutput(final=final, prenorm=prenorm, blocks={}))
    for kind in ("cls", "patch"):
        head = linear.get_submodule(f"heads.{kind}")
        torch.testing.assert_close(made.of(kind), head(final.of(kind)))


def test_a_side_head_is_a_second_prediction_of_its_teacher() -> None:
    projectors = {"a": spec("transformer"), "b": spec("ladder")}
    student = build_student(
        StudentSpec(encoder=ENCODER, projectors=projectors, sides={"a": spec("linear")})
    )
    predictions = student(torch.randn(2, 3, 32, 32))
    assert list(predictions) == ["a", "b", side_of("a")]
    assert student.blocks == [0, 1, 2]
    final = student.encoder(torch.randn(2, 3, 32, 32)).final
    assert predictions[side_of("a")].of("patch").shape[:2] == final.of("patch").shape[:2]
    assert len(student.units) == 3 + 3  # blocks, then every head by itself


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (ProjectorSpec(kind="lader", dim=5), "did you mean 'ladder'"),  # type: ignore[arg-type]
        (spec("mlp", options={"hiden_dim": 3}), "did you mean 'hidden_dim'"),
        (spec("ladder", options={"blocks": [0, 9]}), "does not fit an encoder whose blocks"),
        (spec("ladder", options={"blocks": []}), "does not fit an encoder whose blocks"),
        (spec("transformer", options={"num_heads": 5}), "cannot have 5 heads"),
        (spec("mlp", token_types=()), "cls, patch or both"),
    ],
)
def test_a_wrong_projector_is_one_sentence(wrong: ProjectorSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_student(StudentSpec(encoder=ENCODER, projectors={"alpha": wrong}))
