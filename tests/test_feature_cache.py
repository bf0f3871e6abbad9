import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from alumnus.data import AugmentConfig, Mixture, Source, make_loader, open_source
from alumnus.teachers import CachedTeachers, FeatureCache, Teacher, TeacherPool
from image_files import write_folder
from tiny_teachers import PatchMean, patch_mean_teacher

SIZE_PX = 32
AUGMENT = AugmentConfig()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    return [
        open_source(write_folder(tmp_path / name, [f"{i}.jpg" for i in range(count)]))
        for name, count in (("first", 7), ("second", 4))
    ]


def pool_of(*teachers: Teacher) -> TeacherPool:
    chosen = teachers or (patch_mean_teacher("a"), patch_mean_teacher("b", patch_size=16, dim=9))
    return TeacherPool({t.name: t for t in chosen}, student_patch_size=8)


def cache_of(
    sources: Sequence[Source], folder: Path, pool: TeacherPool | None = None, **changed: Any
) -> FeatureCache:
    settings: dict[str, Any] = {"augment": AUGMENT, "size": SIZE_PX, "views": 3, "seed": 5}
    return FeatureCache(sources, pool or pool_of(), **{**settings, **changed}, folder=folder)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_cached_targets_equal_live_ones_for_the_same_views(
    dtype: str, sources: list[Source], tmp_path: Path
) -> None:
    pool = pool_of()
    features = cache_of(sources, tmp_path / "cache", pool, dtype=dtype)
    features.build(batch_size=4)
    cached = CachedTeachers(features)
    mixture = Mixture(sources, seed=1, views=3)
    loader = make_loader(mixture, AUGMENT, size=SIZE_PX, batch_size=5, seed=5)
    for number, batch in enumerate(loader):
        if number == 9:  # 45 positions: each of 33 rows, some again
            break
        live, ours = pool.targets(batch), cached.targets(batch)
        assert list(live) == list(ours)
        for name, tokens in live.items():
            assert ours[name].grid == tokens.grid
            for t in tokens.types:
                expected, found = tokens.of(t), ours[name].of(t)
                assert found.dtype == torch.float32
                # bf16 keeps 8 bits of each value, int8 steps of 1/127 of a token's largest
                step = 2**-8 * expected.abs()
                if dtype == "int8":
                    step = expected.abs().amax(dim=-1, keepdim=True).expand_as(expected) / 253
                assert bool(((found - expected).abs() <= step + 1e-6).all())


def test_the_plan_states_the_size_on_disk(sources: list[Source], tmp_path: Path) -> None:
    features = cache_of(sources, tmp_path / "cache")
    rows = 33  # 11 images, 3 views
    values = (1 + 16) * 6 + (1 + 4) * 9  # cls and patches of a (4x4) and b (2x2)
    assert features.bytes == rows * (values * 2 + 2)  # and one byte a row and teacher for "filled"
    assert not (tmp_path / "cache").exists()
    features.build()
    files = (tmp_path / "cache").glob("*/*.bin")
    assert sum(file.stat().st_size for file in files) == features.bytes
    assert features.missing_bytes == 0


def test_a_second_build_runs_no_teacher_and_a_new_teacher_only_itself(
    sources: list[Source], tmp_path: Path
) -> None:
    cache_of(sources, tmp_path / "cache").build()
    pool = pool_of(patch_mean_teacher("a"), patch_mean_teacher("c", seed=3))
    features = cache_of(sources, tmp_path / "cache", pool)
    assert features.stores["a"].complete
    assert not features.complete
    first, new = (pool.teachers[n].network for n in ("a", "c"))
    assert isinstance(first, PatchMean)
    assert isinstance(new, PatchMean)
    first.seen.clear()
    features.build()
    assert not first.seen
    assert new.seen
    assert features.complete


@pytest.mark.parametrize(
    "changed",
    [
        {"augment": AugmentConfig(crop_scale=(0.4, 1.0))},
        {"seed": 6},
        {"views": 4},
        {"size": 40},
        {"teacher_size": 64},
        {"dtype": "int8"},
    ],
)
def test_anything_that_changes_features_changes_the_key(
    changed: dict[str, Any], sources: list[Source], tmp_path: Path
) -> None:
    before, after = cache_of(sources, tmp_path), cache_of(sources, tmp_path, **changed)
    for name in before.stores:
        assert before.stores[name].folder != after.stores[name].folder


def test_other_weights_grids_and_images_change_the_key(
    sources: list[Source], tmp_path: Path
) -> None:
    def folder(teacher: Teacher, chosen: Sequence[Source] = sources) -> Path:
        return cache_of(chosen, tmp_path, pool_of(teacher)).stores["a"].folder

    keys = {
        folder(patch_mean_teacher("a")),
        folder(patch_mean_teacher("a", seed=1)),
        folder(patch_mean_teacher("a", input_size=40)),
        folder(patch_mean_teacher("a", grid="match")),
        folder(patch_mean_teacher("a"), sources[::-1]),
        folder(patch_mean_teacher("a"), sources[:1]),
    }
    assert len(keys) == 6
    # the same names with another content
    shutil.copy(tmp_path / "first" / "1.jpg", tmp_path / "first" / "0.jpg")
    assert folder(patch_mean_teacher("a")) not in keys


def test_a_full_disk_is_refused_before_anything_is_written(
    sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = cache_of(sources, tmp_path / "cache")
    free = 1000 + features.bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100_000, 0, free))
    with pytest.raises(ValueError, match=r"feature cache needs .* \(5% of the disk stay free"):
        features.build()
    assert not (tmp_path / "cache").exists()


KILLED_BUILD = """
import os, signal
from pathlib import Path
from test_feature_cache import cache_of
from alumnus.data import open_source
from alumnus.teachers import cache

cache.IMAGES_PER_MARK = 4
folder = Path(os.environ["FOLDER"])
features = cache_of([open_source(folder / n) for n in ("first", "second")], folder / "cache")
features.build(batch_size=2, progress=lambda done, rows: done > 18 and os.kill(os.getpid(), 9))
"""


def test_a_killed_build_goes_on_where_it_stopped(
    sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BUILD],
        env={**os.environ, "FOLDER": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)},
        check=False,
    )
    assert killed.returncode == -9
    pool = pool_of()
    resumed = cache_of(sources, tmp_path / "cache", pool)
    assert 0 < resumed.stores["a"].done < resumed.rows
    with pytest.raises(ValueError, match="not complete"):
        CachedTeachers(resumed)
    network = pool.teachers["a"].network
    assert isinstance(network, PatchMean)
    network.seen.clear()
    done = resumed.stores["a"].done
    resumed.build(batch_size=2)
    assert sum(len(images) for images in network.seen) == resumed.rows - done

    whole = cache_of(sources, tmp_path / "whole")
    whole.build(batch_size=2)
    for name, store in whole.stores.items():
        for file in store.folder.glob("*.bin"):
            other = resumed.stores[name].folder / file.name
            assert other.read_bytes() == file.read_bytes(), file.name


def test_a_view_that_was_not_cached_is_refused(sources: list[Source], tmp_path: Path) -> None:
    features = cache_of(sources, tmp_path / "cache")
    features.build()
    loader = make_loader(
        Mixture(sources, seed=1), AUGMENT, size=SIZE_PX, batch_size=11, start_position=33, seed=5
    )
    with pytest.raises(ValueError, match=r"holds 3 views .* but view 3"):
        CachedTeachers(features).targets(next(iter(loader)))


def test_a_broken_image_is_left_out_and_its_replacement_found(
    sources: list[Source], tmp_path: Path
) -> None:
    (tmp_path / "first" / "3.jpg").write_bytes(b"no image")
    pool = pool_of()
    features = cache_of(sources, tmp_path / "cache", pool)
    features.build(batch_size=4)
    cached = CachedTeachers(features)
    loader = make_loader(
        Mixture(sources, seed=1, views=3), AUGMENT, size=SIZE_PX, batch_size=11, seed=5
    )
    batch = next(iter(loader))
    assert loader.bad_images
    found, live = cached.targets(batch)["a"].of("patch"), pool.targets(batch)["a"].of("patch")
    torch.testing.assert_close(found, live, atol=0, rtol=2**-8)


def test_progress_counts_rows_up_to_the_last(sources: list[Source], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    features = cache_of(sources, tmp_path / "cache")
    features.build(batch_size=8, progress=lambda done, rows: seen.append((done, rows)))
    assert seen == [(8, 33), (16, 33), (24, 33), (32, 33), (33, 33)]
