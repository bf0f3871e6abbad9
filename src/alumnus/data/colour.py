"""Colour, blur and normalisation of 8-bit views: for one image by branches, for a batch by masks.

Values stay in 0..255 as floats and are cut to whole numbers wherever Pillow does so: the
published pipelines work on 8-bit images up to the greyscale step, on floats from the blur on.
Both forms give the same numbers; the batch has no branch, shape or read that depends on a draw,
so on an accelerator nothing waits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.data.augment import AugmentConfig, AugmentParams
from alumnus.images import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["develop", "develop_batch", "gaussian_blur", "normalise"]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # columns of AugmentParams.factors
LUMA = (19595.0, 38470.0, 7471.0)  # ITU-R 601 in shares of 2**16, as Pillow has them


def develop(
    view: Tensor,  # [3, H, W] uint8, cropped, resized, flipped
    params: AugmentParams,  # of one image: draw(...)[i]
    config: AugmentConfig,
) -> Tensor:  # [3, H, W] float32, ImageNet-normalised
    """The drawn colour of one image; twin of `develop_batch`, which does each step for all."""
    pixels = view.float()
    if params.jitter:
        factors = params.factors.float()
        for i in params.order.tolist():
            factor = factors[i]
            pixels = _hue(pixels, factor) if i == HUE else _adjust(pixels, i, float(factor))
    if params.grayscale:
        pixels = _grey(pixels).expand(3, -1, -1).clone()
    if params.blur:
        pixels = gaussian_blur(
            pixels, kernel_px=config.blur_kernel_px, sigma_px=float(params.sigma_px)
        )
    if params.solarise:
        pixels = _solarise(pixels, config.solarise_threshold)
    return normalise(pixels)


def normalise(pixels: Tensor) -> Tensor:  # [..., 3, H, W], 0..255, or its bytes
    """With ImageNet's statistics; a float32 tensor is changed in place."""
    pixels = pixels.float()
    for channel, mean, std in zip(pixels.unbind(-3), IMAGENET_MEAN, IMAGENET_STD, strict=True):
        channel.sub_(255.0 * mean).div_(255.0 * std)  # numbers, not tensors: no copy to a device
    return pixels


def develop_batch(
    views: Tensor,  # [B, 3, H, W] uint8
    params: AugmentParams,  # [B], on the device of the views
    config: AugmentConfig,
) -> Tensor:  # [B, 3, H, W] float32, ImageNet-normalised
    """The drawn colour of a batch, on whatever device it is.

    Brightness, contrast and saturation are one blend with an anchor (black, the mean grey, the
    grey), so a place in the order costs one blend for all images. Those before an image's hue run
    before the hue of all, the others after it; a factor of 1 changes nothing.
    """
    pixels = views.float()
    if config.kind == "full":
        factors = params.factors.float()
        jitter = params.jitter
        hue_place = (params.order == HUE).int().argmax(dim=1)
        for place in range(3):
            active = jitter & (hue_place > place)
            pixels = _blend_drawn(pixels, params.order[:, place], factors, active)
        shifted = _hue(pixels, _per_image(factors[:, HUE]))
        pixels = torch.where(_per_image(jitter), shifted, pixels)
        for place in range(1, 4):
            active = jitter & (hue_place < place)
            pixels = _blend_drawn(pixels, params.order[:, place], factors, active)
        pixels = torch.where(_per_image(params.grayscale), _grey(pixels), pixels)
        pixels = _blur_drawn(pixels, params, kernel_px=config.blur_kernel_px)
        solarised = _solarise(pixels, config.solarise_threshold)
        pixels = torch.where(_per_image(params.solarise), solarised, pixels)
    return normalise(pixels)


def gaussian_blur(pixels: Tensor, *, kernel_px: int, sigma_px: float) -> Tensor:  # [C, H, W]
    """Gaussian blur with reflected borders, as a sum of shifted images along each axis.

    Twin of torchvision's, 2-3 times as fast (0.7 for 1.4 ms at 224 px) and without a
    convolution, whose summation order may depend on the number of threads.
    """
    half = kernel_px // 2
    shares: list[float] = _shares(torch.tensor(sigma_px), kernel_px).tolist()
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels[None], (half, half, half, half), mode="reflect")[0]
    rows = shares[0] * padded[..., :width]
    for i in range(1, kernel_px):
        rows.add_(padded[..., i : i + width], alpha=shares[i])
    blurred = shares[0] * rows[..., :height, :]
    for i in range(1, kernel_px):
        blurred.add_(rows[..., i : i + height, :], alpha=shares[i])
    return blurred


def _blur_drawn(pixels: Tensor, params: AugmentParams, *, kernel_px: int) -> Tensor:
    """Each image with its own sigma; one that is not blurred has all weight in the centre."""
    half = kernel_px // 2
    centre = (torch.arange(kernel_px, device=pixels.device) == half).to(pixels.dtype)
    drawn = _shares(params.sigma_px.float()[:, None], kernel_px)  # [B, k]
    shares = torch.where(params.blur[:, None], drawn, centre)[..., None, None, None].unbind(dim=1)
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (half, half, half, half), mode="reflect")
    rows = shares[0] * padded[..., :width]
    for i in range(1, kernel_px):
        rows.addcmul_(padded[..., i : i + width], shares[i])
    blurred = shares[0] * rows[..., :height, :]
    for i in range(1, kernel_px):
        blurred.addcmul_(rows[..., i : i + height, :], shares[i])
    return blurred


def _shares(sigma_px: Tensor, kernel_px: int) -> Tensor:  # [..., k], sums to 1
    half = kernel_px // 2
    steps = torch.linspace(-half, half, kernel_px, device=sigma_px.device)
    weights = torch.exp(-0.5 * (steps / sigma_px) ** 2)
    shares: Tensor = weights / weights.sum(dim=-1, keepdim=True)
    return shares


def _adjust(pixels: Tensor, kind: int, factor: float) -> Tensor:  # [3, H, W], whole numbers
    """Brightness, contrast or saturation of one image."""
    if kind == BRIGHTNESS:
        return pixels.mul_(factor).clamp_(max=255.0).floor_()
    anchor = _grey(pixels)
    if kind == CONTRAST:
        anchor = _mean(anchor)
    blended = torch.add(anchor, pixels.sub_(anchor), alpha=factor)
    return (blended.clamp_(0.0, 255.0) if factor > 1 else blended).floor_()


def _blend_drawn(
    pixels: Tensor,  # [B, 3, H, W]
    kind: Tensor,  # [B], what is done
    factors: Tensor,  # [B, 4] float32
    active: Tensor,  # [B] bool; an image whose kind is HUE is never active
) -> Tensor:
    """`anchor + factor * (pixels - anchor)`, cut to 8 bits, with each image's own anchor."""
    grey = _grey(pixels)  # [B, 1, H, W]
    flat = torch.where(_per_image(kind == CONTRAST), _mean(grey), 0.0)
    anchor = torch.where(_per_image(kind == SATURATION), grey, flat)
    factor = torch.where(active, factors.gather(1, kind[:, None])[:, 0], 1.0)
    blended = torch.addcmul(anchor, pixels - anchor, _per_image(factor))
    return blended.clamp_(0.0, 255.0).floor_()


def _grey(pixels: Tensor) -> Tensor:  # [..., 3, H, W] -> [..., 1, H, W], whole numbers
    """Pillow's grey; exact, since every sum is a whole number below 2**24."""
    red, green, blue = pixels.split(1, dim=-3)
    grey: Tensor = (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return grey.add_(32768.0).mul_(2.0**-16).floor_()


def _mean(grey: Tensor) -> Tensor:  # [..., 1, H, W] -> [..., 1, 1, 1]
    """Rounded as Pillow's contrast does; of integers, so that no order of summation matters."""
    total = grey.to(torch.int32).sum(dim=(-3, -2, -1), keepdim=True, dtype=torch.int64)
    pixels = grey.shape[-2] * grey.shape[-1]
    return ((2 * total + pixels) // (2 * pixels)).to(grey.dtype)


def _hue(pixels: Tensor, shift: Tensor) -> Tensor:  # [..., 3, H, W]; shift: share of the circle
    """Turn the hue by way of 8-bit hue and saturation, as torchvision does on Pillow images.

    Without a selection: 0/1 masks are floats, and what each channel takes of the chroma is a
    trapezium of the hue (0..6) around its own colour.
    """
    red, green, blue = pixels.split(1, dim=-3)
    top = torch.maximum(red, green)
    low = torch.minimum(red, green)
    top, low = torch.maximum(top, blue, out=top), torch.minimum(low, blue, out=low)
    chroma = torch.sub(top, low, out=low)
    is_red = torch.eq(red, top, out=torch.empty_like(top))
    is_green = torch.eq(green, top, out=torch.empty_like(top))
    is_green.addcmul_(is_green, is_red, value=-1.0)
    # numerator of the hue in sixths: g - b near red, 2c + b - r near green, 4c + r - g near blue
    sixths = torch.sub(red, green).add_(chroma, alpha=4.0)
    near_green = torch.sub(blue, red).add_(chroma, alpha=2.0).sub_(sixths)
    near_red = torch.sub(green, blue).sub_(sixths)
    sixths.addcmul_(is_red, near_red).addcmul_(is_green, near_green)
    scratch = near_red  # memory is most of the cost
    turn = sixths.div_(torch.clamp_min(chroma, 1.0, out=scratch)).div_(6.0)
    hue = turn.sub_(torch.floor(turn, out=scratch)).mul_(255.0).floor_()
    hue.add_((shift * 255.0).trunc_())  # in whole steps, around the circle
    wraps = torch.mul(hue, 1 / 256.0, out=scratch).floor_()
    hue.sub_(wraps, alpha=256.0).mul_(6.0 / 255.0)
    saturation = chroma.mul_(255.0).div_(torch.clamp_min(top, 1.0, out=scratch)).floor_()
    chroma = saturation.mul_(top).div_(255.0)
    turned = torch.empty_like(pixels)
    for channel, centre in enumerate((3.0, 2.0, 4.0)):
        missing = torch.sub(hue, centre, out=scratch).abs_()
        if channel == 0:  # what of the chroma is missing: near the middle of the hues for red
            missing.neg_().add_(2.0)
        else:
            missing.sub_(1.0)
        torch.addcmul(
            top, chroma, missing.clamp_(0.0, 1.0), value=-1.0, out=turned.narrow(-3, channel, 1)
        )
    return turned.round_()


def _solarise(pixels: Tensor, threshold: float) -> Tensor:
    """Values from the threshold on are inverted."""
    bright = pixels.clone().ge_(255.0 * threshold)
    return torch.addcmul(pixels, bright, 255.0 - 2.0 * pixels)


def _per_image(values: Tensor) -> Tensor:  # [B] -> [B, 1, 1, 1]
    return values.view(-1, 1, 1, 1)
