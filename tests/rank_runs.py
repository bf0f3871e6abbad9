"""A short distillation in one or several processes; a module for the processes of a test.

`python -m torch.distributed.run --nproc-per-node N rank_runs.py CASES.json` does all cases.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from alumnus import assembly
from alumnus.config import load_config
from alumnus.data import Batch
from alumnus.distill import Distillation
from alumnus.teachers import TeacherPool
from alumnus.training.checkpoint import Checkpoints
from alumnus.training.distributed import World, join_world
from alumnus.training.loop import Interval, NonFiniteError, Trainer
from alumnus.training.sharding import whole


@dataclass(frozen=True)
class Case:
    """What to train, from which recipe and settings, in which precision."""

    name: str
    recipe: str
    words: list[str]
    folder: str  # of the results
    steps: int = 20
    of: int = 20  # steps of the whole run, which the schedules follow
    double: bool = True
    poison: int | None = None  # step in which one image is not finite
    checkpoints: str | None = None  # folder; a checkpoint that is there is taken up


def main() -> None:
    """All cases of a file, in this process of those that torchrun started."""
    torch.set_num_threads(1)
    cases = [Case(**case) for case in json.loads(Path(sys.argv[1]).read_text())]
    with join_world(torch.device("cpu")) as world:
        for case in cases:
            run_case(case, world)


def write_cases(cases: list[Case], path: Path) -> Path:
    """The file that `main` reads."""
    path.write_text(json.dumps([asdict(case) for case in cases]))
    return path


def run_case(case: Case, world: World) -> None:
    """Train, and leave NAME.safetensors and, from each process, NAME.RANK.json."""
    config = load_config(Path(case.recipe), [*case.words, f"optim.steps={case.of}"])
    assert isinstance(config.optim.batch_size, int), "toys name their batch"
    teachers = assembly.load_teachers(config)
    images = assembly.open_images(config, [teacher.domain for teacher in teachers.values()])
    student, _ = assembly.new_student(config, teachers)
    dtype = torch.float64 if case.double else torch.float32
    for model in (student, *teachers.values()):
        model.to(dtype)
    cpu = torch.device("cpu")
    run = assembly.build_distillation(config, student, teachers, images, device=cpu, world=world)
    run.standardizers.to(dtype)
    run.teachers = TeacherPool(teachers, student.encoder.patch_size)
    positions: list[list[int]] = []

    def batches(position: int) -> Iterator[Batch]:
        for batch in assembly.batches(
            config, images, position, device=cpu, world=world, on_bad_images=lambda _: None
        ):
            positions.append(batch.position.tolist())
            pictures = batch.images.to(dtype)
            if case.poison is not None:
                bad = batch.position == case.poison * config.optim.batch * config.optim.accumulate
                pictures[bad] = float("nan")
            yield batch._replace(images=pictures, teacher_images=pictures)

    losses: list[object] = []

    def note(interval: Interval) -> None:
        losses.append([interval.metrics["loss"], interval.metrics["loss_T"]])

    checkpoints = None
    if case.checkpoints:
        checkpoints = Checkpoints(Path(case.checkpoints), keep=9, world=world)
    trainer: Trainer[Batch] = Trainer(
        trainable=run,
        batches=batches,
        steps=case.steps,
        batch_size=config.optim.batch_size,
        accumulate=config.optim.accumulate,
        seed=config.train.seed,
        log_every=1 if case.poison is None else case.steps,
        checkpoints=checkpoints,
        world=world,
        on_log=note,
    )
    if case.checkpoints:
        trainer.resume()
    with nullcontext() if case.poison is None else suppress(NonFiniteError):
        trainer.run()
    state = {name: tensor.contiguous() for name, tensor in state_of(run).items()}
    folder = Path(case.folder)
    if world.is_first:
        save_file(state, folder / f"{case.name}.safetensors")
    record = {"positions": positions, "losses": losses}
    (folder / f"{case.name}.{world.rank}.json").write_text(json.dumps(record))


def state_of(run: Distillation) -> dict[str, Tensor]:
    """Weights and statistics, put together; keys of attention, whose bias walks, without it."""
    state = {name: whole(tensor).clone() for name, tensor in run.module.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("qkv.bias"):
            tensor.chunk(3)[1].zero_()  # no true gradient: see DESIGN, AdamW's eps
    return state


if __name__ == "__main__":
    main()
