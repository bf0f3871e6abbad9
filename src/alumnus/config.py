"""Run configuration: typed, frozen, strict; a YAML recipe plus key=value overrides.

Each section is one class; its fields, their types and descriptions are the documentation.
Values are checked here as far as they can be without opening data or loading a model.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from alumnus.balance import Aggregation, Scope, Sharing, Weighting
from alumnus.config_errors import ConfigError, Problem, validated
from alumnus.data import Turning
from alumnus.encoders import PosInterp
from alumnus.licences import Policy
from alumnus.recipe_values import lay_over, read_recipe, recipe_names, spelled_out
from alumnus.spelling import unknown
from alumnus.standardize import Kind as StandardizeKind
from alumnus.tokens import TokenType

__all__ = ["ConfigError", "RunConfig", "conflicts", "load_config", "recipe_names", "to_yaml"]

PositiveInt = Annotated[int, Field(gt=0)]
RGB = Annotated[list[float], Field(min_length=3, max_length=3)]  # of pixels in 0 to 1
Deviations = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, strict, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StudentSection(Section):
    """The encoder that is kept."""

    model: str = Field(
        "vit_small", description="vit_micro/tiny/small/base/large, croco, timm:NAME, python:M:F"
    )
    patch_size: PositiveInt = Field(16, description="px; of the built-in ViT")
    in_channels: PositiveInt = Field(3, description="input channels; teachers always see RGB")
    registers: int = Field(0, ge=0, description="register tokens of the built-in ViT")
    layer_scale: float | None = Field(None, description="initial LayerScale; null for none")
    drop_path: Probability = Field(0.0, description="stochastic depth of the last block")
    mask_token: bool = Field(False, description="keep an unused mask token, as released")
    stem: Literal["patch", "conv"] = Field("patch", description="conv: three stride-2 convolutions")
    dim: PositiveInt | None = Field(None, description="width; null: as the model's name says")
    depth: PositiveInt | None = Field(None, description="blocks; null: as the name says")
    num_heads: PositiveInt | None = Field(None, description="heads; null: as the name says")
    pretrained: bool = Field(False, description="timm only: start from its published weights")
    options: dict[str, Any] = Field({}, description="arguments of the timm or python factory")


PROJECTOR_OPTIONS: dict[str, tuple[str, ...]] = {
    "mlp": ("hidden_dim",),
    "ladder": ("blocks", "hidden_dim", "last_hidden_dim"),
    "transformer": ("num_blocks", "num_heads", "apply_last_norm"),
    "linear": (),
}


class SideSection(Section):
    """A linear head from the encoder's final tokens to one teacher, beside its projector."""

    teacher: str = Field(description="name of the teacher")
    weight: float = Field(0.1, gt=0, description="of its loss, added to the teacher's")


class ProjectorSection(Section):
    """The expendable heads, the same kind for every teacher."""

    kind: Literal["mlp", "ladder", "transformer", "linear"] = Field(
        "ladder",
        description="UNIC's ladder, DUNE's transformer, or plainer: see docs/projectors.md",
    )
    hidden_dim: PositiveInt | None = Field(None, description="mlp and ladder; null: as published")
    last_hidden_dim: PositiveInt | None = Field(None, description="ladder: of the last block")
    blocks: list[int] | None = Field(None, description="ladder: encoder blocks read; null: all")
    num_blocks: PositiveInt | None = Field(None, description="transformer: blocks, default 1")
    num_heads: PositiveInt | None = Field(None, description="transformer: default the student's")
    apply_last_norm: bool | None = Field(
        None, description="transformer: reads tokens after the encoder's final norm; null: before"
    )
    side: SideSection | None = Field(
        None, description="for the bare encoder; null: none; see docs/projectors.md"
    )

    @property
    def options(self) -> dict[str, Any]:
        """The options of its kind that were set."""
        values = self.model_dump(exclude={"kind", "side"})
        return {k: v for k, v in values.items() if v is not None}


class TeacherSection(Section):
    """One teacher."""

    model: str = Field(description="name, timm:NAME, FAMILY:..., or a run: see docs/teachers.md")
    weights: str | None = Field(None, description="path, URL or hf:REPO/FILE; null: its own")
    tokens: list[TokenType] | None = Field(None, description="token types; null: all it has")
    domain: str | None = Field(None, description="the data it was trained on; null: its own")
    licence: str | None = Field(None, description="of its weights, SPDX id; null: as known here")
    mean: RGB | None = Field(None, description="of the images it was trained on; null: its own")
    std: Deviations | None = Field(None, description="their deviation; null: its own")
    grid: Literal["auto", "match", "native", "pool"] = Field("auto", description="grid policy")
    pos_interp: PosInterp | None = Field(
        None, description="how a ViT's positions meet other grids; null: its own way"
    )
    loss_weight: float = Field(1.0, gt=0, description="fixed weight of its loss")
    optional: bool = Field(False, description="left out, with a note, where it cannot be had")


class SourceSection(Section):
    """One source of training images."""

    path: str = Field(description="folder, list, pack, PATH:split, ...: see docs/data.md")
    name: str | None = Field(None, description="null: the folder's or file's name")
    split: str | None = Field(None, description="null: the only one, or train")
    domain: str | None = Field(None, description="null: that of the first teacher")
    generic: bool = Field(False, description="goes to all teachers under own+generic sharing")
    weight: float = Field(1.0, gt=0, description="counts as weight times its size")
    where: dict[str, str] | None = Field(None, description="samples by values of json fields")
    columns: dict[str, str] | None = Field(
        None,
        description="columns of a list or data set: {image: NAME, label: NAME}",
    )
    turn: str | None = Field(
        None, description="images with this in their path are turned 90 degrees clockwise"
    )


class NamedSourceSection(SourceSection):
    """A source that a recipe names; where it lies is yours to say."""

    path: str = Field("", description="folder, list, ... as of any source; empty: data.root/NAME")


class AugmentSection(Section):
    """Augmentation: distributions of the published systems unless changed."""

    kind: Literal["full", "crop_flip", "none"] = Field("full", description="full: with colour")
    crop_scale: list[float] = Field([0.08, 1.0], min_length=2, max_length=2, description="area")
    where: Literal["auto", "cpu", "device"] = Field(
        "auto", description="colour; auto: on the training device unless that is the CPU"
    )


class DataSection(Section):
    """Images and how they are seen."""

    train: list[SourceSection] = Field([], description="a path, a list of paths or of sources")
    sources: dict[str, NamedSourceSection | None] = Field(
        {}, description="by name, where `train` is empty: data.sources.NAME=PATH; null: left out"
    )
    root: str | None = Field(None, description="folder that holds the `sources` without a path")
    val: list[SourceSection] = Field(
        [], description="held-out images; empty: 1% of all, at least 256, at most a tenth"
    )
    size: PositiveInt = Field(224, description="px, side of the student's images")
    sizes: list[PositiveInt] = Field(
        [], description="sides drawn at random, one for each step; empty: always `size`"
    )
    teacher_size: PositiveInt | None = Field(None, description="px; null: the student's images")
    sampling: Literal["proportional", "balanced", "temperature"] = Field(
        "proportional", description="how sources share a batch: see docs/data.md"
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="of sampling=temperature; null: 2, by the square root of size",
    )
    augment: AugmentSection = AugmentSection()
    max_bad: Probability = Field(
        0.01,
        description="share of broken images that stops the run, above 32 of them; 0: the first",
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="data processes; auto: by cores"
    )
    resident: bool | Literal["auto", "device"] = Field(
        "auto",
        description="decode once, keep in memory or on the training device; auto: what is small "
        "and passed often, on an accelerator there",
    )

    @property
    def sides(self) -> list[int]:
        """All sides of images that a step may have, px, rising."""
        return sorted(set(self.sizes)) or [self.size]

    @property
    def learned(self) -> dict[str, SourceSection]:
        """What the student learns from, by the names of the settings: `train`, else `sources`.

        The path of a source for which none is known is empty.
        """
        if self.train:
            return {f"data.train.{i}": section for i, section in enumerate(self.train)}
        return {
            f"data.sources.{name}": self._placed(name, section)
            for name, section in self.sources.items()
            if section is not None
        }

    def _placed(self, name: str, section: NamedSourceSection) -> SourceSection:
        """A named source with its name and, under `root`, its path."""
        path = section.path or (str(Path(self.root) / name) if self.root else "")
        return section.model_copy(update={"path": path, "name": section.name or name})

    @field_validator("train", "val", mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        """`train: a,b` and `train: [a, {path: b}]`; sources need only a path."""
        if isinstance(value, str):
            parts = re.split(r",(?![^{}]*\})", value)  # not those of shards-{a,b}.tar
            value = [part.strip() for part in parts if part.strip()]
        if isinstance(value, Mapping):
            value = [value]
        if isinstance(value, Sequence):
            return [{"path": item} if isinstance(item, str | Path) else item for item in value]
        return value


class CacheSection(Section):
    """Teacher features computed once, replayed with the same augmentations."""

    enabled: bool = Field(False, description="read targets from a feature cache")
    views: PositiveInt = Field(4, description="augmented views of each image")
    dtype: Literal["bf16", "int8"] = Field("bf16", description="storage of features")
    folder: str | None = Field(None, description="null: in the user's cache folder")


class StandardizeSection(Section):
    """Standardisation of teacher features."""

    kind: StandardizeKind = Field("running", description="running (UNIC), batch (DUNE), ...")
    momentum_start: Probability = Field(1.0, description="of the running statistics")
    momentum_end: Probability = Field(0.001, description="cosine from start to end")
    calibration_steps: PositiveInt = Field(50, description="batches for frozen and phi-s")


class LossSection(Section):
    """Feature loss: cosine_weight * (1 - cos) + smooth_l1_weight * smooth L1."""

    cosine_weight: float = Field(0.5, ge=0, description="weight of the cosine distance")
    smooth_l1_weight: float = Field(0.5, ge=0, description="weight of smooth L1 with beta 1")
    patch_share: Probability = Field(
        0.5, description="of the loss of a teacher of both token types; [CLS] has the rest"
    )


class BalanceSection(Section):
    """How teachers and images are weighed."""

    sharing: Sharing = Field("full", description="which images teach which teachers")
    drop_p: Probability | Literal["auto"] = Field("auto", description="auto: as published")
    weights: Weighting = Field(
        "fixed", description="of the teachers; the others are rivals of dropping (drop_p=0)"
    )


class DeparturesSection(Section):
    """Every switch that departs from the released behaviour."""

    aggregation: Aggregation = Field("released", description="released or sum")
    turning: Turning = Field(
        "frame", description="of sources' `turn`: the whole frame; canvas: as released, cut off"
    )
    scope: Scope = Field(
        "rank", description="table that `released` averages over: of each process, or global"
    )


class OptimSection(Section):
    """AdamW, its schedule and the length of the run."""

    epochs: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        None, description="passes over the images, or `steps`; auto: by their number and hardware"
    )
    steps: PositiveInt | None = Field(None, description="optimiser steps, or `epochs`")
    epoch_images: PositiveInt | None = Field(None, description="images an epoch; null: all")
    batch_size: PositiveInt | Literal["auto"] = Field(
        128,
        description="images of a micro-batch, over all processes together; auto: by their number, "
        "memory and hardware",
    )
    accumulate: PositiveInt = Field(1, description="micro-batches of a step")
    lr: float = Field(3e-4, gt=0, description="peak rate for 256 images; scales with the batch")
    min_lr: float = Field(1e-6, ge=0, description="final rate, not scaled")
    warmup: Probability = Field(0.05, description="share of the run")
    weight_decay: float = Field(0.03, ge=0, description="not on biases and 1-D tensors")
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.9, 0.99], min_length=2, max_length=2, description="of AdamW"
    )
    eps: float = Field(1e-8, gt=0, description="of AdamW")
    clip_norm: float | None = Field(None, gt=0, description="per tensor; null: no clipping")

    @property
    def batch(self) -> int:
        """Images of a micro-batch, once that is settled."""
        assert self.batch_size != "auto", "settled before the images are laid out"
        return self.batch_size


class StopSection(Section):
    """Ends a run whose held-out explained variance no longer rises (docs/watching.md)."""

    patience: PositiveInt = Field(5, description="evaluations without a gain")
    min_gain: float = Field(0.002, ge=0, description="of explained variance, over all of these")
    after: Probability = Field(0.5, description="share of the run before they are counted")


class TrainSection(Section):
    """The engine."""

    seed: int = Field(0, ge=0, description="of weights, order, augmentation and dropping")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="by hardware")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0, ...")
    threads: PositiveInt | None = Field(None, description="CPU threads; null: torch's choice")
    parallel: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="under torchrun: whole students, or sharded ones for large students"
    )
    shard_teachers: bool = Field(
        False, description="under torchrun: live teachers sharded too, for large ones"
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of an average of the student's weights, the result"
    )
    checkpoint_activations: bool = Field(
        False, description="compute blocks again in the backward pass: less memory, more time"
    )
    compile: bool = Field(
        False, description="torch.compile student's blocks, projectors, teachers: faster, later"
    )
    log_every: PositiveInt = Field(20, description="steps between reports")
    eval_every: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="steps between looks at held-out images; auto: at reports, at most 20 a run; "
        "0: never",
    )
    knn: str | None = Field(None, description="PATH or TRAIN,TEST: k-NN at each of these looks")
    stop: StopSection | None = Field(None, description="a rule that ends the run; null: none")
    checkpoints: PositiveInt = Field(20, description="times the state is saved in a run")
    keep: PositiveInt = Field(2, description="newest checkpoints that stay")


class EvaluateSection(Section):
    """What is measured after training, for the student and for every teacher."""

    tasks: list[str] = Field(
        [], description="e.g. knn=PATH, logistic=TRAIN,TEST, zeroshot=TEXT,TEST, joints=PATH"
    )
    size: PositiveInt | None = Field(None, description="px; null: data.size")
    batch_size: PositiveInt = Field(64, description="images a forward pass")
    trials: PositiveInt = Field(40, description="settings tried by logistic regression")
    head_steps: PositiveInt | None = Field(
        None, description="of linear segmentation and depth; null: 1,000"
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class RunConfig(Section):
    """One distillation run."""

    description: str = Field("", description="what the recipe is, source and expected result")
    student: StudentSection = StudentSection()
    projector: ProjectorSection = ProjectorSection()
    teachers: dict[str, TeacherSection] = Field({}, description="by short name, no dots")
    licence: Policy = Field("any", description="what the licences of teachers have to allow")
    data: DataSection = DataSection()
    cache: CacheSection = CacheSection()
    standardize: StandardizeSection = StandardizeSection()
    loss: LossSection = LossSection()
    balance: BalanceSection = BalanceSection()
    departures: DeparturesSection = DeparturesSection()
    optim: OptimSection = OptimSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    init: str | None = Field(None, description="run whose encoder, projectors, statistics start it")
    out: str | None = Field(None, description="run folder")

    @field_validator("teachers", mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        """`teachers: a,b`: aliases, each under a short name of its own."""
        return spelled_out(value)


def load_config(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    also: Callable[[RunConfig], Iterable[Problem]] = lambda _: (),
) -> RunConfig:
    """A recipe by name or path, with `key=value` words and nested settings laid over it.

    ConfigError lists all problems, each with the valid choices and the nearest spelling: of
    single settings, of settings together, and those that `also` finds. What depends on a setting
    that is wrong by itself is not judged.
    """
    values = read_recipe(recipe)
    said = lay_over(values, overrides, settings or {})
    return validated(
        RunConfig, values, said=said, problems=lambda config: [*conflicts(config), *also(config)]
    )


def conflicts(config: RunConfig) -> Iterator[Problem]:
    """Settings that are impossible together, as far as they alone tell."""
    optim, loss, projector = config.optim, config.loss, config.projector
    yield from _bad_teacher_names(config)
    yield from _bad_student_size(config)
    if (optim.epochs is None) == (optim.steps is None):
        yield Problem(
            "give the length of the run once, as epochs or as steps",
            ("optim.epochs", "optim.steps"),
        )
    if optim.epoch_images is not None and optim.steps is not None:
        yield Problem(
            "optim.epoch_images says how long an epoch is, but the run is given in optim.steps: "
            "leave one of them out",
            ("optim.epoch_images", "optim.steps"),
        )
    if loss.cosine_weight == loss.smooth_l1_weight == 0:
        yield Problem(
            "loss.cosine_weight and loss.smooth_l1_weight are both 0",
            ("loss.cosine_weight", "loss.smooth_l1_weight"),
        )
    for name in projector.options:
        if name not in PROJECTOR_OPTIONS[projector.kind]:
            yield Problem(
                f"projector.{name} is no option of the {projector.kind} projector, which has "
                f"{', '.join(PROJECTOR_OPTIONS[projector.kind]) or 'none'}",
                ("projector.kind", f"projector.{name}"),
            )
    if projector.side is not None and projector.side.teacher not in config.teachers:
        sentence = str(unknown("teacher", projector.side.teacher, config.teachers))
        yield Problem(f"projector.side.teacher: {sentence}", ("projector.side.teacher", "teachers"))
    if config.train.eval_every == 0 and (config.train.stop or config.train.knn):
        yield Problem(
            "train.stop and train.knn look at the student during the run, so train.eval_every "
            "must not be 0",
            ("train.eval_every", "train.stop", "train.knn"),
        )
    if config.data.temperature is not None and config.data.sampling != "temperature":
        yield Problem(
            f"data.temperature is that of data.sampling=temperature, but data.sampling is "
            f"{config.data.sampling}",
            ("data.temperature", "data.sampling"),
        )
    if config.data.sizes and config.cache.enabled:
        yield Problem(
            "data.sizes draws the size of the images anew in each step, but a feature cache holds "
            "features of one size: take cache.enabled=false, or data.size alone",
            ("data.sizes", "cache.enabled"),
        )
    if config.balance.weights == "gradnorm" and config.train.parallel == "fsdp2":
        yield Problem(
            "balance.weights=gradnorm needs the gradient of a whole weight, which "
            "train.parallel=fsdp2 keeps in parts: take ddp, or other weights",
            ("balance.weights", "train.parallel"),
        )
    if config.train.shard_teachers and config.cache.enabled:
        yield Problem(
            "train.shard_teachers spreads teachers that run in every step, but a feature cache is "
            "filled by the first process alone: take one of them",
            ("train.shard_teachers", "cache.enabled"),
        )
    if config.train.shard_teachers and config.train.compile:
        yield Problem(
            "train.compile compiles each teacher whole, which train.shard_teachers keeps in parts: "
            "take one of them",
            ("train.shard_teachers", "train.compile"),
        )
    low, high = config.data.augment.crop_scale
    if not 0 < low <= high <= 1:
        yield Problem(
            f"data.augment.crop_scale is [{low:g}, {high:g}], but must be the least and the "
            "greatest share of the image, 0 < least <= greatest <= 1",
            ("data.augment.crop_scale",),
        )


def _bad_teacher_names(config: RunConfig) -> Iterator[Problem]:
    if not config.teachers:
        yield Problem(
            "at least one teacher is needed, e.g. teachers=efficientnet-lite2", ("teachers",)
        )
    for name in config.teachers:
        if name == "student":
            yield Problem(
                "'student' names the student in tables: give the teacher another name",
                ("teachers.student",),
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            yield Problem(
                f"a teacher is named {name!r}, but names have letters, digits, - and _ only",
                (f"teachers.{name}",),
            )


def _bad_student_size(config: RunConfig) -> Iterator[Problem]:
    patch_px = config.student.patch_size
    if config.student.model.startswith(("timm:", "python:")):
        return
    sides = [("data.size", config.data.size), *(("data.sizes", side) for side in config.data.sizes)]
    for key, side_px in sides:
        if side_px % patch_px == 0:
            continue
        below = side_px // patch_px * patch_px
        near = [str(size) for size in (below, below + patch_px) if size]
        yield Problem(
            f"{key} {side_px} is no multiple of student.patch_size {patch_px}; the nearest: "
            f"{' and '.join(near)}",
            (key, "student.model", "student.patch_size"),
        )


def to_yaml(config: RunConfig) -> str:
    """The whole configuration, every default spelled out; loads again as a recipe."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
