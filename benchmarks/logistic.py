"""A tuned logistic regression beside a plain loop of scikit-learn over the same values of C.

    OMP_NUM_THREADS=2 python benchmarks/logistic.py

Both sides see the same features (10,000 x 768 of 100 classes), the same validation part and the
same values of C, in one process, and end with a fit to all samples. The plain side is

    LogisticRegression(C=c, max_iter=2000).fit(features, labels)

for each C, as one would write it. The features are noisy class means with variances that fall as
1 / rank, turned and shifted: neither centred nor white, as those of encoders.
"""

import argparse
import platform
import time
import warnings

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from alumnus.evaluation.linear import stratified_split
from alumnus.evaluation.logistic import fit_logistic, objective

NOISE = 1.6  # of a sample against the spread of class means: about 75% are classified well


def features(n: int, dim: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples [n, dim] and their classes [n]."""
    generator = torch.Generator().manual_seed(seed)
    std = (torch.arange(dim) + 1.0) ** -0.5
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, dim, generator=generator) * std
    noise = NOISE * torch.randn(n, dim, generator=generator) * std
    shift = torch.randn(dim, generator=generator)
    return 3 * (centres[labels] + noise) @ turn + shift, labels


def clocks() -> tuple[float, float]:
    """Seconds that passed, and that all threads worked: the second is fair on a busy machine."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = clocks()
    return wall - start[0], cpu - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--trials", type=int, default=40, help="values of C, on both sides")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    x, y = features(args.samples, args.dim, args.classes)

    start = clocks()
    ours = fit_logistic(x, y, trials=args.trials)
    ours_s = since(start)

    start = clocks()
    fit, val = (rows.numpy() for rows in stratified_split(y))
    data, labels = x.numpy(), y.numpy()
    accuracy = {}
    for c in ours.tried:
        plain = LogisticRegression(C=c, max_iter=2000).fit(data[fit], labels[fit])
        accuracy[c] = 100 * float(np.mean(plain.predict(data[val]) == labels[val]))
    last = LogisticRegression(C=ours.c, max_iter=2000).fit(data, labels)
    plain_s = since(start)

    difference = max(abs(accuracy[c] - ours.tried[c]) for c in accuracy)
    agree = float(np.mean(last.predict(data) == ours.classifier.predict(x).numpy()))
    print(f"{args.samples} x {args.dim} x {args.classes} classes, {args.trials} values of C")
    print("                 wall s    CPU s")
    print(f"alumnus       {ours_s[0]:9.1f}{ours_s[1]:9.1f}   C {ours.c:.3g}, {ours.val_top1:.2f}%")
    print(f"plain loop    {plain_s[0]:9.1f}{plain_s[1]:9.1f}   {accuracy[ours.c]:.2f}% at that C")
    ratios = (a / b for a, b in zip(ours_s, plain_s, strict=True))
    print(
        "ratio         " + "".join(f"{r:9.2f}" for r in ratios) + "   (below 1: alumnus is faster)"
    )
    print(f"validation accuracies differ by at most {difference:.2f} points")
    print(f"objective at that C {objective(ours.classifier, x, y, ours.c):.6f}; "
          f"last predictions agree on {100 * agree:.2f}%")  # fmt: skip
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"scikit-learn {sklearn.__version__}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
