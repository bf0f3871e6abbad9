"""What is wrong with a configuration, in sentences: one for each place, all at once."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from alumnus.spelling import unknown

__all__ = ["ConfigError", "Problem", "sentences", "settled", "validated", "without"]

M = TypeVar("M", bound=BaseModel)
Place = tuple[str, ...]  # the keys down to a setting; numbers of list items as words


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one sentence a line."""


class Problem(NamedTuple):
    """One sentence about the settings `keys`, full names such as "data.size"."""

    sentence: str
    keys: tuple[str, ...]


def validated(
    root: type[M],
    values: Mapping[str, Any],
    *,
    said: Sequence[str] = (),
    problems: Callable[[M], Iterable[Problem]] = lambda _: (),
) -> M:
    """The configuration that the values are; ConfigError lists all that is wrong, `said` first.

    `problems` are those of settings together; of a setting that is wrong by itself they are
    not judged.
    """
    sayings = [*said]
    wrong: list[Place] = []
    config: M | None = None
    for _ in range(2):  # with all settings, then without those that are wrong
        try:
            config = root.model_validate(without(values, wrong))
            break
        except ValidationError as error:
            found = sentences(error.errors(), root)
            sayings += [sentence for place, sentence in found.items() if place not in wrong]
            wrong += found
    if config is not None:
        sayings += settled(problems(config), wrong)
    if sayings or config is None:
        raise ConfigError("\n".join(dict.fromkeys(sayings)))
    return config


def sentences(errors: Sequence[Mapping[str, Any]], root: type[BaseModel]) -> dict[Place, str]:
    """Pydantic's errors, one sentence for each place that is wrong."""
    places: dict[Place, list[Mapping[str, Any]]] = {}
    for error in errors:
        place = [str(part) for part in error["loc"]]
        while place and re.match(r"(literal|constrained-|function-)|(int|float)$", place[-1]):
            place.pop()  # which member of a union was tried
        places.setdefault(tuple(place), []).append(error)
    return {place: _sentence(list(place), found, root) for place, found in places.items()}


def without(values: Mapping[str, Any], places: Iterable[Place]) -> dict[str, Any]:
    """A copy of nested settings without these places, so that the rest can be looked at.

    Of a place that is not there, such as a missing setting, its nearest parent that is; for a
    bare item of a list, the list.
    """
    rest: dict[str, Any] = copy.deepcopy(dict(values))
    last_first = sorted(places, key=lambda place: [part.zfill(9) for part in place], reverse=True)
    for place in last_first:  # items of a list then keep their numbers
        holder: Any = None
        inner: Any = rest
        for part in place:
            key: Any = int(part) if isinstance(inner, list) and part.isdigit() else part
            if not _has(inner, key) or _is_bare(inner, inner[key]):
                break
            holder, held, inner = inner, key, inner[key]
        if holder is not None:
            del holder[held]
    return rest


def settled(problems: Iterable[Problem], wrong: Iterable[Place]) -> list[str]:
    """The sentences about settings that are not wrong by themselves."""
    named = [".".join(place) for place in wrong]
    return [
        problem.sentence
        for problem in problems
        if not any(_overlap(key, place) for key in problem.keys for place in named)
    ]


def _has(values: object, key: object) -> bool:
    if isinstance(values, list):
        return isinstance(key, int) and key < len(values)
    return isinstance(values, dict) and key in values


def _is_bare(holder: object, value: object) -> bool:
    return isinstance(holder, list) and not isinstance(value, dict)


def _overlap(key: str, place: str) -> bool:
    return f"{key}.".startswith(f"{place}.") or f"{place}.".startswith(f"{key}.")


def _sentence(place: list[str], errors: list[Mapping[str, Any]], root: type[BaseModel]) -> str:
    where, error = ".".join(place), errors[0]
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return str(unknown("key", where, _known_keys(place, root)))
    if kind == "missing":
        return f"{where} is missing"
    if kind == "literal_error" and len(errors) == 1:
        choices = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
        return str(unknown(f"value of {where}", str(given), choices))
    if kind in ("model_type", "dict_type"):
        return f"{where} is {given!r}, but must be a group of settings: {where}.KEY=VALUE"
    messages = [str(e["msg"]).removeprefix("Value error, ") for e in errors]
    if kind == "value_error":
        return f"{where}: {messages[0]}" if where else messages[0]
    wanted = " or ".join(m.removeprefix("Input should be ") for m in messages)
    return f"{where} is {given!r}, but must be {wanted}"


def _known_keys(place: list[str], root: type[BaseModel]) -> list[str]:
    """The keys of the section that the last part of `place` was looked for in, full names."""
    section: type[BaseModel] | None = root
    for part in place[:-1]:
        if section is None:
            return []
        parent = section.model_fields.get(part)
        if parent is None:  # a teacher's name or the number of a source
            continue
        section = _section_of(parent.annotation)
        if section is None:
            return []
    prefix = ".".join(place[:-1])
    return [
        f"{prefix}.{name}" if prefix else name for name in (section.model_fields if section else ())
    ]


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _section_of(inner)
        if found is not None:
            return found
    return None
