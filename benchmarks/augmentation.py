"""Images per second and core of the input pipeline, and of torchvision's, in one run.

    python benchmarks/augmentation.py [FOLDER_OR_PACK] [--images 256] [--px 224] [--rounds 5]

Each pipeline takes the bytes of JPEG files to normalised batches of 32. The pipelines take turns;
CPU seconds of this process on one thread are counted, so that other work on the machine disturbs
little; of the rates, and of the ratios within a round, the median is given. Without a source,
JPEGs of 375 x 500 px are made in memory.
"""

import argparse
import io
import os
import platform
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from alumnus.data import UNIC, AugmentConfig, AugmentParams, apply, draw
from alumnus.data.colour import develop, develop_batch
from alumnus.data.decode import decode
from alumnus.data.picture import Picture, as_image
from alumnus.data.pixels import view
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD

BATCH = 32


def made_jpegs(n: int) -> list[bytes]:
    """JPEGs of the most frequent size of ImageNet, quality 85, about 60 kB."""
    files = []
    for seed in range(n):
        noise = np.random.default_rng(seed).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        image = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(buffer, "JPEG", quality=85)
        files.append(buffer.getvalue())
    return files


def jpegs_below(folder: Path, n: int) -> list[bytes]:
    """The first n JPEG files below a folder, or in the tar files in it."""
    return [data for data, _ in zip(_jpegs(folder), range(n), strict=False)]


def _jpegs(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            yield path.read_bytes()
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.name.endswith(".jpg") else None
                    if file is not None:
                        yield file.read()


def published(size_px: int, config: AugmentConfig, *, pillow: bool) -> v2.Compose:
    """UNIC's augmentation, transcribed plainly; from Pillow images or from 8-bit tensors."""
    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size_px,
                scale=config.crop_scale,
                ratio=config.crop_ratio,
                interpolation=v2.InterpolationMode.BICUBIC,
                antialias=True,
            ),
            v2.RandomHorizontalFlip(config.flip_p),
            v2.RandomApply([jitter], p=config.jitter_p),
            v2.RandomGrayscale(config.grayscale_p),
            *([v2.PILToTensor()] if pillow else []),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply(
                [v2.GaussianBlur(config.blur_kernel_px, config.blur_sigma_px)], p=config.blur_p
            ),
            v2.RandomSolarize(config.solarise_threshold, p=config.solarise_p),
            v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
        ]
    )


class Pipelines:
    """What is compared: from the bytes of a batch of files to a batch of tensors."""

    def __init__(self, files: list[bytes], size_px: int, config: AugmentConfig) -> None:
        self.files, self.size_px, self.config = files, size_px, config
        self.params = draw(0, 0, np.arange(len(files)), 0, config)
        self.from_pillow = published(size_px, config, pillow=True)
        self.from_tensor = published(size_px, config, pillow=False)
        self.pictures = [self._decode(i) for i in range(len(files))]
        self.views = torch.stack(
            [view(p, self.params[i], size_px, config) for i, p in enumerate(self.pictures)]
        )

    def _decode(self, i: int) -> Picture:
        return decode(self.files[i], source="benchmark", identity=str(i))

    def torchvision_on_pillow(self, batch: range) -> Tensor:
        images = (Image.open(io.BytesIO(self.files[i])).convert("RGB") for i in batch)
        return torch.stack([self.from_pillow(image) for image in images])

    def torchvision_on_tensors(self, batch: range) -> Tensor:
        buffers = (torch.frombuffer(bytearray(self.files[i]), dtype=torch.uint8) for i in batch)
        images = (decode_jpeg(buffer, mode=ImageReadMode.RGB) for buffer in buffers)
        return torch.stack([self.from_tensor(image) for image in images])

    def whole(self, batch: range) -> Tensor:
        params = draw(0, 0, np.array(batch), 1, self.config)
        made = [apply(self._decode(i), params[j], self.size_px, self.config)
                for j, i in enumerate(batch)]  # fmt: skip
        return torch.stack(made)

    def split(self, batch: range) -> Tensor:
        params = draw(0, 0, np.array(batch), 1, self.config)
        made = [view(self._decode(i), params[j], self.size_px, self.config)
                for j, i in enumerate(batch)]  # fmt: skip
        return torch.stack(made)

    def decode(self, batch: range) -> list[Picture]:
        return [self._decode(i) for i in batch]

    def geometry(self, batch: range) -> list[Tensor]:
        return [view(self.pictures[i], self.params[i], self.size_px, self.config) for i in batch]

    def colour(self, batch: range) -> list[Tensor]:
        return [develop(self.views[i], self.params[i], self.config) for i in batch]

    def colour_batched(self, batch: range) -> Tensor:
        part = slice(batch.start, batch.stop)
        params = {name: value[part] for name, value in vars(self.params).items()}
        return develop_batch(self.views[part], AugmentParams(**params), self.config)


def rates(
    work: dict[str, Callable[[range], object]], n: int, rounds: int
) -> dict[str, list[float]]:
    """Images per CPU second of each round; the pipelines take turns, the first round is lost."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, do in work.items():
            start = time.process_time()
            for first in range(0, n, BATCH):
                do(range(first, min(n, first + BATCH)))
            found[name].append(n / (time.process_time() - start))
    return {name: per_round[1:] for name, per_round in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)

    n: int = options.images
    files = made_jpegs(n) if options.source is None else jpegs_below(options.source, n)
    if not files:
        parser.error(f"there are no JPEG files in {options.source} or below")
    pipelines = Pipelines(files, options.px, UNIC)
    sizes = np.array([as_image(picture).size for picture in pipelines.pictures])
    found = rates(
        {
            "torchvision on Pillow images": pipelines.torchvision_on_pillow,
            "torchvision on tensors": pipelines.torchvision_on_tensors,
            "alumnus, all on the CPU": pipelines.whole,
            "alumnus, split: the CPU's part": pipelines.split,
            "decode": pipelines.decode,
            "crop, resize, flip": pipelines.geometry,
            "colour of each image": pipelines.colour,
            f"colour of batches of {BATCH}": pipelines.colour_batched,
        },
        len(files),
        options.rounds,
    )
    middle = {name: statistics.median(values) for name, values in found.items()}
    theirs = [values for name, values in found.items() if name.startswith("torchvision")]
    base = [max(both) for both in zip(*theirs, strict=True)]  # the faster one of each round
    print(
        f"{len(files)} JPEGs, median {np.median(sizes[:, 0]):.0f} x {np.median(sizes[:, 1]):.0f} "
        f"px, to {options.px} px; one thread, median of {options.rounds} rounds\n"
    )
    print("| bytes to batch | images per CPU second | range | to the faster torchvision |")
    print("|---|---|---|---|")
    for name, values in found.items():
        ratio = ""
        if name.startswith(("torchvision", "alumnus")):
            ratios = [ours / best for ours, best in zip(values, base, strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"| {name} | {middle[name]:.0f} | {min(values):.0f}-{max(values):.0f} | {ratio} |")
    print(
        f"\ntorch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"Pillow {PIL.__version__}; {platform.machine()} with "
        f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
