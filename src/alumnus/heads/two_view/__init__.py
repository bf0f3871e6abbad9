"""Two views of a scene: points of both in one frame, confidences, descriptors to match."""

from alumnus.heads.two_view.files import load_two_view, save_two_view
from alumnus.heads.two_view.head import TwoViewHead
from alumnus.heads.two_view.predictions import ConfidenceRange, ViewPrediction
from alumnus.heads.two_view.spec import TwoViewSpec

__all__ = [
    "ConfidenceRange",
    "TwoViewHead",
    "TwoViewSpec",
    "ViewPrediction",
    "load_two_view",
    "save_two_view",
]
