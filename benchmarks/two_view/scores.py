"""What a two-view network makes of the test pairs of a set: depth, matches, poses by three ways.

Axes: B pairs, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import alumnus
from alumnus import measure
from alumnus.evaluation.pair_poses import Pair, Poses, pointmap_poses, pose_scores, true_poses
from alumnus.evaluation.pair_scores import BATCH, Views, pair_scores, same_place
from alumnus.evaluation.tasks import TaskSpec
from alumnus.evaluation.view_pairs import MOST_PAIRS
from alumnus.finetune_config import FinetuneConfig, load_finetune_config
from alumnus.finetuning.two_view.examples import plain_pairs
from alumnus.finetuning.two_view.frames import Frames
from alumnus.finetuning.two_view.pairing import find_pairs, split_pairs
from alumnus.heads.two_view import ViewPrediction
from alumnus.heads.two_view.pairs import ViewPairs
from alumnus.images import normalised
from alumnus.scenes.pointmaps import matched
from alumnus.scenes.poses import RelativePose, pose_from_matches, pose_from_points

TESTED = 80  # pairs
SURE = 0.5  # share of the pixels, the most confident, whose points PnP sees
MOST = 400  # points or matches that a pose is estimated from
MOST_ROUNDS = 400  # of RANSAC over matches
PNP_PX, LINE_PX = 2.0, 1.0  # within which points and matches agree with a pose
PERCENT = ("delta1", "match_4px", "match_patch")

Scores = dict[str, float]


def of_network(folder: str | Path, words: Sequence[str]) -> Scores:
    """Of a folder with a head, or a two-view network by name."""
    network = alumnus.load_two_view(folder)

    @torch.no_grad()
    def views(images: Tensor) -> Pair:
        first, second = normalised(images).unbind(dim=1)
        predicted: Pair = network(first, second)
        return predicted

    return scored(views, test_pairs(settings(words)))


def of_constant(words: Sequence[str]) -> Scores:
    """Of the mean pointmaps of the training pairs, and the same pixels as matches."""
    config = settings(words)
    frames = Frames(_task(config).train, size_px=config.size or 0)
    pairs = find_pairs(frames, overlap=_overlap(config), seed=config.seed)
    learned, _held_out = split_pairs(frames.source, pairs)
    mean = same_place(plain_pairs(frames, learned[:480], size_px=frames.size_px))
    return scored(mean, test_pairs(config))


def settings(words: Sequence[str]) -> FinetuneConfig:
    """Those of an arm, read as `alumnus finetune` reads them."""
    return load_finetune_config("", "two-view", [*words, "out=unused"])


def test_pairs(config: FinetuneConfig) -> ViewPairs:
    """The first of the pairs that `alumnus finetune` scores."""
    frames = Frames(_task(config).test, size_px=config.size or 0)
    found = find_pairs(frames, overlap=_overlap(config), seed=config.seed, most=MOST_PAIRS)
    return plain_pairs(frames, found.pairs[:TESTED], size_px=frames.size_px)


def scored(views: Views, pairs: ViewPairs) -> Scores:
    """Percent, and metres; of `auc*` by pointmaps alone, by PnP, by matches alone."""
    found = {
        name: 100 * value if name in PERCENT else value
        for name, value in pair_scores(views, pairs).items()
    }
    truth = true_poses(pairs)
    aligned, by_points, by_matches = [], [], []
    for start in range(0, len(pairs), BATCH):
        batch = pairs.at(slice(start, start + BATCH))
        there, back = views(batch.images), views(batch.images.flip(1))
        aligned.append(pointmap_poses(there, back))
        for k in range(len(batch)):
            by_points.append(_pnp(there, batch.K[k], k))
            by_matches.append(_essential(there, batch.K[k], k))
    poses = {
        "pointmaps": Poses(*(torch.cat(parts) for parts in zip(*aligned, strict=True))),
        "pnp": _stacked(by_points),
        "matches": _stacked(by_matches),
    }
    for way, found_poses in poses.items():
        found |= {f"{k}_{way}": v for k, v in pose_scores(found_poses, truth).items()}
    return {**{name: round(value, 3) for name, value in found.items()}, "pairs": len(pairs)}


def _pnp(there: Pair, K: Tensor, k: int) -> RelativePose | None:
    """The pose from which camera 2 sees its surest points where they are."""
    view: ViewPrediction = there[1]
    sure = view.conf[k] >= view.conf[k].flatten().quantile(1 - SURE)
    v, u = _some(sure.nonzero()).T
    pixels = torch.stack([u, v], dim=-1) + 0.5
    return pose_from_points(
        view.points[k, v, u].numpy(), pixels.numpy(), K2=K[1].numpy(), within_px=PNP_PX
    )


def _essential(there: Pair, K: Tensor, k: int) -> RelativePose | None:
    """The pose by reciprocal matches of descriptors."""
    found = matched(*there, k)
    first, second = (_some(xy).numpy() + 0.5 for xy in (found.first, found.second))
    K1, K2 = (matrix.numpy() for matrix in K)
    return pose_from_matches(
        first, second, K1=K1, K2=K2, within_px=LINE_PX, most_rounds=MOST_ROUNDS
    )


def _some(rows: Tensor) -> Tensor:
    """At most so many as RANSAC needs, evenly chosen."""
    return rows[:: -(-len(rows) // MOST)] if len(rows) else rows


def _stacked(poses: Sequence[RelativePose | None]) -> Poses:
    """As tensors; NaN where there is none: infinitely wrong."""
    none = RelativePose(*(torch.full(s, torch.nan).numpy() for s in ((3, 3), (3,), (1,))))
    filled = [none if pose is None else pose for pose in poses]
    return Poses(
        torch.stack([torch.as_tensor(p.rotation) for p in filled]),
        torch.stack([torch.as_tensor(p.translation) for p in filled]),
    )


def _task(config: FinetuneConfig) -> TaskSpec:
    assert config.data is not None, "every set has some"
    return measure.head_task("matching", config.data, size_px=config.size)


def _overlap(config: FinetuneConfig) -> tuple[float, float]:
    return config.two_view.least_overlap, config.two_view.most_overlap
