"""Torch checkpoints of others (`.pth`), read without executing anything from them."""

import argparse
import codecs
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["load_pickle"]


def load_pickle(path: str | Path) -> Any:
    """`torch.load` of tensors, containers, numpy values and argparse.Namespace, no more.

    A file that names anything else is refused with a ValueError and nothing in it is executed.
    """
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise ValueError(f"{path} is damaged or no torch checkpoint") from error
        raise ValueError(
            f"{path} asks for {found[1]}, which no checkpoint of weights needs: refused, and "
            "nothing from it was executed"
        ) from error
    except (EOFError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} is damaged or no torch checkpoint") from error


def _harmless_globals() -> list[Any]:
    """What released files name besides tensors: constructors of plain data."""
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    aliases = [  # numpy 1 and 2 name the module differently
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((reconstruct, "_reconstruct"), (scalar, "scalar"))
    ]
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}
    plain = [argparse.Namespace, OrderedDict, np.ndarray, np.dtype, codecs.encode]
    return [*plain, *dtypes, *aliases]
