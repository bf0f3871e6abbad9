"""Augmented people keep their labels: the posed body follows the picture."""

import numpy as np
import pytest
import torch
from torch import Tensor

from alumnus.heads.people.camera import project
from alumnus.miniworld import render_person
from alumnus.miniworld.body import JOINTS
from alumnus.miniworld.people_views import Draws, View, draw_views, seen_anew, warped
from alumnus.miniworld.torch_body import TorchBody, mirrored

NAMES = tuple(name for name, _ in JOINTS)
HEAD = NAMES.index("head")
COUNT = 8


@pytest.fixture(scope="module")
def view() -> View:
    people = [render_person(1, index) for index in range(COUNT)]

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(p, name) for p in people]))

    return View(
        images=stacked("image").permute(0, 3, 1, 2).float() / 255,
        mask=(stacked("mask") == 1).float()[:, None],
        K=stacked("K"),
        shape=stacked("shape"),
        rotations=stacked("rotations"),
        translation=stacked("translation"),
        head=stacked("joints")[:, HEAD],
    )


def draws(*, mirror: bool = False, turn: float = 0, scale: float = 1, shift: float = 0) -> Draws:
    full = torch.full
    return Draws(
        full((COUNT,), mirror),
        full((COUNT,), turn),
        full((COUNT,), scale),
        full((COUNT, 1), shift) * torch.tensor([1.0, -0.5]),
    )


def joints(view: View) -> Tensor:  # [B, J, 3]
    found: Tensor = TorchBody()(view.shape, view.rotations).joints
    return found + view.translation[:, None]


CHANGES = {
    "nothing": draws(),
    "mirror": draws(mirror=True),
    "turn": draws(turn=0.3),
    "scale": draws(scale=1.3),
    "shift": draws(shift=0.2),
    "all": draws(mirror=True, turn=-0.2, scale=0.9, shift=-0.1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_joints_move_as_the_picture_does(view: View, change: str) -> None:
    done = CHANGES[change]
    new = warped(view, done)
    before = project(joints(view), view.K) / 32 - 1  # from the middle, in half pictures
    if done.mirror[0]:
        before = before[:, mirrored(NAMES)] * torch.tensor([-1.0, 1.0])
    c, s = done.turn[0].cos(), done.turn[0].sin()
    moved = before @ torch.stack([torch.stack([c, s]), torch.stack([-s, c])])  # transposed
    expected = moved * done.scale[0] + done.shift[:, None]
    found = project(joints(new), new.K) / 32 - 1
    # fingers and toes are vertices, which are mirror images of each other up to 7 mm
    atol = 0.015 if done.mirror[0] else 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    torch.testing.assert_close(joints(new)[:, HEAD], new.head, rtol=0, atol=1e-3)


@pytest.mark.parametrize("change", CHANGES)
def test_body_projects_onto_the_mask_of_the_new_picture(view: View, change: str) -> None:
    new = warped(view, CHANGES[change])

    def share_on_mask(view: View) -> Tensor:
        vertices = TorchBody(every=2)(view.shape, view.rotations).vertices
        place = project(vertices + view.translation[:, None], view.K) / 32 - 1
        seen = (place.abs() < 1).all(dim=-1)
        mask = torch.nn.functional.grid_sample(view.mask, place[:, None], align_corners=False)
        return ((mask[:, 0, 0] > 0.3) & seen).sum() / seen.sum()

    assert share_on_mask(new) > share_on_mask(view) - 0.03 > 0.8
    wrong = new._replace(rotations=view.rotations, translation=view.translation)
    if change not in ("nothing", "scale", "shift"):
        assert share_on_mask(wrong) < share_on_mask(new) - 0.05


def test_rotations_stay_rotations_and_heads_in_the_picture(view: View) -> None:
    for seed in range(6):
        new = seen_anew(view, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(
            torch.linalg.det(new.rotations), torch.ones(new.rotations.shape[:2]), atol=1e-4, rtol=0
        )
        place = project(new.head[:, None], new.K)[:, 0]
        assert ((place > 0) & (place < 64)).all()


def test_draws_change_nothing_but_the_mirror_where_the_head_would_leave(view: View) -> None:
    generator = torch.Generator().manual_seed(0)
    edge = view._replace(
        head=view.head * torch.tensor([1.0, 0.0, 1.0]) + torch.tensor([0.0, -1.0, 0.0])
    )
    found = draw_views(edge, generator=generator)
    gone = (edge.head[:, 1] / edge.head[:, 2] * edge.K[:, 0, 0] / 32).abs() > 1
    assert gone.any()
    assert (found.scale[gone] == 1).all()
    assert (found.turn[gone] == 0).all()
