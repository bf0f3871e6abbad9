"""Frozen, pretrained models that a student learns from, each behind one small adapter."""

from alumnus.hub import UnavailableError
from alumnus.teachers.as_encoder import as_encoder, open_encoder
from alumnus.teachers.base import GRID_POLICIES, GridPolicy, Teacher, Traits
from alumnus.teachers.cache import CachedTeachers, FeatureCache
from alumnus.teachers.catalogue import TEACHERS, TeacherInfo
from alumnus.teachers.in_workers import PoolWithWorkers
from alumnus.teachers.pool import TeacherPool
from alumnus.teachers.registry import (
    check_teacher,
    fetch_weights,
    keep_weights,
    known_terms,
    list_teachers,
    load_teacher,
    teacher_name,
)

__all__ = [
    "GRID_POLICIES",
    "TEACHERS",
    "CachedTeachers",
    "FeatureCache",
    "GridPolicy",
    "PoolWithWorkers",
    "Teacher",
    "TeacherInfo",
    "TeacherPool",
    "Traits",
    "UnavailableError",
    "as_encoder",
    "check_teacher",
    "fetch_weights",
    "keep_weights",
    "known_terms",
    "list_teachers",
    "load_teacher",
    "open_encoder",
    "teacher_name",
]
