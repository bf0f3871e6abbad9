"""How fast pictures are rendered: images per second of one core, by domain and size.

    python benchmarks/miniworld_render.py

CPU time, not wall time, so that other jobs on the machine disturb less; median and spread of
several rounds over the same first file of each domain.
"""

import argparse
import platform
import statistics
import time

import numpy as np

from alumnus.miniworld import DOMAINS, Domain


def images_per_cpu_second(domain: Domain, size_px: int) -> float:
    """One round over the scenes of the domain's first file."""
    started = time.process_time()
    for scene in range(domain.chunk // domain.views):
        domain.render(0, scene, size_px)
    return domain.chunk / (time.process_time() - started)


def main() -> None:
    """Print one line per domain and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}")
    for name in given.domains:
        for size_px in given.sizes:
            images_per_cpu_second(DOMAINS[name], size_px)  # warm-up
            rates = [images_per_cpu_second(DOMAINS[name], size_px) for _ in range(given.rounds)]
            print(
                f"{name:8} {size_px:4d} px  {statistics.median(rates):6.1f} img/s per core  "
                f"(from {min(rates):.1f} to {max(rates):.1f} in {given.rounds} rounds)"
            )


if __name__ == "__main__":
    main()
