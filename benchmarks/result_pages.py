"""Pages of docs/results: tables of a benchmark's runs, between marks in the text."""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.run_lines import read_lines

__all__ = ["Record", "filled", "spread", "table", "write_report"]

Record = dict[str, Any]


def write_report(
    name: str,
    *,
    about: str,
    portable: Callable[[Record], Record],
    tables: Callable[[Sequence[Record]], Mapping[str, list[str]]],
    draw: Callable[[Sequence[Record], Path], None],
) -> None:
    """The command line of a benchmark's report: NAME.json, the tables of NAME.md, NAME.png."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--runs", type=Path, default=Path(f"runs/{name}/runs.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    records = [portable(record) for record in read_lines(given.runs)]
    (given.out / f"{name}.json").write_text(json.dumps({"runs": records}, indent=1) + "\n")
    page = given.out / f"{name}.md"
    page.write_text(filled(page.read_text(), tables(records)))
    draw(records, given.out / f"{name}.png")


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
