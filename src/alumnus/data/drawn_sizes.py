"""Image sizes drawn at random: one side for all images of a step, on every rank."""

from typing import NamedTuple

from alumnus.randomness import derive_seed

__all__ = ["DrawnSizes"]


class DrawnSizes(NamedTuple):
    """`at(position)`: a pure function of the seed and the step that the position belongs to.

    Each side is as likely as the others; one that is listed twice comes twice as often.
    """

    sides_px: tuple[int, ...]
    step_images: int  # images of a step: of all its micro-batches, over all ranks
    seed: int = 0

    def at(self, position: int) -> int:  # px
        """The side of the images of a step, of which `position` is one."""
        step = position // self.step_images
        return self.sides_px[derive_seed(self.seed, step, "image size") % len(self.sides_px)]
