"""Images with a depth for every pixel: read in metres, surveyed, and how far a prediction is off.

Axes: n images, H W pixels.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alumnus.data import BrokenImageError, Sample, Source
from alumnus.evaluation.masks import LabelledSource, Pair

__all__ = [
    "NO_DEPTH",
    "DepthScore",
    "Survey",
    "depth_in",
    "depth_score",
    "read_depth",
    "survey",
]

log = logging.getLogger(__name__)

NO_DEPTH = 0.0  # the value of pixels without one
MM = 1000.0  # per metre
SATURATED = 65535  # no depth in files of 16 bits: 7-Scenes and others mark it so
DELTA = 1.25


def read_depth(source: Source, index: int, *, most_m: float | None = None) -> Pair:
    """One image of a source with its depth; see `depth_in`."""
    where = f"of {source.identity(index)!r} in {source.name!r}"
    return depth_in(source.read(index), where=where, most_m=most_m)


def depth_in(sample: Sample, *, where: str, most_m: float | None = None) -> Pair:
    """An image with its depth, float32 metres, 0 where there is none.

    The field "depth" holds whole numbers of millimetres, of which 65535 is none, or floats in
    metres. What is not finite, not above 0 or beyond `most_m` is none. ValueError where there is
    no depth, or none that fits.
    """
    image, fields = sample.image, sample.fields
    if "depth" not in fields:
        raise ValueError(f"there is no depth {where}")
    values = np.asarray(fields["depth"])
    if values.dtype.kind not in "iuf" or values.ndim != 2:
        raise ValueError(
            f"the depth {where} is no picture of one channel, in whole millimetres or in metres"
        )
    if values.shape != (image.height, image.width):
        raise ValueError(
            f"the depth {where} is {values.shape[1]}x{values.shape[0]} px, but its image "
            f"{image.width}x{image.height}"
        )
    depth = values.astype(np.float32)
    if values.dtype.kind != "f":
        depth = np.where(values == SATURATED, np.float32(NO_DEPTH), depth / np.float32(MM))
    held = np.isfinite(depth) & (depth > 0) & (depth <= (np.inf if most_m is None else most_m))
    return Pair(image, torch.from_numpy(np.where(held, depth, np.float32(NO_DEPTH))))


class _Seen(NamedTuple):
    place: int
    pixels: int
    median_m: float
    most_m: float


class _Surveyed(Dataset[_Seen | BrokenImageError]):
    def __init__(self, source: Source, most_m: float | None) -> None:
        self.source, self.most_m = source, most_m

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> _Seen | BrokenImageError:
        try:
            depth = read_depth(self.source, index, most_m=self.most_m).mask
        except BrokenImageError as error:
            return error
        held = depth[depth > 0]
        if not len(held):
            return _Seen(index, 0, 0.0, 0.0)
        return _Seen(index, len(held), held.median().item(), held.max().item())


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Images with depth, and what the depths are."""

    images: LabelledSource  # those that can be read and have any depth
    median_m: float  # median over the images of their median depth
    most_m: float  # the largest depth
    pixels: int  # with a depth


def survey(source: Source, *, most_m: float | None = None, num_workers: int = 0) -> Survey:
    """Read all images and depths once; those broken or without any depth are left out, said."""
    found: list[_Seen] = []
    data = _Surveyed(source, most_m)
    for batch in DataLoader(data, batch_size=16, num_workers=num_workers, collate_fn=list):
        for read in batch:
            if isinstance(read, BrokenImageError):
                log.warning("left out: %s", read)
            elif not read.pixels:
                name = source.identity(read.place)
                log.warning("left out: image %r of %r has no depth", name, source.name)
            else:
                found.append(read)
    if not found:
        raise ValueError(
            f"none of the {len(source)} images of {source.name!r} can be read and has a depth"
            + ("" if most_m is None else f" of at most {most_m:g} m")
        )
    return Survey(
        images=LabelledSource(
            source,
            torch.tensor([read.place for read in found]),
            partial(read_depth, most_m=most_m),
            NO_DEPTH,
        ),
        median_m=torch.tensor([read.median_m for read in found]).median().item(),
        most_m=max(read.most_m for read in found),
        pixels=sum(read.pixels for read in found),
    )


@dataclass(frozen=True, kw_only=True)
class DepthScore:
    """How far predicted depths are off; of several images the mean."""

    abs_rel: float  # mean |d - t| / t
    rmse_m: float  # root of the mean (d - t)^2
    delta1: float  # percent of pixels with max(d / t, t / d) < 1.25
    delta2: float  # < 1.25^2
    delta3: float  # < 1.25^3

    @classmethod
    def mean(cls, scores: list["DepthScore"]) -> "DepthScore":
        """Each image weighs the same, as in the field."""
        values = torch.tensor([list(vars(s).values()) for s in scores], dtype=torch.float64)
        return cls(**dict(zip(vars(scores[0]), values.mean(dim=0).tolist(), strict=True)))


def depth_score(depth: Tensor, truth: Tensor, *, median_scaling: bool = False) -> DepthScore:
    """The usual errors over the pixels of one image, or several, with a true depth above 0.

    `median_scaling` first multiplies the prediction by the ratio of the medians, which forgives a
    wrong scale. ValueError where no pixel has a depth.

    Source: Eigen et al. (arXiv 1406.2283), section 4.
    """
    held = truth > 0
    if not held.any():
        raise ValueError("no pixel has a depth")
    d, t = depth[held].double(), truth[held].double()
    if median_scaling:
        d = d * (t.median() / d.median())
    ratio = torch.maximum(d / t, t / d)
    shares = [100 * (ratio < DELTA**power).double().mean().item() for power in (1, 2, 3)]
    return DepthScore(
        abs_rel=((d - t).abs() / t).mean().item(),
        rmse_m=((d - t) ** 2).mean().sqrt().item(),
        delta1=shares[0],
        delta2=shares[1],
        delta3=shares[2],
    )
