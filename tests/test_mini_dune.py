"""The scripts of docs/results/mini-dune.md: valid arms, tables that read what was written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alumnus import measure
from alumnus.config import load_config, to_yaml
from benchmarks.mini_dune import report
from benchmarks.mini_dune import run as driver
from benchmarks.result_pages import filled
from benchmarks.unic_cifar import report as unic_report

BENCH = driver.Bench(Path("runs/mini-dune"))
ARMS = driver.arms()


def test_every_arm_is_a_valid_recipe_with_a_name_of_its_own() -> None:
    assert len({arm.key for arm in ARMS}) == len(ARMS)
    for arm in ARMS:
        config = load_config("mini-dune", BENCH.words(arm))
        assert list(config.teachers) == list(arm.teachers)
        assert config.train.seed == arm.seed
        assert config.cache.folder == "runs/mini-dune/features"


def test_other_teachers_and_fewer_images_reach_every_arm() -> None:
    bench = driver.Bench(Path("runs/x"), images=96, models={"rooms": "runs/rooms"})
    for arm in ARMS:
        config = load_config("mini-dune", bench.words(arm))
        assert all(source.path.endswith("[:96]") for source in config.data.train)
        if "rooms" in arm.teachers:
            assert config.teachers["rooms"].model == "runs/rooms"


def test_arms_differ_from_the_base_in_what_their_stage_says() -> None:
    base = load_config("mini-dune", BENCH.words(next(a for a in ARMS if a.stage == "base")))
    sections = {
        "projectors": {"projector"},
        "standardisation": {"standardize"},
        "dropping": {"balance"},
        "sharing": {"balance"},
        "width": {"student"},
        "sizes": {"data", "cache"},
        "bare": {"projector", "loss", "teachers"},
    }
    for arm in ARMS:
        if arm.stage in sections and arm.seed == 0:
            config = load_config("mini-dune", BENCH.words(arm))
            differ = {
                name
                for name in type(base).model_fields
                if getattr(config, name) != getattr(base, name)
            }
            assert differ - {"out"}
            assert differ - {"out"} <= sections[arm.stage]


def test_every_task_reads_as_the_command_line_has_it() -> None:
    for px in (driver.SIZE_PX, 96):
        for domain, kinds in driver.TASKS.items():
            words = driver.task_words(domain, kinds, px=px, fit=10, test=4)
            assert [measure.parse_task(word)[0] for word in words] == list(kinds)


def record(run: str, scores: dict[str, dict[str, float]], **more: Any) -> dict[str, Any]:
    stage, _, rest = run.partition("/")
    name, _, seed = rest.partition("/seed")
    named = {"name": name, "seed": int(seed), "steps": 300} if seed else {}
    held_out = {"explained_variance": 0.5}
    return {"run": run, "stage": stage, "scores": scores, "held_out": held_out, **named, **more}


def scores(*values: float) -> dict[str, float]:
    return dict(zip(("objects k-NN", "rooms delta1", "people MPJPE"), values, strict=True))


def lines(bares: Sequence[float]) -> list[dict[str, Any]]:
    """Teachers with 80, 50 and 100 mm on their own tasks; students with `bares` k-NN."""
    teachers = {
        "objects": scores(80, 30, 200),
        "rooms": scores(20, 50, 250),
        "people": scores(10, 20, 100),
        "constant": scores(2, 10, 300),
    }
    found = [record("models", teachers, lower=["people MPJPE"])]
    for stage, name in (("headline", "mini-dune"), ("base", "transformer"), ("bare", "ladder")):
        for seed, value in enumerate(bares):
            own = {
                "student": scores(value, 40, 125),
                "student as objects": scores(60, 1, 1),
                "student as rooms": scores(1, 45, 1),
                "student as people": scores(1, 1, 80),
            }
            found.append(record(f"{stage}/{name}/seed{seed}", own))
    return found


def test_an_error_counts_as_the_teachers_over_the_students() -> None:
    models, *students = lines([40.0])
    reference = report.Reference(models)
    assert reference.ratio("people MPJPE", 125.0) == pytest.approx(0.8)
    mean = reference.mean_ratio(report.bare(students[0]))
    assert mean == pytest.approx((0.5 + 0.8 + 0.8) / 3)
    projected = report.projected(students[0])
    assert projected == scores(60, 45, 80)  # each task by the projection to its own teacher


def test_tables_have_the_spread_over_seeds_and_fit_the_page() -> None:
    page = (Path(__file__).parent.parent / "docs/results/mini-dune.md").read_text()
    swept = {"student": {"objects@96 k-NN": 30.0}, "constant": {"objects@96 k-NN": 2.0}}
    records = [*lines([38.0, 42.0]), record("resolution/96", swept, size_px=96)]
    tables = report.tables(records)
    assert set(tables) == {"headline", "steps", "bare", "ablations", "resolution"}
    assert (
        "| bare, 300 steps (2 seeds) | 0.500 ± 0.035 | 0.800 ± 0.000 | 0.800 ± 0.000 |"
        in "".join(tables["steps"])
    )
    assert "| student, bare | 40.0 ± 2.8 | 40.0 ± 0.0 | 125.0 ± 0.0 |" in tables["headline"]
    assert "| student | 96 | 30.0 |" in tables["resolution"]
    page = filled(page, tables)
    assert filled(page, tables) == page


def test_minutes_of_a_run_that_was_killed_are_those_of_its_steps(tmp_path: Path) -> None:
    assert driver.minutes_before(tmp_path) == 0
    config = load_config("mini-dune", ["optim.batch_size=30", "optim.accumulate=2"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    records = [{"step": 10, "images_per_s": 5.0}, {"step": 30, "images_per_s": 10.0}]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4']))
    assert driver.minutes_before(tmp_path) == pytest.approx(2 + 2)


def test_the_tables_of_the_page_are_those_of_its_numbers() -> None:
    results = Path(__file__).parent.parent / "docs" / "results"
    for name, pages in (("mini-dune", report), ("unic-cifar", unic_report)):
        page = (results / f"{name}.md").read_text()
        runs = json.loads((results / f"{name}.json").read_text())["runs"]
        assert filled(page, pages.tables(runs)) == page


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    report.draw(lines([38.0, 42.0]), tmp_path / "mini-dune.png")
    assert (tmp_path / "mini-dune.png").stat().st_size > 10_000
