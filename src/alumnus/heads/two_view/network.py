"""An encoder and a two-view head as one network: images of two views in, predictions out.

Axes: B pairs, H W pixels of view 1, H' W' of view 2.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from alumnus.encoders import Encoder
from alumnus.heads.two_view.head import TwoViewHead
from alumnus.heads.two_view.photos import Photo, prepare_photo
from alumnus.heads.two_view.predictions import ViewPrediction
from alumnus.tokens import Tokens

__all__ = ["TwoViewNetwork"]

Pair = tuple[ViewPrediction, ViewPrediction]


class TwoViewNetwork(nn.Module):
    """Points of two images in the frame of the first one, confidences and descriptors.

    Images come ImageNet-normalised, as everywhere in alumnus; an encoder with other statistics
    brings them to its own. The head sees the encoder's final tokens, or with a bridge those before
    the encoder's final norm. ValueError for a head of another encoder.

    Source: MASt3R (arXiv 2406.09756); with a bridge DUNE (arXiv 2503.14405).
    """

    def __init__(self, encoder: Encoder, head: TwoViewHead) -> None:
        super().__init__()
        if (encoder.dim, encoder.patch_size) != (head.spec.encoder_dim, head.spec.patch_size):
            raise ValueError(
                f"the two-view head is for an encoder of width {head.spec.encoder_dim} and patches "
                f"of {head.spec.patch_size} px, not {encoder.dim} and {encoder.patch_size} px"
            )
        self.encoder, self.head = encoder, head
        self.image_size = head.spec.image_size or encoder.image_size

    def prepare(self, photo: str | Path | Image.Image) -> Photo:
        """A photograph at the size that the network looks at; see `prepare_photo`."""
        return prepare_photo(
            photo,
            patch_size=self.head.spec.patch_size,
            long_side_px=self.image_size,
            squares=self.head.spec.squares,
        )

    def forward(
        self,
        images1: Tensor,  # [B, 3, H, W]
        images2: Tensor,  # [B, 3, H', W']
    ) -> Pair:
        """Predictions for view 1 and view 2 of each pair."""
        predictions: Pair = self.head(*self.encode(images1, images2))
        return predictions

    def both_ways(self, images1: Tensor, images2: Tensor) -> tuple[Pair, Pair]:
        """As `forward`, and with the roles of the views swapped; images are encoded once.

        The second result is that of `network(images2, images1)`.
        """
        view1, view2 = self.encode(images1, images2)
        return self.head(view1, view2), self.head(view2, view1)

    def encode(self, images1: Tensor, images2: Tensor) -> tuple[Tokens, Tokens]:
        """The tokens that the head sees; views of one size go through the encoder together."""
        if images1.shape[1:] != images2.shape[1:]:
            return self.tokens(images1), self.tokens(images2)
        both = self.tokens(torch.cat([images1, images2]))
        first, second = both.of("patch").split([len(images1), len(images2)])
        return both._replace(patches=first), both._replace(patches=second)

    def tokens(self, images: Tensor) -> Tokens:  # [B, 3, H, W]
        """The tokens of one view that the head sees."""
        output = self.encoder(images)
        tokens: Tokens = output.prenorm if self.head.spec.bridge else output.final
        return tokens.only(("patch",))
