"""Which rows an evaluation has: every model once, under a name of its own."""

import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import toys
from alumnus import api, measure
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.evaluation.tasks import EvalModel
from alumnus.projectors import ProjectorSpec
from alumnus.runs import load_student, save_encoder, save_student
from alumnus.standardize import Standardizers
from alumnus.student import StudentSpec, build_student

CPU = torch.device("cpu")
TINY = EncoderSpec(model="vit", dim=16, depth=1, num_heads=2, image_size=16, patch_size=8)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run(
    folder: str, *, spec: EncoderSpec = TINY, teachers: dict[str, str] | None = None
) -> str:
    """A run as far as evaluation looks at it: recipe, encoder and student."""
    teachers = {"red": "python:toys:red"} if teachers is None else teachers
    projectors = {name: ProjectorSpec(kind="mlp", dim=6) for name in teachers}
    described = StudentSpec(encoder=spec, projectors=projectors)
    student = build_student(described)
    save_student(folder, student, described, Standardizers("none", {}))
    save_encoder(folder, student.encoder, spec)
    lines = [f"  {name}: {{model: '{model}'}}" for name, model in teachers.items()]
    text = "\n".join(["optim: {steps: 1}", "teachers:", *lines])
    Path(folder, "config.yaml").write_text(text)
    return folder


def rows(*names: str) -> dict[str, EvalModel]:
    found = measure.models_of(names, CPU)
    assert len({row.name for row in found}) == len(found)
    return {row.name: row for row in found}


def kinds(*names: str) -> dict[str, str]:
    return {name: row.kind for name, row in rows(*names).items()}


def test_runs_with_equal_encoders_share_the_row_of_the_untrained_one() -> None:
    other = replace(TINY, drop_path=0.3)  # makes no difference in evaluation
    assert kinds(write_run("a"), write_run("b"), write_run("c", spec=other)) == {
        "red": "teacher",
        "a": "student",
        "b": "student",
        "c": "student",
        "a as red": "projected",
        "b as red": "projected",
        "c as red": "projected",
        "untrained vit": "baseline",
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_size": 32}, ["16 px", "32 px"]),
        ({"patch_size": 4}, ["patch 8", "patch 4"]),
        ({"image_size": 32, "patch_size": 4}, ["16 px, patch 8", "32 px, patch 4"]),
        ({"registers": 2}, ["registers 0", "registers 2"]),
        ({"model": "vit_micro"}, None),
    ],
    ids=str,
)
def test_untrained_rows_of_unequal_encoders_say_how_they_differ(
    changes: dict[str, object], told: list[str] | None
) -> None:
    spec = EncoderSpec(**{**vars(TINY), **changes})
    found = kinds(write_run("a"), write_run("b", spec=spec))
    expected = (
        [f"untrained vit ({words})" for words in told]
        if told
        else ["untrained vit", "untrained vit_micro"]
    )
    assert [name for name, kind in found.items() if kind == "baseline"] == expected


def test_an_untrained_row_has_the_input_size_and_weights_of_its_spec() -> None:
    row = rows(write_run("a", spec=replace(TINY, drop_path=0.3)))["untrained vit"]
    again = measure.student_models(load_student("a"), "student", CPU)[-1]
    assert (again.name, again.size_px) == (row.name, row.size_px) == ("untrained vit", 16)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(row.fn(images).of("patch"), again.fn(images).of("patch"))
    trained = rows("a")["a"].fn(images).of("patch")
    assert not torch.equal(row.fn(images).of("patch"), trained)


def test_an_untrained_row_needs_no_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[EncoderSpec] = []

    def spy(spec: EncoderSpec) -> torch.nn.Module:
        built.append(spec)
        return build_encoder(spec)

    loaded = load_student(write_run("a"))
    spec = replace(loaded.spec, encoder=replace(TINY, pretrained=True))
    monkeypatch.setattr(measure, "build_encoder", spy)
    measure.student_models(replace(loaded, spec=spec), "student", CPU)
    assert [spec.pretrained for spec in built] == [False]


def test_a_run_in_a_folder_with_a_teachers_name_is_told_apart() -> None:
    assert kinds(write_run("red")) == {
        "red": "teacher",
        "red (run)": "student",
        "red (run) as red": "projected",
        "untrained vit": "baseline",
    }


def test_runs_in_folders_of_one_name_are_told_apart_and_one_run_named_twice_is_one() -> None:
    found = kinds(write_run("x/run"), write_run("y/run"), "x/../y/run")
    assert [name for name, kind in found.items() if kind == "student"] == ["x/run", "y/run"]
    assert [name for name, kind in found.items() if kind == "projected"] == [
        "x/run as red",
        "y/run as red",
    ]


def test_different_teachers_of_one_name_keep_their_rows() -> None:
    write_run("a", teachers={"t": "python:toys:red"})
    write_run("b.2", teachers={"t": "python:toys:blue"})
    found = rows("a", "b.2", "python:toys:red")
    assert [name for name, row in found.items() if row.kind == "teacher"] == [
        "t",
        "t (b.2)",
        "red",
    ]
    images = torch.randn(1, 3, 16, 16)
    assert found["t"].fn(images).of("cls").shape == (1, 6)
    assert found["t (b.2)"].fn(images).of("cls").shape == (1, 4)


def test_the_teachers_of_a_run_see_images_as_they_did_in_it() -> None:
    write_run("plain")
    write_run("own")
    red = "{model: 'python:toys:red', mean: [0, 0, 0], std: [1, 1, 1]}"
    Path("own", "config.yaml").write_text(f"optim: {{steps: 1}}\nteachers: {{red: {red}}}\n")
    found, images = rows("plain", "own"), torch.randn(1, 3, 16, 16)
    first, second = (found[name].fn(images).of("cls") for name in ("red", "red (own)"))
    assert not torch.allclose(first, second, atol=1e-3)


def test_a_run_is_evaluated_without_a_teacher_that_cannot_be_had(
    place: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    toys.write_images(place / "photos")
    write_run("run", teachers={"red": "python:toys:red", "old": "gone", "pose": "blazepose"})
    with caplog.at_level(logging.WARNING):
        results = api.evaluate(["run"], ["knn=photos"], size=16)
    assert [m.name for m in results.models if m.kind == "teacher"] == ["red"]
    assert results.value("photos k-NN", "run as old") is not None
    first, second = (record.getMessage() for record in caplog.records if record.levelno > 20)
    assert first.startswith("going on without teacher old of run: unknown teacher 'gone'")
    assert second.startswith("going on without teacher pose of run: LiteRT teachers")


def test_a_run_is_evaluated_though_its_recipe_cannot_be_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path(write_run("run"), "config.yaml").write_text("teachers: 7\n")
    assert "red" not in kinds("run")
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("going on without the teachers of run: in its config.yaml, teachers")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("efficientnet-lit0", "did you mean 'efficientnet-lite0'"),
        ("unfinished", "holds no encoder.safetensors"),
        ("python:toys:green", "no factory 'green'"),
    ],
)
def test_a_named_model_that_cannot_be_had_is_refused(place: Path, name: str, sentence: str) -> None:
    shutil.copytree(write_run("run"), "unfinished")
    for path in (place / "unfinished").glob("*.*"):
        if path.name != "config.yaml":
            path.unlink()
    with pytest.raises(ValueError, match=sentence):
        measure.models_of(["run", name], CPU)


def test_a_named_teacher_and_the_same_one_of_a_run_are_one_row() -> None:
    assert [n for n, k in kinds(write_run("a"), "python:toys:red").items() if k == "teacher"] == [
        "red"
    ]
