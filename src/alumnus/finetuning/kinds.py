"""The kinds of heads: a table with one row for each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alumnus.evaluation.tasks import TaskKind, TaskSpec
from alumnus.finetune_config import FinetuneConfig, HeadName
from alumnus.finetuning.backbone import Backbone
from alumnus.finetuning.classes import ClassModel, class_course
from alumnus.finetuning.course import Course
from alumnus.finetuning.head_model import HeadModel, HeadSpec
from alumnus.heads import load_linear_head, save_linear_head

__all__ = ["KINDS", "HeadKind"]


@dataclass(frozen=True, kw_only=True)
class HeadKind:
    """What `alumnus finetune` has to know of one."""

    task: TaskKind  # that asks for the same labels
    score: str  # what the table calls its score
    metric: str  # the same in words
    course: Callable[[FinetuneConfig, Backbone, TaskSpec, torch.device], Course[Any]]
    model: Callable[[Backbone, nn.Module, HeadSpec], HeadModel]
    save: Callable[[Any, Path], None] = save_linear_head  # the weights of the course's head
    load: Callable[[Path], nn.Module] = load_linear_head


KINDS: dict[HeadName, HeadKind] = {
    "classes": HeadKind(
        task="logistic",
        score="top-1",
        metric="top-1 of a trained linear head, %",
        course=class_course,
        model=ClassModel,
    ),
}
