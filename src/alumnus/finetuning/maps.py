"""The course of heads that read a feature map with one linear map for all of its places.

Axes: B images or windows, D width, K outputs, H W pixels, h w grid.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alumnus.data import Source, Subset, split_indices
from alumnus.evaluation.head_training import KeptFeatures, Objective
from alumnus.evaluation.results import JsonValue
from alumnus.finetune_config import FinetuneConfig
from alumnus.finetuning.course import Finding
from alumnus.finetuning.examples import examples_from, kept_from
from alumnus.finetuning.head_model import HeadSpec
from alumnus.heads import LinearHead
from alumnus.randomness import derive_seed

__all__ = ["Keep", "MapCourse", "new_head", "split_rows", "training_record"]

Keep = Callable[[], KeptFeatures]
SCORED = 64  # windows at a time


def split_rows(source: Source, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `indices`, places in a source, to learn from and held out.

    By the names of the images, as distillation does; none is held out of fewer than ten.
    """
    [(learned, held_out)] = split_indices([Subset(source, indices.numpy())])
    return torch.tensor(learned), torch.tensor(held_out, dtype=torch.int64)


def training_record(
    config: FinetuneConfig, *, head: str = "BatchNorm and one linear map"
) -> dict[str, JsonValue]:
    """How a head was trained, for the record of its score."""
    left_out = {"encoder", "head", "data", "device", "threads", "workers", "log_every", "out"}
    left_out |= {"evaluations", "checkpoints", "keep"}
    left_out |= {"two_view"} if config.head != "two-view" else set()
    settings = config.model_dump(mode="json", exclude=left_out)
    return {"head": head, "optimizer": "AdamW, cosine", **settings}


def new_head(dim: int, outputs: int, *, seed: int) -> LinearHead:
    """A head with fresh weights, a function of the seed."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "linear head"))
    return LinearHead(dim, outputs, generator=generator)


@dataclass(kw_only=True)
class MapCourse:
    """A linear head learns from feature maps: those of `crops`, or without these kept ones.

    `keep_train` and `keep_held_out` compute the features of all windows of their images. Kept
    ones are of an encoder that stands still, so where it learns there have to be crops.
    """

    head: LinearHead
    spec: HeadSpec
    objective: Objective
    metric: str  # what the objective's score is
    examples: int  # images to learn from
    features: Callable[[Tensor], Tensor]  # [B, 3, H, W] -> [B, D, h, w]
    crops: Dataset[tuple[Tensor, Tensor]] | None  # image and labels, without end
    keep_train: Keep
    keep_held_out: Keep | None  # None: no image is held out
    measure: Callable[[], Finding]
    learns: bool  # whether the encoder does
    num_workers: int
    seed: int
    device: torch.device

    def batches(self, position: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (of `crops`) or kept features [B, D, h, w], and labels."""
        if self.crops is None:
            return kept_from(
                self._kept_train,
                position,
                batch_size=batch_size,
                seed=self.seed,
                device=self.device,
            )
        return examples_from(
            self.crops,
            position,
            batch_size=batch_size,
            num_workers=self.num_workers,
            device=self.device,
        )

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:  # []
        """The objective's."""
        seen, labels = batch
        features = seen if self.crops is None else self.features(seen)
        logits = self.head(features)
        with torch.autocast(logits.device.type, enabled=False):
            return self.objective.loss(logits.float(), labels)

    @torch.no_grad()
    def look(self) -> Mapping[str, float]:
        """The objective's score on the windows of held-out images."""
        if self.keep_held_out is None:
            return {}
        kept = self.keep_held_out() if self.learns else self._kept_held_out
        places = torch.arange(len(kept.masks)).split(SCORED)
        predicted = (
            (self.head(kept.features[p].to(self.device)), kept.masks[p].to(self.device))
            for p in places
        )
        return {self.metric: self.objective.score(predicted)}

    def test(self) -> Finding:
        """As `alumnus evaluate` measures."""
        return self.measure()

    @cached_property
    def _kept_train(self) -> KeptFeatures:
        return self.keep_train()

    @cached_property
    def _kept_held_out(self) -> KeptFeatures:
        assert self.keep_held_out is not None, "asked before"
        return self.keep_held_out()
