"""A run killed at any moment and resumed ends as one that was never stopped, bit for bit."""

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import toys
from alumnus import api
from alumnus.config import load_config
from alumnus.training import checkpoint as module
from alumnus.training.checkpoint import Checkpoints
from forked import ForkServerProcess, alumnus_command
from forked import started as started_process

STEPS = 30
PATIENCE_S = 120  # for one step, on a busy machine

LIVE = [
    f"optim.steps={STEPS}",
    f"train.checkpoints={STEPS // 3}",
    "standardize.kind=running",
    "projector.kind=ladder",
    "balance.drop_p=0.5",
]
CACHED = [
    f"optim.steps={STEPS}",
    f"train.checkpoints={STEPS}",
    "cache={enabled: true, views: 2}",
    "standardize={kind: frozen, calibration_steps: 3}",
    "projector={kind: transformer}",
    "balance.weights=uncertainty",
]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    toys.write_recipe(tmp_path)
    return toys.write_images(tmp_path / "photos")


def words(folder: Path, settings: Sequence[str], *, out: str) -> list[str]:
    return [f"data.train={folder / 'photos'}", f"out={folder / out}", *settings]


@contextmanager
def started(folder: Path, settings: Sequence[str]) -> Iterator[ForkServerProcess]:
    """`alumnus distill --resume` in a process of its own, in the run folder "killed"."""
    command = ["distill", "--resume", str(folder / "toy.yaml")]
    command += words(folder, settings, out="killed")
    command.append("data.workers=1")  # the run that nobody stops has none: no difference
    process = started_process(
        alumnus_command,
        command,
        output=folder / "output.txt",
        variables={"ALUMNUS_CACHE": str(folder / "other-cache")},
    )
    try:
        yield process
    finally:
        process.kill()
        process.join()


def ended(process: ForkServerProcess) -> int | None:
    """The exit code, waited for; None for one that goes on for too long."""
    process.join(PATIENCE_S)
    return process.exitcode


def finished_steps(run: Path) -> int:
    """The last step in metrics.jsonl; -1 before the run folder is there."""
    if not (run / "config.yaml").exists():
        return -1
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def wait_for(folder: Path, step: int, process: ForkServerProcess) -> None:
    """Until the run in "killed" has finished a step."""
    waiting_since = time.monotonic()
    while finished_steps(folder / "killed") < step:
        assert process.is_alive(), (folder / "output.txt").read_text()
        assert time.monotonic() - waiting_since < PATIENCE_S
        time.sleep(0.005)


def kill_after(folder: Path, settings: Sequence[str], step: int, *, delay_s: float) -> None:
    """Start or resume the run, and SIGKILL it a moment after a step (0: while it prepares)."""
    with started(folder, settings) as process:
        wait_for(folder, step, process)
        time.sleep(delay_s)


def finish(folder: Path, settings: Sequence[str]) -> None:
    with started(folder, settings) as process:
        assert ended(process) == 0, (folder / "output.txt").read_text()


def assert_same_run(killed: Path, whole: Path) -> None:
    """Encoder, student, the last state with the optimiser's, and losses at every step."""
    newest = f"checkpoints/step-{STEPS:08d}/state.safetensors"
    for name in ("encoder.safetensors", "student.safetensors", newest):
        ours, theirs = load_file(killed / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert torch.equal(value, theirs[key]), f"{name}: {key}"

    def losses(run: Path) -> list[tuple[int, float]]:
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [(record["step"], record["loss"]) for record in records]

    assert losses(killed) == losses(whole)
    assert [step for step, _ in losses(whole)] == list(range(1, STEPS + 1))


def whole_run(folder: Path, settings: Sequence[str]) -> Path:
    """The run that nobody stops, in this process, without data workers."""
    config = load_config(folder / "toy.yaml", words(folder, settings, out="whole"))
    return api.distill(config).folder


@pytest.mark.parametrize("settings", [LIVE, CACHED], ids=["live", "cached"])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    images: Path, settings: list[str]
) -> None:
    folder, draw = images.parent, random.Random(7)
    kill_after(folder, settings, draw.randrange(1, STEPS - 1), delay_s=draw.uniform(0, 0.03))
    finish(folder, settings)
    assert_same_run(folder / "killed", whole_run(folder, settings))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("settings", [LIVE, CACHED], ids=["live", "cached"])
def test_many_kills_change_nothing_either(images: Path, settings: list[str], seed: int) -> None:
    """Five kills each, fifty in all; also while it prepares, writes a checkpoint or saves."""
    folder, draw = images.parent, random.Random(seed)
    for step in [0, *sorted(draw.sample(range(1, STEPS + 1), 4))]:
        kill_after(folder, settings, step, delay_s=draw.uniform(0, 0.1))
    finish(folder, settings)
    assert_same_run(folder / "killed", whole_run(folder, settings))


class Killed(BaseException):
    """Like SIGKILL, it runs no cleaning up."""


def killed_at(call: int) -> Callable[..., Any]:
    """`_sync` that dies at its n-th call: state, meta, their folder; after the rename the outer."""
    sync, left = module._sync, iter(range(call))

    def dies(path: Path) -> None:
        if next(left, None) is None:
            raise Killed
        sync(path)

    return dies


@pytest.mark.parametrize(("call", "survivor"), [(0, 1), (1, 1), (2, 1), (3, 2)])
def test_a_kill_inside_a_checkpoint_write_leaves_a_whole_one_and_no_litter_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, survivor: int
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.tensor(1.0)}, {})
    with monkeypatch.context() as patch:
        patch.setattr(module, "_sync", killed_at(call))
        with pytest.raises(Killed):
            checkpoints.save(2, {"x": torch.tensor(2.0)}, {})
    newest = checkpoints.newest()
    assert newest is not None
    newest.load_into({"x": (x := torch.zeros(()))})
    assert (newest.step, x.item()) == (survivor, survivor)
    monkeypatch.setattr(os, "getpid", lambda: -1)  # the resumed run is another process
    checkpoints.save(3, {"x": torch.tensor(3.0)}, {})
    assert not list(tmp_path.glob(".*"))


def test_a_run_killed_before_its_configuration_was_written_can_be_started_again(
    images: Path,
) -> None:
    left = images.parent / "killed" / ".config.yaml.123"
    left.parent.mkdir()
    left.touch()
    recipe = str(images.parent / "toy.yaml")
    settings = words(images.parent, ["optim.steps=1"], out="killed")
    assert api.distill(recipe, *settings, resume=True).steps == 1


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_run_asked_to_stop_saves_its_state_says_so_and_goes_on_as_if_never_stopped(
    images: Path, name: str
) -> None:
    settings = [*LIVE, "train.checkpoints=1", "data.workers=1"]  # none is due before the end
    asked = signal.Signals[name]
    with started(images.parent, settings) as process:
        wait_for(images.parent, 5, process)
        assert process.pid is not None
        for _ in range(2):  # by the cluster, then by torchrun
            os.kill(process.pid, asked)
        assert ended(process) == 128 + asked
    said = (images.parent / "output.txt").read_text().splitlines()[-1]
    assert re.fullmatch(r"stopped on request after step \d+ of 30; .* --resume", said)
    (stored,) = (images.parent / "killed" / "checkpoints").iterdir()
    assert int(stored.name.removeprefix("step-")) >= 5
    finish(images.parent, settings)
    assert_same_run(images.parent / "killed", whole_run(images.parent, settings))


def test_a_run_that_is_older_than_a_setting_is_resumed_and_no_other_one(images: Path) -> None:
    here = words(images.parent, ["optim.steps=2"], out="older")
    api.distill(str(images.parent / "toy.yaml"), *here)
    settings = images.parent / "older" / "config.yaml"
    lines = settings.read_text().splitlines()
    settings.write_text("\n".join(line for line in lines if "shard_teachers" not in line) + "\n")
    assert settings.read_text().count("\n") == len(lines) - 1
    done = api.distill(str(images.parent / "toy.yaml"), *here, resume=True)
    assert done.steps == 2
    with pytest.raises(ValueError, match="another configuration"):
        api.distill(str(images.parent / "toy.yaml"), *here, "optim.lr=1", resume=True)


def test_a_second_run_in_the_same_folder_is_refused_and_disturbs_nothing(images: Path) -> None:
    settings = [*LIVE, "optim.steps=3000"]
    with started(images.parent, settings) as process:
        wait_for(images.parent, 1, process)
        first = (images.parent / "output.txt").read_text()
        with started(images.parent, settings) as second:
            assert ended(second) == 2
        said = (images.parent / "output.txt").read_text().removeprefix(first)
        assert "error: another run is writing to" in said
        step = finished_steps(images.parent / "killed")
        wait_for(images.parent, step + 1, process)
    with started(images.parent, settings) as third:  # the lock went with the first
        wait_for(images.parent, finished_steps(images.parent / "killed") + 1, third)
