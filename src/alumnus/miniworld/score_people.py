"""The scores of the teacher's card: `python -m alumnus.miniworld.score_people`.

Encoder and head as shipped on 1920 test people, beside constants: means of 9600 training people.
"""

import argparse
from pathlib import Path

import torch

from alumnus.heads.people import load_people_head
from alumnus.miniworld import MiniworldSource, teacher_folder
from alumnus.miniworld.fit import SPEC, in_words
from alumnus.miniworld.people_bodies import PeopleData, read_people, true_bodies
from alumnus.miniworld.people_errors import (
    count_detections,
    people_errors,
    precision_and_recall,
)
from alumnus.miniworld.people_learning import evaluate, mean_rotations
from alumnus.miniworld.torch_body import TorchBody
from alumnus.runs import load_encoder

__all__ = ["constant_scores", "shipped_scores"]


def shipped_scores(folder: Path, test: PeopleData, *, every: int = 1) -> dict[str, float]:
    """What a folder's encoder and head reach, by each `every`-th vertex."""
    return evaluate(load_encoder(folder), load_people_head(folder), test, every=every)


def constant_scores(
    train: PeopleData, test: PeopleData, *, every: int = 1
) -> dict[str, dict[str, float]]:
    """What two constants reach: the mean points, and the body of the mean pose and shape.

    Both have the mean pelvis of the training people, and their mean pixels. The first is the best
    constant, but no body: people look in all directions.
    """
    body, truth = TorchBody(every=every), true_bodies(test, TorchBody(every=every))
    known = true_bodies(train, body)
    pelvis = known.pelvis.mean(dim=0)
    rotations = mean_rotations(train.rotations)[None]
    mean_pose = body(train.shape.mean(dim=0, keepdim=True), rotations)
    relative = [(x - known.pelvis[:, None]).mean(dim=0) for x in (known.joints, known.vertices)]
    constants = {
        "mean points": (relative[0], relative[1]),
        "mean pose": (mean_pose.joints[0], mean_pose.vertices[0]),
    }
    scores = {}
    for name, (joints, vertices) in constants.items():
        found = truth._replace(
            pelvis=pelvis.expand_as(truth.pelvis),
            joints=(joints + pelvis).expand_as(truth.joints),
            vertices=(vertices + pelvis).expand_as(truth.vertices),
            joint_pixels=known.joint_pixels.mean(dim=0).expand_as(truth.joint_pixels),
        )
        errors = people_errors(found, truth, test.visible, side_px=SPEC.image_size)
        everyone = torch.arange(len(test))
        counts = count_detections(found.joint_pixels, everyone, truth.joint_pixels)
        scores[name] = {**errors, **precision_and_recall(counts)}
    return scores


def main() -> None:
    """Print a line for each predictor."""
    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.score_people")
    parser.add_argument("folder", type=Path, nargs="?", default=teacher_folder("people"))
    folder = parser.parse_args().folder
    torch.set_grad_enabled(False)
    test = read_people(MiniworldSource("people", "test", length=1920))
    print(folder, in_words(shipped_scores(folder, test)))
    train = read_people(MiniworldSource("people", "train", length=9600))
    for name, scores in constant_scores(train, test, every=2).items():
        print(name, in_words(scores))


if __name__ == "__main__":
    main()
