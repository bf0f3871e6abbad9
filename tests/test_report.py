"""Tables say what was measured; PCA pictures show one basis a model."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.text import Text
from torch import Tensor

from alumnus.evaluation.results import (
    ModelKind,
    ModelRecord,
    Results,
    TaskRecord,
    TaskScore,
)
from alumnus.report.pca import agree, pca_colours, pca_picture, principal_components
from alumnus.report.progress import ProgressBar
from alumnus.report.table import markdown, plain, results_table
from alumnus.tokens import Tokens
from alumnus.training.loop import Interval


def hand_made() -> Results:
    """Two teachers, a student and a constant on two tasks; one teacher lacks the second."""
    values: dict[str, dict[str, float]] = {
        "my pets k-NN": {"small": 50.0, "big": 80.0, "pupil": 60.0, "constant": 10.0},
        "poses": {"small": 40.0, "pupil": 44.0, "constant": 2.5},
    }
    kinds: list[tuple[str, ModelKind]] = [
        ("pupil", "student"), ("constant", "baseline"), ("small", "teacher"), ("big", "teacher"),
    ]  # fmt: skip
    return Results(
        models=tuple(ModelRecord(name=name, kind=kind) for name, kind in kinds),
        tasks=tuple(
            TaskRecord(
                name=task, kind="knn", metric="%", size_px=224, seed=0, train={}, test={},
                protocol={},
            )
            for task in values
        ),
        scores={
            task: {model: TaskScore(value=value, details={}) for model, value in row.items()}
            for task, row in values.items()
        },
        missing={"my pets k-NN": {}, "poses": {"big": "no patch tokens"}},
    )  # fmt: skip


def test_markdown_of_results_made_by_hand() -> None:
    assert markdown(results_table(hand_made())) == (
        "| model | my pets k-NN | poses |\n"
        "| --- | ---: | ---: |\n"
        "| small | 50.0 | **40.0** |\n"
        "| big | **80.0** | - |\n"
        "| pupil | 60.0 | 44.0 |\n"
        "| constant | 10.0 | 2.5 |\n"
        "| pupil / best teacher | 0.75 | 1.10 |\n"
    )


def test_plain_text_of_results_made_by_hand() -> None:
    assert plain(results_table(hand_made())) == (
        "                      my pets\n"
        "model                    k-NN   poses\n"
        "--------------------  --------  ------\n"
        "small                    50.0    40.0*\n"
        "big                      80.0*      -\n"
        "pupil                    60.0    44.0\n"
        "constant                 10.0     2.5\n"
        "pupil / best teacher     0.75    1.10\n"
    )


def test_without_teachers_there_is_no_ratio() -> None:
    results = hand_made()
    alone = Results(
        models=tuple(m for m in results.models if m.kind != "teacher"),
        tasks=results.tasks,
        scores=results.scores,
        missing=results.missing,
    )
    assert [row[0] for row in results_table(alone).rows] == ["pupil", "constant"]


def patches(*, seed: int = 0, dim: int = 12) -> Tensor:
    return torch.randn(3, 20, dim, generator=torch.Generator().manual_seed(seed))


def test_components_are_those_of_a_covariance_over_all_images() -> None:
    x = patches() * torch.arange(1, 13)
    got = principal_components(x).flatten(0, 1).double()
    values, vectors = torch.linalg.eigh(torch.cov(x.flatten(0, 1).double().T))
    flat = x.flatten(0, 1).double()
    want = ((flat - flat.mean(dim=0)) @ vectors.flip(1) / values.flip(0).sqrt())[:, :3]
    sign = (got * want).sum(dim=0).sign()
    torch.testing.assert_close(got, want * sign, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [1, 2])
def test_components_that_do_not_exist_are_zero(dim: int) -> None:
    got = principal_components(patches(dim=dim))
    assert got.shape == (3, 20, 3)
    assert (got[..., dim:] == 0).all()
    assert (principal_components(torch.ones(2, 4, 8)) == 0).all()


def test_a_turned_copy_is_turned_back() -> None:
    x = principal_components(patches())
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    torch.testing.assert_close(agree(x @ turn, x), x, atol=1e-5, rtol=0)


def test_colours_fill_the_range_and_constant_tokens_are_no_error() -> None:
    colours = pca_colours(principal_components(patches()))
    assert colours.min() == 0
    assert colours.max() == 1
    assert torch.isfinite(pca_colours(torch.zeros(2, 4, 3))).all()


def as_tokens(images: Tensor) -> Tokens:
    return Tokens.from_map(torch.nn.functional.avg_pool2d(images, 8))


def cls_only(images: Tensor) -> Tokens:
    return Tokens(cls=images.mean(dim=(2, 3)))


def test_picture_has_a_row_an_image_and_a_column_a_model_with_patches(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    models = {"student": as_tokens, "teacher": as_tokens, "pooled": cls_only}
    path = pca_picture(models, images, tmp_path / "pictures" / "pca.png")
    with Image.open(path) as picture:
        width, height = picture.size
    # three columns of 2:1 cells, two rows, and a line of labels
    assert 2.5 < width / height < 3.0


def test_picture_of_models_without_patches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs patch tokens, which pooled do not have"):
        pca_picture({"pooled": cls_only}, torch.zeros(1, 3, 8, 8), tmp_path / "pca.png")


def test_the_progress_bar_shows_steps_losses_and_pace() -> None:
    screen = io.StringIO()
    with ProgressBar(Console(file=screen, force_terminal=True, width=110)) as bar:
        for step in (20, 40):
            metrics = {"loss": 0.25, "loss/a": 0.1, "loss/b": 0.4}
            bar(Interval(step, 40, metrics, images_per_s=412.3, data_wait=0.03, eta_s=65.0))
    shown = Text.from_ansi(screen.getvalue()).plain
    assert "40/40" in shown
    assert "loss 0.2500  worst b 0.400, a 0.100  412 img/s  data-wait 3%  ETA 1m05s" in shown
