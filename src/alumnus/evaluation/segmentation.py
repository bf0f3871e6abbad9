"""Linear segmentation: what one linear map of frozen patch tokens says of every pixel.

Axes: B windows, D width, K classes, H W pixels, h w grid, S side of the window.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alumnus.evaluation.masks import Census, LabelledSource, scaled_image
from alumnus.evaluation.miou import IGNORE, MaskScore, confusion, mask_score
from alumnus.evaluation.windows import slide_all
from alumnus.heads import LinearHead
from alumnus.spelling import unknown

__all__ = [
    "LRS",
    "DenseModel",
    "MaskObjective",
    "Scenes",
    "SegmentationProtocol",
    "constant_masks",
    "scene_batches",
    "score_head",
]

Inference = Literal["ss", "ms"]
STRIDE = 341 / 512  # of the windows, in sides
LRS = (1e-3, 3e-3, 1e-2)  # the first is the published one
PIXELS_AT_ONCE = 2**18  # of the stored test images whose windows share forward passes
MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclass(frozen=True, kw_only=True)
class SegmentationProtocol:
    """How a head is trained and measured; defaults follow DINOv2's linear protocol.

    Every image is brought to the short side that the task names, rounded for each model to a
    multiple of its patch, and seen through square windows of that side. AdamW, linear warm-up
    over 3.75% of the steps, then linear decay to 0 (mmsegmentation's `poly` of power 1).

    With `augment` the head sees random crops of images resized at random, whose features are
    computed anew: 40,000 steps with the learning rate 1e-3 are the published protocol, for a GPU.
    Without, the features of all windows of the training images are computed once and kept, so
    that a head takes seconds. These steps are few, and the best learning rate differs by the
    width of the features: it is the one of `LRS` with the best mean IoU on a random 20% of the
    training images, before the head is trained on all. Nothing is chosen on the test images.

    Inference is `ss` at the one size, or `ms`: probabilities are averaged over images of 0.5 to
    1.75 times that size, each also mirrored.

    Source: DINOv2 (arXiv 2304.07193) and its released configurations.
    Differs: without `augment` the loss looks at one pixel of 8 x 8; crops as in `random_crop`;
    for patches that do not divide 512 px images are resized to the next size, not padded.
    """

    augment: bool = False
    inference: Inference = "ss"
    steps: int | None = None  # None: 40,000 with `augment`, 1,000 without
    batch_size: int = 16
    lr: float | None = None  # None: 1e-3 with `augment`, chosen of `LRS` without
    weight_decay: float = 1e-4
    layers: int = 1  # of a ViT, the last ones, side by side
    head: str | None = None  # file of a trained head; nothing is trained then

    def __post_init__(self) -> None:
        if self.inference not in get_args(Inference):
            raise unknown("inference", self.inference, get_args(Inference))

    @property
    def total_steps(self) -> int:
        """Steps of the optimiser."""
        return self.steps or (40_000 if self.augment else 1000)

    @property
    def loss_stride(self) -> int:
        """The loss looks at one pixel of so many, along each axis."""
        return 1 if self.augment else 8

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates to choose from."""
        if self.lr is not None:
            return (self.lr,)
        return LRS[:1] if self.augment else LRS

    @property
    def scales(self) -> tuple[float, ...]:
        """Sizes of a test image, in those of the task."""
        return (1.0,) if self.inference == "ss" else MULTI_SCALE


@dataclass(frozen=True, kw_only=True)
class MaskObjective:
    """A head learns the class of each pixel."""

    classes: int

    @property
    def outputs(self) -> int:
        """Channels of the head."""
        return self.classes

    def loss(self, logits: Tensor, masks: Tensor) -> Tensor:  # [B, K, h, w], [B, H, W] -> []
        """Cross-entropy of logits brought to the mask's size (bilinear), over classed pixels."""
        fine = _at_size(logits, masks.shape[-2:])
        total = F.cross_entropy(fine, masks.long(), ignore_index=IGNORE, reduction="sum")
        return total / (masks != IGNORE).sum().clamp(min=1)

    def score(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Mean IoU of logits and masks as in `loss`, percent."""
        pixels = sum(
            confusion(
                _at_size(logits, masks.shape[-2:]).argmax(dim=1), masks, classes=self.classes
            ).cpu()
            for logits, masks in batches
        )
        assert isinstance(pixels, Tensor), "there is at least one batch"
        return mask_score(pixels).miou


def _at_size(logits: Tensor, size: torch.Size) -> Tensor:  # [B, K, H, W]
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class DenseModel:
    """Feature maps of square windows, without gradients unless the model learns."""

    name: str
    fn: Callable[[Tensor], Tensor]  # [B, 3, S, S] ImageNet-normalised -> [B, D, h, w]
    window: int  # S, px
    dim: int  # D

    @property
    def stride(self) -> int:
        """Pixels from one window to the next."""
        return max(1, round(self.window * STRIDE))


class Scenes(Dataset[tuple[list[Tensor], Tensor]]):
    """Test images at the short sides `short_px`, and their masks as they are stored."""

    def __init__(self, held: LabelledSource, short_px: Sequence[int]) -> None:
        self.held, self.short_px = held, short_px

    def __len__(self) -> int:
        return len(self.held.indices)

    def __getitem__(self, item: int) -> tuple[list[Tensor], Tensor]:
        image, mask = self.held.read(self.held.source, int(self.held.indices[item]))
        return [scaled_image(image, px) for px in self.short_px], mask


def scene_batches(
    test: LabelledSource, short_px: Sequence[int], *, num_workers: int
) -> Iterator[list[tuple[list[Tensor], Tensor]]]:
    """As of `Scenes`, as many at once as share forward passes: of small pictures several."""
    waiting: list[tuple[list[Tensor], Tensor]] = []
    for scene in DataLoader(Scenes(test, short_px), batch_size=None, num_workers=num_workers):
        waiting.append(scene)
        if sum(mask.numel() for _, mask in waiting) >= PIXELS_AT_ONCE:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


@torch.no_grad()
def score_head(
    model: DenseModel,
    head: LinearHead,
    test: LabelledSource,
    *,
    protocol: SegmentationProtocol,
    batch_size: int,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
) -> MaskScore:
    """Masks by sliding windows, compared with the true ones at the size of the stored images."""

    def add_probabilities(images: list[Tensor], totals: list[Tensor], *, mirrored: bool) -> None:
        logits = slide_all(
            [image.flip(-1) if mirrored else image for image in images],
            lambda windows: head(model.fn(windows).float()),
            window=model.window,
            stride=model.stride,
            batch_size=batch_size,
        )
        for each, total in zip(logits, totals, strict=True):
            found = _at_size(each[None], total.shape[-2:])[0].softmax(dim=0)
            total += found.flip(-1) if mirrored else found

    pixels = torch.zeros(head.classes, head.classes, dtype=torch.int64, device=device)
    sizes = [max(1, round(scale * model.window)) for scale in protocol.scales]
    for scenes in scene_batches(test, sizes, num_workers=num_workers):
        totals = [torch.zeros(head.classes, *mask.shape, device=device) for _, mask in scenes]
        for i in range(len(sizes)):
            views = [images[i].to(device) for images, _ in scenes]
            add_probabilities(views, totals, mirrored=False)
            if protocol.inference == "ms":
                add_probabilities(views, totals, mirrored=True)
        for total, (_, mask) in zip(totals, scenes, strict=True):
            pixels += confusion(total.argmax(dim=0), mask.to(device), classes=head.classes)
    return mask_score(pixels.cpu())


def constant_masks(train: Census, test: Census, *, classes: int) -> MaskScore:
    """The trivial predictor: the class with most pixels in training, everywhere."""
    pixels = torch.zeros(classes, classes, dtype=torch.int64)
    pixels[:, int(train.pixels[:classes].argmax())] = test.pixels[:classes]
    return mask_score(pixels)
