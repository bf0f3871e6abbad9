"""Scenes from photographs: two-view networks by name, matches, poses, reconstructions."""

from alumnus.scenes.opening import load_two_view

__all__ = ["load_two_view"]
