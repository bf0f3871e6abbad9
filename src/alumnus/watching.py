"""How a run is doing, on images it does not learn from: what is measured, said and decided.

Built from a configuration; the Trainer calls a `Watch` every `train.eval_every` steps.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alumnus import measure
from alumnus.assembly import Images
from alumnus.config import RunConfig
from alumnus.data import Source
from alumnus.distill import Distillation, Targets
from alumnus.evaluation.crops import keep_crops
from alumnus.evaluation.held_out import PLAIN, HeldOut, spread
from alumnus.evaluation.signals import BareEncoder, measure_signals
from alumnus.evaluation.suite import evaluate
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.hardware import choose_bf16
from alumnus.teachers import CachedTeachers, FeatureCache, Teacher, TeacherPool
from alumnus.training.distributed import ALONE, World
from alumnus.training.forecast import ERROR, FIRST_PART, forecast, learning_left
from alumnus.training.loop import Evaluation
from alumnus.training.plateau import StoppingRule

__all__ = ["Watch", "format_signals", "looks_every", "plan_watch"]


log = logging.getLogger(__name__)

WATCHED = 256  # held-out images
LOOKS = 20  # in a run at most, where `train.eval_every` is auto
MEAN = "explained_variance"  # over teachers


def plan_watch(
    config: RunConfig,
    images: Images,
    pool: TeacherPool,
    *,
    steps: int,
    world: World = ALONE,
) -> "Watch | None":
    """What watches a run; None where nothing does. ValueError for what cannot be watched.

    Opens sources, computes nothing. Cached runs keep the teachers' held-out tokens in the feature
    cache too, so that the next run with the same teachers finds them.
    """
    asked = config.train.eval_every
    every = looks_every(steps, config.train.log_every) if asked == "auto" else asked
    if every == 0:
        return None
    held_out = spread(images.held_out, WATCHED)
    if not held_out:
        if config.train.stop is not None:
            raise ValueError(
                "train.stop needs held-out images, of which there are none: give data.val=FOLDER"
            )
        return None
    task = None
    if config.train.knn is not None:
        (task,) = measure.parse_tasks(
            [f"knn={config.train.knn}"], size_px=config.data.size, trials=1
        )
    cache = None
    if config.cache.enabled:
        cache = FeatureCache(
            held_out,
            pool,
            augment=PLAIN,
            size=config.data.size,
            teacher_size=config.data.teacher_size,
            channels=config.student.in_channels,
            dtype=config.cache.dtype,
            folder=Path(config.cache.folder) if config.cache.folder else None,
        )
        cache.check_disk()
    rule = None
    if config.train.stop is not None:
        first_step = int(config.train.stop.after * steps)
        rule = StoppingRule(config.train.stop.patience, config.train.stop.min_gain, first_step)
    return Watch(
        config,
        held_out,
        pool,
        cache=cache,
        task=task,
        rule=rule,
        every=every,
        steps=steps,
        world=world,
    )


def looks_every(steps: int, log_every: int) -> int:
    """Steps between looks: at reports, at most 20 times a run."""
    return log_every * math.ceil(steps / (LOOKS * log_every))


class Watch:
    """Measures the student on held-out images; `Trainer.on_eval`.

    Draws no random number and changes no weight, so a watched run ends as one that is not.
    """

    def __init__(
        self,
        config: RunConfig,
        held_out: Sequence[Source],
        pool: TeacherPool,
        *,
        cache: FeatureCache | None,
        task: TaskSpec | None,
        rule: StoppingRule | None,
        every: int,
        steps: int,
        world: World,
    ) -> None:
        self.steps_to_look = frozenset([*range(every, steps + 1, every), steps])
        self._config, self._pool, self._sources = config, pool, held_out
        self._cache, self._task, self._rule, self._steps = cache, task, rule, steps
        self._world = world
        self._knn_of_teachers: dict[str, float] = {}
        self._looks: list[tuple[int, Mapping[str, float]]] = []  # steps done, signals

    def start(
        self,
        run: Distillation,
        teachers: Mapping[str, Teacher],
        records: Sequence[Mapping[str, Any]],  # metrics.jsonl up to here, of a resumed run
    ) -> None:
        """Compute what the student is compared with, once; the run's device is the place."""
        self._run = run
        self._looks = [(r["step"], r) for r in records if MEAN in r]
        self.fill_cache(run.device)
        targets: Targets = CachedTeachers(self._cache) if self._cache else self._pool
        self._held_out = HeldOut(
            self._sources,
            targets,
            size=self._config.data.size,
            teacher_size=self._config.data.teacher_size,
            channels=self._config.student.in_channels,
            device=run.device,
            bf16=run.bf16,
        )
        if self._task is not None:
            rows = measure.whole_teachers(teachers)
            task = self._task
            knn = self._world.first_alone(lambda: self._knn(rows, task) if rows else {})
            self._knn_of_teachers = knn or {}
            size = self._config.data.size
            train, test = keep_crops(self._task.train, size), keep_crops(self._task.test, size)
            self._task = replace(self._task, train=train, test=test)

    def fill_cache(self, device: torch.device) -> None:
        """Compute the teachers' held-out tokens where the run's features are cached."""
        if self._cache is None:
            return
        bf16 = choose_bf16(self._config.train.precision, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            self._world.first_alone(self._cache.build)

    @property
    def stopped(self) -> bool:
        """Whether the rule ended the run at the last look; the first process alone says so."""
        return (
            self._world.is_first
            and self._rule is not None
            and self._rule.stops([(step, signals[MEAN]) for step, signals in self._looks])
        )

    def __call__(self, done: int) -> Evaluation:
        """What the student is worth after `done` steps, also said in the log."""
        run = self._run
        signals = measure_signals(run.result, run.standardizers, self._held_out, bf16=run.bf16)
        if self._task is not None:
            encoder = BareEncoder(run.result)
            row = measure.encoder_model("student", encoder, run.device)
            knn = self._knn([row], self._task) | self._knn_of_teachers
            signals |= {f"knn/{name}": value for name, value in knn.items()}
        self._looks.append((done, signals))
        log.info("step %d/%d  held out: %s", done, self._steps, format_signals(signals))
        signals |= self._forecast(done)
        if self.stopped and done < self._steps:
            assert self._rule is not None, "a rule stopped it"
            log.info(
                "stopped after step %d: over %d looks explained variance rose by less than %g "
                "(train.stop)",
                done,
                self._rule.patience,
                self._rule.min_gain,
            )
        return Evaluation(signals, stop=self.stopped)

    def _forecast(self, done: int) -> dict[str, float]:
        """What the first fifth of the run foretells, once; nothing where it held one look only."""
        steps = [step for step, _ in self._looks]
        if (
            len(steps) < 2
            or steps[-2] >= FIRST_PART * self._steps
            or done < FIRST_PART * self._steps
        ):
            return {}
        left = learning_left([self._run.rate(step) for step in range(self._steps)], done)
        ends: dict[str, float] = {}
        for name in self._run.teacher_names:
            explained = [signals[f"{MEAN}/{name}"] for _, signals in self._looks]
            cosines = [signals[f"cosine/{name}"] for _, signals in self._looks]
            ends[name] = forecast(explained, cosines, left=left)
        mean = sum(ends.values()) / len(ends)
        log.info(
            "forecast: explained variance at the end %s, each ± %.2f",
            _with_others("", mean, ends, 2).strip(),
            ERROR,
        )
        return {"forecast": mean, **{f"forecast/{name}": end for name, end in ends.items()}}

    def _knn(self, rows: Sequence[EvalModel], task: TaskSpec) -> dict[str, float]:
        batch_size, device = self._config.evaluate.batch_size, self._run.device
        scores = evaluate(rows, [task], batch_size=batch_size, device=device).scores[task.name]
        return {row.name: scores[row.name].value for row in rows if row.name in scores}


def format_signals(signals: Mapping[str, float]) -> str:
    """`explained 0.42 (a 0.31, b 0.53)  cosine 0.61 (...)  rank 38.2  k-NN 35.0 (a 94.8, ...)`."""
    parts = []
    for word, what in (("explained", MEAN), ("cosine", "cosine")):
        teachers = {
            key.split("/")[1]: value
            for key, value in signals.items()
            if key.startswith(f"{what}/") and key.count("/") == 1
        }
        parts.append(_with_others(word, signals[what], teachers, 3))
    parts.append(f"rank {signals['effective_rank']:.1f}")
    knn = {key.removeprefix("knn/"): v for key, v in signals.items() if key.startswith("knn/")}
    if knn:
        parts.append(_with_others("k-NN", knn.pop("student"), knn, 1))
    return "  ".join(parts)


def _with_others(word: str, value: float, others: Mapping[str, float], digits: int) -> str:
    named = ", ".join(f"{name} {other:.{digits}f}" for name, other in others.items())
    return f"{word} {value:.{digits}f}" + (f" ({named})" if named else "")
