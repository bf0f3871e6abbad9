"""Networks in the LiteRT (TensorFlow Lite) format as teachers; they run on the host.

Any tensor inside the file can be the features, a map, a sequence or a vector: `litert:FILE#TENSOR`.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from torch import nn

from alumnus import hub
from alumnus.spelling import unknown
from alumnus.teachers.base import Traits
from alumnus.teachers.exported import ExportedNetwork, Floats, exported_traits

__all__ = ["LitertInterpreter", "blazepose", "interpreter_class", "litert_teacher"]

BLAZEPOSE_MAP = "model_1/model/activation_3/Relu6;model_1/model/add_11/add"
STDERR = Lock()  # held while file descriptor 2 points elsewhere


def litert_teacher(file: Path, tensor: str) -> tuple[nn.Module, Traits]:
    """The tensor `tensor` of a LiteRT file that takes square RGB images in [-1, 1]."""
    network = ExportedNetwork(file, tensor, LitertInterpreter)
    return network, exported_traits(network, half=True)


def blazepose(weights: Path) -> ExportedNetwork:
    """MediaPipe's pose detector: its last map."""
    return ExportedNetwork(weights, BLAZEPOSE_MAP, LitertInterpreter)


def interpreter_class() -> Any:
    """LiteRT's interpreter, an optional dependency."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("ai_edge_litert"):
            raise
        raise hub.UnavailableError(
            "LiteRT teachers such as blazepose need ai-edge-litert: pip install 'alumnus[litert]'"
        ) from error
    return Interpreter


class LitertInterpreter:
    """One LiteRT interpreter, on one core, that keeps its intermediate tensors."""

    def __init__(self, file: Path, tensor: str) -> None:
        interpreter = interpreter_class()
        with _silence(), warnings.catch_warnings(action="ignore"):  # keeping tensors takes memory
            self.inner = interpreter(
                str(file), num_threads=1, experimental_preserve_all_tensors=True
            )
            self.inner.allocate_tensors()
        (image,) = self.inner.get_input_details()
        found = {d["name"]: d for d in self.inner.get_tensor_details() if _is_of_image(d["shape"])}
        if tensor not in found:
            raise unknown(f"tensor of {file.name}", tensor, found)
        self.image, self.tensor = int(image["index"]), int(found[tensor]["index"])
        _, height, width, channels = (int(n) for n in image["shape"])
        if width != height or channels != 3:
            raise ValueError(
                f"{file.name} takes images of {height}x{width} px and {channels} channels, but a "
                "teacher needs squares in RGB"
            )
        self.input_size: int | None = height
        self.beside: tuple[Path, ...] = ()

    def __call__(self, pixels: Floats) -> Floats:  # [3, H, W]
        self.inner.set_tensor(self.image, np.ascontiguousarray(pixels.transpose(1, 2, 0))[None])
        self.inner.invoke()
        found: Floats = self.inner.get_tensor(self.tensor)[0]
        return found


def _is_of_image(shape: Sequence[int]) -> bool:
    """Whether it can be a map, a sequence or, where its first axis is the batch, a vector."""
    return len(shape) in (3, 4) or (len(shape) == 2 and shape[0] == 1)


@contextmanager
def _silence() -> Iterator[None]:
    """LiteRT tells stderr which delegate it made, past Python: for this long nothing is shown.

    Errors are exceptions, so none is hidden. One thread at a time, or stderr would stay shut.
    """
    with STDERR, Path(os.devnull).open("w") as nowhere:
        sys.stderr.flush()
        held = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(held, 2)
            os.close(held)
