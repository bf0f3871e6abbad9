"""The picture of a teacher audit: who tells what of whom, and what each adds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alumnus.report.heat_map import LIGHT, Matrix, heat_map

__all__ = ["audit_picture"]

CELL_INCHES = 0.62
SHARED, OWN = "#9ecae1", "#3b6fb5"


def audit_picture(
    matrices: Mapping[str, Matrix],  # by title
    told_by_others: Mapping[str, float],
    order: Sequence[tuple[str, float]],
    path: Path,
) -> Path:
    """Write a PNG: a heat map for each matrix, then what each model adds, then a growing pool."""
    names = list(told_by_others)
    cells = CELL_INCHES * max(3, len(names))
    label = 0.085 * max(map(len, names))  # inches that the longest name takes
    width = (cells + 0.5) * len(matrices) + label + 2 * cells + label + 1.6
    figure = Figure(figsize=(width, cells + label + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        1, len(matrices) + 2, width_ratios=[1.0] * len(matrices) + [1.05, 1.05]
    )
    for i, (title, matrix) in enumerate(matrices.items()):
        heat_map(panels[i], title, matrix, rows=names, columns=names, labels=i == 0, diagonal=False)
    _shares(panels[-2], told_by_others)
    _growth(panels[-1], order)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white")
    return path


def _shares(axes: Axes, told_by_others: Mapping[str, float]) -> None:
    names = list(told_by_others)
    told = [100 * share for share in told_by_others.values()]
    axes.barh(names, told, color=SHARED)
    axes.barh(names, [100 - share for share in told], left=told, color=OWN)
    for row, share in enumerate(told):
        axes.text(98, row, f"{100 - share:.0f}", ha="right", va="center", color=LIGHT, fontsize=9)
    axes.set_title("told by all others (light), added (dark), %", fontsize=10)
    _plain(axes)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)


def _growth(axes: Axes, order: Sequence[tuple[str, float]]) -> None:
    names = [name if i == 0 else f"+ {name}" for i, (name, _) in enumerate(order)]
    covers = [100 * share for _, share in order]
    axes.barh(names, covers, color=OWN)
    for row, share in enumerate(covers):
        axes.text(share - 2, row, f"{share:.0f}", ha="right", va="center", color=LIGHT, fontsize=9)
    axes.set_title("a growing pool covers, % of what all say", fontsize=10)
    _plain(axes)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)


def _plain(axes: Axes) -> None:
    axes.set_xlim(0, 100)
    axes.tick_params(labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
