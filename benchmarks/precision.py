"""fp32 against bf16 autocast, on this machine: a training step of a student, a teacher's features.

    python benchmarks/precision.py [--image-px 128] [--batch 32] [--rounds 5]

Both sides run in turn in one process; medians of CPU seconds (wall-clock on an accelerator), and
the ratio round by round. `train.precision=auto` rests on these numbers (docs/decisions/0002).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import timm
import torch

from alumnus.encoders import EncoderSpec
from alumnus.hardware import choose_bf16, choose_device
from alumnus.projectors import ProjectorSpec
from alumnus.student import StudentSpec, build_student


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """CPU seconds of one call; wall-clock seconds on an accelerator."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def student_step(device: torch.device, *, image_px: int, batch: int) -> Callable[[bool], None]:
    """One optimiser step of a vit_tiny with a ladder to a 1280-wide teacher."""
    spec = StudentSpec(
        encoder=EncoderSpec(model="vit_tiny", image_size=image_px),
        projectors={"teacher": ProjectorSpec(kind="ladder", dim=1280)},
    )
    student = build_student(spec).to(device)
    optimizer = torch.optim.AdamW(student.parameters(), fused=True)
    images = torch.randn(batch, 3, image_px, image_px, device=device)

    def step(bf16: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            tokens = student(images)["teacher"]
        loss = tokens.of("patch").float().square().mean() + tokens.of("cls").float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def teacher_features(device: torch.device, *, batch: int) -> Callable[[bool], None]:
    """EfficientNet-Lite2 at 260 px, random weights."""
    network = timm.create_model("tf_efficientnet_lite2").eval().to(device)
    images = torch.randn(batch, 3, 260, 260, device=device)

    def features(bf16: bool) -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for chunk in images.split(4 if device.type == "cpu" else batch):
                network.forward_features(chunk)

    return features


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-px", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = choose_device("auto")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {device}, {torch.backends.cpu.get_cpu_capability()}")
    print(f"auto takes {'bf16' if choose_bf16('auto', device) else 'fp32'} here")
    works = {
        "student step": student_step(device, image_px=args.image_px, batch=args.batch),
        "teacher": teacher_features(device, batch=args.batch),
    }
    print(f"{'':14}{'fp32 img/s':>12}{'bf16 img/s':>12}{'bf16 / fp32':>13}{'(min to max)':>16}")
    for name, work in works.items():
        work(False)
        work(True)
        pairs = [
            (seconds(partial(work, False), device), seconds(partial(work, True), device))
            for _ in range(args.rounds)
        ]
        slow, fast = (args.batch / statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(a / b for a, b in pairs)
        spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        ratio = statistics.median(ratios)
        print(f"{name:14}{slow:12.1f}{fast:12.1f}{ratio:12.2f}x{spread:>16}")


if __name__ == "__main__":
    main()
