"""Standardisation: equal to the published systems over steps and ranks, and its properties."""

import pytest
import torch
from torch import Tensor

from alumnus.standardize import (
    Kind,
    Standardizers,
    batch_moments,
    even_rotation,
    merge_moments,
)
from alumnus.tokens import Tokens, TokenType
from golden_files import golden, golden_json, sub

TYPES: tuple[TokenType, ...] = ("cls", "patch")


def tokens(x: Tensor, token_type: TokenType) -> Tokens:
    return Tokens(cls=x) if token_type == "cls" else Tokens(patches=x, grid=(1, x.shape[1]))


def assert_outputs(ours: Tensor, theirs: Tensor) -> None:
    """Equal; channels 0 and 1 are nearly and exactly constant and amplify rounding.

    A deviation of 1e-4 still shows a wrong eps (1 % or more); one of 0 shows rounding only.
    """
    torch.testing.assert_close(ours[..., 2:], theirs[..., 2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[..., 0], theirs[..., 0], rtol=1e-3, atol=1e-2)


def assert_statistics(
    standardizers: Standardizers, token_type: TokenType, mean: Tensor, std: Tensor
) -> None:
    ours = standardizers.statistics("t", token_type)
    torch.testing.assert_close(ours[0], mean.flatten(), rtol=1e-6, atol=1e-6)
    # of a constant channel only the eps of 1e-6 is left
    torch.testing.assert_close(ours[1], std.flatten(), rtol=1e-6, atol=1e-7)


@pytest.mark.golden
@pytest.mark.parametrize("token_type", TYPES)
def test_running_statistics_equal_unic(token_type: TokenType) -> None:
    tensors = sub(golden("teacher_norm"), f"unic/{token_type}/")
    settings = golden_json("teacher_norm")["unic"]
    assert settings["momentum"]
    standardizers = Standardizers("running", {"t": {token_type: settings["D"]}})
    for step, momentum in enumerate(settings["momentum"]):
        raw = {"t": tokens(tensors[f"step{step}/input"], token_type)}
        moments = standardizers.moments(raw)
        output = standardizers.apply(raw, moments)["t"].of(token_type)
        standardizers.update(moments, momentum=momentum)
        assert_outputs(output, tensors[f"step{step}/output"])
        after = (tensors[f"step{step}/mean_after"], tensors[f"step{step}/std_after"])
        assert_statistics(standardizers, token_type, *after)
    raw = {"t": tokens(tensors["eval/input"], token_type)}
    assert_outputs(standardizers.apply(raw)["t"].of(token_type), tensors["eval/output"])


@pytest.mark.golden
@pytest.mark.parametrize("token_type", TYPES)
def test_batch_moments_equal_unic_without_running_statistics(token_type: TokenType) -> None:
    tensors = sub(golden("teacher_norm"), f"unic/{token_type}/no_ema/")
    x = tensors["input"]
    moments = batch_moments(x)
    output = (x - moments.mean) / (moments.std + 1e-6)
    assert_outputs(output, tensors["output"])


@pytest.mark.golden
@pytest.mark.parametrize("token_type", TYPES)
def test_batch_statistics_equal_dune(token_type: TokenType) -> None:
    tensors = sub(golden("teacher_norm"), f"dune/{token_type}/")
    settings = golden_json("teacher_norm")["dune"]
    standardizers = Standardizers("batch", {"t": {token_type: settings["D"]}})
    assert settings["steps"]
    for step in settings["steps"]:
        prefix, momentum = f"step{step['step']}/", step["effective_momentum"]
        raw = {"t": tokens(tensors[prefix + "input"], token_type)}
        if step["module_mode"] == "train" and momentum > 0:
            moments = standardizers.moments(raw)
            output = standardizers.apply(raw, moments)
            standardizers.update(moments, momentum=momentum)
        else:
            output = standardizers.apply(raw)
        assert_outputs(output["t"].of(token_type), tensors[prefix + "output"])
        after = (tensors[prefix + "mean_after"], tensors[prefix + "std_after"])
        assert_statistics(standardizers, token_type, *after)


@pytest.mark.golden
@pytest.mark.parametrize(("system", "kind"), [("unic", "running"), ("dune", "batch")])
@pytest.mark.parametrize("token_type", TYPES)
def test_statistics_over_two_ranks_equal_the_published(
    system: str, kind: Kind, token_type: TokenType
) -> None:
    tensors = golden("teacher_norm")
    prefix = f"{system}_2ranks/{token_type}/"
    settings = golden_json("teacher_norm")["two_ranks"]
    assert settings["momentum"]
    count = settings["world_size"]
    dim = tensors[f"{prefix}step0/rank0/input"].shape[-1]
    ranks = [Standardizers(kind, {"t": {token_type: dim}}) for _ in range(count)]
    for step, momentum in enumerate(settings["momentum"]):
        inputs = [tensors[f"{prefix}step{step}/rank{r}/input"] for r in range(count)]
        raws = [{"t": tokens(x, token_type)} for x in inputs]
        wire = Wire()
        for rank, raw in zip(ranks, raws, strict=True):
            rank.moments(raw, wire.send)
        for r, (rank, raw) in enumerate(zip(ranks, raws, strict=True)):
            moments = rank.moments(raw, wire.receive)
            output = rank.apply(raw, moments)["t"].of(token_type)
            rank.update(moments, momentum=momentum)
            expected = tensors[f"{prefix}step{step}/rank{r}/output"]
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
            after = [tensors[f"{prefix}step{step}/{s}_after"] for s in ("mean", "std")]
            assert_statistics(rank, token_type, *after)


def test_the_statistics_of_all_teachers_travel_in_one_packet_of_fixed_length() -> None:
    standardizers = Standardizers("batch", {"a": {"cls": 4, "patch": 4}, "b": {"patch": 6}})
    lengths = []
    for images in (2, 8):
        wire = Wire()
        a = Tokens(torch.randn(images, 9, 4), (3, 3), torch.randn(images, 4))
        standardizers.moments({"a": a, "b": Tokens(torch.randn(images, 4, 6), (2, 2))}, wire.send)
        [packet] = wire.sent
        lengths.append(packet.numel())
    assert lengths == [2 * (1 + 4 + 4) + (1 + 6 + 6)] * 2  # count, means and squares of each


class Wire:
    """Stands in for an all-reduce: collects what every rank sends, then gives the sum."""

    def __init__(self) -> None:
        self.sent: list[Tensor] = []

    def send(self, vector: Tensor) -> Tensor:
        self.sent.append(vector)
        return vector

    def receive(self, _: Tensor) -> Tensor:
        return torch.stack(self.sent).sum(dim=0)


def features(kind: Kind, dim: int = 12) -> tuple[Standardizers, dict[str, Tokens]]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(dim, dim, generator=generator)
    x = 5 + torch.randn(64, 9, dim, generator=generator) @ mixing
    raw = {"t": Tokens(cls=x[:, 0] * 3, patches=x, grid=(3, 3))}
    return Standardizers(kind, {"t": {"cls": dim, "patch": dim}}), raw


@pytest.mark.parametrize("kind", ["running", "batch", "frozen", "phi-s", "none"])
def test_inverse_undoes_apply(kind: Kind) -> None:
    standardizers, raw = features(kind)
    standardizers.update(standardizers.moments(raw), momentum=1.0)
    if not standardizers.calibrated:
        standardizers.calibrate(raw)
        standardizers.end_calibration()
    back = standardizers.inverse(standardizers.apply(raw))["t"]
    torch.testing.assert_close(back.of("cls"), raw["t"].of("cls"), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(back.of("patch"), raw["t"].of("patch"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["frozen", "phi-s"])
def test_calibrated_kinds_give_every_dimension_unit_variance(kind: Kind) -> None:
    standardizers, raw = features(kind)
    for part in range(4):  # four batches have the moments of their union
        rows = slice(part * 16, part * 16 + 16)
        standardizers.calibrate(
            {"t": Tokens(cls=raw["t"].of("cls")[rows], patches=raw["t"].of("patch")[rows])}
        )
    standardizers.end_calibration()
    flat = standardizers.apply(raw)["t"].of("patch").flatten(0, 1)
    torch.testing.assert_close(flat.std(dim=0), torch.ones(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.mean(dim=0), torch.zeros(12), atol=1e-4, rtol=0)
    correlation = torch.corrcoef(flat.T) - torch.eye(12)
    assert correlation.abs().max() > 0.1  # standardised, not whitened


def test_phi_s_keeps_the_ratios_of_distances() -> None:
    standardizers, raw = features("phi-s")
    standardizers.calibrate(raw)
    standardizers.end_calibration()
    x, y = raw["t"].of("cls"), standardizers.apply(raw)["t"].of("cls")
    ratio = torch.cdist(y, y)[0, 1:] / torch.cdist(x, x)[0, 1:]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)


def test_even_rotation_is_a_rotation_for_any_width() -> None:
    for dim in (1, 2, 7, 54):
        x = torch.randn(200, dim) @ torch.randn(dim, dim)
        covariance = x.T @ x / 199
        rotation = even_rotation(covariance)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(dim), atol=1e-5, rtol=0)
        variance = (rotation @ covariance @ rotation.T).diagonal()
        torch.testing.assert_close(variance, variance.mean().expand(dim), rtol=1e-4, atol=0)


def test_one_sample_or_a_bad_step_changes_no_statistic() -> None:
    standardizers, raw = features("running")
    single = {"t": Tokens(cls=raw["t"].of("cls")[:1], patches=raw["t"].of("patch")[:1, :1])}
    standardizers.update(standardizers.moments(single), momentum=0.5)
    bad = {"t": Tokens(cls=raw["t"].of("cls") * torch.nan, patches=raw["t"].of("patch"))}
    standardizers.update(standardizers.moments(bad), momentum=0.5, ok=torch.tensor(False))
    for token_type in TYPES:
        mean, std = standardizers.statistics("t", token_type)
        assert (mean == 0).all()
        assert (std == 1).all()


def test_moments_survive_a_large_mean() -> None:
    x = 1000 + torch.randn(1000, 1, generator=torch.Generator().manual_seed(1))
    true = x.double().std().item()
    assert batch_moments(x).std.item() == pytest.approx(true, rel=1e-4)
    halves = merge_moments(batch_moments(x[:300]), batch_moments(x[300:]))
    assert halves.std.item() == pytest.approx(true, rel=1e-4)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"standardize\.kind is 'runing', not one of running"):
        Standardizers("runing", {"t": {"cls": 3}})  # type: ignore[arg-type]
