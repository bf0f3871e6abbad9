"""Eight training steps of UNIC and of DUNE, equal to the published systems."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from alumnus.balance import aggregate, eligible_table
from alumnus.distill import Distillation, DistillBatch
from alumnus.losses import distill_losses
from alumnus.released import name_from_reference, student_from_reference_state
from alumnus.standardize import Standardizers
from alumnus.student import Student
from alumnus.teachers.base import match_images
from alumnus.tokens import Grid, Tokens, TokenType
from alumnus.training.optimizer import build_adamw, clip_each, parameter_groups
from alumnus.training.schedules import cosine_schedule, peak_rate
from alumnus.weighing import Balance
from golden_files import golden, golden_json, sub

pytestmark = pytest.mark.golden


@dataclass
class ScriptedBatch:
    images: Tensor
    teacher_images: Tensor
    position: Tensor
    source: Tensor
    index: Tensor
    view: Tensor
    features: dict[str, Tokens]


class ScriptedTeachers:
    """Gives the raw features that the fixture recorded."""

    def targets(self, batch: DistillBatch) -> Mapping[str, Tokens]:
        assert isinstance(batch, ScriptedBatch)
        return batch.features


def student_of(state: dict[str, Tensor], settings: dict[str, Any]) -> Student:
    projector = settings.get("projector", {})  # DUNE's
    return student_from_reference_state(
        state,
        num_heads=settings["encoder"]["num_heads"],
        projector_heads=projector.get("num_heads"),
        projector_scale=projector.get("scale", 1.0),
    )


def features_of(tensors: dict[str, Tensor], grid: Grid) -> dict[str, Tokens]:
    """Raw teacher features of `<teacher>/<type>`."""
    features: dict[str, Tokens] = {}
    for key, x in tensors.items():
        name, token_type = key.split("/")
        held = features.get(name, Tokens())
        features[name] = (
            held._replace(cls=x) if token_type == "cls" else held._replace(patches=x, grid=grid)
        )
    return features


def batch_of(tensors: dict[str, Tensor], settings: dict[str, Any], step: int) -> ScriptedBatch:
    images, patch = tensors[f"step{step}/image"], settings["encoder"]["patch_size"]
    grid = (images.shape[2] // patch, images.shape[3] // patch)
    features = features_of(sub(tensors, f"step{step}/teacher/"), grid)
    index = torch.arange(len(images))
    zeros = torch.zeros_like(index)
    return ScriptedBatch(images, images, index, zeros, index, zeros, features)


def distillation(
    student: Student,
    settings: dict[str, Any],
    batch: ScriptedBatch,
    *,
    standardize: str,
    clip_norm: float | None,
) -> Distillation:
    shapes: dict[str, dict[TokenType, int]] = {
        name: {t: tokens.of(t).shape[-1] for t in tokens.types}
        for name, tokens in batch.features.items()
    }
    optim = settings["optim_args"]
    optimizer = build_adamw(
        student,
        betas=tuple(optim["betas"]),
        eps=optim["eps"],
        weight_decay=settings["weight_decay"],
    )
    if "iters" in settings:  # DUNE
        steps = settings["iters"]
        warmup_steps = math.floor(settings["warmup_epochs"] / settings["epochs"] * steps)
    else:
        steps = settings["iters_per_epoch"] * settings["epochs"]
        warmup_steps = settings["iters_per_epoch"] * settings["warmup_epochs"]
    peak = peak_rate(settings["base_lr"], batch=settings["batch"] * settings["world_size"])
    rate = cosine_schedule(peak, settings["min_lr"], steps=steps, warmup_steps=warmup_steps)
    momentum = settings["tnorm_momentum_per_step"]  # its ends are not among the settings
    eligible_TS = eligible_table(
        "full", teacher_domains=list(shapes), source_domains=["any"], source_generic=[False]
    )
    return Distillation(
        student=student,
        teachers=ScriptedTeachers(),
        standardizers=Standardizers(standardize, shapes),  # type: ignore[arg-type]
        balance=Balance(eligible_TS, drop_probability=0.0, weights_T=torch.ones(len(shapes))),
        optimizer=optimizer,
        rate=lambda step: float(rate[step]),
        momentum=lambda step: momentum[step],
        clip=partial(clip_each, max_norm=clip_norm),
        global_batch=settings["batch"],
        cosine_weight=settings["lam_lcos"],
        smooth_l1_weight=settings["lam_lsl1"],
    )


def assert_equal_states(student: Student, expected: dict[str, Tensor]) -> None:
    """Equal within 1e-5 (measured: 6e-7), but for the key part of the qkv biases.

    Its true gradient is zero; Adam turns the rounding noise into steps of the learning rate.
    """
    weights = {k: v for k, v in expected.items() if not k.startswith("teacher_norms.")}
    state = student.state_dict()
    assert {name_from_reference(name) for name in weights} == set(state)
    for name, value in weights.items():
        got = state[name_from_reference(name)]
        if name.endswith("qkv.bias"):
            keep = torch.ones(len(value), dtype=torch.bool)
            keep[len(value) // 3 : 2 * len(value) // 3] = False
            got, value = got[keep], value[keep]
        assert (got - value).abs().max() <= 1e-5, name


@pytest.mark.parametrize("system", ["unic", "dune", "dune_small_clip"])
def test_eight_steps_equal_the_published(system: str) -> None:
    dune = system.startswith("dune")
    fixture = "train_steps_dune" if dune else "train_steps_unic"
    tensors, settings = golden(fixture), golden_json(fixture)
    losses, final = settings["loss_per_step"], "final_state/"
    clip_norm = settings["clip_grad"] or None
    if system == "dune_small_clip":
        losses = settings["small_clip"]["loss_per_step"]
        clip_norm, final = settings["small_clip"]["clip_grad"], "small_clip_final_state/"
    student = student_of(sub(tensors, "initial_state/"), settings)
    untouched = {n: p.clone() for n, p in student.named_parameters()}
    run = distillation(
        student,
        settings,
        batch_of(tensors, settings, 0),
        standardize="batch" if dune else "running",
        clip_norm=clip_norm,
    )
    for step, expected in enumerate(losses):
        assert run.rate(step) == pytest.approx(settings["lr_per_step"][step], abs=1e-12)
        metrics = run.step([batch_of(tensors, settings, step)], step)
        # observed between arithmetic orders: 2e-7
        assert metrics["loss"].item() == pytest.approx(expected, abs=2e-6)
        if step == 1 and not dune:
            assert_equal_states(student, sub(tensors, "state_after_step1/"))
        if system == "dune":
            norm = tensors[f"step{step}/grad_norms"].norm().item()
            assert metrics["grad_norm"].item() == pytest.approx(norm, abs=1e-6, rel=1e-5)
    assert metrics["first_bad"] == -1
    assert_equal_states(student, sub(tensors, final))
    for name in settings["params_without_grad"]:
        own = name_from_reference(name)
        assert torch.equal(dict(student.named_parameters())[own], untouched[own]), name
    statistics = sub(tensors, "final_teacher_stats/")
    if dune:
        statistics = {
            key.replace(".normalizers.", "/").replace(".", "/"): value
            for key, value in sub(tensors, "final_state/teacher_norms.").items()
        }
    assert len(statistics) == 2 * len(run.standardizers.keys)
    for key, value in statistics.items():
        teacher, token_type, kind = key.split("/")
        mean, std = run.standardizers.statistics(teacher, token_type)  # type: ignore[arg-type]
        torch.testing.assert_close(
            mean if kind == "mean" else std, value.flatten(), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("system", ["unic", "dune"])
def test_first_gradients_equal_the_published(system: str) -> None:
    fixture = f"train_steps_{system}"
    tensors, settings = golden(fixture), golden_json(fixture)
    student = student_of(sub(tensors, "initial_state/"), settings)
    batch = batch_of(tensors, settings, 0)
    run = distillation(
        student,
        settings,
        batch,
        standardize="batch" if system == "dune" else "running",
        clip_norm=None,
    )
    loss, _, _ = run.forward(batch, 0, run.momentum(0))
    loss.backward()
    gradients = {n: p.grad for n, p in student.named_parameters() if p.grad is not None}
    prefix = "step0/grad_before_clip/" if system == "dune" else "step0/grad/"
    expected = sub(tensors, prefix)
    assert len(expected) == len(gradients)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name_from_reference(name)], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_whole_loss_of_dune_equals_the_published(mode: str) -> None:
    tensors = sub(golden("dune_forward"), f"{mode}/")
    case = golden_json("dune_forward")["cases"][mode]
    state = sub(golden("dune_model"), "state/")
    student = student_of(state, golden_json("dune_model")).eval()
    h, w = (side // student.encoder.patch_size for side in tensors["image"].shape[-2:])
    raw = features_of(sub(tensors, "teacher/"), (h, w))
    for teacher in golden_json("dune_forward")["teachers"]:
        if teacher["patch_size"] != student.encoder.patch_size:
            ours = match_images(
                tensors["image"], (h * teacher["patch_size"], w * teacher["patch_size"])
            )
            theirs = tensors[f"teacher_image/{teacher['name']}"]
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    standardizers = Standardizers(
        "batch", {n: {t: tokens.of(t).shape[-1] for t in tokens.types} for n, tokens in raw.items()}
    )
    for teacher, token_type in standardizers.keys:
        prefix = f"teacher_norms.{teacher}.normalizers.{token_type}."
        for value, stored in zip(
            standardizers.statistics(teacher, token_type), ("mean", "std"), strict=True
        ):
            value.copy_(state[prefix + stored])
    moments = standardizers.moments(raw) if mode == "train" else None
    loss_TB = distill_losses(student(tensors["image"]), standardizers.apply(raw, moments))
    loss = aggregate(loss_TB, torch.ones_like(loss_TB))
    assert loss.item() == pytest.approx(case["loss"], abs=1e-6)
    for name, row in zip(raw, loss_TB, strict=True):
        expected = case["loss_dict"][f"loss/dist_{name}"]
        assert row.mean().item() == pytest.approx(expected, abs=1e-6)
    if moments is not None:
        standardizers.update(moments, momentum=case["momentum_passed"])
    after = sub(tensors, "after/teacher_norms.")
    assert len(after) == 2 * len(standardizers.keys)
    for teacher, token_type in standardizers.keys:
        held = standardizers.statistics(teacher, token_type)
        for value, kind in zip(held, ("mean", "std"), strict=True):
            expected = after[f"{teacher}.normalizers.{token_type}.{kind}"]
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


STATES = {  # fixtures that hold a whole student
    "unic_model": "state/",
    "dune_model": "state/",
    "train_steps_unic": "initial_state/",
    "train_steps_dune": "initial_state/",
}


def student_with(shapes: dict[str, list[int]]) -> Student:
    """The fixtures' student that has these parameters, in this order of teachers."""
    for fixture, prefix in STATES.items():
        state = sub(golden(fixture), prefix)
        held = {k: list(v.shape) for k, v in state.items() if not k.startswith("teacher_norms.")}
        if held == shapes:
            return student_of(
                {name: state[name] for name in [*shapes, *state]}, golden_json(fixture)
            )
    raise AssertionError("no fixture holds a student with these parameters")


def test_parameter_groups_equal_the_published() -> None:
    models = golden_json("param_groups")
    assert models
    for expected in models.values():
        student = student_with(dict(expected["regularised"] + expected["not_regularised"]))
        groups = parameter_groups(student.named_parameters())
        for group, key in zip(groups, ("regularised", "not_regularised"), strict=True):
            ours = [(name, list(parameter.shape)) for name, parameter in group.items()]
            assert ours == [(name_from_reference(name), shape) for name, shape in expected[key]]
