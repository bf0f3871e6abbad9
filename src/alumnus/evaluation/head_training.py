"""A linear head learns from frozen features, kept or computed anew for each crop.

Axes: B windows, D width, K classes, H W pixels, h w grid, S side of the window.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alumnus.evaluation.mask_crops import RATIO, random_crop
from alumnus.evaluation.masks import LabelledSource, cut, scaled
from alumnus.evaluation.segmentation import DenseModel
from alumnus.heads import LinearHead
from alumnus.randomness import derive_seed
from alumnus.training.schedules import poly_schedule

__all__ = [
    "HeadTraining",
    "KeptFeatures",
    "Objective",
    "RandomCrops",
    "TrainedHead",
    "fit_head",
    "keep_features",
    "train_head",
]

WARMUP = 1500 / 40_000  # of the steps
CACHE_GIB = 4.0  # of features, the most that is kept
HELD_OUT = 0.2  # of the training images, to choose the learning rate on
SCORED = 64  # windows at a time


class HeadTraining(Protocol):
    """How a head is trained; `SegmentationProtocol` is one."""

    @property
    def augment(self) -> bool:
        """Random crops, whose features are computed in each step."""

    @property
    def total_steps(self) -> int:
        """Steps of the optimiser."""

    @property
    def batch_size(self) -> int:
        """Windows a step."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates to choose from."""

    @property
    def weight_decay(self) -> float:
        """Of AdamW."""

    @property
    def loss_stride(self) -> int:
        """The loss looks at one pixel of so many, along each axis."""


class Objective(Protocol):
    """What a head is to say of each pixel; `MaskObjective` is one."""

    @property
    def outputs(self) -> int:
        """Channels of the head."""

    def loss(self, logits: Tensor, labels: Tensor, /) -> Tensor:  # [B, K, h, w], [B, H, W] -> []
        """To be minimised."""

    def score(self, batches: Iterable[tuple[Tensor, Tensor]], /) -> float:
        """Of logits and labels as in `loss`; higher is better."""


class TrainedHead(NamedTuple):
    """A head in evaluation mode, and how its learning rate was found."""

    head: LinearHead
    lr: float
    val_score: float | None = None  # at that rate on held-out training images, where it was chosen


def train_head(
    model: DenseModel,
    train: LabelledSource,
    *,
    objective: Objective,
    protocol: HeadTraining,
    batch_size: int,  # windows a forward pass of the model
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> TrainedHead:
    """A head for the model's features, and the learning rate that it was trained with."""
    fit = partial(
        fit_head, dim=model.dim, objective=objective, protocol=protocol, device=device, seed=seed
    )
    first = protocol.rates[0]
    if protocol.augment:
        batches = _augmented(model, train, protocol, batch_size, num_workers, device, seed)
        return TrainedHead(fit(batches, lr=first), first)
    kept = keep_features(
        model,
        train,
        loss_stride=protocol.loss_stride,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
    )
    fitting, held_out = kept.split(seed)

    def fitted(rows: Tensor, lr: float) -> LinearHead:
        return fit(kept.batches(rows, protocol.batch_size, device, seed), lr=lr)

    everything = torch.arange(len(kept.masks))
    if len(protocol.rates) == 1 or not len(held_out):
        return TrainedHead(fitted(everything, first), first)
    scores = {
        lr: objective.score(_predicted(fitted(fitting, lr), kept, held_out, device))
        for lr in protocol.rates
    }
    lr = max(scores, key=scores.__getitem__)  # the lowest of equals
    return TrainedHead(fitted(everything, lr), lr, scores[lr])


def fit_head(
    batches: Iterator[tuple[Tensor, Tensor]],  # [B, D, h, w], [B, H, W]; one for each step
    *,
    lr: float,
    dim: int,
    objective: Objective,
    protocol: HeadTraining,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> LinearHead:
    """A head in evaluation mode, after a step with each batch."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "linear head"))
    head = LinearHead(dim, objective.outputs, generator=generator).to(device).train()
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=0.0, weight_decay=protocol.weight_decay, fused=True
    )
    rates = poly_schedule(
        lr, steps=protocol.total_steps, warmup_steps=round(WARMUP * protocol.total_steps)
    )
    for rate, (features, masks) in zip(rates, batches, strict=False):
        optimizer.param_groups[0]["lr"] = float(rate)
        loss = objective.loss(head(features), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


@torch.no_grad()
def _predicted(
    head: LinearHead, kept: "KeptFeatures", rows: Tensor, device: str | torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of some windows."""
    for part in rows.split(SCORED):
        yield head(kept.features[part].to(device)), kept.masks[part].to(device)


@dataclass(frozen=True, kw_only=True)
class KeptFeatures:
    """Features and masks of windows, on the CPU."""

    features: Tensor  # [n, D, h, w] float32
    masks: Tensor  # [n, H, W]
    image: Tensor  # [n] int64, which image a window is of

    def split(self, seed: int) -> tuple[Tensor, Tensor]:
        """Windows of a random 80% of the images, and of the others (of none, if it is one)."""
        images = int(self.image.max()) + 1
        generator = torch.Generator().manual_seed(derive_seed(seed, "held-out images"))
        count = max(1, round(HELD_OUT * images)) if images > 1 else 0
        chosen = torch.isin(self.image, torch.randperm(images, generator=generator)[:count])
        return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()

    def batches(
        self, rows: Tensor, size: int, device: str | torch.device, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Random ones without end; every window of `rows` once before any comes again."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "order of windows"))
        waiting = torch.empty(0, dtype=torch.int64)
        while True:
            while len(waiting) < size:
                order = torch.randperm(len(rows), generator=generator)
                waiting = torch.cat([waiting, rows[order]])
            chosen, waiting = waiting.split([size, len(waiting) - size])
            yield self.features[chosen].to(device), self.masks[chosen].to(device)


class _Windows(Dataset[tuple[Tensor, Tensor]]):
    """All windows of each training image, and their masks at the pixels that the loss looks at."""

    def __init__(self, held: LabelledSource, model: DenseModel, loss_stride: int) -> None:
        self.held, self.window, self.stride = held, model.window, model.stride
        self.label_px = max(1, model.window // loss_stride)

    def __len__(self) -> int:
        return len(self.held.indices)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        pair = self.held.read(self.held.source, int(self.held.indices[item]))
        image, mask = scaled(pair, self.window)
        windows = cut(image, mask, window=self.window, stride=self.stride, blank=self.held.blank)
        parts = list(windows)
        labels = torch.stack([label for _, label in parts])[:, None]
        coarse = F.interpolate(labels, size=(self.label_px, self.label_px), mode="nearest-exact")
        return torch.stack([window for window, _ in parts]), coarse[:, 0]


@torch.no_grad()
def keep_features(
    model: DenseModel,
    train: LabelledSource,
    *,
    loss_stride: int,
    batch_size: int,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    remedy: str = "add --augment",
) -> KeptFeatures:
    """Features and masks of all windows of the training images.

    ValueError where they would take more than `CACHE_GIB`; `remedy` has them computed anew.
    """
    windows = _Windows(train, model, loss_stride)
    features: list[Tensor] = []
    masks: list[Tensor] = []
    waiting: list[Tensor] = []  # windows of several images share a forward pass
    loader = DataLoader(windows, batch_size=None, num_workers=num_workers)
    for images, labels in loader:
        waiting += images
        masks.append(labels)
        if len(waiting) < batch_size and len(masks) < len(windows):
            continue
        first = not features
        for part in torch.stack(waiting).split(batch_size):
            features.append(model.fn(part.to(device)).float().cpu())
        waiting = []
        if first:
            gib = sum(part.nbytes for part in features) / len(masks) * len(windows) / 2**30
            if gib > CACHE_GIB:
                raise ValueError(
                    f"the features of {len(windows)} images of {train.source.name!r} would take "
                    f"about {gib:.0f} GiB for {model.name} at {model.window} px, and at most "
                    f"{CACHE_GIB:.0f} are kept: {remedy}, which computes them anew at "
                    "each step, or take a smaller size or fewer images (PATH:train[:1000])"
                )
    return KeptFeatures(
        features=torch.cat(features),
        masks=torch.cat(masks),
        image=torch.cat([torch.full((len(m),), i) for i, m in enumerate(masks)]),
    )


class RandomCrops(Dataset[tuple[Tensor, Tensor]]):
    """Crop number k of a training: a function of the seed and k, whichever worker makes it."""

    def __init__(
        self,
        held: LabelledSource,
        *,
        window: int,
        count: int,
        seed: int,
        ratio: tuple[float, float] = RATIO,
    ) -> None:
        self.held, self.ratio = held, ratio
        self.window, self.count, self.seed = window, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        turn, place = divmod(item, len(self.held.indices))
        order = torch.randperm(len(self.held.indices), generator=self._generator("order", turn))
        pair = self.held.read(self.held.source, int(self.held.indices[order[place]]))
        return random_crop(
            pair,
            window=self.window,
            generator=self._generator("crop", item),
            ratio=self.ratio,
            blank=self.held.blank,
        )

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose, number))


def _augmented(
    model: DenseModel,
    train: LabelledSource,
    protocol: HeadTraining,
    batch_size: int,
    num_workers: int,
    device: str | torch.device,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and masks of random crops; the model runs in each step."""
    count = protocol.total_steps * protocol.batch_size
    crops = RandomCrops(train, window=model.window, count=count, seed=seed)
    loader = DataLoader(crops, batch_size=protocol.batch_size, num_workers=num_workers)
    for images, masks in loader:
        features = [model.fn(part) for part in images.to(device).split(batch_size)]
        yield torch.cat(features).float(), masks.to(device)
