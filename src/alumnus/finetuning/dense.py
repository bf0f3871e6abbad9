"""What segmentation and depth share: a course on windows of images, a model of any size.

Axes: B images or windows, H W pixels.
"""

from collections.abc import Callable
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from alumnus.evaluation.head_training import Objective, RandomCrops, keep_features
from alumnus.evaluation.masks import LabelledSource, scaled_image
from alumnus.evaluation.segmentation import DenseModel
from alumnus.evaluation.segmentation_task import dense_model
from alumnus.evaluation.tasks import LacksFeatureError
from alumnus.finetune_config import FinetuneConfig
from alumnus.finetuning.backbone import Backbone
from alumnus.finetuning.course import Finding
from alumnus.finetuning.head_model import HeadModel, HeadSpec
from alumnus.finetuning.maps import MapCourse, new_head, split_rows
from alumnus.hardware import choose_workers
from alumnus.heads import LinearHead

__all__ = ["ENCODED", "DenseHeadModel", "dense_course", "dense_features", "split_images"]

ENCODED = 16  # windows at a time
LOSS_STRIDE = 8  # kept labels are those of one pixel of so many, along each axis
ENDLESS = 2**62


def dense_features(
    backbone: Backbone, size_px: int, device: torch.device, *, layers: int, with_cls: bool
) -> DenseModel:
    """Feature maps of windows; ValueError, one sentence, for an encoder that has none."""
    try:
        return dense_model(
            backbone.model,
            size_px,
            device,
            layers=layers,
            with_cls=with_cls,
            learns=backbone.learns,
        )
    except LacksFeatureError as error:
        raise ValueError(f"{backbone.model.name} cannot carry this head: {error}") from error


def split_images(images: LabelledSource) -> tuple[LabelledSource, LabelledSource]:
    """Those to learn from, and those held out."""
    rows = split_rows(images.source, images.indices)
    learned, held_out = (images._replace(indices=images.indices[part]) for part in rows)
    return learned, held_out


def dense_course(
    config: FinetuneConfig,
    dense: DenseModel,
    learned: LabelledSource,
    held_out: LabelledSource,
    *,
    learns: bool,  # whether the encoder does
    spec: HeadSpec,
    objective: Objective,
    metric: str,
    crop_ratio: tuple[float, float],  # of the image's short side to the window
    measure: Callable[[LinearHead], Finding],
    device: torch.device,
) -> MapCourse:
    """What a head learns from images with a value for each pixel."""
    workers = choose_workers(config.workers, device)
    keep = partial(
        keep_features,
        dense,
        loss_stride=LOSS_STRIDE,
        batch_size=ENCODED,
        num_workers=workers,
        device=device,
        remedy="set augment=true",
    )
    crops = RandomCrops(
        learned, window=dense.window, count=ENDLESS, seed=config.seed, ratio=crop_ratio
    )
    head = new_head(dense.dim, objective.outputs, seed=config.seed).to(device)
    return MapCourse(
        head=head,
        spec=spec,
        objective=objective,
        metric=metric,
        examples=len(learned.indices),
        features=dense.fn,
        crops=crops if config.augment or learns else None,
        keep_train=partial(keep, learned),
        keep_held_out=partial(keep, held_out) if len(held_out.indices) else None,
        measure=partial(measure, head),
        learns=learns,
        num_workers=workers,
        seed=config.seed,
        device=device,
    )


class DenseHeadModel(HeadModel):
    """Images to a value for each pixel."""

    with_cls = False  # whether [CLS] stands behind each patch token

    def __init__(self, backbone: Backbone, head: nn.Module, spec: HeadSpec) -> None:
        super().__init__(backbone, head, spec)
        device = next(head.parameters()).device
        layers = int(spec.options["layers"])
        self._features = dense_features(
            backbone, spec.size_px, device, layers=layers, with_cls=self.with_cls
        ).fn

    def prepare(self, picture: Image.Image) -> Tensor:  # [3, H, W]
        """The whole picture, its short side as in evaluations."""
        return scaled_image(picture, self.spec.size_px)

    def logits(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K, h, w]
        """The head's map, on the encoder's grid."""
        logits: Tensor = self.head(self._features(self._whole_patches(images)).float())
        return logits
