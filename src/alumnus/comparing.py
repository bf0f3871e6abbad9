"""A teacher audit before any training: which teachers repeat each other, what a pool adds.

`alumnus compare TEACHER... data=FOLDER`; the mathematics is in `evaluation.comparison`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alumnus.data import Source, Subset
from alumnus.evaluation.cka import linear_cka
from alumnus.evaluation.comparison import Kernels, coverage_order, gram, neighbour_overlap
from alumnus.evaluation.sampled import LEAST, PATCHES, sample_tokens
from alumnus.evaluation.tasks import EvalModel
from alumnus.report.audit import audit_picture
from alumnus.report.table import Table, plain
from alumnus.spelling import unknown
from alumnus.text_files import write_text

__all__ = ["Comparison", "Level", "check_comparison", "compare_models"]

MOST = 4096  # images: memory and time grow with their square and cube
NEIGHBOURS = 10


@dataclass(frozen=True)
class Level:
    """The models that have one kind of token, on the same samples."""

    name: str  # "image": [CLS], or the mean patch without one; "patch"
    kernels: Kernels
    cka: dict[str, dict[str, float]]

    @property
    def models(self) -> list[str]:
        return list(self.kernels.grams)

    @cached_property
    def explained(self) -> dict[str, dict[str, float]]:
        """explained[a][b]: share of the variance of b that ridge regression from a predicts."""
        return {
            a: {b: 1.0 if a == b else self.kernels.explained([a], b) for b in self.models}
            for a in self.models
        }

    @cached_property
    def overlap(self) -> dict[str, dict[str, float]]:
        """Common neighbours of two models."""
        grams = self.kernels.grams
        return {
            a: {b: neighbour_overlap(grams[a], grams[b], k=NEIGHBOURS) for b in self.models}
            for a in self.models
        }


@dataclass(frozen=True)
class Comparison:
    """What several models say of the same images, relative to each other."""

    models: list[str]
    images: int
    source: str
    levels: list[Level] = field(repr=False)

    def told_by(self, pool: Sequence[str], target: str) -> float:
        """Share of what a model says that a pool of others tells; mean over its token types."""
        if target in pool:
            return 1.0
        shares = [
            level.kernels.explained([name for name in pool if name in level.models], target)
            for level in self.levels
            if target in level.models
        ]
        return sum(shares) / len(shares)

    def coverage(self, pool: Sequence[str]) -> float:
        """Mean share of what all the models say that a pool tells."""
        for name in pool:
            if name not in self.models:
                raise unknown("model", name, self.models)
        return sum(self.told_by(pool, name) for name in self.models) / len(self.models)

    @cached_property
    def tells(self) -> dict[str, dict[str, float]]:
        """tells[a][b]: share of what b says that a alone tells; mean over b's token types."""
        return {a: {b: self.told_by([a], b) for b in self.models} for a in self.models}

    @cached_property
    def told_by_others(self) -> dict[str, float]:
        """For each model what all the others together tell of it; the rest is what it adds."""
        return {
            name: self.told_by([other for other in self.models if other != name], name)
            for name in self.models
        }

    @cached_property
    def order(self) -> list[tuple[str, float]]:
        """A growing pool: which model to add next, and what the pool then covers."""
        return coverage_order(self.coverage, self.models)

    def __str__(self) -> str:
        """What a reader of a terminal wants to know."""
        header = (f"tells, % of: ({self.images} images)", *self.models)
        rows = [
            (a, *("" if a == b else f"{100 * self.tells[a][b]:.0f}" for b in self.models))
            for a in self.models
        ]
        said = [plain(Table(header, tuple(rows)))]
        for name in self.models:
            others = [other for other in self.models if other != name]
            best = max(others, key=lambda other: self.tells[other][name])
            adds = 100 * (1 - self.told_by_others[name])
            said.append(
                f"{name} adds {adds:.0f}% that the others do not tell; most is told by {best} "
                f"({100 * self.tells[best][name]:.0f}%)"
            )
        grown = [f"{name} {100 * share:.0f}%" for name, share in self.order]
        said.append(f"\nA pool that grows by what covers most of all: {', + '.join(grown)}")
        return "\n".join(said)

    def draw(self, path: Path) -> Path:
        """Write the picture (PNG)."""
        image = self.levels[0]
        matrices = {
            "row tells of column, %": self.tells,
            "CKA of image features, %": image.cka,
            f"common {NEIGHBOURS} neighbours, %": image.overlap,
        }
        return audit_picture(matrices, self.told_by_others, self.order, path)

    def to_json(self) -> str:
        """Everything that was measured."""
        levels = {
            level.name: {
                "explained": level.explained,
                "cka": level.cka,
                "neighbour_overlap": level.overlap,
            }
            for level in self.levels
        }
        found = {
            "format": "alumnus-comparison/1",
            "models": self.models,
            "source": self.source,
            "images": self.images,
            "levels": levels,
            "told_by_others": self.told_by_others,
            "order": [{"add": name, "covers": share} for name, share in self.order],
        }
        return json.dumps(found, indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write it; a file that is there already is replaced by a whole one."""
        write_text(path, self.to_json())


def compare_models(
    models: Sequence[EvalModel],
    source: Source,
    *,
    images: int = 512,
    size_px: int = 224,  # of models that have no size of their own
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> Comparison:
    """Compare models on so many images of a source, drawn at random; labels are not looked at.

    ValueError for fewer than two models, equal names, or too few images.
    """
    names = [model.name for model in models]
    check_comparison(names, source, images)
    chosen = np.random.default_rng(seed).permutation(len(source))[:images]
    part = Subset(source, np.sort(chosen))
    tokens = sample_tokens(
        models, part, size_px=size_px, seed=seed, batch_size=batch_size, device=device
    )
    count = len(tokens.indices)
    levels = [_level("image", tokens.image, torch.arange(count), seed)]
    if len(tokens.patch) > 1:
        groups = torch.arange(count).repeat_interleave(PATCHES)
        levels.append(_level("patch", tokens.patch, groups, seed))
    return Comparison(names, count, source.name, levels)


def check_comparison(models: Sequence[str], source: Source, images: int) -> None:
    """ValueError, one sentence, for what cannot be compared; before any model is loaded."""
    if len(models) < 2:
        raise ValueError("a comparison needs at least two models")
    for name in models:
        if models.count(name) > 1:
            raise ValueError(f"two of the models are {name!r}: each can be there once")
    if images > MOST:
        raise ValueError(f"{images} images make matrices too large; take at most {MOST}")
    if len(source) < LEAST:
        raise ValueError(
            f"{source.name!r} has {len(source)} images; a comparison needs {LEAST}, better 500"
        )


def _level(name: str, tokens: Mapping[str, Tensor], groups: Tensor, seed: int) -> Level:
    kernels = Kernels({model: gram(values) for model, values in tokens.items()}, groups, seed=seed)
    cka = {a: {b: linear_cka(tokens[a], tokens[b]) for b in tokens} for a in tokens}
    return Level(name, kernels, cka)
