"""What there is to choose from, and how this machine is doing: `alumnus list` and `doctor`."""

import importlib.util
import shutil
from collections.abc import Callable, Sequence

import timm

from alumnus import hub
from alumnus.cachedir import cache_dir
from alumnus.config import load_config, recipe_names
from alumnus.data import BENCHMARKS, Benchmark
from alumnus.encoders import VIT_SIZES
from alumnus.hardware import choose_bf16, choose_device, choose_workers
from alumnus.miniworld import DOMAINS
from alumnus.run_folder import environment
from alumnus.spelling import unknown
from alumnus.teachers import list_teachers

__all__ = ["LISTS", "describe", "doctor"]

Row = Sequence[str]


def describe(what: str) -> str:
    """A table of teachers, models, recipes or datasets; ValueError for anything else."""
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    return _table(*LISTS[what]())


def doctor() -> str:
    """Versions, hardware, what `auto` would choose here, optional parts, cache."""
    facts = environment()
    device = choose_device("auto")
    place = cache_dir()
    free = shutil.disk_usage(place).free / 2**30
    rows = [
        ("python", facts["python"]),
        *((name, version or "missing") for name, version in facts["packages"].items()),
        ("platform", facts["platform"]),
        ("cpu", f"{facts['cpu']}, {facts['threads']} threads"),
        ("accelerators", ", ".join(facts["accelerators"]) or "none"),
        ("auto device", str(device)),
        ("auto precision", "bf16" if choose_bf16("auto", device) else "fp32"),
        ("auto workers", str(choose_workers("auto", device))),
        (
            "blazepose",
            "ready" if _has("ai_edge_litert") else "needs: pip install 'alumnus[litert]'",
        ),
        ("cache", f"{place}, {free:.0f} GiB free"),
        *(
            (f"weights of {name}", "here" if hub.is_here(name) else f"alumnus get {name}")
            for name in hub.RELEASED
        ),
    ]
    return _table(("what", "here"), rows)


def _teachers() -> tuple[Row, list[Row]]:
    rows: list[Row] = [
        (
            t.name,
            str(t.traits.dim),
            f"{t.traits.input_size} px" if t.traits.input_size else "any",
            str(t.traits.patch_size),
            "+".join(t.token_types),
            t.domain,
            t.traits.licence,
            t.origin,
        )
        for t in list_teachers()
    ]
    rows += [
        ("timm:MODEL", "", "", "", "", "", "the model's", "any of timm; weights=PATH, URL or hub"),
        ("hf:ORG/NAME", "", "", "", "", "", "the card's", "a model of transformers, or hf:FOLDER"),
        ("python:MODULE:FACTORY", "", "", "", "", "", "yours", "any module that returns Tokens"),
        (
            "litert:FILE#TENSOR",
            "",
            "",
            "",
            "patch",
            "",
            "the file's",
            "a tensor of a LiteRT network",
        ),
        ("onnx:FILE#TENSOR", "", "", "", "", "", "the file's", "a tensor of an ONNX network"),
        ("FOLDER", "", "", "", "", "", "as written there", "a finished run or exported encoder"),
    ]
    return ("teacher", "dim", "input", "patch", "tokens", "domain", "licence", "where from"), rows


def _models() -> tuple[Row, list[Row]]:
    rows: list[Row] = [
        (name, f"{size.dim} wide, {size.depth} blocks, {size.num_heads} heads")
        for name, size in VIT_SIZES.items()
    ]
    rows += [
        ("croco", "MASt3R's and CroCo's encoder, with rotary positions"),
        ("timm:NAME", f"any of {len(timm.list_models())} timm models: ViT, ConvNeXt, CNN"),
        ("python:MODULE:FACTORY", "any module that returns EncoderOutput"),
    ]
    return ("student.model", "what"), rows


def _recipes() -> tuple[Row, list[Row]]:
    rows: list[Row] = [(n, _first_sentence(load_config(n).description)) for n in recipe_names()]
    return ("recipe", "what"), rows


def _first_sentence(text: str) -> str:
    """Up to the first full stop before a space, without it, on one line."""
    return " ".join(text.split()).partition(". ")[0].removesuffix(".")


def _datasets() -> tuple[Row, list[Row]]:
    rows: list[Row] = [
        ("FOLDER", "all images below it; class folders give labels"),
        ("FOLDER:SPLIT", "its subfolder, or the split of a pack"),
        ("LIST.txt, .csv, .tsv, .parquet", "the images it names, with labels (docs/data.md)"),
        ("PACK", "a folder with index.json and tar shards (WebDataset layout)"),
        ("shards-{000..099}.tar, *.tar", "tar shards, also s3://, gs://, https://"),
        ("hf:ORG/NAME:SPLIT, hf:FOLDER", "a data set of Hugging Face"),
        *((f"miniworld:{d.name}[:test]", f"rendered here: {d.about}") for d in DOMAINS.values()),
        ("ANY[M:N]", "images M up to N of any of these, [:N] the first N"),
        *((f"{b.name}:ROOT[:SPLIT]", _published(b)) for b in BENCHMARKS.values()),
    ]
    return ("data.train, tasks", "what"), rows


def _published(benchmark: Benchmark) -> str:
    """Sizes and origin of a published set; none is ever downloaded."""
    images = ", ".join(
        f"{count:,} {split}" if count else split for split, count in benchmark.images.items()
    )
    return f"{benchmark.classes:,} classes; {images}; {benchmark.origin}"


LISTS: dict[str, Callable[[], tuple[Row, list[Row]]]] = {
    "teachers": _teachers,
    "models": _models,
    "recipes": _recipes,
    "datasets": _datasets,
}


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _table(head: Row, rows: Sequence[Row]) -> str:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Row) -> str:
        padded = (cell.ljust(w) for cell, w in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), line(["-" * w for w in widths]), *(line(r) for r in rows)])
