"""Protocols that score frozen features, and the suite that runs them for students and teachers."""

from alumnus.evaluation.features import FeatureFn, Features, extract_all, extract_features
from alumnus.evaluation.results import ModelKind, ModelRecord, Results, TaskRecord, TaskScore
from alumnus.evaluation.suite import CONSTANT, evaluate
from alumnus.evaluation.tasks import EvalModel, TaskKind, TaskSpec

__all__ = [
    "CONSTANT",
    "EvalModel",
    "FeatureFn",
    "Features",
    "ModelKind",
    "ModelRecord",
    "Results",
    "TaskKind",
    "TaskRecord",
    "TaskScore",
    "TaskSpec",
    "evaluate",
    "extract_all",
    "extract_features",
]
