"""Every setting with its default and meaning, read off the configuration's classes.

`python -m alumnus.settings docs/configuration.md` writes the tables of that page anew, and those
of docs/finetune.md likewise.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from alumnus.config import RunConfig, Section
from alumnus.finetune_config import FinetuneConfig

__all__ = ["Setting", "in_page", "list_settings"]

MARKS: dict[str, type[Section]] = {
    "<!-- below: written by `make docs` from src/alumnus/config.py -->": RunConfig,
    "<!-- below: written by `make docs` from src/alumnus/finetune_config.py -->": FinetuneConfig,
}
MANY: dict[Any, str] = {dict: ".NAME", list: ".N"}
WORDS: dict[Any, str] = {int: "whole number", float: "number", str: "text", bool: "true or false"}


class Setting(NamedTuple):
    """One setting, in words."""

    key: str  # full name, e.g. data.size, teachers.NAME.model
    default: str
    kind: str  # what values it takes
    description: str


def list_settings(root: type[Section] = RunConfig) -> list[tuple[str, list[Setting]]]:
    """The settings by section, each with what the section is, in the order of a configuration."""
    groups: dict[str, list[Setting]] = {}
    for about, setting in _settings(root, ""):
        groups.setdefault(about, []).append(setting)
    return list(groups.items())


def in_page(page: str) -> str:
    """A Markdown page with the tables below its mark as they should be; the mark says which."""
    mark = next((mark for mark in MARKS if mark in page), None)
    if mark is None:
        raise ValueError(f"the page has no line {' or '.join(map(repr, MARKS))}")
    head, _, _ = page.partition(mark)
    blocks = [
        "\n".join(
            [
                f"{about}\n",
                "| setting | default | values | meaning |",
                "|---|---|---|---|",
                *(f"| `{s.key}` | {s.default} | {s.kind} | {s.description} |" for s in settings),
            ]
        )
        for about, settings in list_settings(MARKS[mark])
    ]
    return "\n\n".join([head + mark, *blocks]) + "\n"


def _settings(section: type[Section], prefix: str) -> Iterator[tuple[str, Setting]]:
    about = " ".join((section.__doc__ or "").split("\n\n")[0].split())
    inner: list[tuple[type[Section], str]] = []
    for name, field in section.model_fields.items():
        within = _section_in(field.annotation)
        many = MANY.get(get_origin(field.annotation), "")
        if within is None:
            yield about, _setting(prefix + name, field)
        elif many or NoneType in get_args(field.annotation):
            kind = "groups" if many else "null or a group"
            kind = f"{kind} of settings: `{prefix}{name}{many}.KEY`"
            yield about, _setting(prefix + name, field)._replace(kind=kind)
        if within is not None and within not in [known for known, _ in inner]:
            inner.append((within, f"{prefix}{name}{many}."))
    for within, longer in inner:
        yield from _settings(within, longer)


def _setting(key: str, field: FieldInfo) -> Setting:
    default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
    return Setting(key, default, _kind(field.annotation), field.description or "")


def _kind(annotation: Any) -> str:
    """What an annotation allows, in words: `whole number, auto or null`."""
    return _joined(list(dict.fromkeys(_kinds(annotation))))


def _kinds(annotation: Any) -> Iterator[str]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from (f"`{value}`" for value in inner)
    elif origin is Annotated:
        yield from _kinds(inner[0])
    elif annotation is NoneType:
        yield "null"
    elif origin is list:
        yield f"list of {_joined(list(_kinds(inner[0])))}"
    elif origin is dict:
        yield "names and values"
    elif inner:
        for member in inner:
            yield from _kinds(member)
    else:
        yield WORDS.get(annotation, str(annotation))


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (_section_in(inner) for inner in get_args(annotation))
    return next((section for section in found if section is not None), None)


def _joined(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _yaml(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(in_page(Path(name).read_text()))
