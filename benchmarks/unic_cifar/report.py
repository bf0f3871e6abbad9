"""The tables, the picture and the JSON of docs/results/unic-cifar.md from the lines of `run.py`.

python benchmarks/unic_cifar/report.py [--runs runs/unic-cifar/runs.jsonl] [--out docs/results]
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

TASKS = ("cifar10 k-NN", "cifar10 logistic", "clothing10 k-NN", "clothing10 logistic")
MEAN = "explained_variance"
Record = dict[str, Any]


def main() -> None:
    """Write and print."""
    parser = argparse.ArgumentParser(description="tables of the runs")
    parser.add_argument("--runs", type=Path, default=Path("runs/unic-cifar/runs.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    records = [json.loads(line) for line in given.runs.read_text().splitlines()]
    kept = [portable(record) for record in records]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "unic-cifar.json").write_text(json.dumps({"runs": kept}, indent=1) + "\n")
    tables = "\n\n".join(["\n".join(part) for part in parts(kept)])
    print(tables)
    draw(kept, given.out / "unic-cifar.png")


def portable(record: Record) -> Record:
    """Without folders of this machine."""
    places = ("data.", "teachers=", "cache=")
    words = [word for word in record.get("words", []) if not word.startswith(places)]
    return {k: v for k, v in record.items() if k not in ("words", "folder")} | (
        {"words": words} if words else {}
    )


def parts(records: Sequence[Record]) -> Iterator[list[str]]:
    """The tables, one after the other."""
    teachers = scores_of(records, "teachers")
    seeds = [r for r in records if r["stage"] == "headline"]
    if teachers and seeds:
        yield headline(teachers, seeds)
    stage = [r for r in records if r["stage"] == "ablations"]
    if stage:
        yield changes(stage)
    stage = [r for r in records if r["stage"] == "pools"]
    if stage:
        yield pools(stage)
    stage = [r for r in records if r["stage"] == "choices"]
    if stage:
        rows = [[r["run"].partition("/")[2], *r["scores"]["student"].values()] for r in stage]
        yield table(["choice", "held-out k-NN"], rows)


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
        rows.append([label, *(spread([r["scores"][name][t] for r in seeds]) for t in columns)])
    best = {t: max(row[t] for n, row in teachers.items() if n != "constant") for t in columns}
    ratios = {t: [r["scores"]["student"][t] / best[t] for r in seeds] for t in columns}
    rows.append(["student / best teacher", *(spread(ratios[t], digits=3) for t in columns)])
    return table(["model", *columns], rows)


def changes(stage: Sequence[Record]) -> list[str]:
    """One row a change; the unchanged student with its spread first."""
    base = [r for r in stage if r["run"].startswith("base/")]
    columns = [t for t in base[0]["scores"]["student"] if t in TASKS]
    rows: list[list[object]] = [
        [
            f"as the recipe ({len(base)} seeds)",
            *(spread([r["scores"]["student"][t] for r in base]) for t in columns),
            spread([r["held_out"][MEAN] for r in base], digits=3),
        ]
    ]
    for record in stage:
        if record not in base:
            values = [record["scores"]["student"][t] for t in columns]
            rows.append([record["run"], *values, f"{record['held_out'][MEAN]:.3f}"])
    return table(["changed", *columns, "explained variance"], rows)


def pools(stage: Sequence[Record]) -> list[str]:
    """One row a pool."""
    columns = [t for t in stage[0]["scores"]["student"] if t in TASKS]
    rows = [
        [
            " + ".join(record["teachers"]),
            *(record["scores"]["student"][t] for t in columns),
            f"{record['held_out'][MEAN]:.3f}",
        ]
        for record in stage
    ]
    return table(["pool", *columns, "explained variance"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for row in rows:
        cells = [f"{v:.1f}" if isinstance(v, float) else "" if v is None else str(v) for v in row]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def spread(values: Sequence[float], *, digits: int = 1) -> str:
    """Mean and standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


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
        bars[name] = [[r["scores"][name][t] for r in seeds] for t in TASKS]
    for i, (name, columns) in enumerate(bars.items()):
        places = [x + 0.8 * i / len(bars) - 0.4 for x in range(len(TASKS))]
        relative = [[v / best[t] for v in vs] for t, vs in zip(TASKS, columns, strict=True)]
        errors = [statistics.stdev(vs) if len(vs) > 1 else 0.0 for vs in relative]
        heights = [statistics.mean(vs) for vs in relative]
        above.bar(places, heights, 0.8 / len(bars), yerr=errors, label=name, align="edge")
    above.axhline(1, color="black", linewidth=0.8)
    above.set_xticks(range(len(TASKS)), TASKS)
    above.set_ylabel("relative to the best teacher")
    above.set_ylim(0, 1.25)
    above.legend(ncols=3, fontsize=8)
    base = [r for r in stage if r["run"].startswith("base/")]
    changed = [r for r in stage if r not in base]
    for i, task in enumerate(TASKS[:2]):
        middle = statistics.mean([r["scores"]["student"][task] for r in base]) if base else 0.0
        values = [r["scores"]["student"][task] - middle for r in [*base, *changed]]
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
