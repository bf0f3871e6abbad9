"""Cameras and points of a scene from its photographs: `alumnus reconstruct`.

Axes: n photographs, h w pixels that points are kept of.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from alumnus.finetuning.by_name import opened_network
from alumnus.heads.two_view import Photo, TwoViewNetwork
from alumnus.images import pixels
from alumnus.scenes.alignment import align, apart, fused_points
from alumnus.scenes.cameras import camera_matrix, estimated_focal, given_focals, seen_camera
from alumnus.scenes.cloud import Cloud, write_ply
from alumnus.scenes.cloud_picture import cloud_picture
from alumnus.scenes.opening import load_two_view
from alumnus.scenes.photographs import check_there, photo_names, photographs_in
from alumnus.scenes.pointmaps import Seen, predict_pairs
from alumnus.scenes.reprojection import Refined, refined_by_matches
from alumnus.text_files import check_outputs, write_text

__all__ = ["Reconstruction", "reconstruct_photographs"]

log = logging.getLogger(__name__)

FILES = ("cameras.json", "points.ply", "views.png")
MOST_PAIRS = 200  # without a window
MOST_POINTS = 50_000  # of a photograph
SURE = 0.75  # share of all points that is kept, where no least confidence is given

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A scene: its cameras, in the frame of the first one, and its points."""

    names: tuple[str, ...]  # of the photographs, from the folder that holds all
    sizes: tuple[tuple[int, int], ...]  # width and height, px
    K: Array  # [n, 3, 3] of the photographs themselves; whole numbers are centres of pixels
    poses: Array  # [n, 4, 4] camera to world; x right, y down, z ahead
    cloud: Cloud
    pairs: int  # that overlap
    error_px: float  # mean distance of a match from where the cameras put it, as the network sees

    def __str__(self) -> str:
        """Numbers in words."""
        eyes = self.poses[:, :3, 3]
        apart_m = float(np.linalg.norm(eyes[:, None] - eyes[None], axis=-1).max())
        focals = ", ".join(f"{focal:.0f}" for focal in self.K[:, 0, 0])
        return (
            f"{len(self.names)} cameras, {self.pairs} pairs that overlap, "
            f"{len(self.cloud.points)} points\n"
            f"cameras up to {apart_m:.2f} m apart; focal lengths {focals} px\n"
            f"matches are {self.error_px:.1f} px off, of the pixels that the network sees"
        )

    def save(self, folder: str | Path) -> None:
        """Write cameras.json, points.ply and views.png."""
        folder = Path(folder).expanduser()
        cameras = [
            {
                "file": name,
                "width": width,
                "height": height,
                "K": K.tolist(),
                "camera_to_world": pose.tolist(),
            }
            for name, (width, height), K, pose in zip(
                self.names, self.sizes, self.K, self.poses, strict=True
            )
        ]
        about = "x right, y down, z ahead; K in pixels, whole numbers are centres of pixels"
        values = {"about": about, "cameras": cameras}
        write_text(folder / "cameras.json", json.dumps(values, indent=1) + "\n")
        write_ply(self.cloud, folder / "points.ply")
        cloud_picture(self.cloud, self.poses).save(folder / "views.png")


@torch.inference_mode(mode=False)  # gradients of the fit, also where a caller wants none
def reconstruct_photographs(
    photographs: str | Path | Sequence[str | Path | Image.Image],
    model: str | Path | TwoViewNetwork,
    out: Path | None = None,
    *,
    encoder: str | None = None,
    focal: float | Sequence[float] | None = None,  # px of the photographs: one, or one each
    window: int | None = None,  # pairs of each photograph with so many that follow; None: all
    least_sure: float | None = None,  # ln(1 + conf - low) of points that are kept; None: 3 of 4
    overwrite: bool = False,
    device: str = "auto",
) -> Reconstruction:
    """Cameras and points of a folder of photographs, or of a list of two or more.

    Each pair goes through the network in both orders; those that overlap are brought into one
    world by their points (`align`), then their cameras fitted to the matches
    (`refined_by_matches`). With `out`, what was found is written to that folder. ValueError, one
    sentence, for fewer than two photographs, broken ones, more than 200 pairs without `window`,
    and photographs that show nothing of what the others do.
    """
    files = _listed(photographs, out)
    check_outputs(out, FILES, inputs=files, overwrite=overwrite)
    names = photo_names(files)
    focals = given_focals(focal, len(files))
    chosen = _pairs(len(files), window)
    check_there(files)
    network = opened_network(model, load_two_view, encoder, device)
    photos = [network.prepare(file) for file in files]
    step = max(1, *(_step(photo) for photo in photos))
    left = iter(range(1, len(chosen) + 1))

    def say(seen: Seen) -> None:
        first, second = (names[k] for k in (seen.there.first, seen.there.second))
        number = f"pair {next(left)} of {len(chosen)}"
        log.info("%s: %s, %s: %d matches agree", number, first, second, seen.agree)

    pairs = predict_pairs(network, photos, chosen, step=step, on_pair=say)
    if lost := apart(pairs, len(files)):
        raise ValueError(
            f"{', '.join(names[k] for k in lost)}: nothing is seen there that the other "
            "photographs show too, so leave out, or add photographs between"
        )
    aligned = align(pairs, len(files))
    views = [
        _view(photo, *fused_points(pairs, aligned.scales, number), given, step=step)
        for number, (photo, given) in enumerate(zip(photos, focals, strict=True))
    ]
    unknown = [name for name, view in zip(names, views, strict=True) if np.isnan(view.focal_px)]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: the points tell no focal length, so give one, as focal=1200"
        )
    refined = refined_by_matches(
        pairs,
        aligned.poses,
        [view.depth for view in views],
        [view.sure for view in views],
        [seen_camera(photo, view.focal_px) for photo, view in zip(photos, views, strict=True)],
        step=step,
    )
    if not refined.poses.isfinite().all():
        raise ValueError("the cameras cannot be told: the network is sure of no point")
    result = Reconstruction(
        names=names,
        sizes=tuple(photo.size for photo in photos),
        K=np.stack(
            [camera_matrix(photo, view.focal_px) for photo, view in zip(photos, views, strict=True)]
        ),
        poses=refined.poses.numpy(),
        cloud=_cloud(photos, views, refined, step=step, least_sure=least_sure),
        pairs=len(pairs),
        error_px=refined.error_px,
    )
    if out is not None:
        result.save(out)
    return result


def _listed(
    photographs: str | Path | Sequence[str | Path | Image.Image], out: Path | None
) -> Sequence[str | Path | Image.Image]:
    """The files of a folder, where no picture may be written, or of a list; at least two."""
    if isinstance(photographs, str | Path):
        folder = Path(photographs).expanduser()
        found: Sequence[str | Path | Image.Image] = photographs_in(folder)
        if out is not None and out.resolve() == folder.resolve():
            raise ValueError(
                f"out={out} is the folder of the photographs, where views.png would be taken for "
                "one of them: name another folder"
            )
        where = f"the folder {str(photographs)!r} holds"
    else:
        found, where = photographs, "given are"
    if len(found) < 2:
        raise ValueError(f"a scene needs two photographs or more, but {where} {len(found)}")
    return found


def _pairs(count: int, window: int | None) -> list[tuple[int, int]]:
    """Which photographs are compared."""
    if window is not None and window < 1:
        raise ValueError(f"a window of {window} holds no photograph: give 1 or more")
    reach = count if window is None else window
    pairs = [(i, j) for i in range(count) for j in range(i + 1, min(count, i + reach + 1))]
    if window is None and len(pairs) > MOST_PAIRS:
        raise ValueError(
            f"{count} photographs make {len(pairs)} pairs, which takes long: compare each with "
            "the next few by name, such as window=5, or leave some out"
        )
    return pairs


def _step(photo: Photo) -> int:
    """So that no more points than 50,000 of a photograph are kept."""
    height, width = photo.images.shape[-2:]
    return int(np.ceil(np.sqrt(height * width / MOST_POINTS)))


class _View(NamedTuple):
    """What is known about a photograph in its camera's frame."""

    depth: Tensor  # [h, w] of every `step`-th pixel
    sure: Tensor  # [h, w]
    focal_px: float  # of the photograph itself


def _view(photo: Photo, points: Tensor, sure: Tensor, focal: float | None, *, step: int) -> _View:
    """From points [h, w, 3] in the frame of its camera."""
    depth = points[..., 2]
    certain = torch.where(depth > 0, sure, 0)
    return _View(depth, certain, focal or estimated_focal(points, sure, photo, step=step))


def _cloud(
    photos: Sequence[Photo],
    views: Sequence[_View],
    refined: Refined,
    *,
    step: int,
    least_sure: float | None,
) -> Cloud:
    """Points on the rays of their pixels, those that are sure."""
    points = []
    for photo, view, pose, size in zip(photos, views, refined.poses, refined.sizes, strict=True):
        local = _on_rays(size * view.depth.double(), seen_camera(photo, view.focal_px), step)
        points.append((local @ pose[:3, :3].T + pose[:3, 3]).flatten(0, 1))
    sure = torch.cat([view.sure.flatten() for view in views])
    least = float(np.quantile(sure.numpy(), 1 - SURE)) if least_sure is None else least_sure
    kept = (sure >= least) & (sure > 0)
    if not kept.any():
        raise ValueError(f"no point is as sure as {least:g}: the surest reaches {sure.max():.2f}")
    colours = torch.cat([_colours(photo.images[0, :, ::step, ::step]) for photo in photos])
    return Cloud(torch.cat(points)[kept].float().numpy(), colours[kept].numpy())


def _on_rays(depth: Tensor, K: Array, step: int) -> Tensor:  # [h, w] -> [h, w, 3]
    """Points in the camera's frame."""
    height, width = depth.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x * step, y * step, torch.ones_like(x)], dim=-1).double()
    rays: Tensor = places @ torch.from_numpy(np.linalg.inv(K)).T
    return rays * depth[..., None]


def _colours(images: Tensor) -> Tensor:  # [3, h, w] -> [h*w, 3] uint8
    bright = (pixels(images.cpu()) * 255).round().clamp(0, 255)
    return bright.byte().flatten(1).T
