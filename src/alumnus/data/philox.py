"""Random numbers by counter: the value at a counter, whatever was drawn before or elsewhere."""

import numpy as np

__all__ = ["philox", "uniforms"]

Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]  # 32-bit values in 64-bit words

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW, HIGH = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: tuple[Words, Words, Words, Words], *, key: tuple[int, int]) -> Words:
    """Philox4x32-10, vectorised: four 32-bit words for each counter, [..., 4].

    Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> HIGH) ^ c1 ^ np.uint64(k0),
            p1 & LOW,
            (p0 >> HIGH) ^ c3 ^ np.uint64(k1),
            p0 & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)


def uniforms(
    n: int,
    *,
    seed: int,
    source: Words,  # [B]
    index: Words,  # [B]
    view: Words,  # [B]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:  # [B, n] in (0, 1)
    """n uniform numbers for each (seed, source, index, view), independent of all others."""
    blocks = np.arange((n + 3) // 4, dtype=np.uint64)
    words = philox(
        (index[:, None] & LOW, view[:, None] & LOW, source[:, None] & LOW, blocks[None, :]),
        key=(seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF),
    )
    flat = words.reshape(len(words), -1)[:, :n]
    return np.asarray((flat.astype(np.float64) + 0.5) * 2.0**-32)
