"""Where alumnus keeps what can be made or fetched again: weights, features, rendered images."""

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_dir"]


def cache_dir(*parts: str) -> Path:
    """A folder under `ALUMNUS_CACHE` (default: the platform's user cache); made if missing."""
    root = os.environ.get("ALUMNUS_CACHE") or platformdirs.user_cache_dir("alumnus")
    folder = Path(root).expanduser().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
