"""Checkpoints are whole or not there; logs forget what a resumed run does again."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alumnus.training import checkpoint as module
from alumnus.training.checkpoint import Checkpoints
from alumnus.training.logs import MetricsLog, format_line, format_seconds
from alumnus.training.loop import Interval


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3,), value), "b": torch.tensor(7)}


def test_the_newest_checkpoint_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, tensors(step), {"seed": 5})
    assert checkpoints.steps() == [2, 3]
    loaded = checkpoints.newest()
    assert loaded is not None
    assert loaded.step == 3
    assert loaded.meta == {"seed": 5}
    assert loaded.names == ["a", "b"]
    state = tensors(0)
    loaded.load_into(state)
    assert torch.equal(state["a"], torch.full((3,), 3.0))


@pytest.mark.parametrize("damage", ["flipped byte", "cut", "no meta"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tensors(1), {})
    newest = checkpoints.save(2, tensors(2), {})
    state = newest / "state.safetensors"
    content = bytearray(state.read_bytes())
    if damage == "flipped byte":
        content[-1] ^= 1
        state.write_bytes(content)
    elif damage == "cut":
        state.write_bytes(content[:-2])
    else:
        (newest / "meta.json").unlink()
    loaded = checkpoints.newest()
    assert loaded is not None
    assert loaded.step == 1
    assert "damaged" in caplog.text


def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tensors(1), {})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_tensors", full)
    with pytest.raises(OSError, match="the disk is full: checkpoint step 2") as caught:
        checkpoints.save(2, tensors(2), {})
    assert "--resume" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def interval(step: int) -> Interval:
    return Interval(
        step=step,
        steps=100,
        metrics={"loss": 0.5, "loss_T": [0.25, 0.75]},
        images_per_s=412.0,
        data_wait=0.03,
        eta_s=18720.0,
    )


def test_resumed_metrics_have_every_step_once(tmp_path: Path) -> None:
    jsonl, board = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    first = MetricsLog(jsonl, board, names={"loss_T": ["a", "b"]})
    for step in (10, 20, 30):
        first(interval(step))
    first.close()
    with jsonl.open("a") as file:
        file.write('{"step": 40, "lo')  # killed in the middle of a line
    second = MetricsLog(jsonl, board, names={"loss_T": ["a", "b"]}, first_step=20)
    second(interval(30))
    second.close()
    records = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [record["step"] for record in records] == [10, 20, 30]
    assert records[0]["loss/b"] == 0.75
    curves = EventAccumulator(str(board))
    curves.Reload()
    assert [event.step for event in curves.Scalars("loss/b")] == [10, 20, 30]
    assert {event.value for event in curves.Scalars("loss/b")} == {0.75}


def test_metrics_survive_a_disk_that_is_full_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl = tmp_path / "metrics.jsonl"
    jsonl.write_text('{"step": 1}\n{"step": 2}\n')
    before = jsonl.read_text()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_sync", full)
    with pytest.raises(OSError, match="No space"):
        MetricsLog(jsonl, tmp_path / "tensorboard", names={}, first_step=1)
    assert jsonl.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_line_says_whether_it_is_well() -> None:
    line = format_line(interval(20), {"loss": 0.5, "loss/a": 0.25, "loss/mast3r": 0.75})
    assert line == (
        "step 20/100  loss 0.5000  worst mast3r 0.750  412 img/s  data-wait 3%  ETA 5h12m"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(42, "42s"), (425, "7m05s"), (18720, "5h12m"), (273600, "3d04h")]
)
def test_seconds_are_readable(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
