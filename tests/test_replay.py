"""A step of a run can be done again and looked at."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import toys
from alumnus import api
from alumnus.training.loop import NonFiniteError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    toys.write_recipe(tmp_path)
    toys.write_images(tmp_path / "photos")
    return tmp_path


def words(place: Path, *more: str) -> list[str]:
    always = [f"data.train={place / 'photos'}", f"out={place / 'run'}", "train.precision=fp32"]
    return [*always, "data.augment={kind: crop_flip}", *more]


def test_a_run_stopped_by_a_bad_teacher_names_the_step_and_replay_the_image(place: Path) -> None:
    (folder,) = {path.parent for path in sorted((place / "photos").rglob("*.*"))[:1]}
    Image.new("RGB", (24, 24), "white").save(folder / "white.png")
    teachers = "teachers={red: {model: 'python:toys:red'}, itchy: {model: 'python:toys:allergic'}}"
    settings = words(place, teachers, "optim.steps=8", "train.log_every=8")
    with pytest.raises(NonFiniteError, match=r"in step \d+ .* the loss of itchy") as stopped:
        api.distill(str(place / "toy.yaml"), *settings)
    step = int(str(stopped.value).split("in step ")[1].split()[0])
    before = {p: p.read_bytes() for p in (place / "run").rglob("*") if p.is_file()}
    replayed = api.replay(place / "run", step)
    assert {Path(image.identity).name for image in replayed.bad_images} == {"white.png"}
    assert len(replayed.images) == 8
    finite = torch.tensor([image.losses["red"] for image in replayed.images]).isfinite()
    assert finite.all()
    assert any(name.startswith("student.projectors.itchy") for name in replayed.bad_gradients)
    assert {p: p.read_bytes() for p in (place / "run").rglob("*") if p.is_file()} == before


def test_replay_has_the_losses_that_the_run_had(place: Path) -> None:
    seen: list[float] = []
    api.distill(
        str(place / "toy.yaml"),
        *words(place, "optim.steps=6", "train.checkpoints=2", "train.log_every=1"),
        on_interval=lambda interval: seen.append(interval.metrics["loss/red"]),
    )
    for step in (0, 4):
        assert api.replay(place / "run", step).losses["red"] == pytest.approx(seen[step], abs=1e-6)


@pytest.mark.parametrize(("step", "says"), [(6, "has steps 0 to 5, not 6"), (0, "holds no run")])
def test_replay_of_what_is_not_there_is_one_sentence(place: Path, step: int, says: str) -> None:
    if step:
        api.distill(str(place / "toy.yaml"), *words(place, "optim.steps=6"))
    with pytest.raises(ValueError, match=says) as refused:
        api.replay(place / "run", step)
    assert "\n" not in str(refused.value)
