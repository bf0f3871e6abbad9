"""UNIC in small: students of three teachers on CIFAR-10, headline and ablations, one line a run.

    python -m benchmarks.unic_cifar.teachers
    python -m benchmarks.unic_cifar.run [--only STAGE ...] [--match WORD] [--packs packs]
        [--teachers runs/unic-cifar/teachers] [--out runs/unic-cifar]

Stages: models, choices, headline, ablations, pools, segmentation (after headline).

Each run is `alumnus distill mini-unic` with other words, and adds a line to OUT/runs.jsonl; what
has one is skipped, and a run that was killed goes on from its checkpoint. `report.py` makes the
tables. `choices` compares settings on the last 5,000 training images, which no student learns from,
and does not look at the test images.
"""

import argparse
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

import alumnus
from alumnus import measure
from alumnus.data import Source, open_source
from alumnus.evaluation.crops import keep_crops
from alumnus.evaluation.results import Results
from alumnus.evaluation.suite import evaluate
from alumnus.evaluation.tasks import EvalModel, TaskKind, TaskSpec
from alumnus.runs import load_student
from benchmarks.run_lines import add_line, read_lines

TEACHERS = ("supervised", "contrastive", "masked")
LITES = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
SIZE_PX = 32
TRIALS = 12  # of the search for C
ABLATION_STEPS = 400
DENSE_PX = 128  # of the photographs of the segmentation pack
MANY, FEW = "cifar10:train[:45000]", "cifar10:train[:10000]"  # to learn from
HELD_OUT = "cifar10:train[45000:]"
FIT = "cifar10:train[:10000]"  # of k-NN and logistic regression
PROTOCOLS: tuple[tuple[TaskKind, Literal["cls", "patch-mean"], str], ...] = (
    ("knn", "cls", "k-NN"),
    ("logistic", "cls", "logistic"),
    ("knn", "patch-mean", "k-NN, patch mean"),
)
CPU = torch.device("cpu")

log = logging.getLogger("alumnus.unic_cifar")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One distillation: the recipe with these words."""

    name: str
    stage: str
    words: tuple[str, ...] = ()
    teachers: tuple[str, ...] = TEACHERS
    seed: int = 0
    steps: int | None = ABLATION_STEPS  # None: the recipe's
    images: str = MANY
    views: int = 1


def headline() -> list[Run]:
    """The student of all three, at full length."""
    return [
        Run(name=f"headline/seed{seed}", stage="headline", seed=seed, steps=None)
        for seed in range(3)
    ]


def ablations() -> list[Run]:
    """One thing changed; the unchanged one with three seeds, at the same length."""
    changed: dict[str, tuple[str, ...]] = {
        "projector/mlp": ("projector={kind: mlp, hidden_dim: 512}",),
        "projector/transformer": ("projector={kind: transformer}",),
        "blocks/last half": ("projector.blocks=[3,4,5]",),
        "blocks/every other": ("projector.blocks=[1,3,5]",),
        "balance/none": ("balance.drop_p=0",),
        "balance/uncertainty": ("balance={drop_p: 0, weights: uncertainty}",),
        "balance/adaloss": ("balance={drop_p: 0, weights: adaloss}",),
        "balance/gradnorm": ("balance={drop_p: 0, weights: gradnorm}",),
        "standardize/none": ("standardize.kind=none",),
        "standardize/batch": ("standardize.kind=batch",),
        "standardize/frozen": ("standardize.kind=frozen",),
        "standardize/phi-s": ("standardize.kind=phi-s",),
        "loss/cosine": ("loss={cosine_weight: 1.0, smooth_l1_weight: 0.0}",),
        "loss/smooth-l1": ("loss={cosine_weight: 0.0, smooth_l1_weight: 1.0}",),
    }
    base = [
        Run(name=f"base/seed{seed}", stage="ablations", seed=seed, words=()) for seed in range(3)
    ]
    others = [Run(name=name, stage="ablations", words=words) for name, words in changed.items()]
    return [base[0], *others, *base[1:]]


def pools() -> list[Run]:
    """Every set of the three teachers, then those with an ImageNet network beside them."""
    sets = [
        tuple(t for i, t in enumerate(TEACHERS) if number >> i & 1)
        for number in range(1, 2 ** len(TEACHERS))
    ]
    sets.sort(key=len)
    first, *others = LITES
    sets += [(first,), *((teacher, first) for teacher in TEACHERS), (*TEACHERS, first)]
    sets += [(TEACHERS[0], other) for other in others]
    return [
        Run(name=f"pool/{'+'.join(pool)}", stage="pools", teachers=pool, images=FEW)
        for pool in sets
    ]


def choices() -> list[Run]:
    """Settings that were chosen on held-out images."""
    return [
        Run(name=f"choice/lr {lr:g}", stage="choices", words=(f"optim.lr={lr}",), steps=200)
        for lr in (4e-3, 8e-3, 1.6e-2)
    ]


STAGES = {"choices": choices, "headline": headline, "ablations": ablations, "pools": pools}


@dataclass(frozen=True)
class Bench:
    """Where things lie, and the images of the evaluation, decoded once."""

    packs: Path
    teachers: Path
    out: Path

    def teacher_model(self, name: str) -> str:
        """What the teacher is called in a recipe."""
        return name if name in LITES else str(self.teachers / name)

    def source(self, spec: str) -> Source:
        """Images at the student's size, in memory."""
        return keep_crops(open_source(str(self.packs / spec)), SIZE_PX)

    def tasks(self) -> list[TaskSpec]:
        """The columns of the tables."""
        columns = {
            "cifar10": (self.source(FIT), self.source("cifar10:test")),
            "clothing10": (self.source("clothing10:train"), self.source("clothing10:test")),
        }
        return [
            TaskSpec(
                kind=kind,
                train=train,
                test=test,
                name=f"{name} {words}",
                size_px=SIZE_PX,
                trials=TRIALS,
                feature=feature,
            )
            for name, (train, test) in columns.items()
            for kind, feature, words in PROTOCOLS
        ]

    def held_out_tasks(self) -> list[TaskSpec]:
        """For choices: no test image."""
        fit, held_out = self.source(FIT), self.source(HELD_OUT)
        name = "held-out k-NN"
        return [TaskSpec(kind="knn", train=fit, test=held_out, name=name, size_px=SIZE_PX)]

    def words(self, run: Run) -> list[str]:
        """The command line after `alumnus distill mini-unic`."""
        teachers = {name: {"model": self.teacher_model(name)} for name in run.teachers}
        return [
            f"data.train={self.packs / run.images}",
            f"data.val={self.packs / HELD_OUT}",
            f"teachers={json.dumps(teachers)}",
            f"cache={{enabled: true, views: {run.views}, folder: {self.out / 'features'}}}",
            *("balance.drop_p=auto", "data.workers=0", "train.threads=1"),
            *([] if run.steps is None else [f"optim.steps={run.steps}"]),
            f"train.seed={run.seed}",
            *run.words,
            f"out={self.out / 'students' / run.name.replace(' ', '-')}",
        ]


def distil(bench: Bench, run: Run) -> dict[str, Any]:
    """Train one student; what it took and what its last look at held-out images said."""
    words = bench.words(run)
    folder = Path(words[-1].removeprefix("out="))
    took = folder / "took.json"
    if not took.is_file():
        alumnus.cache("mini-unic", *words)
        began, cpu = time.monotonic(), time.process_time()
        alumnus.distill("mini-unic", *words, resume=folder.is_dir())
        minutes, core_minutes = (time.monotonic() - began) / 60, (time.process_time() - cpu) / 60
        spent = {"minutes": round(minutes, 2), "core_minutes": round(core_minutes, 2)}
        took.write_text(json.dumps(spent))
        shutil.rmtree(folder / "checkpoints")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    looks = [record for record in records if "explained_variance" in record]
    return {
        "words": [word for word in words if not word.startswith("out=")],
        "folder": str(folder),
        **json.loads(took.read_text()),
        "steps": records[-1]["step"],
        "loss": records[-1].get("loss"),
        "held_out": {
            key: round(value, 4)
            for key, value in looks[-1].items()
            if key.startswith(("explained_variance", "cosine", "effective_rank"))
        },
    }


def scores_of(results: Results) -> dict[str, dict[str, float]]:
    """Percent by model and task."""
    return {
        model.name: {
            task.name: round(value, 2)
            for task in results.tasks
            if (value := results.value(task.name, model.name)) is not None
        }
        for model in results.models
    }


def score(rows: Sequence[EvalModel], tasks: Sequence[TaskSpec]) -> dict[str, dict[str, float]]:
    """Evaluate models, one extraction for all."""
    return scores_of(evaluate(rows, tasks, batch_size=256, on_progress=None))


def models(bench: Bench) -> list[EvalModel]:
    """The teachers."""
    return [
        replace(measure.bare_model(bench.teacher_model(name), CPU), name=name, kind="teacher")
        for name in TEACHERS
    ]


def segmentation(bench: Bench, done: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Teachers, the first student of the headline and an untrained one on other pictures."""
    train, test = (open_source(str(bench.packs / f"segmentation:{s}")) for s in ("train", "test"))
    task = TaskSpec(kind="segmentation", train=train, test=test, name="mIoU", size_px=DENSE_PX)
    (first,) = (record for record in done if record["run"] == headline()[0].name)
    bare, *_, untrained = measure.student_models(load_student(first["folder"]), "student", CPU)
    return score([*models(bench), bare, untrained], [task])


def student_rows(run: Run, folder: str) -> list[EvalModel]:
    """The bare encoder; of the first of the headline also its projections and an untrained one."""
    rows = measure.student_models(load_student(folder), "student", CPU)
    return rows if run.stage == "headline" and run.seed == 0 else rows[:1]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stages = ("models", *STAGES, "segmentation")
    parser.add_argument("--only", nargs="+", choices=stages, default=stages)
    parser.add_argument("--match", default="", help="only runs whose name holds this")
    parser.add_argument("--teachers", type=Path, default=Path("runs/unic-cifar/teachers"))
    parser.add_argument("--packs", type=Path, default=Path("packs"))
    parser.add_argument("--out", type=Path, default=Path("runs/unic-cifar"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    bench = Bench(given.packs, given.teachers, given.out)
    given.out.mkdir(parents=True, exist_ok=True)
    lines = given.out / "runs.jsonl"
    done = {record["run"] for record in read_lines(lines)}

    tasks = bench.tasks()
    if "models" in given.only and "teachers" not in done:
        add_line(
            lines, {"run": "teachers", "stage": "models", "scores": score(models(bench), tasks)}
        )
    for stage in given.only:
        for run in STAGES[stage]() if stage in STAGES else ():
            if run.name in done or given.match not in run.name:
                continue
            log.info("run       %s", run.name)
            record = distil(bench, run)
            began = time.monotonic()
            columns = bench.held_out_tasks() if stage == "choices" else tasks
            record["scores"] = score(student_rows(run, record["folder"]), columns)
            record["evaluation_minutes"] = round((time.monotonic() - began) / 60, 2)
            named = {"run": run.name, "stage": stage, "seed": run.seed, "teachers": run.teachers}
            add_line(lines, {**named, **record})
            log.info("%s  %s", run.name, record["scores"])
    if "segmentation" in given.only and "segmentation" not in done:
        scores = segmentation(bench, read_lines(lines))
        add_line(lines, {"run": "segmentation", "stage": "segmentation", "scores": scores})


if __name__ == "__main__":
    main()
