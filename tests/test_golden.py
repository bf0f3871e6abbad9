"""No golden file lies there unread."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from golden_files import ROOT

TESTS = Path(__file__).parent
FIXTURES = sorted(p for p in ROOT.rglob("*.*") if p.suffix != ".md" and "manifests" not in p.parts)


def names_in(source: str) -> Iterator[str]:
    """What the strings of a module may name: files, globs, f-strings as globs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and not str(node.value).startswith("*"):
            yield str(node.value)
        if isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "*" for v in node.values]
            name = "".join(map(str, parts))
            if len(re.findall("[a-z]", name)) > 4:  # says more than ".json"
                yield name


@pytest.mark.golden
def test_every_fixture_is_named_by_a_test() -> None:
    modules = [*TESTS.glob("test_*.py"), TESTS / "procedural.py"]
    names = {name for path in modules for name in names_in(path.read_text())}
    globs = [name for name in names if "*" in name]
    assert FIXTURES
    for fixture in FIXTURES:
        known = {fixture.stem, fixture.name}
        assert known & names or any(fnmatch(text, name) for text in known for name in globs), (
            f"no test reads {fixture.name}"
        )
