import importlib.util
import pickle
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alumnus import hub
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.images import renormalise
from alumnus.runs import save_encoder
from alumnus.teachers import (
    TEACHERS,
    Teacher,
    Traits,
    UnavailableError,
    list_teachers,
    load_teacher,
    teacher_name,
)
from alumnus.teachers.base import match_images, resize_images
from alumnus.teachers.exported import ExportedNetwork
from alumnus.teachers.litert_teacher import LitertInterpreter
from alumnus.teachers.timm_teacher import TimmNetwork, timm_network
from alumnus.tokens import EncoderOutput, Tokens
from golden_files import golden, golden_json
from tiny_teachers import PatchMean, patch_mean_teacher, write_tiny_litert

needs_litert = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="needs alumnus[litert]"
)


@pytest.mark.golden
def test_images_for_teachers_of_another_patch_size_equal_the_published_ones() -> None:
    tensors = golden("teacher_inputs")
    for case in golden_json("teacher_inputs")["resize"]:
        prefix = f"resize{case['case']}"
        images = tensors[f"{prefix}/input"]
        h, w = (side * case["teacher_patch"] // case["student_patch"] for side in images.shape[-2:])
        expected = tensors[f"{prefix}/output"]
        assert [h, w] == case["out_hw"]
        torch.testing.assert_close(match_images(images, (h, w)), expected, atol=1e-5, rtol=0)


@pytest.mark.golden
def test_renormalisation_equals_the_published_one() -> None:
    tensors = golden("teacher_inputs")
    ours = renormalise(tensors["renorm/imagenet_normalised"], mean=(0.5,) * 3, std=(0.5,) * 3)
    torch.testing.assert_close(ours, tensors["renorm/mast3r_normalised"], atol=1e-6, rtol=0)


def test_a_teacher_sees_its_own_statistics_at_its_own_size() -> None:
    teacher = patch_mean_teacher(input_size=32)
    network = teacher.network
    assert isinstance(network, PatchMean)
    images = torch.randn(2, 3, 48, 48)
    teacher(images)
    expected = renormalise(resize_images(images, (32, 32)), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert torch.equal(network.seen[-1], expected)


def test_a_teacher_has_no_gradients_and_never_leaves_eval_mode() -> None:
    teacher = patch_mean_teacher().train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(torch.randn(1, 3, 32, 32, requires_grad=True)).of("cls").requires_grad


@pytest.mark.parametrize(
    ("input_size", "fixed", "size", "own"),
    [
        (32, False, (16, 16), (32, 32)),
        (32, False, (20, 40), (32, 64)),
        (32, False, (50, 30), (56, 32)),  # 53.3 px are 6.7 patches of 8
        (32, True, (20, 40), (32, 32)),
        (None, False, (20, 41), (16, 40)),
        (None, False, (3, 8), (8, 8)),
    ],
)
def test_own_size_keeps_the_aspect_in_whole_patches(
    input_size: int | None, fixed: bool, size: tuple[int, int], own: tuple[int, int]
) -> None:
    teacher = patch_mean_teacher(input_size=input_size, fixed_size=fixed)
    assert teacher.own_size(*size) == own


def test_encoder_output_gives_its_final_tokens_and_only_the_chosen_types() -> None:
    class Wrapped(nn.Module):
        def forward(self, images: Tensor) -> EncoderOutput:
            tokens = Tokens.from_map(images, images.mean(dim=(2, 3)))
            return EncoderOutput(final=tokens, prenorm=Tokens(), blocks={})

    traits = Traits(dim=3, patch_size=1, token_types=("cls", "patch"))
    teacher = Teacher(Wrapped(), traits, name="t", tokens=["patch"])
    assert teacher.token_types == ("patch",)
    assert teacher(torch.randn(1, 3, 4, 4)).types == ("patch",)


def test_what_cannot_be_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="without dots"):
        patch_mean_teacher("a.b")
    with pytest.raises(ValueError, match="did you mean 'match'"):
        patch_mean_teacher(grid="macth")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 px only, so grid=match is impossible"):
        patch_mean_teacher(grid="match", fixed_size=True)
    traits = Traits(dim=3, patch_size=1, token_types=("patch",))
    with pytest.raises(ValueError, match="has no 'cls' tokens, only patch"):
        Teacher(nn.Identity(), traits, name="t", tokens=["cls"])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("efficientnet-lite9", "did you mean 'efficientnet-lite"),
        ("blazeposs", "did you mean 'blazepose'"),
        ("timm:vit_bas_patch16_224", "did you mean 'vit_base_patch16_224'"),
        ("python:nowhere.at.all:factory", "no Python module 'nowhere.at.all'"),
        ("python:tiny_teachers:nothing", "has no factory 'nothing'"),
        ("python:tiny_teachers", "not of the form"),
        ("litert:file.tflite", "not of the form litert:FILE#TENSOR"),
    ],
)
def test_an_unknown_teacher_is_answered_in_one_sentence(model: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_teacher(model)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("blazepose", "blazepose"),
        ("timm:vit_base_patch16_224.dino", "vit_base_patch16_224-dino"),
        ("python:package.module:factory", "factory"),
        ("runs/first.try/", "first-try"),
        ("litert:models/pose.tflite#a/b", "pose-tflite"),
    ],
)
def test_short_names_have_no_dots(model: str, name: str) -> None:
    assert teacher_name(model) == name


def test_a_module_of_ones_own_teaches_and_is_measured_where_it_is_silent() -> None:
    teacher = load_teacher("python:tiny_teachers:patch_mean_factory")
    assert (teacher.dim, teacher.patch_size, teacher.token_types) == (6, 8, ("cls", "patch"))
    assert teacher(torch.randn(2, 3, 32, 48)).grid == (4, 6)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_timm_teacher_with_a_local_file_gives_timms_own_features(
    name: str, suffix: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()  # with its classifier, which the teacher leaves out
    file = tmp_path / f"weights.{suffix}"
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    if suffix == "pth":
        torch.save({"model": state}, file)
    else:
        save_file(state, file)
    teacher = load_teacher(f"timm:{name}", weights=str(file))
    assert teacher.mean == tuple(model.pretrained_cfg["mean"])
    assert teacher.input_size is not None

    images = torch.randn(6, 3, teacher.input_size, teacher.input_size)
    tokens = teacher(images)
    with torch.no_grad():
        theirs = model.forward_features(renormalise(images, mean=teacher.mean, std=teacher.std))
        pooled = model.forward_head(theirs, pre_logits=True)
    expected = theirs[:, 1:] if theirs.ndim == 3 else theirs.flatten(2).transpose(1, 2)
    # 1e-5: another batch size and memory format sum in another order
    torch.testing.assert_close(tokens.patches, expected, atol=1e-5, rtol=1e-5)
    cls = theirs[:, 0] if theirs.ndim == 3 else pooled
    torch.testing.assert_close(tokens.cls, cls, atol=1e-5, rtol=1e-5)
    assert tokens.of("cls").shape[-1] == teacher.dim


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="do not fit timm model 'test_vit'"):
        load_teacher("timm:test_vit", weights=str(file))
    with pytest.raises(ValueError, match="do not fit"):
        load_teacher("efficientnet-lite0", weights=str(file))


def test_published_timm_weights_out_of_reach_are_named_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "_resolves", lambda url: False)
    with pytest.raises(UnavailableError, match="connect once, or give weights=PATH"):
        load_teacher("timm:test_vit3")


def test_efficientnet_lite_reads_the_released_names_in_timms_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    file = tmp_path / "lite0.pth"
    torch.save({f"_{i}": v for i, v in enumerate(model.state_dict().values())}, file)
    teacher = load_teacher("efficientnet-lite0", weights=str(file))
    images = torch.randn(2, 3, 224, 224)
    tokens = teacher(images)
    with torch.no_grad():
        theirs = model.forward_features(renormalise(images, mean=(0.5,) * 3, std=(0.5,) * 3))
    expected = theirs.flatten(2).transpose(1, 2)
    scale = float(expected.abs().max())  # random weights: values far from 1
    torch.testing.assert_close(tokens.patches, expected, atol=1e-5 * scale, rtol=0)
    torch.testing.assert_close(tokens.cls, theirs.mean(dim=(2, 3)), atol=1e-5 * scale, rtol=0)


def test_a_student_teaches(tmp_path: Path) -> None:
    spec = EncoderSpec(model="vit", dim=12, depth=1, num_heads=2, patch_size=8, image_size=32)
    encoder = build_encoder(spec).eval()
    save_encoder(tmp_path / "run", encoder, spec)
    teacher = load_teacher(str(tmp_path / "run"), name="first")
    images = torch.randn(2, 3, 32, 32)
    assert (teacher.dim, teacher.patch_size, teacher.input_size) == (12, 8, 32)
    with torch.no_grad():
        assert torch.equal(teacher(images).of("cls"), encoder(images).final.of("cls"))


def test_features_on_a_cpu_do_not_depend_on_threads_which_stay_as_they_were(
    tmp_path: Path,
) -> None:
    file = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    teacher = load_teacher("timm:test_resnet", weights=str(file))
    images = torch.randn(9, 3, 160, 160)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(teacher(images).of("patch"))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(images).of("patch").dtype == torch.bfloat16


def test_our_own_encoders_teach_in_chunks_with_the_same_features(tmp_path: Path) -> None:
    spec = EncoderSpec(model="vit", dim=12, depth=1, num_heads=2, patch_size=8, image_size=32)
    encoder = build_encoder(spec).eval()
    save_encoder(tmp_path / "run", encoder, spec)
    teacher = load_teacher(str(tmp_path / "run"))
    seen: list[int] = []
    teacher.network.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    images = torch.randn(9, 3, 32, 48)
    tokens = teacher(images)
    assert sorted(seen) == [1, 4, 4]
    with torch.no_grad():
        expected = encoder(images).final
    assert tokens.grid == expected.grid
    # another batch size sums in another order
    torch.testing.assert_close(tokens.patches, expected.patches, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.cls, expected.cls, atol=1e-5, rtol=0)


@needs_litert
def test_any_tensor_of_a_litert_file_is_a_map(tmp_path: Path) -> None:
    file = write_tiny_litert(tmp_path / "tiny.tflite")
    teacher = load_teacher(f"litert:{file}#inner/Relu")
    images = torch.randn(5, 3, 8, 8)
    expected = renormalise(images, mean=(0.5,) * 3, std=(0.5,) * 3).relu()
    assert (teacher.runs_on, teacher.fixed_size, teacher.token_types) == ("host", True, ("patch",))
    torch.testing.assert_close(teacher(images).as_map(), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="did you mean 'inner/Relu'"):
        load_teacher(f"litert:{file}#inner/Relv")


@needs_litert
def test_a_vector_of_a_litert_file_is_the_class_token(tmp_path: Path) -> None:
    file = write_tiny_litert(tmp_path / "tiny.tflite")
    teacher = load_teacher(f"litert:{file}#flat")
    images = torch.randn(5, 3, 8, 8)
    expected = renormalise(images, mean=(0.5,) * 3, std=(0.5,) * 3).relu()
    assert (teacher.token_types, teacher.dim) == (("cls",), 192)
    flat = expected.permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(teacher(images).of("cls"), flat, atol=1e-6, rtol=0)


@needs_litert
def test_litert_teachers_are_the_same_in_other_processes_and_with_more_threads(
    tmp_path: Path,
) -> None:
    file = write_tiny_litert(tmp_path / "tiny.tflite")
    teacher = load_teacher(f"litert:{file}#inner/Relu")
    images = torch.randn(5, 3, 8, 8)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = teacher(images).of("patch")
        torch.set_num_threads(1)
        one = teacher(images).of("patch")
    finally:
        torch.set_num_threads(threads)
    copy = pickle.loads(pickle.dumps(teacher))
    assert torch.equal(one, two)
    assert torch.equal(copy(images).of("patch"), one)
    assert copy.fingerprint() == teacher.fingerprint()


@needs_litert
def test_an_interpreter_that_another_thread_takes_first_is_not_waited_for(tmp_path: Path) -> None:
    class Raced(SimpleQueue[Any]):
        """What is seen in it is gone by the time it is taken."""

        def empty(self) -> bool:
            return False

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            raise AssertionError("this would wait for ever")

    file = write_tiny_litert(tmp_path / "tiny.tflite")
    network = ExportedNetwork(file, "inner/Relu", LitertInterpreter)
    network._idle = Raced()
    images = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(network(images).as_map(), images.relu())


def test_fingerprints_follow_the_weights() -> None:
    first, same, other = (patch_mean_teacher(seed=s).fingerprint() for s in (0, 0, 1))
    assert first == same != other


def test_the_list_has_a_row_for_each_released_file() -> None:
    names = [info.name for info in list_teachers()]
    assert set(hub.RELEASED) <= set(names)
    assert set(names) == set(TEACHERS)


@pytest.mark.parametrize("name", TEACHERS)
def test_the_page_of_teachers_says_what_the_registry_does(name: str) -> None:
    info, traits = TEACHERS[name], TEACHERS[name].traits
    cells = (
        f"`{name}`",
        str(traits.dim),
        f"{traits.input_size} px" if traits.input_size else "any",
        str(traits.patch_size),
        "+".join(traits.token_types),
        traits.licence,
        ", ".join(traits.data) or "not stated here",
        info.origin,
    )
    page = Path(__file__).parents[1] / "docs" / "teachers.md"
    assert f"| {' | '.join(cells)} |" in page.read_text().splitlines()


HERE = (
    "miniworld-objects",
    "miniworld-rooms",
    "miniworld-people",
    *hub.RELEASED,
)  # with weights that need no hub


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_a_registered_teacher_is_as_its_row_says(name: str) -> None:
    try:
        teacher = load_teacher(name)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert_as_stated(teacher.network, TEACHERS[name].traits)


def assert_as_stated(network: nn.Module, traits: Traits, *, device: str = "cpu") -> None:
    side = traits.input_size or 16 * traits.patch_size
    output = network(torch.zeros(1, 3, side, side, device=device))
    tokens = output.final if isinstance(output, EncoderOutput) else output
    assert set(traits.token_types) <= set(tokens.types)
    assert all(tokens.of(t).shape[-1] == traits.dim for t in tokens.types)
    assert tokens.grid == (-(-side // traits.patch_size),) * 2  # convolutions round up


FROM_TIMM = {n: i for n, i in TEACHERS.items() if getattr(i.network, "func", 0) is timm_network}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (i.traits.dim > 384))
        for n, i in FROM_TIMM.items()
    ],
)
def test_a_teacher_of_timm_is_as_its_row_says(name: str) -> None:
    info = FROM_TIMM[name]
    (model,) = info.network.args  # type: ignore[attr-defined]
    config = timm.get_pretrained_cfg(model)
    assert config is not None
    with torch.device("meta"):  # shapes only: up to 7 B parameters
        built = timm.create_model(model, num_classes=0)
        assert_as_stated(TimmNetwork(built), info.traits, device="meta")
    assert (info.traits.mean, info.traits.std) == (config.mean, config.std)
    assert info.traits.licence.lower() == config.license
    assert info.weights == f"hf:{config.hf_hub_id}/model.safetensors"
