"""Settings of `alumnus finetune`: typed, frozen, strict, all mistakes said at once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator

from alumnus.config import PositiveInt, Probability, Section
from alumnus.config_errors import Problem, validated
from alumnus.recipe_values import lay_over

__all__ = [
    "EPOCHS",
    "FinetuneConfig",
    "HeadName",
    "TwoViewSection",
    "finetune_conflicts",
    "from_yaml",
    "load_finetune_config",
    "to_yaml",
]

HeadName = Literal["classes", "segmentation", "depth", "two-view", "people"]
EPOCHS = 20.0
OF_UNFROZEN = ("encoder_lr", "layer_decay")


class TwoViewSection(Section):
    """What the head `two-view` has of its own: `two_view.KEY`."""

    points: Literal["linear", "dpt"] | None = Field(
        None, description="what says points; null: dpt on encoders of width 384 and more"
    )
    width: PositiveInt | None = Field(
        None, description="of the decoders; null: 3/4 of the encoder's, at most 768"
    )
    depth: PositiveInt | None = Field(
        None, description="layers of the decoders; null: the encoder's width / 64, 4 to 12"
    )
    heads: PositiveInt | None = Field(
        None, description="of their attention; null: of at most 64 channels each"
    )
    desc_dim: PositiveInt | None = Field(
        None, description="length of descriptors; null: 24, below a width of 384 it is 16"
    )
    bridge: bool = Field(
        False, description="its own LayerNorm on the tokens before the encoder's, as DUNE-MASt3R"
    )
    least_overlap: Probability = Field(
        0.25, description="share of either view that the other shows; of pairs of posed frames"
    )
    most_overlap: Probability = Field(0.9, description="the same, of pairs that differ too little")
    matches: Annotated[int, Field(ge=4)] | None = Field(
        None,
        description="pixels compared in a pair, half of them matches; null: 1 of 16, at most 8192",
    )
    match_weight: float = Field(0.075, ge=0, description="of InfoNCE beside the pointmap loss")


class FinetuneConfig(Section):
    """One head on one encoder: what is learned, from which images, how and for how long."""

    encoder: str = Field(description="run, exported folder, released file or teacher")
    head: HeadName = Field("classes", description="what is learned: `--head`")
    unfrozen: bool = Field(False, description="the encoder learns too: `--unfrozen`")
    data: str | None = Field(None, description="PATH (its splits train and test) or TRAIN,TEST")
    size: PositiveInt | None = Field(
        None,
        description="px, side of images or windows; null: the encoder's own or 224, of "
        "segmentation 512, of depth 480",
    )
    layers: PositiveInt = Field(
        1, description="last layers of a ViT that segmentation and depth see"
    )
    max_depth: float | None = Field(
        None, gt=0, description="metres: the last bin of depth; null: the largest of training"
    )
    augment: bool = Field(
        False,
        description="random crops, whose features are computed in each step; always if unfrozen, "
        "and of two views and people",
    )
    epochs: float | None = Field(
        None, gt=0, description="passes over the training images; null: 20, or by `steps`"
    )
    steps: PositiveInt | None = Field(
        None, description="optimiser steps, or `epochs`: the last one given counts"
    )
    batch_size: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="images, windows or pairs of a step; null: 32 of classes, 64 of people, "
        "else 16",
    )
    lr: float | None = Field(
        None,
        gt=0,
        description="peak rate of the head; null: 3e-3, of two-view 5e-4, of people 1.2e-3",
    )
    encoder_lr: float = Field(1e-4, gt=0, description="peak rate of an unfrozen encoder's end")
    layer_decay: float = Field(
        0.75, gt=0, le=1, description="of that rate, for each layer (block or stage) further down"
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        description="of AdamW, not on biases and 1-D tensors; null: 1e-4, of two-view, people and "
        "unfrozen 0.05",
    )
    warmup: Probability = Field(0.05, description="share of the run, before the cosine to 0")
    seed: int = Field(0, ge=0, description="of weights, order and augmentation")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="by hardware")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0, ...")
    threads: PositiveInt | None = Field(None, description="CPU threads; null: torch's choice")
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="data processes; auto: by cores"
    )
    log_every: PositiveInt = Field(20, description="steps between reports")
    evaluations: Annotated[int, Field(ge=0)] = Field(
        5, description="looks at held-out training images in a run"
    )
    checkpoints: PositiveInt = Field(5, description="times the state is saved in a run")
    keep: PositiveInt = Field(2, description="newest checkpoints that stay")
    out: str | None = Field(None, description="folder of the result")
    two_view: TwoViewSection = Field(
        default_factory=TwoViewSection, description="settings of that head"
    )

    @field_validator("data", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """`[TRAIN, TEST]` as `TRAIN,TEST`."""
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def load_finetune_config(
    encoder: str,
    head: str,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    also: Callable[[FinetuneConfig], Iterable[Problem]] = lambda _: (),
) -> FinetuneConfig:
    """The settings of `key=value` words and keywords; ConfigError lists all that is wrong."""
    values: dict[str, Any] = {"encoder": encoder, "head": head}
    said = lay_over(values, overrides, settings or {})
    return validated(
        FinetuneConfig,
        values,
        said=said,
        problems=lambda config: [*finetune_conflicts(config), *also(config)],
    )


def finetune_conflicts(config: FinetuneConfig) -> Iterator[Problem]:
    """Settings that are missing, or impossible together, as far as they alone tell."""
    if config.out is None:
        yield Problem("where should the result be written? give out=FOLDER", ("out",))
    parts = [] if config.data is None else [part.strip() for part in config.data.split(",")]
    if config.data is None:
        yield Problem(
            "there are no images to learn from: give data=PATH, with splits train and test, or "
            "data=TRAIN,TEST",
            ("data",),
        )
    elif not all(parts) or len(parts) > 2:
        yield Problem(
            f"data is {config.data!r}, but must be PATH, with splits train and test, or TRAIN,TEST",
            ("data",),
        )
    if not config.unfrozen:
        given = [name for name in OF_UNFROZEN if name in config.model_fields_set]
        if given:
            yield Problem(
                f"{' and '.join(given)} would change nothing, as the encoder stands still: leave "
                "out, or add --unfrozen",
                (*given, "unfrozen"),
            )
    if config.layers > 1 and config.head not in ("segmentation", "depth"):
        yield Problem(
            f"layers are those of segmentation and depth: {config.head} sees one", ("layers",)
        )
    if config.max_depth is not None and config.head != "depth":
        yield Problem(f"max_depth is that of depth, not of {config.head}", ("max_depth",))
    own = config.two_view
    if config.head != "two-view" and own.model_fields_set:
        foreign = tuple(f"two_view.{name}" for name in sorted(own.model_fields_set))
        yield Problem(f"{foreign[0]} is that of two-view, not of {config.head}", foreign)
    if own.least_overlap >= own.most_overlap:
        yield Problem(
            f"two_view.least_overlap is {own.least_overlap:g}, but must be below "
            f"two_view.most_overlap, {own.most_overlap:g}",
            ("two_view.least_overlap", "two_view.most_overlap"),
        )


def from_yaml(text: str) -> FinetuneConfig:
    """What `to_yaml` wrote, also before a setting had come; ValueError for anything else."""
    return FinetuneConfig.model_validate(yaml.safe_load(text))


def to_yaml(config: FinetuneConfig) -> str:
    """All settings, every default spelled out."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
