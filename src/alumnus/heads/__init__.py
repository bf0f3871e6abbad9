"""Decoders on top of a frozen encoder."""

from alumnus.heads.linear import LinearHead

__all__ = ["LinearHead"]
