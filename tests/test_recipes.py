"""Recipes of published systems: every published number is in the resolved configuration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alumnus
import toys
from alumnus import preflight
from alumnus.assembly import augmentation, encoder_spec
from alumnus.config import RunConfig, load_config
from alumnus.data import UNIC
from alumnus.projectors import ProjectorSpec
from alumnus.runs import load_student
from alumnus.student import StudentSpec, build_student
from alumnus.teachers import TEACHERS
from alumnus.training.schedules import cosine_schedule, peak_rate, total_steps

IMAGENET = 1_281_167  # training images
SHARED: dict[str, Any] = {
    "student": {"registers": 0, "layer_scale": None, "drop_path": 0.1},
    "standardize": {"kind": "running", "momentum_start": 1.0, "momentum_end": 0.001},
    "loss": {"cosine_weight": 0.5, "smooth_l1_weight": 0.5},
    "departures": {"aggregation": "released", "scope": "rank"},
    "data": {"size": 224},
    "optim": {
        "epochs": 200,
        "epoch_images": None,
        "batch_size": 4 * 128,
        "accumulate": 1,
        "lr": 3e-4,
        "min_lr": 1e-6,
        "warmup": 10 / 200,
        "weight_decay": 3e-2,
        "betas": [0.9, 0.99],
        "eps": 1e-8,
        "clip_norm": None,
    },
    "train": {"ema": None},
}
OWN: dict[str, dict[str, Any]] = {
    "unic-b16": {
        "student": {"model": "vit_base", "patch_size": 16},
        "projector": {"kind": "ladder", "hidden_dim": 768, "last_hidden_dim": 3072},
        "balance": {"drop_p": 0.5, "sharing": "full", "weights": "fixed"},
    },
    "unic-l14": {
        "student": {"model": "vit_large", "patch_size": 14},
        "projector": {"kind": "ladder", "hidden_dim": 1024, "last_hidden_dim": 4096},
        "balance": {"drop_p": 0.25, "sharing": "full", "weights": "fixed"},
    },
}
TEACHERS_OF = {
    "unic-b16": {"dino-vitb16", "deit3-vitb16", "ibot-vitb16", "dbot-ft-vitb16"},
    "unic-l14": {"dinov2-vitg14", "metaclip-vith14"},
}


def assert_holds(config: Mapping[str, Any], published: Mapping[str, Any]) -> None:
    for section, values in published.items():
        held = config[section]
        assert {key: held[key] for key in values} == values, section


@pytest.mark.parametrize("name", OWN)
def test_every_published_number_of_unic_is_in_its_recipe(name: str) -> None:
    config = load_config(name)
    values = config.model_dump(mode="json")
    assert_holds(values, SHARED)
    assert_holds(values, OWN[name])
    assert {teacher.model for teacher in config.teachers.values()} == TEACHERS_OF[name]
    assert TEACHERS_OF[name] <= set(TEACHERS)
    assert all(section.tokens is None for section in config.teachers.values())  # cls and patches
    assert augmentation(config) == UNIC


def test_the_published_augmentation_is_the_default() -> None:
    assert (UNIC.crop_scale, UNIC.crop_ratio, UNIC.flip_p) == ((0.08, 1.0), (3 / 4, 4 / 3), 0.5)
    jitter = (UNIC.brightness, UNIC.contrast, UNIC.saturation, UNIC.hue, UNIC.jitter_p)
    assert jitter == (0.4, 0.4, 0.2, 0.1, 0.8)
    blur = (UNIC.blur_kernel_px, UNIC.blur_sigma_px, UNIC.blur_p)
    assert (UNIC.grayscale_p, *blur) == (0.2, 9, (0.1, 5.0), 0.2)
    assert (UNIC.solarise_p, UNIC.solarise_threshold) == (0.2, 0.5)


def test_unics_schedule_over_imagenet_warms_up_for_ten_epochs() -> None:
    optim = load_config("unic-b16").optim
    assert isinstance(optim.epochs, float)
    steps = total_steps(optim.epochs, images=IMAGENET, batch=optim.batch)
    warmup = int(optim.warmup * steps)
    rate = cosine_schedule(
        peak_rate(optim.lr, batch=optim.batch), optim.min_lr, steps=steps, warmup_steps=warmup
    )
    assert warmup / steps * optim.epochs == pytest.approx(10, abs=1e-3)
    assert np.argmax(rate) == warmup - 1
    assert rate.max() == pytest.approx(6e-4)
    assert rate[-1] == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize(("name", "millions"), [("unic-b16", 86), ("unic-l14", 303)])
def test_the_student_of_a_published_recipe_has_its_size(name: str, millions: int) -> None:
    config = load_config(name)
    with torch.device("meta"):
        student = build_student(student_spec(config))
    parameters = sum(p.numel() for p in student.encoder.parameters())
    assert round(parameters / 1e6) == millions


def test_a_published_recipe_asks_for_the_images_only(tmp_path: Path) -> None:
    problems = [problem.sentence for problem in preflight.before_a_run(load_config("unic-b16"))]
    assert len(problems) == 1
    assert "data.train=FOLDER" in problems[0]


def student_spec(config: RunConfig) -> StudentSpec:
    projector = ProjectorSpec(kind=config.projector.kind, dim=768, options=config.projector.options)
    return StudentSpec(encoder=encoder_spec(config), projectors={"any": projector})


def test_mini_unic_says_where_its_teachers_should_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config("mini-unic", [f"data.train={tmp_path}"])
    problems = [problem.sentence for problem in preflight.before_a_run(config)]
    assert len(problems) == 3
    assert problems[0].startswith("there is nothing at runs/unic-cifar/teachers/supervised: ")


def test_mini_dune_is_dune_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("mini-dune")
    values = config.model_dump(mode="json")
    assert_holds(
        values,
        {
            "projector": {"kind": "transformer", "apply_last_norm": None, "side": None},
            "standardize": {"kind": "batch", "momentum_start": 1.0, "momentum_end": 0.001},
            "balance": {"sharing": "full", "drop_p": 0.5},
            "departures": {"aggregation": "released", "scope": "rank"},
            "data": {"sampling": "balanced"},
            "optim": {"warmup": 0.2, "betas": [0.9, 0.99], "eps": 1e-15, "clip_norm": 1.0},
        },
    )
    domains = [source.domain for source in config.data.train]
    assert domains == list(config.teachers)
    assert [source.generic for source in config.data.train] == [True, False, False]
    assert config.optim.batch % len(domains) == 0  # equal parts


def test_mini_dune_learns_from_any_three_teachers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    sources = [
        {"path": str(toys.write_images(tmp_path / domain)), "domain": domain}
        for domain in ("objects", "rooms", "people")
    ]
    result = alumnus.distill(
        "mini-dune",
        f"data.train={json.dumps(sources)}",
        *(f"teachers.{s['domain']}.model=python:toys:red" for s in sources),
        *("optim={steps: 2, batch_size: 6, warmup: 0.5}", "data.size=32", "student.dim=32"),
        *("data.workers=0", "train={device: cpu, threads: 1, log_every: 1}"),
        out=str(tmp_path / "run"),
    )
    assert result.steps == 2
    student = load_student(result.folder).student
    assert list(student.projectors) == ["objects", "rooms", "people"]
