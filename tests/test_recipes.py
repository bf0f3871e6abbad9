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
from alumnus.config import ConfigError, RunConfig, load_config
from alumnus.data import DUNE as DUNE_AUGMENTATION
from alumnus.data import UNIC
from alumnus.data.published import DUNE_SOURCES
from alumnus.projectors import ProjectorSpec
from alumnus.runs import load_student
from alumnus.student import StudentSpec, build_student
from alumnus.teachers import TEACHERS
from alumnus.training.schedules import cosine_schedule, peak_rate, total_steps
from image_files import write_folder

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
        *("data.workers=0", "train={device: cpu, threads: 1, log_every: 1}", "evaluate.tasks=[]"),
        out=str(tmp_path / "run"),
    )
    assert result.steps == 2
    student = load_student(result.folder).student
    assert list(student.projectors) == ["objects", "rooms", "people"]


DUNE = ("dune-b14-336", "dune-b14-448", "dune-s14-336", "dune-s14-448")


@pytest.mark.parametrize("name", DUNE)
def test_every_published_number_of_dune_is_in_its_recipe(name: str) -> None:
    config = load_config(name)
    _, size, side = name.split("-")
    model = {"b14": "vit_base", "s14": "vit_small"}[size]
    second = side == "448"
    published = {
        "student": {"model": model, "patch_size": 14, "registers": 4, "layer_scale": 1e-4},
        "projector": {"kind": "transformer", "num_blocks": None, "apply_last_norm": None},
        "standardize": {"kind": "batch", "momentum_start": 1.0, "momentum_end": 0.001},
        "loss": {"cosine_weight": 0.5, "smooth_l1_weight": 0.5, "patch_share": 0.5},
        "balance": {"sharing": "full", "drop_p": 0.5, "weights": "fixed"},
        "departures": {"aggregation": "released", "scope": "rank", "turning": "frame"},
        "data": {"size": int(side), "sampling": "balanced", "teacher_size": None, "sizes": []},
        "optim": {
            "epochs": 50 if second else 100,
            "epoch_images": IMAGENET,
            "lr": 5e-5 if second else 3e-4,
            "min_lr": 1e-6,
            "warmup": 0.2,
            "weight_decay": 3e-2,
            "betas": [0.9, 0.99],
            "eps": 1e-15,
            "clip_norm": 1.0,
        },
    }
    assert_holds(config.model_dump(mode="json"), published)
    assert config.student.drop_path == 0
    assert config.optim.batch % 128 == 0
    assert augmentation(config) == DUNE_AUGMENTATION
    assert config.init == (f"runs/dune-{size}-336" if second else None)
    rows = {name: (t.model, t.tokens, t.grid, t.pos_interp) for name, t in config.teachers.items()}
    assert rows == {
        "dino2": ("dinov2-vitl14-reg", ["cls", "patch"], "match", "offset"),
        "mast3r": ("mast3r-vitl16", ["patch"], "match", None),
        "multihmr": ("multihmr-vitl14", ["patch"], "match", None),
    }
    assert all(section.model in TEACHERS for section in config.teachers.values())


def test_dunes_sources_are_the_nineteen_of_the_release_each_with_its_teachers_domain() -> None:
    data = load_config("dune-b14-336", ["data.root=/data"]).data
    found = {key.removeprefix("data.sources."): section for key, section in data.learned.items()}
    assert list(found) == list(DUNE_SOURCES)
    for name, section in found.items():
        assert section.domain == DUNE_SOURCES[name].domain
        assert section.generic == (section.domain == "dino2")
        assert (section.name, section.path) == (name, f"/data/{name}")
        assert section.turn == ("closeup" if name == "bedlam" else None)


def test_subsets_of_the_nineteen_are_overrides() -> None:
    words = ["data.root=/data", "data.sources.bedlam=null", "data.sources.in19k=/disk/in21k"]
    config = load_config("dune-b14-336", words)
    paths = {section.name: section.path for section in config.data.learned.values()}
    assert set(DUNE_SOURCES) - set(paths) == {"bedlam"}
    assert paths["in19k"] == "/disk/in21k"
    assert config.data.learned["data.sources.in19k"].generic  # what the recipe says stays
    settings = {"data": {"root": "/data", "sources": {"bedlam": None, "in19k": "/disk/in21k"}}}
    assert load_config("dune-b14-336", settings=settings) == config
    for path in (
        "/data/imagenet:train",
        "[{path: '/data/imagenet:train', domain: dino2, generic: true}]",
    ):
        alone = load_config("dune-b14-336", [f"data.train={path}"]).data.learned
        assert [section.path for section in alone.values()] == ["/data/imagenet:train"]
    assert load_config("dune-b14-336", ["data.sources={a: {path: x}}"]).data.learned


@pytest.mark.parametrize("word", ["data.sources.Bedlam=null", "data.sources.Bedlam=/disk/bedlam"])
def test_a_source_that_the_recipe_does_not_have_is_answered_with_the_nearest(word: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown source 'Bedlam'.*did you mean 'bedlam'"):
        load_config("dune-b14-336", ["data.root=/data", word])
    added = load_config("dune-b14-336", ["data.root=/data", "data.sources.mine={path: /mine}"])
    assert len(added.data.learned) == 20


def test_sources_that_nobody_placed_are_named_in_one_sentence() -> None:
    config = load_config("dune-s14-336", ["data.sources.ubody=/data/ubody"])
    problems = [problem.sentence for problem in preflight.before_teachers_run(config)]
    (lost,) = [sentence for sentence in problems if "no path" in sentence]
    assert lost.startswith("18 sources have no path (in19k, gldv2, ")
    assert "data.sources.NAME=null leaves one out" in lost


def test_a_file_that_only_its_authors_hand_out_is_missed_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    words = ["data.root=/data", "train.device=cpu"]

    def said(*more: str) -> list[str]:
        config = load_config("dune-b14-336", [*words, *more])
        problems = preflight.before_teachers_run(config)
        return [p.sentence for p in problems if "multihmr" in p.sentence.partition(",")[0]]

    (sentence,) = said()
    assert (
        "its authors hand it out; take a file that you have: teachers.multihmr.weights=PATH"
        in sentence
    )
    (tmp_path / "theirs.pt").touch()
    assert not said(f"teachers.multihmr.weights={tmp_path / 'theirs.pt'}")
    assert not said("teachers.multihmr.optional=true")


def test_a_run_of_dunes_recipe_can_be_planned(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    for name in DUNE_SOURCES:
        write_folder(tmp_path / name, ["0.jpg", "1.jpg"])
    models = {"dino2": "red", "mast3r": "blue", "multihmr": "fine"}
    sections = {
        name: {"model": f"python:toys:{toy}", "domain": name, "grid": "match"}
        for name, toy in models.items()
    }
    words = [f"data.root={tmp_path}", f"teachers={json.dumps(sections)}", "train.device=cpu"]
    plan = alumnus.plan("dune-s14-336", *words, measure=False)
    assert plan.steps == 100 * IMAGENET // 512 + 1
    assert round(plan.parts[0].parameters / 1e6) == 22


@pytest.mark.slow
def test_dunes_second_stage_goes_on_from_its_first(tmp_path: Path) -> None:
    for name in DUNE_SOURCES:
        write_folder(tmp_path / "data" / name, ["0.jpg", "1.jpg"])
    models = {"dino2": "red", "mast3r": "blue", "multihmr": "fine"}
    sections = {
        name: {"model": f"python:toys:{toy}", "domain": name, "grid": "match"}
        for name, toy in models.items()
    }
    words = [
        *(f"data.root={tmp_path / 'data'}", f"teachers={json.dumps(sections)}"),
        *("student.model=vit", "student.dim=16", "student.depth=2", "student.num_heads=2"),
        *("projector.num_heads=2", "data.workers=0"),
        *("optim.batch_size=6", "optim.epoch_images=12", "train.device=cpu", "train.log_every=1"),
    ]
    stages = ((1, "dune-s14-336", 28, "epochs=2"), (2, "dune-s14-448", 42, "epochs=1"))
    for stage, recipe, px, epochs in stages:
        init = [] if stage == 1 else [f"init={tmp_path / 'stage1'}"]
        out = f"out={tmp_path / f'stage{stage}'}"
        done = alumnus.distill(recipe, *words, *init, f"data.size={px}", f"optim.{epochs}", out)
        assert done.steps == 4 // stage
    first, second = (
        load_student(tmp_path / f"stage{stage}").student.encoder.state_dict() for stage in (1, 2)
    )
    assert first["pos_embed"].shape != second["pos_embed"].shape
    name = "blocks.0.attn.qkv.weight"
    kept = torch.cosine_similarity(first[name].flatten(), second[name].flatten(), dim=0)
    assert kept > 0.99  # two steps at a small rate from there, not from new weights


def test_a_recipe_that_extends_another_holds_what_it_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("description: first\nextends: unic-b16\nout: runs/x\n")
    second = tmp_path / "second.yaml"
    second.write_text("extends: first.yaml\noptim: {steps: 5}\nstudent: {drop_path: 0.2}\n")
    config = load_config(second)
    assert (config.description, config.out) == ("first", "runs/x")
    assert (config.optim.steps, config.optim.epochs, config.optim.lr) == (5, None, 3e-4)
    assert (config.student.model, config.student.drop_path) == ("vit_base", 0.2)
