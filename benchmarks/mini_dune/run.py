"""DUNE in small: students of three teachers of the miniworld, one line an arm.

    python -m benchmarks.mini_dune.run [--only STAGE ...] [--match WORD] [--jobs 1]
        [--teacher rooms=PATH ...] [--images N] [--out runs/mini-dune]

Stages: models (teachers, an untrained encoder), headline, base, longer, projectors,
standardisation, dropping, sharing, width, sizes, bare, pools; resolution and depth of students.

Each arm is `alumnus distill mini-dune` with other words, evaluated bare and projected, in a process
of its own with one thread; it adds a line to OUT/runs.jsonl. What has one is skipped, and an arm
that was killed goes on from its checkpoint. `report.py` makes tables and picture.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import alumnus
from alumnus import measure
from alumnus.config import load_config
from alumnus.evaluation.depth import DepthProtocol
from alumnus.evaluation.features import FeatureFn
from alumnus.evaluation.results import Results
from alumnus.evaluation.segmentation import SegmentationProtocol
from alumnus.evaluation.suite import evaluate
from alumnus.evaluation.tasks import EvalModel
from alumnus.runs import LoadedStudent, load_student
from alumnus.tokens import Tokens
from benchmarks.run_lines import add_line, read_lines

TEACHERS = ("objects", "rooms", "people")
TASKS = {  # of each teacher's domain; what learns is fitted on pictures that nobody has seen
    "objects": ("knn", "logistic", "segmentation"),
    "rooms": ("depth", "matching"),
    "people": ("segmentation", "joints", "body"),
}
SWEPT = {"objects": ("knn",), "rooms": ("depth", "matching"), "people": ("joints",)}
MEASURED = {  # whose depth is told in full
    "student": "headline/mini-dune/seed0",
    "student, own+generic": "longer/own+generic/seed0",
}
SIZE_PX = 64
SIZES_PX = (48, 64, 96, 128)
FIT, TEST, SWEPT_FIT, SWEPT_TEST = 960, 960, 960, 480  # pictures
TRIALS = 8  # of the search for C
HEAD_STEPS = 300  # of linear segmentation and depth
SHORT_STEPS = 300  # of ablations
LONG_STEPS, LONGEST_STEPS = 4000, 8000
SEEDS = range(3)
CPU = torch.device("cpu")

log = logging.getLogger("alumnus.mini_dune")
Scores = dict[str, dict[str, float]]  # by model, then task


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One distillation: the recipe with these words."""

    stage: str
    name: str  # the same for all seeds
    words: tuple[str, ...] = ()
    seed: int = 0
    steps: int | None = SHORT_STEPS  # None: the recipe's
    teachers: tuple[str, ...] = TEACHERS

    @property
    def key(self) -> str:
        """Its name in runs.jsonl and of its folder."""
        return f"{self.stage}/{self.name}/seed{self.seed}"


def seeds(arm: Arm) -> list[Arm]:
    """The arm with every seed."""
    return [replace(arm, seed=seed) for seed in SEEDS]


def arms() -> list[Arm]:
    """All distillations, the most wanted first."""
    transformer = "projector={{kind: transformer, {}}}".format
    linear = ("projector={kind: linear}",)
    asked = {kind: (f"balance.sharing={kind}",) for kind in ("own", "own+generic")}
    ladder = "projector={kind: ladder, hidden_dim: 128, last_hidden_dim: 512}"
    changed: dict[str, dict[str, tuple[str, ...]]] = {
        "projectors": {"mlp": ("projector={kind: mlp, hidden_dim: 512}",)},
        "standardisation": {
            kind: (f"standardize.kind={kind}",) for kind in ("none", "running", "frozen", "phi-s")
        },
        "dropping": {"p 0": ("balance.drop_p=0",)},
        "width": {"half": ("student.dim=64", "student.num_heads=2")},
        "sizes": {"48 to 96 px": ("data.sizes=[48,64,80,96]", "cache.enabled=false")},
    }
    bare = {
        "ladder": (ladder,),
        "last norm": (transformer("apply_last_norm: true"),),
        "side head": (transformer("side: {teacher: objects, weight: 0.1}"),),
        "patch share 0.2": ("loss.patch_share=0.2",),
        "objects twice": ("teachers.objects.loss_weight=2",),
    }
    return [
        *seeds(Arm(stage="headline", name="mini-dune", steps=None)),
        *seeds(Arm(stage="base", name="transformer")),
        Arm(stage="longer", name="mini-dune", steps=LONG_STEPS),
        Arm(stage="longer", name="linear", words=linear, steps=None),
        Arm(stage="longer", name="ladder", words=(ladder,), steps=None),
        *seeds(Arm(stage="longer", name="own+generic", words=asked["own+generic"], steps=None)),
        Arm(
            stage="longer",
            name="own+generic, longest",
            words=asked["own+generic"],
            steps=LONGEST_STEPS,
        ),
        *seeds(Arm(stage="projectors", name="linear", words=linear)),
        *(
            arm
            for kind, words in asked.items()
            for arm in seeds(Arm(stage="sharing", name=kind, words=words))
        ),
        *(
            Arm(stage=stage, name=name, words=words)
            for stage, of_stage in changed.items()
            for name, words in of_stage.items()
        ),
        *(
            arm
            for name, words in bare.items()
            for arm in seeds(Arm(stage="bare", name=name, words=words))
        ),
        *(Arm(stage="pools", name=f"{name} alone", teachers=(name,)) for name in TEACHERS),
    ]


SWEEPS = ("resolution", "depth")  # after the students
STAGES = ("models", *dict.fromkeys(arm.stage for arm in arms()), *SWEEPS)


@dataclass(frozen=True)
class Bench:
    """Where things lie, and how much of them is used."""

    out: Path
    images: int | None = None  # of each domain; None: all
    models: Mapping[str, str] = field(default_factory=dict)  # other teachers, by name

    @property
    def lines(self) -> Path:
        return self.out / "runs.jsonl"

    @property
    def done(self) -> list[dict[str, Any]]:
        """The lines so far."""
        return read_lines(self.lines)

    def shared_words(self) -> list[str]:
        """What all arms have in common, so that they share one cache of features."""
        words = [f"teachers.{name}.model={model}" for name, model in self.models.items()]
        if self.images is not None:
            sources = load_config("mini-dune").model_dump()["data"]["train"]
            cut = [s | {"path": f"{s['path']}[:{self.images}]"} for s in sources]
            words.append(f"data.train={json.dumps(cut)}")
        return [
            *words,
            f"cache.folder={self.out / 'features'}",
            *("data.workers=0", "train.threads=1", "evaluate.tasks=[]"),
        ]

    def words(self, arm: Arm) -> list[str]:
        """The command line after `alumnus distill mini-dune`."""
        dropped = [name for name in TEACHERS if name not in arm.teachers]
        alone = [f"teachers={json.dumps(self.sections(arm.teachers))}", "balance.drop_p=auto"]
        return [
            *(w for w in self.shared_words() if not (dropped and w.startswith("teachers."))),
            *(alone if dropped else []),
            *([] if arm.steps is None else [f"optim.steps={arm.steps}"]),
            f"train.seed={arm.seed}",
            *arm.words,
            f"out={self.out / 'students' / arm.key.replace(' ', '-')}",
        ]

    def sections(self, names: Sequence[str]) -> dict[str, Any]:
        """The recipe's sections of these teachers."""
        words = [w for w in self.shared_words() if w.startswith("teachers.")]
        held = load_config("mini-dune", words).model_dump(mode="json")["teachers"]
        return {name: held[name] for name in names}


def distil(bench: Bench, arm: Arm) -> dict[str, Any]:
    """Train one student; what it took and what its last look at held-out images said."""
    words = bench.words(arm)
    folder = Path(words[-1].removeprefix("out="))
    took = folder / "took.json"
    if not took.is_file():
        before = minutes_before(folder)
        began, cpu = time.monotonic(), time.process_time()
        alumnus.distill("mini-dune", *words, resume=folder.is_dir())
        spent = _took(began, cpu)
        whole = 1 + before / max(spent["minutes"], 0.01)  # in terms of this session
        took.write_text(json.dumps({key: round(v * whole, 2) for key, v in spent.items()}))
        shutil.rmtree(folder / "checkpoints")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    looks = [record for record in records if "explained_variance" in record]
    return {
        "words": [*arm.words],
        "folder": str(folder),
        **json.loads(took.read_text()),
        "steps": records[-1]["step"],
        "held_out": {
            key: round(value, 4)
            for key, value in looks[-1].items()
            if key.startswith(("explained_variance", "cosine", "effective_rank"))
        },
    }


def minutes_before(folder: Path) -> float:
    """What the steps of a run that was killed took, by their pace; what it did besides is lost."""
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        return 0.0
    optim = load_config(folder / "config.yaml").optim
    records = [json.loads(line) for line in metrics.read_text().splitlines() if line[-1:] == "}"]
    steps = [b["step"] - a["step"] for a, b in pairwise([{"step": 0}, *records])]
    images = [n * optim.batch * optim.accumulate for n in steps]
    paces = [record["images_per_s"] for record in records]
    return float(sum(n / pace for n, pace in zip(images, paces, strict=True)) / 60)


def _took(began: float, cpu: float) -> dict[str, float]:
    return {
        "minutes": round((time.monotonic() - began) / 60, 2),
        "core_minutes": round((time.process_time() - cpu) / 60, 2),
    }


def task_words(domain: str, kinds: Sequence[str], *, px: int, fit: int, test: int) -> list[str]:
    """Tasks of a domain as `alumnus evaluate --task` takes them."""
    world = f"miniworld:{domain}" if px == SIZE_PX else f"miniworld:{domain}@{px}"
    on = f"{world}:val[:{fit}],{world}:test[:{test}]"
    return [f"{kind}={f'{world}:test[:{test}]' if kind == 'matching' else on}" for kind in kinds]


def score(
    rows: Mapping[str, Sequence[EvalModel]],  # of each domain
    tasks: Mapping[str, Sequence[str]] = TASKS,
    *,
    px: int = SIZE_PX,
    fit: int = FIT,
    test: int = TEST,
) -> dict[str, Any]:
    """Scores by model and task, each domain's models on its tasks; which are better lower."""
    scores: Scores = {}
    lower: list[str] = []
    for domain, models in rows.items():
        opened = measure.parse_tasks(
            task_words(domain, tasks[domain], px=px, fit=fit, test=test),
            size_px=px,
            trials=TRIALS,
            segmentation=SegmentationProtocol(steps=HEAD_STEPS),
            depth=DepthProtocol(steps=HEAD_STEPS),
        )
        results = evaluate(
            [in_bfloat16(row) for row in models], opened, batch_size=128, on_progress=None
        )
        lower += [task.name for task in results.tasks if task.better == "lower"]
        for model, task, value in _values(results):
            scores.setdefault(model, {})[task] = round(value, 2)
    return {"scores": scores, "lower": lower}


def in_bfloat16(model: EvalModel) -> EvalModel:
    """The model under autocast, as students are trained: half the time; its tokens in float32."""

    def halved(fn: FeatureFn) -> FeatureFn:
        def tokens(images: Tensor) -> Tokens:
            with torch.autocast(CPU.type, torch.bfloat16):
                return fn(images).map(Tensor.float)

        return tokens

    dense = None if model.dense_fn is None else halved(model.dense_fn)
    return replace(model, fn=halved(model.fn), dense_fn=dense)


def _values(results: Results) -> Iterator[tuple[str, str, float]]:
    for model in results.models:
        for task in results.tasks:
            if (value := results.value(task.name, model.name)) is not None:
                yield model.name, task.name, value


def teacher_rows(bench: Bench) -> list[EvalModel]:
    """The teachers, under their names in the recipe."""
    sections = bench.sections(TEACHERS)
    return [
        replace(measure.bare_model(sections[name]["model"], CPU), name=name, kind="teacher")
        for name in TEACHERS
    ]


def student_rows(arm: Arm, loaded: LoadedStudent) -> dict[str, list[EvalModel]]:
    """On each domain the bare encoder and what it says in the space of that domain's teacher.

    Of the first headline all projections, and the same encoder untrained.
    """
    bare, *projected, untrained = measure.student_models(loaded, "student", CPU)
    if arm.stage == "headline" and arm.seed == 0:
        return {domain: [bare, *projected, untrained] for domain in TASKS}
    return {
        domain: [bare, *(row for row in projected if row.name == f"student as {domain}")]
        for domain in TASKS
    }


def run_arm(bench: Bench, arm: Arm) -> None:
    """Distil, evaluate, write the line."""
    record = distil(bench, arm)
    began, cpu = time.monotonic(), time.process_time()
    found = score(student_rows(arm, load_student(record["folder"])))
    took = {f"evaluation_{key}": value for key, value in _took(began, cpu).items()}
    named = {"run": arm.key, "stage": arm.stage, "name": arm.name, "seed": arm.seed}
    add_line(bench.lines, {**named, "teachers": arm.teachers, **record, **took, **found})


def run_models(bench: Bench) -> None:
    """Features, once for all arms; every teacher on every task."""
    bench.out.mkdir(parents=True, exist_ok=True)
    alumnus.cache("mini-dune", *bench.shared_words(), f"out={bench.out / 'students' / 'none'}")
    rows = teacher_rows(bench)
    add_line(bench.lines, {"run": "models", "stage": "models", **score(dict.fromkeys(TASKS, rows))})


def run_resolution(bench: Bench) -> None:
    """Teachers and students on pictures rendered at other sizes than they learned at."""
    held = {record["run"]: record for record in bench.done}
    students = {
        name: held[key]["folder"]
        for name, key in {
            "student": "headline/mini-dune/seed0",
            f"student of {SHORT_STEPS} steps": "base/transformer/seed0",
            "student of drawn sizes": "sizes/48 to 96 px/seed0",
        }.items()
        if key in held
    }
    rows = teacher_rows(bench)
    for name, folder in students.items():
        rows.append(measure.student_models(load_student(folder), name, CPU)[0])
    for px in SIZES_PX:
        swept = [r["scores"] for r in bench.done if r.get("size_px") == px]
        # no model goes back to its own size
        sized = [
            replace(row, size_px=px, fn=row.dense_fn or row.fn)
            for row in rows
            if not any(row.name in scores for scores in swept)
        ]
        if not sized:
            continue
        found = score(dict.fromkeys(SWEPT, sized), SWEPT, px=px, fit=SWEPT_FIT, test=SWEPT_TEST)
        add_line(
            bench.lines, {"run": f"resolution/{px}", "stage": "resolution", "size_px": px, **found}
        )


def run_depth(bench: Bench) -> None:
    """All numbers of linear depth, of teachers and of the students of both sharings."""
    held = {record["run"]: record for record in bench.done}
    if "depth" in held or not all(key in held for key in MEASURED.values()):
        return
    rows = teacher_rows(bench)
    for name, key in MEASURED.items():
        bare, *others = measure.student_models(load_student(held[key]["folder"]), name, CPU)
        projected = [row for row in others if row.name == f"{name} as rooms"]
        rows += [replace(bare, name=f"{name}, bare")]
        rows += [replace(row, name=f"{name}, projected") for row in projected]
    [task] = measure.parse_tasks(
        task_words("rooms", ["depth"], px=SIZE_PX, fit=FIT, test=TEST),
        size_px=SIZE_PX,
        trials=TRIALS,
        depth=DepthProtocol(steps=HEAD_STEPS),
    )
    results = evaluate([in_bfloat16(row) for row in rows], [task], batch_size=128)
    scores = {}
    for name, score in results.scores[task.name].items():
        numbers: dict[str, Any] = {"delta1": score.value, **score.details}
        scores[name] = {k: round(numbers[k], 4) for k in ("delta1", "abs_rel", "rmse_m")}
    add_line(bench.lines, {"run": "depth", "stage": "depth", "scores": scores})


def one(bench: Bench, key: str) -> None:
    """One thing, in this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    log.info("%s", key)
    if key == "models":
        run_models(bench)
    elif key == "resolution":
        run_resolution(bench)
    elif key == "depth":
        run_depth(bench)
    else:
        run_arm(bench, next(arm for arm in arms() if arm.key == key))


def start(key: str, words: Sequence[str]) -> None:
    """One thing, in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *words, "--arm", key]
    if subprocess.run(command, env=environment, check=False).returncode:
        log.warning("%s failed; call this again to go on with it", key)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--match", default="", help="only arms whose name holds this")
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--teacher", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--images", type=int, help="of each domain; all where not given")
    parser.add_argument("--out", type=Path, default=Path("runs/mini-dune"))
    given = parser.parse_args()
    models = dict(word.split("=", 1) for word in given.teacher)
    bench = Bench(given.out, given.images, models)
    if given.arm:
        one(bench, given.arm)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    words = [f"--out={given.out}", *(f"--teacher={word}" for word in given.teacher)]
    words += [] if given.images is None else [f"--images={given.images}"]
    if "models" not in {record["run"] for record in bench.done}:
        start("models", words)  # all others read the features that it caches
    done = {record["run"] for record in bench.done}
    wanted = [arm.key for arm in arms() if arm.stage in given.only and given.match in arm.key]
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda key: start(key, words), [k for k in wanted if k not in done]))
    for stage in SWEEPS:
        if stage in given.only:
            start(stage, words)


if __name__ == "__main__":
    main()
