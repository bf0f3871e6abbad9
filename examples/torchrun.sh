#!/usr/bin/env bash
# One machine, every GPU of it:     examples/torchrun.sh folder data.train=PHOTOS out=runs/photos
# Some of them:                     GPUS=2 examples/torchrun.sh ...
# Go on after an interruption:      examples/torchrun.sh ... --resume
set -euo pipefail

GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # else every process takes all cores

exec torchrun --standalone --nproc-per-node "$GPUS" -m alumnus distill "$@"
