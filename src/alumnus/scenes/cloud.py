"""Coloured points, and the .ply file that viewers open.

Axes: k points.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cloud", "read_ply", "write_ply"]

FIELDS = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
KINDS = {"<f4": "float", "u1": "uchar"}


class Cloud(NamedTuple):
    """Points of a scene."""

    points: NDArray[np.float32]  # [k, 3] metres, where the network learned those
    colours: NDArray[np.uint8]  # [k, 3]


def write_ply(cloud: Cloud, path: Path) -> None:
    """Write a binary .ply; a reader sees the old file or the new one, never half of it."""
    rows = np.empty(len(cloud.points), FIELDS)
    for column, (name, _) in enumerate(FIELDS):
        values = cloud.points if column < 3 else cloud.colours
        rows[name] = values[:, column % 3]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(rows)}",
        *(f"property {KINDS[kind]} {name}" for name, kind in FIELDS),
        "end_header\n",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes("\n".join(lines).encode() + rows.tobytes())
    partial.replace(path)


def read_ply(path: Path) -> Cloud:
    """The cloud of a file that `write_ply` wrote."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    if b"format binary_little_endian 1.0" not in head:
        raise ValueError(f"{path} is no point cloud of alumnus")
    rows = np.frombuffer(body, FIELDS)
    points = np.stack([rows[name] for name in "xyz"], axis=1)
    colours = np.stack([rows[name] for name in ("red", "green", "blue")], axis=1)
    return Cloud(points, colours)
