"""Decoders on top of a frozen encoder."""

from alumnus.heads.linear import LinearHead
from alumnus.heads.linear_files import load_linear_head, save_linear_head

__all__ = ["LinearHead", "load_linear_head", "save_linear_head"]
