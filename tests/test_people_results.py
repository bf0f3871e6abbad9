"""The script of docs/results/people.md: its tables, and joints that it compares."""

from alumnus.miniworld.body import JOINTS
from benchmarks.people_head import run


def record(arm: str, value: float) -> run.Record:
    scores = dict.fromkeys(run.COLUMNS, value)
    return {
        "arm": arm,
        "scores": scores,
        "core_minutes": 4.0,
        "pck_of_network": value,
        "pck_of_linear_map": 2 * value,
    }


def test_tables_have_a_row_for_each_arm_and_both_constants() -> None:
    numbers = dict.fromkeys(run.COLUMNS, 9.0)
    constant = {"mean pose": numbers, "mean points": numbers, "pck_of_linear_map": 3.5}
    records = [{"arm": "constant", **constant}, record("student", 1.0), record("people", 2.0)]
    rendered, photographs = (run.tables(records)[name] for name in ("rendered", "photographs"))
    assert [line.split(" | ")[0].strip("| ") for line in rendered[2:]] == [
        "mean pose",
        "mean points",
        "teacher for people",
        "student",
    ]
    assert len({line.count("|") for line in rendered}) == 1
    assert photographs[-1] == "| student | 1.0 | 2.0 |"
    assert photographs[2] == "| mean places |  | 3.5 |"


def test_joints_of_the_pack_are_named_as_the_miniworlds() -> None:
    assert len(set(run.PACK_JOINTS)) == 14
    assert set(run.PACK_JOINTS) <= {name for name, _ in JOINTS}
