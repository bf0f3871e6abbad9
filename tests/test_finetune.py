"""Heads on top of an encoder: what they learn, how they are resumed, loaded and refused."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import alumnus
from alumnus import api
from alumnus.config import ConfigError
from alumnus.data import open_source
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.evaluation.suite import CONSTANT
from alumnus.runs import save_encoder
from alumnus.training.loop import Interval, StoppedError

EYES = "python:toys:red"  # a teacher that sees the mean colour of patches
COLOURS = {"green": (40, 160, 60), "red": (200, 50, 40), "white": (230, 220, 235)}
QUICK = ("size=16", "steps=40", "batch_size=8", "device=cpu", "threads=1", "workers=0", "lr=3e-2")


def write_colours(folder: Path, *, train: int = 12, test: int = 4) -> Path:
    """Class folders of one colour each, with noise, 20 x 24 px."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                noise = generator.normal(0, 25, (24, 20, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{name}-{i:02d}.png")
    return folder


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    return write_colours(tmp_path / "colours")


def write_encoder(folder: Path, *, seed: int = 0) -> Path:
    """A small ViT with random weights, exported."""
    spec = EncoderSpec(model="vit", dim=16, depth=2, num_heads=2, patch_size=8, image_size=16)
    torch.manual_seed(seed)
    save_encoder(folder, build_encoder(spec), spec)
    return folder


def tuned(encoder: str | Path, data: Path, out: Path, *words: str) -> api.FinetuneResult:
    settings = (*QUICK, f"data={data}", f"out={out}", *words)
    return api.finetune(str(encoder), *settings, head="classes")


def stopped_after(
    step: int, encoder: str | Path, data: Path, out: Path, words: Sequence[str]
) -> None:
    """A run that gets SIGTERM in a report."""

    def stop(interval: Interval) -> None:
        if interval.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    settings = (*QUICK, f"data={data}", f"out={out}", *words)
    with pytest.raises(StoppedError, match="go on with --resume") as error:
        api.finetune(str(encoder), *settings, head="classes", on_interval=stop)
    assert error.value.exit_code == 128 + signal.SIGTERM


def test_a_head_finds_the_classes_that_the_features_hold(colours: Path, tmp_path: Path) -> None:
    result = tuned(EYES, colours, tmp_path / "out")
    [task] = result.results.tasks
    assert (task.name, task.kind, task.size_px) == ("colours top-1", "classes", 16)
    assert result.results.value(task.name, "red") == 100
    assert result.results.value(task.name, CONSTANT) == pytest.approx(100 / 3)
    assert "top-1" in result.table
    saved = json.loads((tmp_path / "out" / "evaluation" / "results.json").read_text())
    assert saved == result.results.to_json()
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["held_out/top1"] == 100


def test_a_loaded_head_answers_as_it_was_measured(colours: Path, tmp_path: Path) -> None:
    result = tuned(EYES, colours, tmp_path / "out")
    assert f'alumnus.load_head("{tmp_path / "out"}")' in result.how_to_load
    model = alumnus.load_head(tmp_path / "out")
    assert (model.classes, model.training) == (tuple(COLOURS), False)
    test = open_source(colours, split="test")
    for i in range(len(test)):
        picture, fields = test.read(i)
        logits = model(model.prepare(picture)[None])
        assert logits.shape == (1, 3)
        assert logits.argmax().item() == fields["cls"]


@pytest.mark.parametrize("words", [(), ("augment=true",)], ids=["kept", "crops"])
def test_a_resumed_head_equals_an_uninterrupted_one_bit_for_bit(
    colours: Path, tmp_path: Path, words: Sequence[str]
) -> None:
    words = ("log_every=1", *words)
    encoder = write_encoder(tmp_path / "encoder")
    whole = tuned(encoder, colours, tmp_path / "whole", *words)
    stopped_after(17, encoder, colours, tmp_path / "stopped", words)
    assert not (tmp_path / "stopped" / "head.json").exists()
    settings = (*QUICK, f"data={colours}", f"out={tmp_path / 'stopped'}", *words, "workers=0")
    resumed = api.finetune(str(encoder), *settings, head="classes", resume=True)
    ours, theirs = (load_file(r.folder / "head.safetensors") for r in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert resumed.results.to_json() == whole.results.to_json()
    losses = [
        [json.loads(line)["loss"] for line in (r.folder / "metrics.jsonl").read_text().splitlines()]
        for r in (resumed, whole)
    ]
    assert losses[0] == losses[1]


def test_crops_are_those_of_their_number_whoever_makes_them(colours: Path, tmp_path: Path) -> None:
    heads = [
        load_file(
            tuned(EYES, colours, tmp_path / out, "augment=true", word).folder / "head.safetensors"
        )
        for out, word in (("alone", "workers=0"), ("worker", "workers=1"))
    ]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_a_head_refuses_an_encoder_of_other_weights(colours: Path, tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    tuned(encoder, colours, tmp_path / "out", "steps=1")
    moved = encoder.rename(tmp_path / "moved")
    assert alumnus.load_head(tmp_path / "out", encoder=str(moved)).classes == tuple(COLOURS)
    write_encoder(encoder, seed=1)
    with pytest.raises(ValueError, match="on an encoder with other weights than those of"):
        alumnus.load_head(tmp_path / "out")


def test_a_folder_without_a_head_and_a_damaged_one_are_refused(
    colours: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"holds no head.json: no head was finished there"):
        alumnus.load_head(colours)
    folder = tuned(EYES, colours, tmp_path / "out", "steps=1").folder
    with (folder / "head.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"head.safetensors is damaged"):
        alumnus.load_head(folder)


def test_classes_of_train_and_test_are_matched_by_name(colours: Path, tmp_path: Path) -> None:
    for image in (colours / "test" / "green").iterdir():
        image.unlink()
    (colours / "test" / "green").rmdir()  # red is number 0 of the test images, but 1 of training
    result = tuned(EYES, colours, tmp_path / "out")
    assert result.results.value("colours top-1", "red") == 100
    (colours / "test" / "red").rename(colours / "test" / "pink")
    with pytest.raises(ValueError, match="class 'pink' of 'colours' is not among the 3 classes"):
        tuned(EYES, colours, tmp_path / "again")


def test_all_that_is_wrong_is_said_at_once(colours: Path, tmp_path: Path) -> None:
    words = ["batchsize=3", "lr=fast", f"data={colours}x", "device=gpu"]
    with pytest.raises(ConfigError) as error:
        api.finetune("efficientnet-lit", *words, head="clases")
    said = str(error.value)
    for part in (
        "unknown value of head 'clases'",
        "did you mean 'classes'?",
        "did you mean 'batch_size'?",
        "lr is 'fast', but must be a valid number",
        "where should the result be written? give out=FOLDER",
        "unknown teacher 'efficientnet-lit'",
        f"did you mean {str(colours)!r}?",
        "device 'gpu' is not there",
    ):
        assert part in said, said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("data=a,,b", "data is 'a,,b', but must be PATH, with splits train and test"),
        ("data=", "but must be PATH"),
        ("batch_size=1", "batch_size is 1, but must be greater than or equal to 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(word: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        api.finetune(EYES, word, f"out={tmp_path / 'out'}", head="classes")


def test_images_without_classes_are_refused_before_anything_is_written(
    colours: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, image in enumerate((colours / "test").rglob("*.png")):
        image.rename(flat / f"{i}.png")
    with pytest.raises(ValueError, match="needs classes, which 'flat' does not have"):
        tuned(EYES, colours, tmp_path / "out", f"data={colours}:train,{flat}")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_kind_is_not_overwritten(colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tuned(EYES, colours, out, "steps=1")
    settings = (*QUICK, f"data={colours}", "steps=1")
    with pytest.raises(ValueError, match="is not empty: add --resume to go on"):
        api.finetune(EYES, *settings, f"out={out}", head="classes")
    with pytest.raises(ValueError, match="is not a run of alumnus"):
        api.finetune(EYES, *settings, f"out={colours}", head="classes", overwrite=True)
    again = api.finetune(EYES, *settings, f"out={out}", head="classes", overwrite=True)
    assert again.steps == 1
