"""Every command on tiny inputs, and every mistake answered in one sentence, nothing lost."""

import errno
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import toys
from alumnus import api, cli, hub
from alumnus.config import load_config
from alumnus.describe import LISTS
from alumnus.evaluation.results import Results
from alumnus.tensor_files import write_tensors
from alumnus.training import checkpoint
from image_files import write_folder
from mask_pictures import write_mask_folder


@dataclass(frozen=True)
class Said:
    """What a command left on the screen."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with toy.yaml and a folder `photos`."""
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    toys.write_recipe(tmp_path)
    toys.write_images(tmp_path / "photos")
    return tmp_path


@pytest.fixture
def run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    logger = logging.getLogger("alumnus")
    level, handlers = logger.level, list(logger.handlers)

    def call(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["alumnus", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        logger.handlers = list(handlers)  # each process has its own
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    yield call
    logger.setLevel(level)


def files(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def distil(run: Run, *words: str, out: str = "run") -> Said:
    return run("distill", "toy.yaml", "data.train=photos", f"out={out}", *words)


# --- what works


def test_visualize_draws_a_run_beside_its_teachers_for_a_folder_or_one_image(
    run: Run, place: Path
) -> None:
    distil(run)
    said = run("visualize", "run", "photos", "pictures/pca.png", "--count", "3")
    assert (said.code, said.out) == (0, "pictures/pca.png\n")
    with Image.open(place / "pictures" / "pca.png") as picture:
        width, height = picture.size
    assert 1.8 < width / height < 3  # 6 columns, 3 rows of 4:3
    one = str(next((place / "photos").rglob("*.jpg")))
    assert run("visualize", "run", one, "one.png", "--at", "0.5,0.9", "--size", "32").code == 0
    with Image.open(place / "one.png") as picture:
        assert picture.size[0] == width


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["photos", "pca.jpg"], "pictures are written as .png"),
        (["photos", "there.png"], "there.png is there already"),
        (["photos", "pca.png", "--at", "120,80"], "'120,80' is no place in an image"),
        (["fotos", "pca.png"], "did you mean"),
        (["x.gif", "pca.png"], "cannot be decoded"),
    ],
    ids=str,
)
def test_pictures_that_cannot_be_drawn_are_refused_in_one_sentence(
    run: Run, place: Path, words: list[str], sentence: str
) -> None:
    (place / "there.png").touch()
    (place / "x.gif").write_bytes(b"no image")
    said = run("visualize", "efficientnet-lite0", *words)
    assert said.code == 2
    assert sentence in said.err


def test_evaluate_trains_linear_heads_writes_them_and_measures_one_again(
    run: Run, place: Path
) -> None:
    write_mask_folder(place / "streets")
    distil(run)
    words = ["evaluate", "run", "--task", "segmentation=streets", "--size", "16"]
    trained = run(*words, "--head-steps", "4", "--heads-out", "heads", "--out", "first.json")
    assert trained.code == 0
    assert trained.out.split()[:3] == ["streets", "model", "mIoU"]
    rows = ["red", "blue", "run", "run-as-red", "run-as-blue", "untrained-vit"]
    written = {path.name for path in (place / "heads").iterdir()}
    assert written == {f"streets-mIoU-{row}.safetensors" for row in rows}
    head = "heads/streets-mIoU-run.safetensors"
    assert run(*words, "--head", head, "--out", "second.json").code == 0
    first, second = (Results.load(place / f"{name}.json") for name in ("first", "second"))
    assert second.value("streets mIoU", "run") == first.value("streets mIoU", "run")
    assert set(second.missing["streets mIoU"]) == {"red", "blue", "run as red", "run as blue"}
    refused = run(*words, "--head", "absent.pth")
    assert refused.code == 2
    assert "there is no file of weights 'absent.pth'" in refused.err


def test_distill_prints_two_lines_that_load_the_encoder(run: Run, place: Path) -> None:
    said = distil(run)
    assert said.code == 0
    assert said.out == 'import alumnus\nencoder = alumnus.load("run")\n'
    assert "step 4/4" in said.err
    names: dict[str, Any] = {}
    exec(said.out, names)
    assert names["encoder"].dim == 16
    written = {path.name for path in (place / "run").iterdir()}
    assert written == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "encoder.safetensors",
        "encoder.json",
        "student.safetensors",
        "student.json",
        "licences.txt",
        "log.txt",
        ".lock",
    }


def test_colour_on_the_training_device_trains_the_same_student(run: Run, place: Path) -> None:
    for where in ("cpu", "device"):
        assert (
            distil(run, f"data.augment.where={where}", "train.precision=fp32", out=where).code == 0
        )
    on_cpu, on_device = (
        load_file(place / where / "student.safetensors") for where in ("cpu", "device")
    )
    for name, weights in on_cpu.items():
        difference = (weights.double() - on_device[name].double()).abs().max()
        assert difference < 1e-5, name  # as the images; measured 0


def test_a_run_says_nothing_that_is_not_its_own(run: Run) -> None:
    said = distil(run, "evaluate.tasks=knn=photos")
    for line in said.err.splitlines():
        assert not any(word in line.lower() for word in ("warning", "traceback", "deprecat")), line


def test_a_printed_configuration_is_a_recipe_and_nothing_is_written(run: Run, place: Path) -> None:
    before = files(place)
    said = run("distill", "toy.yaml", "data.train=photos", "out=run", "--print-config")
    assert (said.code, said.err) == (0, "")
    assert files(place) == before
    (place / "printed.yaml").write_text(said.out)
    assert load_config("printed.yaml") == load_config("toy.yaml", ["data.train=photos", "out=run"])


def test_a_recipe_evaluates_student_and_teachers_when_it_has_tasks(run: Run, place: Path) -> None:
    said = distil(run, "evaluate.tasks=knn=photos")
    assert "student / best teacher" in said.out
    results = Results.load(place / "run" / "evaluation" / "results.json")
    assert [m.name for m in results.models if m.kind == "teacher"] == ["red", "blue"]


def test_evaluate_measures_runs_with_their_teachers_and_others_beside_them(
    run: Run, place: Path
) -> None:
    distil(run)
    words = ["run", "python:toys:fine", "--task", "knn=photos", "--out", "scores/knn.json"]
    said = run("evaluate", *words, "--markdown", "--size", "16")
    assert said.code == 0
    results = Results.load(place / "scores" / "knn.json")
    by_kind = {(m.name, m.kind) for m in results.models}
    assert {("red", "teacher"), ("fine", "teacher"), ("run", "student")} <= by_kind
    assert ("run as blue", "projected") in by_kind
    assert said.out.startswith("|")
    assert "| run " in said.out


def test_earlier_results_are_merged_and_drawn(run: Run, place: Path) -> None:
    distil(run)
    for name, model in (("a", "run"), ("b", "python:toys:fine")):
        words = [model, "--task", "knn=photos", "--size", "16", "--out", f"{name}.json"]
        assert run("evaluate", *words).code == 0
    said = run("evaluate", "a.json", "b.json", "--plot", "all.png", "--out", "all.json")
    assert said.code == 0
    assert (place / "all.png").stat().st_size > 5_000
    models = {m.name for m in Results.load(place / "all.json").models}
    assert {"run", "red", "fine", "constant"} <= models
    assert all(name in said.out for name in models)


def test_diagnose_prints_tables_and_writes_a_picture(run: Run, place: Path) -> None:
    toys.write_images(place / "more", count=40)
    distil(run)
    said = run("diagnose", "run", "data=more", "--out", "found.json", "--picture", "found.png")
    assert said.code == 0
    assert "CKA of image features" in said.out
    assert "red cls" in said.out
    assert (place / "found.png").stat().st_size > 5_000
    assert (place / "found.json").is_file()


def test_extract_writes_named_features_once(run: Run, place: Path) -> None:
    distil(run)
    words = ["extract", "run", "photos/train", "features/x.safetensors", "--patches"]
    said = run(*words)
    assert said.code == 0
    tensors = load_file(place / "features" / "x.safetensors")
    assert {name: list(t.shape) for name, t in tensors.items()} == {
        "cls": [12, 16],
        "patch_mean": [12, 16],
        "patches": [12, 4, 16],
        "labels": [12],
    }
    assert "patches  [12, 4, 16]" in said.out
    with safe_open(place / "features" / "x.safetensors", framework="pt") as file:
        metadata = file.metadata()
    names = json.loads(metadata["names"])
    assert names[0] == "cats/00.jpg"
    classes = json.loads(metadata["classes"])
    assert [classes[i] for i in tensors["labels"]] == [name.split("/")[0] for name in names]

    before = files(place)
    assert_one_sentence(run(*words), "x.safetensors is there already: add --overwrite")
    assert files(place) == before
    assert run(*words, "--overwrite").code == 0


def test_cached_features_are_used_by_the_run(run: Run, place: Path) -> None:
    words = ["data.train=photos", "cache.views=2"]
    said = run("cache", "toy.yaml", *words)
    assert said.code == 0
    folder = Path(said.out.strip())
    assert folder.is_relative_to(place)
    kept = files(folder)
    assert kept
    said = distil(run, "cache={enabled: true, views: 2}")
    assert said.code == 0
    assert "caching" not in said.err
    assert files(folder) == kept


def test_plan_prints_every_part_and_makes_no_run(run: Run, place: Path) -> None:
    said = run("plan", "toy.yaml", "data.train=photos", "optim.batch_size=auto", "--no-measure")
    assert said.code == 0
    for word in ("encoder", "projector", "teacher", "GFLOPs", "memory", "disk", "licences"):
        assert word in said.out
    assert "optim.batch_size 8: 22 images" in said.out
    assert all(line == line.rstrip() for line in said.out.splitlines())
    assert not (place / "run").exists()


@pytest.mark.parametrize("what", sorted(LISTS))
def test_lists_are_tables(run: Run, what: str) -> None:
    said = run("list", what)
    assert said.code == 0
    assert len(said.out.splitlines()) > 3


def test_doctor_says_how_this_machine_is_doing(run: Run) -> None:
    said = run("doctor")
    assert said.code == 0
    for word in ("python", "torch", "auto device", "auto precision", "cache"):
        assert word in said.out


def test_get_prints_where_the_weights_are(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get", lambda name: place / f"{name}.pth")
    said = run("get", "efficientnet-lite0", "efficientnet-lite1")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()] == [
        "efficientnet-lite0",
        "efficientnet-lite1",
    ]


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "distill",
        "plan",
        "evaluate",
        "extract",
        "visualize",
        "cache",
        "get",
        "list",
        "doctor",
        "diagnose",
        "text",
    ],
)
def test_every_command_has_help(run: Run, command: str) -> None:
    said = run(command, "--help")
    assert said.code == 0
    assert "Usage: alumnus" in said.out


# --- what is refused


def assert_one_sentence(said: Said, expected: str) -> None:
    """One line on stderr that says it, exit code 2, nothing on stdout."""
    assert expected in said.err
    assert said.code == 2
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.train=empty"], "there are no images in 'empty'"),
        (["data.train=texts"], "there are no images in 'texts'"),
        (["data.train=photo"], "there is no folder 'photo'; did you mean"),
        (["data.train=toy.yaml"], "'toy.yaml' is a file, but a folder of images"),
        (["data.train=photos:trian"], "did you mean 'train'?"),
        (["data.train=unreadable"], "no image of 'unreadable' could be decoded in 17 tries"),
        (["data.train=[]"], "give data.train=FOLDER"),
        (["data.train=photos,photos"], "two sources are named 'photos'"),
        (["data.tran=photos"], "did you mean 'data.train'?"),
        (["data=photos"], "data is 'photos', but must be a group of settings: data.KEY=VALUE"),
        (["data.size=7"], "the nearest: 8"),
        (["student.in_channels=2"], "the student takes 2 channels, but the images have 3"),
        (["teachers=python:toys:red,python:toys:red"], "two teachers would be named"),
        (["data.augment.crop_scale=[1, 0.5]"], "crop"),
        (["optim.betas=[0.9, 3]"], "optim.betas.1 is 3, but must be less than 1"),
        (["data.workers=-1"], "greater than or equal to 0 or 'auto'"),
        (["standardize.kind=runing"], "did you mean 'running'?"),
        (["projector.kind=lader"], "did you mean 'ladder'?"),
        (["teachers=efficientnet-lit2"], "did you mean 'efficientnet-lite2'?"),
        (["teachers=python:toys:green"], "module 'toys' has no factory 'green'"),
        (["teachers=python:toyz:red"], "there is no Python module 'toyz'"),
        (["teachers.red.weights=x.pth"], "there is no file of weights 'x.pth'"),
        (["teachers.red.tokens=[patches]"], "did you mean 'patch'?"),
        (["teachers.blue.domain=sky", "balance.sharing=own"], "be learned from teacher blue"),
        (["student.model=vit_smal"], "did you mean 'vit_small'?"),
        (["student.model=timm:vit_tny_patch16_224"], "did you mean"),
        (["projector.blocks=[7]"], "does not fit an encoder whose blocks are 0 to 1"),
        (["data.size=20"], "no multiple of student.patch_size 8; the nearest: 16 and 24"),
        (["teachers.x={model: python:toys:fixed, grid: match}"], "grid=match is impossible"),
        (["teachers.x={model: python:toys:fine, grid: pool}"], "grid=pool is impossible"),
        (
            ["teachers.x={model: python:toys:host}", "data.augment.where=device"],
            "take data.augment.where=auto",
        ),
        (["train.device=cud"], "train.device 'cud' is not there"),
        (["train.device=cuda:77"], "train.device 'cuda:77' is not there"),
        (["evaluate.tasks=knn"], "'knn' is no task: it should read KIND=PATH"),
        (["evaluate.tasks=knnn=photos"], "is no task"),
        (["evaluate.tasks=knn=flat,flat"], "needs classes, which 'flat' does not have"),
        (["evaluate.tasks=joints=photos"], "needs joints, which 'photos' does not have"),
        (["evaluate.tasks=[knn=photos, knn=photos]"], "two tasks are named 'photos k-NN'"),
        (["init=nowhere"], "there is nothing at nowhere"),
        (["init=photos"], "it is no finished run"),
        (["out=toy.yaml"], "out=toy.yaml is a file"),
        (["out=null"], "give out=FOLDER"),
    ],
    ids=lambda value: value[-1][:40] if isinstance(value, list) else "",
)
def test_a_run_that_cannot_work_is_refused_before_anything_is_written(
    run: Run, place: Path, words: list[str], sentence: str
) -> None:
    (place / "empty").mkdir()
    write_folder(place / "flat", ["a.jpg", "b.jpg"])
    for folder, suffix in (("texts", "txt"), ("unreadable", "jpg")):
        (place / folder).mkdir()
        for name in ("a", "b", "c"):
            (place / folder / f"{name}.{suffix}").write_text("no image")
    before = files(place)
    assert_one_sentence(distil(run, *words), sentence)
    assert files(place) == before
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["distill", "foldr"], "did you mean 'folder'?"),
        (["distill", "photos"], "unknown recipe 'photos'"),
        (["cache", "toy.yaml"], "give data.train=FOLDER"),
        (["plan", "toy.yaml"], "give data.train=FOLDER"),
        (["evaluate", "efficientnet-lit0", "--task", "knn=photos"], "'efficientnet-lite0'?"),
        (["evaluate", "photos", "--task", "knn=photos"], "photos holds no encoder.safetensors"),
        (["evaluate", "python:toys:red", "--task", "knn=nowhere"], "there is no folder 'nowhere'"),
        (["evaluate", "python:toys:red"], "on what should 'python:toys:red' be measured?"),
        (["evaluate", "x.json", "--task", "knn=photos"], "no model is given to measure"),
        (["evaluate", "python:toys:red", "--task", "zeroshot=photos"], "zeroshot=TEXT,TEST"),
        (["evaluate", "python:toys:red", "--task", "knn=dtd:photos"], "expected below it dtd/dtd"),
        (["evaluate", "x", "--task", "knn=photos", "--plot", "x.pdf"], "needs that ending"),
        (["diagnose", "photos", "data=photos"], "'photos' is no run with projectors"),
        (["text", "clip", "classes", "x.npz", "--space", "red"], "as .safetensors"),
        (["text", "clip", "classes", "x.safetensors", "--space", "red"], "no file of classes"),
        (["extract", "python:toys:red", "photos", "x.npz"], "as .safetensors"),
        (["extract", "python:toys:red", "photo", "x.safetensors"], "did you mean"),
        (["extract", "python:toys:rd", "photos", "x.safetensors"], "no factory 'rd'"),
        (["get", "efficientnet-lite9"], "did you mean 'efficientnet-lite2'?"),
        (["list", "teacher"], "did you mean 'teachers'?"),
    ],
    ids=" ".join,
)
def test_mistakes_in_other_commands_are_one_sentence(
    run: Run, place: Path, words: list[str], sentence: str
) -> None:
    before = files(place)
    assert_one_sentence(run(*words), sentence)
    assert files(place) == before


def test_all_problems_of_a_configuration_are_said_at_once(run: Run) -> None:
    said = distil(run, "optim.lr=fast", "data.tran=x")
    assert said.code == 2
    assert len(said.err.splitlines()) == 2


def test_a_configuration_full_of_mistakes_is_answered_with_a_sentence_for_each(
    run: Run, place: Path
) -> None:
    before = files(place)
    said = distil(
        run,
        "data.tran=x",  # unknown key
        "optim.lr=fast",  # wrong type
        "standardize.kind=runing",  # unknown choice
        "projector.num_blocks=2",  # of another kind
        "optim.epoch_images=100",  # with steps
        "loss={cosine_weight: 0, smooth_l1_weight: 0}",
        "student.model=vit_smal",
        "teachers.other.model=efficientnet-lit2",
        "teachers.mine={model: python:toys:green}",
        "teachers.theirs={model: blazepose, weights: x.pth}",
        "data.val=photo",  # no such folder
        "evaluate.tasks=[knnn=photos, knn=nowhere]",
        "init=nowhere",
        "train.device=cud",
        "nonsense",
        out="null",
    )
    expected = [
        "'nonsense' is not of the form key=value",
        "did you mean 'data.train'?",
        "optim.lr is 'fast', but must be a valid number",
        "did you mean 'running'?",
        "projector.num_blocks is no option of the ladder projector",
        "optim.epoch_images says how long an epoch is",
        "loss.cosine_weight and loss.smooth_l1_weight are both 0",
        "did you mean 'vit_small'?",
        "did you mean 'efficientnet-lite2'?",
        "module 'toys' has no factory 'green'",
        "there is no file of weights 'x.pth'",
        "there is no folder 'photo'; did you mean",
        "'knnn=photos' is no task",
        "there is no folder 'nowhere'",
        "there is nothing at nowhere",
        "train.device 'cud' is not there",
        "give out=FOLDER",
    ]
    lines = said.err.splitlines()
    assert (said.code, said.out) == (2, "")
    for sentence in expected:
        assert sum(sentence in line for line in lines) == 1, sentence
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) == len(expected), said.err
    assert files(place) == before


def test_what_depends_on_a_wrong_setting_is_not_judged(run: Run) -> None:
    said = distil(run, "data.size=big", "student.patch_size=7", "optim.steps=many")
    assert len(said.err.splitlines()) == 2, said.err


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (
            ["teachers=efficientnet-lite0,blazepose", "data.train={path: photos, domain: sky}"],
            ["teacher efficientnet-lite0", "teacher blazepose", "the images of 'photos'"],
        ),
        (
            ["teachers=efficientnet-lite0", "teachers.efficientnet-lite0.tokens=[cls]"],
            ["a teacher is loaded"],
        ),
        (["teachers=blazepose", "teachers.blazepose.tokens=[cls]"], ["has no 'cls' tokens"]),
        (["student.num_heads=3"], ["cannot have 3 heads"]),
        (["data.train=photos:trian,photo"], ["did you mean 'train'?", "no folder 'photo'"]),
    ],
)
def test_what_would_fail_after_loading_is_found_before(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], sentences: list[str]
) -> None:
    def loads(*_: Any, **__: Any) -> Any:
        raise ValueError("a teacher is loaded")

    monkeypatch.setattr("alumnus.assembly.teachers.load_teacher", loads)
    said = distil(run, "balance.sharing=own", *words)
    lines = said.err.splitlines()
    assert said.code == 2
    assert len(lines) == len(sentences), said.err
    for sentence in sentences:
        assert any(sentence in line for line in lines), sentence


def test_python_m_alumnus_is_the_command_line(place: Path) -> None:
    words = [sys.executable, "-m", "alumnus", "distill", "toy.yaml", "data.tran=x"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean 'data.train'?" in done.stderr


@pytest.mark.parametrize("words", [["distil"], ["evaluate"], ["distill", "--resme", "x"]])
def test_a_mistyped_command_or_option_is_answered_with_code_2(run: Run, words: list[str]) -> None:
    said = run(*words)
    assert said.code == 2
    assert "Traceback" not in said.err
    assert "Usage: alumnus" in said.err


def test_a_teacher_that_cannot_be_fetched_is_one_sentence(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(returncode=1, stderr="ERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", fails)
    said = distil(run, "teachers=efficientnet-lite0")
    assert_one_sentence(
        Said(said.code, said.out, said.err.splitlines()[-1]), "alumnus get efficientnet-lite0"
    )
    assert not (place / "run").exists()


def test_blazepose_without_its_package_names_the_extra(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert_one_sentence(distil(run, "teachers=blazepose"), "pip install 'alumnus[litert]'")
    assert not (place / "run").exists()


def test_an_existing_run_is_neither_started_again_nor_changed(run: Run, place: Path) -> None:
    distil(run)
    before = files(place)
    assert_one_sentence(distil(run), "run is not empty: add --resume to go on")
    assert_one_sentence(
        distil(run, "optim.lr=1e-3", "--resume"), "has another configuration than this command"
    )
    assert_one_sentence(distil(run, "--resume", "--overwrite"), "choose one")
    assert files(place) == before
    assert distil(run, "--resume").code == 0
    assert distil(run, "--overwrite", "optim.steps=2").code == 0
    assert len((place / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_folder_that_is_no_run_is_neither_resumed_nor_removed(run: Run, place: Path) -> None:
    before = files(place)
    assert_one_sentence(distil(run, out="photos"), "photos is not empty")
    assert_one_sentence(distil(run, "--resume", out="photos"), "holds no run that could be resumed")
    assert_one_sentence(distil(run, "--overwrite", out="photos"), "is not a run of alumnus")
    assert files(place) == before


def test_a_mistake_with_overwrite_does_not_cost_the_old_run(run: Run, place: Path) -> None:
    distil(run)
    before = files(place)
    assert_one_sentence(
        distil(run, "--overwrite", "teachers.x={model: python:toys:fine, grid: pool}"),
        "grid=pool is impossible",
    )
    assert files(place) == before


def test_a_disk_too_small_for_the_cache_is_said_before_the_run(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(total=10**6, used=10**6, free=0)
    )
    said = distil(run, "cache={enabled: true}")
    assert_one_sentence(said, "the feature cache needs")
    assert not (place / "run").exists()


def test_a_disk_that_fills_up_keeps_the_earlier_checkpoint_and_the_run_can_go_on(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(2))

    def full(*arguments: Any, **options: Any) -> None:
        if next(times, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_tensors(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", full)
        said = distil(run)
    assert said.code == 2
    last = said.err.splitlines()[-1]
    assert last.startswith("error: the disk is full: checkpoint step 3")
    assert sorted(p.name for p in (place / "run" / "checkpoints").iterdir()) == [
        "step-00000001",
        "step-00000002",
    ]
    said = distil(run, "--resume")
    assert said.code == 0
    assert "resumed after step 2 of 4" in said.err


def test_a_loss_that_is_not_finite_ends_with_its_sentence_and_code_1(run: Run) -> None:
    said = distil(run, "teachers.ill={model: python:toys:broken}")
    assert said.code == 1
    assert "in step 0 (image positions 0 to 7) the loss of ill was not finite" in said.err
    assert "Traceback" not in said.err


def test_an_interrupted_run_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "distill", interrupted)
    said = distil(run)
    assert said.code == 130
    assert said.err == "stopped; a run goes on with --resume\n"


def test_broken_images_among_good_ones_are_replaced_counted_and_listed_once(
    run: Run, place: Path
) -> None:
    for i in range(6):
        (place / "photos" / "train" / "cats" / f"broken{i}.jpg").write_text("no image")
    said = distil(run, "optim.steps=8")
    assert said.code == 0
    bad = [json.loads(line) for line in (place / "run" / "bad_images.jsonl").open()]
    assert {Path(record["identity"]).stem[:6] for record in bad} == {"broken"}
    counts = [json.loads(line)["bad_images"] for line in (place / "run" / "metrics.jsonl").open()]
    assert counts == sorted(counts)
    assert counts[-1] == len(bad)
    shutil.rmtree(max((place / "run" / "checkpoints").iterdir()))
    assert distil(run, "optim.steps=8", "--resume").code == 0
    again = (place / "run" / "bad_images.jsonl").read_text().splitlines()
    assert len({json.loads(line)["identity"] for line in again}) == len(again) == len(bad)
    last = (place / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["bad_images"] == len(bad)


def test_too_many_broken_images_stop_the_run_in_one_sentence(run: Run, place: Path) -> None:
    (place / "photos" / "train" / "cats" / "00.jpg").write_text("no image")
    said = distil(run, "optim.steps=8", "data.max_bad=0")
    assert said.code == 2
    [sentence] = [line for line in said.err.splitlines() if "data.max_bad, which is 0" in line]
    assert "1 of the first" in sentence
    assert "cats/00.jpg'" in sentence
    assert "Traceback" not in said.err


def test_a_student_of_grey_images_is_evaluated_and_extracted_from_colour_pictures(
    run: Run, place: Path
) -> None:
    assert distil(run, "student.in_channels=1").code == 0
    assert run("extract", "run", "photos", "features.safetensors").code == 0
    measured = run("evaluate", "run", "--task", "knn=photos/train,photos/train")
    assert measured.code == 0
    assert "untrained" in measured.out


def test_a_teacher_may_not_be_called_student(run: Run, place: Path) -> None:
    said = distil(run, "teachers.student.model=efficientnet-lite0")
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert "give the teacher another name" in said.err
