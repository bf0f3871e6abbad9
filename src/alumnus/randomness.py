"""Randomness is derived, never consumed: each draw is a function of (seed, step, purpose)."""

import hashlib

import torch
from torch import Tensor

__all__ = ["derive_seed", "draw_uniform", "seed_default_generators"]


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any number of integers and words; other parts give an unrelated one."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def draw_uniform(seed: int, step: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers in [0, 1), float32 on the CPU, the same on every rank."""
    generator = torch.Generator().manual_seed(derive_seed(seed, step, purpose))
    return torch.rand(shape, generator=generator)


def seed_default_generators(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's default generators, which layers such as drop path consume.

    Called in one place, at the start of each step, so that a resumed run draws the same.
    """
    torch.manual_seed(derive_seed(seed, step, "default generators", rank))
