"""What one kind of head learns and how: the interface between the kinds and the run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor, nn

from alumnus.evaluation.results import TaskRecord, TaskScore
from alumnus.finetuning.head_model import HeadSpec

__all__ = ["Course", "Finding"]

B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the test images say of a head, and of a constant prediction."""

    record: TaskRecord
    score: TaskScore
    constant: TaskScore


class Course(Protocol[B]):
    """A head, the examples that it learns from, and how well it has learned.

    Batches are a function of their position, so that a resumed run sees those that it has not
    seen. `loss` has gradients for the head, and for an encoder that learns too.
    """

    @property
    def head(self) -> nn.Module: ...

    @property
    def examples(self) -> int:
        """How many an epoch has."""

    @property
    def spec(self) -> HeadSpec:
        """What describes the head in its file."""

    def batches(self, position: int, batch_size: int) -> Iterator[B]:
        """Endless batches from a position on, in examples."""

    def loss(self, batch: B) -> Tensor:  # []
        """To be minimised."""

    def look(self) -> Mapping[str, float]:
        """Scores on held-out training images; empty where there are none."""

    def test(self) -> Finding:
        """Scores on the test images."""
