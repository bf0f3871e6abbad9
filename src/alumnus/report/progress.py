"""The progress of a run at a terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from alumnus.training.logs import format_losses, format_pace
from alumnus.training.loop import Interval

__all__ = ["ProgressBar"]

SHOWN = 3  # teachers, those with the highest loss


class ProgressBar:
    """A bar with losses, images per second, data-wait and ETA; drawn from the first report on.

    A context manager; call it with each `Interval`, its metrics by name. Text logged to the same
    console meanwhile scrolls above the bar.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            console=console,
            expand=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, interval: Interval) -> None:
        if self._task is None:
            self._task = self._progress.add_task("", total=interval.steps)
            self._progress.start()
        losses = format_losses(interval.metrics, teachers=SHOWN)
        description = f"{losses}  {format_pace(interval)}"
        self._progress.update(self._task, completed=interval.step, description=description)
        if interval.step == interval.steps:  # what follows, the evaluation, has its own words
            self._progress.stop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
