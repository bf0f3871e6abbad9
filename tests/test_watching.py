"""Watching a run: the signals against numbers by hand, and that looking changes nothing."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import r2_score
from torch import Tensor, nn

import toys
from alumnus import api
from alumnus.config import ConfigError, RunConfig, load_config
from alumnus.data import Source, eval_transform, open_source
from alumnus.evaluation.crops import keep_crops
from alumnus.evaluation.held_out import HeldOut, spread
from alumnus.evaluation.signals import Fit, effective_rank, measure_signals
from alumnus.standardize import Standardizers
from alumnus.teachers import TeacherPool
from alumnus.tokens import EncoderOutput, Tokens
from alumnus.training.forecast import forecast, learning_left
from alumnus.training.loop import Evaluation, Interval, Trainer
from alumnus.training.plateau import StoppingRule
from alumnus.training.schedules import cosine_schedule
from alumnus.watching import format_signals, looks_every
from image_files import write_folder
from tiny_teachers import PatchMean, patch_mean_teacher

MEAN = "explained_variance"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit_of(*batches: tuple[Tensor, Tensor]) -> Fit:
    fit = Fit()
    for prediction, target in batches:
        fit.add(prediction, target)
    return fit


# --- the numbers


def test_explained_variance_and_cosine_by_hand() -> None:
    target = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    prediction = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [0.0, -1.0]])
    fit = fit_of((prediction, target))
    assert fit.explained_variance == pytest.approx(1 - (4 + 4 + 1) / (2 + 8))
    assert fit.cosine == pytest.approx((1 + 1 + 0 + 1) / 4)


def test_explained_variance_is_r2_with_dimensions_weighted_by_variance() -> None:
    target = random(12, 5, 3) * torch.tensor([1.0, 5.0, 0.2]) + 7
    prediction = target + random(12, 5, 3, seed=1)
    batches = zip(prediction.split(5), target.split(5), strict=True)
    expected = r2_score(
        target.flatten(0, 1), prediction.flatten(0, 1), multioutput="variance_weighted"
    )
    assert fit_of(*batches).explained_variance == pytest.approx(expected, rel=1e-5)  # float32 sums


def test_the_mean_explains_nothing_the_target_everything_a_constant_target_neither() -> None:
    target = random(20, 4)
    assert fit_of((target, target)).explained_variance == 1
    mean = target.mean(dim=0).expand_as(target)
    assert fit_of((mean, target)).explained_variance == pytest.approx(0, abs=1e-6)
    assert fit_of((target, torch.ones_like(target))).explained_variance == 0


def test_effective_rank_by_hand() -> None:
    two_equal = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert effective_rank(two_equal) == pytest.approx(2)
    three_to_one = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])  # p = 3/4, 1/4
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_rank(three_to_one + 5) == pytest.approx(expected)
    assert effective_rank(torch.ones(7, 3) / 3) == 0
    assert effective_rank(torch.ones(1, 3)) == 0
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.nan], [0.0, 1.0]])))


def test_effective_rank_is_that_of_the_shape_not_of_scale_place_or_axes() -> None:
    features = random(30, 6) * torch.tensor([3.0, 2, 1, 1, 0.5, 0.1])
    rotation = torch.linalg.qr(random(6, 6, seed=1)).Q
    moved = 40 * features @ rotation + 9
    assert effective_rank(moved) == pytest.approx(effective_rank(features), rel=1e-4)


class Pupil(nn.Module):
    """Predicts the teacher's patches on twice its grid; drops out while in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PupilEncoder()

    def forward(self, images: Tensor) -> dict[str, Tokens]:
        tokens = self.encoder(images).final
        return {
            "colours": Tokens(nn.functional.dropout(tokens.patches, 0.5, self.training), (4, 4))
        }


class PupilEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = PatchMean(dim=6, patch_size=4)

    def forward(self, images: Tensor) -> EncoderOutput:
        tokens = self.network(images)
        return EncoderOutput(tokens, tokens, {})


def test_signals_bring_predictions_to_the_teachers_grid_in_evaluation_mode() -> None:
    batches = [(random(3, 3, 16, 16, seed=s), s) for s in range(3)]
    teacher = PatchMean(dim=6, patch_size=8)
    seen = [(images, {"colours": teacher(images).only(("patch",))}) for images, _ in batches]
    before = torch.get_rng_state()
    signals = measure_signals(
        Pupil().train(), Standardizers("none", {"colours": {"patch": 6}}), seen
    )
    assert torch.equal(before, torch.get_rng_state())
    # the mean colour of 8 px is the mean of those of 4 px
    assert signals["explained_variance/colours/patch"] == pytest.approx(1, abs=1e-6)
    assert signals["cosine/colours"] == pytest.approx(1, abs=1e-6)
    features = torch.cat(
        [PatchMean(dim=6, patch_size=4)(images).of("cls") for images, _ in batches]
    )
    assert signals["effective_rank"] == pytest.approx(effective_rank(features))


def test_means_go_over_token_types_then_teachers() -> None:
    standardizers = Standardizers("none", {"a": {"cls": 2, "patch": 2}, "b": {"patch": 2}})
    target, wrong = random(8, 2), random(8, 2, seed=1)

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = PupilEncoder()

        def forward(self, images: Tensor) -> dict[str, Tokens]:
            self.encoder(images)
            return {
                "a": Tokens(wrong[:, None], (1, 1), target),
                "b": Tokens(target[:, None], (1, 1)),
            }

    truth = {"a": Tokens(target[:, None], (1, 1), target), "b": Tokens(target[:, None], (1, 1))}
    signals = measure_signals(Fixed(), standardizers, [(random(8, 3, 8, 8), truth)])
    patch = signals["explained_variance/a/patch"]
    assert signals["explained_variance/a/cls"] == signals["explained_variance/b"] == 1
    assert signals["explained_variance/a"] == pytest.approx((1 + patch) / 2)
    assert signals[MEAN] == pytest.approx(((1 + patch) / 2 + 1) / 2)


# --- the images


def test_watched_images_are_spread_over_all_sources(tmp_path: Path) -> None:
    folders = [
        open_source(write_folder(tmp_path / name, [f"{i:02d}.jpg" for i in range(count)]))
        for name, count in (("a", 30), ("b", 1), ("c", 9))
    ]
    chosen = [(s.name, s.identity(i)) for s in spread(folders, 20) for i in range(len(s))]
    assert len(chosen) == len(set(chosen)) == 20
    assert [name for name, _ in chosen].count("a") == 15
    assert chosen[0] == ("a", folders[0].identity(0))
    assert chosen[-1] == ("c", folders[2].identity(8))
    assert sum(len(source) for source in spread(folders, 300)) == 40
    assert spread([], 5) == []


def test_teachers_look_at_held_out_images_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(toys.write_images(tmp_path))
    teacher = patch_mean_teacher()
    pool = TeacherPool({"colours": teacher}, 8)
    assert isinstance(teacher.network, PatchMean)

    def looked(room: int) -> list[int]:
        monkeypatch.setattr("alumnus.evaluation.held_out.KEPT_BYTES", room)
        held_out = HeldOut([source], pool, size=16, batch_size=5)
        counts = []
        for _ in range(3):
            network.seen.clear()
            assert sum(len(images) for images, _ in held_out) == len(source)
            counts.append(len(network.seen))
        return counts

    network = teacher.network
    once, *later = looked(2**20)
    assert (once, later) == (5, [0, 0])
    assert looked(1000) == [5, 5, 5]  # no room for them


def test_kept_crops_are_what_the_evaluation_sees(tmp_path: Path) -> None:
    source = open_source(toys.write_images(tmp_path))
    kept = keep_crops(source, 16)
    assert kept.classes == source.classes
    for i in range(len(source)):
        ours, theirs = kept.read(i), source.read(i)
        assert torch.equal(eval_transform(ours.image, 16), eval_transform(theirs.image, 16))
        assert ours.fields["cls"] == theirs.fields["cls"]


# --- a run


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    return toys.write_images(tmp_path / "photos", count=40)


def config_of(images: Path, *words: str, out: str = "run") -> RunConfig:
    recipe = toys.write_recipe(images.parent)
    return load_config(recipe, [f"data.train={images}", f"out={images.parent / out}", *words])


def records_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run: Path) -> dict[str, Tensor]:
    return load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / "state.safetensors")


def assert_equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


CACHED = ["cache={enabled: true, views: 2}", "teachers.five.model=python:toys:host"]


@pytest.mark.parametrize("settings", [[], CACHED], ids=["live", "cached with a host teacher"])
def test_a_watched_run_ends_with_the_same_weights(images: Path, settings: list[str]) -> None:
    watched = api.distill(
        config_of(images, *settings, "train.eval_every=1", f"train.knn={images}", out="watched")
    )
    blind = api.distill(config_of(images, *settings, "train.eval_every=0", out="blind"))
    assert_equal(weights_of(watched.folder), weights_of(blind.folder))
    for seen, unseen in zip(records_of(watched.folder), records_of(blind.folder), strict=True):
        assert seen["loss"] == unseen["loss"]
        assert {"explained_variance/red/cls", "cosine/blue/patch", "effective_rank"} <= seen.keys()
        assert not any(key.startswith((MEAN, "knn", "cosine")) for key in unseen)


def test_looks_are_lines_of_the_report_even_between_reports(images: Path) -> None:
    result = api.distill(
        config_of(images, "optim.steps=5", "train.eval_every=2", "train.log_every=3")
    )
    records = records_of(result.folder)
    assert [record["step"] for record in records] == [2, 3, 4, 5]
    assert [MEAN in record for record in records] == [True, False, True, True]
    log = (result.folder / "log.txt").read_text()
    assert "step 4/5  held out: explained " in log
    assert "red" in log
    assert "rank " in log


@pytest.mark.parametrize(("log_every", "looks"), [(1, [*range(3, 61, 3)]), (100, [60])])
def test_a_run_looks_at_reports_and_at_most_twenty_times_unless_told_otherwise(
    images: Path, log_every: int, looks: list[int]
) -> None:
    result = api.distill(config_of(images, "optim.steps=60", f"train.log_every={log_every}"))
    records = records_of(result.folder)
    assert [record["step"] for record in records if "explained_variance" in record] == looks


def test_the_knn_of_teacher_and_student_is_that_of_evaluate(images: Path) -> None:
    result = api.distill(config_of(images, f"train.knn={images}"))
    last = records_of(result.folder)[-1]
    task = f"knn={images}"
    results = api.evaluate([str(result.folder)], [task], size=16, device="cpu")
    scores = {name: score.value for name, score in next(iter(results.scores.values())).items()}
    assert last["knn/student"] == scores["run"]
    assert last["knn/red"] == scores["red"]
    assert last["knn/blue"] == scores["blue"]


class Killed(BaseException):
    pass


def killed_at(step: int) -> Any:
    def on_interval(interval: Interval) -> None:
        if interval.step == step:
            raise Killed

    return on_interval


@pytest.mark.parametrize("settings", [[], CACHED], ids=["live", "cached"])
def test_a_resumed_run_repeats_no_look_and_ends_the_same(images: Path, settings: list[str]) -> None:
    words = [*settings, "optim.steps=12", "train.checkpoints=4", "train.eval_every=2"]
    words += [f"train.knn={images}", "train.stop={patience: 2, min_gain: 5, after: 0.4}"]
    whole = api.distill(config_of(images, *words, out="whole"))
    with pytest.raises(Killed):
        api.distill(config_of(images, *words, out="killed"), on_interval=killed_at(5))
    killed = api.distill(config_of(images, *words, out="killed"), resume=True)
    assert whole.steps == killed.steps == 8  # 4 steps do not count, then two looks without a gain
    assert_equal(weights_of(killed.folder), weights_of(whole.folder))

    def without_pace(run: Path) -> list[dict[str, Any]]:
        pace = ("images_per_s", "data_wait")
        return [{k: v for k, v in r.items() if k not in pace} for r in records_of(run)]

    assert without_pace(killed.folder) == without_pace(whole.folder)


def test_a_stopped_run_is_a_finished_one(images: Path) -> None:
    config = config_of(
        images,
        "optim.steps=10",
        "train.stop={patience: 1, min_gain: 9, after: 0}",
        "train.eval_every=2",
    )
    stopped = api.distill(config)
    assert stopped.steps == 4
    assert "stopped after step 4: " in (stopped.folder / "log.txt").read_text()
    assert (stopped.folder / "encoder.safetensors").is_file()
    before = weights_of(stopped.folder)
    again = api.distill(config, resume=True)
    assert again.steps == 4
    assert_equal(before, weights_of(again.folder))
    assert [record["step"] for record in records_of(again.folder)] == [*range(1, 5)]


def test_the_rule_waits_and_asks_for_a_gain_within_the_last_looks() -> None:
    rule = StoppingRule(patience=3, min_gain=0.01, first_step=20)

    def stops(*values: float) -> bool:
        return rule.stops([(10 * (i + 1), value) for i, value in enumerate(values)])

    assert not stops(0.3, 0.3, 0.3, 0.3)  # step 40: two looks count
    assert stops(0.3, 0.3, 0.3, 0.3, 0.3)
    assert not stops(0.3, 0.3, 0.3, 0.311, 0.3)
    assert stops(0.3, 0.3, 0.3, 0.309, 0.305)
    assert stops(0.1, 0.4, 0.3, 0.3, 0.3)  # it fell
    assert not stops(0.3, 0.3, 0.30, 0.305, 0.311)  # slowly, but it rises
    assert not StoppingRule(patience=3, min_gain=0).stops([(1, 0.3), (2, 0.3), (3, 0.3)])


class Idle:
    """Trains nothing."""

    def __init__(self) -> None:
        self.module = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.module.parameters())

    def step(self, micro_batches: Sequence[int], step: int) -> dict[str, Tensor]:
        return {"loss": torch.tensor(0.0), "first_bad": torch.tensor(-1)}

    def blame(self) -> str:
        return ""

    def cure(self, step: int) -> str:
        return ""


def test_the_time_of_a_look_is_no_pace_and_no_wait() -> None:
    def looks(done: int) -> Evaluation:
        time.sleep(0.2)
        return Evaluation({"seen": done})

    def endless(_: int) -> Iterator[int]:
        while True:
            time.sleep(0.001)
            yield 0

    intervals: list[Interval] = []
    trainer: Trainer[int] = Trainer(Idle(), endless, steps=4, batch_size=1, log_every=1)
    trainer.on_log, trainer.on_eval, trainer.evaluate_at = intervals.append, looks, {2}
    assert trainer.run() == 4
    assert [interval.metrics.get("seen") for interval in intervals] == [None, 2, None, None]
    assert all(interval.images_per_s > 1 / 0.1 for interval in intervals)


def test_the_line_names_teachers_beside_the_student() -> None:
    signals = {MEAN: 0.4, f"{MEAN}/a": 0.3, f"{MEAN}/b": 0.5, f"{MEAN}/a/cls": 0.3}
    signals |= {"cosine": 0.6, "cosine/a": 0.5, "cosine/b": 0.7, "effective_rank": 38.21}
    line = "explained 0.400 (a 0.300, b 0.500)  cosine 0.600 (a 0.500, b 0.700)  rank 38.2"
    assert format_signals(signals) == line
    knn = {"knn/student": 35.0, "knn/a": 94.8}
    assert format_signals(signals | knn) == f"{line}  k-NN 35.0 (a 94.8)"


# --- what is refused


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("train.eval_every=-1", "train.eval_every is -1, but must be"),
        ("train.eval_every=often", "or 'auto'"),
        ("train.stop.patient=3", "did you mean 'train.stop.patience'?"),
        ("train.stop={min_gain: -1}", "train.stop.min_gain is -1"),
        ("train={eval_every: 0, stop: {}}", "so train.eval_every must not be 0"),
        ("train={eval_every: 0, knn: photos}", "so train.eval_every must not be 0"),
    ],
)
def test_a_bad_setting_is_one_sentence(images: Path, word: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(images, word)
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("train.knn=phtos", "there is no folder"),
        ("train.knn=a,b,c", "PATH or TRAIN,TEST"),
    ],
)
def test_images_that_cannot_be_watched_are_refused_before_anything_is_written(
    images: Path, word: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        api.distill(config_of(images, word))
    assert not (images.parent / "run").exists()


def test_without_held_out_images_nothing_is_watched_and_no_rule_can_stop(images: Path) -> None:
    few: Source = open_source(write_folder(images.parent / "few", ["a.jpg", "b.jpg", "c.jpg"]))
    words = [f"data.train={images.parent / few.name}"]
    with pytest.raises(ValueError, match=r"train.stop needs held-out images.*data.val=FOLDER"):
        api.distill(config_of(images, *words, "train.stop={}"))
    result = api.distill(config_of(images, *words))
    assert not any(MEAN in record for record in records_of(result.folder))


# --- the forecast


def curve(learning: np.ndarray[Any, Any], *, rate: float, cosine: float) -> Any:
    """Explained variance that follows the law exactly, from 0.1 at the end of the first fifth."""
    now = learning[len(learning) // 5 - 1]
    return 1 - 0.9 * (learning / now) ** (-rate * cosine)


@pytest.mark.parametrize("warmup_steps", [0, 10, 100])
def test_the_forecast_knows_warm_up_and_decay(warmup_steps: int) -> None:
    rates = cosine_schedule(3e-4, 1e-6, steps=1000, warmup_steps=warmup_steps)
    values = curve(np.cumsum(rates) + 1e-12, rate=1.5, cosine=0.5)
    left = learning_left(rates.tolist(), 200)
    ended = forecast([-0.2, 0.05, values[199]], [0.1, 0.2, 0.5], left=left, rate=1.5)
    assert ended == pytest.approx(values[-1], abs=1e-6)


def test_the_forecast_is_at_least_the_best_so_far_and_below_one() -> None:
    for cosine in (-0.3, 0.0, 0.4, 1.0):
        for explained in ([-0.1], [0.3, 0.2], [0.9, 0.95]):
            end = forecast(explained, [cosine] * len(explained), left=1.2)
            assert max(explained) - 1e-12 <= end < 1
    assert learning_left([1.0, 2.0, 1.0], 3) == 0
    assert learning_left([1.0, 2.0, 1.0], 1) == pytest.approx(math.log(4))
    assert learning_left([0.0, 2.0], 1) == 0  # nothing was learned yet
    with pytest.raises(ValueError, match="needs looks"):
        forecast([], [], left=1)


def test_the_forecast_is_said_once_after_a_fifth_of_the_run_and_kept(images: Path) -> None:
    words = ["optim.steps=20", "train.eval_every=2", "train.checkpoints=20"]
    whole = api.distill(config_of(images, *words, out="whole"))
    said = [record["step"] for record in records_of(whole.folder) if "forecast" in record]
    assert said == [4]
    at_fifth = next(record for record in records_of(whole.folder) if "forecast" in record)
    assert at_fifth["forecast"] == pytest.approx(
        (at_fifth["forecast/red"] + at_fifth["forecast/blue"]) / 2
    )
    log = (whole.folder / "log.txt").read_text()
    assert log.count("forecast: explained variance at the end ") == 1
    with pytest.raises(Killed):
        api.distill(config_of(images, *words, out="killed"), on_interval=killed_at(3))
    killed = api.distill(config_of(images, *words, out="killed"), resume=True)
    again = [record for record in records_of(killed.folder) if "forecast" in record]
    assert [record["forecast"] for record in again] == [at_fifth["forecast"]]


def test_too_few_looks_foretell_nothing(images: Path) -> None:
    result = api.distill(config_of(images, "optim.steps=10", "train.eval_every=3"))
    assert not any("forecast" in record for record in records_of(result.folder))


@pytest.mark.parametrize(
    ("steps", "log_every", "every"),
    [(18, 20, 20), (360, 25, 25), (1250, 25, 75), (50_000, 20, 2500)],
)
def test_looks_fall_on_reports_and_are_at_most_twenty(
    steps: int, log_every: int, every: int
) -> None:
    assert looks_every(steps, log_every) == every
    assert every % log_every == 0
    assert steps / every <= 20
