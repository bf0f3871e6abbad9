"""The table of an evaluation, as Markdown and as plain text."""

from collections.abc import Sequence
from dataclasses import dataclass

from alumnus.evaluation.results import Results, TaskRecord

__all__ = ["Table", "markdown", "plain", "results_table"]

ABSENT = "-"


@dataclass(frozen=True)
class Table:
    """Cells as text: a header and rows of the same length, the first column being names."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()  # (row, column) of cells to stand out


def results_table(results: Results) -> Table:
    """One row a model, one column a task, then each student over the best teacher.

    Rows come in the order teachers, students, projected, baselines; the best teacher of a task is
    bold. Cells of models that lack what a task needs hold a dash. Numbers are percentages where
    the header names no unit; an arrow downwards says that lower is better.
    """
    order = ("teacher", "student", "projected", "baseline")
    models = sorted(results.models, key=lambda m: order.index(m.kind))  # stable
    tasks = [task.name for task in results.tasks]
    rows = [(m.name, *(_number(results.value(task, m.name)) for task in tasks)) for m in models]
    names = [m.name for m in models]
    bold = {
        (names.index(best), 1 + column)
        for column, task in enumerate(tasks)
        if (best := results.best_teacher(task)) is not None
    }
    students = [m.name for m in models if m.kind == "student"]
    if any(m.kind == "teacher" for m in models):
        rows += [
            (f"{name} / best teacher", *(_ratio(results.ratio(task, name)) for task in tasks))
            for name in students
        ]
    header = ("model", *(task.name + _unit(task) for task in results.tasks))
    return Table(header, tuple(rows), frozenset(bold))


def markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown, numbers to the right."""
    rows = [
        [f"**{cell}**" if (r, c) in table.bold else cell for c, cell in enumerate(row)]
        for r, row in enumerate(table.rows)
    ]
    rule = ["---", *("---:" for _ in table.header[1:])]
    return "".join(f"| {' | '.join(_escaped(row))} |\n" for row in [table.header, rule, *rows])


def plain(table: Table) -> str:
    """The table in aligned columns; bold cells carry a star, headers break at their last word."""
    split = [_broken(cell, c) for c, cell in enumerate(table.header)]
    head = [[_room(part, c) for c, part in enumerate(parts)] for parts in zip(*split, strict=True)]
    body = [
        [f"{cell}*" if (r, c) in table.bold else _room(cell, c) for c, cell in enumerate(row)]
        for r, row in enumerate(table.rows)
    ]
    widths = [max(len(row[c]) for row in head + body) for c in range(len(table.header))]
    rule = "  ".join("-" * width for width in widths)
    above = [_line(row, widths) for row in head if any(cell.strip() for cell in row)]
    return "\n".join([*above, rule, *(_line(row, widths) for row in body)]) + "\n"


def _broken(cell: str, column: int) -> tuple[str, str]:
    """A header on two lines: long table columns would be wider than a terminal."""
    first, _, last = cell.rpartition(" ")
    return ("", cell) if column == 0 else (first, last)


def _room(cell: str, column: int) -> str:
    """Room for a star behind numbers, so that digits stay below digits."""
    return cell if column == 0 else f"{cell} "


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _escaped(row: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in row]


def _unit(task: TaskRecord) -> str:
    arrow = "\N{DOWNWARDS ARROW}" if task.better == "lower" else ""
    return "" if task.unit == "%" and not arrow else f" {task.unit}{arrow}"


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"
