"""Intersection over union of predicted and true masks, by class.

Axes: K classes, c = true class, p = predicted class.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["IGNORE", "MaskScore", "confusion", "mask_score"]

IGNORE = 255  # a pixel with this label is neither learned nor counted


@dataclass(frozen=True, kw_only=True)
class MaskScore:
    """How well masks were predicted; percentages."""

    miou: float  # mean over the classes that occur in the true masks
    pixel_accuracy: float  # share of counted pixels with the right class
    class_accuracy: float  # mean recall over the classes that occur
    iou: Tensor  # [K] float64, percent; NaN where the class does not occur
    pixels: int  # that were counted

    @property
    def occurring(self) -> int:
        """Number of classes in the mean."""
        return int((~self.iou.isnan()).sum())


def confusion(
    prediction: Tensor,  # [...] integers in 0..K-1
    truth: Tensor,  # [...] integers in 0..K-1, or `ignore`
    *,
    classes: int,
    ignore: int = IGNORE,
) -> Tensor:  # [K, K] int64, row c, column p
    """Pixels by true and predicted class, without those to be ignored; adds up over images."""
    counted = truth != ignore
    truth, prediction = truth[counted].long(), prediction[counted].long()
    for what, values in (("true", truth), ("predicted", prediction)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ValueError(
                f"a {what} class of {int(values.min())} to {int(values.max())} occurs, but there "
                f"are {classes} classes, numbered from 0, and {ignore} for what is ignored"
            )
    return (truth * classes + prediction).bincount(minlength=classes**2).view(classes, classes)


def mask_score(pixels: Tensor) -> MaskScore:  # [K, K], of `confusion`
    """Mean intersection over union, from counts of all images together.

        IoU_c = n_cc / (sum_p n_cp + sum_c' n_c'c - n_cc)

    Differs from mmsegmentation, whose mean also takes in, as 0, a class that is predicted
    somewhere but occurs nowhere: here the classes of the mean are those of the true masks, so
    that all models are measured on the same ones. On ADE20K all 150 classes occur.

    ValueError where no pixel was counted.
    """
    counts = pixels.double()
    if not counts.sum() > 0:
        raise ValueError("no pixel has a class, all are to be ignored")
    hit, true = counts.diagonal(), counts.sum(dim=1)
    occurs = true > 0
    iou = torch.where(occurs, hit / (true + counts.sum(dim=0) - hit), torch.nan)
    return MaskScore(
        miou=100 * iou[occurs].mean().item(),
        pixel_accuracy=100 * (hit.sum() / true.sum()).item(),
        class_accuracy=100 * (hit[occurs] / true[occurs]).mean().item(),
        iou=100 * iou,
        pixels=int(true.sum()),
    )
