"""Training the people teacher: labels become targets and back, and a killed run goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alumnus.encoders import build_encoder
from alumnus.heads.people import People, PeopleHead, load_people_head
from alumnus.heads.people.camera import distance_from_nearness, unproject
from alumnus.heads.people.losses import people_losses
from alumnus.miniworld import MiniworldSource, train_people
from alumnus.miniworld.body import BONES
from alumnus.miniworld.fit import SPEC, FitSettings
from alumnus.miniworld.people_bodies import PeopleData, labelled, placed, read_people
from alumnus.miniworld.people_errors import people_errors
from alumnus.miniworld.people_learning import HEAD_SPEC, evaluate, start_at_the_mean
from alumnus.miniworld.people_readouts import blurred, gathered
from alumnus.miniworld.torch_body import TorchBody
from alumnus.miniworld.train_people import train
from alumnus.runs import load_encoder

CHUNK = 96


@pytest.fixture(scope="module")
def people() -> PeopleData:
    return read_people(MiniworldSource("people", "test", length=16))


def test_true_parameters_are_placed_on_the_true_body(people: PeopleData) -> None:
    body, view = TorchBody(every=50), people.view(slice(None))
    cells, truth = labelled(view, body)
    patch, side = SPEC.patch_size, SPEC.image_size
    corner = torch.stack([cells.column, cells.row], dim=1)
    location = (corner + 0.5 + truth.offset) * patch
    distance = distance_from_nearness(truth.nearness, view.K, side_px=side)
    right = People(
        scores=truth.scores,
        cells=cells,
        offset=truth.offset,
        location=location,
        rotations=truth.rotations,
        shape=truth.shape,
        expression=torch.zeros(len(people), 0),
        nearness=truth.nearness,
        distance=distance,
        translation=unproject(location[:, None], distance[:, None, None], view.K)[:, 0],
    )
    found = placed(right, view.K, body)
    losses = people_losses(found, truth, side_px=side)
    # scores of exactly 1 and 0; float32 at some metres and 64 px
    assert all(value < 1e-2 for value in losses.values()), losses
    errors = people_errors(found, truth, people.visible, side_px=side)
    assert errors["pck"] == 100
    assert all(errors[name] < 0.1 for name in errors if name != "pck"), errors


def test_the_head_begins_at_the_mean_person(people: PeopleData) -> None:
    head = PeopleHead(HEAD_SPEC)
    start_at_the_mean(head, people)
    encoder = build_encoder(SPEC)
    with torch.no_grad():
        patches = encoder(people.view(slice(None)).images).final.of("patch")
        cells, _ = labelled(people.view(slice(None)), TorchBody(every=50))
        found = head(patches, people.K, cells)
    torch.testing.assert_close(found.shape.mean(dim=0), people.shape.mean(dim=0), atol=0.1, rtol=0)
    assert (found.distance - people.head[:, 2]).abs().mean() < people.head[:, 2].mean() / 2


def test_resumed_training_equals_uninterrupted_training(tmp_path: Path) -> None:
    settings = FitSettings(steps=3, batch=8, warmup=1, train_images=CHUNK, test_images=CHUNK)
    scores = train(tmp_path / "whole", settings)
    assert set(scores) >= {"pve_mm", "pa_pve_mm", "mpjpe_mm", "pa_mpjpe_mm", "pck", "joints_px"}

    seen = 0
    whole = train_people.objective

    def killed_at_third(*given: object) -> Tensor:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise KeyboardInterrupt
        return whole(*given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_people, "objective", killed_at_third)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", settings, save_every=1)
    train(tmp_path / "parts", settings, save_every=1)
    for load in (load_encoder, load_people_head):
        one, other = (load(tmp_path / name).state_dict() for name in ("whole", "parts"))
        assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="other settings"):
        train(tmp_path / "parts", replace(settings, lr=1.0))


def test_a_fresh_head_is_scored_without_failing(people: PeopleData) -> None:
    scores = evaluate(build_encoder(SPEC), PeopleHead(HEAD_SPEC), people)
    assert scores["mpjpe_mm"] > 100
    assert scores["pck"] < 50


def test_vertices_are_gathered_by_the_patch_they_are_in() -> None:
    places = torch.tensor([[[0.5, 0.5], [7.9, 0.1], [0.2, 0.9], [-0.1, 3.0], [3.0, 8.5]]])
    bone = torch.tensor([4, 2, 4, 1, 1])
    bones, depth = gathered(places, bone, torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]]))
    expected = torch.zeros(1, 64, len(BONES))
    expected[0, 0, 4], expected[0, 7, 2] = 2, 1
    torch.testing.assert_close(bones, expected)
    assert depth[0, 0] == 5
    assert depth[0, 7] == 2
    assert depth.sum() == 7


def test_heat_lies_around_its_place() -> None:
    places = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0)) * 6 + 1
    heat = blurred(places)
    torch.testing.assert_close(heat.sum(dim=1), torch.ones(3, 5))
    row, column = torch.meshgrid(*[torch.arange(8) + 0.5] * 2, indexing="ij")
    centres = torch.stack([column, row], dim=-1).flatten(0, 1)
    # cells are coarse beside the Gaussian, and end at the border
    torch.testing.assert_close(heat.transpose(1, 2) @ centres, places, atol=0.25, rtol=0)
