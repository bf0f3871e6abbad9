"""What a run tells: one line a report, metrics.jsonl and TensorBoard."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from alumnus.training.checkpoint import write_atomically
from alumnus.training.loop import Interval

__all__ = [
    "MetricsLog",
    "format_line",
    "format_losses",
    "format_pace",
    "format_seconds",
    "read_metrics",
]

log = logging.getLogger(__name__)


class MetricsLog:
    """Writes each interval to metrics.jsonl and TensorBoard; lists get one name per entry.

    A resumed run first drops the lines of steps that it will do again.
    """

    def __init__(
        self,
        jsonl: Path,
        tensorboard: Path,
        *,
        names: dict[str, Sequence[str]],  # of the entries of vector metrics, e.g. {"loss_T": ...}
        first_step: int = 0,
    ) -> None:
        kept = [line for line in _lines(jsonl) if json.loads(line)["step"] <= first_step]
        write_atomically(jsonl, "".join(line + "\n" for line in kept))
        self._jsonl = jsonl
        self._names = names
        self._writer = SummaryWriter(str(tensorboard), purge_step=first_step + 1)

    def __call__(self, interval: Interval) -> None:
        """Record one interval and log its line."""
        named = self.named(interval)
        record = {
            "step": interval.step,
            **named,
            "images_per_s": round(interval.images_per_s, 1),
            "data_wait": round(interval.data_wait, 4),
        }
        with self._jsonl.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, interval.step)
        log.info(format_line(interval, named))

    def named(self, interval: Interval) -> dict[str, float]:
        """The metrics as scalars: `loss_T` of two teachers becomes `loss/a` and `loss/b`."""
        scalars: dict[str, float] = {}
        for name, value in interval.metrics.items():
            if isinstance(value, list):
                prefix = name.rsplit("_", 1)[0]
                scalars |= {
                    f"{prefix}/{entry}": v
                    for entry, v in zip(self._names[name], value, strict=True)
                }
            else:
                scalars[name] = value
        return scalars

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._writer.close()


def format_line(interval: Interval, named: Mapping[str, float]) -> str:
    """`step 1200/50000  loss 0.412  worst mast3r 0.61  412 img/s  data-wait 3%  ETA 5h12m`."""
    losses = format_losses(named, teachers=1)
    return f"step {interval.step}/{interval.steps}  {losses}  {format_pace(interval)}"


def format_losses(named: Mapping[str, float], *, teachers: int) -> str:
    """`loss 0.412  worst mast3r 0.61, dinov2 0.43`: the total, and the highest of several."""
    losses = {name.removeprefix("loss/"): v for name, v in named.items() if "loss/" in name}
    worst = sorted(losses, key=lambda name: -losses[name])[:teachers]
    total = f"loss {named['loss']:.4f}"
    if len(losses) < 2:
        return total
    return f"{total}  worst {', '.join(f'{name} {losses[name]:.3f}' for name in worst)}"


def format_pace(interval: Interval) -> str:
    """`412 img/s  data-wait 3%  ETA 5h12m`."""
    parts = (
        f"{interval.images_per_s:.0f} img/s",
        f"data-wait {interval.data_wait:.0%}",
        f"ETA {format_seconds(interval.eta_s)}",
    )
    return "  ".join(parts)


def format_seconds(seconds: float) -> str:
    """`42s`, `7m05s`, `5h12m`, `3d04h`."""
    if not math.isfinite(seconds):
        return "?"
    total = round(seconds)
    for unit, size, smaller, smaller_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if total >= size:
            return f"{total // size}{unit}{total % size // smaller_size:02d}{smaller}"
    return f"{total}s"


def read_metrics(path: Path, *, last_step: int) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl up to a step; none where there is no file."""
    records = [json.loads(line) for line in _lines(path)]
    return [record for record in records if record["step"] <= last_step]


def _lines(path: Path) -> list[str]:
    def whole(line: str) -> bool:
        try:
            record: Any = json.loads(line)
        except json.JSONDecodeError:  # cut by a kill in the middle of a write
            return False
        return isinstance(record, dict) and "step" in record

    return [line for line in path.read_text().splitlines() if whole(line)] if path.exists() else []
