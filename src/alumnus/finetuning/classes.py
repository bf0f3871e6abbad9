"""The head `classes`: one class for an image, linear on its [CLS] token.

Axes: B images, D width, K classes, S side of the image.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from alumnus.data import Subset, eval_transform
from alumnus.evaluation.features import FeatureFn, Features, extract_features
from alumnus.evaluation.head_training import KeptFeatures
from alumnus.evaluation.protocols import TestSet, constant_score
from alumnus.evaluation.results import TaskScore
from alumnus.evaluation.suite import class_numbers, task_record
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.finetune_config import FinetuneConfig
from alumnus.finetuning.backbone import Backbone
from alumnus.finetuning.course import Finding
from alumnus.finetuning.examples import ClassCrops, LabelledImages, read_labels
from alumnus.finetuning.head_model import HeadModel, HeadSpec
from alumnus.finetuning.maps import MapCourse, new_head, split_rows, training_record
from alumnus.hardware import choose_workers
from alumnus.tokens import Tokens

__all__ = ["ClassModel", "ClassObjective", "class_course"]

SIZE_PX = 224  # of a model that has none of its own
ENCODED = 64  # images at a time


@dataclass(frozen=True, kw_only=True)
class ClassObjective:
    """A head learns the class of an image, from a map of one place."""

    classes: int

    @property
    def outputs(self) -> int:
        """Channels of the head."""
        return self.classes

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:  # [B, K, 1, 1], [B] -> []
        """Cross-entropy."""
        return F.cross_entropy(logits.flatten(1), labels)

    def score(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Top-1, percent."""
        hits = torch.cat([logits.flatten(1).argmax(dim=1) == labels for logits, labels in batches])
        return 100 * hits.double().mean().item()


class ClassModel(HeadModel):
    """Images to class logits [B, K]."""

    def prepare(self, picture: Image.Image) -> Tensor:  # [3, S, S]
        """The central square, as in evaluations."""
        return eval_transform(picture, self.spec.size_px)

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, K]
        """Logits; `.argmax(dim=1)` numbers `classes`."""
        fn, _ = _at_size(self._model, self.spec.size_px)
        logits: Tensor = self.head(_as_map(fn(self._whole_patches(images))).float())
        return logits.flatten(1)


def class_course(
    config: FinetuneConfig, backbone: Backbone, task: TaskSpec, device: torch.device
) -> MapCourse:
    """What the head learns from images and their classes."""
    workers = choose_workers(config.workers, device)
    fn, size_px = _at_size(backbone.model, config.size)
    number = class_numbers(task.test, task)
    known = read_labels(task.train, num_workers=workers)
    learned, held_out = (known.rows(rows) for rows in split_rows(task.train, known.indices))
    names = task.train.classes
    classes = len(names) if names else 1 + int(known.labels.max())

    learns = backbone.learns

    def features(images: Tensor) -> Tensor:
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            return _as_map(fn(images))

    def keep(images: LabelledImages) -> KeptFeatures:
        return _keep(fn, images, size_px=size_px, workers=workers, device=device)

    with torch.no_grad():
        dim = features(torch.zeros(1, 3, size_px, size_px, device=device)).shape[1]
    head = new_head(dim, classes, seed=config.seed).to(device)
    crops = ClassCrops(learned, size_px=size_px, seed=config.seed)

    @torch.no_grad()
    def measure() -> Finding:
        tested = read_labels(task.test, num_workers=workers)
        truth = tested.labels if number is None else number[tested.labels]
        among = number if task.among == "test" else None
        kept = keep(tested)
        logits = torch.cat([head(x.to(device)).cpu() for x in kept.features.split(ENCODED)])
        logits = logits.flatten(1)
        if among is not None:
            shown = torch.isin(torch.arange(classes), among)
            logits[:, ~shown] = -torch.inf
        hits = logits.argmax(dim=1) == truth
        trained, test = (
            Features(labels=labels, sizes=labels, indices=labels)
            for labels in (known.labels, truth)
        )
        return Finding(
            record=task_record(task, learned.indices, tested.indices, training_record(config)),
            score=TaskScore(value=100 * hits.double().mean().item(), details={"dim": dim}),
            constant=constant_score(task, trained, TestSet(features=test, among=among)),
        )

    return MapCourse(
        head=head,
        spec=HeadSpec(kind="classes", size_px=size_px, classes=names),
        objective=ClassObjective(classes=classes),
        metric="top1",
        examples=len(learned.labels),
        features=features,
        crops=crops if config.augment or learns else None,
        keep_train=partial(keep, learned),
        keep_held_out=partial(keep, held_out) if len(held_out.labels) else None,
        measure=measure,
        learns=learns,
        num_workers=workers,
        seed=config.seed,
        device=device,
    )


def _at_size(model: EvalModel, size_px: int | None) -> tuple[FeatureFn, int]:
    """What turns square images into tokens, and their side: the model's own where none is given.

    As near to a given one as patch and nature of the model let it come.
    """
    own_px = model.size_px or SIZE_PX
    if model.fixed_size or size_px in (None, own_px):
        return model.fn, own_px
    assert size_px is not None, "compared above"
    patches = max(1, round(size_px / model.patch_px))
    return model.dense_fn or model.fn, patches * model.patch_px


def _as_map(tokens: Tokens) -> Tensor:  # [B, D, 1, 1]
    return tokens.pooled()[:, :, None, None]


def _keep(
    fn: FeatureFn, images: LabelledImages, *, size_px: int, workers: int, device: torch.device
) -> KeptFeatures:
    """Features of whole images, in their order."""
    found = extract_features(
        fn,
        Subset(images.source, images.indices.numpy()),
        size_px=size_px,
        batch_size=ENCODED,
        want=["image"],
        num_workers=workers,
        device=device,
    )
    features = found.patch_mean if found.cls is None else found.cls
    assert features is not None, "a model has one of the two"
    return KeptFeatures(
        features=features[:, :, None, None],
        masks=images.labels,
        image=torch.arange(len(images.labels)),
    )
