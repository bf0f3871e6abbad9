"""Tables say what was measured; PCA pictures show one basis a model."""

import io
from dataclasses import replace

import pytest
import torch
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
from alumnus.report.patches import (
    PatchMaps,
    pca_columns,
    similarity,
    similarity_columns,
)
from alumnus.report.pca import Basis, Palette, turn_towards
from alumnus.report.progress import ProgressBar
from alumnus.report.table import markdown, plain, results_table
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


def test_a_column_of_errors_names_its_unit_and_that_lower_is_better() -> None:
    made = hand_made()
    first, second = made.tasks
    made = replace(made, tasks=(first, replace(second, unit="mm", better="lower")))
    table = results_table(made)
    assert table.header == ("model", "my pets k-NN", "poses mm\N{DOWNWARDS ARROW}")
    assert table.rows[-1] == ("pupil / best teacher", "0.75", "0.91")


def test_without_teachers_there_is_no_ratio() -> None:
    results = hand_made()
    alone = Results(
        models=tuple(m for m in results.models if m.kind != "teacher"),
        tasks=results.tasks,
        scores=results.scores,
        missing=results.missing,
    )
    assert [row[0] for row in results_table(alone).rows] == ["pupil", "constant"]


def tokens(*, seed: int = 0, dim: int = 12) -> Tensor:  # [n, D]
    return torch.randn(60, dim, generator=torch.Generator().manual_seed(seed))


def components(x: Tensor) -> Tensor:  # [n, D] -> [n, 3]
    return Basis.fit(x).components(x)


def test_components_are_those_of_a_covariance_over_all_images() -> None:
    x = tokens() * torch.arange(1, 13)
    got = components(x).double()
    values, vectors = torch.linalg.eigh(torch.cov(x.double().T))
    flat = x.double()
    want = ((flat - flat.mean(dim=0)) @ vectors.flip(1) / values.flip(0).sqrt())[:, :3]
    sign = (got * want).sum(dim=0).sign()
    torch.testing.assert_close(got, want * sign, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [1, 2])
def test_components_that_do_not_exist_are_zero(dim: int) -> None:
    got = components(tokens(dim=dim))
    assert got.shape == (60, 3)
    assert (got[..., dim:] == 0).all()
    assert (components(torch.ones(8, 4)) == 0).all()
    assert components(torch.randn(2, 8)).isfinite().all()  # fewer tokens than components


def test_a_turned_copy_is_turned_back() -> None:
    basis, x = Basis.fit(tokens()), components(tokens())
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    turned = basis.turned(turn)
    back = turned.turned(turn_towards(turned.components(tokens()), x))
    torch.testing.assert_close(back.components(tokens()), x, atol=1e-5, rtol=0)


def test_colours_fill_the_range_and_constant_tokens_are_no_error() -> None:
    x = components(tokens())
    colours = Palette.fit(x).colours(x)
    assert colours.min() == 0
    assert colours.max() == 1
    constant = torch.zeros(8, 3)
    assert torch.isfinite(Palette.fit(constant).colours(constant)).all()


def maps(*grids: tuple[int, int], seed: int = 0, dim: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*grid, dim, generator=generator) for grid in grids]


def test_a_perfect_prediction_has_the_colours_of_its_teacher_on_any_grids() -> None:
    held = maps((4, 6), (5, 3))
    teacher, student = PatchMaps("lite", held), PatchMaps("bare", maps((8, 8), (6, 4), dim=7))
    guess = PatchMaps("bare as lite", held, predicts="lite")
    # the turn of the colours towards the first model must be that of the teacher
    first, seen, copied = pca_columns([student, teacher, guess])
    assert all(torch.equal(a, b) for a, b in zip(seen.cells, copied.cells, strict=True))
    assert [tuple(cell.shape) for cell in first.cells] == [(8, 8, 3), (6, 4, 3)]
    assert copied.heading == ["bare as lite", "basis of its teacher", "centred cosine 1.00"]
    assert (seen.heading, first.heading) == (["lite", "own basis"], ["bare", "own basis"])


def test_a_wrong_prediction_has_other_colours_in_the_same_basis() -> None:
    held = maps((4, 6))
    mean = held[0].mean(dim=(0, 1))
    guess = PatchMaps("guess", [2 * mean - held[0]], predicts="lite")
    seen, wrong = pca_columns([PatchMaps("lite", held), guess])
    assert wrong.heading[-1] == "centred cosine -1.00"
    assert (seen.cells[0] - wrong.cells[0]).abs().mean() > 0.2


def test_a_prediction_without_its_teacher_has_a_basis_of_its_own() -> None:
    [column] = pca_columns([PatchMaps("guess", maps((4, 6)), predicts="absent")])
    assert column.heading == ["guess", "own basis"]


@pytest.mark.parametrize(
    ("at", "row", "column"), [((0.0, 0.0), 0, 0), ((0.99, 0.3), 1, 5), ((1.0, 1.0), 3, 5)]
)
def test_likeness_is_the_cosine_with_the_patch_at_that_place(
    at: tuple[float, float], row: int, column: int
) -> None:
    [held] = maps((4, 6))
    found = similarity(held, at)
    unit = held / held.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found, unit @ unit[row, column])
    assert found[row, column] == found.max()


def test_the_scale_of_likeness_is_written_below_the_name() -> None:
    [column] = similarity_columns([PatchMaps("lite", [torch.ones(2, 3, 4)])], (0.5, 0.5))
    assert column.heading == ["lite", "cosine 1.00 to 1"]
    assert column.cells[0].shape == (2, 3, 3)
    assert column.cells[0].isfinite().all()


def test_the_progress_bar_shows_steps_losses_and_pace() -> None:
    screen = io.StringIO()
    with ProgressBar(Console(file=screen, force_terminal=True, width=110)) as bar:
        for step in (20, 40):
            metrics = {"loss": 0.25, "loss/a": 0.1, "loss/b": 0.4}
            bar(Interval(step, 40, metrics, images_per_s=412.3, data_wait=0.03, eta_s=65.0))
    shown = Text.from_ansi(screen.getvalue()).plain
    assert "40/40" in shown
    assert "loss 0.2500  worst b 0.400, a 0.100  412 img/s  data-wait 3%  ETA 1m05s" in shown
