"""Full-size weights made from the names of tensors, and what networks with them must give.

The recipe is that of `threed/h_fullsize_procedural.json`, which also says which inputs to take.
"""

import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golden_files import ROOT

TOLERANCE = 1e-4  # of the fixture; its noise is 2e-6
ALIAS = re.compile(r"(.*\.scratch\.)layer(\d)_rn\.weight")
SMALL = ("cls_token", "mask_token", "register_tokens", "pos_embed", "pos_embedding")


def procedural(model: str) -> dict[str, Any]:
    """What the fixture says about a model: its input and, by name, some numbers of its outputs."""
    every: dict[str, Any] = json.loads((ROOT / "threed" / "h_fullsize_procedural.json").read_text())
    return dict(every[model])


def procedural_state(shapes: Mapping[str, tuple[list[int], str]]) -> dict[str, Tensor]:
    """The weights of a manifest's tensors."""
    state: dict[str, Tensor] = {}
    for name, (shape, _) in shapes.items():
        alias = ALIAS.fullmatch(name)
        seeding = f"{alias[1]}layer_rn.{int(alias[2]) - 1}.weight" if alias else name
        state[name] = state[seeding] if seeding in state else _tensor(seeding, shape)
    return state


def _tensor(name: str, shape: list[int]) -> Tensor:
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.split(".")[-1]
    if last == "gamma":
        x = 0.5 + 0.1 * x
    elif last == "std":
        x = 1 + 0.1 * np.abs(x)
    elif last in SMALL or last.startswith(("init_", "cross_")):
        x = 0.1 * x
    elif len(shape) == 1:
        x = 1 + 0.1 * x if last == "weight" else 0.05 * x
    else:
        x = x / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy((0.1 * x if ".dpt.head.4." in name else x).astype(np.float32))


def procedural_images(described: Mapping[str, Any]) -> list[Tensor]:
    """The uniform images of a description; a later one may have the shape of the first."""
    texts = [text for key, text in described.items() if key.startswith("img")]
    found = re.search(r"\((\d+(?:,\d+)*)\)\) as float32", texts[0])
    assert found is not None
    shape = tuple(map(int, found[1].split(",")))
    seeds = [re.search(r"RandomState\((\d+)\)\.uniform", text) for text in texts]
    return [
        torch.from_numpy(np.random.RandomState(int(s[1])).uniform(-1, 1, shape).astype(np.float32))
        for s in seeds
        if s is not None
    ]


def compare_procedural(ours: Tensor, expected: Mapping[str, Any]) -> None:
    """Shape, mean, deviation, largest value and a few values equal those of the fixture."""
    assert list(ours.shape) == expected["shape"]
    values = ours.flatten()[torch.tensor(expected["flat_index"])]
    stated = [expected["mean"], expected["std"], expected["absmax"], *expected["values"]]
    found = [ours.mean(), ours.std(correction=0), ours.abs().max(), *values]
    theirs = torch.tensor(stated)
    torch.testing.assert_close(torch.stack(found), theirs, atol=TOLERANCE, rtol=TOLERANCE)
