"""Networks in the LiteRT (TensorFlow Lite) format as teachers; they run on the host.

Any tensor inside the file can be the feature map: `litert:FILE#TENSOR`.
"""

import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alumnus import hub
from alumnus.spelling import unknown
from alumnus.teachers.base import Traits
from alumnus.tokens import Tokens

__all__ = ["LitertNetwork", "blazepose", "interpreter_class", "litert_teacher"]

BLAZEPOSE_MAP = "model_1/model/activation_3/Relu6;model_1/model/add_11/add"
STDERR = Lock()  # held while file descriptor 2 points elsewhere


class LitertNetwork(nn.Module):
    """One tensor of a LiteRT network, as patch tokens of each image.

    Interpreters are made on first use, one for each of torch's threads: they work on different
    images at once, each on one core. They do not travel to other processes, which make their own.
    """

    def __init__(self, file: Path, tensor: str) -> None:
        super().__init__()
        self.file, self.tensor = file, tensor
        self._idle: SimpleQueue[_Interpreter] = SimpleQueue()
        self._process = os.getpid()
        first = self._interpreter()
        self.input_size, self.map_shape = first.input_size, first.map_shape  # px; (h, w, D)
        self._idle.put(first)

    def forward(self, images: Tensor) -> Tokens:  # [B, 3, H, W], in the network's statistics
        pixels = images.detach().permute(0, 2, 3, 1).cpu().float().contiguous().numpy()
        h, w, dim = self.map_shape
        maps = np.empty((len(pixels), h, w, dim), np.float32)
        workers = max(1, min(torch.get_num_threads(), len(pixels)))

        def run_share(first: int) -> None:
            interpreter = self._interpreter()
            for i in range(first, len(pixels), workers):
                maps[i] = interpreter(pixels[i])
            self._idle.put(interpreter)

        if self._process != os.getpid():  # after a fork: interpreters of our own
            self._idle, self._process = SimpleQueue(), os.getpid()
        if workers == 1:
            run_share(0)
        else:
            with ThreadPoolExecutor(workers) as threads:
                list(threads.map(run_share, range(workers)))
        return Tokens(torch.from_numpy(maps).flatten(1, 2).to(images.device), grid=(h, w))

    def fingerprint(self) -> str:
        """Hash of the file, with the tensor that is read."""
        with self.file.open("rb") as file:
            return f"{hashlib.file_digest(file, 'sha256').hexdigest()}#{self.tensor}"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_idle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._idle, self._process = SimpleQueue(), os.getpid()

    def _interpreter(self) -> "_Interpreter":
        try:
            return self._idle.get_nowait()
        except Empty:  # asking first would let another thread take the last one in between
            return _Interpreter(self.file, self.tensor)


class _Interpreter:
    """One LiteRT interpreter, on one core, that keeps its intermediate tensors."""

    def __init__(self, file: Path, tensor: str) -> None:
        interpreter = interpreter_class()
        with _silence(), warnings.catch_warnings(action="ignore"):  # keeping tensors takes memory
            self.inner = interpreter(
                str(file), num_threads=1, experimental_preserve_all_tensors=True
            )
            self.inner.allocate_tensors()
        (image,) = self.inner.get_input_details()
        maps = {d["name"]: d for d in self.inner.get_tensor_details() if len(d["shape"]) == 4}
        if tensor not in maps:
            raise unknown(f"tensor of {file.name}", tensor, maps)
        self.image, self.tensor = int(image["index"]), int(maps[tensor]["index"])
        _, self.input_size, width, channels = (int(n) for n in image["shape"])
        if width != self.input_size or channels != 3:
            raise ValueError(
                f"{file.name} takes images of {self.input_size}x{width} px and {channels} "
                "channels, but a teacher needs squares in RGB"
            )
        h, w, dim = (int(n) for n in maps[tensor]["shape"][1:])
        self.map_shape = (h, w, dim)

    def __call__(self, pixels: "np.ndarray[Any, np.dtype[np.float32]]") -> Any:  # [h, w, D]
        self.inner.set_tensor(self.image, pixels[None])
        self.inner.invoke()
        return self.inner.get_tensor(self.tensor)[0]


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


def litert_teacher(file: Path, tensor: str) -> tuple[nn.Module, Traits]:
    """The 4-d tensor `tensor` of a LiteRT file that takes square RGB images in [-1, 1]."""
    network = LitertNetwork(file, tensor)
    return network, Traits(
        dim=network.map_shape[2],
        patch_size=network.input_size // network.map_shape[0],
        token_types=("patch",),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        runs_on="host",
        input_size=network.input_size,
        fixed_size=True,
    )


def blazepose(weights: Path) -> LitertNetwork:
    """MediaPipe's pose detector: its last map."""
    return LitertNetwork(weights, BLAZEPOSE_MAP)


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
