"""Map-free relocalisation is measured to the benchmark's numbers, from its text files."""

from typing import Any

import numpy as np
import pytest

from alumnus.evaluation.mapfree import (
    Estimate,
    Intrinsics,
    Limits,
    Pose,
    SceneScore,
    aggregate,
    precision_recall,
    read_estimates,
    read_intrinsics,
    read_poses,
    rotation_error_deg,
    score_scene,
    vcre_grid,
    vcre_px,
    write_estimates,
)
from golden_files import threed_json

TOLERANCE = 1e-5  # the README's, relative and absolute: intrinsics are float32
IDENTITY = Pose(np.array([1.0, 0, 0, 0]), np.zeros(3))
CAMERA = Intrinsics(np.array([[600.0, 0, 270], [0, 600, 360], [0, 0, 1]]), 540, 720)


def near(value: Any) -> Any:
    return pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE)


def golden_scenes() -> dict[str, SceneScore]:
    return {
        name: score_scene(
            read_poses(scene["poses"]),
            read_estimates(scene["submission"]) if "submission" in scene else None,
            read_intrinsics(scene["intrinsics"]),
        )
        for name, scene in threed_json("mapfree_metrics")["scenes"].items()
    }


@pytest.mark.golden
def test_errors_of_each_scene_are_the_benchmarks() -> None:
    expected = threed_json("mapfree_metrics")["expected"]
    scenes = golden_scenes()
    assert sum(scene.failures for scene in scenes.values()) == expected["total_failures"]
    for name, record in expected["per_scene"].items():
        assert scenes[name].failures == record["failures"]
        columns = {
            "trans_err": scenes[name].translation_m,
            "rot_err": scenes[name].rotation_deg,
            "reproj_err": scenes[name].vcre_px,
            "confidence": scenes[name].confidence,
        }
        for column, values in columns.items():
            assert list(values) == near(record["metrics"].get(column, []))


@pytest.mark.golden
def test_the_table_over_all_scenes_is_the_benchmarks() -> None:
    record = threed_json("mapfree_metrics")
    limits = record["thresholds"]
    score = aggregate(
        list(golden_scenes().values()),
        limits=Limits(
            translation_m=limits["translation_m"],
            rotation_deg=limits["rotation_deg"],
            vcre_px=limits["vcre_px"],
        ),
    )
    wanted = {
        "Average Median Translation": score.median_translation_m,
        "Average Median Rotation": score.median_rotation_deg,
        "Average Median Reprojection": score.median_vcre_px,
        "Precision @ Pose": score.pose_precision,
        "AUC @ Pose": score.pose_auc,
        "Precision @ VCRE": score.vcre_precision,
        "AUC @ VCRE": score.vcre_auc,
        "Estimates": score.estimates,
    }
    aggregates = record["expected"]["aggregate"]
    assert len(aggregates) == len(wanted)
    for label, value in aggregates.items():
        [found] = [v for start, v in wanted.items() if label.startswith(start)]
        assert found == near(value)


@pytest.mark.golden
def test_single_poses_have_the_benchmarks_errors() -> None:
    record = threed_json("mapfree_metrics")
    np.testing.assert_allclose(sorted(vcre_grid().tolist()), sorted(record["vcre_grid"]), atol=1e-6)
    for case in record["unit_cases_cam2world"]:
        truth, found = (
            Pose(q / np.linalg.norm(q), np.array(t))
            for q, t in (
                (np.array(case["q_gt"]), case["t_gt"]),
                (np.array(case["q_est"]), case["t_est"]),
            )
        )
        camera = Intrinsics(np.array(case["K"]), case["W"], case["H"])
        assert rotation_error_deg(found.q, truth.q) == near(case["rot_err_sin"])
        assert np.linalg.norm(found.t - truth.t) == near(case["trans_err"])
        assert vcre_px(found, truth, camera) == near(case["vcre"])
    turn = record["world2cam_to_cam2world"]
    back = Pose(np.array(turn["q"]), np.array(turn["t"])).inverse
    np.testing.assert_allclose(back.q, turn["q_out"], atol=TOLERANCE)
    np.testing.assert_allclose(back.t, turn["t_out"], atol=TOLERANCE)


@pytest.mark.golden
def test_precision_and_recall_are_the_benchmarks() -> None:
    for case in threed_json("mapfree_metrics")["precision_recall"]:
        found = precision_recall(case["confidence"], case["tp"], case["failures"])
        assert list(found.precision) == near(case["precision"])
        assert list(found.recall) == near(case["recall"])
        assert found.auc == near(case["auc"])


def test_a_true_estimate_has_no_error_whatever_the_sign_of_its_quaternion() -> None:
    pose = read_poses("seq1/frame_00000.jpg 0.9 0.1 -0.3 0.2 0.5 -1.0 2.0")[0]
    other = Pose(-pose.q, pose.t)
    assert rotation_error_deg(pose.q, other.q) == pytest.approx(0)
    assert vcre_px(other.inverse, pose.inverse, CAMERA) == pytest.approx(0, abs=1e-9)
    scene = score_scene({0: pose}, {0: Estimate(other, 1.0)}, {0: CAMERA})
    assert (scene.failures, scene.translation_m[0]) == (0, pytest.approx(0, abs=1e-12))


def test_what_is_written_is_read_again() -> None:
    pose = read_poses("a/frame_00015.jpg 2.0 0 0 2.0 0.5 -1.0 2.0")[15]
    assert np.linalg.norm(pose.q) == pytest.approx(1)
    text = write_estimates({"seq1/frame_00015.jpg": Estimate(pose, 12.5)})
    [(frame, again)] = read_estimates(text).items()
    assert (frame, again.confidence) == (15, 12.5)
    np.testing.assert_allclose([*again.pose.q, *again.pose.t], [*pose.q, *pose.t], atol=1e-9)


@pytest.mark.parametrize(
    "line",
    [
        "seq1/frame_00005.jpg 1 0 0 0 0 0",
        "seq1/frame_00005.jpg 1 0 nan 0 0 0 0 9",
        "#seq1/frame_00005.jpg 1 0 0 0 0 0 0 9",
        "seq1/frame_00005.jpg 0 0 0 0 0 0 0 9",
        "seq1/frame_00005.jpg 1 0 0 zero 0 0 0 9",
        "",
    ],
)
def test_lines_that_are_no_estimate_are_left_out(line: str) -> None:
    assert read_estimates(line) == {}


def test_frames_without_a_number_are_refused() -> None:
    with pytest.raises(ValueError, match="should end in a number, as frame_00005"):
        read_poses("seq1/first.jpg 1 0 0 0 0 0 0")


def test_without_any_estimate_nothing_is_found() -> None:
    score = aggregate([score_scene({0: IDENTITY, 1: IDENTITY}, None, {})])
    assert (score.estimates, score.pose_precision, score.pose_auc, score.vcre_auc) == (0, 0, 0, 0)
    assert np.isnan(score.median_vcre_px)


def test_only_every_fifth_frame_counts() -> None:
    truth = dict.fromkeys(range(11), IDENTITY)
    scene = score_scene(
        truth, {3: Estimate(IDENTITY, 1.0), 5: Estimate(IDENTITY, 2.0)}, {5: CAMERA}
    )
    assert list(scene.confidence) == [2.0]
    assert scene.failures == 2
