"""One step of a run again, looked at closely: `alumnus replay`."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alumnus import assembly
from alumnus.config import load_config
from alumnus.data import Source
from alumnus.hardware import choose_device
from alumnus.randomness import seed_default_generators
from alumnus.run_folder import RunFolder
from alumnus.running import new_trainer, prepare
from alumnus.training.distributed import World

__all__ = ["ReplayedImage", "ReplayedStep", "replay_step"]


@dataclass(frozen=True)
class ReplayedImage:
    """An image of the step and what each teacher's loss on it was."""

    position: int  # in the run
    source: str
    identity: str
    losses: dict[str, float]

    @property
    def worst(self) -> float:
        """The highest loss; infinite where one is not finite."""
        return max(v if math.isfinite(v) else math.inf for v in self.losses.values())


@dataclass(frozen=True)
class ReplayedStep:
    """What a step of a run did, or would have done."""

    step: int
    images: list[ReplayedImage]  # worst first
    losses: dict[str, float]  # mean of each teacher
    gradient_norms: dict[str, float]  # by parameter

    @property
    def bad_gradients(self) -> list[str]:
        """Parameters whose gradient is not finite."""
        return [name for name, norm in self.gradient_norms.items() if not math.isfinite(norm)]

    @property
    def bad_images(self) -> list[ReplayedImage]:
        """Images with a loss that is not finite."""
        return [image for image in self.images if math.isinf(image.worst)]


def replay_step(folder: RunFolder, step: int) -> ReplayedStep:
    """Go from the newest checkpoint at or before a step up to it, and look at it; writes nothing.

    A run that stopped at a step that was not finite has left a checkpoint right before it. Any
    number of processes may have made the run; this is one, with the whole batch. ValueError where
    there is no run, or no such step.
    """
    if not folder.config.is_file():
        raise ValueError(f"{folder.path} holds no run: no config.yaml")
    config = load_config(folder.config)
    device = choose_device(config.train.device)
    parts = prepare(config, device, World())
    config, run = parts.config, parts.run
    steps = assembly.run_steps(config, parts.images)
    if not 0 <= step < steps:
        raise ValueError(f"the run in {folder.path} has steps 0 to {steps - 1}, not {step}")
    run.teachers = assembly.build_targets(config, parts.pool, parts.features, device)
    trainer, batches = new_trainer(config, run, parts.images, folder, lambda _: None, World())
    trainer.resume(at_most=step)
    trainer.checkpoints = None
    if not run.standardizers.get_buffer("calibrated"):
        assembly.calibrate(run, batches(0), config.standardize.calibration_steps)
    trainer.steps = step
    trainer.run()

    per_step = config.optim.batch * config.optim.accumulate
    upcoming = batches(step * per_step)
    micro_batches = [next(upcoming) for _ in range(config.optim.accumulate)]
    seed_default_generators(config.train.seed, step)
    loss_TB, norms = run.examine(micro_batches, step)
    place = [
        torch.cat([getattr(batch, name) for batch in micro_batches]).tolist()
        for name in ("position", "source", "index")
    ]
    images = _images(loss_TB, place, run.teacher_names, parts.images.mixture.sources)
    return ReplayedStep(
        step=step,
        images=sorted(images, key=lambda image: -image.worst),
        losses=dict(zip(run.teacher_names, loss_TB.mean(dim=1).tolist(), strict=True)),
        gradient_norms={name: float(norm) for name, norm in norms.items()},
    )


def _images(
    loss_TB: Tensor,
    place: list[list[int]],  # position, source, index of each image
    teachers: list[str],
    sources: tuple[Source, ...],
) -> list[ReplayedImage]:
    return [
        ReplayedImage(
            position,
            sources[source].name,
            sources[source].identity(index),
            dict(zip(teachers, losses, strict=True)),
        )
        for position, source, index, losses in zip(*place, loss_TB.T.tolist(), strict=True)
    ]
