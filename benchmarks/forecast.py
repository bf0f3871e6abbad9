"""Short runs of the demo's and the real photographs' recipes: what their first fifth foretells.

    python benchmarks/forecast.py run [--runs runs/forecast] [--packs packs] [--only NAME ...]
    python benchmarks/forecast.py report [--runs runs/forecast] [--out docs/results]

`run` makes the runs that are not there yet (about 25 minutes on one core in all), `report` reads
them: the error of the forecast against simple ones, what the stopping rule would have done, and
the label-free signals against k-NN, as JSON, text and a picture.
"""

import argparse
import logging
import shutil
from pathlib import Path
from typing import NamedTuple

from alumnus import api

OBJECTS = "miniworld:objects"
KNN_OBJECTS = f"train.knn={OBJECTS}:train[:400],{OBJECTS}:test[:200]"
KNN_PHOTOS = "train.knn=PACKS/caltech50:train[:400],PACKS/caltech50:test[:200]"
LITE0 = "teachers={efficientnet-lite0: {model: efficientnet-lite0}}"
SMALL_TEACHER = "teachers={miniworld-objects: {model: miniworld-objects}}"
FEW = f"data.train={OBJECTS}[:900]"
SMALL_STUDENT = ["student.dim=96", "student.num_heads=3"]
PHOTOS_64 = [
    "data.train=[{path: 'PACKS/caltech50:train', domain: things}, "
    "{path: 'PACKS/people:train', domain: people}]",
    "data.size=64",
    "data.teacher_size=128",
    "cache.views=1",
    "student={model: vit_micro, stem: conv, patch_size: 8}",
]
PHOTOS_128 = ["student={model: vit_micro, patch_size: 16}"]
MICRO = "projector={kind: ladder, hidden_dim: 128, last_hidden_dim: 512}"
LITE0_BLAZEPOSE = (
    "teachers={lite0: {model: efficientnet-lite0, domain: things}, "
    "blazepose: {model: blazepose, domain: people}}"
)
LITE0_PHOTOS = "teachers={lite0: {model: efficientnet-lite0, domain: things}}"
LITE2_PHOTOS = "teachers={lite2: {model: efficientnet-lite2, domain: things}}"
BLAZEPOSE = "teachers={blazepose: {model: blazepose, domain: people}}"


class Run(NamedTuple):
    """One run: its recipe, seed, length and whatever else differs."""

    name: str
    recipe: str
    seed: int
    steps: int
    batch: int
    words: tuple[str, ...] = ()


def _demo(name: str, seed: int, steps: int, batch: int, *words: str) -> Run:
    return Run(f"demo-{name}", "demo", seed, steps, batch, words)


def _photos(name: str, seed: int, steps: int, batch: int, *words: str) -> Run:
    recipe = str(Path(__file__).parent.parent / "docs/results/real-photos.yaml")
    return Run(f"photos-{name}", recipe, seed, steps, batch, (MICRO, *words))


RUNS = [
    _demo("both-60", 0, 60, 64, KNN_OBJECTS),
    _demo("objects-160", 2, 160, 32, SMALL_TEACHER, KNN_OBJECTS),
    _photos("both-100", 0, 100, 32, *PHOTOS_64, LITE0_BLAZEPOSE),
    _demo("lite0-160", 0, 160, 32, LITE0, KNN_OBJECTS),
    _demo("objects-80", 1, 80, 32, SMALL_TEACHER),
    _photos("lite0-160", 0, 160, 32, *PHOTOS_64, LITE0_PHOTOS),
    _demo("both-120", 0, 120, 32),
    _demo("objects-300", 3, 300, 32, SMALL_TEACHER, KNN_OBJECTS),
    _photos("blazepose-120", 0, 120, 32, *PHOTOS_64, BLAZEPOSE),
    _demo("few-200", 2, 200, 32, FEW, "cache.views=1", KNN_OBJECTS),
    _photos("128px-both-80", 0, 80, 32, *PHOTOS_128),
    _demo("lite0-80", 0, 80, 32, LITE0),
    _demo("objects-100", 4, 100, 64, SMALL_TEACHER),
    _photos("both-200", 1, 200, 32, *PHOTOS_64, LITE0_BLAZEPOSE, KNN_PHOTOS),
    _demo("both-200", 0, 200, 32, KNN_OBJECTS),
    _demo("few-120", 2, 120, 32, FEW, "cache.views=1"),
    _photos("lite0-80", 1, 80, 32, *PHOTOS_64, LITE0_PHOTOS),
    _demo("objects-lr", 5, 120, 32, SMALL_TEACHER, "optim.lr=2e-3"),
    _photos("128px-lite2-120", 0, 120, 32, *PHOTOS_128, LITE2_PHOTOS),
    _demo("objects-narrow", 7, 160, 32, SMALL_TEACHER, *SMALL_STUDENT),
    _photos("blazepose-160", 1, 160, 32, *PHOTOS_64, BLAZEPOSE),
    _demo("both-lr", 0, 100, 32, "optim.lr=1.6e-2"),
    _photos("128px-blazepose-120", 0, 120, 32, *PHOTOS_128, BLAZEPOSE),
    _demo("objects-60", 6, 60, 64, SMALL_TEACHER),
]


def make(run: Run, folder: Path, packs: Path) -> None:
    """One run, in a folder of its own; only its metrics and configuration stay."""
    words = [
        f"train.seed={run.seed}",
        f"optim.steps={run.steps}",
        f"optim.batch_size={run.batch}",
        f"out={folder}",
        "train.threads=1",
        "train.log_every=1000000",
        "train.checkpoints=1",
        "data.workers=0",
        "evaluate.tasks=[]",
        *(word.replace("PACKS", str(packs)) for word in run.words),
    ]
    words += (
        []
        if run.recipe == "demo"
        else [f"data.train={_real_photos(packs)}"]
        * (not any(word.startswith("data.train=") for word in run.words))
    )
    api.distill(run.recipe, *words, resume=(folder / "config.yaml").is_file())
    (folder / "done").touch()
    shutil.rmtree(folder / "checkpoints")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()


def _real_photos(packs: Path) -> str:
    """The sources of docs/results/real-photos.yaml, wherever the packs are."""
    sources = [
        ("photos", ", where: {domain: things}", "things"),
        ("photos", ", where: {domain: people}", "people"),
        ("imagenet_samples", "", "things"),
        ("caltech50:train", "", "things"),
        ("clothing10:train", "", "things"),
        ("people:train", "", "people"),
    ]
    parts = [f"{{path: '{packs}/{p}'{where}, domain: {domain}}}" for p, where, domain in sources]
    return f"[{', '.join(parts)}]"


def run_all(runs: Path, packs: Path, only: list[str]) -> None:
    """Make what is missing; a run that was interrupted goes on."""
    for run in RUNS:
        if (runs / run.name / "done").is_file() or (only and run.name not in only):
            continue
        make(run, runs / run.name, packs)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--runs", type=Path, default=Path("runs/forecast"))
    parser.add_argument("--packs", type=Path, default=Path("packs"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.what == "run":
        run_all(arguments.runs, arguments.packs, arguments.only)


if __name__ == "__main__":
    main()
