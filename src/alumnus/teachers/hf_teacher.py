"""Models of transformers as teachers: `hf:ORG/NAME` or `hf:FOLDER`, the visual part of a CLIP too.

Code from a hub is never run, and nothing is asked of it for a model that is here.
"""

import inspect
import logging
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alumnus.images import IMAGENET_MEAN, IMAGENET_STD
from alumnus.teachers.base import Traits
from alumnus.teachers.reference import Preprocessing, one_side, reference_preprocessing
from alumnus.teachers.transformers_hub import fetched, transformers_package
from alumnus.tokens import Tokens

__all__ = ["HFNetwork", "hf_teacher"]

log = logging.getLogger(__name__)

UNUSED = re.compile(r"^pooler\.|^text_model\.")  # may be missing: no feature goes through it
MOST_PREFIX = 32  # [CLS], registers
SIZE_PX = 224  # where neither the model nor its processor states a size


class HFNetwork(nn.Module):
    """The final features of a model of transformers, as Tokens.

    Sequences begin with prefix tokens, of which the first is `cls`; without any, and for maps,
    `cls` is the pooled feature. CLIP's last norm, which transformers applies to the pooled token
    alone, is applied to all.
    """

    def __init__(self, model: nn.Module, patch_size: int | None, side_px: int) -> None:
        super().__init__()
        self.model: Any = model
        forward = inspect.signature(model.forward).parameters
        self.options = {k: True for k in ("interpolate_pos_encoding",) if k in forward}
        self.norm: nn.Module = nn.Identity()
        x, pooled = self._run(torch.zeros(1, 3, side_px, side_px))
        self.dim = int(x.shape[-1] if x.ndim == 3 else x.shape[1])
        if x.ndim == 3:
            side = _grid_side(x.shape[1], side_px, patch_size)
            self.patch_size, self.prefix = side_px // side, x.shape[1] - side * side
        else:
            self.patch_size, self.prefix = side_px // x.shape[-1], 0
        last_norm = getattr(model, "post_layernorm", None)
        if last_norm is not None and self.prefix and pooled is not None:
            normed = last_norm(x[:, 0])
            if torch.allclose(normed, pooled, atol=1e-4) and not torch.allclose(x[:, 0], pooled):
                self.norm = last_norm

    def forward(self, images: Tensor) -> Tokens:  # [B, 3, H, W]
        x, pooled = self._run(images)
        if x.ndim == 4:
            tokens = Tokens.from_map(x)
        else:
            x = self.norm(x)
            grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
            tokens = Tokens(x[:, self.prefix :], grid=grid)
            if self.prefix:
                return tokens._replace(cls=x[:, 0])
        return tokens._replace(
            cls=tokens.of("patch").mean(dim=1) if pooled is None else pooled.flatten(1)
        )

    def takes_any_size(self) -> bool:
        """Whether images of 4 x 6 steps of the patch give a grid of 4 x 6."""
        grid = (4, 6)
        try:
            x, _ = self._run(torch.zeros(1, 3, *(n * self.patch_size for n in grid)))
        except (RuntimeError, ValueError):  # transformers refuses in either way
            return False
        if x.ndim == 4:
            return tuple(x.shape[-2:]) == grid
        return int(x.shape[1]) - self.prefix == math.prod(grid)

    @torch.no_grad()
    def _run(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        output = self.model(pixel_values=images, **self.options)
        return output.last_hidden_state, getattr(output, "pooler_output", None)


def hf_teacher(place: str) -> tuple[nn.Module, Traits]:
    """The model in a folder or of a hub id, with the size and statistics of its processor.

    ValueError for what is no model of images, UnavailableError for one that cannot be fetched.
    """
    transformers = transformers_package()
    folder = Path(place).expanduser()
    place = str(folder) if folder.is_dir() else place
    load = partial(transformers.AutoModel.from_pretrained, output_loading_info=True)
    model, info = fetched(load, place)
    if lacking := sorted(name for name in info["missing_keys"] if not UNUSED.search(name)):
        more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
        raise ValueError(f"the weights of 'hf:{place}' do not fit: missing {lacking[0]}{more}")
    config = getattr(model.config, "vision_config", model.config)
    model = getattr(model, "vision_model", model).eval().float()
    stated = reference_preprocessing(f"hf:{place}")
    if stated is None:
        log.warning("hf:%s says no statistics of images: taken as ImageNet's (mean=, std=)", place)
        stated = Preprocessing(None, IMAGENET_MEAN, IMAGENET_STD, None)
    patch_size = one_side(getattr(config, "patch_size", None))
    size_px = stated.size_px or one_side(getattr(config, "image_size", None)) or SIZE_PX
    size_px -= size_px % (patch_size or 1)
    try:
        network = HFNetwork(model, patch_size, size_px)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"'hf:{place}' cannot teach from images: {why[:200]}") from error
    return network, Traits(
        dim=network.dim,
        patch_size=network.patch_size,
        token_types=("cls", "patch"),
        mean=stated.mean,
        std=stated.std,
        licence=_stated_licence(place),
        input_size=size_px,
        fixed_size=not network.takes_any_size(),
        reference=f"hf:{place}",
    )


def _grid_side(length: int, side_px: int, patch_size: int | None) -> int:
    """Patches along a side of a sequence with few prefix tokens; ValueError for another one.

    Hierarchical models end in a coarser grid than their patch's.
    """
    sides = [side_px // patch_size] if patch_size else []
    sides += [side for side in range(math.isqrt(length), 0, -1) if side_px % side == 0]
    for side in sides:
        if 0 <= length - side * side <= MOST_PREFIX:
            return side
    raise ValueError(f"its {length} tokens for {side_px} px are no square grid")


def _stated_licence(place: str) -> str:
    """What the model card states, where one is here."""
    card = Path(place) / "README.md"
    if not card.is_file():
        from huggingface_hub import try_to_load_from_cache

        found = None if Path(place).is_dir() else try_to_load_from_cache(place, "README.md")
        if not isinstance(found, str):
            return "unknown"
        card = Path(found)
    stated = dict(re.findall(r"^(license(?:_name)?):\s*(\S+)\s*$", card.read_text(), re.MULTILINE))
    name = stated.get("license", "unknown")
    return str(stated.get("license_name", name) if name == "other" else name)
