"""Teachers beside their references' preprocessing."""

from typing import Any

import pytest

from alumnus.teachers import TEACHERS, Teacher, Traits
from alumnus.teachers.reference import difference, reference_preprocessing
from tiny_teachers import PatchMean


def teacher_with(**traits: Any) -> Teacher:
    known: dict[str, Any] = {"dim": 6, "patch_size": 8, "token_types": ("cls", "patch")}
    return Teacher(PatchMean(), Traits(**known | traits), name="t")


@pytest.mark.parametrize("name", [n for n, i in TEACHERS.items() if i.traits.reference])
def test_registered_teachers_are_run_as_their_references_state(name: str) -> None:
    traits = TEACHERS[name].traits
    assert traits.reference is not None
    assert reference_preprocessing(traits.reference) is not None
    assert difference(Teacher(PatchMean(), traits, name=name)) is None


def test_every_difference_is_in_one_sentence() -> None:
    reference = "torchvision:ResNet50_Weights.IMAGENET1K_V2"
    odd = teacher_with(input_size=64, mean=(0.5, 0.5, 0.5), reference=reference)
    assert difference(odd) == (
        f"teacher t is run otherwise than {reference} states: size 64 px instead of 224 px, mean "
        "0.5/0.5/0.5 instead of 0.485/0.456/0.406, bicubic instead of bilinear resizing"
    )


def test_a_teacher_without_size_or_reference_is_not_compared() -> None:
    assert difference(teacher_with(mean=(0.1, 0.1, 0.1))) is None
    dino = "timm:vit_base_patch16_224.dino"
    assert difference(teacher_with(input_size=None, reference=dino)) is None
    assert "size 64 px" in str(difference(teacher_with(input_size=64, reference=dino)))
    assert difference(teacher_with(reference="timm:not_in_this_timm")) is None
