"""Tables of docs/results that a script writes are those of the JSON beside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import forecast, same_curves

RESULTS = Path(__file__).parent.parent / "docs/results"
Tables = Callable[[Any], dict[str, list[str]]]


@pytest.mark.parametrize(
    ("name", "tables"), [("forecast", forecast.tables), ("same-curves", same_curves.tables)]
)
def test_the_page_says_what_the_numbers_say(name: str, tables: Tables) -> None:
    page = (RESULTS / f"{name}.md").read_text()
    found = tables(json.loads((RESULTS / f"{name}.json").read_text()))
    for mark, lines in found.items():
        assert "\n".join([f"<!-- {mark} -->", "", *lines, "", "<!-- end -->"]) in page
