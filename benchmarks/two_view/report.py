"""Tables and JSON of docs/results/two-view.md from the lines of `run.py`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_pages import filled, table

COLUMNS = {  # of the table, and digits
    "auc20_pointmaps": ("AUC@20", 1),
    "auc10_pointmaps": ("AUC@10", 1),
    "auc20_pnp": ("AUC@20, PnP", 1),
    "auc20_matches": ("AUC@20, matches", 1),
    "auc10_matches": ("AUC@10, matches", 1),
    "delta1": ("depth delta1", 1),
    "abs_rel": ("AbsRel ↓", 3),
    "other_points_m": ("points of view 2, m ↓", 2),
    "match_4px": ("match 4 px", 1),
    "match_patch": ("match 8 px", 1),
}
LOWER = ("abs_rel", "other_points_m")
FLOORS = ("constant", "random weights")
Record = Mapping[str, Any]


def write(records: Sequence[Record], docs: Path) -> None:
    """The page with its tables anew, and all numbers beside it."""
    newest = latest(records)
    text = json.dumps({"arms": newest}, indent=1) + "\n"
    (docs / "two-view.json").write_text(text)
    page = docs / "two-view.md"
    if page.is_file():
        page.write_text(filled(page.read_text(), tables(newest)))


def lines(records: Sequence[Record]) -> list[str]:
    """All tables, to be printed."""
    return [line for name, text in tables(records).items() for line in (name, "", *text, "")]


def latest(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Of each arm the last line: the encoder may have been trained anew since an earlier one."""
    held = {(record["set"], record["encoder"]): dict(record) for record in records}
    return list(held.values())


def tables(records: Sequence[Record]) -> dict[str, list[str]]:
    """By set."""
    sets = dict.fromkeys(record["set"] for record in records)
    return {name: arms([r for r in latest(records) if r["set"] == name]) for name in sets}


def arms(records: Sequence[Record]) -> list[str]:
    """One row an encoder, floors first; the best head of each column in bold."""
    ordered = sorted(records, key=lambda r: (r["encoder"] not in FLOORS, "steps" not in r))
    trained = [record for record in ordered if "steps" in record]
    rows = [
        [
            record["encoder"],
            *(
                _cell(record, key, digits, trained if record in trained else [])
                for key, (_, digits) in COLUMNS.items()
            ),
        ]
        for record in ordered
    ]
    return table(["encoder", *(title for title, _ in COLUMNS.values())], rows)


def _cell(record: Record, key: str, digits: int, among: Sequence[Record]) -> str:
    value = record["scores"][key]
    text = f"{value:.{digits}f}"
    best = (min if key in LOWER else max)((r["scores"][key] for r in among), default=None)
    return f"**{text}**" if value == best and value > 0 else text
