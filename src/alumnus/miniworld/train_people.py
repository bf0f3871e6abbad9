"""How the shipped `people` teacher is trained: `python -m alumnus.miniworld.train_people`.

A ViT of 1.3 M parameters and a small head in the manner of Multi-HMR learn from rendered people
with labels: the cell that the head joint is in, and from that cell's query the rotations of all
bones, the shape and the depth, under the published losses. Linear read-outs of the patches
(`people_readouts`) make it learn sooner. The default of 12,000 steps takes one to one and
a half hours of one core; `weights/people/card.md` states what it reaches. For the loop see `fit`.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from alumnus.encoders import Encoder, build_encoder
from alumnus.heads.people.files import save_people_head
from alumnus.heads.people.head import PeopleHead
from alumnus.miniworld.fit import (
    SPEC,
    FitSettings,
    chosen,
    fit,
    from_command_line,
    generator,
    keep_scores,
    normalised,
)
from alumnus.miniworld.people_bodies import (
    read_people,
)
from alumnus.miniworld.people_learning import (
    HEAD_SPEC,
    evaluate,
    head_loss,
    start_at_the_mean,
)
from alumnus.miniworld.people_readouts import Readouts, readout_loss
from alumnus.miniworld.people_views import View, seen_anew
from alumnus.miniworld.source import MiniworldSource
from alumnus.miniworld.torch_body import TorchBody
from alumnus.runs import save_encoder

__all__ = ["train"]


def objective(
    encoder: Encoder, head: PeopleHead, readouts: Readouts, body: TorchBody, view: View
) -> Tensor:
    """The losses of the head at the true cells, and of the read-outs; geometry in float32."""
    patches = encoder(normalised(view.images)).final.of("patch")
    with torch.autocast("cpu", enabled=False):
        patches = patches.float()
        loss, truth = head_loss(head, patches, view, body)
        return loss + readout_loss(readouts, patches, truth, body, view.mask)


def train(out: Path, settings: FitSettings, *, save_every: int = 500) -> dict[str, float]:
    """Train into a folder, or go on with what lies there; returns the scores on the test split."""
    torch.manual_seed(settings.seed)
    encoder, head, body = build_encoder(SPEC), PeopleHead(HEAD_SPEC), TorchBody(every=8)
    readouts = Readouts(encoder.dim)
    people = read_people(MiniworldSource("people", "train", length=settings.train_images))
    test = read_people(MiniworldSource("people", "test", length=settings.test_images))
    start_at_the_mean(head, people)

    def batch(step: int) -> View:
        view = people.view(chosen(len(people), step, settings))
        return seen_anew(view, generator=generator(step, settings))

    def loss(view: View) -> Tensor:
        return objective(encoder, head, readouts, body, view)

    both = nn.ModuleDict({"encoder": encoder, "head": head, "readouts": readouts})
    score = partial(evaluate, encoder, head, test)
    fit(out, both, settings, batch=batch, loss=loss, score=score, save_every=save_every)
    save_encoder(out, encoder.half(), SPEC, {"settings": asdict(settings)})
    save_people_head(out, head.half(), {"settings": asdict(settings)})
    encoder.float(), head.float()  # of the rounded weights
    scores = score()
    keep_scores(out, scores)
    return scores


def main() -> None:
    """The command line."""
    train(*from_command_line("train_people", FitSettings(steps=12_000, train_images=38400)))


if __name__ == "__main__":
    main()
