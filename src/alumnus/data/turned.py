"""Images that lie on their side in the files: turned upright when they are read."""

from typing import Literal

from PIL import Image

from alumnus.data.batch import Sample, Source

__all__ = ["Turned", "Turning"]

Turning = Literal["frame", "canvas"]


class Turned:
    """A source of which images with `word` in their identity are turned 90 degrees clockwise.

    `frame` turns the whole image, so height and width change places. `canvas` is what DUNE's
    released code does with BEDLAM's close-ups: the canvas keeps its shape, so what is turned out of
    it is cut off and what is turned into it is black. Fields are as stored: labels are not turned.
    """

    def __init__(self, source: Source, word: str, *, how: Turning = "frame") -> None:
        self.source, self.word, self.how = source, word, how
        self.name, self.domain, self.generic = source.name, source.domain, source.generic

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def identity(self, index: int) -> str:
        return self.source.identity(index)

    def read(self, index: int) -> Sample:
        """One image, upright; BrokenImageError where it cannot be decoded."""
        sample = self.source.read(index)
        if self.word not in self.identity(index):
            return sample
        if self.how == "canvas":
            return sample._replace(picture=sample.image.rotate(-90))
        return sample._replace(picture=sample.image.transpose(Image.Transpose.ROTATE_270))
