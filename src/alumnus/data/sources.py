"""From a name or a path to a source."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from alumnus.data.batch import Source
from alumnus.data.benchmarks import benchmark_spec, open_benchmark
from alumnus.data.file_list import LIST_SUFFIXES, FileListSource
from alumnus.data.folder import FolderSource
from alumnus.data.hub_data import HubSource
from alumnus.data.mask_folder import MaskFolderSource, mask_layout
from alumnus.data.packs import PackSource
from alumnus.data.selection import Columns
from alumnus.data.shard_names import is_shards, shard_locations
from alumnus.data.subset import Subset
from alumnus.data.tar_source import Shard, TarSource
from alumnus.spelling import unknown

__all__ = ["open_source"]

FILE_ENDINGS = (*LIST_SUFFIXES, ".tar", ".tar.gz")


def open_source(
    spec: str | Path,
    *,
    split: str | None = None,
    name: str | None = None,
    domain: str = "default",
    generic: bool = False,
    where: Mapping[str, str] | None = None,
    columns: Columns | None = None,
) -> Source:
    """Open a folder of images, a list of files, a pack, or a built-in world.

    - a folder: all images below it (`FolderSource`); with a split, its subfolder of that name
    - a folder of images with masks: ADE20K, Cityscapes or `images` and `masks` (`mask_layout`);
      or with depths, `images` and `depth`
    - a folder with index.json: tar shards (`PackSource`); its only split, or "train", by default
    - a file .txt, .csv, .tsv or .parquet: the images it lists (`FileListSource`)
    - tar shards, by path or URL, with braces and stars: `s3://bucket/train-{000..099}.tar`
      (`TarSource`)
    - `hf:ORG/NAME`, `hf:ORG/NAME:SPLIT`, `hf:FOLDER`: a data set of Hugging Face (`HubSource`)
    - `dtd:ROOT`, `dtd:ROOT:test`: published sets at ROOT by name (`BENCHMARKS`)
    - `miniworld:objects`, `miniworld:people:test`: rendered images with labels (`DOMAINS`), of 64
      px; `miniworld:rooms@128` of another size

    A split may end the spec: `packs/caltech50:test`; a last `[M:N]` keeps the images from M up to
    N, as of a list: `packs/caltech50:test[:100]`. `where` selects samples of a pack by values
    of their json fields, rows of a list by those of its columns: `{"domain": "people"}`. `columns`
    says which column holds what: `{"image": "file", "label": "species"}`. The default
    name is that of the folder or file, followed by the values of `where`. Raises ValueError, in
    one sentence, for whatever cannot be opened.
    """
    if part := re.fullmatch(r"(.+)\[(\d*):(\d*)\]", str(spec)):
        whole = open_source(
            part[1],
            split=split,
            name=name,
            domain=domain,
            generic=generic,
            where=where,
            columns=columns,
        )
        kept = range(len(whole))[int(part[2] or 0) : int(part[3] or len(whole))]
        if not kept:
            raise ValueError(f"{str(spec)!r} keeps none of the {len(whole)} images")
        return Subset(whole, kept)
    if str(spec).startswith("miniworld:"):
        return _open_miniworld(str(spec), split=split, name=name, domain=domain, generic=generic)
    if str(spec).startswith("hf:"):
        return HubSource(
            str(spec).removeprefix("hf:"),
            split=split,
            columns=columns,
            where=where,
            name=name,
            domain=domain,
            generic=generic,
        )
    if published := benchmark_spec(str(spec)):
        if where or columns:
            raise ValueError(f"where and columns do not select from the published set {spec!r}")
        benchmark, root, own_split = published
        if split is not None and own_split not in (None, split):
            raise ValueError(f"{spec!r} names the split {own_split!r}, but split is {split!r}")
        chosen = own_split or split
        return open_benchmark(benchmark, root, chosen, name=name, domain=domain, generic=generic)
    if named := re.fullmatch(
        rf"(.+({'|'.join(map(re.escape, FILE_ENDINGS))})):([^:/]+)", str(spec)
    ):
        if split not in (None, named[3]):
            raise ValueError(f"{spec!r} names the split {named[3]!r}, but split is {split!r}")
        spec, split = named[1], named[3]
    path = Path(spec).expanduser()
    if path.suffix in LIST_SUFFIXES and path.is_file():
        name = name or "-".join([path.stem, *(where or {}).values()])
        return FileListSource(
            path,
            split=split,
            columns=columns,
            where=where,
            name=name,
            domain=domain,
            generic=generic,
        )
    if is_shards(str(spec)) and not path.is_dir():
        return _open_shards(
            str(spec), split=split, name=name, domain=domain, generic=generic, where=where
        )
    if columns:
        raise ValueError(f"columns are those of a list or data set, which {str(spec)!r} is not")
    folder, split = _folder_and_split(str(spec), split)
    name = name or "-".join([folder.resolve().name, *(where or {}).values()])
    if (folder / "index.json").is_file():
        return PackSource(
            folder, split=split, where=where, name=name, domain=domain, generic=generic
        )
    if where:
        raise ValueError(
            f"where selects by json fields, which the folder of images {str(folder)!r} has not"
        )
    if layout := mask_layout(folder):
        return MaskFolderSource(
            folder, layout, split=split, name=name, domain=domain, generic=generic
        )
    if split is not None:
        folder = _subfolder(folder, split)
    return FolderSource(folder, name=name, domain=domain, generic=generic)


def _folder_and_split(spec: str, split: str | None) -> tuple[Path, str | None]:
    """Take `PATH:split` apart; a path that exists as it is wins."""
    path = Path(spec).expanduser()
    if not path.exists() and ":" in spec:
        head, _, tail = spec.rpartition(":")
        if tail and "/" not in tail:
            if split is not None and split != tail:
                raise ValueError(f"{spec!r} names the split {tail!r}, but split is {split!r}")
            path, split = Path(head).expanduser(), tail
    if not path.exists():
        kind = "list" if path.suffix in LIST_SUFFIXES else "folder"
        raise ValueError(f"there is no {kind} {str(path)!r}{_nearest_path(path)}")
    if not path.is_dir():
        raise ValueError(
            f"{str(path)!r} is a file, but a folder of images, a pack or a list "
            f"({', '.join(LIST_SUFFIXES)}) was expected"
        )
    return path, split


def _nearest_path(path: Path) -> str:
    """The first missing part of a path, respelled as a sibling that exists."""
    for parent in path.absolute().parents:
        if parent.is_dir():
            missing = path.absolute().relative_to(parent).parts[0]
            siblings = [sibling.name for sibling in parent.iterdir()]
            near = difflib.get_close_matches(missing, siblings, n=1, cutoff=0.5)
            return f"; did you mean {str(parent / near[0])!r}?" if near else ""
    return ""


def _subfolder(folder: Path, split: str) -> Path:
    if not (folder / split).is_dir():
        subfolders = [path.name for path in folder.iterdir() if path.is_dir()]
        raise unknown(f"split (a folder in {str(folder)!r})", split, subfolders)
    return folder / split


def _open_shards(
    spec: str,
    *,
    split: str | None,
    name: str | None,
    domain: str,
    generic: bool,
    where: Mapping[str, str] | None,
) -> Source:
    if split is not None:
        raise ValueError(f"the shards {spec!r} have no split {split!r}: name those of one split")
    locations = shard_locations(spec)
    labels = _short_names(locations)
    return TarSource(
        [Shard(label, place, None) for label, place in zip(labels, locations, strict=True)],
        what=f"the shards {spec!r}",
        where=where,
        name=name or "-".join([_shards_name(spec), *(where or {}).values()]),
        domain=domain,
        generic=generic,
    )


def _short_names(locations: list[str]) -> list[str]:
    """File names, with as many folders before them as tell them apart."""
    parts = [location.split("/") for location in locations]
    for kept in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-kept:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"the shard {locations[0]!r} is listed twice")


def _shards_name(spec: str) -> str:
    """A word for shards: their file name without numbers and ending."""
    file = spec.rpartition("/")[2].partition(".tar")[0]
    word = re.sub(r"\{\d+\.\.\d+\}|\[[^]]*\]|[*?{}]", "", file).strip("-_.")
    return word or "shards"


def _open_miniworld(
    spec: str, *, split: str | None, name: str | None, domain: str, generic: bool
) -> Source:
    _, world, *rest = spec.split(":")
    kind, at, size = world.partition("@")
    if at and not (size.isdecimal() and int(size)):
        raise ValueError(f"{spec!r} should say its size in pixels, as in miniworld:rooms@128")
    from alumnus.miniworld import MiniworldSource  # renders only where it is asked for

    sized = {"size_px": int(size)} if at else {}
    source = MiniworldSource(kind, rest[0] if rest else split or "train", **sized)
    return Subset(source, name=name or world, domain=domain, generic=generic)
