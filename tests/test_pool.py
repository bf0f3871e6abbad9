import pytest
import torch

from alumnus.data import Batch
from alumnus.teachers import TeacherPool
from alumnus.teachers.base import Teacher, match_images, resize_images
from alumnus.tokens import resize_grid
from tiny_teachers import PatchMean, patch_mean_teacher


def batch_of(images: torch.Tensor, teacher_images: torch.Tensor | None = None) -> Batch:
    numbers = torch.arange(len(images))
    return Batch(
        images=images,
        teacher_images=images if teacher_images is None else teacher_images,
        position=numbers,
        source=torch.zeros_like(numbers),
        index=numbers,
        view=torch.zeros_like(numbers),
    )


def network_of(teacher: Teacher) -> PatchMean:
    assert isinstance(teacher.network, PatchMean)
    return teacher.network


def test_targets_come_in_the_order_given_without_gradients() -> None:
    names = ["zeta", "alpha", "mid"]
    pool = TeacherPool({n: patch_mean_teacher(n) for n in names}, student_patch_size=8)
    targets = pool.targets(batch_of(torch.randn(2, 3, 32, 32)))
    assert list(targets) == names
    assert not any(t.of("patch").requires_grad for t in targets.values())


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (32, 64)])
@pytest.mark.parametrize("teacher_patch", [4, 8, 12])
def test_match_gives_the_students_grid_for_any_patch_and_shape(
    teacher_patch: int, size: tuple[int, int]
) -> None:
    teacher = patch_mean_teacher(grid="match", patch_size=teacher_patch)
    images = torch.randn(2, 3, *size)
    targets = TeacherPool({"t": teacher}, student_patch_size=8).targets(batch_of(images))
    grid = (size[0] // 8, size[1] // 8)
    scaled = match_images(images, (grid[0] * teacher_patch, grid[1] * teacher_patch))
    assert targets["t"].grid == grid
    assert torch.equal(targets["t"].of("patch"), teacher.encode(scaled).of("patch"))


@pytest.mark.parametrize(
    ("policy", "teacher_patch", "expected"),
    [
        ("auto", 16, (2, 2)),  # coarser than the student's 4x4: kept
        ("auto", 8, (4, 4)),
        ("auto", 4, (4, 4)),  # finer: brought to the student's
        ("native", 16, (4, 4)),
        ("native", 4, (4, 4)),
        ("pool", 16, (2, 2)),
    ],
)
def test_grid_policies_decide_the_grid_of_the_target(
    policy: str, teacher_patch: int, expected: tuple[int, int]
) -> None:
    teacher = patch_mean_teacher(grid=policy, patch_size=teacher_patch)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 32, 32)
    targets = TeacherPool({"t": teacher}, student_patch_size=8).targets(batch_of(images))["t"]
    assert targets.grid == expected
    own = resize_grid(teacher(images), expected)
    assert torch.equal(targets.of("patch"), own.of("patch"))
    assert torch.equal(targets.of("cls"), own.of("cls"))


def test_impossible_policies_are_refused_in_one_sentence() -> None:
    finer = patch_mean_teacher("fine", grid="pool", patch_size=4)
    pool = TeacherPool({"fine": finer}, student_patch_size=8)
    with pytest.raises(ValueError, match="8x8, finer than the student's 4x4, so grid=pool"):
        pool.probe((32, 32))
    with pytest.raises(ValueError, match="do not divide into the student's patches"):
        pool.probe((30, 32))
    with pytest.raises(ValueError, match="at least one teacher"):
        TeacherPool({}, student_patch_size=8)


def test_teachers_of_one_size_share_one_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    def counted(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        calls.append(size)
        return resize_images(images, size)

    monkeypatch.setattr("alumnus.teachers.pool.resize_images", counted)
    teachers = {
        n: patch_mean_teacher(n, input_size=s) for n, s in (("a", 32), ("b", 32), ("c", 40))
    }
    TeacherPool(teachers, student_patch_size=8).targets(batch_of(torch.randn(2, 3, 48, 48)))
    assert calls == [(32, 32), (40, 40)]


def test_teachers_see_the_teacher_images_and_the_grid_follows_the_students() -> None:
    teacher = patch_mean_teacher(grid="native", input_size=None)
    images, larger = torch.randn(2, 1, 32, 32), torch.randn(2, 3, 64, 64)
    targets = TeacherPool({"t": teacher}, student_patch_size=8).targets(batch_of(images, larger))
    assert targets["t"].grid == (4, 4)
    assert network_of(teacher).seen[-1].shape == (2, 3, 64, 64)


def test_a_probe_has_the_shapes_of_the_targets() -> None:
    teachers = {"a": patch_mean_teacher("a", patch_size=16), "b": patch_mean_teacher("b", dim=5)}
    pool = TeacherPool(teachers, student_patch_size=8)
    targets = pool.targets(batch_of(torch.randn(1, 3, 32, 48)))
    for name, seen in pool.probe((32, 48)).items():
        assert seen.grid == targets[name].grid
        assert seen.of("patch").shape == targets[name].of("patch").shape


def test_a_subset_keeps_the_order_and_the_teachers() -> None:
    pool = TeacherPool({n: patch_mean_teacher(n) for n in "abc"}, student_patch_size=8)
    subset = pool.subset({"c", "a"})
    assert list(subset.teachers) == ["a", "c"]
    assert subset.teachers["a"] is pool.teachers["a"]
