"""Small sets kept on the training device, where crops are cut, resized and developed in batches.

The host draws and works out the boxes; no image travels and nothing waits for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alumnus.data.augment import AugmentParams, Box, crop_box
from alumnus.data.batch import Source
from alumnus.data.colour import develop_batch
from alumnus.data.decode import BrokenImageError
from alumnus.data.mixture import Location
from alumnus.data.pixels import Size
from alumnus.data.reader import Views
from alumnus.data.resident import Pixels, decode_kept, resident_bytes
from alumnus.images import luminance

__all__ = ["DevicePixels", "DeviceSource", "DeviceViews", "Stored", "crop_resize"]

CHUNK_VALUES = 2**26  # float32 of cut-out pixels at a time, a quarter of a GiB


class Stored(NamedTuple):
    """Where an image lies among the pixels of all."""

    start: int  # of its first pixel
    height_px: int
    width_px: int


@dataclass(frozen=True)
class DeviceSource:
    """A source whose images lie on the device; `read` says where."""

    source: Source  # for its names
    images: list[Stored | BrokenImageError]

    @property
    def name(self) -> str:
        return self.source.name

    def __len__(self) -> int:
        return len(self.images)

    def identity(self, index: int) -> str:
        return self.source.identity(index)

    def read(self, index: int) -> Stored:
        """The place of an image; BrokenImageError where it could not be decoded."""
        image = self.images[index]
        if isinstance(image, BrokenImageError):
            raise image.again()
        return image


class DevicePixels:
    """The images of several sources, decoded once, on one device: pixels [P, 3] uint8."""

    def __init__(
        self, sources: Sequence[Source], device: torch.device, *, short_px: int | None
    ) -> None:
        """`short_px` as for `Resident`."""
        needed = sum(resident_bytes(source, short_px=short_px) for source in sources)
        self.pixels = torch.empty(needed // 3, 3, dtype=torch.uint8, device=device)
        self.sources: tuple[DeviceSource, ...] = ()
        self._used = 0
        for source in sources:
            read = (decode_kept(source, i, short_px) for i in range(len(source)))
            self.sources += (DeviceSource(source, [self._store(image) for image in read]),)

    def _store(self, image: Pixels | BrokenImageError) -> Stored | BrokenImageError:
        """Upload one image; the host keeps none."""
        if isinstance(image, BrokenImageError):
            return image
        height, width, _ = image.shape
        start, self._used = self._used, self._used + height * width
        if self._used > len(self.pixels):  # more than some of the images had let expect
            more = self.pixels.new_empty(max(self._used, len(self.pixels) * 5 // 4), 3)
            more[:start] = self.pixels[:start]
            self.pixels = more
        self.pixels[start : self._used] = torch.from_numpy(image.reshape(-1, 3).copy())
        return Stored(start, height, width)


class DeviceViews:
    """From places of images and draws to finished batches on the device.

    The twin of `Views` for images that already are there: the same draws, boxes, and order of
    operations. Before colour 0.3% of the values differ from the host's by a level of 8 bits.
    """

    split = False  # nothing is left to do

    def __init__(self, views: Views, pixels: Tensor) -> None:
        if views.augment.kind == "none":
            raise ValueError("images on the device are cropped, so augment.kind must not be none")
        self.views, self.pixels, self.seed = views, pixels, views.seed

    def at(self, position: int) -> "DeviceViews":
        return DeviceViews(self.views.at(position), self.pixels)

    def draw(self, places: Sequence[Location]) -> AugmentParams:
        return self.views.draw(places)

    def render(self, samples: Sequence[Stored], params: AugmentParams) -> tuple[Tensor, Tensor]:
        """Images of the student and of the teachers, [B, C, H, W] float32."""
        config = self.views.augment
        boxes = [
            crop_box(params[i], height_px=s.height_px, width_px=s.width_px, config=config)
            for i, s in enumerate(samples)
        ]
        device = self.pixels.device
        drawn = params.map(
            lambda x: (x.float() if x.is_floating_point() else x).to(device, non_blocking=True)
        )

        def seen(size: Size) -> Tensor:
            crops = crop_resize(self.pixels, samples, boxes, size)
            flipped = torch.where(drawn.flip.view(-1, 1, 1, 1), crops.flip(-1), crops)
            return develop_batch(flipped, drawn, config)

        student = teachers = seen(self.views.size)
        other = self.views.teacher_size
        if other is not None and other != self.views.size:
            teachers = seen(other)
        return (luminance(student) if self.views.channels == 1 else student), teachers


def crop_resize(
    pixels: Tensor,  # [P, 3] uint8: the images, row by row
    images: Sequence[Stored],
    boxes: Sequence[Box],
    size: Size,
) -> Tensor:  # [B, 3, H, W] uint8
    """Each image's box, resized by antialiased bicubic interpolation.

    Two batched matrix products with the weights that torch's `interpolate(mode="bicubic",
    antialias=True)` has (a = -0.5), rounded to 8 bits after each axis as it does for bytes.
    Boxes are known to the host, so no shape depends on what is on the device.
    """
    height, width = (size, size) if isinstance(size, int) else size
    cells = 3 * max(b[2] for b in boxes) * max(b[3] for b in boxes)
    step = max(1, CHUNK_VALUES // cells)
    parts = [
        _crop_resize(pixels, images[i : i + step], boxes[i : i + step], height, width)
        for i in range(0, len(images), step)
    ]
    return torch.cat(parts)


def _crop_resize(
    pixels: Tensor,
    images: Sequence[Stored],
    boxes: Sequence[Box],
    height: int,
    width: int,
) -> Tensor:
    numbers = [
        (image.start + top * image.width_px + left, image.width_px, h, w)
        for image, (top, left, h, w) in zip(images, boxes, strict=True)
    ]
    tallest, widest = max(h for _, _, h, _ in boxes), max(w for _, _, _, w in boxes)
    device = pixels.device
    first, stride, h, w = torch.tensor(numbers).to(device, non_blocking=True).unbind(dim=1)
    rows = torch.arange(tallest, device=device).minimum(h[:, None] - 1)  # beyond the box: its edge
    columns = torch.arange(widest, device=device).minimum(w[:, None] - 1)
    places = (first[:, None] + rows * stride[:, None])[:, :, None] + columns[:, None]
    cut = pixels[places].permute(0, 3, 1, 2).float()  # [B, 3, tallest, widest]
    across = _bicubic(w, widest, width)[:, None]  # [B, 1, width, widest]
    down = _bicubic(h, tallest, height)[:, None]
    with torch.autocast(device.type, enabled=False):  # bf16 has too few digits for 8 bits
        return _to_level(down @ _to_level(cut @ across.mT)).to(torch.uint8)


def _bicubic(inputs: Tensor, most: int, outputs: int) -> Tensor:
    """Weights [B, outputs, most] of the inputs [B] that each image has; the others weigh 0."""
    scale = (inputs.float() / outputs)[:, None, None]
    wide = scale.clamp_min(1.0)  # antialiasing: the kernel covers what an output pixel does
    centres = (torch.arange(outputs, device=inputs.device) + 0.5)[:, None] * scale
    steps = torch.arange(most, device=inputs.device)
    away = ((steps + 0.5 - centres) / wide).abs()
    near = (1.5 * away - 2.5) * away * away + 1.0
    far = ((-0.5 * away + 2.5) * away - 4.0) * away + 2.0
    weights = torch.where(away < 1.0, near, torch.where(away < 2.0, far, 0.0))
    weights = torch.where(steps < inputs[:, None, None], weights, 0.0)
    return weights / weights.sum(dim=-1, keepdim=True)


def _to_level(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0.0, 255.0)
