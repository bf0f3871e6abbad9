"""One broken file costs its own row, in extraction and evaluation, and is named."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import toys
from alumnus import api, measure
from alumnus.data import open_source
from alumnus.evaluation.features import extract_all
from alumnus.evaluation.suite import evaluate
from alumnus.tokens import Tokens
from image_files import encoded, picture, write_pack

TEACHER = "python:toys:red"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a folder `photos`."""
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    toys.write_images(tmp_path / "photos")
    return tmp_path


def truncate(path: Path) -> None:
    """Leave half of a JPEG."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def break_two(folder: Path) -> None:
    """The first image, and one in the middle."""
    (folder / "cats" / "00.jpg").write_text("no image")
    truncate(folder / "dogs" / "01.jpg")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def names_in(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(json.loads(file.metadata()["names"]))


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_extract_writes_the_rows_it_has_with_their_names(
    place: Path, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    api.extract(TEACHER, "photos:train", "whole.safetensors", size=16)
    caplog.clear()
    break_two(place / "photos" / "train")
    shapes = api.extract(TEACHER, "photos:train", "x.safetensors", size=16, batch_size=batch_size)
    assert shapes["cls"] == (10, 6)
    names, whole = names_in(place / "x.safetensors"), names_in(place / "whole.safetensors")
    assert names == [name for name in whole if name not in ("cats/00.jpg", "dogs/01.jpg")]
    kept = torch.tensor([whole.index(name) for name in names])
    expected, found = load_file("whole.safetensors"), load_file("x.safetensors")
    assert expected.keys() == found.keys()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key][kept])

    first, second, count = warnings(caplog)
    assert "'cats/00.jpg'" in first
    assert "'dogs/01.jpg'" in second
    assert "2 of 12 images left out" in count


def test_evaluate_goes_on_without_broken_images(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "test"):
        break_two(place / "photos" / split)
    tasks = ["knn=photos", "logistic=photos"]
    results = api.evaluate([TEACHER, "python:toys:blue"], tasks, size=16, trials=2)
    assert all(results.value(t.name, "red") is not None for t in results.tasks)
    assert sum("'cats/00.jpg'" in line for line in warnings(caplog)) == 2  # train and test
    record = results.tasks[0].train
    assert (record["images"], record["left_out"]) == (10, 2)
    for split in ("train", "test"):
        for name in ("cats/00.jpg", "dogs/01.jpg"):
            (place / "photos" / split / name).unlink()
    removed = api.evaluate([TEACHER, "python:toys:blue"], tasks, size=16, trials=2)
    assert removed.scores == results.scores
    assert removed.tasks[0].train["identities_sha256"] == record["identities_sha256"]


def test_joints_of_broken_images_drop_out_in_step(place: Path) -> None:
    people = []
    for i in range(12):
        joints = [[2 + 3 * i, 5 + j, 1] for j in range(10)]
        record = json.dumps({"joints": joints}).encode()
        people.append({"jpg": encoded(picture(i)), "json": record})
    people[0]["jpg"] = b"no image"
    people[7]["jpg"] = people[7]["jpg"][:200]
    people[9]["json"] = b"{"
    write_pack(place / "people", {"train": people, "test": people})
    source = open_source("people")
    size_px = {"a": 16, "b": 24}

    def model(images: torch.Tensor) -> Tokens:
        return Tokens.from_map(torch.nn.functional.adaptive_avg_pool2d(images, (4, 4)))

    found = extract_all({"a": model, "b": model}, source, size_px=size_px, geometry="squash")
    kept = [i for i in range(12) if i not in (0, 7, 9)]
    for features in found.values():
        assert features.indices.tolist() == kept
        assert features.joints is not None
        assert features.patches is not None
        torch.testing.assert_close(
            features.joints[:, 0, 0] * 40, torch.tensor([2.0 + 3 * i for i in kept])
        )
        assert len(features.patches) == len(features.sizes) == len(features) == len(kept)
    [task] = measure.parse_tasks(["joints=people"], size_px=16, trials=1)
    results = evaluate(measure.models_of([TEACHER], torch.device("cpu")), [task])
    assert results.value(task.name, "red") is not None
    assert results.tasks[0].test["images"] == 9


def test_broken_images_are_left_out_by_data_workers_too(place: Path) -> None:
    break_two(place / "photos" / "train")
    source = open_source("photos:train")

    def model(images: torch.Tensor) -> Tokens:
        return Tokens(cls=images.mean(dim=(2, 3)))

    alone, helped = (
        extract_all({"m": model}, source, size_px=16, batch_size=3, num_workers=n)["m"]
        for n in (0, 1)
    )
    assert alone.cls is not None
    assert helped.cls is not None
    assert torch.equal(alone.cls, helped.cls)
    assert torch.equal(alone.indices, helped.indices)


def test_a_source_without_one_readable_image_is_refused_in_one_sentence(place: Path) -> None:
    for path in (place / "photos").rglob("*.jpg"):
        path.write_text("no image")
    sentence = r"none of the 12 images of '\w+' can be read; the last: image 'dogs/05.jpg'"
    with pytest.raises(ValueError, match=sentence):
        api.extract(TEACHER, "photos:train", "x.safetensors", size=16)
    assert not (place / "x.safetensors").exists()
    with pytest.raises(ValueError, match=sentence):
        api.evaluate([TEACHER], ["knn=photos"], size=16)


def test_too_few_readable_images_are_refused_in_one_sentence(place: Path) -> None:
    for path in (place / "photos" / "train" / "cats").glob("*.jpg"):
        path.write_text("no image")
    with pytest.raises(ValueError, match="training images of two or more classes"):
        api.evaluate([TEACHER], ["logistic=photos"], size=16, trials=2)
