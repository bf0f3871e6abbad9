"""Three small teachers of one size for `run.py`, each with its own objective, from CIFAR-10 alone.

    python -m benchmarks.unic_cifar.teachers [NAME ...] [--packs packs] [--out runs/unic-cifar]

- `supervised`: the class from [CLS], label smoothing 0.1.
- `contrastive`: two views of an image have near [CLS] (SimCLR, arXiv 2002.05709).
- `masked`: from half of the patches, gradient histograms and mean colours of the hidden ones
  (MaskFeat, arXiv 2112.09133), and of the whole image from [CLS].

A ViT of 128 x 6 with a convolutional stem and patches of 8 px, 1.3 M parameters, on images of
32 px. Each trains on the first 45,000 training images; the last 5,000 are for choices. Killed, a
run goes on from its last checkpoint when called again; finished ones are left alone.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.data import AugmentConfig, Mixture, Resident, make_loader, open_source
from alumnus.data.augment import AugmentKind
from alumnus.encoders import Encoder, EncoderSpec, build_encoder
from alumnus.hardware import choose_bf16
from alumnus.runs import save_encoder
from alumnus.training.checkpoint import Checkpoints
from alumnus.training.logs import format_line
from alumnus.training.loop import Trainer
from alumnus.training.optimizer import build_adamw, clip_each
from alumnus.training.schedules import cosine_schedule

SIZE_PX = 32
SPEC = EncoderSpec(model="vit_micro", stem="conv", patch_size=8, image_size=SIZE_PX)
TRAIN = "cifar10:train[:45000]"
CLASSES = 10
BATCH = 256
CELL_PX = 4  # of gradient histograms
BINS = 9
TEMPERATURE = 0.2
HIDDEN_SHARE = 0.5

log = logging.getLogger("alumnus.unic_cifar")


@dataclass(frozen=True)
class Seen:
    """What a step sees: one or two views of the same images [B, 3, H, W], and classes [B]."""

    views: Sequence[Tensor]
    classes: Tensor


class Objective(Protocol):
    """What a teacher learns."""

    @property
    def heads(self) -> nn.Module:
        """Trained beside the encoder, not kept."""

    def loss(self, encoder: Encoder, seen: Seen) -> Tensor: ...


class Supervised:
    """Cross-entropy of the class from [CLS]."""

    def __init__(self, dim: int) -> None:
        self.heads = nn.Linear(dim, CLASSES)

    def loss(self, encoder: Encoder, seen: Seen) -> Tensor:
        logits = self.heads(encoder(seen.views[0]).final.cls)
        return F.cross_entropy(logits.float(), seen.classes, label_smoothing=0.1)


class Contrastive:
    """SimCLR: among all other views of a batch, find the second one of the same image."""

    def __init__(self, dim: int) -> None:
        self.heads = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.LayerNorm(4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def loss(self, encoder: Encoder, seen: Seen) -> Tensor:
        both = encoder(torch.cat(list(seen.views))).final.cls
        return info_nce(self.heads(both).float(), temperature=TEMPERATURE)


class Masked:
    """MaskFeat: descriptors of hidden patches from those in sight."""

    def __init__(self, dim: int) -> None:
        cells = (SPEC.patch_size // CELL_PX) ** 2
        patches = (SIZE_PX // SPEC.patch_size) ** 2
        width = cells * (BINS + 3)
        self.heads = nn.ModuleDict(
            {"patch": nn.Linear(dim, width), "cls": nn.Linear(dim, patches * width)}
        )

    def loss(self, encoder: Encoder, seen: Seen) -> Tensor:
        (images,) = seen.views
        target = patch_descriptors(images, SPEC.patch_size)  # [B, N, D]
        hidden = hide(len(images), target.shape[1], HIDDEN_SHARE)  # [B, N]
        side = SIZE_PX // SPEC.patch_size
        cover = hidden.view(-1, 1, side, side).repeat_interleave(SPEC.patch_size, 2)
        tokens = encoder(images * ~cover.repeat_interleave(SPEC.patch_size, 3)).final
        patches = self.heads.get_submodule("patch")(tokens.patches).float()
        whole = self.heads.get_submodule("cls")(tokens.cls).float()
        error = (patches - target).square().mean(dim=-1)  # [B, N]
        of_hidden: Tensor = (error * hidden).sum() / hidden.sum()
        return of_hidden + F.mse_loss(whole, target.flatten(1))


def info_nce(features: Tensor, *, temperature: float) -> Tensor:  # [2B, D], the views in two halves
    """SimCLR's loss: cross-entropy over cosines, a view not being compared with itself."""
    unit = F.normalize(features, dim=1)
    with torch.autocast(features.device.type, enabled=False):
        similarity = unit @ unit.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(unit)).roll(len(unit) // 2)
    return F.cross_entropy(similarity, partner)


def hide(images: int, patches: int, share: float) -> Tensor:  # [B, N] bool
    """The same number of random patches of each image; from torch's generator, seeded by step."""
    order = torch.rand(images, patches).argsort(dim=1)
    return order < round(share * patches)


def patch_descriptors(images: Tensor, patch_px: int) -> Tensor:  # [B, 3, H, W] -> [B, N, D]
    """Of each patch the cells' gradient histograms (unit length in all) and mean colours."""
    grey = images.mean(dim=1, keepdim=True)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    place = torch.atan2(dy, dx) / torch.pi % 1.0 * BINS  # without sign, in bins
    low = place.floor()
    part, low = place - low, low.long() % BINS
    strength = (dx.square() + dy.square()).sqrt()
    histogram = images.new_zeros(len(images), BINS, *images.shape[-2:])
    histogram.scatter_add_(1, low, strength * (1 - part))
    histogram.scatter_add_(1, (low + 1) % BINS, strength * part)
    cells = torch.cat([F.avg_pool2d(histogram, CELL_PX), F.avg_pool2d(images, CELL_PX)], dim=1)
    of_patch = F.unfold(cells, patch_px // CELL_PX, stride=patch_px // CELL_PX).transpose(1, 2)
    split = of_patch.unflatten(2, (BINS + 3, -1))  # [B, N, channel, cell]
    gradients = F.normalize(split[:, :, :BINS].flatten(2), dim=2) * (BINS**0.5)
    return torch.cat([gradients, split[:, :, BINS:].flatten(2)], dim=2)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a teacher depends on, besides its seed."""

    objective: Callable[[int], Objective]
    steps: int
    crop_scale: tuple[float, float]
    kind: AugmentKind = "full"  # small images are neither blurred nor solarised
    views: int = 1
    lr: float = 1.5e-3
    weight_decay: float = 0.05


RECIPES = {
    "supervised": Recipe(objective=Supervised, steps=1600, crop_scale=(0.35, 1.0)),
    "contrastive": Recipe(objective=Contrastive, steps=1400, crop_scale=(0.2, 1.0), views=2),
    "masked": Recipe(objective=Masked, steps=1500, crop_scale=(0.5, 1.0), kind="crop_flip"),
}


@dataclass
class Teaching:
    """One step of a teacher's training; a Trainable of the training engine."""

    encoder: Encoder
    objective: Objective
    rate: Callable[[int], float]
    weight_decay: float
    bf16: bool
    module: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.module = nn.ModuleDict({"encoder": self.encoder, "heads": self.objective.heads})
        self.optimizer = build_adamw(self.module, betas=(0.9, 0.98), weight_decay=self.weight_decay)

    def step(self, micro_batches: Sequence[Seen], step: int) -> dict[str, Tensor]:
        (seen,) = micro_batches
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.module.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.objective.loss(self.encoder, seen)
        loss.backward()
        norm = clip_each(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        finite = torch.isfinite(loss.detach() + norm)
        return {
            "loss": loss.detach(),
            "grad_norm": norm,
            "first_bad": torch.where(finite, -1, step),
        }

    def blame(self) -> str:
        return "the loss or a gradient"

    def cure(self, step: int) -> str:
        """What to do about it."""
        return "A lower learning rate is the usual cure."


def see(
    source: Resident, classes: Tensor, recipe: Recipe, seed: int, position: int
) -> Iterator[Seen]:
    """Batches from a position on: views of the same images by the loader's own draws."""
    augment = AugmentConfig(
        kind=recipe.kind, crop_scale=recipe.crop_scale, blur_p=0.0, solarise_p=0.0
    )
    loaders = [
        make_loader(
            Mixture([source], seed=seed),
            augment,
            size=SIZE_PX,
            batch_size=BATCH,
            start_position=position,
            seed=1000 * seed + view,
            colour_on=torch.device("cpu"),
        )
        for view in range(recipe.views)
    ]
    for batches in zip(*loaders, strict=True):
        yield Seen([batch.images for batch in batches], classes[batches[0].index])


def train(name: str, packs: Path, out: Path, *, seed: int = 0) -> None:
    """Train one teacher into OUT/NAME, an encoder that alumnus takes as a teacher by its path."""
    folder = out / name
    if (folder / "encoder.safetensors").is_file():
        log.info("%s is there", folder)
        return
    recipe = RECIPES[name]
    opened = open_source(str(packs / TRAIN))
    classes = torch.tensor([opened.read(i).fields["cls"] for i in range(len(opened))])
    source = Resident(opened, short_px=None)

    torch.manual_seed(seed)
    encoder = build_encoder(SPEC)
    rate = cosine_schedule(
        recipe.lr, 1e-6, steps=recipe.steps, warmup_steps=recipe.steps // 20, start=1e-6
    )
    teaching = Teaching(
        encoder=encoder,
        objective=recipe.objective(encoder.dim),
        rate=lambda step: float(rate[step]),
        weight_decay=recipe.weight_decay,
        bf16=choose_bf16("auto", torch.device("cpu")),
    )
    trainer: Trainer[Seen] = Trainer(
        trainable=teaching,
        batches=partial(see, source, classes, recipe, seed),
        steps=recipe.steps,
        batch_size=BATCH,
        seed=seed,
        log_every=50,
        save_at=range(0, recipe.steps, 200),
        checkpoints=Checkpoints(folder / "checkpoints", keep=1),
        on_log=lambda interval: log.info("%s  %s", name, format_line(interval, interval.metrics)),
    )
    first, began = trainer.resume(), time.monotonic()
    trainer.run()
    described = {
        "objective": name,
        "images": TRAIN,
        "steps": recipe.steps,
        "batch": BATCH,
        "crop_scale": recipe.crop_scale,
        "lr": recipe.lr,
        "seed": seed,
        "minutes_since_resumed": round((time.monotonic() - began) / 60, 1),
        "resumed_at": first,
    }
    save_encoder(folder, encoder, SPEC, described)
    log.info("%s: %s", name, json.dumps(described))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; all")
    parser.add_argument("--packs", type=Path, default=Path("packs"))
    parser.add_argument("--out", type=Path, default=Path("runs/unic-cifar"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    for name in given.names or RECIPES:
        if name not in RECIPES:
            parser.error(f"there is no teacher {name!r}, only {', '.join(RECIPES)}")
        train(name, given.packs, given.out / "teachers")


if __name__ == "__main__":
    main()
