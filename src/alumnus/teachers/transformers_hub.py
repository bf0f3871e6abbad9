"""Models of transformers, an optional package, from a folder, the cache or the hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alumnus import hub

__all__ = ["fetched", "transformers_package"]


def transformers_package() -> Any:
    """transformers, an optional dependency."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise hub.UnavailableError(
            "teachers hf:ORG/NAME need transformers: pip install 'alumnus[hf]'"
        ) from error
    return transformers


def fetched(load: Callable[..., Any], place: str) -> Any:
    """What `load` finds, here first, then on the hub."""
    try:
        return load(place, local_files_only=True)
    except (OSError, ValueError) as error:
        if Path(place).is_dir() or not hub.reaches_hugging_face():
            why = "no network" if not Path(place).is_dir() else " ".join(str(error).split())[:200]
            raise hub.UnavailableError(
                f"'hf:{place}' could not be opened ({why}); connect once, or give a folder that "
                "holds it: hf:FOLDER"
            ) from error
    try:
        return load(place)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise hub.UnavailableError(f"'hf:{place}' could not be downloaded ({why})") from error
