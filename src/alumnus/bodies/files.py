"""What was found in a photograph, in files: numbers as JSON, meshes as .obj or .npz.

Metres in the camera's frame, x right, y down, z ahead; in .obj y is up and z towards the viewer, as
programs for meshes have it.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alumnus.bodies.finding import FoundPeople
from alumnus.heads.people.rotations import rotvec_from_matrix
from alumnus.text_files import write_text

__all__ = ["MESHES", "as_json", "write_mesh"]

ABOUT = (
    "pixels (x, y) are counted from the corner of the photograph, so the middle of the first one "
    "is 0.5, 0.5; metres in the camera's frame, x right, y down, z ahead; rotations: axis times "
    "angle in radians, the root's first"
)
MESHES = ("obj", "npz", "none")
DIGITS = 5


def as_json(found: FoundPeople, *, model: str) -> str:
    """Everything but the vertices; rotations as vectors, axis times angle in radians."""
    people = [_person(found, i) for i in range(len(found))]
    values = {
        "about": ABOUT,
        "image": found.name,
        "size": list(found.size),
        "model": model,
        "body": None if found.body is None else found.body.name,
        "K": _numbers(found.K),
        "people": people,
    }
    spread = json.dumps(values, indent=1)
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", _on_one_line, spread) + "\n"


def _person(found: FoundPeople, i: int) -> dict[str, Any]:
    values: dict[str, Any] = {
        "score": round(float(found.scores[i]), DIGITS),
        "location": _numbers(found.location[i]),
        "translation": _numbers(found.translation[i]),
        "rotations": _numbers(rotvec_from_matrix(found.rotations[i])),
        "shape": _numbers(found.shape[i]),
        "expression": _numbers(found.expression[i]),
    }
    pixels = found.joint_pixels
    if found.body is not None and found.points is not None and pixels is not None:
        values["joints"] = {
            name: {"pixel": _numbers(pixels[i, j]), "metres": _numbers(found.points.joints[i, j])}
            for j, name in enumerate(found.body.joints)
        }
    return values


def write_mesh(found: FoundPeople, path: Path) -> Path:
    """Everyone's surface in one file, by its ending; a body model is asked for."""
    assert found.body is not None, "there are meshes"
    assert found.points is not None, "there are meshes"
    vertices = found.points.vertices.numpy()  # [P, V, 3]
    faces = found.body.faces
    if path.suffix == ".npz":
        path.parent.mkdir(parents=True, exist_ok=True)
        joints = found.points.joints.numpy()
        np.savez_compressed(path, vertices=vertices, faces=faces, joints=joints)
        return path
    lines = ["# metres; y up, z towards the viewer"]
    for i, body in enumerate(vertices):
        lines.append(f"o person-{i + 1}")
        lines += [f"v {x:.4f} {-y:.4f} {-z:.4f}" for x, y, z in body]
        lines += [f"f {a} {b} {c}" for a, b, c in faces + 1 + i * len(body)]
    return write_text(path, "\n".join(lines) + "\n")


def _on_one_line(numbers: re.Match[str]) -> str:
    return f"[{' '.join(numbers[1].split())}]"


def _numbers(values: Tensor) -> Any:
    """Nested lists, rounded: float32 has no more to say."""
    return np.round(values.double().numpy(), DIGITS).tolist()
