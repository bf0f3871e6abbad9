"""Image sizes drawn at random: one for all that a step sees, from the seed and the step alone."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import toys
from alumnus import api, assembly
from alumnus.config import ConfigError, load_config
from alumnus.data import UNIC, Batch, DevicePixels, DrawnSizes, Mixture, make_loader, open_source
from alumnus.training.loop import Interval

SIZES = DrawnSizes((16, 24, 40), step_images=8, seed=3)
WORDS = [
    "data.sizes=[16,32,48]",
    "teachers.red.grid=match",
    "teachers.green={model: 'python:toys:fine', grid: native}",
    "optim.steps=6",
    "train.checkpoints=6",
]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    toys.write_recipe(tmp_path)
    return toys.write_images(tmp_path / "photos")


def seen(photos: Path, count: int, **options: Any) -> list[Batch]:
    defaults: dict[str, Any] = {"size": 16, "batch_size": 4, "drawn_sizes": SIZES}
    mixture = Mixture([open_source(str(photos))], seed=1)
    return list(islice(make_loader(mixture, UNIC, **{**defaults, **options}), count))


def test_every_side_is_as_likely_and_one_listed_twice_twice() -> None:
    drawn = Counter(DrawnSizes((32, 48, 48), step_images=4).at(4 * step) for step in range(3000))
    assert abs(drawn[32] / 3000 - 1 / 3) < 0.03  # 3.5 standard errors


def test_all_images_of_a_step_have_one_size_whatever_its_micro_batches_and_ranks(
    photos: Path,
) -> None:
    alone = seen(photos, 24)
    sides = [batch.images.shape[-1] for batch in alone]
    assert set(sides) == set(SIZES.sides_px)
    assert sides[0::2] == sides[1::2]  # two micro-batches a step
    for rank in range(2):
        part = seen(photos, 24, batch_size=2, rank=rank, ranks=2)
        for ours, all_of_them in zip(part, alone, strict=True):
            assert torch.equal(ours.images, all_of_them.images[rank::2])


def test_sizes_do_not_depend_on_where_a_run_is_taken_up_nor_on_workers(photos: Path) -> None:
    whole = seen(photos, 12)
    for i, batch in enumerate(seen(photos, 6, start_position=24, num_workers=1)):
        assert torch.equal(batch.images, whole[6 + i].images)


def test_images_made_on_the_device_have_the_same_sizes(photos: Path) -> None:
    source = open_source(str(photos))
    on_device = DevicePixels([source], torch.device("cpu"), short_px=None)
    ours = [batch.images.shape for batch in seen(photos, 12, on_device=on_device)]
    assert ours == [batch.images.shape for batch in seen(photos, 12)]


def test_teachers_of_a_fixed_size_see_the_views_at_theirs(photos: Path) -> None:
    for batch in seen(photos, 12, teacher_size=20):
        assert batch.teacher_images.shape[-2:] == (20, 20)
        assert batch.images.shape[-1] in SIZES.sides_px


def test_teachers_of_every_grid_policy_follow_the_student(photos: Path) -> None:
    words = [f"data.train={photos}", *WORDS]
    config = load_config(photos.parent / "toy.yaml", words)
    teachers = assembly.load_teachers(config)
    student, _ = assembly.new_student(config, teachers)
    pool = assembly.build_pool(config, teachers, student)
    for side in config.data.sides:
        grids = {name: tokens.grid for name, tokens in pool.probe((side, side)).items()}
        whole = (side // 8, side // 8)
        assert grids == {"red": whole, "green": whole, "blue": (side // 16, side // 16)}


def test_a_run_of_many_sizes_that_was_stopped_ends_as_one_that_was_not(photos: Path) -> None:
    recipe, words = photos.parent / "toy.yaml", [f"data.train={photos}", *WORDS]
    whole = api.distill(recipe, *words, f"out={photos.parent / 'whole'}")

    def stop(interval: Interval) -> None:
        if interval.step == 4:
            raise KeyboardInterrupt

    out = f"out={photos.parent / 'stopped'}"
    with pytest.raises(KeyboardInterrupt):
        api.distill(recipe, *words, out, on_interval=stop)
    resumed = api.distill(recipe, *words, out, resume=True)
    ours, theirs = (load_file(r.folder / "student.safetensors") for r in (resumed, whole))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.sizes=[16,20]"], "data.sizes 20 is no multiple of student.patch_size 8"),
        (["data.sizes=[16]", "cache.enabled=true"], "a feature cache holds features of one size"),
    ],
)
def test_sizes_that_cannot_be_are_refused(words: list[str], sentence: str, photos: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(photos.parent / "toy.yaml", words)


def test_the_size_of_held_out_images_is_looked_at_too(photos: Path) -> None:
    words = [f"data.train={photos}", "student={model: 'python:toys:convolution'}"]
    out = photos.parent / "run"
    with pytest.raises(ValueError, match="20x20 px do not divide into the student's patches"):
        api.distill(
            photos.parent / "toy.yaml", *words, "data.sizes=[16,32]", "data.size=20", f"out={out}"
        )
    assert not out.exists()


def test_a_grid_that_is_impossible_at_one_of_the_sizes_is_refused(photos: Path) -> None:
    words = [
        f"data.train={photos}",
        "data.sizes=[48,16]",
        "teachers.blue={model: 'python:toys:fixed', grid: pool}",
    ]
    config = load_config(photos.parent / "toy.yaml", ["student.patch_size=16", *words])
    teachers = assembly.load_teachers(config)
    student, _ = assembly.new_student(config, teachers)
    with pytest.raises(ValueError, match="finer than the student's 1x1"):
        assembly.build_pool(config, teachers, student)
