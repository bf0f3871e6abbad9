"""A short distillation in one or several processes, which find each other as under torchrun."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, not in __all__

from alumnus import assembly
from alumnus.config import load_config
from alumnus.data import Batch
from alumnus.distill import Distillation
from alumnus.teachers import TeacherPool
from alumnus.training.checkpoint import Checkpoints
from alumnus.training.distributed import World, join_world
from alumnus.training.loop import Interval, NonFiniteError, Trainer
from alumnus.training.sharding import local_part, whole
from forked import started

PATIENCE_S = 240
STEPS = 20


@dataclass(frozen=True)
class Case:
    """What to train, from which recipe and settings, in which precision."""

    name: str
    recipe: str
    words: list[str]
    folder: str  # of the results
    steps: int = STEPS  # of a whole run of STEPS, which the schedules follow
    double: bool = True
    poison: int | None = None  # step in which one image is not finite
    checkpoints: str | None = None  # folder
    takes_up: str | None = None  # checkpoints of another case, copied there to begin with


def run_together(ranks: int, cases: Sequence[Case], folder: Path) -> None:
    """All cases, one after the other, in so many processes.

    AssertionError with what they said where one fails.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # as torchrun has
    everywhere = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": str(ranks),
    }
    outputs = [folder / f"output-{rank}-of-{ranks}.txt" for rank in range(ranks)]
    processes = [
        started(
            run_cases,
            cases,
            output=output,
            variables={**everywhere, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        process.join(PATIENCE_S)
        process.kill()
        process.join()
    if any(process.exitcode for process in processes):
        raise AssertionError("\n".join(output.read_text()[-2000:] for output in outputs))


def run_cases(cases: Sequence[Case]) -> None:
    """In one of the processes."""
    torch.set_num_threads(1)
    with join_world(torch.device("cpu")) as world:
        for case in cases:
            run_case(case, world)


def run_case(case: Case, world: World) -> None:
    """Train, and leave NAME.safetensors and, from each process, NAME.RANK.json."""
    config = load_config(Path(case.recipe), [*case.words, f"optim.steps={STEPS}"])
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
    pool = TeacherPool(teachers, student.encoder.patch_size)
    run.teachers = assembly.build_targets(config, pool, None, cpu, world)
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
    if case.takes_up:
        copy = partial(shutil.copytree, case.takes_up, str(case.checkpoints))
        world.first_alone(copy)
        trainer.resume()
    with nullcontext() if case.poison is None else suppress(NonFiniteError):
        trainer.run()
    state = {name: tensor.contiguous() for name, tensor in state_of(run).items()}
    folder = Path(case.folder)
    if world.is_first:
        save_file(state, folder / f"{case.name}.safetensors")
    held = [local_part(p).numel() for teacher in teachers.values() for p in teacher.parameters()]
    record = {"positions": positions, "losses": losses, "teacher_weights": sum(held)}
    (folder / f"{case.name}.{world.rank}.json").write_text(json.dumps(record))


def state_of(run: Distillation) -> dict[str, Tensor]:
    """Weights and statistics, put together; keys of attention, whose bias walks, without it."""
    state = {name: whole(tensor).clone() for name, tensor in run.module.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("qkv.bias"):
            tensor.chunk(3)[1].zero_()  # no true gradient: see DESIGN, AdamW's eps
    return state
