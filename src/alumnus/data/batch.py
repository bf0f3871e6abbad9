"""What travels: one sample of a source, one batch of a mixture, and what a source must be able to.

Axes: B images, C channels, H W pixels.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from PIL import Image
from torch import Tensor

from alumnus.data.picture import Picture, as_image
from alumnus.tokens import Tokens

__all__ = ["BadImage", "Batch", "Sample", "Source", "named_fields", "names_of"]


class Sample(NamedTuple):
    """One decoded sample."""

    picture: Picture  # RGB, upright, as its decoder gave it
    fields: dict[str, Any]  # what else the source holds: "cls": int, "json": dict, "depth": array

    @property
    def image(self) -> Image.Image:
        """The picture for Pillow."""
        return as_image(self.picture)


class Source(Protocol):
    """Numbered images with a stable name each; safe to use from several processes."""

    @property
    def name(self) -> str: ...

    @property
    def domain(self) -> str:
        """What kind of data this is; decides which teachers learn from it."""

    @property
    def generic(self) -> bool:
        """True: its images go to all teachers under `own+generic` data sharing."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the values of the field "cls" or "mask"; None without such labels."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Decode one sample; BrokenImageError where its image cannot be decoded."""

    def identity(self, index: int) -> str:
        """A name that stays when other samples come or go: a relative path, a shard and key."""


def named_fields(source: Source) -> Mapping[str, tuple[str, ...]]:
    """Of a source that names the values of its fields one by one, those names."""
    return getattr(source, "field_names", {})


def names_of(source: Source, field: str) -> tuple[str, ...] | None:
    """Names of the values of "cls" or "mask", or of the rows of "joints"; None without any.

    A source with two kinds of classes, of whole images and of pixels, has a property
    `field_names`; of others the classes are those of either field.
    """
    either = source.classes if field in ("cls", "mask") else None
    return named_fields(source).get(field, either)


class Batch(NamedTuple):
    """One training batch; images are ImageNet-normalised (`alumnus.images`)."""

    images: Tensor  # [B, C, H, W] float32, for the student
    teacher_images: Tensor  # [B, 3, Ht, Wt]; the same tensor unless C != 3 or another teacher size
    position: Tensor  # [B] int64, global position in the run
    source: Tensor  # [B] int64, index of the source in the mixture
    # [B] int64, index of the image within its source; hides tuple.index
    index: Tensor  # type: ignore[assignment]
    view: Tensor  # [B] int64, pass over the source (modulo K with a feature cache)
    targets: Mapping[str, Tokens] | None = None  # of teachers that ran in the data worker

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All but the targets, by name."""
        return {name: x for name, x in self._asdict().items() if name != "targets"}

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """All but the targets changed in the same way."""
        return Batch._make([*map(change, self.tensors.values()), self.targets])


class BadImage(NamedTuple):
    """An image that could not be decoded and what took its place: a line of bad_images.jsonl."""

    position: int  # global position in the run; -1 in a sweep, which skips it
    source: str
    identity: str
    why: str
    replaced_by: str | None  # identity of the image used instead; None: skipped
