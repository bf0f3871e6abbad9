"""What only an accelerator can show; skipped where there is none.

The same claims are held on the CPU by other tests: by a mode that refuses reads, and by gloo.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import alumnus
import toys
from alumnus import assembly
from alumnus.config import load_config
from alumnus.hardware import choose_device
from alumnus.randomness import seed_default_generators
from alumnus.training.distributed import ALONE
from torchrun import started

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

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


@pytest.mark.parametrize("resident", ["device", "false"])
@pytest.mark.parametrize("kind", ["running", "batch", "frozen", "none"])
def test_step_and_its_batches_never_wait_for_the_device(
    place: Path, kind: str, resident: str
) -> None:
    words = [
        *WORDS,
        "data.train=images",
        f"standardize.kind={kind}",
        f"data.resident={resident}",
        "balance.weights=uncertainty",
        "optim.clip_norm=1.0",
        "train.ema=0.99",
    ]
    config, device = load_config("toy.yaml", words), choose_device("cuda")
    teachers = assembly.load_teachers(config)
    sources = assembly.open_sources(config, [t.domain for t in teachers.values()])
    images = assembly.lay_out(config, sources, device, teachers=teachers)
    student, _ = assembly.new_student(config, teachers)
    pool = assembly.build_pool(config, teachers, student)
    run = assembly.build_distillation(config, student, teachers, images, device=device)
    run.teachers = assembly.build_targets(config, pool, None, device)
    batches = assembly.batches(
        config, images, 0, device=device, world=ALONE, on_bad_images=lambda _: None
    )
    for step in range(3):
        seed_default_generators(0, step)
        run.step([next(batches), next(batches)], step)  # what is made once may wait
    with waiting_is_an_error():
        metrics = run.step([next(batches), next(batches)], 3)
    assert metrics["loss"].device.type == "cuda"


def test_run_on_the_accelerator_follows_that_on_the_cpu(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        words = [*WORDS, f"train.device={device}", "train.precision=fp32", f"out={device}"]
        with caplog.at_level(logging.INFO):
            losses[device] = alumnus.distill("toy.yaml", "data.train=images", *words).loss
    assert "kept on cuda" in caplog.text  # the auto of data.resident
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=0.02)


def test_stopped_run_goes_on(place: Path) -> None:
    words = [*WORDS, "data.train=images", "out=run", "train.checkpoints=4"]
    first = alumnus.distill("toy.yaml", *words, "optim.steps=12")
    again = alumnus.distill("toy.yaml", *words, "optim.steps=12", resume=True)
    assert again.steps == first.steps == 12


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_every_process_has_the_gpu_of_its_number(place: Path, parallel: str) -> None:
    count = torch.cuda.device_count()
    words = [*WORDS, "data.train=images", f"out={parallel}", f"train.parallel={parallel}"]
    run = started(count, ["-m", "alumnus", "distill", "toy.yaml", *words])
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert alumnus.load(place / parallel).patch_size == 8
