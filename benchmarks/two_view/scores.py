"""What a two-view network makes of the test pairs of a set: depth, matches, poses by three ways.

Axes: B pairs, H W pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import alumnus
from alumnus import measure
from alumnus.evaluation.pair_poses import Pair, Poses, pointmap_poses, pose_scores, true_poses
from alumnus.evaluation.pair_scores import BATCH, Views, pair_scores, same_place
from alumnus.evaluation.tasks import TaskSpec
from alumnus.evaluation.view_pairs import MOST_PAIRS
from alumnus.finetune_config import FinetuneConfig, load_finetune_config
from alumnus.finetuning import FinetuneResult
from alumnus.finetuning.two_view.examples import plain_pairs
from alumnus.finetuning.two_view.frames import Frames
from alumnus.finetuning.two_view.pairing import find_pairs, split_pairs
from alumnus.heads.two_view import ViewPrediction
from alumnus.heads.two_view.pairs import ViewPairs
from alumnus.images import normalised
from alumnus.scenes.pointmaps import matched
from alumnus.scenes.poses import RelativePose, pose_from_matches, pose_from_points

SURE = 0.5  # share of the pixels, the most confident, whose points PnP sees
MOST = 400  # points that a pose is estimated from
WITHIN_PX = 2.0  # of its pixel, a point agrees with a pose
PERCENT = ("delta1", "match_4px", "match_patch")

Scores = dict[str, float]


def of_network(folder: str | Path, words: Sequence[str]) -> Scores:
    """Of a folder with a head, or a two-view network by name."""
    return scored(network_views(folder), test_pairs(settings(words)))


def network_views(folder: str | Path) -> Views:
    """What such a network says of pictures."""
    network = alumnus.load_two_view(folder)

    @torch.no_grad()
    def views(images: Tensor) -> Pair:
        first, second = normalised(images).unbind(dim=1)
        predicted: Pair = network(first, second)
        return predicted

    return views


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
    """The pairs that `alumnus finetune` scores."""
    frames = Frames(_task(config).test, size_px=config.size or 0)
    found = find_pairs(frames, overlap=_overlap(config), seed=config.seed, most=MOST_PAIRS)
    return plain_pairs(frames, found.pairs, size_px=frames.size_px)


def of_result(result: FinetuneResult, words: Sequence[str]) -> Scores:
    """Of a head just trained: what the command measured, and poses by PnP and by matches."""
    [task] = result.results.tasks
    [model] = (m.name for m in result.results.models if m.kind == "student")
    details = result.results.scores[task.name][model].details
    measured = {_named(name): value for name, value in details.items()}
    poses = solved_poses(network_views(result.folder), test_pairs(settings(words)))
    return _rounded({**measured, **poses})


def scored(views: Views, pairs: ViewPairs) -> Scores:
    """Percent, and metres; `auc*` by aligning pointmaps, by PnP and by matches."""
    found = {
        name: 100 * value if name in PERCENT else value
        for name, value in pair_scores(views, pairs).items()
    }
    aligned = []
    for images in pairs.images.split(BATCH):
        seen = images.float() / 255
        aligned.append(pointmap_poses(views(seen), views(seen.flip(1))))
    poses = Poses(*(torch.cat(parts) for parts in zip(*aligned, strict=True)))
    of_maps = {_named(k): v for k, v in pose_scores(poses, true_poses(pairs)).items()}
    return _rounded({**found, **of_maps, **solved_poses(views, pairs), "pairs": len(pairs)})


def solved_poses(views: Views, pairs: ViewPairs) -> Scores:
    """AUC of the poses of matches, and of PnP: points of view 2 in the frame of camera 1."""
    by_pnp, by_matches = [], []
    for start in range(0, len(pairs), BATCH):
        batch = pairs.at(slice(start, start + BATCH))
        first, second = views(batch.images)
        by_pnp += [_pnp(second, batch.K[k, 1], k) for k in range(len(batch))]
        by_matches += [_matched(first, second, batch.K[k], k) for k in range(len(batch))]
    truth = true_poses(pairs)
    ways = {"pnp": by_pnp, "matches": by_matches}
    return {
        f"{name}_{way}": value
        for way, found in ways.items()
        for name, value in pose_scores(_stacked(found), truth).items()
    }


def _pnp(view: ViewPrediction, K: Tensor, k: int) -> RelativePose | None:
    """The pose from which a camera sees its surest points where they are."""
    sure = view.conf[k] >= view.conf[k].flatten().quantile(1 - SURE)
    places = sure.nonzero()
    v, u = places[:: -(-len(places) // MOST)].T
    pixels = torch.stack([u, v], dim=-1) + 0.5
    return pose_from_points(
        view.points[k, v, u].numpy(), pixels.numpy(), K2=K.numpy(), within_px=WITHIN_PX
    )


def _matched(
    first: ViewPrediction, second: ViewPrediction, K: Tensor, k: int
) -> RelativePose | None:
    """The pose of the essential matrix of the reciprocal matches."""
    pixels = matched(first, second, k)
    here, there = (x.numpy() + 0.5 for x in pixels)
    return pose_from_matches(here, there, K1=K[0].numpy(), K2=K[1].numpy())


def _stacked(poses: Sequence[RelativePose | None]) -> Poses:
    """As tensors; NaN where there is none: infinitely wrong."""
    none = RelativePose(*(torch.full(s, torch.nan).numpy() for s in ((3, 3), (3,), (1,))))
    filled = [none if pose is None else pose for pose in poses]
    return Poses(
        torch.stack([torch.as_tensor(p.rotation) for p in filled]),
        torch.stack([torch.as_tensor(p.translation) for p in filled]),
    )


def _named(name: str) -> str:
    """`auc20` of the command is by pointmaps."""
    return f"{name}_pointmaps" if name.startswith("auc") else name


def _rounded(scores: Mapping[str, Any]) -> Scores:
    return {name: round(value, 3) for name, value in scores.items()}


def _task(config: FinetuneConfig) -> TaskSpec:
    assert config.data is not None, "every set has some"
    return measure.head_task("matching", config.data, size_px=config.size)


def _overlap(config: FinetuneConfig) -> tuple[float, float]:
    return config.two_view.least_overlap, config.two_view.most_overlap
