"""An encoder with a people head, for use."""

from PIL import Image
from torch import Tensor, nn

from alumnus.finetuning.backbone import Backbone
from alumnus.finetuning.head_model import HeadModel, HeadSpec
from alumnus.heads.people import People, PeopleHead, PeopleNetwork
from alumnus.heads.people.head import THRESHOLD
from alumnus.heads.people.photos import prepare_square

__all__ = ["PeopleModel"]


class PeopleModel(HeadModel):
    """Square images to the people in them; for photographs see `alumnus.people`."""

    def __init__(self, backbone: Backbone, head: nn.Module, spec: HeadSpec) -> None:
        super().__init__(backbone, head, spec)
        assert isinstance(head, PeopleHead), "the kind loads these"
        self.network = PeopleNetwork(backbone.encoder(), head)
        self.encoder = self.network.encoder

    def prepare(self, picture: Image.Image) -> Tensor:  # [3, S, S]
        """The picture fitted into the head's square, the rest black."""
        return prepare_square(picture, side_px=self.spec.size_px).images[0]

    def forward(
        self,
        images: Tensor,  # [B, 3, S, S]
        K: Tensor | None = None,  # [B, 3, 3] pixels; None: 60 degrees, centred
        *,
        threshold: float = THRESHOLD,
    ) -> People:
        """Those whose score reaches the threshold."""
        people: People = self.network(images, K, threshold=threshold)
        return people
