"""The suite scores all models on the same images and says what it did."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from alumnus.data import Sample, Source, open_source
from alumnus.evaluation import protocols
from alumnus.evaluation.features import extract_all, extract_features, to_tensor
from alumnus.evaluation.joints import SIGMA
from alumnus.evaluation.results import ModelRecord, Results, TaskRecord, TaskScore
from alumnus.evaluation.suite import CONSTANT, evaluate
from alumnus.evaluation.tasks import EvalModel, TaskKind, TaskSpec
from alumnus.tokens import Tokens

COLOURS = {"blue": (40, 60, 200), "green": (30, 160, 60), "red": (200, 40, 40)}


def pixels(images: Tensor) -> Tokens:
    """A model that sees: patches are mean colours of a 4x4 grid, [CLS] the mean colour."""
    tokens = Tokens.from_map(torch.nn.functional.adaptive_avg_pool2d(images, (4, 4)))
    return tokens._replace(cls=tokens.of("patch").mean(dim=1))


def blind(images: Tensor) -> Tokens:
    """A model that sees nothing, and has patches only."""
    return Tokens(patches=torch.ones(len(images), 4, 5), grid=(2, 2))


def cls_only(images: Tensor) -> Tokens:
    return Tokens(cls=pixels(images).cls)


TEACHER = EvalModel(name="eyes", kind="teacher", fn=pixels, size_px=16)
STUDENT = EvalModel(name="mole", kind="student", fn=blind)


def colour_folder(folder: Path, *, per_class: int, seed: int, names: tuple[str, ...]) -> Source:
    """A class folder of noisy plain images, not square."""
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            noise = torch.randint(-30, 31, (20, 28, 3), generator=generator)
            image = (torch.tensor(COLOURS[name]) + noise).clamp(0, 255).to(torch.uint8)
            Image.fromarray(image.numpy()).save(folder / name / f"{i}.png")
    return open_source(folder)


@pytest.fixture
def train(tmp_path: Path) -> Source:
    return colour_folder(tmp_path / "train", per_class=8, seed=0, names=tuple(COLOURS))


@pytest.fixture
def test(tmp_path: Path) -> Source:
    return colour_folder(tmp_path / "test", per_class=4, seed=1, names=tuple(COLOURS))


class DotSource:
    """Grey images of 40x30 pixels with a white dot at joint 0; joint 1 lies at its mirror image."""

    domain, generic, classes = "people", False, None

    def __init__(self, name: str, length: int, seed: int) -> None:
        self.name, self.reads = name, 0
        generator = torch.Generator().manual_seed(seed)
        self.places = (torch.rand(length, 2, generator=generator) * torch.tensor([32, 22])).long()

    def __len__(self) -> int:
        return len(self.places)

    def identity(self, index: int) -> str:
        return f"{self.name}/{index}"

    def read(self, index: int) -> Sample:
        self.reads += 1
        x, y = (int(v) for v in self.places[index] + 2)
        image = Image.new("RGB", (40, 30), (90, 90, 90))
        image.paste((255, 255, 255), (x - 2, y - 2, x + 3, y + 3))
        return Sample(image, {"json": {"joints": [[x, y, 1], [40 - x, 30 - y, 1]]}})


def scores(results: Results, task: str) -> dict[str, float]:
    return {model: score.value for model, score in results.scores[task].items()}


def test_a_model_that_sees_wins_and_a_blind_one_equals_the_constant(
    train: Source, test: Source
) -> None:
    tasks = [
        TaskSpec(kind="knn", train=train, test=test, name="near", size_px=24),
        TaskSpec(kind="logistic", train=train, test=test, name="linear", size_px=24, trials=5),
    ]
    results = evaluate([TEACHER, STUDENT], tasks)
    assert scores(results, "near")["eyes"] == 100.0
    assert scores(results, "linear")["eyes"] == 100.0
    for task in ("near", "linear"):
        assert scores(results, task)["mole"] == pytest.approx(100 / 3)
        assert scores(results, task)[CONSTANT] == pytest.approx(100 / 3)
        assert results.ratio(task, "mole") == pytest.approx(1 / 3)
        assert results.best_teacher(task) == "eyes"


def test_joints_are_found_by_a_model_that_sees_and_not_by_the_constant() -> None:
    spec = TaskSpec(
        kind="joints",
        train=DotSource("dots", 80, 0),
        test=DotSource("dots", 30, 1),
        name="dots",
        size_px=32,
        torso=((0, 1),),
    )

    def dots(images: Tensor) -> Tokens:
        shrunk = torch.nn.functional.adaptive_avg_pool2d(images[:, :1], (8, 8))
        return Tokens.from_map(torch.cat([shrunk, shrunk.flip(2, 3)], dim=1))

    eyes = EvalModel(name="eyes", kind="teacher", fn=dots)
    blind_cls = EvalModel(name="cls", kind="teacher", fn=cls_only)
    results = evaluate([eyes, blind_cls], [spec])
    found = scores(results, "dots")
    assert found["eyes"] > found[CONSTANT] + 20
    assert results.scores["dots"]["eyes"].details["grid"] == [7, 7]
    assert results.tasks[0].protocol["sigma"] == SIGMA
    assert "cls" not in found
    assert results.missing["dots"] == {"cls": "no patch tokens"}


def test_image_feature_is_cls_where_there_is_one_unless_the_task_says_otherwise(
    train: Source, test: Source
) -> None:
    options: dict[str, Any] = {"kind": "knn", "train": train, "test": test, "size_px": 16}
    tasks = [
        TaskSpec(name="auto", **options),
        TaskSpec(name="patch", feature="patch-mean", **options),
        TaskSpec(name="class", feature="cls", **options),
    ]
    results = evaluate([TEACHER, STUDENT], tasks)
    assert results.scores["auto"]["eyes"].details["feature"] == "cls"
    assert results.scores["auto"]["mole"].details["feature"] == "patch-mean"
    assert results.scores["patch"]["eyes"].details["feature"] == "patch-mean"
    assert results.missing["class"] == {"mole": "no cls feature"}


def test_each_image_is_read_once_for_all_models_and_tasks() -> None:
    train, test = DotSource("a", 20, 0), DotSource("b", 10, 1)
    tasks = [
        TaskSpec(
            kind="joints", train=train, test=test, name=f"seed {i}", seed=i, size_px=16,
            torso=((0, 1),),
        )
        for i in range(2)
    ]  # fmt: skip
    other = EvalModel(name="eyes at 24 px", kind="teacher", fn=pixels, size_px=24)
    evaluate([TEACHER, other], tasks)
    assert (train.reads, test.reads) == (20, 10)


def test_tests_that_share_their_training_images_share_the_fit(
    train: Source, test: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[str] = []

    def counted(task: TaskSpec, *rest: Any) -> Any:
        fits.append(task.name)
        return protocols.FIT["knn"](task, *rest)

    monkeypatch.setitem(protocols.FIT, "logistic", counted)
    tasks = [
        TaskSpec(kind="logistic", train=train, test=source, name=name, size_px=16)
        for name, source in (("same", train), ("other", test))
    ]
    results = evaluate([TEACHER], tasks)
    assert fits == ["same"]
    assert (results.value("same", "eyes"), results.value("other", "eyes")) == (100.0, 100.0)


@pytest.mark.parametrize("kind", ["knn", "logistic", "logistic-sgd"])
def test_only_classes_of_the_test_images_are_predicted_where_a_task_says_so(
    kind: TaskKind, train: Source, tmp_path: Path
) -> None:
    """Blue images in the folder `red`: seen as blue, but not where blue is no choice."""
    fewer = colour_folder(tmp_path / "fewer", per_class=3, seed=5, names=("green", "red"))
    for i in range(3):
        Image.new("RGB", (20, 20), COLOURS["blue"]).save(tmp_path / "fewer" / "red" / f"b{i}.png")
    fewer = open_source(tmp_path / "fewer")
    options: dict[str, Any] = {"kind": kind, "train": train, "test": fewer, "size_px": 16}
    results = evaluate(
        [TEACHER],
        [
            TaskSpec(name="all", trials=2, **options),
            TaskSpec(name="two", trials=2, among="test", **options),
        ],
    )
    assert results.value("all", "eyes") == pytest.approx(100 * 6 / 9)
    assert results.value("two", "eyes") in (pytest.approx(100 * 6 / 9), 100.0)
    assert results.value("all", CONSTANT) == pytest.approx(100 / 3)
    assert results.value("two", CONSTANT) == pytest.approx(100 / 2)
    assert results.tasks[1].protocol["among"] == "test"


def test_resize_ratio_cuts_the_centre_out_of_a_larger_resize(train: Source) -> None:
    image = train.read(0).image  # 28 x 20
    whole = to_tensor(image, 28, "crop")
    inner = to_tensor(image, 20, "crop", resize_ratio=1.4)
    assert torch.equal(inner, whole[:, 4:24, 4:24])
    task = TaskSpec(kind="knn", train=train, test=train, size_px=20, resize_ratio=1.4)
    assert evaluate([TEACHER], [task]).tasks[0].protocol["resize_ratio"] == 1.4


def test_no_feature_is_kept_that_no_task_looks_at(train: Source) -> None:
    kept = extract_all({"eyes": pixels, "mole": blind}, train, size_px=16, want=["image"])
    assert (kept["eyes"].cls is not None, kept["eyes"].patch_mean) == (True, None)
    assert (kept["mole"].cls, kept["mole"].patch_mean is not None) == (None, True)


def test_models_get_the_input_size_they_want(train: Source) -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def spy(name: str) -> EvalModel:
        def fn(images: Tensor) -> Tokens:
            seen[name] = tuple(images.shape[1:])
            return pixels(images)

        return EvalModel(name=name, kind="teacher", fn=fn, size_px={"own": 20}.get(name))

    task = TaskSpec(kind="knn", train=train, test=train, size_px=12)
    evaluate([spy("own"), spy("task")], [task])
    assert seen == {"own": (3, 20, 20), "task": (3, 12, 12)}


def test_results_are_equal_in_a_second_run_and_for_other_batches_and_workers(
    train: Source, test: Source
) -> None:
    tasks = [
        TaskSpec(kind="logistic", train=train, test=test, size_px=16, trials=4, seed=3),
        TaskSpec(kind="knn", train=train, test=test, size_px=16),
    ]
    first = evaluate([TEACHER, STUDENT], tasks, batch_size=64)
    second = evaluate([TEACHER, STUDENT], tasks, batch_size=5, num_workers=1)
    assert first.to_json() == second.to_json()


def test_results_survive_the_way_to_disk_and_back(
    train: Source, test: Source, tmp_path: Path
) -> None:
    results = evaluate([TEACHER], [TaskSpec(kind="knn", train=train, test=test, size_px=16)])
    loaded = Results.load(results.save(tmp_path / "evaluation" / "all.json"))
    assert loaded.to_json() == results.to_json()
    [task] = loaded.tasks
    assert (task.name, task.size_px, task.seed) == ("test k-NN", 16, 0)
    assert (task.train["images"], task.test["images"]) == (24, 12)


def test_foreign_json_is_refused_as_results() -> None:
    with pytest.raises(ValueError, match="no evaluation results"):
        Results.from_json({"format": "other"})


@pytest.mark.parametrize(
    "change",
    [
        {"models": None},
        {"models": [{"name": "eyes"}]},
        {"tasks": [{"name": "test k-NN"}]},
        {"tasks": "all"},
        {"scores": {}},
        {"scores": {"test k-NN": {"eyes": {"value": None, "details": {}}}}},
        {"scores": {"test k-NN": {"eyes": 100.0}}},
        {"missing": ["eyes"]},
    ],
)
def test_incomplete_results_are_refused_in_one_sentence(
    change: dict[str, Any],
) -> None:
    task = TaskRecord(
        name="test k-NN",
        kind="knn",
        metric="accuracy",
        size_px=16,
        seed=0,
        train={},
        test={},
        protocol={},
    )
    whole = Results(
        models=(ModelRecord(name="eyes", kind="teacher"),),
        tasks=(task,),
        scores={task.name: {"eyes": TaskScore(value=90.0, details={})}},
        missing={},
    )
    assert Results.from_json(whole.to_json()) == whole
    with pytest.raises(ValueError, match="damaged or incomplete") as refused:
        Results.from_json(whole.to_json() | change)
    assert "\n" not in str(refused.value)


def test_classes_are_matched_by_name_where_a_test_folder_lacks_some(
    train: Source, tmp_path: Path
) -> None:
    fewer = colour_folder(tmp_path / "fewer", per_class=3, seed=5, names=("green", "red"))
    results = evaluate([TEACHER], [TaskSpec(kind="knn", train=train, test=fewer, size_px=16)])
    assert results.value("fewer k-NN", "eyes") == 100.0


def test_a_class_never_seen_in_training_is_refused(test: Source, tmp_path: Path) -> None:
    fewer = colour_folder(tmp_path / "fewer", per_class=3, seed=5, names=("green", "red"))
    with pytest.raises(ValueError, match="class 'blue' of 'test' is not among the 2 classes"):
        evaluate([TEACHER], [TaskSpec(kind="knn", train=fewer, test=test, size_px=16)])


def test_images_without_the_labels_of_a_task_are_refused(train: Source) -> None:
    with pytest.raises(ValueError, match="needs joints, which 'train' does not have"):
        evaluate([TEACHER], [TaskSpec(kind="joints", train=train, test=train, size_px=16)])
    dots = DotSource("dots", 4, 0)
    with pytest.raises(ValueError, match="needs classes, which 'dots' does not have"):
        evaluate([TEACHER], [TaskSpec(kind="knn", train=dots, test=dots, size_px=16)])


def test_unknown_task_is_answered_with_the_nearest(train: Source) -> None:
    with pytest.raises(ValueError, match="did you mean 'logistic'"):
        TaskSpec(kind="logistics", train=train, test=train)  # type: ignore[arg-type]


def test_two_models_of_one_name_are_refused(train: Source) -> None:
    with pytest.raises(ValueError, match="two models of an evaluation are named 'eyes'"):
        evaluate([TEACHER, TEACHER], [TaskSpec(kind="knn", train=train, test=train)])


def test_squash_keeps_the_whole_picture_and_scales_joints() -> None:
    dots = DotSource("dots", 5, 0)
    features = extract_features(pixels, dots, size_px=32, geometry="squash", batch_size=2)
    assert features.joints is not None
    want = (dots.places + 2) / torch.tensor([40.0, 30.0])
    torch.testing.assert_close(features.joints[:, 0, :2], want)
    assert features.sizes.tolist() == [[40, 30]] * 5


def test_features_are_the_models_tokens_in_the_order_of_the_source(train: Source) -> None:
    both = extract_all({"eyes": pixels, "mole": blind}, train, size_px=16, max_grid=(2, 3))
    eyes, mole = both["eyes"], both["mole"]
    assert eyes.grid == (2, 3)
    assert eyes.patches is not None
    assert eyes.patches.shape == (24, 6, 3)
    assert (mole.cls, mole.grid) == (None, (2, 2))
    assert eyes.labels is not None
    assert eyes.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert eyes.cls is not None
    assert eyes.cls.argmax(dim=1).tolist() == [2] * 8 + [1] * 8 + [0] * 8  # blue, green, red
    alone = extract_features(pixels, train, size_px=16, batch_size=7)
    torch.testing.assert_close(alone.cls, eyes.cls, atol=1e-6, rtol=0)
