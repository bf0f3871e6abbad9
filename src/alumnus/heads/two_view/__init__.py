"""Two views of a scene: points of both in one frame, confidences, descriptors to match."""

from alumnus.heads.two_view.files import load_two_view_head, save_two_view_head
from alumnus.heads.two_view.head import TwoViewHead
from alumnus.heads.two_view.matching import (
    PixelMatches,
    fast_reciprocal_matches,
    grid_starts,
    matches_both_ways,
    mutual_matches,
    within_border,
)
from alumnus.heads.two_view.network import TwoViewNetwork
from alumnus.heads.two_view.orientations import predict_mixed
from alumnus.heads.two_view.photos import Photo, prepare_photo
from alumnus.heads.two_view.predictions import ConfidenceRange, ViewPrediction
from alumnus.heads.two_view.released import load_dune_mast3r, load_mast3r, load_mast3r_encoder
from alumnus.heads.two_view.spec import TwoViewSpec

__all__ = [
    "ConfidenceRange",
    "Photo",
    "PixelMatches",
    "TwoViewHead",
    "TwoViewNetwork",
    "TwoViewSpec",
    "ViewPrediction",
    "fast_reciprocal_matches",
    "grid_starts",
    "load_dune_mast3r",
    "load_mast3r",
    "load_mast3r_encoder",
    "load_two_view_head",
    "matches_both_ways",
    "mutual_matches",
    "predict_mixed",
    "prepare_photo",
    "save_two_view_head",
    "within_border",
]
