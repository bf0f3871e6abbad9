"""`auto`: each choice is a rule of images and hardware, is said, is kept by a resumed run."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import toys
from alumnus import api, auto, costs
from alumnus.auto import Load, choose_batch, choose_epochs
from alumnus.config import RunConfig, load_config
from alumnus.encoders import EncoderSpec
from alumnus.hardware import choose_workers, own_device
from alumnus.projectors import ProjectorSpec
from alumnus.student import Student, StudentSpec, build_student
from alumnus.training.schedules import peak_rate

GIB = 2**30
VIT = EncoderSpec(model="vit", dim=32, depth=2, num_heads=2, patch_size=8, image_size=32)


def student_of(spec: EncoderSpec = VIT) -> Student:
    projector = ProjectorSpec(kind="mlp", dim=8, token_types=("cls", "patch"), options={})
    return build_student(StudentSpec(encoder=spec, projectors={"any": projector}))


def batch_of(
    *, images: int = 10**6, mib: int = 10, gib: int = 80, cpu: bool = False, processes: int = 1
) -> int:
    load = Load(fixed=2**30, per_image=mib * 2**20)
    choice = choose_batch(
        images=images, tokens=100, load=load, memory=gib * GIB, on_cpu=cpu, processes=processes
    )
    assert isinstance(choice.value, int)
    return choice.value


def test_a_batch_fits_into_memory() -> None:
    assert batch_of(mib=10, gib=80) == 256
    assert batch_of(mib=1000, gib=80) == 32  # 47 GiB for steps
    assert batch_of(mib=1000, gib=1) == 2  # nothing fits: the least with statistics


def test_a_batch_leaves_steps_in_a_pass_over_few_images() -> None:
    assert batch_of(images=300) == 32
    assert batch_of(images=10) == 8


def test_a_batch_is_dealt_out_evenly_to_processes() -> None:
    assert batch_of(processes=3) == 3 * 64
    assert batch_of(processes=4) == 256


def test_on_a_cpu_more_rows_than_are_fast_are_not_taken() -> None:
    assert batch_of(cpu=True) == 64
    one_token = choose_batch(
        images=10**6, tokens=16, load=Load(0, 1000), memory=8 * GIB, on_cpu=True
    )
    assert one_token.value == 128


@pytest.mark.parametrize(
    ("images", "on_cpu", "epochs"),
    [
        (1_281_167, False, 200.0),  # UNIC's run
        (20_000_000, False, 13.0),  # no more images than UNIC shows
        (9_544, True, 52.0),
        (9_544, False, 200.0),
        (200, True, 500.0),
        (20, True, 1000.0),
        (5_000_000, True, 0.1),
    ],
)
def test_epochs_follow_the_published_runs_and_a_budget(
    images: int, on_cpu: bool, epochs: float
) -> None:
    assert choose_epochs(images=images, on_cpu=on_cpu).value == epochs


def test_activations_are_counted_as_a_plain_count_of_two_layers_says() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(12, 7), torch.nn.Linear(7, 5)

        def forward(self, images: torch.Tensor) -> dict[str, object]:
            self.second(torch.relu(self.first(images.flatten(1))))
            return {}

    counted = costs.activation_bytes(
        Two(), side_px=2, channels=3, device=torch.device("cpu"), bf16=False
    )
    assert counted == 4 * (12 + 7)  # the image, and what relu gives: kept once, for both


def test_activations_grow_with_the_image_and_bf16_halves_most() -> None:
    def count(side_px: int, *, bf16: bool) -> int:
        spec = replace(VIT, image_size=side_px)
        return costs.activation_bytes(
            student_of(spec), side_px=side_px, channels=3, device=torch.device("cpu"), bf16=bf16
        )

    small, large = count(32, bf16=False), count(64, bf16=False)
    assert 3 < large / small < 5  # four times the patches
    assert count(64, bf16=True) < 0.8 * large


def test_counting_changes_neither_student_nor_random_numbers() -> None:
    student = student_of()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    student.eval()
    costs.activation_bytes(student, side_px=32, channels=3, device=torch.device("cpu"), bf16=False)
    assert not student.training
    assert all(torch.equal(before[name], t) for name, t in student.state_dict().items())


@pytest.mark.parametrize(
    ("device", "local_rank", "own"),
    [
        ("cuda", "3", "cuda:3"),
        ("cuda", None, "cuda"),
        ("cuda:1", "3", "cuda:1"),
        ("cpu", "3", "cpu"),
    ],
)
def test_each_process_of_torchrun_has_an_accelerator_of_its_own(
    device: str, local_rank: str | None, own: str
) -> None:
    assert own_device(torch.device(device), local_rank) == torch.device(own)


def test_a_device_for_all_processes_of_a_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"the same device: say train\.device=cuda"):
        own_device(torch.device("cuda:1"), "0")


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alumnus.hardware.core_count", lambda: 32)
    assert choose_workers("auto", torch.device("cuda")) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert choose_workers("auto", torch.device("cuda")) == 4


def settled(config: RunConfig, *, images: int = 1000) -> tuple[RunConfig, list[auto.Choice]]:
    return auto.settle(
        config, images=images, student=student_of(), teachers={}, device=torch.device("cpu")
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    toys.write_recipe(tmp_path)
    toys.write_images(tmp_path / "photos")
    return tmp_path


WORDS = ("data.train=photos", "optim.batch_size=auto", "data.workers=auto", "optim.accumulate=1")


def test_nothing_is_chosen_where_all_is_given(place: Path) -> None:
    config = load_config("toy.yaml", ["train.precision=fp32"])
    assert settled(config) == (config, [])


def test_what_is_chosen_is_a_whole_configuration_that_says_why(place: Path) -> None:
    config, choices = settled(load_config("toy.yaml", [*WORDS, "optim.epochs=auto"]))
    assert {choice.key for choice in choices} == set(auto.AUTO)
    assert all(len(choice.reason) > 10 for choice in choices)
    assert (config.optim.batch_size, config.optim.epochs) == (64, 200.0)
    assert isinstance(config.data.workers, int)
    assert config.train.precision in ("fp32", "bf16")


def test_the_learning_rate_follows_the_batch(place: Path) -> None:
    config, _ = settled(load_config("toy.yaml", [*WORDS, "optim.lr=1e-3"]))
    assert peak_rate(config.optim.lr, batch=config.optim.batch) == 1e-3 * 64 / 256


def test_the_run_says_and_keeps_what_was_chosen_and_a_resume_elsewhere_keeps_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*WORDS, "optim.steps=2", "out=run"]
    with caplog.at_level(logging.INFO, "alumnus"):
        api.distill("toy.yaml", *words)
    kept = (place / "run" / "config.yaml").read_text()
    assert "batch_size: 8\n" in kept  # of 22 images
    assert "auto" not in kept.split("optim:")[1].split("train:")[0]
    assert "auto      optim.batch_size 8: 22 images then make" in caplog.text

    monkeypatch.setattr(auto, "choose_bf16", lambda *_: "bf16" not in kept)  # other hardware
    monkeypatch.setattr(auto, "choose_batch", lambda **_: auto.Choice("optim.batch_size", 4, ""))
    assert api.distill("toy.yaml", *words, resume=True).steps == 2
    assert (place / "run" / "config.yaml").read_text() == kept
    with pytest.raises(ValueError, match="another configuration"):
        api.distill("toy.yaml", *words, "optim.lr=1", resume=True)


def test_a_printed_configuration_keeps_auto() -> None:
    assert "batch_size: auto" in api.show_config("folder")
    assert "epochs: auto" in api.show_config("folder")
