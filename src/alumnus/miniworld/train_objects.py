"""How the shipped `objects` teacher is trained: `python -m alumnus.miniworld.train_objects`.

A ViT of 1.3 M parameters learns, on rendered scenes with labels, the class of the target from
[CLS] (and its shape and material apart), and from each patch how much of it the target covers,
and the target's shape and material where it covers most of it. The default of 6000 steps takes
about 40 minutes of one core; `weights/objects/card.md` states what it reaches.

The run depends on its `Settings` alone: order and augmentation of a step are derived from
(seed, step). Killed, it goes on from the last checkpoint when called again.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.encoders import Encoder, EncoderSpec, build_encoder
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.miniworld.augment import augment
from alumnus.miniworld.materials import MATERIALS
from alumnus.miniworld.objects import CLASSES
from alumnus.miniworld.shapes import SHAPES
from alumnus.miniworld.source import MiniworldSource, render_dataset
from alumnus.randomness import derive_seed
from alumnus.runs import save_encoder

__all__ = ["SPEC", "Heads", "Scenes", "Settings", "draw_batch", "evaluate", "load_scenes", "train"]

SPEC = EncoderSpec(model="vit_micro", stem="conv", patch_size=8, image_size=64)
log = logging.getLogger("alumnus.miniworld.train_objects")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that the result depends on."""

    steps: int = 6000
    batch: int = 64
    lr: float = 1.2e-3
    weight_decay: float = 0.05
    warmup: int = 400
    train_images: int = 28800
    test_images: int = 1920
    seed: int = 0
    bf16: bool = False  # autocast; the faster choice only where the CPU multiplies bfloat16


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
    render_dataset(source, progress=lambda ready, total: log.info("scenes %d/%d", ready, total))
    chunks = [source.chunk(number) for number in range(source.chunks)]

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([c[name] for c in chunks])[: len(source)])

    return Scenes(
        images=column("image").permute(0, 3, 1, 2).contiguous(),
        target=(column("mask") == 1).to(torch.uint8)[:, None],
        cls=column("cls").long(),
    )


def normalised(images: Tensor) -> Tensor:  # [B, 3, H, W] in [0, 1]
    """By the ImageNet statistics."""
    return (images - torch.tensor(IMAGENET_MEAN).view(-1, 1, 1)) / torch.tensor(IMAGENET_STD).view(
        -1, 1, 1
    )


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


def train(out: Path, settings: Settings, *, save_every: int = 500) -> dict[str, float]:
    """Train into a folder, or go on with what lies there; returns the scores on the test split."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    encoder = build_encoder(SPEC)
    heads = Heads(encoder.dim)
    both = nn.ModuleDict({"encoder": encoder, "heads": heads})
    optimizer = _optimizer(both, settings)
    first = _resume(out / "checkpoint.pt", both, optimizer, settings)
    scenes = load_scenes(MiniworldSource("objects", "train", length=settings.train_images))
    test = load_scenes(MiniworldSource("objects", "test", length=settings.test_images))
    started = time.monotonic()
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        images, cover, cls = draw_batch(scenes, step, settings)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            loss = objective(encoder, heads, images, cover, cls)
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        if done % 100 == 0:
            rate = (done - first) * settings.batch / (time.monotonic() - started)
            log.info("step %d/%d  loss %.3f  %.0f img/s", done, settings.steps, loss.item(), rate)
        if done % save_every == 0 or done == settings.steps:
            _save(out / "checkpoint.pt", both, optimizer, settings, done)
        if done % 1000 == 0:
            log.info("step %d  %s", done, _words(evaluate(encoder, heads, test)))
    save_encoder(out, encoder.half(), SPEC, {"settings": asdict(settings)})
    scores = evaluate(encoder.float(), heads, test)  # of the rounded weights
    (out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    log.info("%s", _words(scores))
    return scores


@torch.no_grad()
def evaluate(encoder: Encoder, heads: Heads, scenes: Scenes) -> dict[str, float]:
    """Shares of test scenes whose class, shape and material are right; IoU of the patch cover."""
    right = torch.zeros(3)
    both = either = 0.0
    with _evaluating(encoder):
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


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    part = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * part))


def draw_batch(scenes: Scenes, step: int, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images, patch cover and classes of a step: a function of (seed, step)."""
    epoch, place = divmod(step, len(scenes) // settings.batch)
    shuffled = torch.Generator().manual_seed(derive_seed(settings.seed, epoch, "order"))
    order = torch.randperm(len(scenes), generator=shuffled)
    chosen = order[place * settings.batch : (place + 1) * settings.batch]
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, step, "augmentation"))
    images, target = augment(
        scenes.images[chosen].float() / 255, scenes.target[chosen].float(), generator=generator
    )
    return normalised(images), patch_cover(target, SPEC.patch_size), scenes.cls[chosen]


def _optimizer(module: nn.Module, settings: Settings) -> torch.optim.AdamW:
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=True)


def _save(
    path: Path, module: nn.Module, optimizer: torch.optim.AdamW, settings: Settings, step: int
) -> None:
    temporary = path.with_suffix(".part")
    state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save({**state, "settings": asdict(settings)}, temporary)
    temporary.replace(path)


def _resume(path: Path, module: nn.Module, optimizer: torch.optim.AdamW, settings: Settings) -> int:
    """The step to go on with."""
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    if saved["settings"] != asdict(settings):
        raise ValueError(
            f"{str(path)!r} is of a run with other settings ({saved['settings']}); "
            "choose another --out or the same settings"
        )
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    module.eval()
    try:
        yield
    finally:
        module.train()


def _words(scores: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in scores.items())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.train_objects")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--train-images", type=int, default=Settings.train_images)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--bf16", action="store_true", help="faster on CPUs with AVX-512 BF16")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    settings = Settings(
        steps=given.steps, train_images=given.train_images, seed=given.seed, bf16=given.bf16
    )
    train(given.out, settings)


if __name__ == "__main__":
    main()
