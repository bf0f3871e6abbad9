"""What only an accelerator can show; skipped where there is none.

The same claims are held on the CPU by other tests: by a mode that refuses reads, and by gloo.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed import FileStore  # type: ignore[attr-defined]  # public, not in __all__

import alumnus
import toys
from alumnus import assembly
from alumnus.config import load_config
from alumnus.data import Batch
from alumnus.distill import Distillation
from alumnus.randomness import seed_default_generators
from alumnus.training.checkpoint import Checkpoints
from alumnus.training.distributed import ALONE, World
from alumnus.training.sharding import local_part, whole
from torchrun import started

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CUDA = torch.device("cuda", 0)
WORDS = ["train.device=cuda", "optim.steps=12", "optim.batch_size=8", "train.log_every=6"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    toys.write_recipe(tmp_path)
    toys.write_images(tmp_path / "images")
    return tmp_path


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def made_ready(words: list[str], world: World = ALONE) -> tuple[Distillation, Iterator[Batch]]:
    """A run on the accelerator and its batches, after three steps: what is made once may wait."""
    config, device = load_config("toy.yaml", [*WORDS, "data.train=images", *words]), CUDA
    teachers = assembly.load_teachers(config)
    sources = assembly.open_sources(config, [t.domain for t in teachers.values()])
    images = assembly.lay_out(config, sources, device, teachers=teachers)
    student, _ = assembly.new_student(config, teachers)
    pool = assembly.build_pool(config, teachers, student)
    run = assembly.build_distillation(config, student, teachers, images, device=device, world=world)
    features = assembly.plan_cache(config, pool, images)
    if features is not None:
        features.build()
    run.teachers = assembly.build_targets(config, pool, features, device, world)
    batches = assembly.batches(
        config,
        images,
        0,
        device=device,
        targets=run.teachers,
        world=world,
        on_bad_images=lambda _: None,
    )
    for step in range(3):
        seed_default_generators(0, step)
        run.step([next(batches), next(batches)], step)
    return run, batches


ALWAYS = ["balance.weights=uncertainty", "optim.clip_norm=1.0", "train.ema=0.99"]


@pytest.mark.parametrize(
    "words",
    [
        *(
            [f"standardize.kind={kind}", f"data.resident={resident}"]
            for kind in ("running", "batch", "frozen", "none")
            for resident in ("device", "false")
        ),
        ["cache.enabled=true"],
        ["train.precision=bf16", "train.checkpoint_activations=true"],
        ["teachers={own: {model: 'python:toys:host'}, red: {model: 'python:toys:red'}}"],
    ],
    ids=" ".join,
)
def test_step_and_its_batches_never_wait_for_the_device(place: Path, words: list[str]) -> None:
    run, batches = made_ready([*ALWAYS, *words])
    with waiting_is_an_error():
        metrics = run.step([next(batches), next(batches)], 3)
    assert metrics["loss"].device.type == "cuda"
    assert int(metrics["first_bad"]) == -1


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_nccl_does_not_make_it_wait_either_and_shards_go_to_files(
    place: Path, parallel: str
) -> None:
    """One process in a group of its own, spread as if there were more."""
    store = FileStore(str(place / "store"), 1)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1)
    try:
        together = World(rank=0, size=1)
        object.__setattr__(together, "size", 2)  # all that asks for it: is there anybody else?
        run, batches = made_ready(
            [*ALWAYS, "optim.batch_size=16", f"train.parallel={parallel}"], together
        )
        with waiting_is_an_error():
            metrics = run.step([next(batches), next(batches)], 3)
        assert int(metrics["first_bad"]) == -1
        checkpoints = Checkpoints(place / "stored")
        state = run.module.state_dict()
        checkpoints.save(4, state, {})
        kept = {name: whole(tensor).clone() for name, tensor in state.items()}
        for parameter in run.module.parameters():
            local_part(parameter.data).zero_()
        newest = checkpoints.newest()
        assert newest is not None
        newest.load_into(run.module.state_dict())
        for name, tensor in run.module.state_dict().items():
            assert torch.equal(whole(tensor), kept[name]), name
    finally:
        dist.destroy_process_group()


def test_run_on_the_accelerator_follows_that_on_the_cpu(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        words = [*WORDS, f"train.device={device}", "train.precision=fp32", f"out={device}"]
        with caplog.at_level(logging.INFO):
            losses[device] = alumnus.distill(
                "toy.yaml", "data.train=images", "student.drop_path=0", *words
            ).loss
    assert "kept on cuda" in caplog.text  # the auto of data.resident
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=0.01)


def test_run_that_lost_its_end_goes_on_to_the_same_one(place: Path) -> None:
    words = [*WORDS, "data.train=images", "train.precision=fp32", "train.checkpoints=4"]
    for out in ("whole", "stopped"):
        alumnus.distill("toy.yaml", *words, f"out={out}")
    shutil.rmtree(place / "stopped/checkpoints/step-00000012")
    for left in (place / "stopped").glob("*.safetensors"):
        left.unlink()
    assert alumnus.distill("toy.yaml", *words, "out=stopped", resume=True).steps == 12
    ours, theirs = (load_file(place / out / "encoder.safetensors") for out in ("stopped", "whole"))
    for name, tensor in theirs.items():
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_every_process_has_the_gpu_of_its_number(place: Path, parallel: str) -> None:
    count = torch.cuda.device_count()
    words = [*WORDS, "data.train=images", f"out={parallel}", f"train.parallel={parallel}"]
    run = started(count, ["-m", "alumnus", "distill", "toy.yaml", *words])
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert alumnus.load(place / parallel).patch_size == 8
