"""Matches of two photographs, and what they tell of the cameras: `alumnus match`.

Axes: k matches. Pixels (x, y) are those of the photographs; whole numbers are their centres.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from alumnus.finetuning.by_name import opened_network
from alumnus.heads.photos import read_photo
from alumnus.heads.two_view import Photo, TwoViewNetwork
from alumnus.heads.two_view.matching import least_confidence
from alumnus.scenes.cameras import estimated_focal, given_focals, seen_camera
from alumnus.scenes.match_picture import match_picture
from alumnus.scenes.opening import load_two_view
from alumnus.scenes.photographs import photo_names
from alumnus.scenes.pointmaps import matched
from alumnus.scenes.poses import RelativePose, have_poselib, pose_from_matches, pose_from_points
from alumnus.text_files import check_outputs, write_text

__all__ = ["PhotoMatches", "match_photographs"]

log = logging.getLogger(__name__)

WITHIN_PX = 2.0  # of the pixels that the network sees: of its own, a point agrees with a pose
LINE_PX = 1.0  # of its epipolar line, a match
FILES = ("matches.csv", "cameras.json", "matches.png")

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PhotoMatches:
    """Which pixels of two photographs show the same, the surest first."""

    left: Array  # [k, 2] pixels of the left photograph
    right: Array  # [k, 2]
    confidence: Array  # [k]
    focals: tuple[float, float]  # px; NaN where points tell none
    known: bool  # whether these were given, else estimated
    pose: RelativePose | None  # from points of the left and pixels of the right one
    direction: RelativePose | None  # from matches alone: a translation of length 1
    names: tuple[str, ...]  # from the folder that holds both
    images: tuple[Image.Image, Image.Image]

    def __len__(self) -> int:
        return len(self.left)

    def __str__(self) -> str:
        """Numbers in words."""
        if not len(self):
            return f"no pixel of {self.names[0]} and {self.names[1]} matches"
        least, middle, most = np.quantile(self.confidence, (0, 0.5, 1))
        how = "given" if self.known else "estimated"
        focals = " and ".join("unknown" if np.isnan(f) else f"{f:.0f} px" for f in self.focals)
        lines = [
            f"{len(self)} matches, confidence {middle:.2f} ({least:.2f} to {most:.2f})",
            f"focal lengths: {focals} ({how})",
        ]
        if self.pose is None:
            return "\n".join([*lines, "no pose of the right camera agrees with them"])
        x, y, z = self.pose.eye
        lines.append(
            f"the right camera: {np.hypot(np.hypot(x, y), z):.2f} m away ({x:+.2f} right, "
            f"{y:+.2f} down, {z:+.2f} ahead), turned by {self.pose.turn_deg:.1f} degrees; "
            f"{self.pose.agree.sum()} points agree"
        )
        if self.direction is not None:
            lines.append(
                f"from matches alone: turned by {self.direction.turn_deg:.1f} degrees; "
                f"{self.direction.agree.sum()} matches agree"
            )
        return "\n".join(lines)

    def save(self, folder: str | Path) -> None:
        """Write matches.csv, cameras.json and matches.png."""
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        agree = np.zeros(len(self), bool) if self.pose is None else self.pose.agree
        rows = zip(self.left, self.right, self.confidence, agree, strict=True)
        table = "".join(
            f"{x1:.2f},{y1:.2f},{x2:.2f},{y2:.2f},{conf:.4g},{int(fits)}\n"
            for (x1, y1), (x2, y2), conf, fits in rows
        )
        head = "left_x,left_y,right_x,right_y,confidence,agrees\n"
        write_text(folder / "matches.csv", head + table)
        write_text(folder / "cameras.json", json.dumps(self._cameras(), indent=1) + "\n")
        match_picture(self.images, self.left, self.right, agree).save(folder / "matches.png")

    def _cameras(self) -> dict[str, object]:
        return {
            "about": "x2 = R x1 + t; x right, y down, z ahead; focal lengths in pixels",
            "photographs": list(self.names),
            "focals": [None if np.isnan(focal) else focal for focal in self.focals],
            "focals_known": self.known,
            "pose_metres": _pose_values(self.pose),
            "pose_direction": _pose_values(self.direction),
        }


def match_photographs(
    left: str | Path | Image.Image,
    right: str | Path | Image.Image,
    model: str | Path | TwoViewNetwork,
    out: Path | None = None,
    *,
    encoder: str | None = None,
    focal: float | Sequence[float] | None = None,  # px of the photographs: one, or one each
    overwrite: bool = False,
    device: str = "auto",
) -> PhotoMatches:
    """Match two photographs of any sizes; with `out`, write what was found to that folder.

    The pose comes from the left photograph's points and the right one's pixels, with RANSAC: its
    translation is in metres where the network learned those. ValueError, one sentence, for
    photographs that cannot be read and for a folder that holds such files already.
    """
    check_outputs(out, FILES, inputs=(left, right), overwrite=overwrite)
    first, second = given_focals(focal, 2)
    images = read_photo(left), read_photo(right)
    network = opened_network(model, load_two_view, encoder, device)
    photos = network.prepare(images[0]), network.prepare(images[1])
    names = photo_names((left, right), ("left", "right"))
    found = _matched(network, photos, (first, second), images, names)
    if out is not None:
        found.save(out)
    return found


@torch.no_grad()
def _matched(
    network: TwoViewNetwork,
    photos: tuple[Photo, Photo],
    focals: tuple[float | None, float | None],
    images: tuple[Image.Image, Image.Image],
    names: tuple[str, ...],
) -> PhotoMatches:
    device = next(network.parameters()).device
    there, back = network.both_ways(*(photo.images.to(device) for photo in photos))
    pixels = matched(*there)
    conf = least_confidence(pixels, there[0].desc_conf[0], there[1].desc_conf[0])
    points = there[0].points[0][pixels.first[:, 1], pixels.first[:, 0]]
    finite = conf.isfinite() & points.isfinite().all(dim=-1)
    order = conf.where(finite, -torch.inf).argsort(descending=True)[: int(finite.sum())]
    first, second = pixels.first[order], pixels.second[order]
    here, other = photos[0].in_original(first.cpu()), photos[1].in_original(second.cpu())
    one, two = (
        estimated_focal(view.points[0].cpu(), view.conf[0].cpu(), photo) if given is None else given
        for view, photo, given in zip((there[0], back[0]), photos, focals, strict=True)
    )
    metric = points[order].cpu().double().numpy()
    pose, direction = _poses(metric, first.cpu(), second.cpu(), photos, (one, two))
    return PhotoMatches(
        left=here.double().numpy(),
        right=other.double().numpy(),
        confidence=conf[order].cpu().double().numpy(),
        focals=(one, two),
        known=None not in focals,
        pose=pose,
        direction=direction,
        names=names,
        images=images,
    )


def _poses(
    points: Array,  # [k, 3] in the frame of the left camera
    first: Tensor,  # [k, 2] pixels of the left photograph as the network sees it
    second: Tensor,  # [k, 2]
    photos: tuple[Photo, Photo],
    focals: tuple[float, float],
) -> tuple[RelativePose | None, RelativePose | None]:
    """By points and by matches; the latter may be none where there is the former.

    What agrees is decided in the network's pixels, so it is the same for photographs of any size.
    """
    if not np.isfinite(focals).all():
        return None, None
    if not have_poselib():
        log.warning("the cameras' pose is left out: it needs pip install 'alumnus[scenes]'")
        return None, None
    K1, K2 = (seen_camera(*about) for about in zip(photos, focals, strict=True))
    one, other = first.numpy(), second.numpy()
    metric = pose_from_points(points, other, K2=K2, within_px=WITHIN_PX)
    return metric, pose_from_matches(one, other, K1=K1, K2=K2, within_px=LINE_PX)


def _pose_values(pose: RelativePose | None) -> dict[str, object] | None:
    if pose is None:
        return None
    return {
        "R": pose.rotation.tolist(),
        "t": pose.translation.tolist(),
        "agree": int(pose.agree.sum()),
    }
