"""Short runs of the demo's and the real photographs' recipes: what their first fifth foretells.

    python -m benchmarks.forecast run [--runs runs/forecast] [--packs packs] [--only NAME ...]
    python -m benchmarks.forecast report [--runs runs/forecast] [--longer FOLDER]

`run` makes the runs that are not there yet (about 40 minutes on one core in all), `report` reads
them: the error of the forecast against simple ones, what the stopping rule would have done, and
the label-free signals against k-NN, as JSON, text and a picture. `--longer` names the students of
benchmarks.mini_dune (OUT/students), runs of 300 to 8,000 steps; without it those of the JSON stay.
"""

import argparse
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import spearmanr

from alumnus import api
from alumnus.config import load_config
from alumnus.training.forecast import FIRST_PART, RATE, forecast
from alumnus.training.logs import read_metrics
from alumnus.training.plateau import StoppingRule
from alumnus.training.schedules import cosine_schedule
from benchmarks.result_pages import filled, table

OBJECTS = "miniworld:objects"
KNN_OBJECTS = f"train.knn={OBJECTS}:train[:400],{OBJECTS}:test[:200]"
KNN_PHOTOS = "train.knn=PACKS/caltech50:train[:400],PACKS/caltech50:test[:200]"
FEW = (
    "data.train=["
    "{path: 'miniworld:objects:train[:300]', domain: objects, generic: true}, "
    "{path: 'miniworld:rooms:train[:300]', domain: rooms}, "
    "{path: 'miniworld:people:train[:300]', domain: people}]"
)
SMALL_STUDENT = ["student.dim=96", "student.num_heads=3"]
PHOTOS_64 = [
    "data.train=[{path: 'PACKS/caltech50:train', domain: things}, "
    "{path: 'PACKS/people:train', domain: people}]",
    "data.size=64",
    "data.teacher_size=128",
    "cache.views=1",
    "student={model: vit_micro, stem: conv, patch_size: 8}",
]
PHOTOS_128 = ["student={model: vit_micro, patch_size: 16}"]
MICRO = "projector={kind: ladder, hidden_dim: 128, last_hidden_dim: 512}"
LITE0_BLAZEPOSE = (
    "teachers={lite0: {model: efficientnet-lite0, domain: things}, "
    "blazepose: {model: blazepose, domain: people}}"
)
LITE0_PHOTOS = "teachers={lite0: {model: efficientnet-lite0, domain: things}}"
LITE2_PHOTOS = "teachers={lite2: {model: efficientnet-lite2, domain: things}}"
BLAZEPOSE = "teachers={blazepose: {model: blazepose, domain: people}}"


def _alone(domain: str, more: str = "") -> tuple[str, str]:
    """One of the demo's teachers, on the pictures of its own domain."""
    return (
        f"teachers={{{domain}: {{model: miniworld-{domain}{more}, domain: {domain}}}}}",
        f"data.train=[{{path: 'miniworld:{domain}:train[:1440]', domain: {domain}}}]",
    )


OBJECTS_ALONE = _alone("objects")
ROOMS_ALONE = _alone("rooms", ", tokens: [patch]")
PEOPLE_ALONE = _alone("people", ", tokens: [patch]")


LONGER = "mini-dune"


class Run(NamedTuple):
    """One run: its recipe, seed, length and whatever else differs."""

    name: str
    recipe: str
    seed: int
    steps: int
    batch: int
    words: tuple[str, ...] = ()


def _demo(name: str, seed: int, steps: int, batch: int, *words: str) -> Run:
    return Run(f"demo-{name}", "demo", seed, steps, batch, words)


def _photos(name: str, seed: int, steps: int, batch: int, *words: str) -> Run:
    recipe = str(Path(__file__).parent.parent / "docs/results/real-photos.yaml")
    return Run(f"photos-{name}", recipe, seed, steps, batch, (MICRO, *words))


RUNS = [
    _demo("pool-60", 0, 60, 64, KNN_OBJECTS),
    _demo("objects-160", 2, 160, 32, *OBJECTS_ALONE, KNN_OBJECTS),
    _photos("both-100", 0, 100, 32, *PHOTOS_64, LITE0_BLAZEPOSE),
    _demo("rooms-160", 0, 160, 32, *ROOMS_ALONE),
    _demo("people-80", 1, 80, 32, *PEOPLE_ALONE),
    _photos("lite0-160", 0, 160, 32, *PHOTOS_64, LITE0_PHOTOS),
    _demo("pool-120", 0, 120, 32),
    _demo("objects-300", 3, 300, 32, *OBJECTS_ALONE, KNN_OBJECTS),
    _photos("blazepose-120", 0, 120, 32, *PHOTOS_64, BLAZEPOSE),
    _demo("few-200", 2, 200, 32, FEW, KNN_OBJECTS),
    _photos("128px-both-80", 0, 80, 32, *PHOTOS_128),
    _demo("rooms-80", 4, 80, 64, *ROOMS_ALONE),
    _photos("both-200", 1, 200, 32, *PHOTOS_64, LITE0_BLAZEPOSE, KNN_PHOTOS),
    _demo("pool-own-160", 5, 160, 48, "balance.sharing=own+generic", KNN_OBJECTS),
    _demo("people-160", 3, 160, 32, *PEOPLE_ALONE),
    _photos("lite0-80", 1, 80, 32, *PHOTOS_64, LITE0_PHOTOS),
    _demo("objects-lr", 5, 120, 32, *OBJECTS_ALONE, "optim.lr=2e-3"),
    _demo("pool-narrow", 7, 160, 32, *SMALL_STUDENT),
    _photos("blazepose-160", 1, 160, 32, *PHOTOS_64, BLAZEPOSE),
    _demo("pool-lr", 0, 100, 32, "optim.lr=1.6e-2"),
    _demo("as-it-is", 0, 450, 96, KNN_OBJECTS),
    _demo("objects-60", 6, 60, 64, *OBJECTS_ALONE),
    _demo("pool-300", 6, 300, 48),
    _photos("128px-blazepose-120", 0, 120, 32, *PHOTOS_128, BLAZEPOSE),
]


def make(run: Run, folder: Path, packs: Path) -> None:
    """One run, in a folder of its own; only its metrics and configuration stay."""
    words = [
        f"train.seed={run.seed}",
        f"optim.steps={run.steps}",
        f"optim.batch_size={run.batch}",
        f"out={folder}",
        "train.threads=1",
        "train.log_every=1000000",
        f"train.eval_every={math.ceil(run.steps / 20)}",
        "train.checkpoints=1",
        "data.workers=0",
        "evaluate.tasks=[]",
        *(word.replace("PACKS", str(packs)) for word in run.words),
    ]
    words += (
        []
        if run.recipe == "demo"
        else [f"data.train={_real_photos(packs)}"]
        * (not any(word.startswith("data.train=") for word in run.words))
    )
    api.distill(run.recipe, *words, resume=(folder / "config.yaml").is_file())
    (folder / "done").touch()
    shutil.rmtree(folder / "checkpoints")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()


def _real_photos(packs: Path) -> str:
    """The sources of docs/results/real-photos.yaml, wherever the packs are."""
    sources = [
        ("photos", ", where: {domain: things}", "things"),
        ("photos", ", where: {domain: people}", "people"),
        ("imagenet_samples", "", "things"),
        ("caltech50:train", "", "things"),
        ("clothing10:train", "", "things"),
        ("people:train", "", "people"),
    ]
    parts = [f"{{path: '{packs}/{p}'{where}, domain: {domain}}}" for p, where, domain in sources]
    return f"[{', '.join(parts)}]"


def run_all(runs: Path, packs: Path, only: list[str]) -> None:
    """Make what is missing; a run that was interrupted goes on."""
    for run in RUNS:
        if (runs / run.name / "done").is_file() or (only and run.name not in only):
            continue
        make(run, runs / run.name, packs)


# --- the report


class Curve(NamedTuple):
    """What one run showed of one teacher."""

    run: str
    recipe: str
    teacher: str
    steps: int
    learning: list[float]  # sum of the learning rates up to each look, and at the end
    step: list[int]  # of each look
    explained: list[float]
    cosine: list[float]


def read_runs(runs: Path) -> list[dict[str, Any]]:
    """Settings and looks of all finished runs, in the order of RUNS."""
    found = []
    for run in (run for run in RUNS if (runs / run.name / "done").is_file()):
        records = read_metrics(runs / run.name / "metrics.jsonl", last_step=run.steps)
        looks = [record for record in records if "explained_variance" in record]
        names = [key for key in looks[0] if _told(key)]
        signals = {name: [round(look[name], 4) for look in looks] for name in names}
        config = load_config(runs / run.name / "config.yaml")
        found.append(
            {
                "name": run.name,
                "recipe": "demo" if run.recipe == "demo" else "real-photos",
                "seed": run.seed,
                "steps": run.steps,
                "batch": run.batch,
                "warmup": config.optim.warmup,
                "teachers": list(config.teachers),
                "step": [look["step"] for look in looks],
                "signals": signals,
            }
        )
    return found


def read_longer(students: Path) -> list[dict[str, Any]]:
    """Mini-dune's finished runs: explained variance and cosine of each teacher."""
    found = []
    for metrics in sorted(students.rglob("metrics.jsonl")):
        config = load_config(metrics.parent / "config.yaml")
        assert config.optim.steps is not None, "mini-dune counts in steps"
        records = read_metrics(metrics, last_step=config.optim.steps)
        looks = [record for record in records if "explained_variance" in record]
        if not looks or looks[-1]["step"] < config.optim.steps:
            continue
        kinds = ("explained_variance", *(f"explained_variance/{t}" for t in config.teachers))
        names = (*kinds, *(f"cosine/{teacher}" for teacher in config.teachers))
        found.append(
            {
                "name": f"{LONGER}/{metrics.parent.relative_to(students)}",
                "recipe": LONGER,
                "seed": config.train.seed,
                "steps": config.optim.steps,
                "warmup": config.optim.warmup,
                "teachers": list(config.teachers),
                "step": [look["step"] for look in looks],
                "signals": {name: [round(look[name], 3) for look in looks] for name in names},
            }
        )
    return found


def _told(key: str) -> bool:
    return key == "effective_rank" or key.split("/")[0] in ("explained_variance", "cosine", "knn")


def curves_of(runs: list[dict[str, Any]]) -> list[Curve]:
    """One curve for each teacher of each run."""
    curves = []
    for run in runs:
        steps = run["steps"]
        rates = cosine_schedule(1, 0, steps=steps, warmup_steps=int(run["warmup"] * steps))
        done = np.cumsum(rates)
        learning = [float(done[step - 1]) for step in run["step"]]
        for teacher in run["teachers"]:
            signals = run["signals"]
            explained = signals[f"explained_variance/{teacher}"]
            cosine = signals[f"cosine/{teacher}"]
            curves.append(
                Curve(
                    run["name"],
                    run["recipe"],
                    teacher,
                    steps,
                    learning,
                    run["step"],
                    explained,
                    cosine,
                )
            )
    return curves


def _seen(curve: Curve) -> int:
    """Looks within the first fifth."""
    return sum(step <= FIRST_PART * curve.steps for step in curve.step)


def foretell(curve: Curve, rate: float) -> float:
    """What alumnus.training.forecast says after the first fifth."""
    n = _seen(curve)
    left = math.log(curve.learning[-1] / curve.learning[n - 1])
    return forecast(curve.explained[:n], curve.cosine[:n], left=left, rate=rate)


def _squared(curve: Curve, rate: float) -> float:
    """The law that was shipped before these runs were made."""
    n = _seen(curve)
    left = math.log(curve.learning[-1] / curve.learning[n - 1])
    exponent = rate * max(curve.cosine[n - 1], 0.0) ** 2
    return 1 - (1 - max(curve.explained[:n])) * math.exp(-exponent * left)


def fit_rate(curves: list[Curve]) -> float:
    """The coefficient of the forecast with the least squared error."""

    def error(rate: float) -> float:
        return sum((foretell(curve, rate) - curve.explained[-1]) ** 2 for curve in curves)

    return float(minimize_scalar(error, bounds=(0.0, 5.0), method="bounded").x)


SHIPPED = "power law in the learning done"  # alumnus.training.forecast


def forecasts(curves: list[Curve]) -> dict[str, list[float]]:
    """Forecasts of every curve's end; what is fitted, is so without that run."""

    def line(curve: Curve, x: list[float]) -> float:
        n = _seen(curve)
        seen, values = np.array(x[:n]), np.array(curve.explained[:n])
        spread = ((seen - seen.mean()) ** 2).sum()
        slope = ((seen - seen.mean()) * values).sum() / spread if n > 1 else 0.0
        return float(values.mean() + slope * (x[-1] - seen.mean()))

    rates = {
        longer: fit_rate([c for c in curves if (c.recipe == LONGER) is not longer])
        for longer in (True, False)
    }

    def others(curve: Curve) -> list[Curve]:
        mine = curve.recipe == LONGER
        return [c for c in curves if (c.recipe == LONGER) is mine and c.run != curve.run]

    return {
        SHIPPED: [foretell(c, RATE) for c in curves],
        "the same, fitted to the other column": [
            foretell(c, rates[c.recipe == LONGER]) for c in curves
        ],
        "by the square of the cosine, 1.73 (before)": [_squared(c, 1.73) for c in curves],
        "last value": [c.explained[_seen(c) - 1] for c in curves],
        "line in steps": [line(c, [float(step) for step in c.step]) for c in curves],
        "line in the learning done": [line(c, c.learning) for c in curves],
        "mean end of the other runs": [
            float(np.mean([other.explained[-1] for other in others(c)])) for c in curves
        ],
    }


def correlation(a: list[float], b: list[float]) -> float:
    """Spearman's: do they rank alike?"""
    return float(spearmanr(a, b).statistic)


def write_report(runs_folder: Path, longer: Path | None, out: Path) -> None:
    """forecast.json, forecast.png and the tables of forecast.md."""
    file, page = out / "forecast.json", out / "forecast.md"
    before = json.loads(file.read_text()) if file.is_file() else []
    kept = [run for run in before if run["recipe"] == LONGER]
    runs = read_runs(runs_folder) + (kept if longer is None else read_longer(longer))
    lines = ",\n".join(json.dumps(run) for run in runs)
    file.write_text(f"[\n{lines}\n]\n")
    page.write_text(filled(page.read_text(), tables(runs)))
    draw(runs, out / "forecast.png")


def tables(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The page's tables, from what forecast.json holds."""
    curves = curves_of(runs)
    short = [run for run in runs if run["recipe"] != LONGER]
    return {
        "errors": _errors(runs, curves),
        "lengths": _lengths(curves),
        "runs": _ends(curves_of(short)),
        "knn": _beside_knn(short),
        "stopping": _stopping(runs),
    }


def _errors(runs: list[dict[str, Any]], curves: list[Curve]) -> list[str]:
    ends = np.array([curve.explained[-1] for curve in curves])
    longer = np.array([curve.recipe == LONGER for curve in curves])
    rows = []
    for name, values in forecasts(curves).items():
        cells = []
        for part in (~longer, longer):
            error = np.abs(np.array(values) - ends)[part]
            cells += [error.mean(), np.quantile(error, 0.8), error.max()]
        rows.append([name, *(f"{cell:.3f}" for cell in cells)])
    count = sum(run["recipe"] == LONGER for run in runs)
    short = f"{len(runs) - count} short runs"
    long = f"{count} of mini-dune"
    head = ["forecast after a fifth", f"{short}: mean error", "4 of 5 below", "largest"]
    return [
        *table([*head, f"{long}: mean error", "4 of 5 below", "largest"], rows),
        "",
        f"{(~longer).sum()} and {longer.sum()} curves. The coefficient is {RATE} (all give "
        f"{fit_rate(curves):.3f}); the short runs "
        f"alone give {fit_rate([c for c in curves if c.recipe != LONGER]):.2f}, the others "
        f"{fit_rate([c for c in curves if c.recipe == LONGER]):.2f}.",
    ]


def _lengths(curves: list[Curve]) -> list[str]:
    """Error and bias of the forecast by the length of mini-dune's runs."""
    rows: list[list[object]] = []
    longer = [curve for curve in curves if curve.recipe == LONGER]
    for steps in sorted({curve.steps for curve in longer}):
        same = [curve for curve in longer if curve.steps == steps]
        off = np.array([foretell(curve, RATE) - curve.explained[-1] for curve in same])
        now = np.mean([curve.explained[_seen(curve) - 1] for curve in same])
        end = np.mean([curve.explained[-1] for curve in same])
        cells = (now, end, np.abs(off).mean(), off.mean())
        rows.append([f"{steps:,}", len(same), *(f"{cell:.3f}" for cell in cells)])
    return table(["steps", "curves", "after a fifth", "end", "mean error", "bias"], rows)


def _ends(curves: list[Curve]) -> list[str]:
    rows = []
    for curve, told in zip(curves, forecasts(curves)[SHIPPED], strict=True):
        values = (curve.explained[_seen(curve) - 1], told, curve.explained[-1])
        rows.append([curve.run, curve.teacher, curve.steps, *(f"{v:.3f}" for v in values)])
    return table(["run", "teacher", "steps", "after a fifth", "forecast", "end"], rows)


WATCHED = ("explained_variance", "cosine", "effective_rank")


def _beside_knn(runs: list[dict[str, Any]]) -> list[str]:
    """Rank correlation with k-NN within each run, and over the ends of the demo's."""
    measured = [run["signals"] | {"name": run["name"]} for run in runs if _has_knn(run)]
    rows: list[list[object]] = [
        [
            run["name"],
            *(f"{correlation(run[name], run['knn/student']):.2f}" for name in WATCHED),
            run["knn/student"][-1],
        ]
        for run in measured
    ]
    same = [run for run in measured if run["name"].startswith("demo")]
    ends = {name: [run[name][-1] for run in same] for name in (*WATCHED, "knn/student")}
    cells = [f"{correlation(ends[name], ends['knn/student']):.2f}" for name in WATCHED]
    rows.append([f"ends of the {len(same)} demo runs", *cells, None])
    return table(["run", *WATCHED, "k-NN at the end"], rows)


def _has_knn(run: dict[str, Any]) -> bool:
    return "knn/student" in run["signals"]


def _stopping(runs: list[dict[str, Any]]) -> list[str]:
    """What the stopping rule would have done: steps saved, explained variance lost."""
    rows = []
    settings = [(5, 0.002, 0.5), (5, 0.002, 0.0), (3, 0.002, 0.5), (3, 0.002, 0.0)]
    for patience, min_gain, after in settings:
        saved, lost = [], []
        for run in runs:
            rule = StoppingRule(patience, min_gain, int(after * run["steps"]))
            values = run["signals"]["explained_variance"]
            history = list(zip(run["step"], values, strict=True))
            stops = [i for i in range(1, len(history) + 1) if rule.stops(history[:i])]
            if stops and stops[0] < len(history):
                saved.append(1 - history[stops[0] - 1][0] / run["steps"])
                lost.append(values[-1] - values[stops[0] - 1])
        share = f"{np.mean(saved):.0%}" if saved else "-"
        worst = f"{np.mean(lost):.3f} (at most {max(lost):.3f})" if lost else "-"
        stopped = f"{len(saved)} of {len(runs)}"
        rows.append([str(patience), str(min_gain), str(after), stopped, share, worst])
    head = ["patience", "min_gain", "after", "runs stopped", "steps saved there", "lost"]
    return table(head, rows)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Forecast against end, and the label-free signals against k-NN."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = curves_of(runs)
    made = forecasts(curves)
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 8), layout="constrained")
    axes = grid.flatten()
    ends = [curve.explained[-1] for curve in curves]
    photos = [curve.run.startswith("photos") for curve in curves]
    shown = {
        SHIPPED: ("C0", "o", 34),
        "line in the learning done": ("C1", "x", 22),
        "last value": ("0.6", "+", 26),
    }
    for name, (colour, marker, size) in shown.items():
        axes[0].scatter(made[name], ends, c=colour, marker=marker, s=size, label=name, lw=1)
    both = np.array(made[SHIPPED])[photos]
    axes[0].scatter(
        both,
        np.array(ends)[photos],
        s=80,
        facecolors="none",
        edgecolors="C0",
        lw=0.7,
        label="a real-photo run",
    )
    low, high = min(ends) - 0.02, max(ends) + 0.03
    axes[0].plot([low, high], [low, high], c="0.4", lw=0.8)
    axes[0].set(
        xlim=(-0.1, high + 0.15),
        ylim=(low, high),
        xlabel="forecast after a fifth of the run",
        ylabel="explained variance at the end",
        title=f"{len(runs)} runs, a point per teacher",
    )
    axes[0].legend(fontsize=7, loc="lower right")
    measured = [run for run in runs if _has_knn(run)]
    for axis, name in zip(axes[1:], WATCHED, strict=True):
        for number, run in enumerate(measured):
            axis.plot(
                run["signals"][name],
                run["signals"]["knn/student"],
                ".-",
                c=f"C{number}",
                lw=0.8,
                ms=4,
                label=run["name"],
            )
        axis.set(
            xlabel=name.replace("_", " "),
            ylabel="k-NN of the student, %",
            title="each run, look by look",
        )
    axes[1].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--runs", type=Path, default=Path("runs/forecast"))
    parser.add_argument("--longer", type=Path)
    parser.add_argument("--packs", type=Path, default=Path("packs"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.what == "run":
        run_all(arguments.runs, arguments.packs, arguments.only)
    else:
        write_report(arguments.runs, arguments.longer, arguments.out)


if __name__ == "__main__":
    main()
