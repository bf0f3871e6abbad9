"""Errors of predicted people equal the published systems' numbers, and mean what they say."""

from typing import Any

import numpy as np
import pytest

from alumnus.evaluation.human_metrics import (
    aligned,
    fit_similarity,
    match_people,
    mpjpe_mm,
    pa_mpjpe_mm,
    pa_pve_mm,
    pve_mm,
)
from golden_files import threed_json

TOLERANCE = 1e-3  # the README's for mm, relative and absolute: the numbers are those of float32
RNG = np.random.default_rng(0)


@pytest.mark.golden
def test_vertex_errors_are_those_of_the_published_evaluation() -> None:
    for case in threed_json("eval_metrics")["human_mesh"]:
        predicted, truth = np.array(case["pred_vertices"]), np.array(case["gt_vertices"])
        pelvises = {"pelvis": case["pred_pelvis"], "true_pelvis": case["gt_pelvis"]}
        assert pve_mm(predicted, truth, **pelvises) == pytest.approx(
            case["pve_mm"], rel=TOLERANCE, abs=TOLERANCE
        )
        assert pa_pve_mm(predicted, truth) == pytest.approx(
            case["pa_pve_mm"], rel=TOLERANCE, abs=TOLERANCE
        )
        _same_similarity(
            case["procrustes"],
            predicted - np.array(case["pred_pelvis"]),
            truth - np.array(case["gt_pelvis"]),
        )


@pytest.mark.golden
def test_joint_errors_are_those_of_the_published_evaluation() -> None:
    record = threed_json("eval_metrics")["human_joints"]
    root, scored = record["pelvis_index"], record["h36m_to_14"]
    for case in record["cases"]:
        regressor = np.array(case["joint_regressor"])
        joints, true_joints = (regressor @ case[k] for k in ("pred_vertices", "gt_vertices"))
        mpjpe = mpjpe_mm(joints, true_joints, root=root, scored=scored)
        assert mpjpe == pytest.approx(case["mpjpe_mm"], rel=TOLERANCE, abs=TOLERANCE)
        pa = pa_mpjpe_mm(joints, true_joints, scored=scored)
        assert pa == pytest.approx(case["pa_mpjpe_mm"], rel=TOLERANCE, abs=TOLERANCE)
        centred = [(j - j[root])[scored] for j in (joints, true_joints)]
        _same_similarity(case["procrustes"], *centred)


def _same_similarity(expected: Any, source: np.ndarray, target: np.ndarray) -> None:
    found = fit_similarity(source, target)
    np.testing.assert_allclose(found.rotation, expected["R"], atol=1e-5)
    np.testing.assert_allclose(found.translation, expected["t"], atol=1e-5)
    assert found.scale == pytest.approx(expected["s"], abs=1e-5)


@pytest.mark.golden
def test_people_are_matched_as_in_the_published_evaluation() -> None:
    case = threed_json("eval_metrics")["human_detection_matching"]
    found = match_people(case["pred_kpts"], case["gt_kpts"], iou=case["iou_threshold"])
    assert [list(match) for match in found.matches] == case["matches"]
    assert list(found.false_positives) == case["false_positives"]
    assert list(found.misses) == case["misses"]
    assert [found.precision, found.recall, found.f1] == pytest.approx(case["precision_recall_f1"])


def test_alignment_undoes_any_similarity() -> None:
    truth = RNG.normal(size=(20, 3))
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    prediction = 0.3 * truth @ turn.T + [4, 5, 6]
    assert pa_mpjpe_mm(prediction, truth) == pytest.approx(0, abs=1e-9)
    assert mpjpe_mm(prediction, truth) > 100


def test_alignment_never_mirrors() -> None:
    truth = RNG.normal(size=(20, 3))
    mirrored = truth * [-1, 1, 1]
    assert np.linalg.det(fit_similarity(mirrored, truth).rotation) == pytest.approx(1)
    assert pa_pve_mm(mirrored, truth) > 100


def test_alignment_is_the_best_of_the_similarities_near_it() -> None:
    truth, prediction = RNG.normal(size=(2, 20, 3))
    best = ((aligned(prediction, truth) - truth) ** 2).sum()
    fit = fit_similarity(prediction, truth)
    for change in (0.99, 1.01):
        other = fit._replace(scale=fit.scale * change)
        assert ((other.of(prediction) - truth) ** 2).sum() > best


def test_a_prediction_of_one_point_is_moved_only() -> None:
    truth = RNG.normal(size=(5, 3))
    np.testing.assert_allclose(aligned(np.ones((5, 3)), truth), np.tile(truth.mean(0), (5, 1)))


def test_joint_errors_do_not_see_where_a_body_stands() -> None:
    truth = RNG.normal(size=(20, 3))
    assert mpjpe_mm(truth + np.array([1, 2, 3]), truth, root=4) == pytest.approx(0, abs=1e-9)


def test_nobody_is_matched_with_nobody() -> None:
    person = RNG.uniform(0, 50, size=(1, 8, 2))
    nobody = np.zeros((0, 8, 2))
    assert match_people(nobody, person).misses == (0,)
    assert match_people(person, nobody).false_positives == (0,)
    found = match_people(nobody, nobody)
    assert (found.precision, found.recall, found.f1) == (0, 0, 0)


def test_boxes_far_apart_are_two_people() -> None:
    person = RNG.uniform(0, 50, size=(1, 8, 2))
    found = match_people(person + 500, person)
    assert (found.matches, found.false_positives, found.misses) == ((), (0,), (0,))


def test_each_refused_pair_counts_as_a_search() -> None:
    # Two predictions: the near one lies apart from both people, so it uses both searches up.
    square = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], float)
    people = np.stack([square, square + 40])
    predictions = np.stack([square + 20, square + 200])
    assert match_people(predictions, people).matches == ()
    near = np.stack([square + 20, square + 1])
    assert match_people(near, people).matches == ((1, 0),)


def test_points_of_other_shapes_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\) and true ones \(5, 3\): both should be"):
        pa_pve_mm(np.zeros((4, 3)), np.zeros((5, 3)))
