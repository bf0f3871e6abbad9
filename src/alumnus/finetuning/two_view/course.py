"""What a two-view head learns and how: pointmaps and matches of pairs of posed pictures.

Axes: B pairs, S side of a picture.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from alumnus.evaluation.pair_poses import Poses, pointmap_poses, pose_scores, true_poses
from alumnus.evaluation.pair_scores import Views, in_batches, pair_scores, same_place
from alumnus.evaluation.results import TaskScore
from alumnus.evaluation.suite import task_record
from alumnus.evaluation.tasks import TaskSpec
from alumnus.evaluation.view_pairs import MOST_PAIRS
from alumnus.finetune_config import FinetuneConfig
from alumnus.finetuning.backbone import Backbone
from alumnus.finetuning.course import Finding
from alumnus.finetuning.head_model import HeadSpec
from alumnus.finetuning.maps import training_record
from alumnus.finetuning.two_view.examples import Example, PairExamples, batches_from, plain_pairs
from alumnus.finetuning.two_view.frames import Frames
from alumnus.finetuning.two_view.pairing import Pair, find_pairs, split_pairs, used
from alumnus.finetuning.two_view.spec import fitting_spec
from alumnus.hardware import choose_workers
from alumnus.heads.two_view import TwoViewHead, TwoViewNetwork, ViewPrediction
from alumnus.heads.two_view.learning import start_alike, two_view_loss
from alumnus.heads.two_view.pairs import ViewPairs, truth_of
from alumnus.images import normalised
from alumnus.randomness import derive_seed

__all__ = ["TwoViewCourse", "two_view_course"]

ONE_OF = 16  # pixels is listed, where settings do not say how many
MOST_LISTED = 8192  # MASt3R's
HELD_OUT = 48  # pairs, the most, that are looked at during a run
AVERAGED = 480  # pairs of the constant prediction
SHARES = ("delta1", "match_4px", "match_patch")


@dataclass(kw_only=True)
class TwoViewCourse:
    """A two-view head learns from pairs; its encoder stands still or learns too."""

    network: TwoViewNetwork
    learns: bool  # whether the encoder does
    spec: HeadSpec
    learned: PairExamples
    held_out: list[Pair]
    tested: Frames
    test_pairs: list[Pair]
    config: FinetuneConfig
    task: TaskSpec
    device: torch.device

    @property
    def head(self) -> TwoViewHead:
        """What is trained."""
        return self.network.head

    @property
    def examples(self) -> int:
        """Pairs of an epoch."""
        return len(self.learned)

    def batches(self, position: int, batch_size: int) -> Iterator[Example]:
        """Pairs, each seen anew."""
        workers = choose_workers(self.config.workers, self.device)
        return batches_from(
            self.learned,
            position,
            batch_size=batch_size,
            num_workers=workers,
            device=self.device,
        )

    def loss(self, batch: Example) -> Tensor:  # []
        """Points weighed by confidence, and matches."""
        first, second = normalised(batch.images).unbind(dim=1)
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            tokens = self.network.encode(first, second)
        views = self.head(*tokens)
        with torch.autocast(self.device.type, enabled=False):
            return two_view_loss(
                views,
                truth_of(batch.pairs),
                batch.matches,
                match_weight=self.config.two_view.match_weight,
            )

    def look(self) -> Mapping[str, float]:
        """Scores on pairs of held-out pictures."""
        if not self.held_out:
            return {}
        return _in_percent(pair_scores(self._views, self._held_out))

    def test(self) -> Finding:
        """Scores on the test pairs, beside the mean pointmaps of training and the same pixels."""
        self.network.eval()
        frames, size_px = self.learned.frames, self.learned.size_px
        pairs = plain_pairs(self.tested, self.test_pairs, size_px=size_px)
        average = same_place(plain_pairs(frames, self.learned.pairs[:AVERAGED], size_px=size_px))
        score, constant = (_score(views, pairs) for views in (self._views, average))
        return Finding(
            record=task_record(
                self.task,
                used(self.learned.pairs),
                used(self.test_pairs),
                training_record(self.config, head="MASt3R's decoders and heads"),
            ),
            score=score,
            constant=constant,
        )

    @torch.no_grad()
    def _views(self, images: Tensor) -> tuple[ViewPrediction, ViewPrediction]:
        """Of images [B, 2, 3, S, S] in [0, 1]."""
        first, second = normalised(images.to(self.device)).unbind(dim=1)
        one, other = self.network(first, second)
        return _on_host(one), _on_host(other)

    @cached_property
    def _held_out(self) -> ViewPairs:
        return plain_pairs(self.learned.frames, self.held_out, size_px=self.learned.size_px)


def two_view_course(
    config: FinetuneConfig, backbone: Backbone, task: TaskSpec, device: torch.device
) -> TwoViewCourse:
    """What the head learns from pairs of posed pictures; ValueError where there are none."""
    encoder = backbone.encoder()
    patch, settings = encoder.patch_size, config.two_view
    size_px = max(1, round((config.size or encoder.image_size) / patch)) * patch
    listed = settings.matches or min(MOST_LISTED, size_px**2 // ONE_OF)
    if listed > size_px**2:
        raise ValueError(
            f"two_view.matches is {listed}, but pictures of {size_px} px have {size_px**2} pixels: "
            "give fewer, or a larger size"
        )
    spec = fitting_spec(encoder, settings, size_px=size_px)
    train, test = (Frames(source, size_px=size_px) for source in (task.train, task.test))
    overlap = settings.least_overlap, settings.most_overlap
    found = find_pairs(train, overlap=overlap, seed=config.seed)
    learned, held_out = split_pairs(task.train, found)
    if not learned:
        raise ValueError(f"no pair of {task.train.name!r} is left to learn from: give more images")
    tested = find_pairs(test, overlap=overlap, seed=config.seed, most=MOST_PAIRS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "two-view head"))
        head = TwoViewHead(spec)
    start_alike(head)
    return TwoViewCourse(
        network=TwoViewNetwork(encoder, head).to(device),
        learns=backbone.learns,
        spec=HeadSpec(kind="two-view", size_px=size_px),
        learned=PairExamples(train, learned, size_px=size_px, matches=listed, seed=config.seed),
        held_out=held_out[:HELD_OUT],
        tested=test,
        test_pairs=tested.pairs,
        config=config,
        task=task,
        device=device,
    )


def _score(views: Views, pairs: ViewPairs) -> TaskScore:
    """AUC of poses, and what else the pairs tell, in percent and metres."""
    details = _in_percent(pair_scores(views, pairs))
    details |= pose_scores(_poses(views, pairs), true_poses(pairs))
    return TaskScore(value=details["auc20"], details={**details, "pairs": len(pairs)})


def _in_percent(scores: Mapping[str, float]) -> dict[str, float]:
    """Shares as percent; metres and relative errors as they are."""
    return {name: 100 * v if name in SHARES else v for name, v in scores.items()}


def _poses(views: Views, pairs: ViewPairs) -> Poses:
    """Of all pairs, from their pointmaps in both orders."""
    found = []
    for batch in in_batches(pairs):
        images = batch.images
        found.append(pointmap_poses(views(images), views(images.flip(1))))
    return Poses(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _on_host(view: ViewPrediction) -> ViewPrediction:
    return ViewPrediction(*(values.cpu() for values in view))
