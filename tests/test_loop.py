"""The training loop around a distillation: what a step does, refuses, and never asks the device."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import toys
from alumnus import api, assembly, hub
from alumnus.config import RunConfig, load_config
from alumnus.data import Batch
from alumnus.distill import Distillation
from alumnus.projectors import ProjectorKind
from alumnus.randomness import seed_default_generators
from alumnus.running import prepare
from alumnus.runs import load_encoder, load_student
from alumnus.standardize import Kind
from alumnus.teachers import load_teacher
from alumnus.training.checkpoint import Checkpoints
from alumnus.training.distributed import World
from alumnus.training.loop import NonFiniteError, Trainer
from no_host_reads import NoHostReads


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    return toys.write_images(tmp_path / "photos")


def config_of(images: Path, *words: str) -> RunConfig:
    recipe = toys.write_recipe(images.parent)
    out = images.parent / "run"
    return load_config(
        recipe, [f"data.train={images}", f"out={out}", "train.precision=fp32", *words]
    )


def distillation_of(config: RunConfig) -> Distillation:
    """All of a run but its loop; teachers are live."""
    teachers = assembly.load_teachers(config)
    images = assembly.open_images(config, [teacher.domain for teacher in teachers.values()])
    student, _ = assembly.new_student(config, teachers)
    pool = assembly.build_pool(config, teachers, student)
    cpu = torch.device("cpu")
    run = assembly.build_distillation(config, student, teachers, images, device=cpu)
    run.teachers = assembly.build_targets(config, pool, None, cpu)
    return run


def batches_of(config: RunConfig, count: int, *, size: int | None = None) -> list[Batch]:
    """Random images at the first positions of a run."""
    size = size or config.optim.batch
    pixels = torch.Generator().manual_seed(3)
    made = []
    for start in range(0, count * size, size):
        position = torch.arange(start, start + size)
        images = torch.randn(size, 3, config.data.size, config.data.size, generator=pixels)
        zeros = torch.zeros_like(position)
        made.append(Batch(images, images, position, zeros, position, zeros))
    return made


def joined(batches: list[Batch]) -> Batch:
    columns = zip(*(batch.tensors.values() for batch in batches), strict=True)
    return Batch._make([*map(torch.cat, columns), None])


def with_nan(batch: Batch) -> Batch:
    """The same, with a picture for the student that is not finite."""
    images = batch.images.clone()
    images[0, 0, 0, 0] = float("nan")
    return batch._replace(images=images)


def state_of(run: Distillation) -> dict[str, Tensor]:
    """A copy of weights, statistics, buffers and optimiser."""
    named = dict(run.module.state_dict())
    for number, state in enumerate(run.optimizer.state.values()):
        named |= {f"optimizer.{number}.{entry}": value for entry, value in state.items()}
    return {name: value.clone() for name, value in named.items()}


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("student", ["vit", "python:toys:convolution"])
def test_a_step_that_is_not_finite_and_all_after_it_change_nothing(
    images: Path, student: str
) -> None:
    # the convolution has BatchNorm, whose statistics move in every forward pass
    words = ["projector={kind: mlp}", f"student.model={student}"]
    run = distillation_of(config := config_of(images, *words))
    good = batches_of(config, 2)
    run.step(good, 0)
    before = state_of(run)
    metrics = run.step([good[0], with_nan(good[1])], 1)
    assert differing(before, state_of(run)) == []
    assert metrics["first_bad"] == 1
    run.step(good, 2)
    assert differing(before, state_of(run)) == []
    assert run.first_bad == 1


@pytest.mark.parametrize(
    ("weights", "state"),
    [("uncertainty", "log_variance_T"), ("adaloss", "average_T"), ("gradnorm", "logit_T")],
)
def test_a_good_step_changes_weights_statistics_and_optimiser(
    images: Path, weights: str, state: str
) -> None:
    run = distillation_of(config := config_of(images, f"balance.weights={weights}"))
    for step in range(2):
        run.step(batches_of(config, 2), step)
    before = state_of(run)
    run.step(batches_of(config, 2), 2)
    changed = differing(before, state_of(run))
    assert {f"balance.{state}", "standardizers.red/cls/mean"} <= set(changed)
    assert any(name.startswith("student.encoder.blocks") for name in changed)
    assert any(name.startswith("optimizer") for name in changed)


@pytest.mark.parametrize("teacher", ["broken", None], ids=["teacher", "images"])
def test_the_run_stops_and_names_the_step_the_images_and_the_teacher(
    images: Path, teacher: str | None
) -> None:
    words = [f"teachers.ill.model=python:toys:{teacher}"] if teacher else []
    run = distillation_of(config := config_of(images, *words))
    batches = batches_of(config, 8)
    if teacher is None:
        batches[5] = with_nan(batches[5])
    trainer: Trainer[Batch] = Trainer(
        run, lambda _: iter(batches), steps=4, batch_size=4, accumulate=2, log_every=4
    )
    with pytest.raises(NonFiniteError) as caught:
        trainer.run()
    if teacher is None:
        assert "in step 2 (image positions 16 to 23) the loss of red, blue" in str(caught.value)
    else:
        assert "in step 0 (image positions 0 to 7) the loss of ill was" in str(caught.value)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_step_never_reads_the_device(images: Path, kind: str) -> None:
    settings = [f"standardize.kind={kind}", "optim.clip_norm=1.0", "balance.weights=uncertainty"]
    run = distillation_of(config := config_of(images, *settings))
    batches = batches_of(config, 2)
    seed_default_generators(0, 0)
    run.step(batches, 0)
    with NoHostReads():  # type: ignore[no-untyped-call]
        run.step(batches, 1)


def test_two_micro_batches_step_as_one_of_both_where_nothing_depends_on_the_batch(
    images: Path,
) -> None:
    fixed = [
        "departures.aggregation=sum",
        "balance.drop_p=0.5",
        "student.drop_path=0.0",
        "standardize.kind=frozen",
        "optim.warmup=0",
    ]
    halves = ["optim.batch_size=8", "optim.accumulate=2"]
    whole = ["optim.batch_size=16", "optim.accumulate=1"]
    config = config_of(images, *fixed, *halves)
    one, two = distillation_of(config_of(images, *fixed, *whole)), distillation_of(config)
    batches = batches_of(config, 2)
    loss_one, loss_two = one.step([joined(batches)], 0)["loss"], two.step(batches, 0)["loss"]
    torch.testing.assert_close(loss_one, loss_two)
    for gradients in zip(one.optimizer.state.values(), two.optimizer.state.values(), strict=True):
        a, b = (state["exp_avg"] for state in gradients)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # another order of summation


def test_dropping_is_drawn_by_position_not_by_place_in_the_batch(images: Path) -> None:
    words = ["balance.drop_p=0.5", "student.drop_path=0.0", "standardize.kind=none"]
    run = distillation_of(config := config_of(images, *words))
    run.student.eval()
    (batch,) = batches_of(config, 1, size=8)
    order = torch.tensor([5, 2, 7, 0, 3, 1, 6, 4])
    shuffled = batch.map(lambda column: column[order])
    elsewhere = batch._replace(position=batch.position + 3)
    loss, *_ = run.forward(batch, 0, 1.0)
    torch.testing.assert_close(run.forward(shuffled, 0, 1.0)[0], loss)
    assert run.forward(elsewhere, 0, 1.0)[0] != loss
    assert run.forward(batch, 1, 1.0)[0] != loss


def test_gradients_are_clipped_tensor_by_tensor(images: Path) -> None:
    run = distillation_of(config := config_of(images, "optim.clip_norm=0.001"))
    metrics = run.step(batches_of(config, 2), 0)
    assert metrics["grad_norm"] > 0.001  # as it was before
    for state in run.optimizer.state.values():
        gradient = state["exp_avg"] / (1 - 0.9)
        assert gradient.norm() <= 0.001 * 1.001


@pytest.mark.parametrize("projector", get_args(ProjectorKind))
@pytest.mark.parametrize("standardize", get_args(Kind))
def test_every_standardisation_trains_with_every_projector(
    images: Path, standardize: str, projector: str
) -> None:
    words = [f"standardize={{kind: {standardize}, calibration_steps: 2}}", "optim.steps=2"]
    config = config_of(images, *words, f"projector={{kind: {projector}}}")
    result = api.distill(config)
    loaded = load_student(result.folder)
    assert loaded.standardizers.kind == standardize
    (batch,) = batches_of(config, 1)
    predictions = loaded.predict(batch.images)
    assert {name: tokens.of("patch").shape[-1] for name, tokens in predictions.items()} == {
        "red": 6,
        "blue": 4,
    }
    assert all(torch.isfinite(tokens.of("patch")).all() for tokens in predictions.values())


@pytest.mark.parametrize("kind", ["frozen", "phi-s"])
def test_calibrated_statistics_are_those_of_the_first_batches_and_stay(
    images: Path, kind: str
) -> None:
    def statistics(steps: int) -> dict[str, Tensor]:
        words = [f"standardize={{kind: {kind}, calibration_steps: 3}}", f"optim.steps={steps}"]
        result = api.distill(config_of(images, *words, f"out={images.parent / str(steps)}"))
        return load_student(result.folder).standardizers.state_dict()

    a, b = statistics(1), statistics(3)
    assert differing(a, b) == []
    assert bool(a["calibrated"])
    assert not torch.equal(a["red/cls/mean"], torch.zeros(6))


def test_learned_weights_of_teachers_are_trained_and_kept_in_the_checkpoint(images: Path) -> None:
    config = config_of(images, "balance.weights=uncertainty", "optim.steps=3")
    newest = Checkpoints(api.distill(config).folder / "checkpoints").newest()
    assert newest is not None
    newest.load_into({"module:balance.log_variance_T": (weights := torch.zeros(2))})
    assert weights.abs().min() > 0


@pytest.mark.parametrize("size", [16, 32])
def test_a_run_starts_from_another_at_its_own_or_another_size(images: Path, size: int) -> None:
    first = api.distill(config_of(images, "out=" + str(images.parent / "first")))
    start = load_encoder(first.folder).state_dict()
    config = config_of(
        images, f"init={first.folder}", f"data.size={size}", "optim.lr=1e-9", "optim.min_lr=0"
    )
    second = api.distill(config)
    encoder = load_encoder(second.folder)
    assert encoder.image_size == size
    grown = encoder.state_dict()
    assert grown["pos_embed"].shape[1] == 1 + (size // 8) ** 2
    for name, value in start.items():
        if name != "pos_embed" or size == 16:
            torch.testing.assert_close(grown[name], value, rtol=0, atol=1e-6)


def test_a_second_stage_takes_over_all_but_positions_schedules_and_optimiser(images: Path) -> None:
    dune = ["projector={kind: transformer}", "standardize.kind=batch", "optim.warmup=0.5"]
    first = api.distill(config_of(images, *dune, "out=" + str(images.parent / "first")))
    earlier = load_student(first.folder)
    config = config_of(images, *dune, f"init={first.folder}", "data.size=40", "optim.steps=10")
    run = prepare(config, torch.device("cpu"), World()).run
    for name, value in earlier.standardizers.state_dict().items():
        assert torch.equal(run.standardizers.state_dict()[name], value)
    ours, theirs = run.student.state_dict(), earlier.student.state_dict()
    positions = "encoder.pos_embed"
    same = [name for name in theirs if name != positions]
    assert all(torch.equal(ours[name], theirs[name]) for name in same)
    old = theirs[positions][:, 1:].transpose(1, 2).unflatten(2, (2, 2))
    grown = torch.nn.functional.interpolate(
        old, size=(5, 5), mode="bicubic", align_corners=False, antialias=False
    )  # an explicit size: no offset in the scale
    torch.testing.assert_close(ours[positions][:, 1:], grown.flatten(2).transpose(1, 2))
    assert run.momentum(0) == 1.0
    assert run.rate(0) < run.rate(4) > run.rate(9)
    assert not run.optimizer.state


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("teachers=python:toys:red", "'model.projectors.blue"),
        ("student.dim=32", "tensors differ"),
        ("standardize.kind=phi-s", "rotation'"),
    ],
)
def test_a_start_from_another_kind_of_student_is_one_sentence(
    images: Path, word: str, what: str
) -> None:
    first = api.distill(config_of(images, "out=" + str(images.parent / "first")))
    with pytest.raises(ValueError, match="is a student of another kind") as caught:
        api.distill(config_of(images, f"init={first.folder}", word))
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (images.parent / "run").exists()


def test_an_optional_teacher_that_cannot_be_had_is_left_out_of_run_and_evaluation(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(name: str) -> Path:
        raise hub.UnavailableError(f"teacher {name} needs its weights")

    monkeypatch.setattr(hub, "get", away)
    config = config_of(images, "teachers.lite={model: efficientnet-lite0, optional: true}")
    result = api.distill(config)
    assert "going on without teacher lite" in caplog.text
    records = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert {key for key in json.loads(records[0]) if key.startswith("loss/")} == {
        "loss/red",
        "loss/blue",
    }
    results = api.evaluate([str(result.folder)], [f"knn={images}"], device="cpu")
    assert [model.name for model in results.models if model.kind == "teacher"] == ["red", "blue"]
    with pytest.raises(ValueError, match="teacher efficientnet-lite0 needs its weights"):
        api.distill(config_of(images, "teachers.lite.model=efficientnet-lite0", "out=other"))


def test_a_run_whose_optional_teacher_came_back_is_not_resumed_with_it(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(images, "teachers.third={model: python:toys:fine, optional: true}")

    def away(model: str, **options: Any) -> Any:
        if options["name"] == "third":
            raise hub.UnavailableError("not now")
        return load_teacher(model, **options)

    with monkeypatch.context() as patch:
        patch.setattr(assembly.teachers, "load_teacher", away)
        api.distill(config)
    with pytest.raises(ValueError, match="of another student or other teachers"):
        api.distill(config, resume=True)


def test_the_average_of_the_weights_is_kept_and_is_the_result(images: Path) -> None:
    words = ["train.ema=0.75", "optim.steps=3"]
    run = distillation_of(config := config_of(images, *words))
    expected = {n: p.clone() for n, p in run.student.named_parameters()}
    for step in range(3):
        run.step(batches_of(config, 2), step)
        for name, parameter in run.student.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * parameter.detach()
    for name, parameter in run.result.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-6)
    folder = api.distill(config).folder
    newest = Checkpoints(folder / "checkpoints").newest()
    assert newest is not None
    kept = load_student(folder).student.state_dict()
    stored = {f"module:ema.{name}": torch.zeros_like(value) for name, value in kept.items()}
    newest.load_into(stored)
    assert all(torch.equal(stored[f"module:ema.{name}"], kept[name]) for name in kept)


def test_a_bad_step_leaves_the_average_alone(images: Path) -> None:
    run = distillation_of(config := config_of(images, "train.ema=0.75"))
    good = batches_of(config, 2)
    run.step(good, 0)
    before = state_of(run)
    run.step([good[0], with_nan(good[1])], 1)
    assert differing(before, state_of(run)) == []


def calls_of(module: torch.nn.Module) -> list[None]:
    """Grows with each call of a module."""
    calls: list[None] = []
    module.register_forward_pre_hook(lambda *_: calls.append(None))
    return calls


@pytest.mark.parametrize("student", ["vit_tiny", "timm:vit_tiny_patch16_224"])
def test_activation_checkpointing_changes_memory_only(images: Path, student: str) -> None:
    words = [f"student={{model: '{student}', patch_size: 16, drop_path: 0.3}}", "data.size=32"]
    states, calls = [], []
    for switch in ("false", "true"):
        config = config_of(images, *words, f"train.checkpoint_activations={switch}")
        run = distillation_of(config)
        blocks = run.student.get_submodule("encoder").units
        assert isinstance(blocks, list)
        seen = calls_of(blocks[0])
        seed_default_generators(0, 0)
        run.step(batches_of(config, 2), 0)
        states.append(state_of(run))
        calls.append(len(seen))
    assert differing(*states) == []
    assert calls == [2, 4]  # for two micro-batches: forward, and again for backward


@pytest.mark.slow
def test_compiled_run_is_the_same_run_and_its_tensors_keep_their_names(images: Path) -> None:
    ran = {}
    for switch in ("false", "true"):
        words = ["student.drop_path=0", f"train.compile={switch}", f"out={images.parent / switch}"]
        ran[switch] = api.distill(config_of(images, *words))
    eager, compiled = ran["false"], ran["true"]
    assert compiled.loss == pytest.approx(eager.loss, abs=1e-5)
    ours, theirs = (load_student(run.folder).student.state_dict() for run in (compiled, eager))
    assert list(ours) == list(theirs)


@pytest.mark.slow
def test_blocks_with_rates_of_drop_path_of_their_own_are_all_compiled(images: Path) -> None:
    config = config_of(
        images,
        *("student.depth=10", "student.drop_path=0.3", "projector={kind: linear}"),
        *("train.compile=true", "teachers={vit: {model: 'python:toys:vit'}}"),
    )
    run = distillation_of(config)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        run.step(batches_of(config, 2), 0)
        run.student.eval()(torch.zeros(2, 3, 16, 16))


def test_activation_checkpointing_of_a_student_that_cannot_is_refused(images: Path) -> None:
    words = ["projector={kind: mlp}", "student.model=python:toys:convolution"]
    with pytest.raises(ValueError, match="has no set_grad_checkpointing"):
        distillation_of(config_of(images, *words, "train.checkpoint_activations=true"))
