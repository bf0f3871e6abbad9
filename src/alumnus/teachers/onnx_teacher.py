"""Networks in the ONNX format as teachers; they run on the host.

Any output or intermediate tensor can be the features: `onnx:FILE#TENSOR`.
"""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from alumnus import hub
from alumnus.spelling import unknown
from alumnus.teachers.base import Traits
from alumnus.teachers.exported import ANY_SIZE_PX, ExportedNetwork, Floats, exported_traits

__all__ = ["OnnxInterpreter", "onnx_teacher"]

NEXT_TO_IT = "session.model_external_initializers_file_folder_path"  # weights beside the file
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def onnx_teacher(file: Path, tensor: str) -> tuple[nn.Module, Traits]:
    """The tensor `tensor` of an ONNX file that takes RGB images in ImageNet's statistics.

    The images are one input, [1, 3, H, W] or [1, H, W, 3], the batch fixed to one or free. The
    tensor is a map (channels first or last), a sequence of tokens or a vector for each image.
    """
    network = ExportedNetwork(file, tensor, OnnxInterpreter)
    return network, exported_traits(network, half=False)


class OnnxInterpreter:
    """One session on one core, whose only output is the wanted tensor."""

    def __init__(self, file: Path, tensor: str) -> None:
        onnx, runtime = _packages()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        options.add_session_config_entry(NEXT_TO_IT, str(file.absolute().parent))
        model = onnx.load(file, load_external_data=False)
        _keep_only(model.graph, tensor, file, onnx)
        self.session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
            stated = ", ".join(f"{i.name} {i.shape} {i.type}" for i in inputs)
            raise ValueError(
                f"{file.name} takes {stated or 'nothing'}, but a teacher needs images [B, 3, H, W] "
                "or [B, H, W, 3] of floats and nothing else"
            )
        self.image, self.dtype = inputs[0].name, TYPES[inputs[0].type]
        batch, *shape = (n if isinstance(n, int) else None for n in inputs[0].shape)
        self.channels_last = shape[2] == 3 and shape[0] != 3
        height, width, channels = shape if self.channels_last else (*shape[1:], shape[0])
        if channels != 3 or height != width or batch not in (1, None):
            raise ValueError(
                f"{file.name} takes images {inputs[0].shape}, but a teacher needs single squares "
                "in RGB, or any size"
            )
        self.input_size: int | None = height
        self.beside = tuple(file.absolute().parent / name for name in _named_files(model, onnx))
        self.map_last = self._looks_channels_last()

    def __call__(self, pixels: Floats) -> Floats:  # [3, H, W]
        found = self._run(pixels)
        if found.ndim == 3 and not self.map_last:
            found = found.transpose(1, 2, 0)
        return np.ascontiguousarray(found, dtype=np.float32)

    def _run(self, pixels: Floats) -> Any:
        image = pixels.transpose(1, 2, 0) if self.channels_last else pixels
        (found,) = self.session.run(None, {self.image: image[None].astype(self.dtype)})
        return found[0]

    def _looks_channels_last(self) -> bool:
        """Maps of square images are square; where all three sides are equal, as the images."""
        side = self.input_size or ANY_SIZE_PX
        shape = self._run(np.zeros((3, side, side), np.float32)).shape
        if len(shape) != 3 or shape[0] == shape[1] == shape[2]:
            return bool(self.channels_last)
        return bool(shape[0] == shape[1])


def _keep_only(graph: Any, tensor: str, file: Path, onnx: Any) -> None:
    """Make the tensor the only output and drop the nodes that it does not need, in place."""
    made = {name for node in graph.node for name in node.output if name}
    if tensor not in made:
        raise unknown(f"tensor of {file.name}", tensor, made)
    del graph.output[:]
    graph.output.append(onnx.ValueInfoProto(name=tensor))  # its type is inferred
    needed, kept = {tensor}, []
    for node in reversed(graph.node):  # a node comes after those that it needs
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input) | _named_inside(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _named_files(model: Any, onnx: Any) -> list[str]:
    """Files with weights that the network names, each once, sorted."""
    helper = onnx.external_data_helper
    outside = [w for w in model.graph.initializer if helper.uses_external_data(w)]
    return sorted({helper.ExternalDataInfo(weights).location for weights in outside})


def _named_inside(node: Any) -> set[str]:
    """What the branches of an If or Loop take from outside (and their own names)."""
    graphs = [g for a in node.attribute for g in (a.g, *a.graphs)]
    inner = [n for graph in graphs for n in graph.node]
    outputs = {output.name for graph in graphs for output in graph.output}
    return outputs.union(*({*n.input} | _named_inside(n) for n in inner))


def _packages() -> tuple[Any, Any]:
    """onnx and onnxruntime, optional dependencies."""
    try:
        import onnx
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("onnx"):
            raise
        raise hub.UnavailableError(
            "ONNX teachers need onnx and onnxruntime: pip install 'alumnus[onnx]'"
        ) from error
    return onnx, onnxruntime
