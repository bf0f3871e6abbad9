"""The scores of the teacher's card: `python -m alumnus.miniworld.score_rooms`.

First encoder and head as shipped, beside two predictors that look at nothing and beside the same
network with fresh weights. Then what is in frozen patch tokens, of this encoder and of the other
teachers: depth by ridge regression, and matches by nearest neighbours, with nothing trained.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alumnus.encoders import Encoder, build_encoder
from alumnus.evaluation.pair_scores import (
    PATCH_PX,
    Views,
    depth_errors,
    pair_scores,
    same_place,
    shown,
)
from alumnus.heads.two_view import TwoViewHead, ViewPrediction, load_two_view_head
from alumnus.heads.two_view.learning import start_alike
from alumnus.heads.two_view.pairs import ViewPairs
from alumnus.miniworld import DOMAINS, MiniworldSource, teacher_folder
from alumnus.miniworld.fit import SPEC, in_words, normalised
from alumnus.miniworld.room_pairs import load_pairs
from alumnus.miniworld.train_rooms import HEAD, predicted
from alumnus.runs import load_encoder

__all__ = [
    "network_views",
    "patch_tokens",
    "ridge_depth",
    "shipped_views",
    "token_matches",
]

BATCH = 48  # pairs
RIDGE = 1.0  # beside the sum of squares of some hundred thousand tokens: for invertibility


class Ridge(NamedTuple):
    """Log depth of a patch's pixels, linear in its token, around the mean map."""

    mean: Tensor  # [N, p^2]
    token: Tensor  # [D]
    weight: Tensor  # [D, p^2]


def network_views(encoder: Encoder, head: TwoViewHead) -> Views:
    """What an encoder with a two-view head says of pictures."""

    def views(images: Tensor) -> tuple[ViewPrediction, ViewPrediction]:
        return predicted(encoder, head, images).views

    return views


def shipped_views(folder: Path) -> Views:
    """The network of a folder."""
    return network_views(load_encoder(folder), load_two_view_head(folder))


@torch.no_grad()
def patch_tokens(encoder: Encoder, pairs: ViewPairs) -> Tensor:  # [P, 2, N, D]
    """Patch tokens of both views, after the encoder's final norm."""
    found = []
    for images in pairs.images.split(BATCH):
        tokens = encoder(normalised(images.flatten(0, 1).float() / 255)).final
        found.append(tokens.of("patch").unflatten(0, (-1, 2)))
    return torch.cat(found)


def ridge_depth(
    train: ViewPairs, train_tokens: Tensor, test: ViewPairs, test_tokens: Tensor
) -> dict[str, float]:
    """AbsRel and share within 1.25 of depth read from frozen tokens, over both views."""
    fitted = _fit(_patches(train.depth), train_tokens.flatten(0, 1))
    read = fitted.mean + (test_tokens.flatten(0, 1) - fitted.token) @ fitted.weight
    side = math.isqrt(read.shape[1])
    depth = F.pixel_shuffle(read.transpose(1, 2).unflatten(2, (side, side)), _patch_side(read))
    true = test.depth.flatten(0, 1).float()
    abs_rel, delta1 = depth_errors(depth[:, 0].exp(), true).mean(dim=0).tolist()
    return {"abs_rel": abs_rel, "delta1": delta1}


def token_matches(pairs: ViewPairs, tokens: Tensor) -> float:
    """Share of patches of view 1, of those whose centre view 2 shows, whose most similar patch
    (cosine) there has its centre less than a patch away from the true place."""
    similar = F.normalize(tokens, dim=-1)
    found = (similar[:, 0] @ similar[:, 1].transpose(1, 2)).argmax(dim=2)  # [P, N]
    across = math.isqrt(tokens.shape[2])
    p = pairs.depth.shape[-1] // across
    off = []
    for pair in range(len(pairs)):
        there = shown(pairs, pair)
        middle = (slice(p // 2, None, p), slice(p // 2, None, p))
        true = torch.from_numpy(there.x[middle].ravel()), torch.from_numpy(there.y[middle].ravel())
        x, y = ((place + 0.5) * p for place in (found[pair] % across, found[pair] // across))
        apart = torch.hypot(x - true[0], y - true[1])
        off.append(apart[torch.from_numpy(there.visible[middle].ravel())])
    return (torch.cat(off) < PATCH_PX).float().mean().item()


def _fit(log_depth: Tensor, tokens: Tensor) -> Ridge:  # [L, N, p^2], [L, N, D]
    mean, token = log_depth.mean(dim=0), tokens.mean(dim=(0, 1))
    x = (tokens - token).flatten(0, 1).double()
    y = (log_depth - mean).flatten(0, 1).double()
    gram = x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    return Ridge(mean, token, torch.linalg.solve(gram, x.T @ y).float())


def _patches(depth: Tensor) -> Tensor:  # [P, 2, H, W] -> [2 P, N, p^2]
    """Log depths by patch."""
    p = SPEC.patch_size or 1
    planes = F.pixel_unshuffle(depth.flatten(0, 1).float().log()[:, None], p)
    return planes.flatten(2).transpose(1, 2)


def _patch_side(by_patch: Tensor) -> int:
    return math.isqrt(by_patch.shape[2])


def main() -> None:
    """Print a line for each network, then for each encoder."""
    parser = argparse.ArgumentParser(prog="python -m alumnus.miniworld.score_rooms")
    parser.add_argument("folder", type=Path, nargs="?", default=teacher_folder("rooms"))
    folder = parser.parse_args().folder
    train = load_pairs(MiniworldSource("rooms", "train", length=9600))
    test = load_pairs(MiniworldSource("rooms", "test", length=1920))
    torch.manual_seed(0)
    fresh, fresh_head = build_encoder(SPEC).eval(), TwoViewHead(HEAD).eval()
    start_alike(fresh_head)
    networks = {
        "mean map, same place": same_place(train),
        "fresh weights": network_views(fresh, fresh_head),
        str(folder): shipped_views(folder),
    }
    for name, views in networks.items():
        print(name, in_words(pair_scores(views, test)), flush=True)

    shipped = {d: teacher_folder(d) for d in DOMAINS if teacher_folder(d).is_dir()}
    encoders = {
        "fresh weights": fresh,
        **{f"miniworld-{d}": load_encoder(f) for d, f in {**shipped, "rooms": folder}.items()},
    }
    print("frozen tokens")
    for name, encoder in encoders.items():
        of_train, of_test = patch_tokens(encoder, train), patch_tokens(encoder, test)
        scores = ridge_depth(train, of_train, test, of_test)
        print(name, in_words({**scores, "match_patch": token_matches(test, of_test)}), flush=True)
    place = torch.eye((test.depth.shape[-1] // (SPEC.patch_size or 1)) ** 2)
    of_train, of_test = (place.expand(len(pairs), 2, -1, -1) for pairs in (train, test))
    scores = ridge_depth(train, of_train, test, of_test)
    print("place alone", in_words({**scores, "match_patch": token_matches(test, of_test)}))


if __name__ == "__main__":
    main()
