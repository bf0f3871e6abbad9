"""A matrix of shares as cells of one colour, with its numbers in percent."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

__all__ = ["DARK", "LIGHT", "Matrix", "heat_map"]

Matrix = Mapping[str, Mapping[str, float]]  # row, column: a share of 1
DARK, LIGHT = "#1b1b1b", "white"


def heat_map(
    axes: Axes,
    title: str,
    matrix: Matrix,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: bool = True,  # names of the rows
    diagonal: bool = True,  # numbers where row and column have one name
) -> None:
    """Draw a matrix; cells that it lacks stay empty."""
    values = [[matrix.get(a, {}).get(b, float("nan")) for b in columns] for a in rows]
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
    for row, shares in enumerate(values):
        for column, share in enumerate(shares):
            hidden = not diagonal and rows[row] == columns[column]
            if share == share and not hidden:  # not NaN: a model without this kind of token
                colour = LIGHT if share > 0.6 else DARK
                axes.text(
                    column, row, f"{100 * share:.0f}",
                    ha="center", va="center", color=colour, fontsize=9,
                )  # fmt: skip
    axes.set_title(title, fontsize=10)
    upright = max(map(len, columns), default=0) > 3
    axes.set_xticks(range(len(columns)), columns, rotation=90 if upright else 0, fontsize=8)
    axes.set_yticks(range(len(rows)), rows if labels else [""] * len(rows), fontsize=8)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
