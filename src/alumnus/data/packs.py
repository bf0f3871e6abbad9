"""A pack: tar shards in WebDataset layout with an index.json, read by random access."""

import json
from collections.abc import Mapping
from pathlib import Path

from alumnus.data.tar_source import Shard, TarSource
from alumnus.spelling import unknown

__all__ = ["PackSource", "pack_splits"]


def pack_splits(folder: Path) -> dict[str, list[Shard]]:
    """Shards by split, as index.json says; ValueError where that cannot be understood."""
    try:
        splits = json.loads((folder / "index.json").read_text())["splits"]
        return {
            name: [
                Shard(shard["file"], str(folder / shard["file"]), shard.get("samples"))
                for shard in split["shards"]
            ]
            for name, split in splits.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(folder / 'index.json')!r} is no index of a pack, which lists "
            '{"splits": {name: {"shards": [{"file": ...}]}}}'
        ) from error


class PackSource(TarSource):
    """The samples of one split of a pack, in the order of its shards.

    Without `split`: the only one, or "train". `where` keeps the samples whose json has these
    values. Classes have the names that index.json gives them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        split: str | None = None,
        where: Mapping[str, str] | None = None,
        name: str,
        domain: str = "default",
        generic: bool = False,
    ) -> None:
        splits = pack_splits(folder)
        self.folder, self.split = folder, _choose_split(folder, split, list(splits))
        super().__init__(
            splits[self.split],
            what=f"split {self.split!r} of pack {str(folder)!r}",
            class_names=_class_names(folder),
            where=where,
            name=name,
            domain=domain,
            generic=generic,
        )


def _class_names(folder: Path) -> tuple[str, ...] | None:
    """Names of index.json's "classes"."""
    names = json.loads((folder / "index.json").read_text()).get("classes")
    if not names:
        return None
    return tuple(n["name"] if isinstance(n, dict) else str(n) for n in names)


def _choose_split(folder: Path, split: str | None, choices: list[str]) -> str:
    if split is None and (len(choices) == 1 or "train" in choices):
        return "train" if "train" in choices else choices[0]
    if split is None:
        raise ValueError(f"pack {str(folder)!r} needs a split, one of {', '.join(choices)}")
    if split not in choices:
        raise unknown(f"split of pack {str(folder)!r}", split, choices)
    return split
