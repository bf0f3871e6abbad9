"""How the shipped `objects` teacher is trained: `python -m alumnus.miniworld.train_objects`.

A ViT of 1.3 M parameters learns, on rendered scenes with labels, the class of the target from
[CLS] (and its shape and material apart), and from each patch how much of it the target covers,
and the target's shape and material where it covers most of it. The default of 6000 steps takes
about 40 minutes of one core; `weights/objects/card.md` states what it reaches.

For the loop see `fit`.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.encoders import Encoder, build_encoder
from alumnus.miniworld.augment import augment
from alumnus.miniworld.fit import (
    SPEC,
    FitSettings,
    chosen,
    columns,
    evaluating,
    fit,
    from_command_line,
    generator,
    keep_scores,
    normalised,
)
from alumnus.miniworld.materials import MATERIALS
from alumnus.miniworld.objects import CLASSES
from alumnus.miniworld.shapes import SHAPES
from alumnus.miniworld.source import MiniworldSource
from alumnus.runs import save_encoder

__all__ = ["Heads", "Scenes", "draw_batch", "evaluate", "load_scenes", "train"]


@dataclass(frozen=True)
class Scenes:
    """Labelled scenes in memory."""

    images: Tensor  # [L, 3, H, W] uint8
    target: Tensor  # [L, 1, H, W] uint8, 1 on the target
    cls: Tensor  # [L] int64

    def __len__(self) -> int:
        return len(self.cls)


class Heads(nn.Module):
    """Linear read-outs of [CLS] and of the patches; not shipped."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cls = nn.Linear(dim, len(CLASSES))
        self.factors = nn.Linear(dim, len(SHAPES) + len(MATERIALS))
        self.patch = nn.Linear(dim, 1 + len(SHAPES) + len(MATERIALS))


def load_scenes(source: MiniworldSource) -> Scenes:
    """Read a whole source into memory (16 kB a scene at 64 px), rendering what is missing."""
    found = columns(source, "image", "mask", "cls")
    target = (found["mask"] == 1).to(torch.uint8)[:, None]
    return Scenes(images=found["image"], target=target, cls=found["cls"].long())


def objective(
    encoder: Encoder,
    heads: Heads,
    images: Tensor,  # [B, 3, H, W], normalised
    cover: Tensor,  # [B, N]: share of each patch that the target covers
    cls: Tensor,  # [B]
) -> Tensor:
    """Cross-entropies of class, shape and material, plus the same and the cover of each patch."""
    tokens = encoder(images).final
    shape, material = cls // len(MATERIALS), cls % len(MATERIALS)
    kinds = [len(SHAPES), len(MATERIALS)]
    whole = F.cross_entropy(heads.cls(tokens.cls).float(), cls, label_smoothing=0.05)
    for logits, label in zip(
        heads.factors(tokens.cls).float().split(kinds, dim=-1), (shape, material), strict=True
    ):
        whole = whole + 0.5 * F.cross_entropy(logits, label)

    covered, *factors = heads.patch(tokens.patches).float().split([1, *kinds], dim=-1)
    dense = F.binary_cross_entropy_with_logits(covered.squeeze(-1), cover)
    weight = (cover > 0.5).float()
    for logits, label in zip(factors, (shape, material), strict=True):
        labels = label[:, None].expand(cover.shape)
        loss = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        dense = dense + 0.25 * (loss * weight).sum() / weight.sum().clamp(min=1)
    return whole + dense


def train(out: Path, settings: FitSettings, *, save_every: int = 500) -> dict[str, float]:
    """Train into a folder, or go on with what lies there; returns the scores on the test split."""
    torch.manual_seed(settings.seed)
    encoder = build_encoder(SPEC)
    heads = Heads(encoder.dim)
    scenes = load_scenes(MiniworldSource("objects", "train", length=settings.train_images))
    test = load_scenes(MiniworldSource("objects", "test", length=settings.test_images))

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        return draw_batch(scenes, step, settings)

    def loss(drawn: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return objective(encoder, heads, *drawn)

    both = nn.ModuleDict({"encoder": encoder, "heads": heads})
    score = partial(evaluate, encoder, heads, test)
    fit(out, both, settings, batch=batch, loss=loss, score=score, save_every=save_every)
    save_encoder(out, encoder.half(), SPEC, {"settings": asdict(settings)})
    encoder.float()  # of the rounded weights
    scores = score()
    keep_scores(out, scores)
    return scores


@torch.no_grad()
def evaluate(encoder: Encoder, heads: Heads, scenes: Scenes) -> dict[str, float]:
    """Shares of test scenes whose class, shape and material are right; IoU of the patch cover."""
    right = torch.zeros(3)
    both = either = 0.0
    with evaluating(encoder):
        for start in range(0, len(scenes), 96):
            part = slice(start, start + 96)
            tokens = encoder(normalised(scenes.images[part].float() / 255)).final
            guess, cls = heads.cls(tokens.cls).argmax(dim=-1), scenes.cls[part]
            k = len(MATERIALS)
            equal = torch.stack([guess == cls, guess // k == cls // k, guess % k == cls % k])
            right += equal.sum(dim=1)
            seen = heads.patch(tokens.patches)[..., 0] > 0
            true = patch_cover(scenes.target[part].float(), encoder.patch_size) > 0.5
            both += (seen & true).sum().item()
            either += (seen | true).sum().item()
    names = ("accuracy", "shape_accuracy", "material_accuracy")
    scores = dict(zip(names, (right / len(scenes)).tolist(), strict=True))
    return {**scores, "patch_iou": both / max(either, 1.0)}


def patch_cover(target: Tensor, patch_size: int) -> Tensor:  # [B, 1, H, W] -> [B, N]
    """Share of each patch that the target covers."""
    return F.avg_pool2d(target, patch_size).flatten(1)


def draw_batch(scenes: Scenes, step: int, settings: FitSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images, patch cover and classes of a step: a function of (seed, step)."""
    these = chosen(len(scenes), step, settings)
    images, target = augment(
        scenes.images[these].float() / 255,
        scenes.target[these].float(),
        generator=generator(step, settings),
    )
    return normalised(images), patch_cover(target, SPEC.patch_size), scenes.cls[these]


def main() -> None:
    """The command line."""
    train(*from_command_line("train_objects", FitSettings()))


if __name__ == "__main__":
    main()
