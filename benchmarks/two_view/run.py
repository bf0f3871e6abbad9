"""Two-view heads on frozen encoders, one line an arm, for docs/results/two-view.md.

    python -m benchmarks.two_view.run --student PATH [--student-name NAME]
        [--only rooms|frames] [--encoder NAME ...] [--frames packs/multiview]
        [--out runs/two-view] [--docs docs/results]

Each arm is `alumnus finetune ENCODER --head two-view` with the same settings on rooms of the
miniworld or on posed frames. It adds a line to OUT/runs.jsonl; what has one, of an encoder with the
same weights, is skipped, and an arm that was killed goes on from its checkpoint. Then the table is
printed and written with all numbers (`report.py`).
"""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import alumnus
from alumnus.encoders import build_encoder
from alumnus.finetuning.backbone import open_backbone
from alumnus.miniworld.fit import SPEC
from alumnus.runs import save_encoder
from benchmarks.run_lines import add_line, read_lines
from benchmarks.two_view import report, scores

TEACHERS = ("miniworld-rooms", "miniworld-people", "miniworld-objects")
OWN = "miniworld-rooms, its own head"
CPU = torch.device("cpu")

log = logging.getLogger("alumnus.two_view")


@dataclass(frozen=True, kw_only=True)
class Set:
    """What heads learn from and are scored on, and how."""

    name: str
    data: str
    size_px: int
    words: tuple[str, ...]

    @property
    def settings(self) -> list[str]:
        """After `alumnus finetune ENCODER --head two-view`."""
        return [f"data={self.data}", f"size={self.size_px}", *self.words, *SHARED]


SHARED = (
    "batch_size=16",
    "lr=2e-3",
    "two_view.depth=2",
    "two_view.matches=256",
    "evaluations=0",
    "device=cpu",
    "threads=1",
    "workers=0",
)


def sets(frames: str) -> dict[str, Set]:
    """By name."""
    rooms = "miniworld:rooms:train[:4800],miniworld:rooms:test[:240]"
    return {
        "rooms": Set(name="rooms", data=rooms, size_px=64, words=("steps=1000",)),
        "frames": Set(name="frames", data=frames, size_px=64, words=("steps=300",)),
    }


@dataclass(frozen=True)
class Bench:
    """Where things lie."""

    out: Path
    docs: Path

    @property
    def lines(self) -> Path:
        return self.out / "runs.jsonl"

    @property
    def done(self) -> list[dict[str, Any]]:
        """The lines so far."""
        return read_lines(self.lines)

    def has(self, key: Mapping[str, str]) -> bool:
        """Whether a line is of this arm."""
        return any(key.items() <= record.items() for record in self.done)

    def add(self, record: Mapping[str, Any]) -> None:
        """One line more, then the table."""
        add_line(self.lines, record)
        report.write(self.done, self.docs)


def random_encoder(folder: Path) -> str:
    """The teachers' encoder with fresh weights."""
    if not (folder / "encoder.safetensors").is_file():
        torch.manual_seed(0)
        save_encoder(folder, build_encoder(SPEC), SPEC)
    return str(folder)


def run_arm(bench: Bench, chosen: Set, name: str, encoder: str) -> None:
    """Train, score, write the line."""
    fingerprint = open_backbone(encoder, CPU).fingerprint()
    key = {"set": chosen.name, "encoder": name, "sha256": fingerprint}
    if bench.has(key):
        return
    folder = bench.out / "heads" / f"{chosen.name}-{name}-{fingerprint[:8]}".replace(" ", "-")
    log.info("%s on %s", name, chosen.name)
    began = time.process_time()
    result = alumnus.finetune(
        encoder, *chosen.settings, f"out={folder}", head="two-view", resume=folder.is_dir()
    )
    found = scores.of_result(result, chosen.settings)
    bench.add(
        {
            **key,
            "words": chosen.settings,
            "steps": result.steps,
            "core_minutes": round((time.process_time() - began) / 60, 2),
            "scores": found,
        }
    )


def run_constant(bench: Bench, chosen: Set) -> None:
    """What looks at nothing."""
    key = {"set": chosen.name, "encoder": "constant"}
    if not bench.has(key):
        bench.add({**key, "scores": scores.of_constant(chosen.settings)})


def run_own(bench: Bench, chosen: Set) -> None:
    """The rooms teacher with the head that it was trained with."""
    key = {"set": chosen.name, "encoder": OWN}
    key["sha256"] = open_backbone(TEACHERS[0], CPU).fingerprint()
    if not bench.has(key):
        bench.add({**key, "scores": scores.of_network(TEACHERS[0], chosen.settings)})


def main(words: Sequence[str] | None = None) -> None:
    """All arms, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", help="a run of mini-dune, or its encoder")
    parser.add_argument("--student-name", default="student", help="what the table calls it")
    parser.add_argument("--only", choices=["rooms", "frames"])
    parser.add_argument("--encoder", action="append", help="names of arms; all if not given")
    parser.add_argument("--frames", default="packs/multiview")
    parser.add_argument("--out", type=Path, default=Path("runs/two-view"))
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    given = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.out, given.docs)
    encoders = {"random weights": random_encoder(given.out / "random")}
    encoders |= {name: name for name in TEACHERS}
    if given.student is not None:
        encoders[given.student_name] = given.student
    for chosen in sets(given.frames).values():
        if given.only not in (None, chosen.name):
            continue
        run_constant(bench, chosen)
        for name, encoder in encoders.items():
            if given.encoder is None or name in given.encoder:
                run_arm(bench, chosen, name, encoder)
        if given.encoder is None or OWN in given.encoder:
            run_own(bench, chosen)
    print("\n".join(report.lines(bench.done)))


if __name__ == "__main__":
    main()
