"""Several processes see the images of one, and end with its weights."""

import errno
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.distributed import FileStore  # type: ignore[attr-defined]  # public, not in __all__
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

import toys
from alumnus import api
from alumnus.config import ConfigError, load_config
from alumnus.evaluation.results import Results
from alumnus.teachers.timm_teacher import TimmNetwork
from alumnus.training import checkpoint as module
from alumnus.training.checkpoint import Checkpoints
from alumnus.training.distributed import World, is_sharded, shard, shard_frozen
from alumnus.training.sharding import is_shard, whole
from rank_runs import STEPS, Case, run_case, run_together
from torchrun import started

KINDS = {
    "sum": ["departures.aggregation=sum", "standardize.kind=batch"],
    "released": ["departures.scope=global", "standardize.kind=running"],
    "gradnorm": ["departures.scope=global", "balance={weights: gradnorm, drop_p: 0}"],
    "uncertainty": ["departures.scope=global", "balance.weights=uncertainty", "train.ema=0.9"],
}
WAYS = [
    (kind, parallel)
    for kind in KINDS
    for parallel in ("ddp", "fsdp2")
    if (kind, parallel) != ("gradnorm", "fsdp2")  # refused
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    toys.write_images(folder / "photos")
    toys.write_recipe(folder)
    return folder


def case_of(place: Path, name: str, *words: str, **settings: object) -> Case:
    always = [
        f"data.train={place / 'photos'}",
        "student.drop_path=0",
        "train.precision=fp32",
        "optim.batch_size=4",
        "optim.clip_norm=0.1",
    ]
    case = Case(name, str(place / "toy.yaml"), [*always, *words], str(place))
    return replace(case, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """Results of every case in one process, and in two, or four."""
    by_ranks: dict[int, list[Case]] = {2: [], 4: []}
    for kind, parallel in WAYS:
        for double in (True, False):
            name = f"{kind}-{parallel}-{double}"
            words = [f"train.parallel={parallel}", *KINDS[kind]]
            case = case_of(place, name, *words, double=double)
            if parallel == "ddp":
                run_case(replace(case, name=f"{kind}-alone-{double}"), World())
            by_ranks[4 if kind == "sum" else 2].append(case)
    stored = place / "checkpoints"
    for parallel in ("ddp", "fsdp2"):
        words = [f"train.parallel={parallel}", *KINDS["released"]]
        half = case_of(
            place, f"half-{parallel}", *words, steps=STEPS // 2, checkpoints=str(stored / parallel)
        )
        by_ranks[2].append(half)
    for parallel in ("ddp", "fsdp2"):
        words = [f"train.parallel={parallel}", *KINDS["uncertainty"]]
        before = case_of(place, f"before-{parallel}", *words, steps=3)
        by_ranks[2] += [before, replace(before, name=f"bad-{parallel}", steps=6, poison=3)]
    words = [
        *KINDS["sum"],
        "teachers={red: {model: 'python:toys:red'}, vit: {model: 'python:toys:vit'}}",
    ]
    run_case(case_of(place, "whole-teachers", *words), World())
    by_ranks[2].append(case_of(place, "sharded-teachers", "train.shard_teachers=true", *words))
    run_together(2, by_ranks[2], place)
    for parallel in ("ddp", "fsdp2"):
        words = [f"train.parallel={parallel}", *KINDS["released"]]
        taken_up = str(stored / parallel)
        for name in ("again", "again-alone"):
            case = case_of(place, f"{name}-{parallel}", *words, takes_up=taken_up)
            case = replace(case, checkpoints=str(place / case.name))
            if name == "again":
                by_ranks[4].append(case)
            else:
                run_case(case, World())
    run_together(4, by_ranks[4], place)
    return place


def differ(place: Path, a: str, b: str) -> float:
    """The largest difference of any weight or statistic."""
    ours, theirs = (load_file(place / f"{name}.safetensors") for name in (a, b))
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


def record(place: Path, name: str, rank: int = 0) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((place / f"{name}.{rank}.json").read_text())
    return loaded


@pytest.mark.parametrize(("kind", "parallel"), WAYS)
@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-9), (False, 1e-5)])
def test_several_processes_end_with_the_weights_of_one(
    trained: Path, kind: str, parallel: str, double: bool, tolerance: float
) -> None:
    assert differ(trained, f"{kind}-{parallel}-{double}", f"{kind}-alone-{double}") < tolerance
    ours, theirs = (
        torch.tensor([loss for loss, _ in record(trained, f"{kind}-{which}-{double}")["losses"]])
        for which in (parallel, "alone")
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=max(tolerance, 1e-7))


def test_the_processes_together_see_the_images_of_one_in_its_order(trained: Path) -> None:
    alone = record(trained, "sum-alone-True")["positions"]
    parts = [record(trained, "sum-ddp-True", rank)["positions"] for rank in range(4)]
    for step, positions in enumerate(alone):
        dealt = [part[step] for part in parts]
        assert [p for hand in zip(*dealt, strict=True) for p in hand] == positions


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", ["again", "again-alone"])
def test_a_run_goes_on_with_another_number_of_processes(
    trained: Path, parallel: str, name: str
) -> None:
    # two processes wrote the checkpoint after half of the steps; four, and one, went on from it
    assert differ(trained, f"{name}-{parallel}", "released-alone-True") < 1e-9


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_a_bad_image_in_one_process_stops_the_weights_of_all(trained: Path, parallel: str) -> None:
    assert differ(trained, f"bad-{parallel}", f"before-{parallel}") == 0


def test_a_sharded_checkpoint_has_a_file_from_each_process_and_no_pickle(trained: Path) -> None:
    folder = trained / "checkpoints" / "fsdp2" / f"step-{STEPS // 2:08d}"
    endings = sorted(path.suffix for path in folder.iterdir())
    assert endings == [".json", ".safetensors", ".safetensors"]


def test_teachers_may_be_sharded_too(trained: Path) -> None:
    assert differ(trained, "sharded-teachers", "whole-teachers") < 1e-9
    whole = record(trained, "whole-teachers")["teacher_weights"]
    parts = [record(trained, "sharded-teachers", rank)["teacher_weights"] for rank in range(2)]
    # what is in no block is put together by the first batch and stays so
    assert 0.5 * whole < parts[0] == parts[1] < 0.7 * whole


def test_beside_sharded_teachers_the_student_alone_is_measured(place: Path) -> None:
    words = [
        *case_of(place, "looks").words,
        "teachers={vit: {model: 'python:toys:vit'}}",
        "standardize.kind=phi-s",
        f"train.knn={place / 'photos'}",
        f"evaluate.tasks=[knn={place / 'photos'}]",
    ]
    words += ["train.shard_teachers=true", f"out={place / 'parts'}", "train.eval_every=2"]
    words += ["train.parallel=fsdp2", "train.ema=0.9"]  # a look must leave the average sharded
    run = started(2, ["-m", "alumnus", "distill", str(place / "toy.yaml"), *words])
    try:
        said, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 0, said
    assert "sharded, so not measured here: vit" in said
    found = Results.load(place / "parts/evaluation/results.json")
    names = [model.name for model in found.models]
    assert "vit" not in names
    assert names[:2] == ["student", "student as vit"]
    assert re.search(r"k-NN [0-9.]+$", said, re.MULTILINE), said


@pytest.mark.parametrize("word", ["cache.enabled=true", "train.compile=true"])
def test_sharded_teachers_go_neither_with_a_cache_nor_with_compilation(word: str) -> None:
    with pytest.raises(ConfigError, match=r"train.shard_teachers.*take one of them"):
        load_config("folder", ["cache.enabled=false", "train.shard_teachers=true", word])


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    store = FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("where", "name", "error", "said"),
    [
        (HuggingFaceStorageWriter, "write_data", OSError(errno.ENOSPC, "full"), "disk is full"),
        (module, "_sync", KeyboardInterrupt(), None),
    ],
)
def test_a_sharded_checkpoint_that_breaks_off_leaves_the_one_before(
    one_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    error: BaseException,
    said: str | None,
) -> None:
    network = nn.Linear(8, 8)
    shard(network, [])
    checkpoints = Checkpoints(tmp_path / "stored", world=World())
    checkpoints.save(1, network.state_dict(), {})

    def breaks(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, name, breaks)
        with pytest.raises(type(error), match=said):
            checkpoints.save(2, network.state_dict(), {})
    assert checkpoints.steps() == [1]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == 1
    before = whole(network.weight).clone()
    network.weight.data.zero_()
    newest.load_into(network.state_dict())
    assert torch.equal(whole(network.weight), before)
    checkpoints.save(3, network.state_dict(), {})
    assert not list(checkpoints.folder.glob(".*"))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "convnext_atto"])
def test_teachers_of_any_kind_say_the_same_when_sharded(one_process: None, name: str) -> None:
    network = TimmNetwork(timm.create_model(name, num_classes=0)).eval().requires_grad_(False)
    images = torch.randn(2, 3, 224, 224)
    before = network(images)
    assert shard_frozen(network, torch.device("cpu")) > 0.5
    torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-4)


class Shared(nn.Module):
    """One activation in two lists, and a scalar in a block."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.PReLU(8)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), act, nn.Linear(8, 8), act])
        self.more = nn.ModuleList([act, nn.Linear(8, 8), nn.GELU()])
        self.blocks[0].scale = self.scale = nn.Parameter(torch.tensor(2.0))


def test_shared_modules_and_scalars_are_no_obstacle(one_process: None) -> None:
    network = Shared().requires_grad_(False)
    shard_frozen(network, torch.device("cpu"))
    assert is_sharded(network.more[1])
    assert not is_sharded(network.more[2])  # nothing to deal out
    assert not is_shard(network.scale)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_that_are_asked_to_stop_save_and_go_on_as_if_never_stopped(
    place: Path, parallel: str
) -> None:
    out = place / f"asked-{parallel}"
    always = case_of(place, "asked", "optim.steps=200").words
    words = [*always, "departures.scope=global", f"train.parallel={parallel}"]
    command = ["-m", "alumnus", "distill", str(place / "toy.yaml"), *words, f"out={out}"]
    run = started(2, command)
    while '"step": 10' not in (read_if_there(out / "metrics.jsonl")):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.02)
    for child in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGTERM)
    said, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "stopped on request after step" in said
    assert not (out / "encoder.safetensors").exists()
    again = started(2, [*command, "--resume"])
    said, _ = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert "resumed after step" in said
    api.distill(str(place / "toy.yaml"), *words, f"out={out}-alone")
    ours, theirs = (load_file(Path(f"{out}{end}/encoder.safetensors")) for end in ("", "-alone"))
    for name, tensor in theirs.items():
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)


def read_if_there(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_process_that_dies_ends_the_others_and_one_alone_can_go_on(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [
        *case_of(place, "dying", "optim.steps=100", "train.checkpoints=10").words,
        "departures.scope=global",
        f"out={place / 'dying'}",
    ]
    run = started(2, ["-m", "alumnus", "distill", str(place / "toy.yaml"), *words])
    stored = place / "dying" / "checkpoints"
    while not list(stored.glob("step-*")):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    said, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "[rank0]: Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    expected = "error: process 0 ends because another one has died; go on with --resume"
    assert errors == [expected], said
    with caplog.at_level("INFO"):
        api.distill(str(place / "toy.yaml"), *words, resume=True)
    assert "resumed after step" in caplog.text
    api.distill(str(place / "toy.yaml"), *words, f"out={place / 'whole'}")
    ours, theirs = (load_file(place / run / "encoder.safetensors") for run in ("dying", "whole"))
    for name, tensor in theirs.items():
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-3)
