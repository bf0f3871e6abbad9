"""An encoder with a two-view head, for use."""

from PIL import Image
from torch import Tensor, nn

from alumnus.finetuning.backbone import Backbone
from alumnus.finetuning.head_model import HeadModel, HeadSpec
from alumnus.heads.two_view import TwoViewHead, TwoViewNetwork, ViewPrediction

__all__ = ["TwoViewModel"]


class TwoViewModel(HeadModel):
    """Two images to the points of both in the frame of the first camera, and descriptors.

    The two may differ in size; sides are whole patches.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, spec: HeadSpec) -> None:
        super().__init__(backbone, head, spec)
        assert isinstance(head, TwoViewHead), "the kind loads these"
        self.network = TwoViewNetwork(backbone.encoder(), head)
        self.encoder = self.network.encoder

    def prepare(self, picture: Image.Image) -> Tensor:  # [3, H, W]
        """The picture, its long side at the size that the head learned from."""
        return self.network.prepare(picture).images[0]

    def forward(
        self,
        images1: Tensor,  # [B, 3, H, W]
        images2: Tensor,  # [B, 3, H', W']
    ) -> tuple[ViewPrediction, ViewPrediction]:
        """Predictions for view 1 and view 2 of each pair."""
        predictions: tuple[ViewPrediction, ViewPrediction] = self.network(images1, images2)
        return predictions
