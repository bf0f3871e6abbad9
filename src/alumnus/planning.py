"""From a configuration to a plan: builds everything but the run's folder, and looks at it."""

import resource
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from alumnus import assembly, auto, costs, licences
from alumnus.config import RunConfig
from alumnus.distill import Distillation
from alumnus.pace import measure_time
from alumnus.plans import Disk, Memory, Part, Plan
from alumnus.student import Student
from alumnus.teachers import FeatureCache, Teacher, TeacherPool
from alumnus.tokens import EncoderOutput

__all__ = ["make_plan"]


def make_plan(config: RunConfig, device: torch.device, *, measure: bool = True) -> Plan:
    """Build everything but the run's folder and the feature cache, and look at it."""
    teachers = assembly.load_teachers(config)
    sources = assembly.open_sources(config, [teacher.domain for teacher in teachers.values()])
    student, _ = assembly.new_student(config, teachers)
    count = sum(map(len, sources.train))
    config, choices = auto.settle(
        config, images=count, student=student, teachers=teachers, device=device
    )
    images = assembly.lay_out(config, sources, device, teachers=teachers)
    pool = assembly.build_pool(config, teachers, student)
    cache = assembly.plan_cache(config, pool, images, check_disk=False)
    parts = _parts(config, student, pool)
    run = assembly.build_distillation(config, student, teachers, images, device=device)
    steps = assembly.run_steps(config, images)
    pool.to(device)
    time_needed = measure_time(config, run, images, pool, cache, steps) if measure else None
    return Plan(
        parts=parts,
        images=count,
        held_out=sum(map(len, sources.held_out)),
        steps=steps,
        batch=run.global_batch,
        choices=tuple(choices),
        memory=_memory(config, run, teachers, peak=_peak(device) if measure else None),
        disk=_disk(config, run, cache),
        time=time_needed,
        licences=tuple(licences.sentences(assembly.inherited(config, teachers))),
    )


def _parts(config: RunConfig, student: Student, pool: TeacherPool) -> tuple[Part, ...]:
    """The networks, with their operations for an image: the mean over the sizes of the steps."""
    drawn = Counter(config.data.sizes or [config.data.size])
    images = {side: torch.zeros(1, config.student.in_channels, side, side) for side in drawn}
    encode = partial(student.eval().encoder, blocks=student.blocks)
    with torch.no_grad():
        outputs = {side: encode(image) for side, image in images.items()}

    def flops(network: Callable[[Tensor], object]) -> int:
        counted = sum(costs.flops(network, images[side]) * n for side, n in drawn.items())
        return round(counted / drawn.total())

    encoder = costs.parameters(student.encoder)
    parts = [Part("encoder", config.student.model, encoder, flops(encode))]
    sides = {f"{name} (side)": side for name, side in student.sides.items()}
    for name, projector in [*student.projectors.items(), *sides.items()]:
        operations = flops(partial(_projected, projector, outputs))
        parts.append(Part("projector", name, costs.parameters(projector), operations))
    for name, teacher in pool.teachers.items():
        look = partial(_taught, pool.subset([name]), config.data.teacher_size)
        on_host = teacher.runs_on == "host"
        weights, counted = costs.parameters(teacher), None if on_host else flops(look)
        parts.append(Part("teacher", name, weights, counted, teacher.licence))
    return tuple(parts)


def _projected(projector: nn.Module, outputs: Mapping[int, EncoderOutput], image: Tensor) -> object:
    """What a projector makes of the encoder's output for an image of this size."""
    return projector(outputs[image.shape[-1]])


def _taught(pool: TeacherPool, teacher_side: int | None, image: Tensor) -> object:
    """What the teachers of a pool say to an image of this size."""
    height, width = image.shape[-2:]
    return pool.probe((height, width), (teacher_side, teacher_side) if teacher_side else None)


def _memory(
    config: RunConfig, run: Distillation, teachers: Mapping[str, Teacher], *, peak: int | None
) -> Memory:
    trained = sum(p.numel() * p.element_size() for p in run.parameters)
    per_image = costs.activation_bytes(
        run.student,
        side_px=max(config.data.sides),
        channels=config.student.in_channels,
        device=run.device,
        bf16=run.bf16,
    )
    return Memory(
        weights=costs.parameter_bytes(run.module),
        gradients=trained,
        optimizer=2 * trained,
        activations=per_image * config.optim.batch,
        teachers=sum(costs.parameter_bytes(teacher) for teacher in teachers.values()),
        peak=peak,
    )


def _disk(config: RunConfig, run: Distillation, cache: FeatureCache | None) -> Disk:
    state = costs.parameter_bytes(run.module)
    state += 2 * sum(p.numel() * p.element_size() for p in run.parameters)
    kept = min(config.train.keep, config.train.checkpoints) + 1
    encoder = costs.parameter_bytes(run.student.get_submodule("encoder"))
    place = Path(config.out or ".").expanduser().absolute()
    existing = next(path for path in (place, *place.parents) if path.exists())
    return Disk(
        cache=cache.bytes if cache else 0,
        cache_missing=cache.missing_bytes if cache else 0,
        checkpoints=kept * state,
        models=encoder + costs.parameter_bytes(run.student),
        free=shutil.disk_usage(existing).free,
    )


def _peak(device: torch.device) -> int | None:
    """The most bytes in use so far: of the accelerator, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu":
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
