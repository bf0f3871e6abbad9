"""All teachers of a run, on one batch: each at its own size and statistics, once, no gradients."""

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor

from alumnus.teachers.base import Teacher, match_images, resize_images, resolve_grid
from alumnus.tokens import Grid, Tokens, resize_grid

__all__ = ["TeacherBatch", "TeacherPool"]


class TeacherBatch(Protocol):
    """What the pool needs of a batch."""

    @property
    def images(self) -> Tensor: ...  # [B, C, H, W], the student's
    @property
    def teacher_images(self) -> Tensor: ...  # [B, 3, Ht, Wt], ImageNet-normalised


class TeacherPool:
    """Teachers by name, in the order given; `targets` is what the student has to match.

    Grid policy of each teacher, for its patch tokens:
    - `match`: the images are scaled by teacher patch / student patch, so both grids are the same.
    - `native`: it runs at its own size, then its map is resampled to the student's grid.
    - `pool`: it runs at its own size and keeps its coarser grid, to which predictions are brought.
    - `auto`: `pool` where its own grid is coarser than the student's, else `native`.
    """

    def __init__(self, teachers: Mapping[str, Teacher], student_patch_size: int) -> None:
        if not teachers:
            raise ValueError("a pool needs at least one teacher")
        self.teachers = dict(teachers)
        self.student_patch_size = student_patch_size

    def targets(self, batch: TeacherBatch) -> dict[str, Tokens]:
        """The teachers' tokens for a batch; one resize serves all teachers of one size."""
        grid = self.student_grid(*batch.images.shape[-2:])
        resized: dict[tuple[Grid, bool], Tensor] = {}
        tokens: dict[str, Tokens] = {}
        with torch.no_grad():
            for name, teacher in self.teachers.items():
                size, match = self._size(teacher, batch, grid), teacher.grid == "match"
                if (size, match) not in resized:
                    resize = match_images if match else resize_images
                    resized[size, match] = resize(batch.teacher_images, size)
                tokens[name] = self._on_grid(teacher, teacher.encode(resized[size, match]), grid)
        return tokens

    def student_grid(self, height: int, width: int) -> Grid:
        """Patches of the student on images of height x width px; ValueError where none fit."""
        if height % self.student_patch_size or width % self.student_patch_size:
            raise ValueError(
                f"images of {height}x{width} px do not divide into the student's patches of "
                f"{self.student_patch_size} px"
            )
        return height // self.student_patch_size, width // self.student_patch_size

    def probe(self, size: Grid, teacher_size: Grid | None = None) -> dict[str, Tokens]:
        """Targets of one blank image of `size` px: their shapes, and whether the policies fit.

        ValueError, in one sentence, for a grid policy that is impossible at this size.
        """
        return self.targets(_Blank(size, teacher_size or size, self.device))

    def subset(self, names: Collection[str]) -> "TeacherPool":
        """The pool of these teachers only."""
        chosen = {name: teacher for name, teacher in self.teachers.items() if name in names}
        return TeacherPool(chosen, self.student_patch_size)

    def to(self, device: torch.device | str) -> "TeacherPool":
        """Move the teachers that run on the device; the same pool."""
        for teacher in self.teachers.values():
            if teacher.runs_on == "device":
                teacher.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the teachers that run on the device have their weights; else the CPU."""
        live = (teacher for teacher in self.teachers.values() if teacher.runs_on == "device")
        weights = (p for teacher in live for p in teacher.parameters())
        return next((p.device for p in weights), torch.device("cpu"))

    def _size(self, teacher: Teacher, batch: TeacherBatch, grid: Grid) -> Grid:
        """The size in pixels at which a teacher sees the batch."""
        if teacher.grid == "match":
            return grid[0] * teacher.patch_size, grid[1] * teacher.patch_size
        return teacher.own_size(*batch.teacher_images.shape[-2:])

    def _on_grid(self, teacher: Teacher, tokens: Tokens, grid: Grid) -> Tokens:
        """The tokens on the grid that the teacher's policy asks for."""
        if tokens.grid is None or tokens.grid == grid:
            return tokens
        if teacher.grid == "match":
            raise ValueError(
                f"teacher {teacher.name} gives a grid of {tokens.grid[0]}x{tokens.grid[1]} where "
                f"the student has {grid[0]}x{grid[1]}, so grid=match is impossible; choose auto, "
                "native or pool"
            )
        policy = resolve_grid(teacher.grid, teacher=tokens.grid, student=grid, name=teacher.name)
        return tokens if policy == "pool" else resize_grid(tokens, grid)


class _Blank:
    """A batch of one blank image."""

    def __init__(self, size: Grid, teacher_size: Grid, device: torch.device) -> None:
        self.images = torch.zeros(1, 3, *size, device=device)
        self.teacher_images = torch.zeros(1, 3, *teacher_size, device=device)
