"""A sheet of pictures: a row an image, a column a model, all cells of a row of one size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["Column", "draw_sheet"]

WIDTH = 1.7  # of a cell, in inches
GAP = 0.05
MARGIN = 0.06
LINE = 0.15  # of a heading
FITTING, LONGEST = 24, 36  # characters of a heading at its full size, and at its smallest
FONT_PT = 8
ASPECTS = (0.4, 2.5)  # height over width that a cell may have; longer images are squeezed


@dataclass(frozen=True)
class Column:
    """Pictures below a heading: the first line is its name, the others are small print."""

    heading: Sequence[str]
    cells: Sequence[Tensor]  # [h, w, 3] in [0, 1] for each row


def draw_sheet(
    columns: Sequence[Column],
    aspects: Sequence[float],  # height over width of each row's image
    path: Path,
    *,
    mark: tuple[float, float] | None = None,  # x and y in widths and heights
) -> Path:
    """Write the sheet as PNG. Cells of few pixels are shown with sharp edges."""
    low, high = ASPECTS
    heights = [WIDTH * min(high, max(low, aspect)) for aspect in aspects]
    head = LINE * max(len(column.heading) for column in columns) + 0.04
    width = 2 * MARGIN + len(columns) * WIDTH + (len(columns) - 1) * GAP
    height = 2 * MARGIN + head + sum(heights) + (len(heights) - 1) * GAP
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    for c, column in enumerate(columns):
        left = MARGIN + c * (WIDTH + GAP)
        for i, words in enumerate(column.heading):
            y = height - MARGIN - (i + 0.5) * LINE
            figure.text(
                (left + WIDTH / 2) / width,
                y / height,
                _shortened(words),
                ha="center",
                va="center",
                fontsize=_font_pt(words) if i == 0 else 6.5,
                color="black" if i == 0 else "0.35",
            )
        top = height - MARGIN - head
        for cell, cell_height in zip(column.cells, heights, strict=True):
            box = (left / width, (top - cell_height) / height, WIDTH / width, cell_height / height)
            axis = figure.add_axes(box)
            axis.imshow(cell.numpy(), extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest")
            axis.set_axis_off()
            if mark is not None:
                for colour, edge in (("black", 2.2), ("white", 1.1)):  # seen on any ground
                    axis.plot(*mark, "o", mfc="none", ms=6, mec=colour, mew=edge, clip_on=False)
                axis.set_xlim(0, 1)
                axis.set_ylim(1, 0)
            top -= cell_height + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _font_pt(words: str) -> float:
    return FONT_PT * min(1, FITTING / min(LONGEST, max(1, len(words))))


def _shortened(words: str) -> str:
    return words if len(words) <= LONGEST else words[: LONGEST - 3] + "..."
