"""A linear head learns segmentation from frozen features, kept or computed anew for each crop.

Axes: B windows, D width, K classes, H W pixels, h w grid, S side of the window.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alumnus.evaluation.mask_crops import random_crop
from alumnus.evaluation.masks import cut, read_pair, scaled
from alumnus.evaluation.miou import IGNORE
from alumnus.evaluation.segmentation import DenseModel, MaskedSource, SegmentationProtocol
from alumnus.heads import LinearHead
from alumnus.randomness import derive_seed
from alumnus.training.schedules import poly_schedule

__all__ = ["fit_head", "train_head"]

WARMUP = 1500 / 40_000  # of the steps
CACHE_GIB = 4.0  # of features, the most that is kept


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
    if protocol.augment:
        batches = _augmented(model, train, protocol, batch_size, num_workers, device, seed)
    else:
        features, masks = _kept_features(model, train, protocol, batch_size, num_workers, device)
        batches = _shuffled(features, masks, protocol, device, seed)
    return fit_head(
        batches, dim=model.dim, classes=classes, protocol=protocol, device=device, seed=seed
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
        protocol.lr, steps=protocol.total_steps, warmup_steps=round(WARMUP * protocol.total_steps)
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
                    f"{CACHE_GIB:.0f} are kept: add --augment, which computes them anew at "
                    "each step, or take a smaller size or fewer images (PATH:train[:1000])"
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


class _Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crop number k of a training: a function of the seed and k, whichever worker makes it."""

    def __init__(self, held: MaskedSource, window: int, count: int, seed: int) -> None:
        self.source, self.indices = held.source, held.found.indices
        self.window, self.count, self.seed = window, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        turn, place = divmod(item, len(self.indices))
        order = torch.randperm(len(self.indices), generator=self._generator("order", turn))
        pair = read_pair(self.source, int(self.indices[order[place]]))
        return random_crop(pair, window=self.window, generator=self._generator("crop", item))

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose, number))


def _augmented(
    model: DenseModel,
    train: MaskedSource,
    protocol: SegmentationProtocol,
    batch_size: int,
    num_workers: int,
    device: str | torch.device,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and masks of random crops; the model runs in each step."""
    crops = _Crops(train, model.window, protocol.total_steps * protocol.batch_size, seed)
    loader = DataLoader(crops, batch_size=protocol.batch_size, num_workers=num_workers)
    for images, masks in loader:
        features = [model.fn(part) for part in images.to(device).split(batch_size)]
        yield torch.cat(features).float(), masks.to(device)
