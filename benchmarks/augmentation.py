"""Images per second and core of the data path, against torchvision's own transforms.

    python benchmarks/augmentation.py [FOLDER_OR_PACK] [--images 400] [--px 128]

Without a source, JPEGs of 160 px with the statistics of a blurred noise are made in memory.
CPU seconds are counted, so that other work on the machine disturbs little.
"""

import argparse
import io
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from alumnus.data import (
    DUNE,
    UNIC,
    AugmentConfig,
    AugmentParams,
    apply,
    draw,
    eval_transform,
    open_source,
)
from alumnus.data.decode import decode_rgb
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD


def made_jpegs(n: int) -> list[bytes]:
    """JPEGs of 160 x 213 px, quality 80, about 9 kB: as photographs of that size."""
    files = []
    for seed in range(n):
        noise = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        image = Image.fromarray(noise).resize((213, 160), Image.Resampling.BICUBIC)
        image.save(buffer, "JPEG", quality=80)
        files.append(buffer.getvalue())
    return files


def torchvision_pipeline(size_px: int, scale: tuple[float, float]) -> v2.Compose:
    """The published augmentation, transcribed plainly."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size_px, scale=scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.GaussianBlur(9, (0.1, 5.0))], p=0.2),
            v2.RandomSolarize(0.5, p=0.2),
            v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
        ]
    )


def images_per_second(work: Callable[[int], object], n: int) -> float:
    """By CPU time of this process; the best of three passes."""
    work(0)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for i in range(n):
            work(i)
        seconds.append(time.process_time() - start)
    return n / min(seconds)


def augmented(
    images: list[Image.Image], params: AugmentParams, size_px: int, config: AugmentConfig, i: int
) -> Tensor:
    return apply(images[i], params[i], size_px, config)


def transformed(
    images: list[Image.Image], transform: Callable[[Image.Image], Tensor], i: int
) -> Tensor:
    return transform(images[i])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", nargs="?")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--px", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)

    if options.source is None:
        files = made_jpegs(options.images)
        n = len(files)

        def read(i: int) -> Image.Image:
            return decode_rgb(files[i], source="made", identity=str(i))
    else:
        source = open_source(options.source)
        n = min(options.images, len(source))

        def read(i: int) -> Image.Image:
            return source.read(i).image

    images = [read(i) for i in range(n)]
    size_px: int = options.px
    print(f"{n} images, about {images[0].size}, to {size_px} px; images per second and core")
    print(f"{'decode':34}{images_per_second(read, n):8.0f}")
    for name, config in {
        "UNIC": UNIC,
        "DUNE": DUNE,
        "crop and flip": AugmentConfig(kind="crop_flip"),
    }.items():
        params = draw(0, 0, np.arange(n), 0, config)
        work = partial(augmented, images, params, size_px, config)
        print(f"{'augment, ' + name:34}{images_per_second(work, n):8.0f}")
        if config.kind == "full":
            theirs = partial(transformed, images, torchvision_pipeline(size_px, config.crop_scale))
            print(f"{'  the same by torchvision':34}{images_per_second(theirs, n):8.0f}")
    evaluation = partial(transformed, images, partial(eval_transform, size=size_px))
    print(f"{'evaluation':34}{images_per_second(evaluation, n):8.0f}")
    start = time.process_time()
    for i in range(100):
        draw(0, 0, np.arange(128), i, UNIC)
    print(f"{'draw, in batches of 128':34}{100 * 128 / (time.process_time() - start):8.0f}")


if __name__ == "__main__":
    main()
