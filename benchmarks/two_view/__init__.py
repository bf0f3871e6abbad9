"""Two-view heads on frozen encoders: see run.py."""
