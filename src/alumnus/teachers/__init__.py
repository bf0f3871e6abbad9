"""Frozen, pretrained models that a student learns from, each behind one small adapter."""

from alumnus.hub import UnavailableError
from alumnus.teachers.base import GRID_POLICIES, GridPolicy, Teacher, Traits
from alumnus.teachers.registry import (
    TEACHERS,
    TeacherInfo,
    list_teachers,
    load_teacher,
    teacher_name,
)

__all__ = [
    "GRID_POLICIES",
    "TEACHERS",
    "GridPolicy",
    "Teacher",
    "TeacherInfo",
    "Traits",
    "UnavailableError",
    "list_teachers",
    "load_teacher",
    "teacher_name",
]
