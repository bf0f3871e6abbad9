"""How the shipped teachers are trained: one resumable loop, which depends on its settings alone.

Order and augmentation of a step are derived from (seed, step). Killed, a run goes on from its last
checkpoint when it is called again, and ends with the same weights.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from alumnus.encoders import EncoderSpec
from alumnus.images import normalised
from alumnus.miniworld.source import MiniworldSource, render_dataset
from alumnus.randomness import derive_seed

__all__ = [
    "SPEC",
    "FitSettings",
    "chosen",
    "columns",
    "evaluating",
    "fit",
    "from_command_line",
    "generator",
    "in_words",
    "keep_scores",
    "learning_rate",
    "normalised",
]

SPEC = EncoderSpec(model="vit_micro", stem="conv", patch_size=8, image_size=64)  # of all teachers
CHECKPOINT = "checkpoint.pt"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """All that the result depends on, whatever is learned."""

    steps: int = 6000
    batch: int = 64
    lr: float = 1.2e-3  # peak: linear warm-up, then half a cosine to zero
    weight_decay: float = 0.05  # not on biases and norms
    warmup: int = 400  # steps
    train_images: int = 28800
    test_images: int = 1920
    seed: int = 0
    bf16: bool = False  # autocast; the faster choice only where the CPU multiplies bfloat16


AnySettings = TypeVar("AnySettings", bound=FitSettings)
Batch = TypeVar("Batch")


def fit(
    out: Path,
    module: nn.Module,
    settings: FitSettings,
    *,
    batch: Callable[[int], Batch],
    loss: Callable[[Batch], Tensor],
    score: Callable[[], Mapping[str, float]],
    save_every: int = 500,
    score_every: int = 1000,
) -> None:
    """Train `module` by AdamW until `settings.steps`, or go on with what lies in `out`.

    `batch(step)` is drawn by `chosen` and `generator`, in float32; `loss` of it, a scalar, runs
    under autocast where the settings ask for it, and has to leave that for labels and geometry.
    ValueError if `out` holds a run with other settings, or the gradient is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(module, settings)
    first = _resume(out / CHECKPOINT, module, optimizer, settings)
    started = time.monotonic()
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        drawn = batch(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            value = loss(drawn)
        value.backward()
        if not nn.utils.clip_grad_norm_(module.parameters(), 1.0).isfinite():
            raise ValueError(f"the gradient of step {step} is not finite; the checkpoint is before")
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        if done % 100 == 0:
            rate = (done - first) * settings.batch / (time.monotonic() - started)
            log.info("step %d/%d  loss %.3f  %.0f img/s", done, settings.steps, value.item(), rate)
        if done % save_every == 0 or done == settings.steps:
            _save(out / CHECKPOINT, module, optimizer, settings, done)
        if done % score_every == 0 and done < settings.steps:
            log.info("step %d  %s", done, in_words(score()))


def keep_scores(out: Path, scores: Mapping[str, float]) -> None:
    """Write `scores.json` and say what is in it."""
    (out / "scores.json").write_text(json.dumps(dict(scores), indent=2) + "\n")
    log.info("%s", in_words(scores))


def chosen(count: int, step: int, settings: FitSettings) -> Tensor:  # [batch] int64
    """The items of a step, of `count`: each pass has an order of its own.

    ValueError where there are fewer than a batch.
    """
    if count < settings.batch:
        raise ValueError(f"{count} items are fewer than a batch of {settings.batch}")
    epoch, place = divmod(step, count // settings.batch)
    shuffled = torch.Generator().manual_seed(derive_seed(settings.seed, epoch, "order"))
    order = torch.randperm(count, generator=shuffled)
    return order[place * settings.batch : (place + 1) * settings.batch]


def generator(step: int, settings: FitSettings) -> torch.Generator:
    """What the augmentation of a step draws from."""
    return torch.Generator().manual_seed(derive_seed(settings.seed, step, "augmentation"))


def columns(source: MiniworldSource, *names: str) -> dict[str, Tensor]:
    """Fields of the records of a whole source, rendering what is missing; "image" [L, 3, H, W].

    The pictures stay bytes: 12 kB each at 64 px.
    """
    render_dataset(source, progress=lambda ready, total: log.info("pictures %d/%d", ready, total))
    chunks = [source.chunk(number) for number in range(source.chunks)]
    found = {
        name: torch.from_numpy(np.concatenate([c[name] for c in chunks])[: len(source)])
        for name in names
    }
    if "image" in found:
        found["image"] = found["image"].permute(0, 3, 1, 2).contiguous()
    return found


def learning_rate(step: int, settings: FitSettings) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    part = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * part))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


def in_words(scores: Mapping[str, float]) -> str:
    """On one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in scores.items())


def from_command_line(program: str, defaults: AnySettings) -> tuple[Path, AnySettings]:
    """Folder of the run and its settings, `defaults` but for what was typed; starts logging."""
    parser = argparse.ArgumentParser(prog=f"python -m alumnus.miniworld.{program}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--train-images", type=int, default=defaults.train_images)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--bf16", action="store_true", help="faster on CPUs with AVX-512 BF16")
    given = vars(parser.parse_args())
    out: Path = given.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    return out, replace(defaults, **given)


def _optimizer(module: nn.Module, settings: FitSettings) -> torch.optim.AdamW:
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), fused=True)


def _save(
    path: Path, module: nn.Module, optimizer: torch.optim.AdamW, settings: FitSettings, step: int
) -> None:
    temporary = path.with_suffix(".part")
    state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save({**state, "settings": asdict(settings)}, temporary)
    temporary.replace(path)


def _resume(
    path: Path, module: nn.Module, optimizer: torch.optim.AdamW, settings: FitSettings
) -> int:
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
