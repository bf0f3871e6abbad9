"""The picture of a diagnosis: CKA with each teacher, and what each block of the ladders says."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alumnus.report.heat_map import Matrix, heat_map

__all__ = ["diagnosis_picture"]

CELL_INCHES = 0.5


def diagnosis_picture(
    cka: Mapping[str, Matrix],  # level -> model -> model
    teachers: Sequence[str],
    rungs: Matrix,  # ladder -> block
    path: Path,
) -> Path:
    """Write a PNG: a heat map of CKA for each level, then one of the rungs' shares."""
    panels: list[tuple[str, Matrix, list[str]]] = [
        (f"CKA, {level} features, %", matrix, [name for name in teachers if name in matrix])
        for level, matrix in cka.items()
    ]
    if rungs:
        blocks = sorted({int(block) for shares in rungs.values() for block in shares})
        panels.append(("share of each block, %", rungs, [str(block) for block in blocks]))
    rows = [list(matrix) for _, matrix, _ in panels]
    longest = 0.085 * max(len(name) for names in rows for name in names)  # inches
    below = 0.085 * max(len(name) for _, _, names in panels for name in names)
    widths = [longest + CELL_INCHES * max(3, len(columns)) + 0.4 for _, _, columns in panels]
    height = CELL_INCHES * max(map(len, rows)) + below + 0.6
    figure = Figure(figsize=(sum(widths), height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axis, (title, matrix, columns), names in zip(axes, panels, rows, strict=True):
        heat_map(axis, title, matrix, rows=names, columns=columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, format="png")
    return path
