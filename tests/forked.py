"""Processes that begin at once, forked from one that has imported alumnus.

A new interpreter needs seconds for that; tests that stop and kill runs need many.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context, set_start_method
from multiprocessing.context import ForkServerProcess
from pathlib import Path

__all__ = ["ForkServerProcess", "alumnus_command", "started"]

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["alumnus.cli", "alumnus.api", "torch.utils.tensorboard"])


def started(
    target: Callable[..., None], *given: object, output: Path, variables: Mapping[str, str]
) -> ForkServerProcess:
    """A function of a module in a process with these environment variables.

    What it says is added to the file `output`.
    """
    process = CONTEXT.Process(target=_speaking_to, args=(output, dict(variables), target, *given))
    process.start()
    return process


def alumnus_command(words: Sequence[str]) -> None:
    """`alumnus WORDS`, as from the command line."""
    from alumnus.cli import main

    sys.argv = ["alumnus", *words]
    main()


def _speaking_to(
    output: Path, variables: dict[str, str], target: Callable[..., None], *given: object
) -> None:
    with output.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.update(variables)
    set_start_method("fork", force=True)  # other data workers outlive a run that is killed
    target(*given)
