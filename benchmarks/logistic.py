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

from alumnus.evaluation.linear import LinearClassifier, stratified_split
from alumnus.evaluation.logistic import fit_logistic, objective

NOISE = 6.0  # of a sample against the spread of class means: most classes overlap


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

    optimum = LinearClassifier(
        weight=torch.from_numpy(last.coef_),
        bias=torch.from_numpy(last.intercept_),
        centre=torch.zeros(args.dim),
        classes=torch.arange(args.classes),
    )
    objectives = [objective(found, x, y, ours.c) for found in (ours.classifier, optimum)]
    farthest = max(accuracy, key=lambda c: abs(accuracy[c] - ours.tried[c]))
    print(f"{args.samples} x {args.dim} x {args.classes} classes, {args.trials} values of C")
    print("                 wall s    CPU s  objective   validation at the chosen C")
    for name, spent, value, top1 in (
        ("alumnus", ours_s, objectives[0], ours.val_top1),
        ("plain loop", plain_s, objectives[1], accuracy[ours.c]),
    ):
        print(f"{name:14}{spent[0]:9.1f}{spent[1]:9.1f}{value:11.6f}{top1:9.2f}%")
    ratios = (a / b for a, b in zip(ours_s, plain_s, strict=True))
    print(
        "ratio         " + "".join(f"{r:9.2f}" for r in ratios) + "   (below 1: alumnus is faster)"
    )
    print(
        f"C {ours.c:.3g}; validation accuracies differ most at C {farthest:.2g}: "
        f"{ours.tried[farthest]:.2f}% and {accuracy[farthest]:.2f}%"
    )
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"scikit-learn {sklearn.__version__}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
