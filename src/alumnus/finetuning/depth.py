"""The head `depth`: metres for each pixel, as a mean over bins, linear on patch tokens.

Axes: B images, K bins, H W pixels.
"""

import torch
from torch import Tensor, nn

from alumnus.evaluation.depth import (
    DepthObjective,
    DepthProtocol,
    bins_of,
    constant_depths,
    score_depths,
)
from alumnus.evaluation.depth_maps import survey
from alumnus.evaluation.depth_task import depth_cell
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
from alumnus.heads import LinearHead, expected_depth, uniform_bins

__all__ = ["DepthModel", "depth_course"]

CROP_RATIO = (1.0, 1.0)  # a nearer view of the same depths would be a wrong one


class DepthModel(DenseHeadModel):
    """Images to metres [B, H, W]."""

    with_cls = True

    def __init__(self, backbone: Backbone, head: nn.Module, spec: HeadSpec) -> None:
        super().__init__(backbone, head, spec)
        least_m, most_m, count = (spec.options[name] for name in ("least_m", "most_m", "bins"))
        device = next(head.parameters()).device
        self.register_buffer("bins", uniform_bins(least_m, most_m, int(count)).to(device))

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, H, W]
        """Metres."""
        height, width = images.shape[-2:]
        return expected_depth(self.logits(images), self.get_buffer("bins"), size=(height, width))


def depth_course(
    config: FinetuneConfig, backbone: Backbone, task: TaskSpec, device: torch.device
) -> MapCourse:
    """What the head learns from images with depths."""
    workers = choose_workers(config.workers, device)
    dense = dense_features(
        backbone, task.size_px, device, layers=config.layers, with_cls=DepthModel.with_cls
    )
    most_m = config.max_depth
    known, tested = (
        survey(source, most_m=most_m, num_workers=workers) for source in (task.train, task.test)
    )
    learned, held_out = split_images(known.images)
    bins = bins_of(DepthProtocol(most_m=most_m), known.most_m)

    def measure(head: LinearHead) -> Finding:
        score = score_depths(
            dense,
            head,
            bins.to(device),
            tested.images,
            median_scaling=False,
            batch_size=ENCODED,
            num_workers=workers,
            device=device,
        )
        constant = constant_depths(
            known.median_m, tested.images, median_scaling=False, num_workers=workers
        )
        used = learned.indices, tested.images.indices
        return Finding(
            record=task_record(task, *used, training_record(config)),
            score=depth_cell(score, {"size_px": dense.window}, tested.pixels),
            constant=depth_cell(constant, {"depth_m": known.median_m}, tested.pixels),
        )

    return dense_course(
        config,
        dense,
        learned,
        held_out,
        spec=HeadSpec(
            kind="depth",
            size_px=dense.window,
            options={
                "layers": config.layers,
                "least_m": float(bins[0]),
                "most_m": float(bins[-1]),
                "bins": len(bins),
            },
        ),
        objective=DepthObjective(bins.to(device)),
        learns=backbone.learns,
        metric="delta1",
        crop_ratio=CROP_RATIO,
        measure=measure,
        device=device,
    )
