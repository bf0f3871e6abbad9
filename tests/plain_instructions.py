"""Whether code gives the same on a plainer processor."""

import importlib
import os
import subprocess
import sys

__all__ = ["assert_same_plainly"]


def assert_same_plainly(code: str) -> None:
    """The string `digest` that the code makes is equal in a process without numpy's extra
    instructions and with the BLAS kernels of an old processor.
    """
    numpy_core = importlib.import_module("numpy._core._multiarray_umath")
    present = numpy_core.__cpu_features__
    extra = [name for name in numpy_core.__cpu_dispatch__ if present.get(name)]
    plainly = {"NPY_DISABLE_CPU_FEATURES": " ".join(extra), "OPENBLAS_CORETYPE": "Nehalem"}
    here: dict[str, str] = {}
    exec(code, here)
    there = subprocess.run(
        [sys.executable, "-c", code + "print(digest)"],
        env={**os.environ, **plainly},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here["digest"]
