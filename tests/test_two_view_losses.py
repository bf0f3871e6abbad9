"""Pointmap and matching losses, equal to the released MASt3R's and DUSt3R's numbers."""

import json
import re
from dataclasses import replace
from typing import Any, NamedTuple, cast, get_args

import pytest
import torch
from torch import Tensor

from alumnus.heads.two_view.geometry import into_camera, unprojected
from alumnus.heads.two_view.losses import (
    Norm,
    PairTruth,
    PointLoss,
    TwoViews,
    confidence_loss,
    normalised,
    pixel_losses,
    point_loss,
    size_of,
)
from alumnus.heads.two_view.match_losses import (
    InfoNCEMode,
    average_precision,
    confident_match_loss,
    dot_similarity,
    in_blocks,
    info_nce,
    match_loss,
    picked,
    point_similarity,
    unlisted,
)
from golden_files import ROOT, threed

TOLERANCE = 1e-5  # the fixtures' own, relative to 1 + |value|; noise 1e-6


def close(ours: Tensor, theirs: Tensor | float) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(theirs), atol=TOLERANCE, rtol=TOLERANCE)


class Case:
    """A fixture: predictions as leaves, truth, and the reference's values."""

    def __init__(self, name: str) -> None:
        t, _ = threed(name)
        self.tensors = t
        self.values: dict[str, Any] = json.loads(
            (ROOT / "threed" / f"{name}_values.json").read_text()
        )
        self.leaves = {k: t[k].requires_grad_() for k in t if k.startswith("pred")}
        self.points = TwoViews(t["pred1/pts3d"], t["pred2/pts3d_in_other_view"])
        self.conf = TwoViews(t["pred1/conf"], t["pred2/conf"])
        pose = t["gt1/camera_pose"]
        self.truth = PairTruth(
            points=TwoViews(*(into_camera(t[f"gt{v}/pts3d"], pose) for v in (1, 2))),
            valid=TwoViews(t["gt1/valid_mask"], t["gt2/valid_mask"]),
            sky=TwoViews(t["gt1/sky_mask"], t["gt2/sky_mask"]),
            metric=t["gt1/is_metric_scale"],
        )
        self.xy = t["gt1/corres"], t["gt2/corres"]
        self.valid = t["gt1/valid_corres"]
        self.desc = self.at_pixels("desc")
        self.sure = self.at_pixels("desc_conf")

    def at_pixels(self, field: str) -> tuple[Tensor, Tensor]:
        first, second = (self.tensors[f"pred{view}/{field}"] for view in (1, 2))
        return picked(first, self.xy[0]), picked(second, self.xy[1])

    def similarity(self, extra: int = 0) -> Tensor:
        columns = self.desc[1]
        if extra:
            more = unlisted(self.tensors["pred2/desc"], self.xy[1], extra)
            columns = torch.cat([columns, more], dim=1)
        return dot_similarity(self.desc[0], columns)

    def gradients(self, label: str, loss: Tensor) -> None:
        """Those of `loss` equal the stored ones, where there are any."""
        prefix = f"grad/{label}/"
        names = [k.removeprefix(prefix) for k in self.tensors if k.startswith(prefix)]
        if names:
            found = torch.autograd.grad(loss, [self.leaves[n] for n in names], retain_graph=True)
            for name, ours in zip(names, found, strict=True):
                close(ours, self.tensors[prefix + name])


FIXTURES = ("f_losses", "f_losses_extra")
EMPTY = " with image 0 fully invalid and without sky"


def option(label: str, name: str) -> str | None:
    """The value of NAME=VALUE in a label."""
    found = re.search(rf"\b{name}=([^,() ]+)", label)
    return None if found is None else found.group(1)


def number(label: str, name: str) -> float | None:
    value = option(label, name)
    return None if value is None else float(value)


def points_of(label: str) -> PointLoss:
    """What a label that names Regr3D says of it: `?avg_dis` is the default of all but tests."""
    no_sky = "no sky" in label or label.startswith("dust3r")
    sky = number(label, "sky_loss_value")
    return PointLoss(
        metric_scale="ConfLoss(" not in label or "?" in label,
        gt_scale=option(label, "gt_scale") == "True"
        or bool(re.search(r"\((?!no )gt_scale\b(?!=)", label)),
        sky_loss=0.0 if no_sky else 2.0 if sky is None else sky,
        log={None: None, "True": "after", "before": "before"}[option(label, "loss_in_log")],
        max_metric_m=number(label, "max_metric_scale"),
        farthest=number(label, "dist_clip"),
        shift_free="Shift" in label,
        scale_free="_Scale" in label,
    )


def confidence_of(case: Case, label: str) -> Tensor:
    """ConfLoss(...), on truths of which an image may be made empty."""
    alpha = re.search(r"(?:alpha=|\),)([\d.]+)\)", label)
    assert alpha is not None, f"no alpha in {label!r}"
    truth = case.truth
    if label.endswith(EMPTY):
        masks = [torch.cat([torch.zeros_like(m[:1]), m[1:]]) for m in (*truth.valid,)]
        skies = [torch.cat([torch.zeros_like(m[:1]), m[1:]]) for m in (*(truth.sky or ()),)]
        truth = replace(truth, valid=TwoViews(*masks), sky=TwoViews(*skies))
    pixels = pixel_losses(case.points, truth, points_of(label))
    return confidence_loss(pixels, case.conf, alpha=float(alpha.group(1)))


class Matched(NamedTuple):
    """Matches as a label wants them compared."""

    per_match: Tensor
    sure: tuple[Tensor, Tensor]
    valid: Tensor


def matched(case: Case, label: str) -> Matched:
    """The losses of InfoNCE or AP with a label's options; InfoNCE proper 0.05 where it has none."""
    size, padding = option(label, "blocksize"), option(label, "negatives_padding")
    desc, sure, valid = case.desc, case.sure, case.valid
    if size is not None:
        order = case.tensors["blocks/permutation"]
        one, other, first, second, valid = (
            in_blocks(x, order, int(size)) for x in (*desc, *sure, valid)
        )
        desc, sure = (one, other), (first, second)
    if "use_pts3d" in label:
        first, second = (picked(p, xy) for p, xy in zip(case.points, case.xy, strict=True))
        similarity = point_similarity(first, second)
    elif padding is not None:
        similarity = case.similarity(int(padding))
    else:
        similarity = dot_similarity(*desc)
    if "APLoss" in label:
        return Matched(average_precision(similarity), sure, valid)
    said = re.search(r"InfoNCE (\w+) ([\d.]+)", label)
    mode, temperature = said.groups() if said else ("proper", "0.05")
    assert mode in get_args(InfoNCEMode), label
    per_match = info_nce(similarity, temperature=float(temperature), mode=cast("InfoNCEMode", mode))
    return Matched(per_match, sure, valid)


def loss_of(case: Case, label: str) -> Tensor:
    """What a label of the fixtures says; AssertionError for one that says something else."""
    if label.startswith("test criterion: "):
        points, _, matches = label.removeprefix("test criterion: ").partition(" - ")
        return loss_of(case, points) - loss_of(case, matches)
    if label.startswith("full: "):
        weight = re.fullmatch(r"full: ConfLoss \+ ([\d.]+)\*ConfMatchingLoss", label)
        assert weight is not None, label
        matching = loss_of(case, "ConfMatchingLoss(alpha=10,mean)")
        points_loss = loss_of(case, "ConfLoss(Regr3D(?avg_dis),0.2)")
        return points_loss + float(weight.group(1)) * matching
    kind = label.removeprefix("dust3r ").partition("(")[0]
    if kind == "ConfLoss":
        return confidence_of(case, label)
    if kind.startswith("Regr3D"):
        return point_loss(pixel_losses(case.points, case.truth, points_of(label)))
    found = matched(case, label)
    if kind == "MatchingLoss":
        return match_loss(found.per_match, found.valid)
    assert kind == "ConfMatchingLoss", label
    alpha, combine = re.findall(r"\(alpha=([\d.]+),(\w+)", label)[0]
    return confident_match_loss(
        *found,
        alpha=float(alpha),
        combine="mean" if combine == "mean" else "product",
        doubt_quantile=number(label, "neg_conf_loss_quantile"),
    )


def labels() -> list[tuple[str, str]]:
    """(fixture, label) of all values."""
    return [
        (name, label)
        for name in FIXTURES
        for label in json.loads((ROOT / "threed" / f"{name}_values.json").read_text())
    ]


@pytest.mark.golden
@pytest.mark.parametrize(("fixture", "label"), labels())
def test_losses_and_their_gradients_equal_the_reference(fixture: str, label: str) -> None:
    case = Case(fixture)
    loss = loss_of(case, label)
    close(loss, case.values[label]["loss"])
    case.gradients(label, loss)


@pytest.mark.golden
@pytest.mark.parametrize("fixture", FIXTURES)
def test_every_stored_gradient_belongs_to_a_loss(fixture: str) -> None:
    case = Case(fixture)
    stored = {
        re.split(r"/pred\d/", k.removeprefix("grad/"))[0] for k in case.tensors if "grad/" in k
    }
    assert stored <= set(case.values)


@pytest.mark.golden
def test_a_pair_without_any_valid_pixel_has_no_gradient_and_disturbs_no_other() -> None:
    case = Case("f_losses_extra")
    (label,) = (label for label in case.values if label.endswith(EMPTY))
    for gradient in torch.autograd.grad(loss_of(case, label), [*case.points]):
        assert gradient.isfinite().all()
        assert not gradient[0].any()


@pytest.mark.golden
def test_normalised_points_masks_and_pixel_losses_equal_the_reference() -> None:
    case = Case("f_losses")
    stored = case.tensors
    pixels = pixel_losses(case.points, case.truth, PointLoss())
    for view, (loss, mask) in enumerate(zip(*pixels, strict=True), start=1):
        assert torch.equal(mask, stored[f"mid/regr3d/mask{view}"])
        close(loss[mask], stored[f"mid/regr3d/pixel_loss{view}"])


@pytest.mark.golden
@pytest.mark.parametrize("norm", get_args(Norm))
def test_each_normalisation_equals_the_reference(norm: Norm) -> None:
    t, _ = threed("f_losses")
    points = TwoViews(t["norm/in_pts1"], t["norm/in_pts2"])
    valid = TwoViews(t["gt1/valid_mask"], t["gt2/valid_mask"])
    close(size_of(points, valid, norm=norm), t[f"norm/{norm}/factor"].flatten())
    for ours, view in zip(normalised(points, valid, norm=norm), (1, 2), strict=True):
        close(ours, t[f"norm/{norm}/pts{view}"])


@pytest.mark.golden
def test_points_from_depth_equal_the_reference() -> None:
    t, _ = threed("f_losses")
    depth, K, pose = (t[f"unproject/{name}"][None] for name in ("depth", "K", "cam2world"))
    valid = t["unproject/valid"]
    close(unprojected(depth, K, pose)[0][valid], t["unproject/world"][valid])
    assert torch.equal(depth[0] > 0, valid)


def test_metric_pairs_must_be_right_in_size_and_others_need_not() -> None:
    generator = torch.Generator().manual_seed(0)
    points = TwoViews(*(torch.randn(2, 4, 5, 3, generator=generator) for _ in range(2)))
    everywhere = TwoViews(*(torch.ones(2, 4, 5, dtype=torch.bool) for _ in range(2)))
    truth = PairTruth(points=points, valid=everywhere, metric=torch.tensor([True, False]))
    twice = TwoViews(*(2 * p for p in points))
    loss = pixel_losses(twice, truth, PointLoss()).loss.first
    assert (loss[0] > 0.01).all()
    torch.testing.assert_close(loss[1], torch.zeros(4, 5), atol=1e-6, rtol=0)


def test_more_columns_than_rows_are_refused_where_both_ways_are_asked() -> None:
    with pytest.raises(ValueError, match="as many rows as columns, not 2 and 3"):
        info_nce(torch.zeros(1, 2, 3))
