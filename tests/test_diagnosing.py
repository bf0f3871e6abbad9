"""A diagnosis says how alike student and teachers are, and which blocks its ladders read."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alumnus import api
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.evaluation.rungs import RungShares, rung_shares
from alumnus.projectors import Ladder, ProjectorSpec
from alumnus.runs import save_encoder, save_student
from alumnus.standardize import Standardizers
from alumnus.student import StudentSpec, build_student
from image_files import write_folder


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shares_of(*rungs: Tensor) -> list[tuple[float, float]]:
    held = RungShares()
    held.add(dict(enumerate(rungs)))
    return [(rung.share, rung.size) for rung in held.result().values()]


def test_shares_add_up_to_one_whatever_the_rungs() -> None:
    rungs = [normal(50, 7, seed=i) * (i + 1) + 3 * i for i in range(4)]
    assert sum(share for share, _ in shares_of(*rungs)) == pytest.approx(1)


def test_independent_rungs_share_by_their_variance() -> None:
    (small, small_size), (large, large_size) = shares_of(
        normal(20_000, 4), 3 * normal(20_000, 4, seed=1)
    )
    assert small == pytest.approx(0.1, abs=0.01)
    assert large == pytest.approx(0.9, abs=0.01)
    assert small_size**2 == pytest.approx(small, abs=0.02)
    assert large_size**2 == pytest.approx(large, abs=0.02)


def test_a_rung_that_is_undone_by_another_is_large_and_says_nothing() -> None:
    said, noise = normal(1000, 3), 5 * normal(1000, 3, seed=1)
    (first, _), (second, size), (third, other) = shares_of(said, noise, -noise)
    assert first == pytest.approx(1, abs=0.2)
    assert second + third == pytest.approx(0, abs=0.2)
    assert size > 4
    assert other > 4


def test_the_mean_of_a_rung_counts_in_nothing() -> None:
    rungs = [normal(30, 5), normal(30, 5, seed=1)]
    moved = [rungs[0] + 100.0, rungs[1]]
    for plain, shifted in zip(shares_of(*rungs), shares_of(*moved), strict=True):
        assert plain == pytest.approx(shifted)
    assert list(shares_of(rungs[0], torch.full((30, 5), 7.0))[1]) == pytest.approx([0, 0], abs=1e-7)


def test_batches_and_patches_are_rows_like_others() -> None:
    first, second = normal(6, 4, 3), normal(6, 4, 3, seed=1)
    whole = shares_of(first.flatten(0, 1), second.flatten(0, 1))
    parts = RungShares()
    for rows in (slice(0, 2), slice(2, 6)):
        parts.add({0: first[rows], 1: second[rows]})
    for (share, size), rung in zip(whole, parts.result().values(), strict=True):
        assert [rung.share, rung.size] == pytest.approx([share, size])


def test_a_constant_prediction_has_no_shares() -> None:
    with pytest.raises(ValueError, match="same for all samples"):
        rung_shares(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="need images"):
        RungShares().result()


SPEC = EncoderSpec(model="vit", dim=16, depth=3, num_heads=2, image_size=16, patch_size=8)


def test_rungs_of_a_ladder_sum_to_its_prediction() -> None:
    encoder = build_encoder(SPEC).eval()
    ladder = Ladder(encoder.block_dims, 6, hidden_dim=8, last_hidden_dim=8)
    output = encoder(normal(2, 3, 16, 16), blocks=ladder.blocks)
    predicted, rungs = ladder(output), ladder.rungs(output)
    for token_type in ("cls", "patch"):
        assert list(rungs[token_type]) == [0, 1, 2]
        total = torch.stack([*rungs[token_type].values()]).sum(dim=0)
        torch.testing.assert_close(total, predicted.of(token_type))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run(folder: Path, kind: str) -> Path:
    """A run whose red projector is of a kind; blue's teacher cannot be had."""
    options = {"hidden_dim": 8, "last_hidden_dim": 8} if kind == "ladder" else {}
    torch.manual_seed(0)
    described = StudentSpec(
        encoder=SPEC,
        projectors={"red": ProjectorSpec(kind=kind, dim=6, options=options)},  # type: ignore[arg-type]
    )
    student = build_student(described)
    save_student(folder, student, described, Standardizers("none", {}))
    save_encoder(folder, student.encoder, SPEC)
    (folder / "config.yaml").write_text(
        "optim: {steps: 1}\nteachers: {red: {model: 'python:toys:red'}}\n"
    )
    return folder


def test_a_run_is_diagnosed_with_its_teachers(place: Path) -> None:
    write_run(place / "run", "ladder")
    write_folder(place / "photos", [f"{i}.png" for i in range(40)])
    found = api.diagnose("run", "photos")
    assert found.kinds == {
        "red": "teacher", "run": "student", "run as red": "projected", "untrained vit": "baseline",
    }  # fmt: skip
    for level in ("image", "patch"):
        matrix = found.cka[level]
        assert matrix["red"]["red"] == 1.0
        assert matrix["run"]["red"] == matrix["red"]["run"] < 1
    assert list(found.rungs) == ["red cls", "red patch"]
    for shares in found.rungs.values():
        assert list(shares) == [0, 1, 2]
        assert sum(rung.share for rung in shares.values()) == pytest.approx(1)
    assert "CKA of patch features" in str(found)
    found.save(place / "out" / "found.json")
    assert json.loads((place / "out" / "found.json").read_text())["images"] == 40
    found.draw(place / "out" / "found.png")
    assert (place / "out" / "found.png").stat().st_size > 10_000


def test_projectors_without_rungs_are_diagnosed_by_cka_alone(place: Path) -> None:
    write_run(place / "run", "transformer")
    write_folder(place / "photos", [f"{i}.png" for i in range(40)])
    found = api.diagnose("run", "photos[:36]")
    assert (found.rungs, found.images) == ({}, 36)
    assert "no ladders" in str(found)
    found.draw(place / "found.png")


def test_what_cannot_be_diagnosed_is_said(place: Path) -> None:
    write_folder(place / "photos", [f"{i}.png" for i in range(8)])
    with pytest.raises(ValueError, match="no run with projectors"):
        api.diagnose("photos", "photos")
    write_run(place / "run", "ladder")
    with pytest.raises(ValueError, match="8 images of 'photos' are too few"):
        api.diagnose("run", "photos")
