"""Released Multi-HMR checkpoints, read without executing anything from them."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from alumnus import hub
from alumnus.encoders import build_encoder
from alumnus.encoders.conversion import (
    encoder_from_reference,
    infer_encoder_spec,
    strip_wrappers,
)
from alumnus.heads.people.head import PeopleHead
from alumnus.heads.people.network import PeopleNetwork
from alumnus.heads.people.spec import PeopleSpec
from alumnus.pickles import load_pickle
from alumnus.strict import fill

__all__ = ["infer_people_spec", "load_multihmr"]

ENCODER = "backbone.encoder."
BODY_MODEL = "smpl_layer."  # licensed, and not part of the network
HEADS = 8  # unless the file tells
LAYERS = "x_attention_head.transformer.transformer.layers."


def load_multihmr(
    path: str | Path, *, num_heads: int | None = None, camera_max_resolution: int = 64
) -> PeopleNetwork:
    """Multi-HMR: DINOv2 backbone and head, in eval mode on the CPU; no body model.

    `path` is the authors' `.pt`, a URL or `hf:ORG/REPO/FILE`. Sizes come from the tensors, the
    number of the regressor's heads from the file's arguments; `num_heads`, of the backbone, is
    needed only where a head is not 64 wide, `camera_max_resolution` only where it is not the
    published one. ValueError, one sentence, for anything else.
    """
    file = hub.resolve_weights(path)
    assert file is not None, "a path was given"
    loaded = load_pickle(file)
    named = loaded.get("model_state_dict") if isinstance(loaded, Mapping) else None
    if not isinstance(named, Mapping):
        raise ValueError(f"{file} is not a checkpoint of Multi-HMR: no 'model_state_dict'")
    args = loaded.get("args")
    heads = getattr(args, "xat_num_heads", HEADS) if isinstance(args, argparse.Namespace) else HEADS
    state = {k: v for k, v in strip_wrappers(named).items() if not k.startswith(BODY_MODEL)}
    backbone = {k.removeprefix(ENCODER): v for k, v in state.items() if k.startswith(ENCODER)}
    rest = {k: v for k, v in state.items() if not k.startswith(ENCODER)}
    backbone = encoder_from_reference(backbone)
    try:
        encoder_spec = infer_encoder_spec(backbone, num_heads=num_heads, layer_scale=1.0)
        spec = infer_people_spec(
            rest,
            patch_size=encoder_spec.patch_size or 0,
            heads=heads,
            camera_max_resolution=camera_max_resolution,
        )
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    with torch.device("meta"):  # no memory for weights that are replaced
        encoder, head = build_encoder(encoder_spec), PeopleHead(spec)
    fill(encoder, backbone, what=f"the backbone's weights in {file}", assign=True)
    fill(head, rest, what=f"the weights of the head in {file}", assign=True)
    return PeopleNetwork(encoder.float(), head.float()).eval()


def infer_people_spec(
    state: Mapping[str, Tensor],  # the released names, without the backbone's
    *,
    patch_size: int,
    heads: int,  # of the regressor
    camera_max_resolution: int,
) -> PeopleSpec:
    """The spec of the head these tensors belong to; ValueError for other tensors."""

    def size(name: str, axis: int) -> int:
        return state[f"x_attention_head.{name}"].shape[axis]

    try:
        dim = state["mlp_classif.0.weight"].shape[1]
        context, inner = size("cross_queries_x", 1), state[f"{LAYERS}0.1.fn.to_q.weight"].shape[0]
        return PeopleSpec(
            dim=dim,
            patch_size=patch_size,
            grid=size("cross_queries_x", 0),
            camera_bands=(context - dim - 3) // 6,
            camera_max_resolution=camera_max_resolution,
            rotations=size("init_body_pose", 1) // 6,
            betas=size("init_betas", 1),
            kid_betas=size("init_betas_kid", 1),
            expressions=size("init_expression", 1),
            width=size("decpose.weight", 1),
            depth=len({k.split(".")[4] for k in state if k.startswith(LAYERS)}),
            heads=heads,
            head_dim=inner // heads,
            mlp_dim=state[f"{LAYERS}0.2.fn.net.0.weight"].shape[0],
        )
    except KeyError as error:
        raise ValueError(f"these are not the weights of Multi-HMR: no tensor {error}") from error
