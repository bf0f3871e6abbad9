"""The loader: a batch is a function of its position, whatever makes it and whatever is broken."""

import itertools
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alumnus.data import (
    UNIC,
    AugmentConfig,
    Batch,
    BrokenImageError,
    Loader,
    Mixture,
    Sample,
    Source,
    draw,
    eval_transform,
    make_loader,
    open_source,
    sweep,
)
from alumnus.data import apply as apply_augmentation
from alumnus.images import luminance
from image_files import picture, write_folder


class Pictures:
    """Generated pictures; those in `broken` cannot be decoded."""

    generic, classes = False, None

    def __init__(self, name: str, length: int, *, domain: str = "d", broken: Sequence[int] = ()):
        self.name, self.length, self.domain, self.broken = name, length, domain, tuple(broken)

    def __len__(self) -> int:
        return self.length

    def identity(self, index: int) -> str:
        return f"{self.name}/{index}"

    def read(self, index: int) -> Sample:
        if index in self.broken:
            raise BrokenImageError(self.name, self.identity(index), "made so")
        image = picture(index + 100 * len(self.name))
        array = np.concatenate([np.asarray(image)] * 2, axis=-1)[..., :5]
        return Sample(image, {"array": array})


def sources(broken: Sequence[int] = ()) -> list[Source]:
    return [Pictures("a", 13, domain="x", broken=broken), Pictures("bb", 7, domain="y")]


def loader(mixture: Mixture, **options: Any) -> Loader:
    defaults: dict[str, Any] = {"size": 16, "batch_size": 6, "seed": 9}
    return make_loader(mixture, UNIC, **{**defaults, **options})


def take(batches: Loader, n: int) -> list[Batch]:
    return list(itertools.islice(batches, n))


def assert_equal(ours: Sequence[Batch], theirs: Sequence[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for name, x in a.tensors.items():
            assert torch.equal(x, b.tensors[name]), name


def test_batch_holds_the_drawn_views_of_the_located_images() -> None:
    mixture = Mixture(sources(), sampling="balanced", batch=6, seed=2)
    for batch in take(loader(mixture), 3):
        assert batch.teacher_images is batch.images
        assert batch.images.dtype == torch.float32
        for b, position in enumerate(batch.position.tolist()):
            source, index, view = mixture.locate(position)
            found = tuple(int(column[b]) for column in (batch.source, batch.index, batch.view))
            assert found == (source, index, view)
            image = mixture.sources[source].read(index).image
            params = draw(9, source, index, view, UNIC)[0]
            assert torch.equal(batch.images[b], apply_augmentation(image, params, 16, UNIC))


@pytest.mark.parametrize("workers", [1, 2])
def test_number_of_workers_changes_no_bit(workers: int) -> None:
    mixture = Mixture(sources(broken=[3, 4]), seed=1)
    alone, helped = loader(mixture), loader(mixture, num_workers=workers)
    assert_equal(take(helped, 8), take(alone, 8))
    assert helped.bad_images == alone.bad_images
    assert helped.bad_images


@pytest.mark.parametrize("workers", [0, 1])
def test_images_shared_with_the_teachers_stay_one_tensor(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = loader(Mixture(sources(), seed=1), num_workers=workers)
    assert all(batch.teacher_images is batch.images for batch in take(batches, 2))
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # needs no GPU
    made = batches._loader.dataset[0]
    pinned = made.pin_memory().batch
    assert pinned is not None
    assert made.batch is not None
    assert pinned.teacher_images is pinned.images
    assert pinned.images is not made.batch.images
    assert_equal([pinned], [made.batch])


@pytest.mark.parametrize("start", [6, 18, 25])
def test_start_at_any_position_continues_the_same_stream(start: int) -> None:
    mixture = Mixture(sources(), seed=1)
    resumed = take(loader(mixture, start_position=start), 2)
    straight = take(loader(mixture, batch_size=1), start + 12)[start:]
    assert torch.equal(
        torch.cat([b.images for b in resumed]), torch.cat([b.images for b in straight])
    )
    assert torch.equal(resumed[0].position, torch.arange(start, start + 6))


def test_each_pass_shows_other_views_until_they_repeat() -> None:
    mixture = Mixture([Pictures("a", 6)], seed=1, views=2)
    first, second, third = (
        {int(i): image for i, image in zip(batch.index, batch.images, strict=True)}
        for batch in take(loader(mixture), 3)
    )
    for i in range(6):
        assert not torch.equal(first[i], second[i])
        assert torch.equal(first[i], third[i])


def test_teachers_see_the_same_view_at_their_size() -> None:
    mixture = Mixture(sources(), seed=1)
    [batch] = take(loader(mixture, teacher_size=(32, 24)), 1)
    assert batch.images.shape == (6, 3, 16, 16)
    assert batch.teacher_images.shape == (6, 3, 32, 24)
    [large] = take(loader(mixture, size=(32, 24)), 1)
    assert torch.equal(batch.teacher_images, large.images)


def test_grey_student_has_teachers_in_colour() -> None:
    mixture = Mixture(sources(), seed=1)
    [grey], [rgb] = take(loader(mixture, channels=1), 1), take(loader(mixture), 1)
    assert torch.equal(grey.teacher_images, rgb.images)
    torch.testing.assert_close(grey.images, luminance(rgb.images), rtol=0, atol=1e-6)


def test_student_of_many_channels_takes_the_array_of_the_sample() -> None:
    mixture = Mixture(sources(), seed=1)
    [batch] = take(loader(mixture, channels=5), 1)
    assert batch.images.shape == (6, 5, 16, 16)
    assert batch.teacher_images.shape == (6, 3, 16, 16)
    with pytest.raises(ValueError, match=r'takes 4 channels.*"array" of 4 channels.*found: 5'):
        take(loader(mixture, channels=4), 1)


@pytest.mark.parametrize("kind", ["full", "crop_flip", "none"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"teacher_size": 32},
        {"channels": 1},
        {"channels": 1, "teacher_size": 32},
        {"channels": 5},
    ],
)
def test_split_augmentation_gives_the_images_of_the_cpu(
    kind: Any, workers: int, options: dict[str, Any]
) -> None:
    mixture, config = Mixture(sources(broken=[3]), seed=1), AugmentConfig(kind=kind)
    common = {"size": 16, "batch_size": 6, "seed": 9, **options}
    whole = take(make_loader(mixture, config, **common), 4)
    split = take(
        make_loader(mixture, config, **common, num_workers=workers, colour_on=torch.device("cpu")),
        4,
    )
    for ours, theirs in zip(split, whole, strict=True):
        assert (ours.teacher_images is ours.images) == (theirs.teacher_images is theirs.images)
        for name, x in ours.tensors.items():
            y = theirs.tensors[name]
            assert x.dtype == y.dtype, name
            # a fused multiply-add may cross a step of 8 bits; measured 0
            assert (~torch.isclose(x, y, rtol=0, atol=1e-5)).float().mean() < 1e-4, name


def test_workers_of_a_split_augmentation_send_bytes_and_draws() -> None:
    mixture = Mixture(sources(), seed=1)
    split = loader(mixture, teacher_size=32, colour_on=torch.device("cpu"))
    made = split._loader.dataset[6]
    assert made.batch is not None
    assert made.params is not None
    assert made.batch.images.dtype == made.batch.teacher_images.dtype == torch.uint8
    drawn = draw(9, made.batch.source, made.batch.index, made.batch.view, UNIC)
    assert torch.equal(made.params.factors, drawn.factors)


def test_broken_image_is_replaced_by_another_of_its_source_and_listed() -> None:
    mixture = Mixture(sources(broken=[0, 5]), seed=1)
    batches = loader(mixture, batch_size=20)
    [batch] = take(batches, 1)
    assert len(batch.images) == 20
    listed = {bad.identity: bad for bad in batches.bad_images}
    assert set(listed) == {"a/0", "a/5"}
    for bad in listed.values():
        b = bad.position
        assert (bad.source, bad.why) == ("a", "made so")
        assert bad.replaced_by == f"a/{int(batch.index[b])}"
        assert int(batch.source[b]) == 0
        assert int(batch.index[b]) not in (0, 5)
    assert take(loader(mixture, batch_size=20), 1)[0].images.equal(batch.images)


@pytest.mark.parametrize("workers", [0, 1])
def test_source_of_broken_images_ends_in_one_sentence(workers: int) -> None:
    mixture = Mixture([Pictures("a", 9, broken=range(9))])
    with pytest.raises(ValueError, match=r"no image of 'a' could be decoded in 17 tries") as caught:
        take(loader(mixture, num_workers=workers), 1)
    assert "\n" not in str(caught.value)


# Sweeps and evaluation


@pytest.mark.parametrize("workers", [0, 2])
def test_sweep_gives_every_view_once_as_training_will_see_it(workers: int) -> None:
    both = sources()
    found = {
        (int(s), int(i), int(v)): image
        for batch in sweep(both, UNIC, size=16, batch_size=6, views=2, seed=9, num_workers=workers)
        for s, i, v, image in zip(batch.source, batch.index, batch.view, batch.images, strict=True)
    }
    assert len(found) == (13 + 7) * 2
    for batch in take(loader(Mixture(both, seed=4, views=2)), 10):
        for b in range(6):
            key = (int(batch.source[b]), int(batch.index[b]), int(batch.view[b]))
            assert torch.equal(batch.images[b], found[key])


def test_sweep_continues_where_it_stopped_and_leaves_broken_images_out() -> None:
    both = sources(broken=[2])
    whole = sweep(both, UNIC, size=16, batch_size=6, views=2)
    positions = torch.cat([batch.position for batch in whole]).tolist()
    assert positions == [p for p in range(40) if p not in (2, 22)]
    assert [(b.position, b.identity, b.replaced_by) for b in whole.bad_images] == [
        (-1, "a/2", None)
    ] * 2
    rest = sweep(both, UNIC, size=16, batch_size=6, views=2, start=18)
    assert torch.cat([batch.position for batch in rest]).tolist() == [
        p for p in positions if p >= 18
    ]


def test_loader_of_files_survives_an_image_that_breaks_while_training(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, [f"{i}.jpg" for i in range(8)]))
    batches = loader(Mixture([source], seed=0), batch_size=8)
    (tmp_path / "3.jpg").write_bytes(b"")
    assert len(take(batches, 1)[0].images) == 8
    assert [(bad.identity, bad.why) for bad in batches.bad_images] == [
        ("3.jpg", "the file is empty")
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_consumes_no_global_randomness(workers: int) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    take(loader(Mixture(sources(), seed=1), num_workers=workers), 4)
    after = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_everything_a_worker_needs_can_be_pickled() -> None:
    batches = loader(Mixture(sources(), sampling="balanced", batch=6))
    reader = batches._loader.dataset
    ours, theirs = pickle.loads(pickle.dumps(reader))[6].batch, reader[6].batch
    assert theirs is not None
    assert_equal([ours], [theirs])


def test_images_without_augmentation_are_those_of_evaluation() -> None:
    mixture = Mixture(sources(), seed=1)
    [batch] = take(make_loader(mixture, AugmentConfig(kind="none"), size=16, batch_size=2), 1)
    image: Image.Image = mixture.sources[int(batch.source[0])].read(int(batch.index[0])).image
    assert torch.equal(batch.images[0], eval_transform(image, 16))
