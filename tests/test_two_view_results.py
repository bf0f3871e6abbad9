"""The table of docs/results/two-view.md: floors first, the best head in bold, newest arms only."""

from typing import Any

from benchmarks.two_view.report import COLUMNS, arms, latest


def record(encoder: str, value: float, *, steps: int | None = 200) -> dict[str, Any]:
    trained = {} if steps is None else {"steps": steps}
    scores = dict.fromkeys(COLUMNS, value)
    return {"set": "rooms", "encoder": encoder, "scores": scores, **trained}


def test_floors_come_first_and_the_best_trained_head_is_bold() -> None:
    lines = arms(
        [
            record("miniworld-rooms", 60.0),
            record("a head of its own", 90.0, steps=None),
            record("random weights", 20.0),
            record("constant", 10.0, steps=None),
        ]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in rows[:2]] == ["random weights", "constant"]
    by_name = {row[0]: row[1:] for row in rows}
    up = list(COLUMNS).index("delta1")
    down = list(COLUMNS).index("abs_rel")
    assert by_name["miniworld-rooms"][up] == "**60.0**"
    assert by_name["random weights"][down] == "**20.000**"  # an error: lower is better
    assert by_name["a head of its own"][up] == "90.0"  # trained longer: not compared


def test_of_an_encoder_trained_anew_the_last_arm_counts() -> None:
    kept = latest([record("miniworld-rooms", 1.0), record("miniworld-rooms", 2.0)])
    assert [r["scores"]["delta1"] for r in kept] == [2.0]
