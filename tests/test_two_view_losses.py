"""Pointmap and matching losses, equal to the released MASt3R's and DUSt3R's numbers."""

import json
from dataclasses import replace
from typing import Any

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

CONF_LOSSES = {
    "ConfLoss(Regr3D(L21,?avg_dis),alpha=0.2)": PointLoss(),
    "ConfLoss(Regr3D(L21,avg_dis),alpha=0.2)": PointLoss(metric_scale=False),
    "ConfLoss(Regr3D(L21,?avg_dis,sky_loss_value=0),alpha=0.2)": PointLoss(sky_loss=0),
    "dust3r ConfLoss(Regr3D(L21,avg_dis),alpha=0.2)": PointLoss(metric_scale=False, sky_loss=0),
    "ConfLoss(Regr3D(?avg_dis),0.2)": PointLoss(),
    "ConfLoss(Regr3D(?avg_dis,gt_scale=True),0.2)": PointLoss(gt_scale=True),
    "ConfLoss(Regr3D(?avg_dis,loss_in_log=True),0.2)": PointLoss(log="after"),
    "ConfLoss(Regr3D(?avg_dis,loss_in_log=before),0.2)": PointLoss(log="before"),
    "ConfLoss(Regr3D(?avg_dis,max_metric_scale=20),0.2)": PointLoss(max_metric_m=20),
    "ConfLoss(Regr3D(?avg_dis),0.2) with dist_clip=6": PointLoss(farthest=6),
}
POINT_LOSSES = {
    "Regr3D test (gt_scale, no sky)": PointLoss(gt_scale=True, sky_loss=0),
    "Regr3D_ScaleShiftInv(gt_scale,no sky)": PointLoss(
        gt_scale=True, sky_loss=0, shift_free=True, scale_free=True
    ),
    "Regr3D_ScaleInv(no gt_scale,no sky)": PointLoss(sky_loss=0, scale_free=True),
    "Regr3D_ShiftInv(no sky)": PointLoss(sky_loss=0, shift_free=True),
}
EMPTY = "ConfLoss(Regr3D(?avg_dis),0.2) with image 0 fully invalid and without sky"


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


def cases(labels: dict[str, PointLoss]) -> list[tuple[str, str]]:
    """(fixture, label) of the values that a fixture has."""
    return [
        (name, label)
        for name in ("f_losses", "f_losses_extra")
        for label in json.loads((ROOT / "threed" / f"{name}_values.json").read_text())
        if label in labels
    ]


@pytest.mark.golden
@pytest.mark.parametrize(("fixture", "label"), cases(CONF_LOSSES))
def test_confidence_losses_and_their_gradients_equal_the_reference(
    fixture: str, label: str
) -> None:
    case = Case(fixture)
    pixels = pixel_losses(case.points, case.truth, CONF_LOSSES[label])
    loss = confidence_loss(pixels, case.conf)
    close(loss, case.values[label]["loss"])
    details = list(case.values[label]["details"].values())  # of both views, weighed and not
    for view in (0, 1):
        close(pixels.loss[view][pixels.mask[view]].mean(), details[2 + view])
    case.gradients(label, loss)


@pytest.mark.golden
@pytest.mark.parametrize(("fixture", "label"), cases(POINT_LOSSES))
def test_point_losses_that_forgive_shift_and_scale_equal_the_reference(
    fixture: str, label: str
) -> None:
    case = Case(fixture)
    loss = point_loss(pixel_losses(case.points, case.truth, POINT_LOSSES[label]))
    close(loss, case.values[label]["loss"])


@pytest.mark.golden
def test_a_pair_without_any_valid_pixel_does_not_disturb_the_others() -> None:
    case = Case("f_losses_extra")
    masks = [torch.cat([torch.zeros_like(m[:1]), m[1:]]) for m in (*case.truth.valid,)]
    skies = [torch.cat([torch.zeros_like(m[:1]), m[1:]]) for m in (*(case.truth.sky or ()),)]
    truth = replace(case.truth, valid=TwoViews(*masks), sky=TwoViews(*skies))
    loss = confidence_loss(pixel_losses(case.points, truth, PointLoss()), case.conf)
    close(loss, case.values[EMPTY]["loss"])
    for gradient in torch.autograd.grad(loss, [*case.points]):
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
@pytest.mark.parametrize(
    "norm", ["avg_dis", "median_dis", "sqrt_dis", "avg_log1p", "avg_warp-log1p"]
)
def test_each_normalisation_equals_the_reference(norm: Norm) -> None:
    t, _ = threed("f_losses")
    points = TwoViews(t["norm/in_pts1"], t["norm/in_pts2"])
    valid = TwoViews(t["gt1/valid_mask"], t["gt2/valid_mask"])
    close(size_of(points, valid, norm=norm), t[f"norm/{norm}/factor"].flatten())
    for ours, view in zip(normalised(points, valid, norm=norm), (1, 2), strict=True):
        close(ours, t[f"norm/{norm}/pts{view}"])


@pytest.mark.golden
@pytest.mark.parametrize("combine", ["mean", "prod"])
def test_confident_matching_and_its_gradients_equal_the_reference(combine: str) -> None:
    case = Case("f_losses")
    per_match = info_nce(case.similarity())
    close(per_match[case.valid], case.tensors["mid/infonce/per_match"])
    loss = confident_match_loss(
        per_match, case.sure, case.valid, combine="mean" if combine == "mean" else "product"
    )
    label = f"ConfMatchingLoss(alpha=10,{combine})"
    close(loss, case.values[label]["loss"])
    case.gradients(label, loss)


@pytest.mark.golden
def test_the_full_criterion_equals_the_reference() -> None:
    case = Case("f_losses")
    pixels = pixel_losses(case.points, case.truth, PointLoss())
    matching = confident_match_loss(info_nce(case.similarity()), case.sure, case.valid)
    loss = confidence_loss(pixels, case.conf) + 0.075 * matching
    close(loss, case.values["full: ConfLoss + 0.075*ConfMatchingLoss"]["loss"])


@pytest.mark.golden
def test_each_mode_of_info_nce_and_average_precision_equal_the_reference() -> None:
    case = Case("f_losses")
    similarity = case.similarity()
    per_match = {
        "InfoNCE proper 0.05": info_nce(similarity),
        "InfoNCE dual 0.05": info_nce(similarity, mode="dual"),
        "InfoNCE all 0.07": info_nce(similarity, temperature=0.07, mode="all"),
        "APLoss torch": average_precision(similarity),
    }
    for name, values in per_match.items():
        close(match_loss(values, case.valid), case.values[f"MatchingLoss({name})"]["loss"])


@pytest.mark.golden
def test_more_negatives_points_as_descriptors_and_doubt_equal_the_reference() -> None:
    case = Case("f_losses_extra")
    padding = 9
    by_points = point_similarity(
        *(picked(p, xy) for p, xy in zip(case.points, case.xy, strict=True))
    )
    per_match = {
        f"InfoNCE all 0.07, negatives_padding={padding}": info_nce(
            case.similarity(padding), temperature=0.07, mode="all"
        ),
        f"APLoss torch, negatives_padding={padding}": average_precision(case.similarity(padding)),
        "InfoNCE proper 0.05, use_pts3d": info_nce(by_points),
    }
    for name, values in per_match.items():
        close(match_loss(values, case.valid), case.values[f"MatchingLoss({name})"]["loss"])
    label = "ConfMatchingLoss(alpha=10,mean,neg_conf_loss_quantile=0.6)"
    loss = confident_match_loss(
        info_nce(case.similarity()), case.sure, case.valid, doubt_quantile=0.6
    )
    close(loss, case.values[label]["loss"])
    case.gradients(label, loss)


@pytest.mark.golden
def test_matching_inside_blocks_equals_the_reference() -> None:
    case = Case("f_losses_extra")
    order = case.tensors["blocks/permutation"]
    labels = [label for label in case.values if label.startswith("MatchingLoss") and "bl" in label]
    assert labels
    for label in labels:
        size = int(label.split("blocksize=")[1].rstrip(")"))
        first, second = (in_blocks(d, order, size) for d in case.desc)
        valid = in_blocks(case.valid, order, size)
        per_match = info_nce(dot_similarity(first, second))
        loss = match_loss(per_match, valid)
        close(loss, case.values[label]["loss"])
        case.gradients(label, loss)
        confident = f"ConfMatchingLoss(alpha=10,mean,blocksize={size})"
        if confident in case.values:
            sure = in_blocks(case.sure[0], order, size), in_blocks(case.sure[1], order, size)
            loss = confident_match_loss(per_match, sure, valid)
            close(loss, case.values[confident]["loss"])
            case.gradients(confident, loss)


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
