"""An encoder with a trained head on top: images in, answers out.

Axes: B images, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor, nn

from alumnus.finetuning.backbone import Backbone
from alumnus.spelling import unknown
from alumnus.teachers.base import resize_images

__all__ = ["HeadModel", "HeadSpec"]


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Everything needed to use a head again, without its weights and its encoder's."""

    kind: str
    size_px: int  # of the images that it learned from
    classes: tuple[str, ...] | None = None  # their names, where known
    options: Mapping[str, float] = field(default_factory=dict)  # of the kind

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HeadSpec":
        """The inverse of `dataclasses.asdict`, from JSON; ValueError for a key too many or few."""
        known = list(cls.__dataclass_fields__)
        lacking = [key for key in ("kind", "size_px") if key not in values]
        if lacking:
            raise ValueError(f"the description of a head lacks {' and '.join(lacking)}")
        for key in values:
            if key not in known:
                raise unknown("head setting", key, known)
        names = values.get("classes")
        return cls(**{**values, "classes": None if names is None else tuple(names)})


class HeadModel(nn.Module):
    """Images to answers; one subclass for each kind of head says which, by its `forward`.

    Images are ImageNet-normalised, of any size near that of `prepare`.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, spec: HeadSpec) -> None:
        super().__init__()
        self.encoder, self.head, self.spec = backbone.network, head, spec
        self._model = backbone.model

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the head's; None where nobody named them."""
        return self.spec.classes

    def prepare(self, picture: Image.Image) -> Tensor:  # [3, H, W]
        """A picture as the head has seen those that it was measured on."""
        raise NotImplementedError

    def _whole_patches(self, images: Tensor) -> Tensor:
        """The images at the nearest size that the patch divides."""
        patch = self._model.patch_px
        height, width = (max(1, round(side / patch)) * patch for side in images.shape[-2:])
        return resize_images(images, (height, width))
