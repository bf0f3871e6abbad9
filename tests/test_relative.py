"""Evaluations merge only where they are comparable, and are drawn over the best teacher."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from alumnus import api
from alumnus.evaluation.results import (
    Better,
    ModelKind,
    ModelRecord,
    Results,
    TaskRecord,
    TaskScore,
)
from alumnus.report.relative import relative_picture, relative_scores

Scores = dict[str, dict[str, float]]  # task -> model -> score


def results(
    scores: Scores, kinds: dict[str, ModelKind], *, seed: int = 0, better: Better = "higher"
) -> Results:
    return Results(
        models=tuple(ModelRecord(name=name, kind=kind) for name, kind in kinds.items()),
        tasks=tuple(
            TaskRecord(
                name=task, kind="knn", metric="%", size_px=16, seed=seed, train={}, test={},
                protocol={"ks": [10, 20]}, better=better,
            )
            for task in scores
        ),
        scores={
            task: {name: TaskScore(value=value, details={}) for name, value in row.items()}
            for task, row in scores.items()
        },
        missing={task: {} for task in scores},
    )  # fmt: skip


TEACHERS: dict[str, ModelKind] = {"dino": "teacher", "deit": "teacher"}
FIRST = results(
    {"cars": {"dino": 60.0, "deit": 40.0, "unic": 66.0}, "pets": {"dino": 90.0, "unic": 81.0}},
    {**TEACHERS, "unic": "student", "unic as dino": "projected"},
)
SECOND = results(
    {"cars": {"dino": 60.0, "dune": 30.0}, "dtd": {"deit": 50.0, "dune": 55.0}},
    {**TEACHERS, "dune": "student"},
)


def test_models_and_tasks_of_two_evaluations_make_one_table() -> None:
    both = Results.merged([FIRST, SECOND])
    assert [task.name for task in both.tasks] == ["cars", "pets", "dtd"]
    assert [m.name for m in both.models] == ["dino", "deit", "unic", "unic as dino", "dune"]
    assert both.value("cars", "dune") == 30.0
    assert both.value("dtd", "unic") is None
    assert Results.from_json(json.loads(json.dumps(both.to_json()))).to_json() == both.to_json()


def test_merging_one_changes_nothing() -> None:
    assert Results.merged([FIRST, FIRST]).to_json() == FIRST.to_json()


def test_scores_are_percent_of_the_best_teacher_of_each_task() -> None:
    both = Results.merged([FIRST, SECOND])
    assert relative_scores(both, "unic") == [pytest.approx(110), pytest.approx(90), None]
    assert relative_scores(both, "deit") == [pytest.approx(200 / 3), None, pytest.approx(100)]


def test_of_errors_the_lowest_is_the_best_and_the_ratio_is_turned_over() -> None:
    kinds: dict[str, ModelKind] = {**TEACHERS, "unic": "student", "exact": "student"}
    errors = results(
        {"people": {"dino": 60.0, "deit": 40.0, "unic": 50.0, "exact": 0.0}}, kinds, better="lower"
    )
    assert errors.best_teacher("people") == "deit"
    assert errors.ratio("people", "unic") == pytest.approx(0.8)
    assert relative_scores(errors, "dino") == [pytest.approx(100 * 40 / 60)]
    assert errors.ratio("people", "exact") is None
    assert Results.from_json(errors.to_json()) == errors


def test_results_of_before_there_were_errors_are_read() -> None:
    record = FIRST.to_json()
    for task in record["tasks"]:
        del task["unit"], task["better"]
    assert Results.from_json(record) == FIRST


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (results({"cars": {"dino": 61.0}}, TEACHERS), "'dino' has two scores on 'cars'"),
        (results({"cars": {}}, TEACHERS, seed=1), "'cars' was measured in two ways"),
        (results({}, {"dino": "student"}), "'dino' is a teacher in one evaluation and a student"),
    ],
)
def test_what_cannot_be_compared_is_not_merged(other: Results, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Results.merged([FIRST, other])


def test_a_picture_of_many_tasks_is_wider_than_that_of_one(tmp_path: Path) -> None:
    one = results({"cars": {"dino": 60.0, "unic": 12.0}}, {"dino": "teacher", "unic": "student"})
    many = results(
        {f"task {i}": {"dino": 50.0, "deit": 5.0 * i, "unic": 45.0 + i} for i in range(12)},
        {**TEACHERS, "unic": "student"},
    )
    widths = []
    for held, name in ((one, "one.png"), (many, "deep/many.png")):
        with Image.open(relative_picture(held, tmp_path / name)) as image:
            widths.append(image.width)
            assert len(set(image.convert("L").resize((40, 40)).get_flattened_data())) > 10
    assert widths[1] > 1.5 * widths[0]


def test_nothing_to_compare_with_is_refused(tmp_path: Path) -> None:
    alone = results({"cars": {"unic": 12.0}}, {"unic": "student"})
    with pytest.raises(ValueError, match="needs a task that a teacher was scored on"):
        relative_picture(alone, tmp_path / "a.png")
    single = results({"cars": {"dino": 12.0}}, {"dino": "teacher"})
    with pytest.raises(ValueError, match="needs more models than 'dino'"):
        relative_picture(single, tmp_path / "a.png")


def test_files_of_results_are_merged_and_drawn_by_evaluate(tmp_path: Path) -> None:
    files = [str(part.save(tmp_path / f"{i}.json")) for i, part in enumerate((FIRST, SECOND))]
    merged = api.evaluate(files, plot=tmp_path / "plot.png")
    assert merged.to_json() == Results.merged([FIRST, SECOND]).to_json()
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    (tmp_path / "bad.json").write_text("{")
    for models, tasks, plot, words in (
        (files, ["knn=packs"], None, "no model is given"),
        (["run"], [], None, "on what should 'run' be measured"),
        (files, [], tmp_path / "plot.jpg", "needs that ending"),
        ([str(tmp_path / "bad.json")], [], None, "is no JSON"),
    ):
        with pytest.raises(ValueError, match=words):
            api.evaluate(models, tasks, plot=plot)


def test_a_model_that_lacks_a_task_leaves_a_gap(tmp_path: Path) -> None:
    gap = replace(FIRST, scores={**FIRST.scores, "pets": {"dino": TaskScore(value=1, details={})}})
    assert relative_scores(gap, "unic") == [pytest.approx(110), None]
    relative_picture(gap, tmp_path / "gap.png")
