"""Linear segmentation: what one linear map of frozen patch tokens says of every pixel.

Axes: B windows, D width, K classes, H W pixels, h w grid, S side of the window.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alumnus.data import Source
from alumnus.evaluation.masks import Census, cut, read_pair, scaled
from alumnus.evaluation.miou import IGNORE, MaskScore, confusion, mask_score
from alumnus.evaluation.windows import slide
from alumnus.heads import LinearHead
from alumnus.randomness import derive_seed
from alumnus.training.schedules import poly_schedule

__all__ = [
    "DenseModel",
    "MaskedSource",
    "SegmentationProtocol",
    "constant_masks",
    "fit_head",
    "score_head",
    "train_head",
]

STRIDE = 341 / 512  # of the windows, in sides
WARMUP = 1500 / 40_000  # of the steps
CACHE_GIB = 4.0  # of features, the most that is kept


@dataclass(frozen=True, kw_only=True)
class SegmentationProtocol:
    """How a head is trained and measured; defaults follow DINOv2's linear protocol.

    Every image is brought to the short side that the task names, rounded for each model to a
    multiple of its patch, and seen through square windows of that side. The features of all
    windows of the training images are computed once, and the head is trained on these: AdamW,
    linear warm-up over 3.75% of the steps, then linear decay to 0 (mmsegmentation's `poly` of
    power 1). The learning rate is fixed; nothing is chosen on the test images.

    Source: DINOv2 (arXiv 2304.07193) and its released configurations.
    Differs: the loss looks at one pixel of `loss_stride` x `loss_stride`; no colour distortion.
    """

    steps: int = 1000
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 1e-4
    loss_stride: int = 4


class MaskedSource(NamedTuple):
    """Images with masks, and what was found in them."""

    source: Source
    found: Census


@dataclass(frozen=True, kw_only=True)
class DenseModel:
    """Feature maps of square windows, without gradients."""

    name: str
    fn: Callable[[Tensor], Tensor]  # [B, 3, S, S] ImageNet-normalised -> [B, D, h, w]
    window: int  # S, px

    @property
    def stride(self) -> int:
        """Pixels from one window to the next."""
        return max(1, round(self.window * STRIDE))


def train_head(
    model: DenseModel,
    train: MaskedSource,
    *,
    classes: int,
    protocol: SegmentationProtocol,
    batch_size: int,  # windows a forward pass of the model
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> LinearHead:
    """A head for the model's features, in evaluation mode."""
    features, masks = _kept_features(model, train, protocol, batch_size, num_workers, device)
    batches = _shuffled(features, masks, protocol, device, seed)
    return fit_head(
        batches, dim=features.shape[1], classes=classes, protocol=protocol, device=device, seed=seed
    )


def fit_head(
    batches: Iterator[tuple[Tensor, Tensor]],  # [B, D, h, w], [B, H, W]; one for each step
    *,
    dim: int,
    classes: int,
    protocol: SegmentationProtocol,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> LinearHead:
    """Cross-entropy of logits brought to the mask's size (bilinear), over pixels with a class."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "linear head"))
    head = LinearHead(dim, classes, generator=generator).to(device).train()
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=0.0, weight_decay=protocol.weight_decay, fused=True
    )
    rates = poly_schedule(
        protocol.lr, steps=protocol.steps, warmup_steps=round(WARMUP * protocol.steps)
    )
    for rate, (features, masks) in zip(rates, batches, strict=False):
        optimizer.param_groups[0]["lr"] = float(rate)
        logits = F.interpolate(
            head(features), size=masks.shape[-2:], mode="bilinear", align_corners=False
        )
        total = F.cross_entropy(logits, masks.long(), ignore_index=IGNORE, reduction="sum")
        loss = total / (masks != IGNORE).sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


class _Windows(Dataset[tuple[Tensor, Tensor]]):
    """All windows of each training image, and their masks at the pixels that the loss looks at."""

    def __init__(self, held: MaskedSource, model: DenseModel, loss_stride: int) -> None:
        self.source, self.indices = held.source, held.found.indices
        self.window, self.stride = model.window, model.stride
        self.label_px = max(1, model.window // loss_stride)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        image, mask = scaled(read_pair(self.source, int(self.indices[item])), self.window)
        parts = list(cut(image, mask, window=self.window, stride=self.stride))
        labels = torch.stack([label for _, label in parts])[:, None]
        coarse = F.interpolate(labels, size=(self.label_px, self.label_px), mode="nearest-exact")
        return torch.stack([window for window, _ in parts]), coarse[:, 0]


def _kept_features(
    model: DenseModel,
    train: MaskedSource,
    protocol: SegmentationProtocol,
    batch_size: int,
    num_workers: int,
    device: str | torch.device,
) -> tuple[Tensor, Tensor]:  # [n, D, h, w] float32, [n, H, W] uint8, on the CPU
    """Features and masks of all windows of the training images.

    ValueError where they would take more than `CACHE_GIB`.
    """
    windows = _Windows(train, model, protocol.loss_stride)
    features: list[Tensor] = []
    masks: list[Tensor] = []
    loader = DataLoader(windows, batch_size=None, num_workers=num_workers)
    for images, labels in loader:
        for part in images.split(batch_size):
            features.append(model.fn(part.to(device)).float().cpu())
        masks.append(labels)
        if len(masks) == 1:
            gib = features[0][0].nbytes * len(images) * len(windows) / 2**30
            if gib > CACHE_GIB:
                raise ValueError(
                    f"the features of {len(windows)} images of {train.source.name!r} would take "
                    f"about {gib:.0f} GiB for {model.name} at {model.window} px, and at most "
                    f"{CACHE_GIB:.0f} are kept: take a smaller size or fewer images (PATH[:1000])"
                )
    return torch.cat(features), torch.cat(masks)


def _shuffled(
    features: Tensor,
    masks: Tensor,
    protocol: SegmentationProtocol,
    device: str | torch.device,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches without end; every window once before any comes again."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order of windows"))
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < protocol.batch_size:
            waiting = torch.cat([waiting, torch.randperm(len(features), generator=generator)])
        chosen, waiting = waiting.split([protocol.batch_size, len(waiting) - protocol.batch_size])
        yield features[chosen].to(device), masks[chosen].to(device)


class _Scenes(Dataset[tuple[Tensor, Tensor]]):
    """Test images at a short side of `short_px`, and their masks as they are stored."""

    def __init__(self, held: MaskedSource, short_px: int) -> None:
        self.source, self.indices, self.short_px = held.source, held.found.indices, short_px

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        pair = read_pair(self.source, int(self.indices[item]))
        return scaled(pair, self.short_px)[0], pair.mask


@torch.no_grad()
def score_head(
    model: DenseModel,
    head: LinearHead,
    test: MaskedSource,
    *,
    batch_size: int,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
) -> MaskScore:
    """Masks by sliding windows, compared with the true ones at the size of the stored images."""
    pixels = torch.zeros(head.classes, head.classes, dtype=torch.int64, device=device)
    scenes = DataLoader(_Scenes(test, model.window), batch_size=None, num_workers=num_workers)
    for image, mask in scenes:
        logits = slide(
            image.to(device),
            lambda windows: head(model.fn(windows).float()),
            window=model.window,
            stride=model.stride,
            batch_size=batch_size,
        )
        whole = F.interpolate(logits[None], size=mask.shape, mode="bilinear", align_corners=False)
        pixels += confusion(whole[0].argmax(dim=0), mask.to(device), classes=head.classes)
    return mask_score(pixels.cpu())


def constant_masks(train: Census, test: Census, *, classes: int) -> MaskScore:
    """The trivial predictor: the class with most pixels in training, everywhere."""
    pixels = torch.zeros(classes, classes, dtype=torch.int64)
    pixels[:, int(train.pixels[:classes].argmax())] = test.pixels[:classes]
    return mask_score(pixels)
