"""Runs that take a second: teachers without weights, a student of 16 dimensions, few images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.tokens import EncoderOutput, Tokens
from image_files import write_folder
from tiny_teachers import PatchMean

RECIPE = """
student: {model: vit, dim: 16, depth: 2, num_heads: 2, patch_size: 8, drop_path: 0.3}
projector: {kind: ladder, hidden_dim: 8, last_hidden_dim: 8}
teachers:
  red: {model: "python:toys:red"}
  blue: {model: "python:toys:blue"}
data: {size: 16, workers: 0}
optim: {steps: 4, batch_size: 4, accumulate: 2, lr: 1e-2}
train: {device: cpu, threads: 1, log_every: 1}
"""


def red() -> nn.Module:
    """A teacher of [CLS] and patches, on the student's grid."""
    return PatchMean(dim=6, patch_size=8, seed=1)


def blue() -> nn.Module:
    """Another one, on a coarser grid."""
    return PatchMean(dim=4, patch_size=16, seed=2)


def fine() -> nn.Module:
    """One on a finer grid."""
    return PatchMean(dim=4, patch_size=4, seed=3)


def fixed() -> nn.Module:
    """One that takes 16 px only."""
    network = PatchMean(dim=4, patch_size=8, seed=4)
    network.input_size, network.fixed_size = 16, True  # type: ignore[assignment]
    return network


def host() -> nn.Module:
    """One that runs on the host."""
    network = PatchMean(dim=4, patch_size=8, seed=5)
    network.runs_on = "host"  # type: ignore[assignment]
    return network


class _Broken(PatchMean):
    def forward(self, images: Tensor) -> Tokens:
        tokens = super().forward(images)
        return Tokens(tokens.of("patch") * float("nan"), tokens.grid, tokens.of("cls"))


def broken() -> nn.Module:
    """One whose patches are never finite."""
    return _Broken(dim=4, patch_size=8, seed=6)


class _Allergic(PatchMean):
    def forward(self, images: Tensor) -> Tokens:
        tokens = super().forward(images)
        white = images.amin(dim=(1, 2, 3)) > 1.5
        patches = torch.where(white.view(-1, 1, 1), float("nan"), tokens.of("patch"))
        return Tokens(patches, tokens.grid, tokens.of("cls"))


def allergic() -> nn.Module:
    """One whose patches are not finite on a white picture."""
    return _Allergic(dim=6, patch_size=8, seed=6)


def vit() -> nn.Module:
    """One of blocks, some of whose tensors cannot be halved."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network: nn.Module = build_encoder(
            EncoderSpec(model="vit", dim=12, depth=3, num_heads=3, patch_size=8, image_size=16)
        )
    network.temperature = nn.Parameter(torch.tensor(1.0))  # as CLIP has one
    return network


class _Convolution(nn.Module):
    """A student with BatchNorm."""

    dim, block_dims, patch_size, num_heads = 16, (16,), 8, 2
    in_channels, image_size = 3, 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.BatchNorm2d(16))

    def forward(self, images: Tensor, *, blocks: Sequence[int] = ()) -> EncoderOutput:
        features = self.layers(images)
        tokens = Tokens.from_map(features, features.mean(dim=(2, 3)))
        return EncoderOutput(tokens, tokens, dict.fromkeys(blocks, tokens))


def convolution() -> nn.Module:
    """A convolution and BatchNorm, for `python:toys:convolution`."""
    return _Convolution()


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """The recipe as a file."""
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


def write_images(folder: Path, *, count: int = 24) -> Path:
    """A folder of images with two classes, each with a train and a test split."""
    names = [
        f"{split}/{cls}/{i:02d}.jpg"
        for split in ("train", "test")
        for cls in ("cats", "dogs")
        for i in range(count // 4)
    ]
    return write_folder(folder, names)
