"""Any image file to an upright 8-bit RGB image, or one clear error."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

__all__ = ["BrokenImageError", "decode_rgb"]

HUGE_PX = 4096  # JPEGs with a longer short side than this are decoded at 1/2, 1/4 or 1/8

DECODER_ERRORS = (
    OSError,  # unidentified, truncated
    SyntaxError,  # Pillow's broken PNG
    ValueError,
    EOFError,
    IndexError,
    TypeError,  # Pillow on some damaged TIFF tags
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class BrokenImageError(ValueError):
    """An image that cannot be decoded: which one, and why."""

    def __init__(self, source: str, identity: str, why: str) -> None:
        super().__init__(source, identity, why)  # these arguments, so that it can be pickled
        self.source, self.identity, self.why = source, identity, why

    def __str__(self) -> str:
        return f"image {self.identity!r} of {self.source!r} cannot be decoded: {self.why}"


def decode_rgb(data: bytes, *, source: str, identity: str) -> Image.Image:
    """Decode an image file to RGB, turned as its EXIF orientation says.

    16-bit grey keeps its high byte, transparent pixels are laid on white, palettes and CMYK are
    converted by Pillow. JPEGs with a short side above 4096 px are decoded at a half, quarter or
    eighth that keeps at least 2048 px; only there is the size not that of the file.
    Raises BrokenImageError (naming `source` and `identity`), never a decoder's own error.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        if image.format == "JPEG" and min(image.size) > HUGE_PX:
            image.draft(None, _scaled(image.size, HUGE_PX / 2 / min(image.size)))
        image.load()
        return _to_rgb(_upright(image))
    except DECODER_ERRORS as error:
        why = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "not an image of a known format" if data else "the file is empty"
        raise BrokenImageError(source, identity, why) from error


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """The size in whole pixels, rounded up."""
    return int(np.ceil(size[0] * factor)), int(np.ceil(size[1] * factor))


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as EXIF says; an unreadable EXIF block is no reason to lose the image."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except DECODER_ERRORS:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_uint8(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_uint8(
    values: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Grey values of more than 8 bits to 0..255: floats up to 1 and integers above 255 rescaled."""
    grey = values.astype(np.float64)
    top = float(grey.max(initial=0.0))
    if values.dtype == np.uint16 or top > 255:
        grey = grey / 257.0
    elif values.dtype.kind == "f" and top <= 1:
        grey = grey * 255.0
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
