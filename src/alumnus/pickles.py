"""Pickled files of others (`.pth`, `.pkl`), read without executing anything from them."""

import argparse
import codecs
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["Opaque", "load_pickle", "load_plain_pickle"]


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


class Opaque:
    """An object of a pickled file whose class is not built: its name, and what was stored of it."""

    name = ""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *arguments: Any) -> "Opaque":
        return Opaque(*arguments)


def load_plain_pickle(path: str | Path) -> Any:
    """What a `.pkl` of containers and numpy arrays holds; objects of other classes stay `Opaque`.

    Strings of Python 2 are read as Latin-1. Nothing in the file is executed: of what it names only
    numpy's constructors of plain data are called. ValueError for what is no such file.
    """
    try:
        with Path(path).open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (
        pickle.UnpicklingError,
        EOFError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
        ValueError,
        UnicodeDecodeError,
    ) as error:
        raise ValueError(f"{path} is damaged or no pickled file of arrays: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Finds numpy's constructors, and an `Opaque` in place of everything else."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        for harmless in _harmless_globals():
            thing, known = harmless if isinstance(harmless, tuple) else (harmless, None)
            if full == (known or f"{thing.__module__}.{thing.__qualname__}"):
                return thing
        return type("Opaque", (Opaque,), {"name": full})


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
