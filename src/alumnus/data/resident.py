"""Small sets decoded once: a source whose images are kept in memory as bytes of pixels.

Data workers that are forked share the memory of the process that decoded.
"""

import numpy as np
from PIL import Image

from alumnus.data.batch import Sample, Source
from alumnus.data.decode import BrokenImageError
from alumnus.data.picture import pixels_of

__all__ = ["Pixels", "Resident", "decode_kept", "resident_bytes"]

PROBED = 32  # images whose size stands for the set's

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]  # [H, W, 3]


class Resident:
    """The images of a source, decoded at once; without its other fields.

    An image whose short side exceeds `short_px`, where given, is kept at that (bicubic): one
    resize more than from the file. All others are equal to the bit. A broken image stays a
    BrokenImageError.
    """

    def __init__(self, source: Source, *, short_px: int | None) -> None:
        self.name, self.domain, self.generic = source.name, source.domain, source.generic
        self.classes = source.classes
        self._source = source  # for identities
        self._kept = [decode_kept(source, i, short_px) for i in range(len(source))]

    def __len__(self) -> int:
        return len(self._kept)

    def identity(self, index: int) -> str:
        return self._source.identity(index)

    def read(self, index: int) -> Sample:
        """One image; BrokenImageError where it could not be decoded."""
        kept = self._kept[index]
        if isinstance(kept, BrokenImageError):
            raise kept.again()
        return Sample(pixels_of(kept), {})

    @property
    def nbytes(self) -> int:
        """What the pixels take."""
        return sum(kept.nbytes for kept in self._kept if not isinstance(kept, BrokenImageError))


def resident_bytes(source: Source, *, short_px: int | None) -> int:
    """What keeping a source would take, from some of its images."""
    chosen = np.linspace(0, len(source) - 1, min(PROBED, len(source)), dtype=int)
    probed = [decode_kept(source, int(i), short_px) for i in chosen]
    sizes = [kept.nbytes for kept in probed if not isinstance(kept, BrokenImageError)]
    return int(np.mean(sizes) * len(source)) if sizes else 0


def decode_kept(source: Source, index: int, short_px: int | None) -> Pixels | BrokenImageError:
    """The pixels of an image as they are kept, or why there are none."""
    try:
        image = source.read(index).image
    except BrokenImageError as error:
        return error.with_traceback(None)  # which would keep the file's bytes
    if short_px is not None and (shrink := short_px / min(image.size)) < 1:
        width, height = (max(1, round(side * shrink)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image)
