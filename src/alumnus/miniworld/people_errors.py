"""How far predicted miniworld people are off, one person to a picture.

Axes: P people, J joints, V vertices.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from alumnus.evaluation.human_metrics import match_people, mpjpe_mm, pa_mpjpe_mm, pa_pve_mm, pve_mm
from alumnus.evaluation.joints import Pairs, pck
from alumnus.heads.people.losses import Bodies
from alumnus.miniworld.body import JOINTS

__all__ = ["TORSO", "count_detections", "people_errors", "precision_and_recall"]

_NAMES = [name for name, _ in JOINTS]
_SCORED = range(1, len(JOINTS))  # the pelvis is where both are centred
TORSO: Pairs = tuple(
    (_NAMES.index(f"shoulder_{one}"), _NAMES.index(f"hip_{other}"))
    for one, other in (("left", "right"), ("right", "left"))
)


def people_errors(
    found: Bodies, truth: Bodies, visible: Tensor, *, side_px: int
) -> Mapping[str, float]:  # visible [P, J] bool
    """Means over people, in the order of a card's table.

    PVE and MPJPE (of the other joints) relative to the pelvis, PA-PVE and PA-MPJPE after the best
    similarity, the distance of the pelvis, all in mm; of visible joints PCK (within 0.2 torso
    lengths, in percent) and the mean distance in pixels.
    """
    per_person = []
    both = [(b.pelvis, b.joints, b.vertices) for b in (found, truth)]
    for pelvis, joints, vertices, true_pelvis, true_joints, true_vertices in zip(
        *(points.double().numpy() for of_one in both for points in of_one), strict=True
    ):
        per_person.append(
            (
                pve_mm(vertices, true_vertices, pelvis=pelvis, true_pelvis=true_pelvis),
                pa_pve_mm(vertices, true_vertices),
                mpjpe_mm(joints, true_joints, scored=_SCORED),
                pa_mpjpe_mm(joints, true_joints, scored=_SCORED),
                1000 * float(np.linalg.norm(pelvis - true_pelvis)),
            )
        )
    names = ("pve_mm", "pa_pve_mm", "mpjpe_mm", "pa_mpjpe_mm", "pelvis_mm")
    seen = torch.cat([truth.joint_pixels / side_px, visible[..., None]], dim=-1)
    sizes = torch.full((len(seen), 2), float(side_px))
    flat = pck(found.joint_pixels / side_px, seen, sizes, torso=TORSO)
    means = dict(zip(names, np.mean(per_person, axis=0).tolist(), strict=True))
    return {**means, "pck": flat.pck, "joints_px": flat.mean_error_px}


def count_detections(
    pixels: Tensor,  # [P, J, 2] of everyone who was detected
    image: Tensor,  # [P] in which picture
    truth: Tensor,  # [B, J, 2] of the one person of each picture
) -> Tensor:  # [3]
    """How many detections are right and how many wrong, and how many people are missed."""
    counts = torch.zeros(3)
    for i in range(len(truth)):
        met = match_people(pixels[image == i], truth[i : i + 1])
        counts += torch.tensor([len(met.matches), len(met.false_positives), len(met.misses)])
    return counts


def precision_and_recall(counts: Tensor) -> dict[str, float]:
    """Percentages of what `count_detections` counts."""
    right, wrong, missed = counts.tolist()
    return {
        "precision": 100 * right / max(right + wrong, 1),
        "recall": 100 * right / max(right + missed, 1),
    }
