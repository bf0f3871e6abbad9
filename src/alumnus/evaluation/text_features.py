"""Classes as text: the features of their names that images are compared with, in one file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alumnus.hub import read_state_dict
from alumnus.tensor_files import write_tensors

__all__ = ["TextFeatures", "load_text_features", "read_projection", "save_text_features"]

PROJECTIONS = {  # name in a checkpoint -> whether it is stored [P, D], as nn.Linear does
    "visual.proj": False,  # open_clip, OpenAI, MetaCLIP
    "visual_projection.weight": True,  # transformers
}


@dataclass(frozen=True, kw_only=True)
class TextFeatures:
    """One feature for each class, in the space that a CLIP-like teacher shares with its text."""

    classes: tuple[str, ...]
    text: Tensor  # [C, P], of length 1
    space: str  # the teacher in whose feature space images are given
    projection: Tensor | None = None  # [D, P], from the teacher's features to the text's

    def similarity(self, features: Tensor) -> Tensor:  # [n, D] -> [n, C]
        """Cosines of image features, taken before the teacher's output projection, with classes.

        ValueError for features of another width.
        """
        wanted = self.text.shape[1] if self.projection is None else self.projection.shape[0]
        if features.shape[1] != wanted:
            raise ValueError(
                f"the text features are for image features of {self.space!r} with {wanted} "
                f"dimensions, not {features.shape[1]}"
            )
        projected = features if self.projection is None else features @ self.projection
        return F.normalize(projected, dim=1) @ self.text.T

    def predict(
        self,
        features: Tensor,  # [n, D]
        *,
        among: Tensor | None = None,  # numbers of the classes to choose from; None: all
    ) -> Tensor:  # [n], int64
        """The most similar class."""
        similarity = self.similarity(features.float())
        if among is not None:
            allowed = torch.zeros(len(self.classes), dtype=torch.bool)
            allowed[among] = True
            similarity = similarity.masked_fill(~allowed, -torch.inf)
        return similarity.argmax(dim=1)


def save_text_features(
    path: Path,
    text: Tensor,  # [C, P], or [C, T, P]: of T prompts a class
    classes: Sequence[str],
    *,
    space: str,
    projection: Tensor | None = None,  # [D, P]
) -> TextFeatures:
    """Write what `load_text_features` reads: tensors "text" and "projection", JSON metadata.

    Prompts of a class are averaged after each is brought to length 1, and so is the mean.

    Source: the prompt ensemble of CLIP (arXiv 2103.00020, section 3.1.4).
    """
    if len(text) != len(classes) or text.ndim not in (2, 3):
        raise ValueError(
            f"text features have shape {list(text.shape)}, but should be [{len(classes)}, P] or "
            f"[{len(classes)}, prompts, P] for {len(classes)} classes"
        )
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise ValueError(f"the class {twice!r} is there twice")
    if projection is not None and projection.shape[1:] != text.shape[-1:]:
        raise ValueError(
            f"the projection has shape {list(projection.shape)}, but should end in the text's "
            f"{text.shape[-1]} dimensions"
        )
    prompts = F.normalize(text.float(), dim=-1)
    mean = prompts if text.ndim == 2 else F.normalize(prompts.mean(dim=1), dim=-1)
    tensors = {"text": mean.contiguous()}
    if projection is not None:
        tensors["projection"] = projection.float().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    metadata = {"classes": json.dumps(list(classes)), "space": space}
    write_tensors(tensors, partial, metadata=metadata)
    partial.replace(path)
    return TextFeatures(
        classes=tuple(classes),
        text=mean,
        space=space,
        projection=tensors.get("projection"),
    )


def load_text_features(path: str | Path) -> TextFeatures:
    """Read what `save_text_features` wrote; ValueError for anything else."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"there is no file of text features {str(path)!r}: alumnus text makes one")
    try:
        with safe_open(file, framework="pt") as held:
            metadata = held.metadata() or {}
            tensors: dict[str, Tensor] = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
        classes = tuple(str(name) for name in json.loads(metadata["classes"]))
        text, space = tensors["text"], metadata["space"]
    except (SafetensorError, LookupError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{str(path)!r} holds no text features: expected .safetensors with the tensor text "
            "[C, P] and the metadata classes and space, as alumnus text writes"
        ) from error
    if len(text) != len(classes):
        raise ValueError(f"{str(path)!r} has {len(text)} text features for {len(classes)} classes")
    return TextFeatures(
        classes=classes,
        text=F.normalize(text.float(), dim=-1),
        space=space,
        projection=tensors.get("projection"),
    )


def read_projection(path: str | Path) -> Tensor:  # [D, P]
    """The output projection of a CLIP checkpoint, of which nothing is executed.

    In the layouts of open_clip and OpenAI (`visual.proj`) and of transformers.
    """
    state = read_state_dict(Path(path).expanduser())
    for name, transposed in PROJECTIONS.items():
        if name in state:
            held = state[name].float()
            return held.T.contiguous() if transposed else held
    raise ValueError(
        f"{str(path)!r} has no output projection of a CLIP model ({', '.join(PROJECTIONS)})"
    )
