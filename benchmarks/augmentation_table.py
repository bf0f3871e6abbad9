"""Our augmentation beside torchvision's: what is drawn, and what a draw does to pixels.

    python -m benchmarks.augmentation_table [FOLDER_OR_PACK] [--draws 10000] [--repeats 6]

Both sides draw for images of 500 x 375 px with UNIC's settings; `z` is the difference in standard
errors, and the repeats with other seeds say how large it becomes by chance. Pixels: the same
parameters given to our code and to torchvision's functions on Pillow images, at 224 px, in levels
of 8 bits.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from alumnus.data import UNIC, AugmentParams, crop_box, draw
from alumnus.data.colour import develop
from alumnus.data.decode import decode_rgb
from alumnus.data.pixels import view
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from benchmarks.augmentation import jpegs_below, made_jpegs

HEIGHT_PX, WIDTH_PX, SIDE_PX = 375, 500, 224
JITTER = ("brightness", "contrast", "saturation", "hue")
Sample = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Samples = dict[str, Sample]
OPERATIONS: tuple[Callable[[Any, float], Any], ...] = (
    TF.adjust_brightness,
    TF.adjust_contrast,
    TF.adjust_saturation,
    TF.adjust_hue,
)


def our_draws(n: int, seed: int) -> Samples:
    params = draw(seed, 0, np.arange(n), 0, UNIC)
    size = {"height_px": HEIGHT_PX, "width_px": WIDTH_PX}
    boxes = np.array([crop_box(params[i], **size, config=UNIC) for i in range(n)], float)
    order = params.order.numpy()
    return {
        **_crops(boxes),
        "flip": params.flip.numpy().astype(float),
        "jitter": params.jitter.numpy().astype(float),
        **{f"{name} factor": params.factors[:, i].numpy() for i, name in enumerate(JITTER)},
        **{f"place of {name}": (order == i).argmax(axis=1) + 1.0 for i, name in enumerate(JITTER)},
        "greyscale": params.grayscale.numpy().astype(float),
        "blur": params.blur.numpy().astype(float),
        "blur sigma, px": params.sigma_px.numpy(),
        "solarise": params.solarise.numpy().astype(float),
    }


def torchvision_draws(n: int, seed: int) -> Samples:
    """By the transforms' own draws; whether one is applied is seen on a two-pixel image."""
    torch.manual_seed(seed)
    image = torch.empty(3, HEIGHT_PX, WIDTH_PX)
    probe = torch.tensor([[[0.9, 0.1]]] * 3) * torch.tensor([1.0, 0.8, 0.6]).view(3, 1, 1)
    crop = v2.RandomResizedCrop(SIDE_PX, scale=UNIC.crop_scale, ratio=UNIC.crop_ratio)
    made = [crop.make_params([image]) for _ in range(n)]
    boxes = np.array([[m[k] for k in ("top", "left", "height", "width")] for m in made], float)
    jitter = v2.ColorJitter(UNIC.brightness, UNIC.contrast, UNIC.saturation, UNIC.hue)
    jitters = [jitter.make_params([]) for _ in range(n)]
    places = np.array([torch.argsort(j["fn_idx"]).numpy() + 1.0 for j in jitters])
    blur = v2.GaussianBlur(UNIC.blur_kernel_px, UNIC.blur_sigma_px)
    inverted = v2.RandomApply([v2.RandomInvert(p=1.0)], p=UNIC.jitter_p)
    blurred = v2.RandomApply([v2.RandomInvert(p=1.0)], p=UNIC.blur_p)

    def share(transform: Callable[[Tensor], Tensor]) -> Sample:
        return np.array([float(not torch.equal(transform(probe), probe)) for _ in range(n)])

    return {
        **_crops(boxes),
        "flip": share(v2.RandomHorizontalFlip(UNIC.flip_p)),
        "jitter": share(inverted),
        **{f"{k} factor": np.array([j[f"{k}_factor"] for j in jitters]) for k in JITTER},
        **{f"place of {name}": places[:, i] for i, name in enumerate(JITTER)},
        "greyscale": share(v2.RandomGrayscale(UNIC.grayscale_p)),
        "blur": share(blurred),
        "blur sigma, px": np.array([blur.make_params([])["sigma"][0] for _ in range(n)]),
        "solarise": share(v2.RandomSolarize(UNIC.solarise_threshold, p=UNIC.solarise_p)),
    }


def _crops(boxes: Sample) -> Samples:
    top, left, height, width = boxes.T
    return {
        "crop area, share": height * width / (HEIGHT_PX * WIDTH_PX),
        "crop log(width/height)": np.log(width / height),
        "crop centre, down": (top + height / 2) / HEIGHT_PX,
        "crop centre, right": (left + width / 2) / WIDTH_PX,
    }


def _with_error(values: Sample) -> tuple[float, float, float, float]:
    """Mean and standard deviation, each with its standard error."""
    mean, sd, n = values.mean(), values.std(), len(values)
    fourth = ((values - mean) ** 4).mean()
    error_of_sd = math.sqrt(max(fourth - sd**4, 0.0) / n) / (2 * sd)
    return mean, sd / math.sqrt(n), sd, error_of_sd


def _z(a: tuple[float, ...], b: tuple[float, ...], k: int) -> float:
    error = math.hypot(a[k + 1], b[k + 1])
    return (a[k] - b[k]) / error if error else 0.0


def _is_share(sample: Sample) -> bool:
    """Its spread says nothing new."""
    return set(np.unique(sample)) <= {0.0, 1.0}


def print_draws(ours: Samples, theirs: Samples) -> None:
    print("| drawn | mean, ours | torchvision | z | spread, ours | torchvision | z |")
    print("|---|---|---|---|---|---|---|")
    for name, sample in ours.items():
        a, b = _with_error(sample), _with_error(theirs[name])
        cells = []
        for k in (0, 2):
            cells += [f"{v[k]:.4f} ± {v[k + 1]:.4f}" for v in (a, b)] + [f"{_z(a, b, k):+.1f}"]
        if _is_share(sample):
            cells[3:] = ["", "", ""]
        print(f"| {name} | {' | '.join(cells)} |")


def all_z(ours: Samples, theirs: Samples) -> list[float]:
    """Of every mean, and of every spread that is not that of a share."""
    found = []
    for name, sample in ours.items():
        a, b = _with_error(sample), _with_error(theirs[name])
        found += [_z(a, b, k) for k in ((0,) if _is_share(sample) else (0, 2))]
    return found


def print_pixels(images: list[Image.Image]) -> None:
    params = draw(0, 0, np.arange(len(images)), 0, UNIC)
    rows: dict[str, list[Tensor]] = {}
    for i, image in enumerate(images):
        drawn = params[i]
        found = view(image, drawn, SIDE_PX, UNIC)
        rows.setdefault("crop, resize, flip", []).append(found - _pillow_view(image, drawn).float())
        same = TF.to_pil_image(found)
        for k, name in enumerate(JITTER):
            factor = drawn.factors[k].item()
            step = _only(drawn, jitter=True, order=torch.tensor([k]))
            theirs = TF.pil_to_tensor(OPERATIONS[k](same, factor)).float()
            rows.setdefault(name, []).append(_levels(develop(found, step, UNIC)) - theirs)
        for name in ("grayscale", "blur", "solarise"):
            ours = _levels(develop(found, _only(drawn, **{name: True}), UNIC))
            expected = _published(same, _only(drawn, **{name: True}))
            rows.setdefault(name, []).append(ours - expected)
        ours = _levels(develop(found, drawn, UNIC))
        rows.setdefault("all colour, as drawn", []).append(ours - _published(same, drawn))
        pillow = TF.to_pil_image(_pillow_view(image, drawn))
        rows.setdefault("everything, as drawn", []).append(ours - _published(pillow, drawn))
    print("| same parameters | mean | above half a level | above 2 levels | largest |")
    print("|---|---|---|---|---|")
    for name, differences in rows.items():
        levels = torch.stack(differences).abs()
        half, two = ((levels > limit).float().mean().item() for limit in (0.5, 2.0))
        print(f"| {name} | {levels.mean():.4f} | {half:.3%} | {two:.3%} | {levels.max():.1f} |")


def _only(params: AugmentParams, **switched: Any) -> AugmentParams:
    """The draw of one image with everything off but what is named."""
    off = dict.fromkeys(("jitter", "grayscale", "blur", "solarise"), False)
    return AugmentParams(**{**vars(params), **off, **switched})


def _pillow_view(image: Image.Image, params: AugmentParams) -> Tensor:
    top, left, h, w = crop_box(params, height_px=image.height, width_px=image.width, config=UNIC)
    size, bicubic = [SIDE_PX, SIDE_PX], v2.InterpolationMode.BICUBIC
    made = TF.pil_to_tensor(TF.resized_crop(image, top, left, h, w, size, bicubic, antialias=True))
    flipped: Tensor = made.flip(-1) if params.flip else made
    return flipped


def _published(image: Image.Image, params: AugmentParams) -> Tensor:
    """The colours, on Pillow images and then on floats; 0..255."""
    if params.jitter:
        for k in params.order.tolist():
            image = OPERATIONS[k](image, params.factors[k].item())
    if params.grayscale:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    pixels: Tensor = TF.to_dtype(TF.pil_to_tensor(image), torch.float32, scale=True)
    if params.blur:
        pixels = TF.gaussian_blur(pixels, [UNIC.blur_kernel_px] * 2, [params.sigma_px.item()] * 2)
    if params.solarise:
        pixels = TF.solarize(pixels, UNIC.solarise_threshold)
    return pixels * 255


def _levels(normalised: Tensor) -> Tensor:  # 0..255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (normalised * std + mean) * 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", nargs="?", type=Path)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    n: int = options.images
    files = made_jpegs(n) if options.source is None else jpegs_below(options.source, n)
    draws: int = options.draws
    print(f"{draws} draws on each side, seed {options.seed}\n")
    both = our_draws(draws, options.seed), torchvision_draws(draws, options.seed)
    print_draws(*both)
    z = np.array(all_z(*both))
    for seed in range(options.seed + 1, options.seed + options.repeats):
        z = np.append(z, all_z(our_draws(draws, seed), torchvision_draws(draws, seed)))
    print(
        f"\nOver {options.repeats} seeds {len(z)} values of z: root mean square "
        f"{math.sqrt((z**2).mean()):.2f} (1 by chance), {(abs(z) > 2).mean():.1%} beyond 2 "
        f"(4.6% by chance), largest {abs(z).max():.1f}."
    )
    print(f"\n{len(files)} images to {SIDE_PX} px; differences in levels of 8 bits\n")
    print_pixels([decode_rgb(f, source="benchmark", identity=str(i)) for i, f in enumerate(files)])


if __name__ == "__main__":
    main()
