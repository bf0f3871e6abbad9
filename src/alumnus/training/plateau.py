"""When to stop: a pure function of what was measured, so a resumed run decides the same."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["StoppingRule"]


@dataclass(frozen=True)
class StoppingRule:
    """Stop where the best of the last `patience` values is not `min_gain` above all before.

    Values up to `first_step` never count as standing still: under a high learning rate a curve
    is flat and rises again when the rate falls.
    """

    patience: int  # evaluations
    min_gain: float
    first_step: int = 0

    def stops(self, history: Sequence[tuple[int, float]]) -> bool:  # (step, value), ascending
        """Whether the run ends after the last entry."""
        recent = [value for step, value in history if step > self.first_step][-self.patience :]
        before = [value for _, value in history[: -self.patience]]
        if len(recent) < self.patience or not before:
            return False
        return max(recent) < max(before) + self.min_gain
