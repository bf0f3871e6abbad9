"""Losses and balance: equal to the published systems, and their properties."""

import pytest
import torch
from torch import Tensor

from alumnus.balance import (
    aggregate,
    default_drop_probability,
    drop_teachers,
    eligible_table,
    gradnorm_loss,
    inverse_loss_weights,
    uncertainty_loss,
)
from alumnus.losses import distill_losses, feature_loss, side_of
from alumnus.tokens import TOKEN_TYPES, Tokens
from golden_files import golden, golden_json, sub

pytestmark = pytest.mark.filterwarnings("error")


def tokens_of(tensors: dict[str, Tensor], types: list[str]) -> Tokens:
    patches = tensors.get("patch") if "patch" in types else None
    return Tokens(
        cls=tensors.get("cls") if "cls" in types else None,
        patches=patches,
        grid=None if patches is None else (1, patches.shape[1]),
    )


@pytest.mark.golden
@pytest.mark.parametrize("system", ["unic", "dune"])
def test_losses_and_their_gradients_equal_the_published(system: str) -> None:
    tensors, settings = sub(golden("losses"), f"{system}/"), golden_json("losses")[system]
    assert settings["cases"]
    for i, case in enumerate(settings["cases"]):
        students, targets, leaves = {}, {}, {}
        for teacher in settings["teachers"]:
            name, types = teacher["name"], teacher["teacher_token_types"]
            student = sub(tensors, f"student/{name}/")
            leaves[name] = {t: x.clone().requires_grad_() for t, x in student.items()}
            students[name] = tokens_of(leaves[name], ["cls", "patch"])
            targets[name] = tokens_of(sub(tensors, f"teacher/{name}/"), types)
        loss_TB = distill_losses(
            students, targets, cosine_weight=case["lam_cos"], smooth_l1_weight=case["lam_sl1"]
        )
        for row, name in zip(loss_TB, targets, strict=True):
            torch.testing.assert_close(row, tensors[f"case{i}/per_image/{name}"], atol=1e-6, rtol=0)
            stated = case["metrics"][f"loss/dist_{name}"]
            assert row.mean().item() == pytest.approx(stated, abs=1e-6)
        loss = aggregate(loss_TB, torch.ones_like(loss_TB))
        assert loss.item() == pytest.approx(case["final_loss"], abs=1e-6)
        loss.backward()
        expected = sub(tensors, f"case{i}/grad_student/")
        for name, student in leaves.items():
            assert set(targets[name].types) == {t for t, x in student.items() if x.grad is not None}
            for token_type in targets[name].types:
                grad = student[token_type].grad
                # relative too: that of an all-zero student token is 1e5
                torch.testing.assert_close(
                    grad, expected[f"{name}/{token_type}"], atol=1e-6, rtol=1e-6
                )


@pytest.mark.golden
def test_terms_per_token_equal_the_published() -> None:
    for system in ("unic", "dune"):
        tensors = sub(golden("losses"), f"{system}/")
        for name, weights in {"cos": (1.0, 0.0), "sl1": (0.0, 1.0)}.items():
            terms = sub(tensors, f"per_token/{name}/")
            assert set(terms) == set(sub(tensors, "teacher/"))
            for key, expected in terms.items():
                teacher, token_type = key.split("/")
                student = tensors[f"student/{teacher}/{token_type}"].reshape(expected.numel(), -1)
                target = tensors[f"teacher/{teacher}/{token_type}"].reshape(expected.numel(), -1)
                loss = feature_loss(
                    student, target, cosine_weight=weights[0], smooth_l1_weight=weights[1]
                )
                torch.testing.assert_close(loss, expected.flatten(), atol=1e-6, rtol=0)


def draws_as_table(draws: Tensor, losses_TB: Tensor) -> Tensor:
    """The published order (images outermost, the worst teacher draws nothing) as [T, B]."""
    table = torch.zeros_like(losses_TB, dtype=torch.float64)
    queue = iter(draws.tolist())
    for b, worst in enumerate(losses_TB.argmax(dim=0).tolist()):
        for t in range(len(losses_TB)):
            if t != worst:
                table[t, b] = next(queue)
    assert next(queue, None) is None
    return table


@pytest.mark.golden
@pytest.mark.parametrize("system", ["unic", "dune"])
def test_dropping_and_sharing_equal_the_published(system: str) -> None:
    settings = golden_json("teacher_dropping")
    assert settings[system]
    for case in settings[system]:
        tensors = sub(golden("teacher_dropping"), f"{system}/case{case['case']}/")
        loss_TB = tensors["losses"]
        method = case.get("method", "lowest_loss")
        if method == "lowest_loss":
            eligible_TB = torch.ones_like(loss_TB, dtype=torch.bool)
            draw_TB = draws_as_table(tensors["draws"], loss_TB)
            coeff_TB = drop_teachers(loss_TB, eligible_TB, draw_TB, p=case["p"])
        else:
            teachers, families = case["teachers_sorted"], case["dataset_to_teacher"]
            known = set(settings["dataset_to_teacher"].values())
            domains = [next(f for f in known if t.startswith(f)) for t in teachers]
            generic = [f == "dino2" for f in families]  # the published generic family
            sharing = {"none": "full", "own_data": "own", "own+generic_data": "own+generic"}
            coeff_TB = eligible_table(
                sharing[method],  # type: ignore[arg-type]
                teacher_domains=domains,
                source_domains=families,
                source_generic=generic,
            ).to(loss_TB.dtype)
        torch.testing.assert_close(coeff_TB, tensors["coeff_before"], atol=0, rtol=0)
        share_TB = coeff_TB / coeff_TB.sum()
        torch.testing.assert_close(share_TB, tensors["coeff_after"], atol=1e-7, rtol=0)
        torch.testing.assert_close(
            share_TB.sum(dim=1), tensors["teacher_coeff_sums"], atol=1e-6, rtol=0
        )
        loss = aggregate(loss_TB, coeff_TB)
        assert loss.item() == pytest.approx(case["final_loss"], abs=1e-6)


@pytest.mark.parametrize("teachers", [1, 2, 3, 7])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_every_image_keeps_its_worst_eligible_teacher(teachers: int, p: float) -> None:
    generator = torch.Generator().manual_seed(teachers)
    loss_TB = torch.rand(teachers, 64, generator=generator)
    eligible_TB = torch.rand(teachers, 64, generator=generator) < 0.6
    draw_TB = torch.rand(teachers, 64, generator=generator)
    keep_TB = drop_teachers(loss_TB, eligible_TB, draw_TB, p=p) > 0
    assert not (keep_TB & ~eligible_TB).any()
    taught = eligible_TB.any(dim=0)
    worst_B = loss_TB.masked_fill(~eligible_TB, -1).argmax(dim=0)
    assert keep_TB[worst_B, torch.arange(64)][taught].all()
    if p == 1.0:
        assert (keep_TB.sum(dim=0) == taught.long()).all()
    if p == 0.0:
        assert (keep_TB == eligible_TB).all()


def test_dropping_rate_of_the_other_teachers_is_p() -> None:
    generator = torch.Generator().manual_seed(0)
    loss_TB, draw_TB = torch.rand(2, 4, 20_000, generator=generator)
    keep_TB = drop_teachers(loss_TB, torch.ones_like(loss_TB, dtype=torch.bool), draw_TB, p=0.3)
    others = (keep_TB.sum() - 20_000) / (3 * 20_000)
    assert others.item() == pytest.approx(0.7, abs=0.01)  # 60,000 draws: sigma 0.002


def test_sum_is_not_rescaled_by_another_teacher_and_released_is() -> None:
    loss_TB = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    one, two = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(2, 2)
    assert aggregate(loss_TB, two, kind="sum") == 2 * aggregate(loss_TB, one, kind="sum")
    assert aggregate(loss_TB, two) == aggregate(loss_TB, one)


def test_a_source_without_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="no teacher learns from domain 'rooms'"):
        eligible_table(
            "own",
            teacher_domains=["things", "people"],
            source_domains=["things", "rooms"],
            source_generic=[False, False],
        )


def test_uncertainty_learns_the_inverse_of_each_loss() -> None:
    loss_TB = torch.tensor([[4.0, 4.0], [0.5, 0.5]])
    log_variance_T = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([log_variance_T], lr=0.1)
    for _ in range(400):
        weighted = uncertainty_loss(loss_TB, torch.ones_like(loss_TB), log_variance_T)
        aggregate(weighted, torch.ones_like(loss_TB)).backward()
        optimizer.step()
        optimizer.zero_grad()
    # the minimum of exp(-v) L + v is at v = log L
    torch.testing.assert_close(
        log_variance_T.detach().exp(), torch.tensor([4.0, 0.5]), rtol=1e-3, atol=0
    )


def test_adaloss_gives_every_teacher_the_same_weighted_loss() -> None:
    average_T = torch.tensor([4.0, 0.5, 1.0])
    weights_T = inverse_loss_weights(average_T)
    torch.testing.assert_close(weights_T * average_T, (weights_T * average_T)[:1].expand(3))
    torch.testing.assert_close(weights_T.mean(), torch.tensor(1.0))
    assert inverse_loss_weights(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_learns_weights_of_equal_gradients_and_more_for_the_slow(alpha: float) -> None:
    slope_T, progress_T = torch.tensor([4.0, 0.5, 1.0]), torch.tensor([0.5, 0.5, 0.8])
    logit_T = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([logit_T], lr=0.01)
    for _ in range(4000):
        weights_T = logit_T.softmax(dim=0) * 3
        gradnorm_loss(weights_T, slope_T, progress_T, alpha=alpha).backward()
        optimizer.step()
        optimizer.zero_grad()
    norm_T = (weights_T * slope_T).detach()
    wanted_T = (progress_T / progress_T.mean()) ** alpha
    # a step of 0.01 along a gradient of absolute values leaves the weights within some percent
    torch.testing.assert_close(norm_T / norm_T.mean(), wanted_T / wanted_T.mean(), rtol=0.1, atol=0)


def test_published_drop_probabilities() -> None:
    assert [default_drop_probability(n) for n in (1, 2, 3, 4)] == [0.0, 0.25, 0.5, 0.5]


def test_other_shapes_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="must end in the teacher's width and grid"):
        feature_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))


def test_a_finer_prediction_is_pooled_to_the_teachers_grid() -> None:
    patches = torch.rand(2, 16, 3)
    student = {"t": Tokens(patches=patches, grid=(4, 4))}
    pooled = patches.reshape(2, 2, 2, 2, 2, 3).mean(dim=(2, 4)).reshape(2, 4, 3)
    target = {"t": Tokens(patches=pooled, grid=(2, 2))}
    torch.testing.assert_close(distill_losses(student, target), torch.zeros(1, 2))


def _tokens(seed: int) -> Tokens:
    numbers = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, 4, 3, generator=numbers)
    return Tokens(patches=patches, grid=(2, 2), cls=torch.randn(2, 3, generator=numbers))


def test_patches_have_their_share_of_the_loss_of_a_teacher_of_both_types() -> None:
    student, target = _tokens(0), _tokens(1)
    cls, patch = (
        distill_losses({"t": student}, {"t": target.only((kind,))}, patch_share=0.9)
        for kind in TOKEN_TYPES
    )
    for share in (0.0, 0.3, 0.5, 1.0):
        both = distill_losses({"t": student}, {"t": target}, patch_share=share)
        torch.testing.assert_close(both, (1 - share) * cls + share * patch)


def test_a_side_head_adds_its_weighted_loss_to_the_row_of_its_teacher_alone() -> None:
    targets = {"a": _tokens(0), "b": _tokens(1)}
    predictions = {"a": _tokens(2), "b": _tokens(3)}
    plain = distill_losses(predictions, targets)
    aside = distill_losses({"a": _tokens(4), "b": _tokens(3)}, targets)
    found = distill_losses({**predictions, side_of("a"): _tokens(4)}, targets, side_weight=0.2)
    torch.testing.assert_close(found[0], plain[0] + 0.2 * aside[0])
    assert torch.equal(found[1], plain[1])
