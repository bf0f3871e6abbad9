"""One run in six ways: alone; stopped and resumed; in two processes, whole, sharded, stopped.

    python -m benchmarks.same_curves [--runs runs/same-curves] [--packs packs] [--out docs/results]

The recipe is that of the real photographs, small: 1,300 pictures at 64 px, EfficientNet-Lite0 and
BlazePose, 150 steps. Prints and writes how far the curves lie apart, and draws them. Minutes on two
cores; runs that are there are not made again.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from alumnus.runs import load_encoder
from benchmarks.result_pages import filled, table

STEPS = 150
WAYS = {
    "alone": "one process",
    "resumed": "stopped by SIGTERM after half of the steps, resumed",
    "ddp": "two processes, DDP",
    "fsdp2": "two processes, FSDP2",
    "together": "two processes, FSDP2, stopped half-way, resumed in two",
    "elastic": "two processes, stopped half-way, resumed in one",
}
RECIPE = Path(__file__).parent.parent / "docs" / "results" / "real-photos.yaml"


def command(way: str, folder: Path, packs: Path, *, ranks: int) -> list[str]:
    """The command line of a run."""
    sources = (
        f"[{{path: '{packs}/caltech50:train', domain: things}}, "
        f"{{path: '{packs}/people:train', domain: people}}]"
    )
    words = [
        f"data.train={sources}",
        "teachers={lite0: {model: efficientnet-lite0, domain: things}, "
        "blazepose: {model: blazepose, domain: people}}",
        "student={model: vit_micro, stem: conv, patch_size: 8}",
        "projector={kind: ladder, hidden_dim: 128, last_hidden_dim: 512}",
        *("data.size=64", "data.teacher_size=128", "data.workers=0", "cache.views=1"),
        *(f"optim.steps={STEPS}", "optim.batch_size=32"),
        "departures.scope=global",  # else each process averages over its own part, as released
        *("train.log_every=1", "train.checkpoints=1", "train.eval_every=15"),
        *("train.precision=fp32", "train.threads=1"),
        f"train.parallel={'fsdp2' if way in ('fsdp2', 'together') else 'ddp'}",
        "evaluate.tasks=[]",
        f"out={folder}",
    ]
    processes = [sys.executable]
    if ranks > 1:
        processes += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [*processes, "-m", "alumnus", "distill", str(RECIPE), *words]


def make(way: str, folder: Path, packs: Path) -> None:
    """One run, in one of the ways."""
    if (folder / "encoder.safetensors").is_file():
        return
    print(f"{way}: {WAYS[way]}", flush=True)
    ranks = 1 if way in ("alone", "resumed") else 2
    if way in ("resumed", "together", "elastic"):
        stop_half_way(command(way, folder, packs, ranks=ranks), folder)
    if way == "elastic":
        ranks = 1
    words = ["--resume"] if folder.is_dir() else []
    subprocess.run([*command(way, folder, packs, ranks=ranks), *words], check=True)


def stop_half_way(words: list[str], folder: Path) -> None:
    """Start a run and send SIGTERM to each of its processes in the middle."""
    run = subprocess.Popen(words, start_new_session=True)
    while losses(folder).get(STEPS // 2) is None:
        if run.poll() is not None:
            raise SystemExit("the run ended early")
        time.sleep(0.05)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    for process in map(int, children) if "torch.distributed.run" in words else (run.pid,):
        os.kill(process, signal.SIGTERM)
    run.wait()


def records(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(folder: Path) -> dict[int, float]:
    """Training loss by finished steps."""
    return {int(line["step"]): line["loss"] for line in records(folder) if "loss" in line}


def weight_difference(a: Path, b: Path) -> float:
    """The largest difference of any weight of the encoders, without the bias of attention keys."""
    ours, theirs = load_encoder(a).state_dict(), load_encoder(b).state_dict()
    for state in (ours, theirs):
        for name, tensor in state.items():
            if name.endswith("qkv.bias"):
                tensor.chunk(3)[1].zero_()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def main() -> None:
    """Make, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/same-curves"))
    parser.add_argument("--packs", type=Path, default=Path("packs"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    for way in WAYS:
        make(way, options.runs / way, options.packs)

    curves = {way: losses(options.runs / way) for way in WAYS}
    found = {
        way: {
            "loss": [curves[way][step] for step in range(1, STEPS + 1)],
            "weights": weight_difference(options.runs / way, options.runs / "alone"),
        }
        for way in WAYS
    }
    (options.out / "same-curves.json").write_text(json.dumps(found) + "\n")
    page = options.out / "same-curves.md"
    page.write_text(filled(page.read_text(), tables(found)))
    draw({WAYS[way]: curve for way, curve in curves.items()}, options.out / "same-curves.png")


def tables(found: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The page's table, from what same-curves.json holds."""
    alone = found["alone"]["loss"]
    rows = []
    for way, run in found.items():
        apart = max(abs(a - b) for a, b in zip(run["loss"], alone, strict=True))
        rows.append([WAYS[way], f"{run['loss'][-1]:.6f}", f"{apart:.2g}", f"{run['weights']:.2g}"])
    head = ["way", "last loss", "largest difference of the loss", "of any weight of the encoder"]
    return {"ways": table(head, rows)}


def draw(curves: dict[str, dict[int, float]], path: Path) -> None:
    """All curves in one picture, each thinner than the one before, and their distances."""
    mpl.use("Agg")
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), height_ratios=(2, 1))
    first = next(iter(curves.values()))
    for i, (name, curve) in enumerate(curves.items()):
        above.plot(list(curve), list(curve.values()), label=name, linewidth=9 - 1.6 * i, alpha=0.8)
        if i:
            apart = [max(abs(curve[step] - first[step]), 1e-9) for step in first]
            below.semilogy(list(first), apart, color=f"C{i}")
    above.set_ylabel("training loss")
    above.legend()
    below.set_ylabel("distance from\none process")
    below.set_xlabel("step (1e-9: no difference)")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
