"""Recipes as nested values, with words and settings laid over them; what they mean is not known."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from alumnus.config_errors import ConfigError
from alumnus.spelling import unknown

__all__ = ["lay_over", "read_recipe", "recipe_names", "spelled_out"]

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(recipe: str | Path, *, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a recipe by name or path; ConfigError where there is none.

    One that `extends` another by name or path holds what it has otherwise; `extended` are those
    on the way to it, which it must not extend again.
    """
    named = RECIPES / f"{recipe}.yaml"
    path = named if named.is_file() else Path(recipe).expanduser()
    if not path.is_file():
        raise ConfigError(str(unknown("recipe", str(recipe), recipe_names())))
    try:
        values = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {str(path)!r} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {str(path)!r} holds no settings")
    extends = values.pop("extends", None)
    if extends is None:
        return values
    way = (*extended, path.resolve())
    if path.resolve() in extended:
        raise ConfigError(f"recipe {str(path)!r} extends itself")
    beside = path.parent / str(extends)
    whole = read_recipe(beside if beside.is_file() else str(extends), extended=way)
    _merge(whole, values)
    return whole


def lay_over(
    values: dict[str, Any], words: Sequence[str], settings: Mapping[str, Any]
) -> list[str]:
    """Lay `key=value` words and nested settings over those of a recipe, in place.

    Gives a sentence for each that cannot be read.
    """
    said: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            said.append(f"{word!r} is not of the form key=value, e.g. data.train=photos")
            continue
        try:
            _set(values, key.split("."), yaml.load(text, _Loader) if text else "")
        except (yaml.YAMLError, ValueError) as error:
            said.append(f"{word}: {str(error).splitlines()[0]}")
    try:
        _merge(values, settings)
    except ValueError as error:
        said.append(str(error))
    return said


def spelled_out(teachers: object) -> object:
    """`a,b` or `[a, b]` as a dict of teachers; anything else as it is."""
    if isinstance(teachers, str):
        teachers = [part.strip() for part in teachers.split(",") if part.strip()]
    if isinstance(teachers, list):
        names = [_short_name(str(model)) for model in teachers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"two teachers would be named {name!r}: name them, teachers.NAME.model=MODEL"
                )
        return {_short_name(str(model)): {"model": model} for model in teachers}
    return teachers


def _set(values: dict[str, Any], keys: list[str], value: object) -> None:
    for key in keys[:-1]:
        if key == "teachers":
            values[key] = spelled_out(values.get(key))
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    if keys[-1] in ("epochs", "steps"):  # the other one of the recipe gives way
        values.pop({"epochs": "steps", "steps": "epochs"}[keys[-1]], None)
    values[keys[-1]] = _path_of_source(values, keys, value)


def _path_of_source(values: Mapping[str, Any], keys: list[str], value: object) -> object:
    """`data.sources.NAME=PATH` says where a source lies and leaves what the recipe says of it.

    ValueError for a path or null of a name that the recipe does not have: a slip, mostly. A new
    source is given as a mapping.
    """
    if keys[-2:-1] != ["sources"] or not isinstance(value, str | None):
        return value
    if values and keys[-1] not in values:
        raise unknown("source", keys[-1], values)
    return None if value is None else {**(values.get(keys[-1]) or {}), "path": value}


def _merge(
    values: dict[str, Any], settings: Mapping[str, Any], *, within: tuple[str, ...] = ()
) -> None:
    for key, value in settings.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict) and key != "teachers":
            _merge(values[key], value, within=(key,))
        else:
            plain = dict(value) if isinstance(value, Mapping) else value
            _set(values, [key], _path_of_source(values, [*within, key], plain))


def _short_name(model: str) -> str:
    """`timm:vit_base_patch16_224.dino` -> `vit_base_patch16_224_dino`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", model.rstrip("/").rsplit("/", 1)[-1].split(":", 1)[-1])


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: PyYAML takes 3e-4 for a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
