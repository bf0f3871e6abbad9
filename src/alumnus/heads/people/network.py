"""An encoder and a people head as one network: pictures in, people out."""

from collections.abc import Callable

from torch import Tensor, nn

from alumnus.encoders import Encoder
from alumnus.heads.people.camera import default_intrinsics
from alumnus.heads.people.head import THRESHOLD, People, PeopleHead
from alumnus.heads.people.regressor import Cells

__all__ = ["PeopleNetwork"]


class PeopleNetwork(nn.Module):
    """Everyone in square pictures: place, pose and shape.

    The head sees the encoder's patch tokens after its final norm. ValueError for a head of another
    encoder.

    Source: Multi-HMR (arXiv 2402.14654).
    """

    def __init__(self, encoder: Encoder, head: PeopleHead) -> None:
        super().__init__()
        if (encoder.dim, encoder.patch_size) != (head.spec.dim, head.spec.patch_size):
            raise ValueError(
                f"the people head is for an encoder of width {head.spec.dim} and patches of "
                f"{head.spec.patch_size} px, not {encoder.dim} and {encoder.patch_size} px"
            )
        self.encoder, self.head = encoder, head

    def forward(
        self,
        images: Tensor,  # [B, 3, H, H], ImageNet-normalised, of the head's side
        K: Tensor | None = None,  # [B, 3, 3] pixels; None: 60 degrees, centred
        cells: Cells | Callable[[Tensor], Cells] | None = None,
        *,
        threshold: float = THRESHOLD,
    ) -> People:
        """The people at `cells`, else those whose score reaches the threshold.

        `cells` may also be a function that takes them from the scores [B, h, w], as `surest`.
        """
        side = self.head.spec.side_px
        if images.shape[-2:] != (side, side):
            raise ValueError(
                f"the people head takes squares of {side} px, not images of "
                f"{images.shape[-1]} x {images.shape[-2]} px"
            )
        if K is None:
            K = default_intrinsics(side).to(images).expand(len(images), 3, 3)
        if K.shape != (len(images), 3, 3):
            raise ValueError(
                f"K has shape {tuple(K.shape)}, but should be [{len(images)}, 3, 3]: intrinsics of "
                "each image"
            )
        patches = self.encoder(images).final.of("patch")
        people: People = self.head(patches, K, cells, threshold=threshold)
        return people
