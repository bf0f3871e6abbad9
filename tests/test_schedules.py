"""Schedules, parameter groups and clipping: equal to the published systems."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from alumnus.training.optimizer import clip_each, parameter_groups
from alumnus.training.schedules import (
    cosine_schedule,
    evenly_spaced,
    peak_rate,
    poly_schedule,
    total_steps,
)
from golden_files import golden, golden_json, sub


@pytest.mark.golden
def test_cosine_schedules_equal_the_published() -> None:
    tensors, cases = golden("schedules"), golden_json("schedules")["direct"]
    assert cases
    for case in cases:
        ours = cosine_schedule(
            case["base_value"],
            case["final_value"],
            steps=math.floor(case["epochs"] * case["niter_per_ep"]),
            warmup_steps=math.floor(case["warmup_epochs"] * case["niter_per_ep"]),
            start=case.get("start_warmup_value", 0.0),
        )
        assert len(ours) == case["length"]
        np.testing.assert_allclose(ours, tensors[case["name"]].numpy(), rtol=0, atol=1e-12)


@pytest.mark.golden
def test_rates_and_momenta_of_the_training_programs_equal_the_published() -> None:
    tensors, cases = golden("schedules"), golden_json("schedules")["from_training_entry_points"]
    assert cases
    for case in cases:
        batch = case["batch_size_per_gpu"] * case["world_size"]
        if "iters_per_epoch" in case:  # UNIC
            steps = case["epochs"] * case["iters_per_epoch"]
            warmup_steps = case["warmup_epochs"] * case["iters_per_epoch"]
        else:
            steps = total_steps(case["epochs"], images=case["epoch_size"], batch=batch, even=True)
            assert steps == case["iters"]
            warmup_steps = math.floor(case["warmup_epochs"] / case["epochs"] * steps)
            count = max(math.ceil(case["epochs"]), case["saveckpt_freq"])
            points = evenly_spaced(steps, count)
            assert points == case["eval_and_save_iters"]
            assert points[:: case["saveckpt_freq"]] == case["separate_checkpoint_iters"]
        peak = peak_rate(case["lr"], batch=batch)
        assert peak == pytest.approx(case["peak_lr"], rel=1e-12)
        rate = cosine_schedule(peak, case["min_lr"], steps=steps, warmup_steps=warmup_steps)
        momentum = cosine_schedule(
            case["tnorm_ema_momentum_start"], case["tnorm_ema_momentum_end"], steps=steps
        )
        for name, ours in (("lr", rate), ("tnorm_momentum", momentum)):
            expected = tensors[f"{case['name']}/{name}"].numpy()
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.golden
def test_clipping_equals_the_published() -> None:
    settings = golden_json("clip_gradients")
    cases = [(f"unic/case{case['case']}/", case) for case in settings["unic"]]
    cases += [(f"dune/{case['case']}/", case) for case in settings["dune"]]
    assert cases
    for prefix, case in cases:
        tensors = sub(golden("clip_gradients"), prefix)
        before, after = sub(tensors, "before/"), sub(tensors, "after/")
        assert set(before) == set(after)
        assert len(before) == len(case["norms"])
        parameters = {name: nn.Parameter(torch.zeros_like(x)) for name, x in before.items()}
        for name, gradient in before.items():
            parameters[name].grad = gradient.clone()
        parameters["without gradient"] = nn.Parameter(torch.zeros(3))
        total = clip_each(parameters.values(), case["clip"])
        assert total.item() == pytest.approx(np.linalg.norm(case["norms"]), rel=1e-5)
        for name, expected in after.items():
            torch.testing.assert_close(parameters[name].grad, expected, rtol=0, atol=1e-6)


def test_measuring_the_norm_changes_no_gradient() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    assert clip_each([parameter], None).item() == 6.0
    assert (parameter.grad == 3.0).all()


def test_biases_and_vectors_are_not_decayed() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    module.register_parameter("frozen", nn.Parameter(torch.zeros(2, 2), requires_grad=False))
    decayed, plain = parameter_groups(module.named_parameters())
    assert list(decayed) == ["0.weight"]
    assert list(plain) == ["0.bias", "1.weight", "1.bias"]


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warm-up of 11 steps does not fit into 10 steps"):
        cosine_schedule(1.0, 0.0, steps=10, warmup_steps=11)


def test_poly_schedule_is_the_linear_decay_times_a_linear_warm_up() -> None:
    rates = poly_schedule(2.0, steps=100, warmup_steps=10)
    assert rates[0] == pytest.approx(2.0 * 1e-6)
    assert rates[5] == pytest.approx(2.0 * 0.95 * (0.5 + 0.5e-6))
    np.testing.assert_allclose(rates[10:], 2.0 * (1 - np.arange(10, 100) / 100))
    np.testing.assert_allclose(poly_schedule(2.0, steps=4), [2.0, 1.5, 1.0, 0.5])
