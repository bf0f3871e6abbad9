"""What is evaluated: the rows and columns of the table."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from alumnus.data import Source
from alumnus.evaluation.depth import DepthProtocol
from alumnus.evaluation.features import FeatureFn, Geometry, Wanted
from alumnus.evaluation.joints import LSP_TORSO, Pairs
from alumnus.evaluation.results import Better, ModelKind
from alumnus.evaluation.segmentation import SegmentationProtocol
from alumnus.evaluation.text_features import TextFeatures
from alumnus.spelling import unknown
from alumnus.tokens import Tokens

__all__ = ["METRICS", "EvalModel", "LacksFeatureError", "Metric", "TaskKind", "TaskSpec"]

TaskKind = Literal[
    "knn",
    "logistic",
    "logistic-sgd",
    "zeroshot",
    "joints",
    "body",
    "matching",
    "segmentation",
    "depth",
]


class Metric(NamedTuple):
    """The number of a kind of task that stands in the table."""

    short: str  # in names of tasks
    about: str
    unit: str = "%"
    better: Better = "higher"


METRICS: dict[TaskKind, Metric] = {
    "knn": Metric("k-NN", "top-1 of weighted k-NN, %"),
    "logistic": Metric("logistic", "top-1 of logistic regression, %"),
    "logistic-sgd": Metric("logistic-sgd", "top-1 of logistic regression by SGD, %"),
    "zeroshot": Metric("zero-shot", "top-1 of the most similar text, %"),
    "joints": Metric("PCK", "PCK@0.2 of the torso, %"),
    "body": Metric("MPJPE", "mean error of 3D joints relative to the pelvis, mm", "mm", "lower"),
    "matching": Metric("matches", "patches matched within one patch of the true place, %"),
    "segmentation": Metric("mIoU", "mean IoU of a linear head, %"),
    "depth": Metric("delta1", "pixels within a factor of 1.25 (delta1), by a linear head, %"),
}


@dataclass(frozen=True, kw_only=True)
class EvalModel:
    """A row of the table: what turns images into tokens, and what it is."""

    name: str
    kind: ModelKind
    fn: FeatureFn  # [B, 3, S, S] ImageNet-normalised -> tokens, in evaluation mode
    size_px: int | None = None  # of its input, where it is not the task's
    space: str | None = None  # the teacher in whose feature space its [CLS] lies
    # Segmentation and depth ask every model for the size of the task:
    dense_fn: FeatureFn | None = None  # in place of an `fn` that would go back to `size_px`
    layers_fn: Callable[[Tensor, int], Tokens] | None = None  # patches of the last n blocks
    patch_px: int = 1  # sizes are rounded to multiples of it
    fixed_size: bool = False  # `size_px` or nothing


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A column of the table: a protocol, images to fit on and images to score.

    `feature` is the image-level feature of classification: "auto" is [CLS] where a model has one,
    else the mean over its patches. Predictions are `among` the classes of the training images, or
    only those that the test images may show: ImageNet-R and -A have 200 of the 1000. Zero-shot
    compares [CLS] with the features of `text` and learns from nothing: its `train` is its test
    source. So does matching, which compares the patches of two views. `torso` names the joints that
    PCK measures with, `root` the one to which 3D joints are relative; `segmentation` and `depth`
    say how linear heads are trained and used, at `size_px` for all models. The default name is that
    of the test source and the protocol.
    """

    kind: TaskKind
    train: Source
    test: Source
    name: str = ""
    size_px: int = 224
    resize_ratio: float = 1.0  # short side of the resized image over the crop
    seed: int = 0
    feature: Literal["auto", "cls", "patch-mean"] = "auto"
    trials: int = 40  # of the search for C, or for learning rate and weight decay
    among: Literal["train", "test"] = "train"
    torso: Pairs = field(default=LSP_TORSO)
    root: int = 0  # of 3D joints: the pelvis
    text: TextFeatures | None = None  # of zero-shot's classes
    segmentation: SegmentationProtocol = field(default_factory=SegmentationProtocol)
    depth: DepthProtocol = field(default_factory=DepthProtocol)

    def __post_init__(self) -> None:
        if self.kind not in get_args(TaskKind):
            raise unknown("task", self.kind, get_args(TaskKind))
        if self.feature not in ("auto", "cls", "patch-mean"):
            raise unknown("feature", self.feature, ["auto", "cls", "patch-mean"])
        if not 1 <= self.resize_ratio <= 4:
            raise ValueError(
                f"the resize ratio is {self.resize_ratio}, but must be from 1 (the crop is the "
                "whole short side) to 4"
            )
        if (self.kind == "zeroshot") != (self.text is not None):
            raise ValueError(f"text features are for zeroshot, and needed there, not {self.kind}")
        if not self.name:
            object.__setattr__(self, "name", f"{self.test.name} {METRICS[self.kind].short}")

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names that its labels number."""
        return self.train.classes if self.text is None else self.text.classes

    @property
    def wants(self) -> Wanted:
        """The tokens that it looks at."""
        if self.kind in ("joints", "body", "matching", "segmentation", "depth"):
            return "patches"
        if self.kind == "zeroshot":
            return "cls"
        return "image" if self.feature == "auto" else self.feature

    @property
    def geometry(self) -> Geometry:
        """How a picture becomes square: what has a place must stay in it."""
        return "squash" if self.kind in ("joints", "body", "matching") else "crop"


class LacksFeatureError(Exception):
    """A model does not have the tokens that a task needs."""
