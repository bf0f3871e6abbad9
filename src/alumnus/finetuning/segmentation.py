"""The head `segmentation`: a class for each pixel, linear on patch tokens.

Axes: B images, H W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.data import names_of
from alumnus.evaluation.mask_crops import RATIO
from alumnus.evaluation.masks import LabelledSource, census, count_classes
from alumnus.evaluation.results import TaskScore
from alumnus.evaluation.segmentation import (
    MaskObjective,
    SegmentationProtocol,
    constant_masks,
    score_head,
)
from alumnus.evaluation.segmentation_task import mask_details
from alumnus.evaluation.suite import task_record
from alumnus.evaluation.tasks import TaskSpec
from alumnus.finetune_config import FinetuneConfig
from alumnus.finetuning.backbone import Backbone
from alumnus.finetuning.course import Finding
from alumnus.finetuning.dense import (
    ENCODED,
    DenseHeadModel,
    dense_course,
    dense_features,
    split_images,
)
from alumnus.finetuning.head_model import HeadSpec
from alumnus.finetuning.maps import MapCourse, training_record
from alumnus.hardware import choose_workers
from alumnus.heads import LinearHead

__all__ = ["SegmentationModel", "segmentation_course"]


class SegmentationModel(DenseHeadModel):
    """Images to the class of each pixel [B, H, W]."""

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, H, W] int64
        """Numbers of `classes`."""
        fine = F.interpolate(
            self.logits(images), size=images.shape[-2:], mode="bilinear", align_corners=False
        )
        return fine.argmax(dim=1)


def segmentation_course(
    config: FinetuneConfig, backbone: Backbone, task: TaskSpec, device: torch.device
) -> MapCourse:
    """What the head learns from images with masks."""
    workers = choose_workers(config.workers, device)
    dense = dense_features(backbone, task.size_px, device, layers=config.layers, with_cls=False)
    known, tested = (census(source, num_workers=workers) for source in (task.train, task.test))
    names = names_of(task.train, "mask")
    classes = count_classes(known, tested, names)
    learned, held_out = split_images(LabelledSource(task.train, known.indices))

    def measure(head: LinearHead) -> Finding:
        score = score_head(
            dense,
            head,
            LabelledSource(task.test, tested.indices),
            protocol=SegmentationProtocol(),
            batch_size=ENCODED,
            num_workers=workers,
            device=device,
        )
        constant = constant_masks(known, tested, classes=classes)
        return Finding(
            record=task_record(task, learned.indices, tested.indices, training_record(config)),
            score=TaskScore(value=score.miou, details=mask_details(score, task)),
            constant=TaskScore(value=constant.miou, details=mask_details(constant, task)),
        )

    return dense_course(
        config,
        dense,
        learned,
        held_out,
        spec=HeadSpec(
            kind="segmentation",
            size_px=dense.window,
            classes=names,
            options={"layers": config.layers},
        ),
        objective=MaskObjective(classes=classes),
        learns=backbone.learns,
        metric="miou",
        crop_ratio=RATIO,
        measure=measure,
        device=device,
    )
