"""Class names through the text tower of a CLIP-like model of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DEFAULT_TEMPLATES", "encode_classes", "read_classes", "read_templates"]

DEFAULT_TEMPLATES = ("a photo of a {}.",)  # CLIP's own default prompt
PLACE = "{}"  # of the name in a template


def read_classes(path: str | Path) -> dict[str, str]:
    """Words for each class, from lines `CLASS` or `CLASS<tab>WORDS`.

    CLASS is the name that the images' source has for it, such as a folder's; underscores of a
    class without words become spaces. ValueError for a class that is there twice.
    """
    classes: dict[str, str] = {}
    for line in _lines(path, "classes"):
        name, tab, words = line.partition("\t")
        name = name.strip()
        if name in classes:
            raise ValueError(f"the class {name!r} is there twice in {str(path)!r}")
        classes[name] = words.strip() if tab else name.replace("_", " ")
    return classes


def read_templates(path: str | Path) -> tuple[str, ...]:
    """Prompts, a line each, with {} where the words of the class go."""
    templates = tuple(_lines(path, "templates"))
    if odd := [t for t in templates if t.count(PLACE) != 1]:
        raise ValueError(f"the template {odd[0]!r} in {str(path)!r} has not exactly one {PLACE}")
    return templates


def encode_classes(
    model: str,  # folder or hub id of a CLIP or SigLIP model of transformers
    words: Sequence[str],
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor | None]:  # [C, T, P] of length 1; the output projection [D, P]
    """Text features of each class in each prompt, and what images go through to meet them.

    Prompts of SigLIP models are in lower case, as the text was that they learned from.
    ValueError, one sentence, where transformers or the model cannot be had.
    """
    tower, tokenizer = _open(model)
    length = int(tower.config.text_config.max_position_embeddings)
    prompts = [template.replace(PLACE, word) for word in words for template in templates]
    if str(tower.config.model_type).startswith("siglip"):
        prompts = [prompt.lower() for prompt in prompts]
    features: list[Tensor] = []
    for start in range(0, len(prompts), batch_size):
        tokens = tokenizer(
            prompts[start : start + batch_size],
            padding="max_length",  # what SigLIP was trained with; CLIP's mask leaves it out
            max_length=length,
            truncation=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            found = tower.get_text_features(**tokens)
        held: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        features.append(F.normalize(held.float(), dim=1))
    projection = getattr(tower, "visual_projection", None)
    return (
        torch.cat(features).unflatten(0, (len(words), len(templates))),
        None if projection is None else projection.weight.detach().T.contiguous().float(),
    )


def _open(model: str) -> tuple[Any, Any]:
    try:
        from transformers import AutoModel, AutoTokenizer
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ValueError("text towers need transformers: pip install 'alumnus[hf]'") from error
    try:
        tower, tokenizer = AutoModel.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"the text tower {model!r} cannot be had: {why[:300]}") from error
    if not hasattr(tower, "get_text_features"):
        raise ValueError(
            f"{model!r} is a {type(tower).__name__}, which has no text tower; expected a CLIP or "
            "SigLIP model"
        )
    return tower.eval(), tokenizer


def _lines(path: str | Path, what: str) -> list[str]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"there is no file of {what} {str(path)!r}")
    lines = [line.strip() for line in file.read_text().splitlines()]
    if not any(lines):
        raise ValueError(f"the file of {what} {str(path)!r} is empty")
    return [line for line in lines if line]
