"""Tables, picture and JSON of docs/results/unic-cifar.md from the lines of `run.py`.

python -m benchmarks.unic_cifar.report [--runs runs/unic-cifar/runs.jsonl] [--out docs/results]
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.result_pages import Record, spread, table, write_report

STAGES = ("models", "choices", "headline", "ablations", "pools", "segmentation")
TASKS = ("cifar10 k-NN", "cifar10 logistic", "clothing10 k-NN", "clothing10 logistic")
MEAN = "explained_variance"


def main() -> None:
    """Write all."""
    about = __doc__.splitlines()[0]
    write_report("unic-cifar", about=about, portable=portable, tables=tables, draw=draw)


def portable(record: Record) -> Record:
    """Without folders of this machine."""
    places = ("data.", "teachers=", "cache=")
    words = [word for word in record.get("words", []) if not word.startswith(places)]
    return {k: v for k, v in record.items() if k not in ("words", "folder")} | (
        {"words": words} if words else {}
    )


def tables(records: Sequence[Record]) -> dict[str, list[str]]:
    """The lines of each table that there are runs for."""
    of = {stage: [r for r in records if r["stage"] == stage] for stage in STAGES}
    found: dict[str, list[str]] = {}
    if of["models"] and of["headline"]:
        found["headline"] = headline(of["models"][0]["scores"], of["headline"])
    if any(r["run"].startswith("base/") for r in of["ablations"]):
        found["ablations"] = changes(of["ablations"])
    if of["pools"]:
        found["pools"] = pools(of["pools"])
    if of["choices"]:
        rows = [[r["run"].partition("/")[2], *students(r).values()] for r in of["choices"]]
        found["choices"] = table(["choice", "held-out k-NN"], rows)
    if of["segmentation"]:
        rows = [[name, row["mIoU"]] for name, row in of["segmentation"][0]["scores"].items()]
        found["segmentation"] = table(["model", "mean IoU"], rows)
    return found


def students(record: Record) -> dict[str, float]:
    """Scores of the bare student of a run."""
    scores: dict[str, float] = record["scores"]["student"]
    return scores


def headline(teachers: Mapping[str, Mapping[str, float]], seeds: Sequence[Record]) -> list[str]:
    """Teachers, the student's mean and spread, its projections, an untrained one, the ratio."""
    columns = list(next(iter(teachers.values())))
    rows: list[list[object]] = [
        [f"{name} (teacher)" if name != "constant" else name, *(row.get(t) for t in columns)]
        for name, row in teachers.items()
    ]
    for name in seeds[0]["scores"]:
        if name == "constant":
            continue
        label = "student, bare" if name == "student" else name.replace("student", "student,")
        of = [r["scores"][name] for r in seeds if name in r["scores"]]
        rows.append([label, *(spread([scores[t] for scores in of]) for t in columns)])
    best = {t: max(row[t] for n, row in teachers.items() if n != "constant") for t in columns}
    ratios = {t: [students(r)[t] / best[t] for r in seeds] for t in columns}
    rows.append(["student / best teacher", *(spread(ratios[t], digits=3) for t in columns)])
    return table(["model", *columns], rows)


def changes(stage: Sequence[Record]) -> list[str]:
    """One row a change; the unchanged student with its spread first."""
    base = [r for r in stage if r["run"].startswith("base/")]
    columns = [t for t in students(base[0]) if t in TASKS]
    rows: list[list[object]] = [
        [
            f"as the recipe ({len(base)} seed{'s' if len(base) > 1 else ''})",
            *(spread([students(r)[t] for r in base]) for t in columns),
            spread([r["held_out"][MEAN] for r in base], digits=3),
        ]
    ]
    for record in stage:
        if record not in base:
            values = [students(record)[t] for t in columns]
            rows.append([record["run"], *values, f"{record['held_out'][MEAN]:.3f}"])
    return table(["changed", *columns, "explained variance"], rows)


def pools(stage: Sequence[Record]) -> list[str]:
    """One row a pool."""
    columns = [t for t in students(stage[0]) if t in TASKS]
    rows = [
        [
            " + ".join(record["teachers"]),
            *(students(record)[t] for t in columns),
            f"{record['held_out'][MEAN]:.3f}",
        ]
        for record in stage
    ]
    return table(["pool", *columns, "explained variance"], rows)


def scores_of(records: Sequence[Record], run: str) -> dict[str, dict[str, float]]:
    """Scores by model of a run."""
    found: list[dict[str, dict[str, float]]] = [r["scores"] for r in records if r["run"] == run]
    return found[0] if found else {}


def draw(records: Sequence[Record], path: Path) -> None:
    """Above: relative to the best teacher on each task. Below: what each change costs."""
    mpl.use("Agg")
    teachers = {n: s for n, s in scores_of(records, "teachers").items() if n != "constant"}
    seeds = [r for r in records if r["stage"] == "headline"]
    stage = [r for r in records if r["stage"] == "ablations"]
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 10), height_ratios=(1, 1.5))
    best = {t: max(row[t] for row in teachers.values()) for t in TASKS}
    bars = {name: [[row[t]] for t in TASKS] for name, row in teachers.items()}
    for name in (
        "student",
        *(n for n in (seeds[0]["scores"] if seeds else ()) if "untrained" in n),
    ):
        of = [r["scores"][name] for r in seeds if name in r["scores"]]
        bars[name] = [[scores[t] for scores in of] for t in TASKS]
    for i, (name, columns) in enumerate(bars.items()):
        places = [x + 0.8 * i / len(bars) - 0.4 for x in range(len(TASKS))]
        relative = [[v / best[t] for v in vs] for t, vs in zip(TASKS, columns, strict=True)]
        errors = [statistics.stdev(vs) if len(vs) > 1 else 0.0 for vs in relative]
        heights = [statistics.mean(vs) for vs in relative]
        above.bar(places, heights, 0.8 / len(bars), yerr=errors, label=name, align="edge")
    above.axhline(1, color="black", linewidth=0.8)
    above.set_xticks(range(len(TASKS)), TASKS)
    above.set_ylabel("relative to the best teacher")
    above.set_ylim(0, 1.5)
    above.legend(ncols=3, fontsize=8)
    base = [r for r in stage if r["run"].startswith("base/")]
    changed = [r for r in stage if r not in base]
    for i, task in enumerate(TASKS[:2]):
        middle = statistics.mean([students(r)[task] for r in base]) if base else 0.0
        values = [students(r)[task] - middle for r in [*base, *changed]]
        places = [y + 0.35 * i for y in range(len(values))]
        below.barh(places, values, 0.35, label=task, align="edge")
    names = [r["run"] for r in [*base, *changed]]
    below.set_yticks([y + 0.35 for y in range(len(names))], names, fontsize=8)
    below.invert_yaxis()
    below.axvline(0, color="black", linewidth=0.8)
    below.set_xlabel("points of top-1 above the mean of the recipe's seeds")
    below.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
