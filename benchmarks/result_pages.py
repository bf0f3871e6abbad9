"""Pages of docs/results: tables of a benchmark's runs, between marks in the text."""

import statistics
from collections.abc import Mapping, Sequence

__all__ = ["filled", "spread", "table"]


def filled(page: str, texts: Mapping[str, list[str]]) -> str:
    """The page with each table between its marks: `<!-- NAME -->` and `<!-- end -->`."""
    for name, lines in texts.items():
        head, mark, rest = page.partition(f"<!-- {name} -->")
        assert mark, f"the page has a place for {name}"
        end = rest.index("<!-- end -->")
        page = "\n".join([head + mark, "", *lines, "", rest[end:]])
    return page


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Markdown; numbers with one digit, None as nothing."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for row in rows:
        cells = [f"{v:.1f}" if isinstance(v, float) else "" if v is None else str(v) for v in row]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def spread(values: Sequence[float], *, digits: int = 1) -> str:
    """Mean and standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
