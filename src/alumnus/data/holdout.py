"""Images that are never trained on: a small part, chosen by what they are called."""

import hashlib
from collections.abc import Sequence

import numpy as np

from alumnus.data.batch import Source
from alumnus.data.subset import Subset

__all__ = ["Split", "held_out_count", "hold_out", "split_indices"]

Split = tuple[list[int], list[int]]  # indices to train on, indices held out

SHARE, AT_LEAST, AT_MOST_SHARE = 0.01, 256, 0.1


def held_out_count(n: int) -> int:
    """How many of n images are held out: 1%, at least 256, at most 10%."""
    return min(max(round(SHARE * n), AT_LEAST), int(AT_MOST_SHARE * n))


def split_indices(sources: Sequence[Source]) -> list[Split]:
    """For each source the indices to train on and those held out, both ascending.

    Those with the smallest hash of their identity are held out, over all sources together, so
    that adding or removing images moves few others, and copies of an image under the same name
    fall on the same side.
    """
    hashes = [
        np.array([_hash(source.identity(i)) for i in range(len(source))], np.uint64)
        for source in sources
    ]
    everything = np.sort(np.concatenate(hashes))
    threshold = everything[held_out_count(len(everything))]
    return [
        (np.flatnonzero(h >= threshold).tolist(), np.flatnonzero(h < threshold).tolist())
        for h in hashes
    ]


def hold_out(sources: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """The sources without their held-out images, and the held-out parts (empty ones left out).

    ValueError where the names leave nothing to train on.
    """
    training: list[Source] = []
    held: list[Source] = []
    for source, (keep, hold) in zip(sources, split_indices(sources), strict=True):
        if not keep:
            raise ValueError(f"all images of {source.name!r} are held out; give it a name for each")
        training.append(Subset(source, keep))
        if hold:
            held.append(Subset(source, hold))
    return training, held


def _hash(identity: str) -> int:
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
