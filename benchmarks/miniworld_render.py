"""How fast scenes are rendered: images per second of one core, at several sizes.

    python benchmarks/miniworld_render.py

CPU time, not wall time, so that other jobs on the machine disturb less; median and spread of
several rounds over the same 48 scenes, one of each class.
"""

import argparse
import platform
import statistics
import time

import numpy as np

from alumnus.miniworld import CLASSES, render_object


def images_per_cpu_second(size_px: int) -> float:
    """One round over one scene of each class."""
    started = time.process_time()
    for index in range(len(CLASSES)):
        render_object(0, index, size_px)
    return len(CLASSES) / (time.process_time() - started)


def main() -> None:
    """Print one line per size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}")
    for size_px in given.sizes:
        images_per_cpu_second(size_px)  # warm-up
        rates = [images_per_cpu_second(size_px) for _ in range(given.rounds)]
        print(
            f"{size_px:4d} px  {statistics.median(rates):6.1f} img/s per core  "
            f"(from {min(rates):.1f} to {max(rates):.1f} in {given.rounds} rounds)"
        )


if __name__ == "__main__":
    main()
