"""UNIC in small: see run.py."""
