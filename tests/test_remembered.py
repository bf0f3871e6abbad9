"""What a model said of an image is not computed again."""

import torch
from torch import Tensor

from alumnus import measure
from alumnus.evaluation.depth import DepthProtocol
from alumnus.evaluation.remembered import Remembered
from alumnus.evaluation.suite import evaluate
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.tokens import Tokens
from test_matching import Walls

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Counting:
    """Mean colours, and how many images it was asked for."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Tensor) -> Tokens:
        self.images += len(images)
        tokens = Tokens.from_map(torch.nn.functional.adaptive_avg_pool2d(images, (4, 4)))
        return tokens._replace(cls=images.mean(dim=(2, 3)))


def equal(one: Tokens, other: Tokens) -> bool:
    assert one.cls is not None
    assert other.cls is not None
    same = torch.equal(one.of("patch"), other.of("patch")) and torch.equal(one.cls, other.cls)
    return same and one.grid == other.grid


def test_an_image_is_looked_at_once_in_whatever_batches_it_comes() -> None:
    fn = Counting()
    model = Remembered().of(EvalModel(name="eyes", kind="teacher", fn=fn))
    first = model.fn(IMAGES[:4])
    assert equal(model.fn(IMAGES[[3, 5, 1, 4]]), Counting()(IMAGES[[3, 5, 1, 4]]))
    assert equal(model.fn(IMAGES[:4]), first)
    assert fn.images == 6


def test_two_models_and_two_sizes_are_told_apart() -> None:
    one, other = Counting(), Counting()
    memory = Remembered()
    for fn, name in ((one, "one"), (other, "other")):
        model = memory.of(EvalModel(name=name, kind="teacher", fn=fn))
        model.fn(IMAGES)
        model.fn(IMAGES[..., :4].contiguous())
        assert fn.images == 12


def test_a_teachers_functions_are_one_at_its_own_size_only() -> None:
    fn, dense = Counting(), Counting()
    teacher = EvalModel(name="eyes", kind="teacher", fn=fn, dense_fn=dense, size_px=8)
    model = Remembered().of(teacher)
    assert model.dense_fn is not None
    model.fn(IMAGES)
    model.dense_fn(IMAGES)
    assert (fn.images, dense.images) == (6, 0)
    model.dense_fn(IMAGES[:, :, :4, :4].contiguous())
    assert dense.images == 6


def test_no_more_is_kept_than_there_is_room_for() -> None:
    fn = Counting()
    tokens = 4 * (3 * 16 + 3)  # bytes of an image
    model = Remembered(3 * tokens).of(EvalModel(name="eyes", kind="teacher", fn=fn))
    model.fn(IMAGES[:3])
    model.fn(IMAGES[3:])
    assert equal(model.fn(IMAGES), Counting()(IMAGES))
    assert fn.images == 9


def test_tasks_on_the_same_views_share_forward_passes_and_have_the_same_scores() -> None:
    walls = Walls()
    matching = TaskSpec(kind="matching", train=walls, test=walls, size_px=64)
    quick = DepthProtocol(steps=2, lr=1e-3, bins=4)
    depth = TaskSpec(kind="depth", train=walls, test=walls, size_px=64, depth=quick)
    fn = Counting()
    model = EvalModel(name="eyes", kind="teacher", fn=fn, size_px=64)
    both = evaluate([model], [depth, matching])
    assert fn.images <= 12 + 2  # and blank ones, to ask for the width
    for task in (depth, matching):
        alone = evaluate([model], [task])
        assert alone.scores[task.name] == both.scores[task.name]


def test_rows_of_one_student_share_a_run_on_a_batch() -> None:
    runs: list[Tensor] = []

    def predictions(images: Tensor) -> dict[str, Tokens]:
        runs.append(images)
        return {"a": Tokens(cls=images.mean(dim=(2, 3))), "b": Tokens(cls=images.amax(dim=(2, 3)))}

    once = measure._once(predictions)
    assert once(IMAGES)["a"].cls is not None
    assert torch.equal(once(IMAGES)["b"].of("cls"), IMAGES.amax(dim=(2, 3)))
    assert len(runs) == 1
    other = IMAGES + 1
    assert torch.equal(once(other)["a"].of("cls"), other.mean(dim=(2, 3)))
