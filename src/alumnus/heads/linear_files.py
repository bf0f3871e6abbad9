"""Linear heads in files: DINOv2's layout, read without executing anything, and written."""

from pathlib import Path

import torch
from torch import Tensor

from alumnus import hub
from alumnus.heads.linear import LinearHead
from alumnus.strict import fill
from alumnus.tensor_files import write_tensors

__all__ = ["load_linear_head", "save_linear_head"]

PREFIX = "decode_head."
COUNTER = "bn.num_batches_tracked"


def load_linear_head(path: str | Path) -> LinearHead:
    """The head of a `.pth` or `.safetensors` file, in evaluation mode; its sizes are the file's.

    The layout is that of DINOv2's released segmentation heads: a `state_dict` with
    `decode_head.bn.*` and `decode_head.conv_seg.*`; tensors of a backbone beside them are left
    out. Heads of UNIC for ADE20K are taken to be alike; such a file was not seen. `path` may be a
    URL or `hf:ORG/REPO/FILE`. ValueError, one sentence, for anything else.
    """
    file = hub.resolve_weights(path)
    assert file is not None, "a path was given"
    state = hub.read_state_dict(file)
    held = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    weight = held.get("conv_seg.weight")
    if weight is None or weight.ndim != 4 or tuple(weight.shape[2:]) != (1, 1):
        raise ValueError(
            f"{str(path)!r} is no linear head: it holds no {PREFIX}conv_seg.weight of a 1x1 "
            "convolution"
        )
    head = LinearHead(weight.shape[1], weight.shape[0])
    held.setdefault(COUNTER, torch.zeros((), dtype=torch.int64))
    return fill(head, held, what=f"the tensors of the head in {str(path)!r}").float()


def save_linear_head(head: LinearHead, path: str | Path) -> None:
    """Write a head in DINOv2's layout: `.pth` with a `state_dict`, or `.safetensors`."""
    path = Path(path)
    tensors: dict[str, Tensor] = {
        PREFIX + name: tensor.detach().cpu().contiguous()
        for name, tensor in head.state_dict().items()
    }
    if path.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"heads are written as .pth or .safetensors, so {path} needs that ending")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    if path.suffix == ".pth":
        torch.save({"state_dict": tensors}, partial)
    else:
        write_tensors(tensors, partial)
    partial.replace(path)
