"""The data DUNE was trained on, for recipes and tests: names, domains, sizes.

Source: DUNE (arXiv 2503.14405) and its released settings.
"""

from typing import NamedTuple

__all__ = ["DUNE_SOURCES", "PublishedSource"]


class PublishedSource(NamedTuple):
    """One of the nineteen sources."""

    domain: str  # the teacher whose data it is
    train_images: int
    val_images: int


DUNE_SOURCES: dict[str, PublishedSource] = {  # in the released order
    "in19k": PublishedSource("dino2", 13_153_480, 0),
    "gldv2": PublishedSource("dino2", 4_132_914, 117_577),
    "mapillarystreet": PublishedSource("dino2", 1_205_907, 23_943),
    "ARKitScenesV2": PublishedSource("mast3r", 456_108, 5_307),
    "BlendedMVS": PublishedSource("mast3r", 98_937, 5_094),
    "Co3d_v3": PublishedSource("mast3r", 185_100, 5_000),
    "DL3DV": PublishedSource("mast3r", 208_800, 5_000),
    "Habitat512": PublishedSource("mast3r", 284_965, 5_035),
    "MegaDepthDense": PublishedSource("mast3r", 36_949, 3_682),
    "Niantic": PublishedSource("mast3r", 41_300, 4_600),
    "ScanNetppV2": PublishedSource("mast3r", 60_188, 5_031),
    "TartanAir": PublishedSource("mast3r", 136_225, 10_000),
    "Unreal4K": PublishedSource("mast3r", 14_386, 1_988),
    "VirtualKitti": PublishedSource("mast3r", 1_200, 300),
    "WildRgb": PublishedSource("mast3r", 224_400, 5_000),
    "bedlam": PublishedSource("multihmr", 353_116, 31_381),
    "agora": PublishedSource("multihmr", 14_314, 1_225),
    "cuffs": PublishedSource("multihmr", 54_944, 0),
    "ubody": PublishedSource("multihmr", 54_234, 2_016),
}
