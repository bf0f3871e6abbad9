"""timm models as teachers, among them EfficientNet-Lite with weights that need no hub."""

import inspect
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from alumnus import hub
from alumnus.spelling import unknown
from alumnus.teachers.base import Traits
from alumnus.teachers.chunks import in_chunks
from alumnus.tokens import Tokens

__all__ = ["TimmNetwork", "efficientnet_lite", "timm_licence", "timm_network", "timm_teacher"]

EXPENDABLE = {"head", "head_dist", "fc", "classifier", "mask_token", "masked_embed"}


class TimmNetwork(nn.Module):
    """The final features of a timm model without its classifier, as Tokens.

    `cls` is its class token; without one the pooled feature, where that has the width of the
    patches, else their mean.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        network: Any = model
        self.model = network
        self.dim = int(network.num_features)
        self.prefix = int(getattr(network, "num_prefix_tokens", 0))
        self.has_cls = getattr(model, "cls_token", None) is not None
        self.nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"
        head_width = getattr(model, "head_hidden_size", self.dim)
        self.pools = hasattr(model, "forward_head") and head_width == self.dim
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        self.patch_size = int(patch[0]) if patch else _stride(model)
        self.convolutional = not patch
        if self.convolutional:
            network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tokens:  # [B, 3, H, W]
        return in_chunks(self._tokens, images)

    def _tokens(self, images: Tensor) -> Tokens:
        if self.convolutional:
            images = images.contiguous(memory_format=torch.channels_last)
        x: Tensor = self.model.forward_features(images)
        if x.ndim == 3:  # [B, P + N, D]
            grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
            tokens = Tokens(patches=x[:, self.prefix :], grid=grid)
        else:  # [B, D, h, w], or [B, h, w, D]
            tokens = Tokens.from_map(x.permute(0, 3, 1, 2) if self.nhwc else x)
        return tokens._replace(cls=x[:, 0] if self.has_cls else self._pool(x, tokens))

    def last_layers(self, images: Tensor, count: int) -> Tokens:  # patches [B, N, count * D]
        """Patch tokens of the last blocks, each after the final norm; of ViTs only."""
        blocks = getattr(self.model, "blocks", ())
        if self.convolutional or self.nhwc or len(blocks) < count:
            raise ValueError(f"it has no {count} last blocks of one width before a norm")
        network: Any = self.model
        maps: list[Tensor] = network.forward_intermediates(
            images, indices=count, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return Tokens.from_map(torch.cat(maps, dim=1))

    def _pool(self, x: Tensor, tokens: Tokens) -> Tensor:  # [B, D]
        if not self.pools:
            return tokens.of("patch").mean(dim=1)
        pooled: Tensor = self.model.forward_head(x, pre_logits=True)
        return pooled.flatten(1)


def timm_teacher(name: str, *, weights: Path | None = None) -> tuple[nn.Module, Traits]:
    """The timm model `name` with its published weights, or those of a local file.

    The file holds plain tensors in timm's layout or one that timm itself converts; ValueError
    where they do not fit, UnavailableError where published ones cannot be fetched.
    """
    empty = _empty(name)
    config: dict[str, Any] = empty.pretrained_cfg
    dynamic = _is_dynamic(empty)
    network = timm_network(name, weights or _published(name, config))
    return network, Traits(
        dim=network.dim,
        patch_size=network.patch_size,
        token_types=("cls", "patch"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        licence=timm_licence(name),
        pos_interp="antialias" if dynamic else "none",  # timm's way: explicit size, antialiased
        input_size=int(config["input_size"][-1]),
        fixed_size=bool(config.get("fixed_input_size")) and not dynamic,
        reference=f"timm:{name}",
    )


def timm_licence(name: str) -> str:
    """What timm states for its own weights of a model."""
    published = timm.get_pretrained_cfg(name)
    return (published.license if published is not None else None) or "unknown"


def timm_network(name: str, weights: Path) -> TimmNetwork:
    """The timm model `name` with the weights of a file, taking any size where its family can."""
    empty = _empty(name)
    options: dict[str, Any] = {"num_classes": 0}
    if _is_dynamic(empty):
        options["dynamic_img_size"] = True
    return TimmNetwork(_with_weights(name, options, weights, empty))


def _empty(name: str) -> Any:
    """The timm model without memory: what its family is, at no cost."""
    if not timm.is_model(name):
        raise unknown("timm model", name, [*timm.list_models(), *timm.list_pretrained()])
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0)


def _is_dynamic(model: nn.Module) -> bool:
    return "dynamic_img_size" in inspect.signature(type(model).__init__).parameters


def efficientnet_lite(number: int, weights: Path) -> TimmNetwork:
    """EfficientNet-Lite 0, 1 or 2: pooled 1280-d feature and final map.

    The released state dict has timm's tensors in timm's order, under other names.
    """
    released = hub.read_state_dict(weights)
    model = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False)
    ours = model.state_dict()
    if [v.shape for v in ours.values()] != [v.shape for v in released.values()]:
        raise ValueError(
            f"the weights of efficientnet-lite{number} do not fit: other tensors than "
            "EfficientNet's"
        )
    model.load_state_dict(dict(zip(ours, released.values(), strict=True)))
    model.reset_classifier(0)
    return TimmNetwork(model)


def _published(name: str, config: dict[str, Any]) -> Path:
    """The file of timm's own weights, from the cache or the hub.

    Differs from timm's loading: nothing is asked of the hub for a file that is here.
    """
    if repo := config.get("hf_hub_id"):
        source = f"hf:{repo}/{config.get('hf_hub_filename') or 'model.safetensors'}"
    else:
        source = config.get("url") or ""
    if not source:
        raise hub.UnavailableError(f"timm model {name!r} has no published weights; give weights=")
    try:
        file = hub.resolve_weights(source)
    except hub.UnavailableError as error:
        raise hub.UnavailableError(f"{error}; connect once, or give weights=PATH") from error
    assert file is not None, "a source was given"
    return file


def _with_weights(name: str, options: dict[str, Any], path: Path, empty: Any) -> nn.Module:
    """The model with the weights of a file, in a layout that timm knows how to convert.

    Strict, but for what a network without classifier has no place for.
    """
    classifier = empty.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    unused = EXPENDABLE - {key.split(".")[0] for key in empty.state_dict()}
    state = {
        k: v
        for k, v in hub.read_state_dict(path).items()
        if not k.startswith(tuple(f"{head}." for head in heads)) and k.split(".")[0] not in unused
    }
    if not state:
        raise ValueError(f"the file of weights {str(path)!r} holds no tensors of a backbone")
    overlay = {"state_dict": state, "num_classes": 0, "label_offset": 0}
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the weights in {str(path)!r} do not fit timm model {name!r}: {reason[:160]}"
        ) from error
    model.pretrained_cfg.pop("state_dict", None)  # timm keeps a second copy of the weights there
    fitted: nn.Module = model
    return fitted


def _stride(model: Any) -> int:
    """Pixels per step of the final map."""
    info = getattr(model, "feature_info", None)
    if info is None:
        raise ValueError(f"timm model {type(model).__name__} does not say the stride of its map")
    return int(list(getattr(info, "info", info))[-1]["reduction"])
