"""Two views of a scene: points of both in one frame, confidences, descriptors to match."""

from alumnus.heads.two_view.files import load_two_view, save_two_view
from alumnus.heads.two_view.head import TwoViewHead
from alumnus.heads.two_view.network import TwoViewNetwork
from alumnus.heads.two_view.orientations import predict_mixed
from alumnus.heads.two_view.photos import Photo, prepare_photo
from alumnus.heads.two_view.predictions import ConfidenceRange, ViewPrediction
from alumnus.heads.two_view.released import load_dune_mast3r, load_mast3r, load_mast3r_encoder
from alumnus.heads.two_view.spec import TwoViewSpec

__all__ = [
    "ConfidenceRange",
    "Photo",
    "TwoViewHead",
    "TwoViewNetwork",
    "TwoViewSpec",
    "ViewPrediction",
    "load_dune_mast3r",
    "load_mast3r",
    "load_mast3r_encoder",
    "load_two_view",
    "predict_mixed",
    "prepare_photo",
    "save_two_view",
]
