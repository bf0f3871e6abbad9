"""Tables, picture and JSON of docs/results/mini-dune.md from the lines of `run.py`.

python -m benchmarks.mini_dune.report [--runs runs/mini-dune/runs.jsonl] [--out docs/results]
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.result_pages import Record, spread, table, write_report

TEACHERS = ("objects", "rooms", "people")
BASELINES = ("constant",)
PARETO = {  # groups of tasks, by the domain that their names begin with
    "objects": ("objects",),
    "rooms and people": ("rooms", "people"),
    "all tasks": TEACHERS,
}
BASE = "base/transformer"
HEADLINE, LONGER = "headline/mini-dune", "longer/mini-dune"
GENERIC = "longer/own+generic"
WHOLE = {  # arms that are not short, and what they have otherwise than the recipe
    HEADLINE: "",
    LONGER: "",
    GENERIC: "own+generic, ",
    "longer/own+generic, longest": "own+generic, ",
    "longer/linear": "linear, ",
    "longer/ladder": "ladder, ",
}
LENGTHS = {BASE: "", "sharing/own+generic": "own+generic, ", **WHOLE}
Scores = Mapping[str, float]  # by task


def main() -> None:
    """Write all."""
    about = __doc__.splitlines()[0]
    write_report("mini-dune", about=about, portable=portable, tables=tables, draw=draw)


def portable(record: Record) -> Record:
    """Without folders of this machine."""
    return {key: value for key, value in record.items() if key != "folder"}


class Reference:
    """The best teacher of each task, and what is better lower."""

    def __init__(self, models: Record) -> None:
        self.scores: dict[str, Scores] = models["scores"]
        self.lower = set(models["lower"])
        self.tasks = list(self.scores[TEACHERS[0]])

    def best(self, task: str) -> float:
        """The score of the best teacher."""
        choose: Callable[..., float] = min if task in self.lower else max
        return choose(self.scores[name][task] for name in TEACHERS)

    def ratio(self, task: str, value: float) -> float:
        """Above 1 is better than the best teacher; of an error the teacher's over the model's."""
        best = self.best(task)
        return best / value if task in self.lower else value / best

    def mean_ratio(self, scores: Scores, domains: Sequence[str] = TEACHERS) -> float:
        """Over the tasks of some domains."""
        return statistics.mean(
            self.ratio(task, scores[task]) for task in self.tasks if task.startswith(domains)
        )

    def header(self) -> list[str]:
        """The tasks, with an arrow where lower is better."""
        return [f"{task} ↓" if task in self.lower else task for task in self.tasks]


def bare(record: Record) -> Scores:
    """The student without projectors."""
    scores: Scores = record["scores"]["student"]
    return scores


def projected(record: Record) -> Scores:
    """On each task the student in the space of the teacher of that domain."""
    found: dict[str, float] = {}
    for name in TEACHERS:
        own = record["scores"].get(f"student as {name}", {})
        found |= {task: value for task, value in own.items() if task.startswith(name)}
    return found


def by_arm(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The seeds of each arm, by stage and name."""
    arms: dict[str, list[Record]] = {}
    for record in records:
        if "name" in record:
            arms.setdefault(f"{record['stage']}/{record['name']}", []).append(record)
    return arms


def tables(records: Sequence[Record]) -> dict[str, list[str]]:
    """The lines of each table that there are runs for."""
    models = [r for r in records if r["stage"] == "models"]
    if not models:
        return {}
    reference, arms = Reference(models[0]), by_arm(records)
    found: dict[str, list[str]] = {}
    if headline := arms.get(HEADLINE):
        found["headline"] = headline_table(reference, headline, arms.get(GENERIC, []))
    if BASE in arms:
        found["ablations"] = arm_table(reference, arms)
        found["bare"] = bare_table(reference, arms)
        found["steps"] = steps_table(reference, arms)
    for record in records:
        if record["stage"] == "depth":
            found["depth"] = depth_table(record["scores"])
    if swept := [r for r in records if r["stage"] == "resolution"]:
        found["resolution"] = resolution_table(swept)
    return found


def headline_table(
    reference: Reference, headline: Sequence[Record], generic: Sequence[Record]
) -> list[str]:
    """Teachers, floors, the students of both sharings bare and projected over seeds, ratios."""
    rows: list[list[object]] = [
        [f"{name} (teacher)" if name in TEACHERS else name, *map(scores.get, reference.tasks)]
        for name, scores in reference.scores.items()
    ]
    for name in headline[0]["scores"]:
        if name.startswith("untrained"):
            rows.append([name, *map(headline[0]["scores"][name].get, reference.tasks)])
    ratios: list[list[object]] = []
    for sharing, seeds in (("", headline), (", own+generic", generic)):
        for how, of in (("bare", bare), ("projected", projected)) if seeds else ():
            columns = [[of(r)[t] for r in seeds] for t in reference.tasks]
            rows.append([f"student{sharing}, {how}", *map(spread, columns)])
            of_best = [
                [reference.ratio(task, value) for value in column]
                for task, column in zip(reference.tasks, columns, strict=True)
            ]
            cells = [spread(column, digits=3) for column in of_best]
            ratios.append([f"**{how}{sharing} / best teacher**", *cells])
    rows += ratios
    return table(["model", *reference.header()], rows)


def arm_table(reference: Reference, arms: Mapping[str, Sequence[Record]]) -> list[str]:
    """One row an arm: the bare student on every task, means over all, explained variance."""
    rows: list[list[object]] = []
    for name, seeds in sorted(arms.items(), key=lambda arm: (arm[0] != BASE, _stage(arm[0]))):
        if name in WHOLE:
            continue
        label = f"**{name}**" if name == BASE else name
        rows.append(
            [
                f"{label} ({len(seeds)} seeds)" if len(seeds) > 1 else label,
                *(spread([bare(r)[t] for r in seeds]) for t in reference.tasks),
                spread([reference.mean_ratio(bare(r)) for r in seeds], digits=3),
                spread([reference.mean_ratio(projected(r)) for r in seeds], digits=3),
                spread([r["held_out"]["explained_variance"] for r in seeds], digits=3),
            ]
        )
    header = [
        "arm",
        *reference.header(),
        "bare / best, mean",
        "projected / best, mean",
        "explained variance",
    ]
    return table(header, rows)


def _stage(name: str) -> str:
    return name.partition("/")[0]


def bare_table(reference: Reference, arms: Mapping[str, Sequence[Record]]) -> list[str]:
    """Bare and projected in terms of the best teacher, for groups of tasks."""
    rows = []
    named = {
        f"{name} ({len(seeds)} seeds)" if len(seeds) > 1 else name: seeds
        for name, seeds in compared(arms).items()
    }
    for name, seeds in {**named, **trained_for_longer(arms)}.items():
        cells = [
            spread([reference.mean_ratio(of(r), domains) for r in seeds], digits=3)
            for domains in PARETO.values()
            for of in (bare, projected)
        ]
        rows.append([name, *cells])
    header = [f"{group}, {kind}" for group in PARETO for kind in ("bare", "projected")]
    return table(["student", *header], rows)


def steps_table(reference: Reference, arms: Mapping[str, Sequence[Record]]) -> list[str]:
    """One row a length of training, projected and bare: the student over the best teacher."""
    rows: list[list[object]] = []
    for label, of in (("projected", projected), ("bare", bare)):
        for name, otherwise in LENGTHS.items():
            if not (seeds := arms.get(name)):
                continue
            ratios = [[reference.ratio(t, of(r)[t]) for r in seeds] for t in reference.tasks]
            explained = [r["held_out"]["explained_variance"] for r in seeds]
            cells = [spread(values, digits=3) for values in (*ratios, explained)]
            rows.append([f"{label}, {otherwise}{_steps(seeds)}", *cells])
    return table(["student", *reference.header(), "explained variance"], rows)


def compared(arms: Mapping[str, Sequence[Record]]) -> dict[str, Sequence[Record]]:
    """The arms that ask what the bare encoder keeps: other projectors and what reaches it."""
    named = {"transformer (base)": arms[BASE]}
    for name, seeds in arms.items():
        stage, _, word = name.partition("/")
        if stage in ("projectors", "bare", "sharing"):
            named[f"{stage}: {word}" if stage == "sharing" else word] = seeds
    return named


def trained_for_longer(arms: Mapping[str, Sequence[Record]]) -> dict[str, Sequence[Record]]:
    """Those that are not short, by what they have otherwise, and steps."""
    return {
        f"{otherwise}{_steps(arms[name])}": arms[name]
        for name, otherwise in WHOLE.items()
        if name in arms
    }


def _steps(seeds: Sequence[Record]) -> str:
    return f"{seeds[0]['steps']:,} steps" + (f" ({len(seeds)} seeds)" if len(seeds) > 1 else "")


def depth_table(scores: Mapping[str, Scores]) -> list[str]:
    """One row a model: what is right within a factor of 1.25, and both errors."""
    rows: list[list[object]] = [
        [
            f"{name} (teacher)" if name in TEACHERS else name,
            held["delta1"],
            f"{held['abs_rel']:.3f}",
            f"{held['rmse_m']:.3f}",
        ]
        for name, held in scores.items()
    ]
    return table(["model", "delta1", "AbsRel ↓", "RMSE, m ↓"], rows)


def resolution_table(swept: Sequence[Record]) -> list[str]:
    """One row a model and size."""
    tasks = {_plain(task) for record in swept for row in record["scores"].values() for task in row}
    models = list(dict.fromkeys(name for record in swept for name in record["scores"]))
    rows: list[list[object]] = []
    for model in models:
        if model in BASELINES:
            continue
        for record in swept:
            held = {_plain(task): v for task, v in record["scores"].get(model, {}).items()}
            if held:
                label = f"{model} (teacher)" if model in TEACHERS else model
                rows.append([label, str(record["size_px"]), *map(held.get, sorted(tasks))])
    return table(["model", "px", *sorted(tasks)], rows)


def _plain(task: str) -> str:
    """`rooms@96 delta1` without its size."""
    world, _, metric = task.partition(" ")
    return f"{world.partition('@')[0]} {metric}"


def draw(records: Sequence[Record], path: Path) -> None:
    """Every model over the best teacher of each task; bare against projected, short and longer."""
    models = [r for r in records if r["stage"] == "models"]
    arms = by_arm(records)
    if not models or BASE not in arms:
        return
    mpl.use("Agg")
    reference = Reference(models[0])
    figure = plt.figure(figsize=(13, 12))
    grid = figure.add_gridspec(3, len(PARETO))
    _draw_bars(figure.add_subplot(grid[0, :]), reference, arms)
    for row, drawn in enumerate((compared(arms), trained_for_longer(arms)), 1):
        for column, (group, domains) in enumerate(PARETO.items() if drawn else ()):
            axes = figure.add_subplot(grid[row, column])
            _draw_pareto(axes, reference, drawn, domains)
            axes.set_title(group, fontsize=10)
        figure.axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def _draw_bars(axes: Any, reference: Reference, arms: Mapping[str, Sequence[Record]]) -> None:
    seeds = arms.get(HEADLINE, arms[BASE])
    rows: dict[str, list[Scores]] = {
        f"{name} (teacher)": [reference.scores[name]] for name in TEACHERS
    }
    for sharing, of_arm in (("", seeds), (", own+generic", arms.get(GENERIC, []))):
        for how, of in (("bare", bare), ("projected", projected)) if of_arm else ():
            rows[f"student{sharing}, {how}"] = [of(r) for r in of_arm]
    for record in seeds:
        for name, scores in record["scores"].items():
            if name.startswith("untrained"):
                rows[name] = [scores]
    for i, (name, held) in enumerate(rows.items()):
        ratios = [[reference.ratio(t, scores[t]) for scores in held] for t in reference.tasks]
        places = [x + 0.8 * i / len(rows) - 0.4 for x in range(len(reference.tasks))]
        errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in ratios]
        heights = [statistics.mean(values) for values in ratios]
        axes.bar(places, heights, 0.8 / len(rows), yerr=errors, label=name, align="edge")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(reference.tasks)), reference.tasks, fontsize=8)
    axes.set_ylabel("relative to the best teacher")
    axes.legend(ncols=4, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _draw_pareto(
    axes: Any,
    reference: Reference,
    arms: Mapping[str, Sequence[Record]],
    domains: Sequence[str],
) -> None:
    for name, seeds in arms.items():
        across = [reference.mean_ratio(projected(r), domains) for r in seeds]
        up = [reference.mean_ratio(bare(r), domains) for r in seeds]
        (drawn,) = axes.plot(statistics.mean(across), statistics.mean(up), "o", label=name)
        axes.plot(across, up, ".", color=drawn.get_color(), markersize=3)
    axes.set_xlabel("projected / best teacher")
    axes.set_ylabel("bare / best teacher")
    axes.margins(0.2)
    axes.locator_params(nbins=4)


if __name__ == "__main__":
    main()
