"""Commands in several processes, as a user of torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["started"]

TESTS = Path(__file__).parent


def started(ranks: int, words: list[str]) -> "subprocess.Popen[str]":
    """A command in so many processes under torchrun."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*run, "--nproc-per-node", str(ranks), *words],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
