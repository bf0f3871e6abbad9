"""What all tests share: a cache of their own, never the user's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`ALUMNUS_CACHE` of the whole run, so that miniworld is rendered once.

    Tests side by side (pytest-xdist) share the folder as well. A test that needs an empty cache
    sets the variable to a folder of its own.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALUMNUS_CACHE", str(folder))
        yield folder
