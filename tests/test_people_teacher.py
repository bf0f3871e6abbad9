"""The shipped people teacher: small, whole, and far better than a constant."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alumnus.heads.people import load_people_head
from alumnus.miniworld import MiniworldSource, render_person, teacher_folder
from alumnus.miniworld.fit import normalised
from alumnus.miniworld.people_bodies import PeopleData, read_people
from alumnus.miniworld.people_learning import predict
from alumnus.miniworld.people_pictures import drawn_over, predicted_sheet
from alumnus.miniworld.score_people import constant_scores, shipped_scores
from alumnus.miniworld.torch_body import TorchBody
from alumnus.runs import load_encoder
from alumnus.teachers import load_teacher

FOLDER = teacher_folder("people")


@pytest.fixture(scope="module")
def people() -> PeopleData:
    return read_people(MiniworldSource("people", "test", length=96))


def test_shipped_teacher_finds_people_and_their_poses_where_constants_do_not(
    people: PeopleData,
) -> None:
    shipped = shipped_scores(FOLDER, people, every=16)
    train = read_people(MiniworldSource("people", "train", length=96))
    for name, constant in constant_scores(train, people, every=16).items():
        for error in ("pve_mm", "pa_pve_mm", "mpjpe_mm", "pa_mpjpe_mm", "joints_px", "pelvis_mm"):
            assert shipped[error] < 0.65 * constant[error], (name, error, shipped, constant)
    assert shipped["pck"] > 75
    assert shipped["head_found"] > 0.95


def test_people_are_detected_where_their_heads_are(people: PeopleData) -> None:
    encoder, head = load_encoder(FOLDER), load_people_head(FOLDER)
    view = people.view(slice(None))
    with torch.no_grad():
        found = head(encoder(normalised(view.images)).final.of("patch"), view.K)
    counts = torch.bincount(found.cells.image, minlength=len(people))
    assert (counts == 1).float().mean() > 0.9
    truth = people.head[found.cells.image]
    assert (found.translation - truth).norm(dim=1).median() < 0.4


def test_shipped_teacher_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3_100_000
    assert (FOLDER / "card.md").is_file()


def test_teacher_of_the_pool_is_the_shipped_encoder(people: PeopleData) -> None:
    images = normalised(people.view(slice(0, 4)).images)
    with torch.no_grad():
        tokens = load_teacher("miniworld-people")(images)
        expected = load_encoder(FOLDER)(images).final
    torch.testing.assert_close(tokens.of("patch"), expected.of("patch"))


def test_predicted_body_lies_over_the_person() -> None:
    encoder, head = load_encoder(FOLDER), load_people_head(FOLDER)
    source = MiniworldSource("people", "test", length=6)
    people = read_people(source)
    with torch.no_grad():
        found = predict(encoder, head, TorchBody(), people.view(slice(None)))
    shares = []
    for i in range(len(people)):
        person = render_person(source.seed, i)
        black = np.zeros_like(person.image)
        drawn = drawn_over(black, found.vertices[i].numpy(), person.K).any(axis=2)
        shares.append((drawn & (person.mask == 1)).sum() / (drawn | (person.mask == 1)).sum())
    assert np.mean(shares) > 0.5
    assert predicted_sheet(encoder, head, count=2, size_px=32).shape == (96, 64, 3)


def test_the_page_on_people_runs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "people.md").read_text()
    _, own, _ = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    seen: dict[str, Any] = {}
    exec(own, seen)
    people, person = seen["people"], seen["person"]
    assert people.cells.image.tolist() == [0]
    assert np.abs(people.location[0].numpy() - person.pixels[4]).max() < 8  # the head joint
    assert people.rotations.shape[1:] == person.rotations.shape
