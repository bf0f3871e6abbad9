"""Colour: torchvision's operations on Pillow images, for one image and for a batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from alumnus.data import DUNE, UNIC, AugmentConfig, AugmentParams, draw
from alumnus.data.colour import develop, develop_batch, gaussian_blur, normalise
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from image_files import picture

IMAGES = 80
OPERATIONS: tuple[Callable[[Any, float], Any], ...] = (
    TF.adjust_brightness,
    TF.adjust_contrast,
    TF.adjust_saturation,
    TF.adjust_hue,
)


def draws(config: AugmentConfig = UNIC, *, n: int = IMAGES) -> AugmentParams:
    return draw(3, 0, np.arange(n), 0, config)


def pictures(n: int = IMAGES, *, width: int = 40, height: int = 32) -> list[Image.Image]:
    """Smooth ones, noise, and one of a single colour."""
    noise = np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    smooth = [picture(i, width=width, height=height) for i in range(n)]
    mixed = [Image.fromarray(noise[i]) if i % 2 else smooth[i] for i in range(n)]
    return [Image.new("RGB", (width, height), (20, 200, 20)), *mixed[1:]]


def as_bytes(image: Image.Image) -> Tensor:
    pixels: Tensor = TF.pil_to_tensor(image)
    return pixels


def published(image: Image.Image, params: AugmentParams) -> Tensor:
    """The colours of the published pipeline in torchvision's own operations."""
    if params.jitter:
        for i in params.order.tolist():
            image = OPERATIONS[i](image, params.factors[i].item())
    if params.grayscale:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    pixels = TF.to_dtype(TF.pil_to_tensor(image), torch.float32, scale=True)
    if params.blur:
        pixels = TF.gaussian_blur(pixels, [9, 9], [params.sigma_px.item()] * 2)
    if params.solarise:
        pixels = TF.solarize(pixels, 0.5)
    normalised: Tensor = TF.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))
    return normalised


def levels(difference: Tensor) -> Tensor:
    """Of normalised images, in 8-bit levels."""
    return difference.abs() * 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1)


def only(params: AugmentParams, kind: int) -> AugmentParams:
    """The draws with one operation of the jitter for every image and nothing else."""
    nothing = torch.zeros_like(params.jitter)
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64).repeat(len(params), 1)
    factors[:, kind] = params.factors[:, kind]
    return dataclasses.replace(
        params, jitter=~nothing, grayscale=nothing, blur=nothing, solarise=nothing, factors=factors
    )


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_brightness_contrast_and_saturation_equal_pillows_to_the_bit(kind: int) -> None:
    params = dataclasses.replace(only(draws(), kind), order=torch.tensor([[kind] * 4] * IMAGES))
    for i, image in enumerate(pictures()):
        factor = params.factors[i, kind].item()
        expected = image
        for _ in range(4):
            expected = OPERATIONS[kind](expected, factor)
        found = develop(as_bytes(image), params[i], UNIC)
        assert torch.equal(found, normalise(as_bytes(expected)))


def test_hue_equals_pillows_but_for_rounding_at_the_steps_of_its_8_bits() -> None:
    params = dataclasses.replace(only(draws(), 3), order=torch.tensor([[3, 0, 1, 2]] * IMAGES))
    unequal = []
    for i, image in enumerate(pictures()):
        expected = as_bytes(TF.adjust_hue(image, params.factors[i, 3].item()))
        found = develop(as_bytes(image), params[i], UNIC)
        unequal.append(levels(found - normalise(expected)).flatten())
    differences = torch.cat(unequal)
    assert (differences > 0.5).float().mean() < 0.005  # measured 0.002
    assert differences.max() < 6.5  # one step of the hue of a bright, full colour


@pytest.mark.parametrize("config", [UNIC, DUNE])
def test_colours_equal_the_published_operations(config: AugmentConfig) -> None:
    params = draws(config)
    for name in ("jitter", "grayscale", "blur", "solarise"):
        assert getattr(params, name).any(), f"no draw has {name}"
    differences = torch.stack(
        [
            levels(develop(as_bytes(image), params[i], config) - published(image, params[i]))
            for i, image in enumerate(pictures())
        ]
    )
    # solarisation of a pixel within rounding of the threshold may happen on one side only
    assert (differences > 0.5).float().mean() < 0.005
    assert differences.mean() < 0.01


@pytest.mark.parametrize("config", [UNIC, AugmentConfig(kind="crop_flip")])
@pytest.mark.parametrize("threads", [1, 2])
def test_batch_is_developed_as_its_images_are(config: AugmentConfig, threads: int) -> None:
    params, views = draws(config), torch.stack([as_bytes(image) for image in pictures()])
    alone = torch.stack([develop(views[i], params[i], config) for i in range(IMAGES)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = develop_batch(views, params, config)
    finally:
        torch.set_num_threads(before)
    difference = levels(together - alone)
    # a multiply-add that is fused in one form only may cross a step of 8 bits; measured 0
    assert (difference > 1e-3).float().mean() < 1e-4


def test_batch_is_developed_without_reading_a_draw() -> None:
    params = draws()
    views = torch.zeros(IMAGES, 3, 32, 40, dtype=torch.uint8, device="meta")
    fields = {f.name: getattr(params, f.name).to("meta") for f in dataclasses.fields(AugmentParams)}
    found = develop_batch(views, AugmentParams(**fields), UNIC)  # meta tensors have no values
    assert found.shape == (IMAGES, 3, 32, 40)


def test_image_without_a_draw_of_colour_is_only_normalised() -> None:
    image = as_bytes(picture(3))
    config = AugmentConfig(jitter_p=0, grayscale_p=0, blur_p=0, solarise_p=0)
    params = draws(config, n=2)
    expected = TF.normalize(image.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    for found in (
        develop(image, params[0], config),
        develop_batch(torch.stack([image] * 2), params, config)[1],
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_blur_equals_torchvisions() -> None:
    pixels = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    for sigma in (0.1, 0.7, 5.0):
        expected = TF.gaussian_blur(pixels, [9, 9], [sigma, sigma])
        found = gaussian_blur(pixels, kernel_px=9, sigma_px=sigma)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
