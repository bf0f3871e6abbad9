"""Where a run will end, told from its first fifth.

A saturating power law in the learning done, S, the sum of the learning rates so far (which knows
warm-up and decay): the unexplained share falls as

    1 - e_end = (1 - e_now) * (S_end / S_now) ** (-RATE * cos_now)

`e_now` is the best explained variance so far: under a high rate it jumps. The exponent is read
from the cosine, which rises earlier and more evenly.
"""

import math
from collections.abc import Sequence

__all__ = ["ERROR", "FIRST_PART", "forecast", "learning_left"]

RATE = 0.6  # of 175 curves of 60 to 8,000 steps: docs/results/forecast.md
ERROR = 0.06  # four of five of their ends lie within this distance of the forecast
FIRST_PART = 0.2  # of the run


def learning_left(rates: Sequence[float], step: int) -> float:
    """`ln(S_end / S_now)` after `step` finished steps of a run with these learning rates."""
    done = sum(rates[:step])
    return math.log(sum(rates) / done) if done > 0 else 0.0


def forecast(
    explained: Sequence[float],  # explained variance at each look so far
    cosines: Sequence[float],  # at the same looks
    *,
    left: float,  # of `learning_left`
    rate: float = RATE,
) -> float:
    """The explained variance at the end of the run, at least the best so far."""
    if not explained or len(explained) != len(cosines):
        raise ValueError("a forecast needs looks, each with explained variance and cosine")
    exponent = rate * max(cosines[-1], 0.0)
    return 1 - (1 - max(explained)) * math.exp(-exponent * left)
