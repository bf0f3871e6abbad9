"""Any image file to an upright 8-bit RGB image, or one clear error."""

import io
import struct
import warnings
import zlib

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, UnidentifiedImageError
from torch import Tensor

from alumnus.data.picture import Picture

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # announced by torchvision 0.29; all is left to Pillow then, in more time
    decode_jpeg = None

__all__ = ["BrokenImageError", "decode", "decode_rgb", "upright_rgb"]

# What photographs come in, besides JPEG. No EPS or WMF: Pillow hands these to other programs.
FORMATS = ("PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "TGA", "ICO")
JPEG = b"\xff\xd8\xff"
HUGE_PX = 4096  # JPEGs with a longer short side than this are decoded at 1/2, 1/4 or 1/8
MOST_PIXELS = 178_956_970  # decoded: Pillow's own limit, half a GiB of RGB
MOST_JPEG_PIXELS = 2**30  # stored: a baseline JPEG is never held at full size
LONGEST = 100  # of a longer image (1 x N) the middle, this many times its short side, is kept

DECODER_ERRORS = (
    OSError,  # unidentified, truncated
    SyntaxError,  # Pillow's broken PNG
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,  # Pillow on some damaged TIFF tags
    RuntimeError,  # Pillow's AVIF decoder
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
SIXTEEN_BITS = ("PNG", "PPM")  # formats whose grey of more than 8 bits always has 16


class BrokenImageError(ValueError):
    """An image that cannot be decoded: which one, and why."""

    def __init__(self, source: str, identity: str, why: str) -> None:
        super().__init__(source, identity, why)  # these arguments, so that it can be pickled
        self.source, self.identity, self.why = source, identity, why

    def again(self) -> "BrokenImageError":
        """The same error to be raised once more: tracebacks would add up in one that is kept."""
        return BrokenImageError(self.source, self.identity, self.why)

    def __str__(self) -> str:
        return f"image {self.identity!r} of {self.source!r} cannot be decoded: {self.why}"


def decode_rgb(data: bytes, *, source: str, identity: str, full_size: bool = False) -> Image.Image:
    """Decode an image file to RGB, turned as its EXIF orientation says.

    The format is that of the content, whatever the file is called. Of an animation the first
    frame is taken. Palettes, CMYK and YCCK are converted by Pillow; colour of 16 bits keeps its
    high byte. Grey of 16 bits is divided by 257; of 32-bit integers and floats by the smallest of
    1 (floats only), 255 and 65535 that no pixel exceeds, else by their maximum; what is negative
    or not finite is black.

    Transparent pixels are laid on white, as a browser shows them. `Image.convert("RGB")`, which
    torchvision's ImageFolder and timm call, drops the alpha channel instead and shows whatever
    colour the file keeps under it, often black.

    JPEGs with a short side above 4096 px are decoded at a half, quarter or eighth that keeps at
    least 2048 px, up to 2^30 stored pixels; everything else has at most 178,956,970 pixels
    (Pillow's limit against decompression bombs). Of an image over 100 times as long as wide the
    middle is kept. Otherwise the size is that of the file. With `full_size` it always is, and a
    JPEG too has Pillow's limit.
    Raises BrokenImageError (naming `source` and `identity`), never a decoder's own error.
    """
    try:
        image = _open(data, full_size=full_size)
        image.load()
        rgb = _to_rgb(_upright(image))
        return rgb if full_size else _middle(rgb)
    except DECODER_ERRORS as error:
        why = _why(error)
        if isinstance(error, UnidentifiedImageError):
            why = "not an image of a known format" if data else "the file is empty"
        raise BrokenImageError(source, identity, why) from error


def decode(data: bytes, *, source: str, identity: str) -> Picture:
    """As `decode_rgb`; plain JPEGs, the most frequent files, as pixels, in less time.

    The pixels are those of `decode_rgb`: torchvision's decoder is the same library, without
    Pillow's copies. Pillow reads the header, and decides about all that torchvision refuses.
    """
    if data.startswith(JPEG) and decode_jpeg is not None:
        try:
            header = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
            if _is_plain(header):
                stored = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                pixels: Tensor = decode_jpeg(stored, ImageReadMode.RGB)
                return pixels
        except DECODER_ERRORS:
            pass  # Pillow finds the words
    return decode_rgb(data, source=source, identity=identity)


def _is_plain(header: JpegImagePlugin.JpegImageFile) -> bool:
    """Whether its pixels are taken as they are stored."""
    short, long = sorted(header.size)
    return (
        header.mode == "RGB"
        and short <= HUGE_PX
        and long <= LONGEST * short
        and short * long <= MOST_PIXELS
        and header.getexif().get(ExifTags.Base.Orientation, 1) == 1
    )


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image that is open, as `decode_rgb` gives its file at full size; the same errors."""
    try:
        image.load()
        return _to_rgb(_upright(image))
    except DECODER_ERRORS as error:
        name = str(getattr(image, "filename", "") or "without a name")
        raise BrokenImageError("open images", name, _why(error)) from error


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _open(data: bytes, *, full_size: bool) -> Image.Image:
    """The image, its pixels not decoded yet; a huge JPEG is told to be decoded smaller."""
    if data.startswith(JPEG):  # Image.open would refuse by the size before decoding
        jpeg = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        progressive = "progression" in jpeg.info  # held at full size, as coefficients
        _refuse_bomb(jpeg.size, MOST_PIXELS if progressive else MOST_JPEG_PIXELS)
        if min(jpeg.size) > HUGE_PX and not full_size:
            jpeg.draft(None, _scaled(jpeg.size, HUGE_PX / 2 / min(jpeg.size)))
        _refuse_bomb(jpeg.size, MOST_PIXELS)
        return jpeg
    with warnings.catch_warnings():  # of half the limit; decided below
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data))  # reads no more than the header
    if image.format not in FORMATS:
        raise ValueError(f"its format {image.format} is none of JPEG, {', '.join(FORMATS)}")
    _refuse_bomb(image.size, MOST_PIXELS)
    return image


def _refuse_bomb(size: tuple[int, int], most: int) -> None:
    if size[0] * size[1] > most:
        raise Image.DecompressionBombError(
            f"its {size[0]} x {size[1]} pixels are more than the {most} that are decoded"
        )


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
        values = np.asarray(image)
        of_16_bits = values.dtype.kind != "f" and (
            values.dtype == np.uint16 or image.format in SIXTEEN_BITS
        )
        return Image.fromarray(_to_uint8(values, top=65535 if of_16_bits else None)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_uint8(
    values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], *, top: int | None
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Grey values of more than 8 bits to 0..255; `top` is white, by the values where None."""
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    white = float(top) if top is not None else _white(grey, floats=values.dtype.kind == "f")
    return np.clip(np.rint(grey * (255.0 / white)), 0, 255).astype(np.uint8)


def _white(grey: np.ndarray[tuple[int, ...], np.dtype[np.float64]], *, floats: bool) -> float:
    highest = float(grey.max(initial=0.0))
    tops = (1.0, 255.0, 65535.0) if floats else (255.0, 65535.0)
    return next((top for top in tops if highest <= top), highest)


def _middle(image: Image.Image) -> Image.Image:
    """The image, or the middle of one so thin that resizing its short side would blow it up."""
    width, height = image.size
    w, h = min(width, LONGEST * height), min(height, LONGEST * width)
    if (w, h) == (width, height):
        return image
    left, top = (width - w) // 2, (height - h) // 2
    return image.crop((left, top, left + w, top + h))
