"""A labelled source read once, for an evaluation that comes back twenty times in a run."""

from typing import NamedTuple

from PIL import Image

from alumnus.data import BrokenImageError, Sample, Source, eval_view

__all__ = ["keep_crops"]

KEPT_BYTES = 2**30


class _Kept(NamedTuple):
    image: Image.Image
    label: int | None
    identity: str


class _Crops:
    """The central squares of a source; `eval_transform` to the same size changes none of them."""

    def __init__(self, source: Source, kept: list[_Kept]) -> None:
        self.name, self.domain, self.generic = source.name, source.domain, source.generic
        self.classes, self._kept = source.classes, kept

    def __len__(self) -> int:
        return len(self._kept)

    def identity(self, index: int) -> str:
        return self._kept[index].identity

    def read(self, index: int) -> Sample:
        kept = self._kept[index]
        return Sample(kept.image, {} if kept.label is None else {"cls": kept.label})


def keep_crops(source: Source, size_px: int) -> Source:
    """The source with its images cut to squares in memory, without the broken ones.

    A source whose squares take more than 1 GiB is given back as it is.
    """
    if len(source) * size_px**2 * 3 > KEPT_BYTES:
        return source
    kept: list[_Kept] = []
    for index in range(len(source)):
        try:
            sample = source.read(index)
            image, fields = sample.image, sample.fields
        except BrokenImageError:
            continue
        pixels = eval_view(image, size_px).permute(1, 2, 0).numpy()
        kept.append(_Kept(Image.fromarray(pixels), fields.get("cls"), source.identity(index)))
    return _Crops(source, kept)
