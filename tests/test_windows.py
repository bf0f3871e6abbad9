"""Sliding windows cover an image, and agree where they overlap."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.evaluation.windows import slide, window_boxes


@pytest.mark.parametrize(
    ("height", "width", "window", "stride"),
    [(8, 8, 8, 5), (8, 21, 8, 5), (9, 9, 8, 8), (30, 17, 8, 3), (5, 6, 8, 5)],
)
def test_windows_cover_every_pixel_and_end_at_the_edges(
    height: int, width: int, window: int, stride: int
) -> None:
    seen = torch.zeros(max(height, window), max(width, window))
    for top, left in window_boxes(height, width, window=window, stride=stride):
        assert top + window <= seen.shape[0]
        assert left + window <= seen.shape[1]
        seen[top : top + window, left : left + window] += 1
    assert seen.min() >= 1


def test_windows_stand_where_those_of_mmsegmentation_do() -> None:
    expected = []
    height, width, window, stride = 512, 700, 512, 341
    for row in range(max(height - window + stride - 1, 0) // stride + 1):  # its formula
        for column in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom = min(row * stride + window, height)
            right = min(column * stride + window, width)
            expected.append((max(bottom - window, 0), max(right - window, 0)))
    assert list(window_boxes(height, width, window=window, stride=stride)) == expected


def pixelwise(images: Tensor) -> Tensor:
    """Two logits that depend on each pixel alone."""
    return torch.stack([images.sum(dim=1), images[:, 0] - images[:, 2]], dim=1)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_model_without_context_is_not_changed_by_windows(batch_size: int) -> None:
    image = torch.randn(3, 13, 29, generator=torch.Generator().manual_seed(0))
    found = slide(image, pixelwise, window=8, stride=5, batch_size=batch_size)
    torch.testing.assert_close(found, pixelwise(image[None])[0])


def test_coarse_logits_are_brought_to_the_pixels_of_their_window() -> None:
    image = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))

    def coarse(images: Tensor) -> Tensor:
        return pixelwise(F.avg_pool2d(images, 4))

    expected = F.interpolate(coarse(image[None]), size=(8, 8), mode="bilinear")[0]
    found = slide(image, coarse, window=8, stride=5, batch_size=2)
    torch.testing.assert_close(found, expected)


def test_an_image_smaller_than_a_window_gives_logits_of_its_own_size() -> None:
    image = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0))
    found = slide(image, pixelwise, window=8, stride=5, batch_size=2)
    torch.testing.assert_close(found, pixelwise(image[None])[0])
