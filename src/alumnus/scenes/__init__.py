"""Scenes from photographs: two-view networks by name, matches, poses, reconstructions."""

from alumnus.scenes.matches import PhotoMatches, match_photographs
from alumnus.scenes.opening import load_two_view
from alumnus.scenes.reconstruction import Reconstruction, reconstruct_photographs

__all__ = [
    "PhotoMatches",
    "Reconstruction",
    "load_two_view",
    "match_photographs",
    "reconstruct_photographs",
]
