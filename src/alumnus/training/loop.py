"""The loop: one `Trainer` that distillation, head training and fine-tuning share."""

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from alumnus.randomness import seed_default_generators
from alumnus.training.checkpoint import Checkpoint, Checkpoints
from alumnus.training.distributed import World
from alumnus.training.optimizer import allocate_optimizer, optimizer_tensors

__all__ = ["Evaluation", "Interval", "NonFiniteError", "StoppedError", "Trainable", "Trainer"]

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)


class Trainable(Protocol[B_contra]):
    """What a Trainer drives: a step, and what a resumed run needs."""

    @property
    def module(self) -> nn.Module:
        """All parameters and buffers that go on."""

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    def step(self, micro_batches: Sequence[B_contra], step: int) -> Mapping[str, Tensor]:
        """One optimiser step; metrics stay on the device. "first_bad" is -1 while all is well."""

    def blame(self) -> str:
        """What was not finite in step "first_bad", in words; asked once, when the run stops."""

    def cure(self, step: int) -> str:
        """What to do about it, in words."""


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite; weights and statistics are those before that step."""


class StoppedError(RuntimeError):
    """Somebody asked the run to stop; its state is saved, and it can be resumed."""

    exit_code = 0  # of the command


@dataclass(frozen=True)
class Interval:
    """What is reported every `log_every` steps: the last step's metrics and the pace."""

    step: int  # finished steps
    steps: int
    metrics: dict[str, Any]  # floats, and lists of floats where a metric is a vector
    images_per_s: float
    data_wait: float  # share of the time spent waiting for a batch
    eta_s: float


@dataclass(frozen=True)
class Evaluation:
    """What was measured between two steps: numbers for the report, and whether to end here."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    stop: bool = False


@dataclass
class Trainer(Generic[B]):
    """Runs a Trainable from the newest checkpoint, or the start, to the last step.

    Nothing in a step reads the device; metrics are read once every `log_every` steps, and then
    several processes agree on whether to stop (one alone asks after each step).
    `batches(position)` gives an endless iterator that starts at any position, so a resumed
    run sees exactly the batches it has not seen. `on_eval` is called after the steps in
    `evaluate_at`; what it finds is part of that step's report, its time of no pace.
    """

    trainable: Trainable[B]
    batches: Callable[[int], Iterator[B]]  # starting position, in images
    steps: int
    batch_size: int  # images of one micro-batch
    accumulate: int = 1
    seed: int = 0
    log_every: int = 20
    save_at: Container[int] = ()  # numbers of finished steps; the last one is always saved
    checkpoints: Checkpoints | None = None
    world: World = field(default_factory=World)
    stop_requested: Callable[[], bool] = lambda: False  # asked after each step
    evaluate_at: Container[int] = ()  # numbers of finished steps
    on_eval: Callable[[int], Evaluation] = lambda _: Evaluation()
    on_log: Callable[[Interval], None] = lambda _: None
    first_step: int = field(default=0, init=False)

    def resume(self, at_most: int | None = None) -> int:
        """Take up the newest whole checkpoint (of at most so many steps); its finished steps."""
        checkpoint = self.checkpoints.newest(at_most) if self.checkpoints else None
        if checkpoint is not None:
            self._load(checkpoint)
            self.first_step = checkpoint.step
        return self.first_step

    def run(self) -> int:
        """Train to the end, or to where `on_eval` ends it; the number of finished steps.

        NonFiniteError stops it at the next report after a bad step.
        """
        if self.first_step >= self.steps:
            return self.first_step
        batches = self.batches(self.first_step * self.accumulate * self.batch_size)
        since, waited, last_report = time.perf_counter(), 0.0, self.first_step
        for step in range(self.first_step, self.steps):
            asked = time.perf_counter()
            micro_batches = [next(batches) for _ in range(self.accumulate)]
            waited += time.perf_counter() - asked
            seed_default_generators(self.seed, step, self.world.rank)
            metrics = self.trainable.step(micro_batches, step)
            done = step + 1
            last = done == self.steps
            evaluates = done in self.evaluate_at
            reports = done % self.log_every == 0 or evaluates or last
            if reports or done in self.save_at:  # now the device is read
                # by way of the hosts: a device would wait for ever for a process that has died
                self.world.any(False)
            if reports:
                values: dict[str, Any] = {name: value.tolist() for name, value in metrics.items()}
                self._refuse_bad(values["first_bad"])
                took = time.perf_counter() - since
                if evaluates:
                    evaluation = self.on_eval(done)
                    values |= evaluation.metrics
                    last |= self.world.any(evaluation.stop)
                self.on_log(self._interval(done, done - last_report, values, took, waited))
                since, waited, last_report = time.perf_counter(), 0.0, done
            stops = self._stops(reports)
            if (self.checkpoints is not None) and (done in self.save_at or last or stops):
                self._refuse_bad(int(metrics["first_bad"]))
                self._save(done)
            if stops and not last:
                raise StoppedError(
                    f"stopped on request after step {done} of {self.steps}; the state is saved: "
                    "go on with --resume"
                )
            if last:
                return done
        raise AssertionError("the last step returns")

    def _stops(self, reports: bool) -> bool:
        """Whether to stop here, in all processes alike."""
        if self.world.size == 1:
            return self.stop_requested()
        return reports and self.world.any(self.stop_requested())

    def _save(self, done: int) -> None:
        assert self.checkpoints is not None, "asked before"
        module, optimizer = self.trainable.module, self.trainable.optimizer
        parts = {"module": module.state_dict(), "optimizer": optimizer_tensors(module, optimizer)}
        named = {f"{part}:{name}": t for part, held in parts.items() for name, t in held.items()}
        self.checkpoints.save(done, named, {"seed": self.seed})

    def _load(self, checkpoint: Checkpoint) -> None:
        parts: dict[str, set[str]] = {"module": set(), "optimizer": set()}
        for key in checkpoint.names:
            part, name = key.split(":", 1)
            parts[part].add(name)
        module, optimizer = self.trainable.module, self.trainable.optimizer
        ours = module.state_dict()
        if wrong := sorted(ours.keys() ^ parts["module"]):
            raise ValueError(
                f"the checkpoint is of another student or other teachers: {len(wrong)} tensors "
                f"are missing or too many, {wrong[0]!r} first"
            )
        state = allocate_optimizer(module, optimizer, sorted(parts["optimizer"]))
        named = {f"module:{name}": tensor for name, tensor in ours.items()}
        checkpoint.load_into(named | {f"optimizer:{name}": t for name, t in state.items()})

    def _refuse_bad(self, bad: int) -> None:
        """NonFiniteError once a step was bad; the state before it is saved, to replay it."""
        if bad < 0:
            return
        images = self.batch_size * self.accumulate
        if self.checkpoints is not None:
            self._save(bad)  # weights and statistics are still those before that step
        raise NonFiniteError(
            f"in step {bad} (image positions {bad * images} to {bad * images + images - 1}) "
            f"{self.trainable.blame()} was not finite; nothing was changed from then on. "
            f"{self.trainable.cure(bad)}"
        )

    def _interval(
        self, done: int, steps: int, values: dict[str, Any], took_s: float, waited_s: float
    ) -> Interval:
        pace_s = took_s / steps
        return Interval(
            step=done,
            steps=self.steps,
            metrics={name: value for name, value in values.items() if name != "first_bad"},
            images_per_s=self.batch_size * self.accumulate / pace_s,
            data_wait=waited_s / took_s,
            eta_s=pace_s * (self.steps - done),
        )
