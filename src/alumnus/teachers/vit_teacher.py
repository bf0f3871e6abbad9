"""Published ViTs from the files of their authors, as our ViT."""

from dataclasses import replace
from pathlib import Path

import torch

from alumnus import hub
from alumnus.encoders import EncoderSpec, ViT
from alumnus.encoders.official import encoder_from_official
from alumnus.strict import fill

__all__ = ["vit_network"]


def vit_network(spec: EncoderSpec, name: str, weights: Path, *, within: str = "") -> ViT:
    """The ViT `spec` with the tensors of an official file, or of timm's file of the same model.

    `within` begins the names of its tensors in the file of a larger network.
    Strict: each tensor is used or belongs to a classifier or text tower. ValueError, one
    sentence that names tensors, for a file of anything else.
    """
    held = hub.read_state_dict(weights)
    own = {name.removeprefix(within): x for name, x in held.items() if name.startswith(within)}
    state = encoder_from_official(own)
    with torch.device("meta"):  # no memory for weights that are replaced
        network = ViT(replace(spec, mask_token="mask_token" in state))
    what = f"the weights of {name} in {str(weights)!r}"
    return fill(network, state, what=what, assign=True).float()
