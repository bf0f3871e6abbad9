"""UNIC's picture of an evaluation: every model of every task over the best teacher of that task."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alumnus.evaluation.results import ModelRecord, Results

__all__ = ["relative_picture", "relative_scores"]

FLOOR = 50.0  # percent of the best teacher; teachers below stand there, with their number
MARKERS = "osD^vPX*<>hp"
TEACHER_COLOURS = ("#9aa0a6", "#5f6368", "#b8a58c", "#7d8f9e", "#a08ca6", "#8fa68c")
STUDENT_COLOURS = ("#1967d2", "#d93025", "#188038", "#e8710a", "#9334e6", "#12858d")


def relative_scores(results: Results, model: str) -> list[float | None]:
    """By task, the model's score in percent of that of the best teacher; None without both."""
    ratios = (results.ratio(task.name, model) for task in results.tasks)
    return [None if ratio is None else 100 * ratio for ratio in ratios]


def relative_picture(results: Results, path: Path) -> Path:
    """Write a PNG: teachers as marks, students as bars from the line of the best teacher.

    Above the line a student beats every teacher on that task. Projections and baselines are left
    out. ValueError where no task has a teacher, or where there is none to compare with it.

    Source: the form of UNIC's (arXiv 2408.05088) relative gains over the best teacher.
    """
    shown = [m for m in results.models if m.kind in ("teacher", "student")]
    scores = {m.name: relative_scores(results, m.name) for m in shown}
    kept = [
        i
        for i, task in enumerate(results.tasks)
        if results.best_teacher(task.name) is not None
        and any(scores[m.name][i] is not None for m in shown)
    ]
    if not kept:
        raise ValueError("a plot over the best teacher needs a task that a teacher was scored on")
    teachers = [m for m in shown if m.kind == "teacher"]
    students = [m for m in shown if m.kind == "student"]
    if len(teachers) + len(students) < 2:
        raise ValueError(f"a plot over the best teacher needs more models than {shown[0].name!r}")

    figure = Figure(figsize=(max(5.5, 1.6 + 0.85 * len(kept)), 4.6), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = {name: [by_task[i] for i in kept] for name, by_task in scores.items()}
    own = [v for s in students for v in values[s.name] if v is not None]
    floor = min([FLOOR, *own])  # bars are never cut
    _students(axes, students, values)
    _teachers(axes, teachers, values, floor)
    axes.axhline(100, color="black", linewidth=1, zorder=2)
    axes.set_xticks(range(len(kept)), [results.tasks[i].name for i in kept])
    axes.tick_params(axis="x", labelrotation=30, labelsize=8, length=0)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")
    axes.set_xlim(-0.6, len(kept) - 0.4)
    axes.set_ylim(*_limits([v for row in values.values() for v in row if v is not None], floor))
    axes.set_ylabel("score, % of the best teacher's", fontsize=9)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    columns = min(4, len(shown))
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=columns, fontsize=8, frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", format="png")
    return path


def _limits(values: Sequence[float], floor: float) -> tuple[float, float]:
    low, high = max(floor, min(values, default=100)), max(100.0, max(values, default=100))
    margin = 0.12 * max(high - low, 4.0)
    return low - margin, high + margin


def _students(
    axes: Axes, students: Sequence[ModelRecord], values: dict[str, list[float | None]]
) -> None:
    width = 0.6 / max(1, len(students))
    for place, student in enumerate(students):
        shift = (place - (len(students) - 1) / 2) * width
        colour = STUDENT_COLOURS[place % len(STUDENT_COLOURS)]
        found = [(x + shift, v) for x, v in enumerate(values[student.name]) if v is not None]
        axes.bar(
            [x for x, _ in found],
            [v - 100 for _, v in found],
            width * 0.92,
            bottom=100,
            color=colour,
            alpha=0.85,
            label=student.name,
            zorder=1,
        )
        for x, v in found:
            up = v >= 100
            axes.annotate(
                f"{v - 100:+.{0 if len(students) > 1 and abs(v - 100) >= 9.95 else 1}f}",
                (x, v),
                xytext=(0, 2 if up else -2),
                textcoords="offset points",
                ha="center",
                va="bottom" if up else "top",
                fontsize=7 if len(students) < 2 else 6 if len(students) < 3 else 5,
                color=colour,
                zorder=4,
            )


def _teachers(
    axes: Axes,
    teachers: Sequence[ModelRecord],
    values: dict[str, list[float | None]],
    floor: float,
) -> None:
    for place, teacher in enumerate(teachers):
        # side by side, so that equal scores do not hide each other
        shift = (place - (len(teachers) - 1) / 2) * 0.5 / max(1, len(teachers))
        colour = TEACHER_COLOURS[place % len(TEACHER_COLOURS)]
        found = [(x + shift, v) for x, v in enumerate(values[teacher.name]) if v is not None]
        axes.scatter(
            [x for x, _ in found],
            [max(v, floor) for _, v in found],
            s=26,
            marker=MARKERS[place % len(MARKERS)],
            color=colour,
            edgecolors="white",
            linewidths=0.6,
            label=teacher.name,
            zorder=3,
        )
        for x, v in found:
            if v < floor:
                axes.annotate(
                    f"\N{DOWNWARDS ARROW}{v:.0f}",
                    (x, floor),
                    xytext=(0, 4),
                    textcoords="offset points",
                    ha="center",
                    fontsize=6,
                    color=colour,
                )
