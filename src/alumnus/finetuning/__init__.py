"""Heads for tasks, trained on top of an encoder: `alumnus finetune`."""

from alumnus.finetuning.head_files import load_head
from alumnus.finetuning.head_model import HeadModel
from alumnus.finetuning.running import FinetuneResult, run_finetune

__all__ = ["FinetuneResult", "HeadModel", "load_head", "run_finetune"]
