"""The kinds of heads: a table with one row for each.

A kind has a course (its head, examples, loss and scores), a model for use, and files. Whatever all
share, steps, checkpoints, the encoder and what lies in the folder of the result, is in `running`.
"""

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
from alumnus.finetuning.depth import DepthModel, depth_course
from alumnus.finetuning.head_model import HeadModel, HeadSpec
from alumnus.finetuning.people.course import people_course
from alumnus.finetuning.people.model import PeopleModel
from alumnus.finetuning.segmentation import SegmentationModel, segmentation_course
from alumnus.finetuning.two_view.course import two_view_course
from alumnus.finetuning.two_view.model import TwoViewModel
from alumnus.heads import load_linear_head, save_linear_head
from alumnus.heads.people import PeopleHead, load_people_head, save_people_head
from alumnus.heads.two_view import TwoViewHead, load_two_view_head, save_two_view_head

__all__ = ["KINDS", "HeadKind"]


@dataclass(frozen=True, kw_only=True)
class HeadKind:
    """What `alumnus finetune` has to know of one."""

    task: TaskKind  # that asks for the same labels, and is measured in the same unit
    score: str  # what the table calls its score
    metric: str  # the same in words
    details: tuple[str, ...] = ()  # of the score, that the table shows besides
    batch_size: int = 16  # where none is given, and so on
    lr: float = 3e-3
    weight_decay: float = 1e-4  # of a head alone; with its encoder 0.05
    course: Callable[[FinetuneConfig, Backbone, TaskSpec, torch.device], Course[Any]]
    model: Callable[[Backbone, nn.Module, HeadSpec], HeadModel]
    weights: str = "head.safetensors"  # the file in the folder of the result
    save: Callable[[Any, Path], None] = save_linear_head  # the course's head to that file
    load: Callable[[Path], nn.Module] = load_linear_head


def _save_two_view(head: TwoViewHead, path: Path) -> None:
    save_two_view_head(path.parent, head)


def _save_people(head: PeopleHead, path: Path) -> None:
    save_people_head(path.parent, head)


KINDS: dict[HeadName, HeadKind] = {
    "classes": HeadKind(
        task="logistic",
        score="top-1",
        metric="top-1 of a trained linear head, %",
        batch_size=32,
        course=class_course,
        model=ClassModel,
    ),
    "segmentation": HeadKind(
        task="segmentation",
        score="mIoU",
        metric="mean IoU of a trained linear head, %",
        details=("pixel_accuracy",),
        course=segmentation_course,
        model=SegmentationModel,
    ),
    "depth": HeadKind(
        task="depth",
        score="delta1",
        metric="pixels within a factor of 1.25 (delta1), by a trained linear head, %",
        details=("abs_rel", "rmse_m"),
        course=depth_course,
        model=DepthModel,
    ),
    "two-view": HeadKind(
        task="matching",
        score="AUC@20",
        metric="pose AUC up to 20 degrees, from pointmaps, %",
        details=(
            "auc5",
            "auc10",
            "abs_rel",
            "delta1",
            "own_points_m",
            "other_points_m",
            "match_4px",
            "match_patch",
        ),
        lr=5e-4,
        weight_decay=0.05,
        course=two_view_course,
        model=TwoViewModel,
        weights="two_view.safetensors",
        save=_save_two_view,
        load=load_two_view_head,
    ),
    "people": HeadKind(
        task="body",
        score="PVE",
        metric="mean error of vertices relative to the pelvis (PVE), mm",
        details=("pa_pve_mm", "mpjpe_mm", "pa_mpjpe_mm", "pck", "precision", "recall"),
        batch_size=64,
        lr=1.2e-3,
        weight_decay=0.05,
        course=people_course,
        model=PeopleModel,
        weights="people.safetensors",
        save=_save_people,
        load=load_people_head,
    ),
}
