"""How fast and how light a list of a million images opens.

    python benchmarks/file_list.py

Prints seconds to open, MB kept (what a data worker is sent), peak MB above the start.
"""

import argparse
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alumnus.data.file_list import FileListSource


def main() -> None:
    """Each format in a process of its own, so that peaks are its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--format", choices=("txt", "csv"))
    chosen = parser.parse_args()
    if chosen.format is not None:
        measure(chosen.format, chosen.lines)
        return
    for suffix in ("txt", "csv"):
        command = [sys.executable, __file__, "--format", suffix, "--lines", str(chosen.lines)]
        subprocess.run(command, check=True)


def measure(suffix: str, lines: int) -> None:
    """Write a list in the style of ImageNet's paths and open it."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, f"list.{suffix}")
        separator = "\t" if suffix == "txt" else ","
        with path.open("w") as file:
            if suffix == "csv":
                file.write("path,label\n")
            for i in range(lines):
                file.write(f"n{i % 1000:08d}/picture_{i:08d}.JPEG{separator}class{i % 1000}\n")
        first = Path(place, "n00000000", "picture_00000000.JPEG")
        first.parent.mkdir()
        first.touch()
        before_mb = _peak_mb()
        began = time.perf_counter()
        source = FileListSource(path, name="list")
        took_s = time.perf_counter() - began
        kept_mb, peak_mb = len(pickle.dumps(source)) / 2**20, _peak_mb() - before_mb
        print(
            f"{suffix}: {len(source)} lines in {took_s:.2f} s, {kept_mb:.0f} MB kept, "
            f"peak {peak_mb:.0f} MB above the start"
        )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
