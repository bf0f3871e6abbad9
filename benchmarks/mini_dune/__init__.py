"""DUNE in small: see run.py."""
