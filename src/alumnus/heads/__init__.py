"""Decoders on top of a frozen encoder."""

from alumnus.heads.depth_bins import expected_depth, sig_loss, uniform_bins
from alumnus.heads.linear import LinearHead
from alumnus.heads.linear_files import load_linear_head, save_linear_head

__all__ = [
    "LinearHead",
    "expected_depth",
    "load_linear_head",
    "save_linear_head",
    "sig_loss",
    "uniform_bins",
]
