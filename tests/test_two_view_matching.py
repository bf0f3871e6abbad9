"""Reciprocal matching of descriptors, equal to the released MASt3R's index by index."""

import re

import pytest
import torch
from torch import Tensor

from alumnus.heads.two_view.matching import (
    Closeness,
    PixelMatches,
    fast_reciprocal_matches,
    grid_starts,
    least_confidence,
    matches_both_ways,
    mutual_matches,
    nearest,
    next_starts,
    within_border,
)
from golden_files import threed

TENSORS, CONFIG = threed("e_fast_nn")
FIRST, SECOND = TENSORS["desc1"], TENSORS["desc2"]
STEPS = sorted({int(m[1]) for k in TENSORS if (m := re.match(r"fast/S(\d+)/", k))})
TOLERANCES = sorted({int(m[1]) for k in TENSORS if (m := re.match(r"init/tol(\d+)/", k))})

pytestmark = pytest.mark.golden


def same(ours: PixelMatches, prefix: str) -> None:
    assert torch.equal(ours.first, TENSORS[f"{prefix}/xy1"])
    assert torch.equal(ours.second, TENSORS[f"{prefix}/xy2"])


def places(xy: Tensor, maps: Tensor) -> Tensor:
    return xy[:, 0] + maps.shape[1] * xy[:, 1]


@pytest.mark.parametrize("closeness", ["dot", "l2"])
@pytest.mark.parametrize("block", [8192, 100])
def test_nearest_neighbours_equal_the_reference_in_blocks_of_any_size(
    closeness: Closeness, block: int
) -> None:
    one, other = FIRST.flatten(0, 1), SECOND.flatten(0, 1)
    there = nearest(one, other, closeness=closeness, block=block)
    back = nearest(other, one, closeness=closeness, block=block)
    assert torch.equal(there, TENSORS[f"mutual/{closeness}/nn_1to2"])
    assert torch.equal(back, TENSORS[f"mutual/{closeness}/nn_2to1"])


@pytest.mark.parametrize("closeness", ["dot", "l2"])
def test_nearest_neighbours_are_those_of_float32_under_autocast(closeness: Closeness) -> None:
    one, other = FIRST.flatten(0, 1), SECOND.flatten(0, 1)
    rounded = (one.bfloat16() @ other.bfloat16().T).argmax(dim=1)
    assert not torch.equal(rounded, TENSORS["mutual/dot/nn_1to2"])  # the case tells them apart
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest(one, other, closeness=closeness)
    assert torch.equal(found, TENSORS[f"mutual/{closeness}/nn_1to2"])


@pytest.mark.parametrize("closeness", ["dot", "l2"])
def test_mutual_matches_equal_the_reference(closeness: Closeness) -> None:
    found = mutual_matches(FIRST, SECOND, closeness=closeness)
    for xy, maps, view in ((found.first, FIRST, 1), (found.second, SECOND, 2)):
        assert torch.equal(places(xy, maps), TENSORS[f"mutual/{closeness}/idx{view}"])


@pytest.mark.parametrize("every", STEPS)
def test_fast_matches_equal_the_reference(every: int) -> None:
    starts = grid_starts(FIRST, every=every)
    same(fast_reciprocal_matches(FIRST, SECOND, starts), f"fast/S{every}")


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_given_starts_are_kept_that_come_back_within_a_tolerance(tolerance: int) -> None:
    prefix = f"init/tol{tolerance}"
    starts = torch.stack([TENSORS[f"{prefix}/x"], TENSORS[f"{prefix}/y"]], dim=-1)
    found = fast_reciprocal_matches(FIRST, SECOND, starts, tolerance_px=tolerance, rounds=1)
    same(found, prefix)


def test_points_in_space_match_by_distance_as_in_the_reference() -> None:
    one, other = TENSORS["kdtree/pts1"], TENSORS["kdtree/pts2"]
    starts = grid_starts(one, every=CONFIG["subsample"]["kdtree"])
    same(fast_reciprocal_matches(one, other, starts, closeness="l2"), "kdtree")


def test_basins_equal_the_reference() -> None:
    starts = grid_starts(FIRST, every=CONFIG["subsample"]["basin"])
    leads = next_starts(FIRST, SECOND, starts)
    assert torch.equal(leads, TENSORS["basin/basin"][:-1].long())  # its last entry is spare


@pytest.mark.parametrize(
    "name", sorted({k.partition("/")[0] for k in TENSORS if k.startswith("nonsym")})
)
def test_matches_from_both_sides_equal_the_reference(name: str) -> None:
    tolerance = CONFIG.get(f"pixel_tol_{name}", 0)
    every = CONFIG["subsample"][name]
    found = matches_both_ways(FIRST, SECOND, every=every, tolerance_px=tolerance)
    same(found, name)
    sure = least_confidence(found, TENSORS["nonsym/conf1"], TENSORS["nonsym/conf2"])
    assert torch.equal(sure, TENSORS[f"{name}/conf"])


def test_every_fast_match_is_mutual() -> None:
    mutual = {tuple(xy) for xy in torch.cat(list(mutual_matches(FIRST, SECOND)), 1).tolist()}
    starts = grid_starts(FIRST, every=4)
    fast = torch.cat(list(fast_reciprocal_matches(FIRST, SECOND, starts)), 1).tolist()
    assert fast
    assert {tuple(xy) for xy in fast} <= mutual


def test_matches_near_an_edge_of_either_image_are_dropped() -> None:
    inside, edge = torch.tensor([[5, 5]]), torch.tensor([[1, 5]])
    first, second = torch.cat([inside, edge, inside]), torch.cat([inside, inside, edge])
    kept = within_border(PixelMatches(first, second), FIRST, SECOND)
    assert kept.first.tolist() == inside.tolist()
    assert kept.second.tolist() == inside.tolist()
