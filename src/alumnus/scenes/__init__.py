"""Scenes from photographs: two-view networks by name, matches, poses, reconstructions."""

from alumnus.scenes.matches import PhotoMatches, match_photographs
from alumnus.scenes.opening import load_two_view

__all__ = ["PhotoMatches", "load_two_view", "match_photographs"]
