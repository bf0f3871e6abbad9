"""How the shipped `rooms` teacher is trained: `python -m alumnus.miniworld.train_rooms`.

A ViT of 1.3 M parameters encodes two views of a room, a small two-view head says for each pixel of
both where it lies in the frame of camera 1, in metres, and describes it by a vector that is to be
alike where both views show the same point. The objective is that of MASt3R (arXiv 2406.09756):
pointmaps weighed by confidence, plus 0.075 times InfoNCE over matches. Two light terms on the
encoder alone keep depth and matches readable from its tokens. `weights/rooms/card.md` states what
it reaches.

A step's `batch` counts pairs. For the loop see `fit`.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alumnus.encoders import Encoder, build_encoder
from alumnus.evaluation.pair_scores import pair_scores
from alumnus.heads.two_view import TwoViewHead, TwoViewSpec, save_two_view_head
from alumnus.heads.two_view.learning import MATCH_WEIGHT, start_alike, two_view_loss
from alumnus.heads.two_view.pairs import Matches, ViewPairs, sampled, truth_of
from alumnus.heads.two_view.predictions import ViewPrediction
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
from alumnus.miniworld.room_pairs import augmented, load_pairs, patch_matches
from alumnus.miniworld.source import MiniworldSource
from alumnus.runs import save_encoder
from alumnus.tokens import Tokens

__all__ = [
    "HEAD",
    "Readout",
    "RoomSettings",
    "draw_batch",
    "objective",
    "predicted",
    "train",
]

HEAD = TwoViewSpec(
    encoder_dim=128,
    patch_size=8,
    dim=48,
    depth=3,
    num_heads=2,
    points="linear",
    desc_dim=8,
    desc_hidden=48,
)
SHARPNESS = 0.1  # temperature of the tokens' own matching


@dataclass(frozen=True, kw_only=True)
class RoomSettings(FitSettings):
    """All that the result depends on."""

    steps: int = 10_000
    batch: int = 32  # pairs
    train_images: int = 38400
    true_matches: int = 128  # of each pair and step, at random
    other_pixels: int = 48  # without a match, in each view: negatives
    match_weight: float = MATCH_WEIGHT
    depth_weight: float = 0.5  # of the depth read from the encoder's tokens
    token_weight: float = 0.1  # of matching those tokens


class Readout(nn.Module):
    """Log depth of a patch's pixels from its token; not shipped."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.depth = nn.Linear(dim, patch_size**2)
        self.patch_size = patch_size

    def forward(self, tokens: Tokens) -> Tensor:  # [B, H, W]
        planes = Tokens(patches=self.depth(tokens.of("patch").float()), grid=tokens.grid).as_map()
        return F.pixel_shuffle(planes, self.patch_size)[:, 0]


class Seen(NamedTuple):
    """What the network makes of a batch of pairs."""

    tokens: Tokens  # of both views: [2 B, N, D], view 1 of all pairs first
    views: tuple[ViewPrediction, ViewPrediction]


def predicted(encoder: Encoder, head: TwoViewHead, images: Tensor) -> Seen:
    """Both views of each pair, [B, 2, 3, H, W] in [0, 1], in one pass of the encoder."""
    tokens = encoder(normalised(images.transpose(0, 1).flatten(0, 1))).final
    first, second = (Tokens(patches=half, grid=tokens.grid) for half in tokens.of("patch").chunk(2))
    return Seen(tokens, head(first, second))


def objective(
    seen: Seen, readout: Readout, pairs: ViewPairs, matches: Matches, settings: RoomSettings
) -> Tensor:
    """Confidence-weighed points and matches of the head; depth and matches of the tokens.

    For float32: geometry does not bear bfloat16.
    """
    depth = readout(seen.tokens)
    true = pairs.depth.transpose(0, 1).flatten(0, 1)
    loss: Tensor = (
        two_view_loss(seen.views, truth_of(pairs), matches, match_weight=settings.match_weight)
        + settings.depth_weight * (depth - true.log()).abs().mean()
        + settings.token_weight * token_match_loss(seen.tokens, pairs.match)
    )
    return loss


def token_match_loss(tokens: Tokens, match: Tensor) -> Tensor:
    """Cross-entropy of which patch of the other view shows most of a patch, both ways."""
    first, second = F.normalize(tokens.of("patch").float(), dim=-1).chunk(2)
    logits = first @ second.transpose(1, 2) / SHARPNESS  # [B, N, N]
    shares = patch_matches(match, patch_size=SPEC.patch_size)
    there, back = logits.log_softmax(dim=2), logits.log_softmax(dim=1)
    return -(shares * (there + back)).sum() / shares.sum().clamp(min=1)


def train(out: Path, settings: RoomSettings, *, save_every: int = 500) -> dict[str, float]:
    """Train into a folder, or go on with what lies there; returns the scores on the test split."""
    torch.manual_seed(settings.seed)
    encoder, head = build_encoder(SPEC), TwoViewHead(HEAD)
    start_alike(head)
    readout = Readout(encoder.dim, SPEC.patch_size)
    pairs = load_pairs(MiniworldSource("rooms", "train", length=settings.train_images))
    test = load_pairs(MiniworldSource("rooms", "test", length=settings.test_images))

    def batch(step: int) -> tuple[ViewPairs, Matches]:
        return draw_batch(pairs, step, settings)

    def loss(drawn: tuple[ViewPairs, Matches]) -> Tensor:
        seen = predicted(encoder, head, drawn[0].images)
        with torch.autocast("cpu", enabled=False):
            return objective(seen, readout, *drawn, settings)

    def views(images: Tensor) -> tuple[ViewPrediction, ViewPrediction]:
        return predicted(encoder, head, images).views

    both = nn.ModuleDict({"encoder": encoder, "head": head, "readout": readout})
    score = partial(pair_scores, views, test)
    fit(
        out,
        both,
        settings,
        batch=batch,
        loss=loss,
        score=score,
        save_every=save_every,
        score_every=2000,
    )
    info = {"settings": asdict(settings)}
    save_encoder(out, encoder.half(), SPEC, info)
    save_two_view_head(out, head.half(), info)
    encoder.float(), head.float()  # of the rounded weights
    scores = score()
    keep_scores(out, scores)
    return scores


def draw_batch(pairs: ViewPairs, step: int, settings: RoomSettings) -> tuple[ViewPairs, Matches]:
    """Pairs of a step and their pixels to match: a function of (seed, step)."""
    draw = generator(step, settings)
    batch = augmented(pairs.at(chosen(len(pairs), step, settings)), generator=draw)
    true, others = settings.true_matches, settings.other_pixels
    return batch, sampled(
        batch.match, width=batch.images.shape[-1], true=true, others=others, generator=draw
    )


def main() -> None:
    """The command line."""
    train(*from_command_line("train_rooms", RoomSettings()))


if __name__ == "__main__":
    main()
