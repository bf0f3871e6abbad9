"""Does `alumnus compare` foretell which pool of teachers gives the better student?

    python -m benchmarks.unic_cifar.run --only pools
    python -m benchmarks.compare_pools [--runs runs/unic-cifar/runs.jsonl] [--images 512]
        [--teachers runs/unic-cifar/teachers] [--packs packs] [--out docs/results]

Each pool of benchmarks/unic_cifar/run.py has a student of its own, of equal length. Rank
correlation of numbers known before any training with the students' scores; beside the tool's own
number ("coverage", fixed before the students were looked at) stand the plainest others: the number
of teachers, the redundancy of a pool, the effective rank of its joint features, and, with labels,
the k-NN of its best teacher. Writes OUT/compare.json and OUT/compare.png.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr

import alumnus
from alumnus import measure
from alumnus.comparing import Comparison, compare_models
from alumnus.data import open_source
from alumnus.evaluation.signals import effective_rank
from benchmarks.run_lines import read_lines

IMAGES = "cifar10:train[:10000]"  # what the students learned from
LABELLED = ("cifar10:train[:1000]", "cifar10:test[:500]")
LITE = "efficientnet-lite"
CPU = torch.device("cpu")


def audited_name(name: str, teachers: Path) -> str:
    """What the commands call a candidate."""
    return name if name.startswith(LITE) else str(teachers / name)


def audited(names: Sequence[str], teachers: Path, packs: Path, images: int) -> Comparison:
    """The audit of all candidates on unlabelled images."""
    rows = [measure.bare_model(audited_name(name, teachers), CPU) for name in names]
    return compare_models(rows, open_source(str(packs / IMAGES)), images=images)


def known_before(audit: Comparison, pool: Sequence[str], knn: dict[str, float]) -> dict[str, float]:
    """What can be said of a pool without training anything."""
    pairs = [(a, b) for a in pool for b in pool if a != b]
    grams = [audit.levels[0].kernels.grams[name] for name in pool]
    joint = torch.stack(grams).mean(dim=0)
    values, vectors = torch.linalg.eigh(joint)
    return {
        "coverage": audit.coverage(pool),
        "number of teachers": float(len(pool)),
        "redundancy": sum(audit.tells[a][b] for a, b in pairs) / len(pairs) if pairs else 0.0,
        "effective rank": float(effective_rank(vectors * values.clamp_min(0).sqrt())),
        "k-NN of the best teacher (labels)": max(knn[name] for name in pool),
        "mean k-NN of the teachers (labels)": sum(knn[name] for name in pool) / len(pool),
    }


def main() -> None:
    """Read the students, audit their teachers, correlate, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/unic-cifar/runs.jsonl"))
    parser.add_argument("--teachers", type=Path, default=Path("runs/unic-cifar/teachers"))
    parser.add_argument("--packs", type=Path, default=Path("packs"))
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    records = read_lines(given.runs)
    pools = [record for record in records if record["stage"] == "pools"]
    names = sorted({name for record in pools for name in record["teachers"]})
    audit = audited(names, given.teachers, given.packs, given.images)
    print(audit)

    tasks = sorted(pools[0]["scores"]["student"])
    labelled = alumnus.evaluate(
        [audited_name(name, given.teachers) for name in names],
        [f"knn={given.packs / LABELLED[0]},{given.packs / LABELLED[1]}"],
        batch_size=128,
    )
    [task] = labelled.tasks
    knn = {name: labelled.value(task.name, name) or 0.0 for name in names}
    rows = [
        {
            "pool": record["teachers"],
            "known before": known_before(audit, record["teachers"], knn),
            "student": record["scores"]["student"],
        }
        for record in pools
    ]
    scores = np.array([[row["student"][task] for task in tasks] for row in rows])
    overall = ((scores - scores.mean(axis=0)) / scores.std(axis=0)).mean(axis=1)
    outcomes = {task: scores[:, i] for i, task in enumerate(tasks)} | {"all tasks": overall}
    correlations: dict[str, dict[str, dict[str, float]]] = {}
    for number in rows[0]["known before"]:
        said = [row["known before"][number] for row in rows]
        correlations[number] = {
            task: dict(zip(("rho", "p"), map(float, spearmanr(said, values)), strict=True))
            for task, values in outcomes.items()
        }
    print(f"\nSpearman's rho over {len(rows)} pools")
    print(" | ".join(["known before", *outcomes]))
    for number, by_task in correlations.items():
        print(" | ".join([number, *(f"{found['rho']:+.2f}" for found in by_task.values())]))
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "images": audit.images,
        "audit": json.loads(audit.to_json()),
        "pools": rows,
        "rank_correlation": correlations,
    }
    (given.out / "compare.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(rows, overall, given.out / "compare.png")
    audit.draw(given.out / "compare-audit.png")


def draw(rows: Sequence[dict[str, Any]], overall: "np.ndarray[Any, Any]", path: Path) -> None:
    """Students against what was known of their pools."""
    numbers = list(rows[0]["known before"])[:4]
    figure = Figure(figsize=(4.2 * len(numbers), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, number in zip(figure.subplots(1, len(numbers), sharey=True), numbers, strict=True):
        said = [row["known before"][number] for row in rows]
        axes.scatter(said, overall, color="#3b6fb5", zorder=3)
        for x, y, row in zip(said, overall, rows, strict=True):
            label = "+".join(
                f"L{name[-1]}" if name.startswith(LITE) else name[0] for name in row["pool"]
            )
            axes.annotate(label, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axes.set_xlabel(number)
        axes.grid(color="0.9")
        axes.margins(x=0.15)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.axes[0].set_ylabel("student, mean z-score of all tasks")
    figure.savefig(path, dpi=110, facecolor="white")


if __name__ == "__main__":
    main()
