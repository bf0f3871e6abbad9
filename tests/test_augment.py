"""Augmentation: torchvision's distributions and pixels, drawn by counter."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from alumnus.data import (
    DUNE,
    UNIC,
    AugmentConfig,
    AugmentParams,
    apply,
    crop_box,
    draw,
    eval_transform,
)
from alumnus.data.philox import philox, uniforms
from alumnus.data.pixels import apply_to_array, view
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD, luminance
from image_files import picture

DRAWS = 4000
P_TOO_SMALL = 1e-4  # two-sample tests fail a correct build once in ten thousand


def draws(config: AugmentConfig = UNIC, *, n: int = DRAWS, seed: int = 0) -> AugmentParams:
    return draw(seed, 0, np.arange(n), 0, config)


def assert_same_distribution(ours: Any, theirs: Any) -> None:
    """Two-sample Kolmogorov-Smirnov, with the asymptotic critical value."""
    a, b = np.sort(np.asarray(ours, float)), np.sort(np.asarray(theirs, float))
    both = np.concatenate([a, b])
    distance = np.abs(
        np.searchsorted(a, both, side="right") / len(a)
        - np.searchsorted(b, both, side="right") / len(b)
    ).max()
    limit = math.sqrt(-math.log(P_TOO_SMALL / 2) / 2) * math.sqrt(1 / len(a) + 1 / len(b))
    assert distance < limit, f"distance {distance:.4f} above {limit:.4f}"


def assert_share(events: Tensor, p: float) -> None:
    """Within four standard deviations of p."""
    spread = math.sqrt(p * (1 - p) / len(events))
    assert abs(events.double().mean().item() - p) <= 4 * spread


# The generator


def test_philox_gives_the_published_test_vectors() -> None:
    def words(value: int) -> Any:
        return np.full(1, value, np.uint64)

    zero = philox((words(0),) * 4, key=(0, 0))
    ones = philox((words(0xFFFFFFFF),) * 4, key=(0xFFFFFFFF, 0xFFFFFFFF))
    assert zero[0].tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert ones[0].tolist() == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_uniforms_are_uniform_along_every_counter() -> None:
    n = np.arange(DRAWS, dtype=np.uint64)
    zero = np.zeros_like(n)
    for counters in ((n, zero, zero), (zero, n, zero), (zero, zero, n)):
        u = uniforms(7, seed=1, source=counters[0], index=counters[1], view=counters[2])
        assert u.shape == (DRAWS, 7)
        assert 0 < u.min() < u.max() < 1
        assert_same_distribution(u.ravel(), (np.arange(u.size) + 0.5) / u.size)
        assert np.abs(np.corrcoef(u.T) - np.eye(7)).max() < 5 / math.sqrt(DRAWS)


# Draws


def test_draw_depends_on_its_four_numbers_and_nothing_else() -> None:
    source, index, view = np.array([0, 3, 1]), np.array([5, 2, 2**31]), np.array([0, 1, 7])
    together = draw(11, source, index, view, UNIC)
    for i in (2, 0, 1):
        alone = draw(11, int(source[i]), int(index[i]), int(view[i]), UNIC)
        for field in dataclasses.fields(AugmentParams):
            torch.testing.assert_close(
                getattr(alone[0], field.name), getattr(together[i], field.name), rtol=0, atol=0
            )


@pytest.mark.parametrize("changed", [(12, 0, 0, 0), (11, 1, 0, 0), (11, 0, 1, 0), (11, 0, 0, 1)])
def test_each_of_the_four_numbers_changes_the_draw(changed: tuple[int, int, int, int]) -> None:
    first, second = draw(11, 0, 0, 0, UNIC), draw(*changed, UNIC)
    assert (first.scale != second.scale).all()
    assert (first.factors != second.factors).all()


def test_switching_one_operation_off_leaves_the_draws_of_the_others() -> None:
    with_jitter, without = draws(UNIC), draws(dataclasses.replace(UNIC, jitter_p=0.0, hue=0.0))
    assert not without.jitter.any()
    for name in ("scale", "ratio", "place", "flip", "blur", "sigma_px", "solarise", "grayscale"):
        assert torch.equal(getattr(with_jitter, name), getattr(without, name))


@pytest.mark.parametrize("config", [UNIC, DUNE])
def test_shares_of_operations_are_those_configured(config: AugmentConfig) -> None:
    params = draws(config)
    assert_share(params.flip, config.flip_p)
    assert_share(params.jitter, config.jitter_p)
    assert_share(params.grayscale, config.grayscale_p)
    assert_share(params.blur, config.blur_p)
    assert_share(params.solarise, config.solarise_p)


def test_crop_and_flip_alone_draw_no_colour() -> None:
    params = draws(AugmentConfig(kind="crop_flip"))
    assert params.flip.any()
    assert not (params.jitter | params.grayscale | params.blur | params.solarise).any()


@pytest.mark.parametrize("config", [UNIC, DUNE, AugmentConfig(crop_scale=(0.8, 1.0))])
@pytest.mark.parametrize("size", [(90, 120), (64, 64), (40, 200)])
def test_crops_are_distributed_as_torchvision_draws_them(
    config: AugmentConfig, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    height, width = size
    image = torch.empty(3, height, width)
    transform = v2.RandomResizedCrop(32, scale=config.crop_scale, ratio=config.crop_ratio)
    theirs = np.array(
        [
            [made[k] for k in ("top", "left", "height", "width")]
            for made in (transform.make_params([image]) for _ in range(DRAWS))
        ]
    )
    params = draws(config)
    ours = np.array(
        [crop_box(params[i], height_px=height, width_px=width, config=config) for i in range(DRAWS)]
    )
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    for top_left in (0, 1):
        assert_same_distribution(ours[:, top_left], theirs[:, top_left])
    assert_same_distribution(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])
    assert_same_distribution(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2])


def test_jitter_is_distributed_as_torchvision_draws_it() -> None:
    torch.manual_seed(0)
    transform = v2.ColorJitter(UNIC.brightness, UNIC.contrast, UNIC.saturation, UNIC.hue)
    theirs = [transform.make_params([]) for _ in range(DRAWS)]
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    params = draws()
    for i, name in enumerate(names):
        assert_same_distribution(params.factors[:, i], [made[name] for made in theirs])
    orders, counts = torch.unique(params.order, dim=0, return_counts=True)
    assert len(orders) == 24
    assert ((counts - DRAWS / 24).abs() < 5 * math.sqrt(DRAWS / 24)).all()


def test_blur_is_distributed_as_torchvision_draws_it() -> None:
    torch.manual_seed(0)
    transform = v2.GaussianBlur(UNIC.blur_kernel_px, UNIC.blur_sigma_px)
    theirs = [transform.make_params([])["sigma"][0] for _ in range(DRAWS)]
    assert_same_distribution(draws().sigma_px, theirs)


# Pixels


@pytest.mark.parametrize("size", [(32, 32), (28, 56)])
def test_view_is_torchvisions_resized_crop_of_the_8_bit_image(size: tuple[int, int]) -> None:
    params = draws(n=60)
    unequal = []
    for i in range(len(params)):
        image = picture(i, width=70, height=50)
        top, left, h, w = crop_box(params[i], height_px=50, width_px=70, config=UNIC)
        crop = [top, left, h, w, list(size), v2.InterpolationMode.BICUBIC]
        expected = TF.resized_crop(TF.pil_to_tensor(image), *crop, antialias=True)
        pillow = TF.pil_to_tensor(TF.resized_crop(image, *crop, antialias=True))
        if params[i].flip:
            expected, pillow = expected.flip(-1), pillow.flip(-1)
        found = view(image, params[i], size, UNIC)
        assert torch.equal(found, expected)
        unequal.append((found.int() - pillow.int()).abs().float())
    # Pillow clips what bicubic overshoots between the two passes, and has finer weights
    levels = torch.stack(unequal)
    assert levels.mean() < 0.06  # measured 0.04
    assert (levels > 1).float().mean() < 0.002


def test_same_draw_at_another_size_shows_the_same_part_of_the_image() -> None:
    image = picture(1, width=90, height=60)
    params = draws(AugmentConfig(kind="crop_flip"), n=8)
    config = AugmentConfig(kind="crop_flip")
    for i in range(len(params)):
        small = apply(image, params[i], 24, config)
        large = apply(image, params[i], (48, 48), config)
        shrunk = TF.resize(large, [24, 24], antialias=True)
        assert (small - shrunk).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(61, 40, 32), (40, 61, 32), (33, 33, 32), (20, 50, 32), (61, 40, 48)],
)
def test_evaluation_transform_equals_torchvisions(width: int, height: int, size: int) -> None:
    image = picture(2, width=width, height=height)
    theirs = v2.Compose(
        [
            v2.Resize(size, v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
        ]
    )(image)
    torch.testing.assert_close(eval_transform(image, size), theirs, rtol=0, atol=1e-5)
    unchanged = apply(image, draws(n=1)[0], size, AugmentConfig(kind="none"))
    torch.testing.assert_close(unchanged, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(61, 40), (40, 61), (200, 20), (20, 200)])
def test_evaluation_transform_fills_a_size_that_is_not_square(width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), (255, 255, 255))
    found = eval_transform(image, (24, 48))
    assert found.shape == (3, 24, 48)
    assert (found > 2).all(), "nothing but white: no border"


@pytest.mark.parametrize("kind", ["crop_flip", "none"])
def test_array_of_many_channels_moves_as_the_image_does(kind: Any) -> None:
    image, config = picture(4, width=50, height=44), AugmentConfig(kind=kind)
    array = np.concatenate([np.asarray(image)] * 2, axis=-1)  # [H, W, 6]
    params = draws(config, n=8)
    for i in range(len(params)):
        rgb = apply(image, params[i], 24, config) * torch.tensor(IMAGENET_STD).view(3, 1, 1)
        rgb += torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        six = apply_to_array(array, params[i], 24, config) * float(np.mean(IMAGENET_STD))
        six += float(np.mean(IMAGENET_MEAN))
        assert six.shape == (6, 24, 24)
        # Pillow rounds to 8 bits after each axis and clips what bicubic overshoots
        assert (six.clamp(0, 1) - rgb.repeat(2, 1, 1)).abs().max() < 2 / 255


def test_luminance_of_grey_is_that_grey() -> None:
    image = Image.new("RGB", (8, 8), (100, 100, 100))
    grey = luminance(eval_transform(image, 8))
    expected = (100 / 255 - np.mean(IMAGENET_MEAN)) / np.mean(IMAGENET_STD)
    torch.testing.assert_close(grey, torch.full((1, 8, 8), float(expected)), rtol=0, atol=1e-5)


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ful"}, "did you mean 'full'"),
        ({"crop_scale": (0.5, 0.2)}, "must be 0 < low <= high"),
        ({"flip_p": 1.5}, "flip_p is 1.5, but must be between 0 and 1"),
        ({"blur_kernel_px": 8}, "blur_kernel_px is 8, but must be odd"),
    ],
)
def test_impossible_augmentation_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**options)
