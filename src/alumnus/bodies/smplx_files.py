"""SMPL-X model files, which their owners give to registered users: read, never executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alumnus.pickles import load_plain_pickle

__all__ = ["WHERE", "SmplxArrays", "read_smplx"]

NAMES = ("SMPLX_NEUTRAL.npz", "SMPLX_NEUTRAL.pkl")
WHERE = f"whose file {NAMES[0]} its owners give to registered users at https://smpl-x.is.tue.mpg.de"
JOINTS = 55
# of shapedirs: where the face begins, for each total length that was published
FACE_FROM = {400: 300, 20: 10}


class SmplxArrays(dict[str, NDArray[Any]]):
    """By the file's names: v_template [V, 3], shapedirs [V, 3, S], posedirs [V, 3, 486],
    J_regressor [55, V], weights [V, 55], kintree_table [2, 55], f [T, 3]."""


ASKED = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")


def read_smplx(path: Path) -> SmplxArrays:
    """The arrays of `SMPLX_NEUTRAL.npz` or `.pkl`, or of a folder that holds one.

    Objects beside the arrays are not looked at, and nothing in the file is executed. ValueError,
    one sentence, where it is not there or is another file.
    """
    file = _file(path)
    values = _npz(file) if file.suffix == ".npz" else load_plain_pickle(file)
    if not isinstance(values, Mapping):
        raise ValueError(f"{file} is no model of SMPL-X: it holds no table of arrays")
    missing = [name for name in ASKED if name not in values]
    if missing:
        raise ValueError(f"{file} is no model of SMPL-X: it has no {', '.join(missing)}")
    arrays = SmplxArrays({name: _dense(values[name]) for name in ASKED})
    vertices = len(arrays["v_template"])
    expected = {
        "v_template": (vertices, 3),
        "posedirs": (vertices, 3, 9 * (JOINTS - 1)),
        "J_regressor": (JOINTS, vertices),
        "weights": (vertices, JOINTS),
        "kintree_table": (2, JOINTS),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(
                f"{file} is no model of SMPL-X: {name} has shape {arrays[name].shape}, not {shape}"
            )
    return arrays


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    for folder in (path, path / "smplx"):
        for name in NAMES:
            if (folder / name).is_file():
                return folder / name
    raise ValueError(f"there is no SMPL-X model at {str(path)!r}, {WHERE}")


def _npz(file: Path) -> dict[str, Any]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in ASKED if name in archive.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{file} is damaged or no archive of arrays: {error}") from error


def _dense(value: Any) -> NDArray[Any]:
    """An array; a sparse matrix of scipy comes as its parts."""
    if hasattr(value, "state"):
        from scipy.sparse import csc_matrix

        parts = value.state
        try:
            shape = parts.get("_shape", parts.get("shape"))
            sparse = csc_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=shape)
        except (KeyError, AttributeError) as error:
            raise ValueError(f"an array of the model is stored as {value.name}") from error
        return np.asarray(sparse.toarray())
    return np.asarray(value)
