"""Metrics of map-free relocalisation: pose and reprojection errors by scene, precision and AUC.

A scene has a reference picture and query pictures. Files hold world-to-camera poses, the world
being the reference camera's; all metrics are of camera-to-world poses. Quaternions are
(w, x, y, z).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Estimate",
    "Intrinsics",
    "Limits",
    "MapfreeScore",
    "Pose",
    "PrecisionRecall",
    "SceneScore",
    "aggregate",
    "precision_recall",
    "read_estimates",
    "read_intrinsics",
    "read_poses",
    "rotation_error_deg",
    "score_scene",
    "vcre_grid",
    "vcre_px",
    "write_estimates",
]

EVERY = 5  # of the true poses, those that count
CELL_M = 0.3  # of the grid of points
NEAREST_M = 1.8

Array = NDArray[np.float64]


class Pose(NamedTuple):
    """A rotation as a unit quaternion and a translation in metres."""

    q: Array  # [4]
    t: Array  # [3]

    @property
    def inverse(self) -> "Pose":
        """World to camera becomes camera to world, and back."""
        back = self.q * np.array([1.0, -1.0, -1.0, -1.0])
        return Pose(back, -rotation_matrix(back) @ self.t)

    @property
    def matrix(self) -> Array:  # [4, 4]
        """The same as a matrix."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation_matrix(self.q), self.t
        return matrix


class Estimate(NamedTuple):
    """A predicted pose, world to camera, and how sure it is."""

    pose: Pose
    confidence: float


class Intrinsics(NamedTuple):
    """Of one picture."""

    K: Array  # [3, 3] pixels
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Errors below which a frame counts as found."""

    translation_m: float = 0.25
    rotation_deg: float = 5.0
    vcre_px: float = 90.0


def read_intrinsics(text: str) -> dict[int, Intrinsics]:
    """Lines `frame fx fy cx cy width height`, by number of the frame; the last of equals."""
    found = {}
    for name, values in _lines(text, fields=6):
        fx, fy, cx, cy = (float(np.float32(v)) for v in values[:4])
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        found[_number(name)] = Intrinsics(K, int(values[4]), int(values[5]))
    return found


def read_poses(text: str) -> dict[int, Pose]:
    """Lines `frame qw qx qy qz tx ty tz`, by number of the frame; the last of equals.

    Lines with another number of fields, numbers that are not finite, a frame with `#` or the
    quaternion 0 are left out. Quaternions are brought to length 1.
    """
    rows = ((name, _pose(values)) for name, values in _lines(text, fields=7))
    return {_number(name): pose for name, pose in rows if pose is not None}


def read_estimates(text: str) -> dict[int, Estimate]:
    """As `read_poses`, with the confidence behind the pose."""
    rows = ((name, _pose(v[:7]), v[7]) for name, v in _lines(text, fields=8))
    return {_number(name): Estimate(pose, sure) for name, pose, sure in rows if pose is not None}


def write_estimates(estimates: Mapping[str, Estimate]) -> str:
    """The text of a scene's submission, of which `read_estimates` reads the same again.

    Frames go by the name that the scene's files give them, such as `seq1/frame_00005.jpg`.
    """
    return "".join(
        f"{name} {' '.join(f'{v:.10f}' for v in (*estimate.pose.q, *estimate.pose.t))} "
        f"{estimate.confidence:.6f}\n"
        for name, estimate in estimates.items()
    )


def _lines(text: str, *, fields: int) -> list[tuple[str, list[float]]]:
    found = []
    for line in text.splitlines():
        name, *words = line.split() or [""]
        if "#" in name or len(words) != fields:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError:
            continue
        if np.isfinite(values).all():
            found.append((name, values))
    return found


def _pose(values: Sequence[float]) -> Pose | None:
    q, t = np.array(values[:4], np.float64), np.array(values[4:], np.float64)
    length = np.linalg.norm(q)
    return Pose(q / length, t) if length > 0 else None


def _number(name: str) -> int:
    """Of the frame: the five characters before the ending."""
    stem = PurePosixPath(name).stem
    try:
        return int(stem[-5:])
    except ValueError as error:
        raise ValueError(
            f"the frame {name!r} should end in a number, as frame_00005.jpg"
        ) from error


def rotation_matrix(q: ArrayLike) -> Array:  # [4] -> [3, 3]
    """Of a unit quaternion."""
    w, x, y, z = np.asarray(q, np.float64)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_error_deg(one: ArrayLike, other: ArrayLike) -> float:  # [4], [4]
    """The angle between two unit quaternions: 2 asin |vector part of the one between them|."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    vector = a[0] * b[1:] - b[0] * a[1:] - np.cross(a[1:], b[1:])
    return float(np.degrees(2 * np.arcsin(min(1.0, float(np.linalg.norm(vector))))))


def vcre_grid() -> Array:  # [196, 3] metres
    """Points before a camera: 7 x 4 x 7 of them 0.3 m apart, x and y centred, from 1.8 m on."""
    x, y, z = ((np.arange(count) - (count - 1) / 2) * CELL_M for count in (7, 4, 7))
    grid = np.meshgrid(x, y, z - z[0] + NEAREST_M, indexing="ij")
    return np.stack(grid, axis=-1).reshape(-1, 3)


def vcre_px(estimate: Pose, truth: Pose, camera: Intrinsics) -> float:
    """Virtual correspondence reprojection error of a camera-to-world pose, pixels.

    The mean distance between where points before the true camera are seen by it and by the
    estimated one; both are brought into the picture. Points behind the camera are not
    treated specially.

    Source: the benchmark of map-free relocalisation (arXiv 2210.05494); equal to its numbers.
    """
    points = vcre_grid()
    between = np.linalg.inv(estimate.matrix) @ truth.matrix
    moved = points @ between[:3, :3].T + between[:3, 3]
    seen, would = (_projected(p, camera) for p in (points, moved))
    return float(np.linalg.norm(seen - would, axis=1).mean())


def _projected(points: Array, camera: Intrinsics) -> Array:  # [n, 3] -> [n, 2]
    on_plane = points @ camera.K.T
    return np.clip(on_plane[:, :2] / on_plane[:, 2:], 0, [camera.width, camera.height])


@dataclass(frozen=True, kw_only=True)
class SceneScore:
    """Errors of the frames of a scene that have an estimate, in the order of the frames."""

    translation_m: Array  # [n]
    rotation_deg: Array  # [n]
    vcre_px: Array  # [n]
    confidence: Array  # [n]
    failures: int  # frames that count and have no estimate


def score_scene(
    truth: Mapping[int, Pose],  # as `read_poses` has them
    estimates: Mapping[int, Estimate] | None,  # None: the scene has no file
    cameras: Mapping[int, Intrinsics],
) -> SceneScore:
    """Compare the estimates of a scene with the truth, at every fifth frame.

    The reference picture has the number of the first query, which takes its place. A scene without
    a file fails at all its frames, not only every fifth.
    """
    if estimates is None:
        none = np.zeros(0)
        return SceneScore(
            translation_m=none,
            rotation_deg=none,
            vcre_px=none,
            confidence=none,
            failures=len(truth),
        )
    counted = list(truth)[::EVERY]
    rows = []
    for frame in counted:
        if frame in estimates:
            found, sure = estimates[frame]
            to_world, true = found.inverse, truth[frame].inverse
            metres = float(np.linalg.norm(to_world.t - true.t))
            degrees = rotation_error_deg(to_world.q, true.q)
            rows.append((metres, degrees, vcre_px(to_world, true, cameras[frame]), sure))
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return SceneScore(
        translation_m=columns[0],
        rotation_deg=columns[1],
        vcre_px=columns[2],
        confidence=columns[3],
        failures=len(counted) - len(rows),
    )


class PrecisionRecall(NamedTuple):
    """By falling recall; the last point has none and the precision 1."""

    precision: Array
    recall: Array  # share of all frames that have an estimate at least as sure
    auc: float  # sum of the steps of recall, each times the precision at its upper end


def precision_recall(confidence: ArrayLike, found: ArrayLike, failures: int) -> PrecisionRecall:
    """Admit estimates [n] from the surest on, those equally sure together.

    Frames without an estimate, `failures` of them, lower the recall. Without any estimate the area
    is 0.
    """
    sure, right = np.asarray(confidence, np.float64), np.asarray(found, bool)
    admitted = sure[None] >= np.unique(sure)[:, None]  # [thresholds, n]
    count = admitted.sum(axis=1)
    precision = np.append((admitted & right).sum(axis=1) / count, 1.0)
    recall = np.append(count / max(1, len(sure) + failures), 0.0)
    return PrecisionRecall(precision, recall, float((-np.diff(recall) * precision[:-1]).sum()))


@dataclass(frozen=True, kw_only=True)
class MapfreeScore:
    """Over all scenes; medians are those of each scene, their mean over scenes with estimates."""

    median_translation_m: float
    median_rotation_deg: float
    median_vcre_px: float
    pose_precision: float  # share of all frames
    pose_auc: float
    vcre_precision: float
    vcre_auc: float
    estimates: float  # share of all frames that have one


def aggregate(scenes: Sequence[SceneScore], *, limits: Limits | None = None) -> MapfreeScore:
    """The table's numbers; medians are NaN without any estimate. Errors have to be below limits."""
    used = limits or Limits()
    failures = sum(scene.failures for scene in scenes)
    held = [scene for scene in scenes if len(scene.confidence)]
    total = max(1, failures + sum(len(scene.confidence) for scene in held))

    def joined(name: str) -> Array:
        return np.concatenate([getattr(scene, name) for scene in held] or [np.zeros(0)])

    def median(name: str) -> float:
        values = [np.median(getattr(scene, name)) for scene in held]
        return float(np.mean(values)) if values else float("nan")

    sure = joined("confidence")
    pose = (joined("translation_m") < used.translation_m) & (
        joined("rotation_deg") < used.rotation_deg
    )
    seen = joined("vcre_px") < used.vcre_px
    return MapfreeScore(
        median_translation_m=median("translation_m"),
        median_rotation_deg=median("rotation_deg"),
        median_vcre_px=median("vcre_px"),
        pose_precision=float(pose.sum() / total),
        pose_auc=precision_recall(sure, pose, failures).auc,
        vcre_precision=float(seen.sum() / total),
        vcre_auc=precision_recall(sure, seen, failures).auc,
        estimates=len(sure) / total,
    )
