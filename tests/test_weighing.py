"""Learned balance: which losses it takes from a step, and that what it remembers is resumed."""

import copy
from pathlib import Path

import pytest
import torch

from alumnus.data import Batch
from alumnus.distill import Distillation
from alumnus.randomness import seed_default_generators
from alumnus.weighing import Balance, Ranks
from no_host_reads import NoHostReads
from test_loop import batches_of, config_of, differing, distillation_of, images, state_of

__all__ = ["images"]  # a fixture

FIRST = {"adaloss": "average_T", "gradnorm": "first_T"}


def run_of(images: Path, weights: str, *words: str) -> tuple[Distillation, list[Batch]]:
    config = config_of(images, f"balance={{weights: {weights}, drop_p: 0}}", *words)
    return distillation_of(config), batches_of(config, 2)


def two_domains(run: Distillation, batches: list[Batch]) -> list[Batch]:
    """Teacher red learns from the first three images of a batch, blue from the others."""
    run.balance.eligible_TS = torch.eye(2, dtype=torch.bool)
    return [batch._replace(source=(torch.arange(4) > 2).long()) for batch in batches]


@pytest.mark.parametrize("weights", FIRST)
@pytest.mark.parametrize(("kind", "raw_steps"), [("running", 1), ("batch", 0), ("none", 0)])
def test_the_first_loss_is_the_first_of_standardised_targets(
    images: Path, weights: str, kind: str, raw_steps: int
) -> None:
    run, batches = run_of(images, weights, f"standardize.kind={kind}", "optim.warmup=0")
    first_T = run.balance.get_buffer(FIRST[weights])
    logit_T = None if run.balance.logit_T is None else run.balance.logit_T
    for step in range(raw_steps):
        run.step(batches, step)
        assert first_T.tolist() == [0.0, 0.0]
    loss_T = run.step(batches, raw_steps)["loss_T"]
    torch.testing.assert_close(first_T, loss_T)
    if logit_T is not None:
        assert logit_T.tolist() == [0.0, 0.0]  # nothing to compare with so far
        run.step(batches, raw_steps + 1)
        assert (logit_T != 0).all()
        torch.testing.assert_close(first_T, loss_T)


@pytest.mark.parametrize("weights", FIRST)
def test_a_teachers_loss_is_over_the_images_that_it_is_eligible_for(
    images: Path, weights: str
) -> None:
    words = ["standardize.kind=batch", "student.drop_path=0"]
    run, batches = run_of(images, weights, *words)
    batches = two_domains(run, batches)
    loss_TB, _ = run.examine(batches, 0)
    run.step(batches, 0)
    red, blue = loss_TB[0].view(2, 4)[:, :3].mean(), loss_TB[1].view(2, 4)[:, 3:].mean()
    torch.testing.assert_close(run.balance.get_buffer(FIRST[weights]), torch.stack([red, blue]))


@pytest.mark.parametrize("weights", FIRST)
def test_a_teacher_without_images_in_a_step_keeps_its_loss(images: Path, weights: str) -> None:
    run, batches = run_of(images, weights, "standardize.kind=batch")
    run.balance.eligible_TS = torch.eye(2, dtype=torch.bool)
    held = run.balance.get_buffer(FIRST[weights])
    run.step(batches, 0)  # all images are of the first source
    red = held[0].item()
    assert red > 0
    assert held[1] == 0
    run.step([batch._replace(source=torch.ones(4).long()) for batch in batches], 1)
    assert held[0] == red
    assert held[1] > 0


def test_gradnorm_sees_no_loss_of_an_image_that_is_not_for_the_teacher() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    inputs_B2 = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    eligible_TS = torch.tensor([[True, False], [False, True], [False, True]])
    source = torch.tensor([0, 0, 0, 0, 1, 1])

    def gradient(scale_TB: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(3)
        balance = Balance(eligible_TS, drop_probability=0, weights_T=ones, weighting="gradnorm")
        balance.first_T.copy_(torch.tensor([1.0, 2.0, 5.0]))
        loss_TB = (inputs_B2 @ weight).square() * scale_TB
        draw_TB = torch.ones_like(loss_TB)
        balance(loss_TB, source, draw_TB, Ranks(), weight).backward()
        assert balance.logit_T is not None
        assert balance.logit_T.grad is not None
        return balance.logit_T.grad

    scale_TB = torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 6)
    elsewhere_TB = torch.where(eligible_TS[:, source], scale_TB, 1000.0)
    assert (gradient(scale_TB, source) != 0).all()
    torch.testing.assert_close(gradient(elsewhere_TB, source), gradient(scale_TB, source))
    # one teacher alone has nobody to be compared with
    alone = gradient(scale_TB, torch.zeros_like(source))
    torch.testing.assert_close(alone, torch.zeros(3))


@pytest.mark.parametrize("weights", FIRST)
@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_stopped_beside_its_first_loss_goes_on_bit_for_bit(
    images: Path, weights: str, stop: int
) -> None:
    words = ["standardize.kind=running", "student.drop_path=0"]
    whole, batches = run_of(images, weights, *words)
    resumed, _ = run_of(images, weights, *words)
    for step in range(4):
        if step == stop:
            resumed.module.load_state_dict(whole.module.state_dict())
            resumed.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
        whole.step(batches, step)
        if step >= stop:
            resumed.step(batches, step)
    assert differing(state_of(whole), state_of(resumed)) == []


@pytest.mark.parametrize("weights", FIRST)
def test_learned_balance_never_reads_the_device(images: Path, weights: str) -> None:
    run, batches = run_of(images, weights, "standardize.kind=running")
    seed_default_generators(0, 0)
    run.step(batches, 0)
    with NoHostReads():  # type: ignore[no-untyped-call]
        run.step(batches, 1)
