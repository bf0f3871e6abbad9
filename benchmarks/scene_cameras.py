"""How right cameras come out, in rooms of the miniworld: the numbers of docs/two-view.md.

    python -m benchmarks.scene_cameras [--model miniworld-rooms] [--pairs 24] [--ways 3]

First pairs: the second camera by four ways of telling it, with true focal lengths, and the focal
lengths that points tell. Then ways of six pictures through a room, as `alumnus reconstruct` sees
them. Rooms are of series that no teacher learns from. Two CPU minutes.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import alumnus
from alumnus.evaluation.human_metrics import fit_similarity
from alumnus.evaluation.pair_poses import pointmap_poses
from alumnus.evaluation.relative_pose import angle_between_deg, rotation_angle_deg
from alumnus.heads.two_view import TwoViewNetwork
from alumnus.miniworld.rooms import RoomView, render_room, render_walk
from alumnus.scenes.cameras import estimated_focal
from alumnus.scenes.pointmaps import matched
from alumnus.scenes.poses import pose_from_matches, pose_from_points

PAIR_SERIES, WAY_SERIES = 7, 0
PX, WAY_PX = 64, 128
VIEWS, OVERLAP = 6, 0.45
WITHIN_PX = 2.0
ROWS = ("points of matches", "matches", "Procrustes, both answers", "points of all pixels")

Array = NDArray[np.float64]
Pose = tuple[Array, Array]  # rotation, translation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="miniworld-rooms")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--ways", type=int, default=3)
    options = parser.parse_args()
    network = alumnus.load_two_view(options.model)
    pairs = [render_room(PAIR_SERIES, k, PX).views for k in range(options.pairs)]
    print(f"{len(pairs)} pairs, medians | rotation, degrees | direction, degrees | place, m")
    found = [list(told(network, *views)) for views in pairs]
    for row, name in enumerate(ROWS):
        turned, aside, off = np.median([of_pair[row] for of_pair in found], axis=0)
        place = "unknown" if np.isnan(off) else f"{off:.2f}"
        print(f"{name} | {turned:.1f} | {aside:.0f} | {place}")
    focals = [relative for views in pairs for relative in focal_errors(network, *views)]
    print(f"focal lengths off by {100 * np.median(focals):.0f}% (median)")
    for index in range(options.ways):
        print(way(network, render_walk(WAY_SERIES, index, VIEWS, WAY_PX, overlap=OVERLAP)))


@torch.no_grad()
def told(network: TwoViewNetwork, one: RoomView, other: RoomView) -> Iterator[tuple[float, ...]]:
    """Errors of the second camera, as `ROWS` tell it; half a turn where they tell none."""
    photos = [network.prepare(Image.fromarray(view.image)) for view in (one, other)]
    there, back = network.both_ways(photos[0].images, photos[1].images)
    K1, K2 = (view.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]] for view in (one, other))
    true = np.linalg.inv(other.pose.astype(float)) @ one.pose.astype(float)
    pixels = matched(*there)
    (x, y), first, second = pixels.first.T, pixels.first.numpy(), pixels.second.numpy()
    near = there[0].points[0][y, x].numpy()
    sure = there[1].conf[0] >= there[1].conf[0].median()
    rows, columns = sure.nonzero().T
    all_pixels = torch.stack([columns, rows], dim=1).numpy()
    both = pointmap_poses(there, back)
    by_matches = pose_from_matches(first, second, K1=K1, K2=K2)
    for pose in (
        pose_from_points(near, second, K2=K2, within_px=WITHIN_PX),
        by_matches,
        (both.rotation[0].numpy(), both.translation[0].numpy()),
        pose_from_points(there[1].points[0][sure].numpy(), all_pixels, K2=K2, within_px=WITHIN_PX),
    ):
        if pose is None:
            yield 180.0, 90.0, np.inf
            continue
        rotation, shift = pose[0], pose[1]
        yield (
            float(rotation_angle_deg(rotation, true[:3, :3])),
            float(angle_between_deg(shift, true[:3, 3])),
            np.nan if pose is by_matches else float(np.linalg.norm(shift - true[:3, 3])),
        )


@torch.no_grad()
def focal_errors(network: TwoViewNetwork, *views: RoomView) -> Iterator[float]:
    """Relative, of either view as the first one."""
    photos = [network.prepare(Image.fromarray(view.image)) for view in views]
    for prediction, photo, view in zip(
        network.both_ways(photos[0].images, photos[1].images), photos, views, strict=True
    ):
        found = estimated_focal(prediction[0].points[0], prediction[0].conf[0], photo)
        yield abs(found / view.K[0, 0] - 1)


def way(network: TwoViewNetwork, views: list[RoomView]) -> str:
    """Errors of all its cameras, in words."""
    scene = alumnus.reconstruct([Image.fromarray(view.image) for view in views], network)
    poses = np.stack([view.pose for view in views]).astype(float)
    true = np.linalg.inv(poses[0]) @ poses
    turned = rotation_angle_deg(scene.poses[:, :3, :3], true[:, :3, :3]).max()
    eyes, places = scene.poses[:, :3, 3], true[:, :3, 3]
    nearest = fit_similarity(eyes, places)
    off = 100 * np.linalg.norm(nearest.of(eyes) - places, axis=1).max()
    length = float(np.linalg.norm(places[-1]))
    return (
        f"a way of {length:.2f} m: cameras turned up to {turned:.1f} degrees wrongly, centres up "
        f"to {off:.1f} cm off after the best similarity; lengths {1 / nearest.scale:.2f}, focal "
        f"lengths {scene.K[:, 0, 0].mean() / views[0].K[0, 0]:.2f} of the true ones"
    )


if __name__ == "__main__":
    main()
