"""Small teachers and files of weights, made on the spot."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alumnus.teachers import GridPolicy, Teacher, Traits
from alumnus.tokens import Tokens


class PatchMean(nn.Module):
    """Patch tokens: a fixed linear map of the mean colour of each patch; cls: their mean."""

    def __init__(self, *, dim: int = 6, patch_size: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.dim, self.patch_size = dim, patch_size
        weights = torch.randn(dim, 3, generator=torch.Generator().manual_seed(seed))
        self.weights = nn.Parameter(weights)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tokens:
        self.seen.append(images)
        colours = nn.functional.avg_pool2d(images, self.patch_size)
        features = torch.einsum("dc,bchw->bdhw", self.weights, colours)
        return Tokens.from_map(features, features.mean(dim=(2, 3)))


def patch_mean_factory() -> nn.Module:
    """For `python:tiny_teachers:patch_mean_factory`."""
    return PatchMean()


def patch_mean_teacher(
    name: str = "colours",
    *,
    grid: GridPolicy = "auto",
    dim: int = 6,
    patch_size: int = 8,
    input_size: int | None = 32,
    fixed_size: bool = False,
    seed: int = 0,
) -> Teacher:
    """A teacher that takes a millisecond."""
    traits = Traits(
        dim=dim,
        patch_size=patch_size,
        token_types=("cls", "patch"),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        input_size=input_size,
        fixed_size=fixed_size,
    )
    network = PatchMean(dim=dim, patch_size=patch_size, seed=seed)
    return Teacher(network, traits, name=name, grid=grid)


def write_tiny_litert(path: Path, *, side_px: int = 8) -> Path:
    """A LiteRT file: image -> "inner/Relu" -> its negative, "out", and "flat", a vector."""
    flatbuffers = importlib.import_module("flatbuffers")  # optional, with ai-edge-litert
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")

    def tensor(name: str, *shape: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape = name, [1, *(shape or (side_px, side_px, 3))]
        made.type, made.buffer = schema.TensorType.FLOAT32, 0
        return made

    def code(builtin: int) -> Any:
        made = schema.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = builtin
        made.version = 1
        return made

    def operator(code_index: int, source: int, target: int) -> Any:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code_index, [source], [target]
        return made

    graph = schema.SubGraphT()
    flat = 3 * side_px**2
    graph.tensors = [tensor("image"), tensor("inner/Relu"), tensor("out"), tensor("flat", flat)]
    graph.inputs, graph.outputs = [0], [2, 3]
    reshape = operator(2, 1, 3)
    reshape.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    reshape.builtinOptions = schema.ReshapeOptionsT()
    reshape.builtinOptions.newShape = [1, flat]
    graph.operators = [operator(0, 0, 1), operator(1, 1, 2), reshape]
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    builtin = schema.BuiltinOperator
    model.operatorCodes = [code(b) for b in (builtin.RELU, builtin.NEG, builtin.RESHAPE)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
