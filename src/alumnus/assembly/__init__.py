"""From a configuration to the parts of a run: here config ends, below it nobody knows it."""

from alumnus.assembly.images import (
    Images,
    Sources,
    augmentation,
    batches,
    lay_out,
    open_images,
    open_sources,
    run_steps,
)
from alumnus.assembly.teachers import (
    build_pool,
    build_targets,
    inherited,
    live,
    load_teachers,
    plan_cache,
    started_from,
    teacher_of,
)
from alumnus.assembly.training import (
    build_distillation,
    calibrate,
    encoder_spec,
    new_standardizers,
    new_student,
    start_from,
)

__all__ = [
    "Images",
    "Sources",
    "augmentation",
    "batches",
    "build_distillation",
    "build_pool",
    "build_targets",
    "calibrate",
    "encoder_spec",
    "inherited",
    "lay_out",
    "live",
    "load_teachers",
    "new_standardizers",
    "new_student",
    "open_images",
    "open_sources",
    "plan_cache",
    "run_steps",
    "start_from",
    "started_from",
    "teacher_of",
]
