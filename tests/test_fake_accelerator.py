"""A step on an accelerator that is not there: devices are never mixed, and nothing waits."""

from pathlib import Path

import pytest
import torch

from alumnus.data import UNIC, Batch, Mixture, open_source
from alumnus.data.device_pixels import Stored, crop_resize
from alumnus.data.reader import BatchReader, Views
from alumnus.standardize import batch_moments
from alumnus.teachers import PoolWithWorkers, TeacherPool, load_teacher
from alumnus.training.optimizer import build_adamw
from fake_accelerator import DEVICE, fake_accelerator, torch_can_pretend
from test_loop import batches_of, config_of, distillation_of, images

__all__ = ["images"]  # a fixture

pytestmark = pytest.mark.skipif(not torch_can_pretend(), reason="torch asks the driver")


def test_it_refuses_what_a_gpu_would_refuse_or_wait_for() -> None:
    with fake_accelerator() as accelerator:
        accelerator.may_wait = False
        there = torch.ones(3, device=DEVICE)
        with pytest.raises(RuntimeError, match=r"two (different )?devices"):
            there + torch.ones(3)
        with pytest.raises(AssertionError, match="waits"):
            torch.tensor(1.0, device=DEVICE)
        with pytest.raises(AssertionError, match="waits"):
            there.copy_(torch.ones(3))
        with pytest.raises(AssertionError, match="reads"):
            there.cpu()
        with pytest.raises(Exception, match="nonzero"):
            there[there > 0]
        with pytest.raises(Exception, match="_local_scalar_dense"):
            float(there.sum())
        assert torch.ones(3).to(DEVICE, non_blocking=True).device == DEVICE
        assert batch_moments(there[:, None]).n.device == DEVICE


STEPS = {
    "running": ["standardize.kind=running", "balance.weights=uncertainty", "optim.clip_norm=1.0"],
    "batch": ["standardize.kind=batch", "train.ema=0.99", "departures.aggregation=sum"],
    "frozen": ["standardize.kind=frozen", "balance={weights: adaloss, drop_p: 0}"],
    "phi-s": ["standardize.kind=phi-s", "balance={weights: gradnorm, drop_p: 0}"],
    "none": ["standardize.kind=none", "loss.patch_share=0.25", "departures.scope=global"],
    "other sizes": ["data.teacher_size=32"],
    "on the host": ["teachers={red: {model: 'python:toys:red'}, own: {model: 'python:toys:host'}}"],
}


def there(batch: Batch) -> Batch:
    targets = batch.targets
    return batch._replace(
        images=batch.images.to(DEVICE, non_blocking=True),
        teacher_images=batch.teacher_images.to(DEVICE, non_blocking=True),
        targets=None if targets is None else {n: t.to(DEVICE) for n, t in targets.items()},
    )


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_keeps_to_the_device_and_never_waits(images: Path, kind: str) -> None:
    config = config_of(images, *STEPS[kind])
    run = distillation_of(config)
    targets = run.teachers
    batches = batches_of(config, 2)
    if isinstance(targets, PoolWithWorkers):
        batches = [batch._replace(targets=targets.host.targets(batch)) for batch in batches]
    pool = targets.live if isinstance(targets, PoolWithWorkers) else targets
    assert isinstance(pool, TeacherPool)
    modules = [run.student, run.standardizers, run.balance, *pool.teachers.values()]
    modules += [] if run.ema is None else [run.ema]
    with fake_accelerator(modules) as accelerator:
        run.optimizer = build_adamw(torch.nn.ModuleList([run.student, run.balance]))
        run.__post_init__()
        accelerator.may_wait = False
        metrics = run.step([there(batch) for batch in batches], 3)
    assert {value.device for value in metrics.values()} == {DEVICE}


def test_a_teacher_of_the_host_is_brought_pictures_that_are_there() -> None:
    teachers = {name: load_teacher(f"python:toys:{name}") for name in ("host", "red")}
    pool = TeacherPool(teachers, student_patch_size=8)
    with fake_accelerator(list(teachers.values())):
        assert pool.device == DEVICE
        found = pool.probe((16, 16))
    assert {x.of(kind).device for x in found.values() for kind in x.types} == {DEVICE}


def test_colours_are_finished_there_without_waiting(images: Path) -> None:
    source = open_source(str(images))
    views = Views(UNIC, 16, 32, 3, seed=0, split=True)
    mixture = Mixture([source])
    reader = BatchReader([source], views, locate=mixture.locate, batch_size=4, end=None)
    made = reader[0]
    assert made.batch is not None
    assert made.params is not None
    with fake_accelerator() as accelerator:
        accelerator.may_wait = False
        batch = views.finish(made.batch, made.params, DEVICE)
    assert batch.images.dtype == torch.float32
    assert {batch.images.device, batch.teacher_images.device} == {DEVICE}


def test_crops_of_images_that_are_there_are_cut_without_waiting() -> None:
    images, boxes = [Stored(0, 20, 30), Stored(600, 40, 10)], [(1, 2, 15, 20), (0, 0, 40, 10)]
    with fake_accelerator() as accelerator:
        pixels = torch.zeros(1000, 3, dtype=torch.uint8, device=DEVICE)
        accelerator.may_wait = False
        crops = crop_resize(pixels, images, boxes, 16)
    assert crops.shape == (2, 3, 16, 16)
    assert crops.device == DEVICE
