"""Host teachers in the data workers: the numbers of the pool and of the cache."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import alumnus
import toys
from alumnus.data import UNIC, Batch, Loader, Mixture, Source, make_loader, open_source
from alumnus.teachers import FeatureCache, PoolWithWorkers, Teacher, TeacherPool
from alumnus.teachers.cache import CachedTeachers
from alumnus.teachers.litert_teacher import litert_teacher
from alumnus.tokens import Tokens
from image_files import write_folder
from tiny_teachers import patch_mean_teacher, write_tiny_litert

SEED = 5


def on_host(teacher: Teacher) -> Teacher:
    return Teacher(teacher.network, replace(teacher.traits, runs_on="host"), name=teacher.name)


def pool_of(*more: Teacher) -> TeacherPool:
    """One teacher on the host between two on the device."""
    first, last = patch_mean_teacher("first", seed=1), patch_mean_teacher("last", seed=3)
    middle = on_host(patch_mean_teacher("middle", dim=4, patch_size=16, seed=2))
    return TeacherPool({t.name: t for t in (first, middle, *more, last)}, student_patch_size=8)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(write_folder(tmp_path / "photos", [f"{i:02d}.jpg" for i in range(14)]))


def batches(source: Source, pool: PoolWithWorkers | None, **options: Any) -> Loader:
    return make_loader(
        Mixture([source], seed=1, views=2),
        UNIC,
        size=32,
        batch_size=4,
        seed=SEED,
        teach=pool.host.targets if pool else None,
        **options,
    )


def take(loader: Loader, n: int) -> list[Batch]:
    return list(itertools.islice(loader, n))


def assert_equal(ours: Tokens, theirs: Tokens, *, rtol: float = 0, atol: float = 0) -> None:
    assert (ours.types, ours.grid) == (theirs.types, theirs.grid)
    for kind in ours.types:
        torch.testing.assert_close(ours.of(kind), theirs.of(kind), rtol=rtol, atol=atol)


def test_targets_of_the_workers_are_those_of_the_pool_in_its_order(source: Source) -> None:
    pool = pool_of()
    split = PoolWithWorkers(pool)
    for batch in take(batches(source, split), 3):
        assert batch.targets is not None
        assert list(batch.targets) == ["middle"]
        found, expected = split.targets(batch), pool.targets(batch)
        assert list(found) == list(expected) == ["first", "middle", "last"]
        for name, tokens in found.items():
            assert_equal(tokens, expected[name])


def test_host_teachers_do_not_run_again_in_the_step(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = PoolWithWorkers(pool_of())
    [batch] = take(batches(source, split), 1)

    def refuse(*_: object) -> None:
        raise AssertionError("a host teacher ran in the step")

    monkeypatch.setattr(split.host.teachers["middle"].network, "forward", refuse)
    assert list(split.targets(batch)) == ["first", "middle", "last"]


def test_batch_from_elsewhere_has_its_targets_computed(source: Source) -> None:
    pool = pool_of()
    [batch] = take(batches(source, None), 1)
    found, expected = PoolWithWorkers(pool).targets(batch), pool.targets(batch)
    assert list(found) == list(expected)
    assert_equal(found["middle"], expected["middle"])


@pytest.mark.parametrize("workers", [1, 2])
def test_number_of_workers_and_the_start_change_no_bit_of_the_targets(
    source: Source, workers: int
) -> None:
    split = PoolWithWorkers(pool_of())
    alone = take(batches(source, split), 6)
    helped = take(batches(source, split, num_workers=workers, start_position=8), 4)
    for ours, theirs in zip(helped, alone[2:], strict=True):
        assert ours.targets is not None
        assert theirs.targets is not None
        assert torch.equal(ours.position, theirs.position)
        assert_equal(ours.targets["middle"], theirs.targets["middle"])


def test_targets_of_the_workers_are_those_of_the_cache(source: Source, tmp_path: Path) -> None:
    pool = pool_of()
    options: dict[str, Any] = {"augment": UNIC, "size": 32, "views": 2, "seed": SEED}
    cache = FeatureCache([source], pool, **options, folder=tmp_path / "cache")
    cache.build()
    cached, split = CachedTeachers(cache), PoolWithWorkers(pool)
    for batch in take(batches(source, split), 4):
        expected = cached.targets(batch)
        for name, tokens in split.targets(batch).items():
            assert_equal(tokens, expected[name], rtol=2**-8, atol=1e-6)  # stored as bf16


def test_litert_network_works_in_the_workers(source: Source, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("flatbuffers")
    file = write_tiny_litert(tmp_path / "tiny.tflite")
    tiny = Teacher(*litert_teacher(file, "inner/Relu"), name="tiny")
    split = PoolWithWorkers(pool_of(tiny))
    [here], [there] = (
        take(batches(source, split), 1),
        take(batches(source, split, num_workers=1), 1),
    )
    assert here.targets is not None
    assert there.targets is not None
    assert_equal(there.targets["tiny"], here.targets["tiny"])


def test_pinned_batch_brings_its_targets(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    made = batches(source, PoolWithWorkers(pool_of()))._loader.dataset[0]
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # needs no GPU
    batch, pinned = made.batch, made.pin_memory().batch
    assert batch is not None
    assert pinned is not None
    assert batch.targets is not None
    assert pinned.targets is not None
    assert_equal(pinned.targets["middle"], batch.targets["middle"])


def test_unfinished_images_are_not_shown_to_teachers_in_the_workers(source: Source) -> None:
    with pytest.raises(ValueError, match="need finished images"):
        batches(source, PoolWithWorkers(pool_of()), colour_on=torch.device("cpu"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    toys.write_recipe(tmp_path)
    toys.write_images(tmp_path / "images")
    return tmp_path


def distil(out: str, *words: str) -> dict[str, torch.Tensor]:
    host = "teachers.x={model: python:toys:host}"
    folder = alumnus.distill("toy.yaml", "data.train=images", host, f"out={out}", *words).folder
    return load_file(folder / "student.safetensors")


def test_run_with_a_host_teacher_needs_no_cache_and_is_the_same_with_any_workers(
    place: Path,
) -> None:
    alone, helped = distil("alone"), distil("helped", "data.workers=2")
    for name, weights in alone.items():
        assert torch.equal(weights, helped[name]), name


def test_colour_on_the_device_and_a_teacher_in_the_workers_are_refused(place: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher x runs in the data workers .*=auto"):
        distil("run", "data.augment.where=device")
    distil("cached", "data.augment.where=device", "cache.enabled=true", "cache.views=1")
