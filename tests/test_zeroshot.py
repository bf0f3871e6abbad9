"""Images meet text where the teacher would let them: after its own output projection."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from alumnus import api, measure
from alumnus.data import Source, open_source
from alumnus.evaluation import text_tower
from alumnus.evaluation.features import extract_features
from alumnus.evaluation.suite import CONSTANT, evaluate
from alumnus.evaluation.tasks import EvalModel, TaskSpec
from alumnus.evaluation.text_features import (
    TextFeatures,
    load_text_features,
    read_projection,
    save_text_features,
)
from alumnus.tokens import Tokens

COLOURS = {"blue": (40, 60, 200), "green": (30, 160, 60), "red": (200, 40, 40)}
Towers = tuple[Any, Any]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of two small transformers with random weights, as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    letters = "abcdefghijklmnopqrstuvwxyz."
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    folder = tmp_path_factory.mktemp("clip")
    transformers.CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={
            **size,
            "num_hidden_layers": 2,
            "vocab_size": len(vocab),
            "max_position_embeddings": 40,
            "eos_token_id": vocab["<|endoftext|>"],
            "bos_token_id": vocab["<|startoftext|>"],
            "pad_token_id": vocab["<|endoftext|>"],
        },
        vision_config={**size, "hidden_size": 24, "num_hidden_layers": 2, "image_size": 16,
                       "patch_size": 8},
        projection_dim=12,
    )  # fmt: skip
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def towers(folder: Path) -> Towers:
    from transformers import AutoTokenizer, CLIPModel

    model: Any = CLIPModel.from_pretrained(folder)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def before_projection(model: Any) -> Callable[[Tensor], Tokens]:
    """What a teacher of MetaCLIP's kind gives: the pooled feature before the output projection."""
    return lambda images: Tokens(cls=model.vision_model(pixel_values=images).pooler_output)


@pytest.fixture
def pictures(tmp_path: Path) -> Source:
    for name, colour in COLOURS.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (20, 20), colour).save(tmp_path / "pictures" / name / f"{i}.png")
    return open_source(tmp_path / "pictures")


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_predictions_are_clips_own(clip: Path, pictures: Source, tmp_path: Path) -> None:
    classes = written(tmp_path / "classes.txt", "blue", "green\ta green leaf", "red")
    out = tmp_path / "text.safetensors"
    assert api.text(str(clip), classes, out, space="clip") == (3, 12)
    model, tokenizer = towers(clip)
    prompts = [f"a photo of a {word}." for word in ("blue", "a green leaf", "red")]
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    features = extract_features(before_projection(model), pictures, size_px=16)
    images = torch.stack([image_of(pictures, i) for i in range(6)])
    with torch.no_grad():
        own = model(**tokens, pixel_values=images)
    assert features.cls is not None
    ours = load_text_features(out).similarity(features.cls)
    torch.testing.assert_close(
        ours, own.logits_per_image / model.logit_scale.exp(), atol=1e-5, rtol=0
    )


def image_of(source: Source, index: int) -> Tensor:
    from alumnus.data import eval_transform

    return eval_transform(source.read(index).image, 16)


def test_prompts_of_a_class_are_averaged_on_the_sphere(clip: Path, tmp_path: Path) -> None:
    classes = written(tmp_path / "classes.txt", "cat", "big_dog")
    templates = written(tmp_path / "templates.txt", "a photo of a {}.", "a drawing of the {}.")
    out = tmp_path / "text.safetensors"
    api.text(str(clip), classes, out, space="clip", templates=templates)
    model, tokenizer = towers(clip)
    held = load_text_features(out)
    assert held.classes == ("cat", "big_dog")
    for row, word in zip(held.text, ("cat", "big dog"), strict=True):
        prompts = [f"a photo of a {word}.", f"a drawing of the {word}."]
        tokens = tokenizer(prompts, padding=True, return_tensors="pt")
        with torch.no_grad():
            found = model.get_text_features(**tokens)
        each = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=1)
        mean = torch.nn.functional.normalize(each.mean(dim=0), dim=0)
        torch.testing.assert_close(row, mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "seen"), [("siglip", "a photo"), ("clip", "A Photo")])
def test_siglip_reads_lower_case(kind: str, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []

    def tokenizer(texts: list[str], **_: Any) -> dict[str, Tensor]:
        prompts.extend(texts)
        return {"input_ids": torch.ones(len(texts), 3)}

    tower = SimpleNamespace(
        config=SimpleNamespace(
            model_type=kind, text_config=SimpleNamespace(max_position_embeddings=3)
        ),
        get_text_features=lambda input_ids: input_ids,
    )
    monkeypatch.setattr(text_tower, "_open", lambda _: (tower, tokenizer))
    text_tower.encode_classes("any", ["Cat"], templates=["A Photo of {}"])
    assert prompts[0].startswith(seen)


def test_a_class_named_twice_is_refused(tmp_path: Path) -> None:
    classes = written(tmp_path / "classes.txt", "cat", "dog", "cat\ta big cat")
    with pytest.raises(ValueError, match="the class 'cat' is there twice in"):
        text_tower.read_classes(classes)


def mean_colour(images: Tensor) -> Tokens:
    return Tokens(cls=images.mean(dim=(2, 3)))


def colour_text(path: Path, *, space: str = "eyes") -> TextFeatures:
    """Classes in another order than the folders', in a space turned from the teacher's."""
    names = ("red", "blue", "green")
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    seen = mean_colour(torch.stack([plain(COLOURS[name]) for name in names])).of("cls")
    return save_text_features(path, seen @ turn, names, space=space, projection=turn)


def plain(colour: tuple[int, int, int]) -> Tensor:
    from alumnus.data import eval_transform

    return eval_transform(Image.new("RGB", (16, 16), colour), 16)


def test_only_models_in_the_space_of_the_text_are_scored(pictures: Source, tmp_path: Path) -> None:
    text = colour_text(tmp_path / "text.safetensors")
    rows = [
        EvalModel(name="eyes", kind="teacher", fn=mean_colour, space="eyes"),
        EvalModel(name="mole as eyes", kind="projected", fn=mean_colour, space="eyes"),
        EvalModel(name="mole", kind="student", fn=mean_colour),
        EvalModel(name="ears", kind="teacher", fn=mean_colour, space="ears"),
    ]
    task = TaskSpec(kind="zeroshot", train=pictures, test=pictures, text=text, size_px=16)
    results = evaluate(rows, [task])
    name = "pictures zero-shot"
    assert {m: s.value for m, s in results.scores[name].items()} == {
        "eyes": 100.0,
        "mole as eyes": 100.0,
        CONSTANT: pytest.approx(100 / 3),
    }
    why = "its features are not in the space of eyes"
    assert results.missing[name] == {"mole": why, "ears": why}
    assert results.tasks[0].train == {}
    assert results.tasks[0].protocol["projection"] is True


def test_only_classes_of_the_test_images_are_chosen_where_the_task_says_so(
    pictures: Source, tmp_path: Path
) -> None:
    grey = torch.eye(4)[:, :3]
    grey[3] = 1.0  # nearer to every picture than any of the others
    text = save_text_features(
        tmp_path / "t.safetensors", grey, ("red", "green", "blue", "grey"), space="eyes"
    )
    row = EvalModel(
        name="eyes",
        kind="teacher",
        fn=lambda x: Tokens(cls=mean_colour(x).of("cls") + 9),
        space="eyes",
    )
    options: dict[str, Any] = {"train": pictures, "test": pictures, "text": text, "size_px": 16}
    tasks = [
        TaskSpec(kind="zeroshot", name="all", **options),
        TaskSpec(kind="zeroshot", name="three", among="test", **options),
    ]
    results = evaluate([row], tasks)
    assert (results.value("all", "eyes"), results.value("three", "eyes")) == (0.0, 100.0)
    assert results.value("all", CONSTANT) == pytest.approx(25)
    assert results.value("three", CONSTANT) == pytest.approx(100 / 3)


def test_a_task_by_its_words_reads_the_text_and_needs_no_training_images(
    pictures: Source, tmp_path: Path
) -> None:
    colour_text(tmp_path / "text.safetensors")
    words = f"zeroshot={tmp_path / 'text.safetensors'},{tmp_path / 'pictures'}"
    [task] = measure.parse_tasks([words], size_px=16, trials=1)
    assert (task.name, task.classes) == ("pictures zero-shot", ("red", "blue", "green"))


@pytest.mark.parametrize(
    ("named", "refusal"),
    [
        (("n00000003", "n00000001", "n00000002"), None),  # red, blue, green
        (("2", "0", "1"), None),
        (("red", "blue", "green"), "numbers its classes without names"),
        (("n00000003", "n00000001"), "has an image of class 2, but the text features are of 2"),
    ],
)
def test_numbers_without_names_are_scored_where_the_text_says_which_is_which(
    pictures: Source, tmp_path: Path, named: tuple[str, ...], refusal: str | None
) -> None:
    pictures.classes = None  # type: ignore[misc]  # labels 0 blue, 1 green, 2 red
    text = colour_text(tmp_path / "text.safetensors")
    text = replace(text, classes=named, text=text.text[: len(named)])
    row = EvalModel(name="eyes", kind="teacher", fn=mean_colour, space="eyes")
    task = TaskSpec(kind="zeroshot", train=pictures, test=pictures, text=text, size_px=16)
    if refusal is None:
        assert evaluate([row], [task]).value(task.name, "eyes") == 100.0
    else:
        with pytest.raises(ValueError, match=refusal):
            evaluate([row], [task])


def test_a_class_without_text_is_refused(pictures: Source, tmp_path: Path) -> None:
    text = save_text_features(
        tmp_path / "t.safetensors", torch.eye(3), ("red", "blue", "grey"), space="eyes"
    )
    row = EvalModel(name="eyes", kind="teacher", fn=mean_colour, space="eyes")
    task = TaskSpec(kind="zeroshot", train=pictures, test=pictures, text=text, size_px=16)
    with pytest.raises(ValueError, match="class 'green' of 'pictures' is not among the 3 classes"):
        evaluate([row], [task])


@pytest.mark.parametrize("layout", ["visual.proj", "visual_projection.weight"])
def test_the_projection_is_read_from_a_checkpoint_in_either_layout(
    layout: str, tmp_path: Path
) -> None:
    projection = torch.randn(24, 12)  # [D, P]
    stored = projection if layout == "visual.proj" else projection.T.contiguous()
    state = {layout: stored, "visual.conv1.weight": torch.zeros(2)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "c.pt")
    save_file(state, tmp_path / "c.safetensors")
    for file in ("c.pt", "c.safetensors"):
        assert torch.equal(read_projection(tmp_path / file), projection)


def test_features_of_another_width_are_refused() -> None:
    text = TextFeatures(classes=("a", "b"), text=torch.eye(2), space="clip")
    with pytest.raises(ValueError, match="with 2 dimensions, not 5"):
        text.similarity(torch.ones(1, 5))


@pytest.mark.parametrize(
    ("tensor", "classes", "projection", "words"),
    [
        (torch.ones(2, 4), ("a",), None, r"should be \[1, P\]"),
        (torch.ones(2, 4), ("a", "a"), None, "'a' is there twice"),
        (torch.ones(2, 4), ("a", "b"), torch.ones(8, 3), "should end in the text's 4"),
    ],
)
def test_text_features_that_do_not_fit_are_refused(
    tensor: Tensor, classes: tuple[str, ...], projection: Tensor | None, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        save_text_features(
            tmp_path / "t.safetensors", tensor, classes, space="s", projection=projection
        )


def test_mistakes_are_said_in_one_sentence(clip: Path, tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no text features"):
        load_text_features(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="alumnus text makes one"):
        load_text_features(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="zeroshot=TEXT,TEST"):
        measure.parse_tasks(["zeroshot=pictures"], size_px=16, trials=1)
    with pytest.raises(ValueError, match="has no output projection"):
        read_projection(tmp_path / "other.safetensors")
    classes = written(tmp_path / "classes.txt", "cat")
    for templates, words in (("a photo", "not exactly one"), ("", "is empty")):
        file = written(tmp_path / "templates.txt", templates)
        with pytest.raises(ValueError, match=words):
            api.text(str(clip), classes, tmp_path / "o.safetensors", space="s", templates=file)
    with pytest.raises(ValueError, match="cannot be had"):
        api.text(str(tmp_path), classes, tmp_path / "o.safetensors", space="s")
    with pytest.raises(ValueError, match=r"needs that ending"):
        api.text(str(clip), classes, tmp_path / "o.pt", space="s")
