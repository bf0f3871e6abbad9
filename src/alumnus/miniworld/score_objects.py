"""The scores of the teacher's card: `python -m alumnus.miniworld.score_objects`.

Frozen features, nothing trained: weighted k-NN (k = 20) from 9600 training to 1920 test scenes,
for the shipped teacher and for the same encoder with fresh weights.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from alumnus.encoders import Encoder, build_encoder
from alumnus.evaluation.knn import knn_classify
from alumnus.miniworld import CLASSES, MiniworldSource, teacher_folder
from alumnus.miniworld.fit import SPEC, normalised
from alumnus.miniworld.train_objects import Scenes, load_scenes
from alumnus.runs import load_encoder
from alumnus.tokens import EncoderOutput

__all__ = ["features", "knn_scores"]


@torch.no_grad()
def features(encoder: Encoder, scenes: Scenes) -> dict[str, Tensor]:
    """[CLS] and the mean over the patches of each scene, [L, D] each."""
    cls, patch_mean = [], []
    for images in scenes.images.split(96):
        output: EncoderOutput = encoder(normalised(images.float() / 255))
        cls.append(output.final.of("cls"))
        patch_mean.append(output.final.of("patch").mean(dim=1))
    return {"cls": torch.cat(cls), "patch mean": torch.cat(patch_mean)}


def knn_scores(encoder: Encoder, train: Scenes, test: Scenes) -> dict[str, float]:
    """k-NN accuracy in percent, by kind of feature."""
    of_train, of_test = features(encoder, train), features(encoder, test)
    return {
        kind: knn_classify(
            of_train[kind], train.cls, of_test[kind], test.cls, num_classes=len(CLASSES), ks=[20]
        )[20].top1
        for kind in of_train
    }


def main() -> None:
    """Print a line for each encoder."""
    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.score_objects")
    parser.add_argument("folder", type=Path, nargs="?", default=teacher_folder("objects"))
    folder = parser.parse_args().folder
    train = load_scenes(MiniworldSource("objects", "train", length=9600))
    test = load_scenes(MiniworldSource("objects", "test", length=1920))
    torch.manual_seed(0)
    encoders = {str(folder): load_encoder(folder), "fresh weights": build_encoder(SPEC).eval()}
    for name, encoder in encoders.items():
        scores = knn_scores(encoder, train, test)
        print(name, "  ".join(f"k-NN of {kind} {score:.1f}%" for kind, score in scores.items()))
    covered = (test.target == 1).float().mean().item()
    print(f"trivial: class {100 / len(CLASSES):.1f}%, target covers {100 * covered:.1f}% of pixels")


if __name__ == "__main__":
    main()
