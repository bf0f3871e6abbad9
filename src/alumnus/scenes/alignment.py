"""Many pairs of photographs, each in a frame and a size of its own, brought into one world.

Axes: n photographs, E answers of the network (two a pair, one with either photograph first), M
sampled pixels of a photograph, H W all its pixels. Poses are camera to world.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from torch import Tensor

from alumnus.evaluation.point_alignment import both_ways_similarity
from alumnus.scenes.pointmaps import Pointmaps, Seen

__all__ = ["Aligned", "align", "apart", "fused_points", "minimised", "turned_and_moved"]

SAMPLES = 1024  # pixels of a photograph that poses and scales are fitted to
SEED = 0
STEPS = 200  # of L-BFGS, at most
SMOOTH = 0.01  # of the median distance: below it errors count by their squares


class Aligned(NamedTuple):
    """Cameras in the world, which is the frame of the first one, and what each answer's unit is."""

    poses: Tensor  # [n, 4, 4] float64
    scales: Tensor  # [E], first `there`, then `back` of each pair; their geometric mean is 1
    error: float  # mean distance of a point from where all answers together see it


class Samples(NamedTuple):
    """Some pixels of all answers."""

    first: Tensor  # [E] number of the photograph in whose frame an answer is
    view: Tensor  # [2E] number of the photograph whose pixels a row shows
    points: Tensor  # [2E, M, 3] in the frames of `first`, twice
    sure: Tensor  # [2E, M]


def apart(pairs: Sequence[Seen], count: int) -> list[int]:
    """The photographs that no chain of pairs ties to most of the others."""
    _, labels = connected_components(_graph(pairs, count), directed=False)
    largest = np.bincount(labels).argmax()
    return [int(i) for i in np.flatnonzero(labels != largest)]


def align(pairs: Sequence[Seen], count: int) -> Aligned:
    """Poses of `count` photographs and scales of all answers about their pairs.

    Both answers about a pair are in the frame of a camera, so a pair has no pose of its own, only
    a unit of length. Minimised is, over poses T and scales s,

        sum of w rho(|T_i s_e x_e - m|)    over answers e in the frame of camera i and pixels,

    with w the sureness of a point, m the weighted mean of all that answers say of its pixel, and
    rho(d) = sqrt(d^2 + c^2), c = 1% of the median distance. It starts from the spanning tree of
    pairs with the most matches that agree (Procrustes over both answers of each) and goes on by
    L-BFGS. All photographs must hang together (see `apart`).
    """
    answers = [*(pair.there for pair in pairs), *(pair.back for pair in pairs)]
    samples = _sampled(answers)
    poses, scales = _started(pairs, count)
    poses, scales, error = _refined(samples, poses, scales)
    return Aligned(torch.linalg.inv(poses[0]) @ poses, scales, error)


def fused_points(
    pairs: Sequence[Seen], scales: Tensor, number: int
) -> tuple[Tensor, Tensor]:  # [H, W, 3], [H, W]
    """The mean of what the answers in a photograph's own frame say of it, and how sure that is."""
    answers = [*(pair.there for pair in pairs), *(pair.back for pair in pairs)]
    kept = [
        (answer, scale.float())
        for answer, scale in zip(answers, scales, strict=True)
        if answer.first == number
    ]
    sure = torch.stack([answer.own_sure for answer, _ in kept])
    points = torch.stack([scale * answer.own for answer, scale in kept])
    total = sure.sum(dim=0).clamp(min=torch.finfo().tiny)
    return (sure[..., None] * points).sum(dim=0) / total[..., None], sure.mean(dim=0)


def minimised(loss: Callable[[], Tensor], values: list[Tensor], *, steps: int = 200) -> None:
    """Change the values to where a loss is least, by L-BFGS: no draws, no step size."""
    optimiser = torch.optim.LBFGS(
        values,
        max_iter=steps,
        tolerance_grad=1e-10,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def turned_and_moved(
    poses: Tensor,  # [n, 4, 4]
    turn: Tensor,  # [n, 3] radians about the camera's own axes
    shift: Tensor,  # [n, 3] in the world
) -> tuple[Tensor, Tensor]:  # [n, 3, 3], [n, 3]
    """Rotations and centres of cameras after small changes, which gradients go through."""
    rotation = poses[:, :3, :3] @ torch.linalg.matrix_exp(_cross(turn))
    return rotation, poses[:, :3, 3] + shift


def _graph(pairs: Sequence[Seen], count: int) -> csr_matrix:
    ends = np.array([(pair.there.first, pair.there.second) for pair in pairs]).reshape(-1, 2)
    agree = np.array([pair.agree for pair in pairs], float)
    return csr_matrix((agree, (ends[:, 0], ends[:, 1])), shape=(count, count))


def _sampled(answers: Sequence[Pointmaps]) -> Samples:
    """The same pixels of a photograph in all answers about it, drawn at random."""
    generator = torch.Generator().manual_seed(SEED)
    pixels: dict[int, Tensor] = {}

    def some(number: int, maps: Tensor) -> Tensor:
        flat = maps.flatten(0, 1)
        if number not in pixels:
            drawn = torch.randperm(len(flat), generator=generator)
            pixels[number] = drawn.repeat(-(-SAMPLES // len(flat)))[:SAMPLES]
        return flat[pixels[number]].double()

    points = [some(a.first, a.own) for a in answers] + [some(a.second, a.other) for a in answers]
    sure = [some(a.first, a.own_sure) for a in answers]
    sure += [some(a.second, a.other_sure) for a in answers]
    first = [a.first for a in answers]
    return Samples(
        torch.tensor(first),
        torch.tensor([*first, *(a.second for a in answers)]),
        torch.stack(points),
        torch.stack(sure),
    )


def _started(pairs: Sequence[Seen], count: int) -> tuple[Tensor, Tensor]:  # [n, 4, 4], [E]
    """Poses along the spanning tree, and the scale of every answer."""
    strongest = {frozenset(pair.there.swapped_names()): pair for pair in pairs}
    tree = minimum_spanning_tree(-_graph(pairs, count))
    root = max(pairs, key=lambda pair: pair.agree).there.first
    order, before = breadth_first_order(tree, root, directed=False)
    poses = np.tile(np.eye(4), (count, 1, 1))
    units: dict[int, tuple[Pointmaps, float]] = {}  # an answer in each frame, and its scale
    for number in order[1:]:
        parent = int(before[number])
        there, back = _from(strongest[frozenset((parent, int(number)))], parent)
        unit = 1.0 if parent not in units else units[parent][1] * _ratio(units[parent][0], there)
        units.setdefault(parent, (there, unit))
        step = both_ways_similarity(
            (back.other, back.own),
            (there.own, there.other),
            (there.own_sure * back.other_sure, there.other_sure * back.own_sure),
        )
        relative = np.eye(4)
        relative[:3, :3], relative[:3, 3] = step.rotation, unit * step.translation
        poses[number] = poses[parent] @ relative
        units[int(number)] = back, unit * step.scale
    answers = [*(pair.there for pair in pairs), *(pair.back for pair in pairs)]
    scales = [units[a.first][1] * _ratio(units[a.first][0], a) for a in answers]
    scale = torch.tensor(scales, dtype=torch.float64)
    size = scale.log().mean().exp()
    placed = torch.from_numpy(poses)
    placed[:, :3, 3] /= size
    return placed, scale / size


def _from(pair: Seen, first: int) -> tuple[Pointmaps, Pointmaps]:
    """Both answers, that in the frame of this photograph first."""
    return (pair.there, pair.back) if pair.there.first == first else (pair.back, pair.there)


def _ratio(known: Pointmaps, other: Pointmaps) -> float:
    """How much larger one answer sees its first photograph than another one does."""
    sure = (known.own_sure * other.own_sure).flatten()
    sizes = [answer.own.flatten(0, 1).norm(dim=-1) for answer in (known, other)]
    ratio, order = (sizes[0] / sizes[1].clamp(min=1e-9)).sort()
    share = sure[order].cumsum(0)
    return float(ratio[int(torch.searchsorted(share, share[-1] / 2).clamp(max=len(ratio) - 1))])


def _refined(samples: Samples, poses: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, float]:
    turn = torch.zeros(len(poses), 3, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros_like(turn, requires_grad=True)
    size = torch.zeros(len(scales), dtype=torch.float64, requires_grad=True)
    weight = samples.sure / samples.sure.sum()
    shown = torch.zeros(len(poses), samples.sure.shape[1], dtype=torch.float64)
    shown = shown.index_add(0, samples.view, weight)[..., None].clamp(min=1e-30)  # [n, M, 1]
    smooth = SMOOTH * float(samples.points.norm(dim=-1).median())

    def scaled() -> Tensor:
        return scales * (size - size.mean()).exp()

    def distances() -> Tensor:  # [2E, M]
        rotation, eye = turned_and_moved(poses, turn, shift)
        frame = samples.first.repeat(2)
        own = samples.points * scaled().repeat(2)[:, None, None]
        world = own @ rotation[frame].transpose(1, 2) + eye[frame][:, None]
        total = torch.zeros(len(poses), *world.shape[1:], dtype=torch.float64)
        mean = total.index_add(0, samples.view, weight[..., None] * world) / shown
        return (world - mean[samples.view]).square().sum(dim=-1)

    minimised(
        lambda: (weight * (distances() + smooth**2).sqrt()).sum(), [turn, shift, size], steps=STEPS
    )
    with torch.no_grad():
        found = torch.eye(4, dtype=torch.float64).repeat(len(poses), 1, 1)
        found[:, :3, :3], found[:, :3, 3] = turned_and_moved(poses, turn, shift)
        return found, scaled(), float((weight * distances().sqrt()).sum())


def _cross(vectors: Tensor) -> Tensor:  # [n, 3] -> [n, 3, 3]
    """The matrices of the products with vectors."""
    x, y, z = vectors.unbind(dim=-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    matrices: Tensor = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
    return matrices
