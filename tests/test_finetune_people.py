"""`alumnus finetune --head people`: what is learned, from which pictures, and what comes of it."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

import alumnus
from alumnus import cli
from alumnus.bodies import load_people
from alumnus.data import open_source
from alumnus.encoders import EncoderSpec, build_encoder
from alumnus.evaluation.results import Results
from alumnus.finetune_config import FinetuneConfig
from alumnus.finetuning.backbone import open_backbone
from alumnus.finetuning.people.course import PeopleCourse, fitting_spec, people_course
from alumnus.finetuning.people.labels import read_bodies
from alumnus.heads.people.camera import project
from alumnus.measure import parse_tasks
from alumnus.miniworld.people_bodies import labelled
from alumnus.miniworld.people_errors import count_detections, precision_and_recall
from alumnus.miniworld.people_learning import fitted
from alumnus.miniworld.torch_body import TorchBody
from alumnus.runs import save_encoder

PEOPLE = "miniworld:people:test[:24],miniworld:people:test[24:40]"
QUICK = ("steps=2", "batch_size=8", "evaluations=1", "device=cpu", "threads=1", "checkpoints=1")
SMALL = EncoderSpec(model="vit", dim=48, depth=1, num_heads=2, patch_size=16, image_size=64)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder, build_encoder(SMALL), SMALL)
    return folder


@pytest.fixture(scope="module")
def course(encoder: Path) -> PeopleCourse:
    config = FinetuneConfig(encoder=str(encoder), head="people", data=PEOPLE, out="out")
    [task] = parse_tasks([f"body={PEOPLE}"], trials=1)
    backbone = open_backbone(str(encoder), torch.device("cpu"))
    return people_course(config, backbone, task, torch.device("cpu"))


def test_command_trains_scores_and_its_result_opens_as_a_network(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["finetune", str(encoder), "--head", "people", f"data={PEOPLE}", f"out={out}", *QUICK]
    cli.app(words, standalone_mode=False)
    printed = capsys.readouterr().out
    assert "PVE" in printed
    assert "recall" in printed
    results = Results.load(out / "evaluation" / "results.json")
    [task] = results.tasks
    assert (task.unit, task.better) == ("mm", "lower")
    for score in results.scores[task.name].values():
        assert score.value == score.details["pve_mm"]
        assert {"pa_pve_mm", "mpjpe_mm", "pa_mpjpe_mm", "pck", "precision"} <= set(score.details)
    network = load_people(out)
    model = alumnus.load_head(out)
    picture = open_source("miniworld:people:test").read(40).image
    image = model.prepare(picture)[None]
    torch.testing.assert_close(network(image).scores, model(image).scores)
    Image.new("RGB", (30, 50)).save(tmp_path / "grey.png")
    [found] = alumnus.people(tmp_path / "grey.png", out, threshold=0.999)
    assert found.body is not None
    with pytest.raises(ValueError, match="knows its encoder"):
        load_people(out, encoder=network.encoder)


def test_an_unfrozen_encoder_learns_and_lies_beside_the_head(encoder: Path, tmp_path: Path) -> None:
    words = (f"data={PEOPLE}", f"out={tmp_path / 'out'}", *QUICK)
    alumnus.finetune(str(encoder), *words, head="people", unfrozen=True)
    before, after = (alumnus.load(path).state_dict() for path in (encoder, tmp_path / "out"))
    assert not torch.equal(before["blocks.0.mlp.fc1.weight"], after["blocks.0.mlp.fc1.weight"])
    assert load_people(tmp_path / "out").head.spec.dim == SMALL.dim


def test_batches_are_a_function_of_their_position(course: PeopleCourse) -> None:
    _, second = islice(course.batches(0, 4), 2)
    [same] = islice(course.batches(4, 4), 1)
    assert all(torch.equal(a, b) for a, b in zip(second, same, strict=True))
    assert not torch.equal(next(course.batches(0, 4)).images, second.images)


def test_a_frozen_encoder_has_no_gradient_and_the_head_has(course: PeopleCourse) -> None:
    course.loss(next(course.batches(0, 4))).backward()
    assert all(p.grad is None for p in course.network.encoder.parameters())
    assert all(p.grad is not None for p in course.head.parameters())


def test_people_in_pictures_of_another_size_are_the_same_people(course: PeopleCourse) -> None:
    view, body = course.learned.view(slice(0, 4)), TorchBody(every=100)
    large = fitted(view, 96)
    assert large.images.shape[-1] == 96
    points = torch.randn(4, 5, 3) + torch.tensor([0, 0, 4.0])
    torch.testing.assert_close(project(points, large.K), 1.5 * project(points, view.K))
    _, truth = labelled(view, body, patch_size=16)
    _, same = labelled(large, body, patch_size=24)
    torch.testing.assert_close(same.nearness, truth.nearness)
    torch.testing.assert_close(same.offset, truth.offset, rtol=0, atol=1e-4)
    assert fitting_spec(course.network.encoder, size_px=100).side_px == 96


def test_pictures_without_bodies_are_refused_in_one_sentence(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match=r"has no K of shape \(3, 3\): people are learned from"):
        read_bodies(open_source(str(tmp_path)))
    people, places = read_bodies(open_source("miniworld:people:test[3:5]"))
    assert places.tolist() == [0, 1]
    assert people.mask.sum() > 0


def test_detections_are_counted_once_each() -> None:
    truth = torch.rand(3, 5, 2) * 20
    pixels = torch.cat([truth[:2], truth[:1] + 500, truth[:1] + 1])
    counts = count_detections(pixels, torch.tensor([0, 1, 1, 0]), truth)
    assert counts.tolist() == [2, 2, 1]
    told = precision_and_recall(counts)
    assert told == {"precision": 50.0, "recall": pytest.approx(200 / 3)}
