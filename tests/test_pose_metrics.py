"""Relative poses, multi-view depth, lengths of translations and focal lengths, to known numbers."""

from typing import Any

import numpy as np
import pytest

from alumnus.evaluation.focal import focal_length
from alumnus.evaluation.metric_scale import mean_length, translation_lengths, voted_length
from alumnus.evaluation.multiview_depth import multiview_depth_score
from alumnus.evaluation.relative_pose import (
    angle_between_deg,
    auc,
    maa,
    pair_score,
    pose_errors,
    precision,
    relative_pose,
    rotation_angle_deg,
    share_below,
)
from golden_files import threed_json

TOLERANCE = 1e-5  # the README's, relative and absolute
# The published angles are arc cosines, bounded away from 1: up to 0.002 degrees where exactly 0.
ACOS_DEG = 3e-3
RNG = np.random.default_rng(0)


def near(value: Any, tolerance: float = TOLERANCE) -> Any:
    return pytest.approx(value, rel=tolerance, abs=tolerance, nan_ok=True)


@pytest.mark.golden
def test_relative_poses_of_a_scene_have_the_published_accuracies() -> None:
    for scene in threed_json("eval_metrics")["relative_pose"]["scenes"]:
        first, second = np.array(scene["pairs"]).T
        (r, t), (true_r, true_t) = (
            relative_pose(
                rotation[first], translation[first], rotation[second], translation[second]
            )
            for rotation, translation in (
                (np.array(scene[f"{k}_R_world2cam"]), np.array(scene[f"{k}_t_world2cam"]))
                for k in ("pred", "gt")
            )
        )
        angle, direction = rotation_angle_deg(r, true_r), angle_between_deg(t, true_t)
        assert list(angle) == near(scene["rot_err_deg"])
        assert list(direction) == near(scene["trans_err_deg"])
        limits = [float(k) for k in scene["RRA"]]
        score = pair_score(angle, direction, thresholds=limits)
        assert [*score.rra.values()] == near([*scene["RRA"].values()])
        assert [*score.rta.values()] == near([*scene["RTA"].values()])
        assert score.maa30 == near(scene["mAA30"])


@pytest.mark.golden
def test_errors_and_areas_of_pairs_are_the_published_ones() -> None:
    record = threed_json("eval_metrics")["relative_pose_auc"]
    truth = np.array(record["T_gt_0to1"])
    errors = pose_errors(
        record["R_pred"],
        record["t_pred"],
        truth[:, :3, :3],
        truth[:, :3, 3],
        failed=record["failed_pairs"],
    )
    columns = {
        "R_err": errors.rotation_deg,
        "t_err_ang": errors.translation_deg,
        "t_err_euc": errors.translation_m,
        "t_err_scale": errors.scale,
        "t_err_scale_sym": errors.scale_either_way,
    }
    for name, values in columns.items():
        expected = [np.nan if v is None else v for v in record["errors"][name]]
        assert list(values) == near(expected, ACOS_DEG if name in ("R_err", "t_err_ang") else 1e-5)
        assert np.nanmedian(values) == near(record["median"][name])
    assert list(errors.scale_accuracy()) == near(record["A1_A2_A3"])
    kinds = {
        "pose": errors.pose_deg,
        "rotation": errors.rotation_deg,
        "translation_angle": errors.translation_deg,
        "translation_metres": errors.translation_m,
    }
    for kind, values in kinds.items():
        for name, area in record["auc"][kind].items():
            assert auc(values, float(name.partition("@")[2])) == near(area, 1e-4)
    limits = {
        name: tuple(float(word.rstrip("degm")) for word in name.split("_"))
        for name in record["precision"]
    }
    found = precision(errors, {name: (deg, metres) for name, (deg, metres) in limits.items()})
    assert found == near(record["precision"])


@pytest.mark.golden
def test_multi_view_depth_has_the_published_errors() -> None:
    for case in threed_json("eval_metrics")["multiview_depth"]:
        score = multiview_depth_score(
            case["pred"], case["gt"], alignment=case["alignment"], clip_m=tuple(case["clip"])
        )
        assert score.rel == near(case["rel"])
        assert score.inlier_103 == near(case["inlier_103"])
        assert score.rel_unclipped == near(case["rel_noclip"])
        assert score.scale == (None if case["scale"] is None else near(case["scale"]))


@pytest.mark.golden
def test_the_length_of_a_translation_is_the_published_one() -> None:
    case = threed_json("eval_metrics")["emat_metric_scale"]
    inliers = np.array(case["inlier_mask"], bool)
    lengths = translation_lengths(
        np.array(case["kpts0"])[inliers],
        np.array(case["kpts1"])[inliers],
        case["depth0"],
        case["depth1"],
        K0=case["K0"],
        K1=case["K1"],
        rotation=case["R"],
        direction=case["t_unit"],
    )
    voted = voted_length(lengths.votes, within_m=case["scale_inlier_threshold"])
    assert voted.agree == case["ransac_scale"]["num_inliers"]
    along = np.array(case["t_unit"])
    assert list(voted.metres * along) == near(case["ransac_scale"]["t_metric"])
    assert list(mean_length(lengths.votes) * along) == near(case["mean_scale"]["t_metric"])


@pytest.mark.golden
def test_focal_lengths_are_the_published_ones() -> None:
    case = threed_json("eval_metrics")["focal"]
    centre = (case["pp"][0], case["pp"][1])
    found = focal_length(case["pts3d"], centre=centre)
    assert found == near(case["weiszfeld"])
    assert focal_length(case["pts3d"], centre=centre, method="median") == near(case["median"])


def test_the_direction_of_a_translation_has_no_sign_and_that_of_a_rotation_has() -> None:
    t = RNG.normal(size=3)
    assert angle_between_deg(t, -3 * t) == pytest.approx(0, abs=1e-5)
    half = np.diag([1.0, -1, -1])
    assert rotation_angle_deg(np.eye(3), half) == pytest.approx(180)


def test_a_pair_without_an_estimate_is_a_miss_everywhere() -> None:
    eye, t = np.eye(3)[None].repeat(4, 0), RNG.normal(size=(4, 3))
    errors = pose_errors(eye, t, eye, t, failed=[2])
    assert auc(errors.pose_deg, 5) == pytest.approx(0.75, abs=1e-6)
    assert maa(errors.pose_deg, 30) == share_below(errors.pose_deg, 1) == 0.75
    assert precision(errors, {"near": (1, 0.1)}) == {"near": 0.75}
    assert errors.scale_accuracy() == (0.75, 0.75, 0.75)


def test_median_alignment_forgives_a_wrong_scale_and_clipping_a_wild_pixel() -> None:
    truth = RNG.uniform(1, 5, (6, 7))
    truth[0] = 0
    score = multiview_depth_score(3 * truth, truth, alignment="median")
    assert score.rel == pytest.approx(0, abs=1e-9)
    assert score.inlier_103 == 100
    wild = truth.copy()
    wild[1, 1] = 1e6
    clipped = multiview_depth_score(wild, truth)
    assert clipped.rel < clipped.rel_unclipped
    with pytest.raises(ValueError, match="no pixel has a true depth"):
        multiview_depth_score(truth, np.zeros_like(truth))


def test_matches_without_two_depths_say_nothing_of_the_length() -> None:
    depth = np.full((8, 8), 2.0)
    depth[0] = 0
    K = np.array([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]])
    lengths = translation_lengths(
        [[1.7, 0.2], [3.5, 4.9]],
        [[1.0, 2.0], [5.1, 4.3]],
        depth,
        depth,
        K0=K,
        K1=K,
        rotation=np.eye(3),
        direction=[1, 0, 0],
    )
    assert lengths.chosen.tolist() == [False, True]
    assert lengths.votes.tolist() == [pytest.approx(0.5)]  # two pixels at 2 m
    with pytest.raises(ValueError, match="no match has a depth in both pictures"):
        mean_length([])


def test_the_focal_length_of_a_pinhole_camera_is_found() -> None:
    v, u = np.mgrid[:9, :12] - np.array([4.0, 5.5])[:, None, None]
    z = RNG.uniform(1, 3, (9, 12))
    points = np.stack([u * z / 20, v * z / 20, z], axis=-1)
    points[0, 0] = 0  # nothing was predicted there
    for method in ("median", "weiszfeld"):
        assert focal_length(points, centre=(5.5, 4.0), method=method) == pytest.approx(20)
