"""Any timm model as an encoder: ViTs, hierarchical transformers, CNNs."""

import inspect
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from alumnus.encoders.base import Encoder, check_blocks, check_images
from alumnus.encoders.spec import EncoderSpec
from alumnus.images import renormalise
from alumnus.spelling import unknown
from alumnus.tokens import EncoderOutput, Tokens

__all__ = ["TimmEncoder", "timm_settings"]


class TimmEncoder(Encoder):
    """A timm model behind the encoder interface; its blocks are timm's feature stages.

    - `final`: the model's own final features; `cls` is its class token, without one the pooled
      feature (where pooling widens it, as in MobileNetV3, the mean over the final patches).
    - `prenorm`: the last stage before the final norm. A model that ends in more than a norm
      (the head convolution of EfficientNets) has no such thing: there it is `final`.
    - `blocks`: raw stage outputs, each with the grid and width of its stage.

    ViTs take any size that their patch divides (positions interpolated as timm does); others
    any size that their last stride divides.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        name = spec.model.removeprefix("timm:")
        self.spec = spec
        self.model = _create(name, spec)
        info = _feature_info(self.model, name)
        self.block_dims = tuple(int(stage["num_chs"]) for stage in info)
        self.dim = int(self.model.num_features)
        self.patch_size = int(info[-1]["reduction"])
        self.in_channels, self.image_size = spec.in_channels, spec.image_size
        self.num_heads = _head_count(self.model, self.dim)
        self.num_prefix_tokens = int(getattr(self.model, "num_prefix_tokens", 0))
        self.has_cls = getattr(self.model, "cls_token", None) is not None
        head_width = getattr(self.model, "head_hidden_size", self.dim)
        self.pools = hasattr(self.model, "forward_head") and head_width == self.dim
        self._try(name)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks again in the backward pass, where timm can."""
        self.model.set_grad_checkpointing(enable)

    @property
    def units(self) -> list[nn.Module]:
        """What is sharded by itself: the blocks of a ViT, the stages of others."""
        held = getattr(self.model, "blocks", getattr(self.model, "stages", []))
        return list(held)

    def forward(self, images: Tensor, *, blocks: Sequence[int] = ()) -> EncoderOutput:
        check_images(images, in_channels=self.in_channels, patch_size=self.patch_size)
        check_blocks(blocks, self.depth)
        images = renormalise(images, mean=self.spec.mean, std=self.spec.std)
        last = self.depth - 1
        wanted = sorted({*blocks, last})
        prefix: dict[str, bool] = {"return_prefix_tokens": True} if self.num_prefix_tokens else {}
        x, stages = self.model.forward_intermediates(images, indices=wanted, **prefix)
        outputs = dict(zip(wanted, map(self._stage, stages), strict=True))
        final = self._final(x, outputs[last])
        prenorm = outputs[last] if outputs[last].of("patch").shape[-1] == self.dim else final
        return EncoderOutput(
            final=final, prenorm=prenorm, blocks={index: outputs[index] for index in blocks}
        )

    @torch.no_grad()
    def _try(self, name: str) -> None:
        """ValueError now, in one sentence, for a family that does not fit the interface."""
        image = torch.zeros(1, self.in_channels, self.image_size, self.image_size)
        side = self.image_size // self.patch_size
        was_training = self.training
        try:
            final = self.eval()(image, blocks=range(self.depth)).final
            if final.grid != (side, side) or final.of("patch").shape[-1] != self.dim:
                raise ValueError(f"its features are {final.grid}, not {side}x{side}")
        except (ValueError, TypeError, RuntimeError, AssertionError, IndexError) as error:
            raise ValueError(
                f"timm model {name!r} cannot be a student at {self.image_size} px: {error}"
            ) from error
        self.train(was_training)

    def _stage(self, stage: Tensor | tuple[Tensor, Tensor]) -> Tokens:
        """[B, D, h, w], for models with prefix tokens with [B, P, D] besides."""
        if isinstance(stage, Tensor):
            return Tokens.from_map(stage, stage.mean(dim=(2, 3)))
        features, prefix = stage
        return self._with_prefix(Tokens.from_map(features), prefix)

    def _with_prefix(self, patches: Tokens, prefix: Tensor) -> Tokens:
        if not self.has_cls:
            return patches._replace(cls=patches.of("patch").mean(dim=1), registers=prefix)
        return patches._replace(
            cls=prefix[:, 0], registers=prefix[:, 1:] if prefix.shape[1] > 1 else None
        )

    def _final(self, x: Tensor, last: Tokens) -> Tokens:
        """timm's final features: [B, P + N, D], [B, D, h, w] or (Swin) [B, h, w, D]."""
        if x.ndim == 3:
            tokens = Tokens(patches=x[:, self.num_prefix_tokens :], grid=last.grid)
            if self.has_cls:
                return self._with_prefix(tokens, x[:, : self.num_prefix_tokens])
            if self.num_prefix_tokens:
                tokens = tokens._replace(registers=x[:, : self.num_prefix_tokens])
        else:
            channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            tokens = Tokens.from_map(x.permute(0, 3, 1, 2) if channels_last else x)
        return tokens._replace(cls=self._pool(x, tokens.of("patch")))

    def _pool(self, x: Tensor, patches: Tensor) -> Tensor:  # [B, D]
        if not self.pools:
            return patches.mean(dim=1)
        pooled: Tensor = self.model.forward_head(x, pre_logits=True)
        return pooled.flatten(1)


def timm_settings(spec: EncoderSpec) -> dict[str, Any]:
    """What `timm.create_model` is told besides the name: no classifier, sizes where it knows them.

    ValueError for an unknown model, or drop path where the family has none.
    """
    name = spec.model.removeprefix("timm:")
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    with torch.device("meta"):  # to see, at no cost, which settings this family has
        family = type(timm.create_model(name, num_classes=0))
    known = {  # subclasses hand on what they do not name
        key
        for base in family.__mro__
        if "__init__" in vars(base)
        for key in inspect.signature(vars(base)["__init__"]).parameters
    }
    settings: dict[str, Any] = {
        "img_size": spec.image_size,
        "dynamic_img_size": True,
        "strict_img_size": False,  # Swin
        "drop_path_rate": spec.drop_path,
    }
    if spec.drop_path and "drop_path_rate" not in known:
        raise ValueError(f"timm model {name!r} has no drop path, but drop_path is {spec.drop_path}")
    chosen = {key: value for key, value in settings.items() if key in known} | dict(spec.options)
    return {"num_classes": 0, "in_chans": spec.in_channels, **chosen}


def _create(name: str, spec: EncoderSpec) -> Any:
    """The timm model, with its published weights where they are wanted."""
    settings = timm_settings(spec)
    try:
        return timm.create_model(name, pretrained=spec.pretrained, **settings)
    except TypeError as error:
        raise ValueError(f"timm model {name!r} refuses an option: {error}") from error
    except (OSError, RuntimeError) as error:
        if not spec.pretrained:
            raise
        raise ValueError(f"the published weights of {name!r} are not to be had: {error}") from error


def _feature_info(model: nn.Module, name: str) -> list[dict[str, Any]]:
    """timm's list of feature stages (width and stride of each)."""
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise ValueError(f"timm model {name!r} cannot be a student: it gives no stage features")
    return list(getattr(info, "info", info))


def _head_count(model: nn.Module, dim: int) -> int:
    """Heads of the model's attention, without any 64-wide ones (the most that divide)."""
    blocks = getattr(model, "blocks", None)
    attention = getattr(blocks[0], "attn", None) if isinstance(blocks, nn.Sequential) else None
    heads = getattr(attention, "num_heads", None)
    if isinstance(heads, int) and dim % heads == 0:
        return heads
    return max(n for n in range(1, max(1, dim // 64) + 1) if dim % n == 0)
