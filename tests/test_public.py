"""What is public is listed, is there, and costs nothing but its import."""

import importlib
import json
import subprocess
import sys
from typing import Any, cast

import pytest

import alumnus

PUBLIC = [
    "DemoResult",
    "DistillResult",
    "Encoder",
    "EncoderOutput",
    "FinetuneResult",
    "FoundPeople",
    "HeadModel",
    "LoadedStudent",
    "PhotoMatches",
    "Plan",
    "Reconstruction",
    "Tokens",
    "__version__",
    "cache",
    "compare",
    "demo",
    "diagnose",
    "distill",
    "evaluate",
    "export",
    "extract",
    "finetune",
    "get",
    "load",
    "load_head",
    "load_people",
    "load_two_view",
    "match",
    "people",
    "plan",
    "reconstruct",
    "replay",
    "show_config",
    "text",
    "visualize",
]

# In a fresh interpreter: here everything has been imported before.
LOOK = """
import importlib, json, pkgutil, sys
import alumnus
light = "torch" not in sys.modules

import torch
def settings():
    return {
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "gradients": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        "matmul": torch.get_float32_matmul_precision(),
        "sdpa": [torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()],
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "random": torch.get_rng_state().tolist(),
    }

torch.manual_seed(5)
before = settings()
modules = {}
for info in pkgutil.walk_packages(alumnus.__path__, "alumnus."):
    module = importlib.import_module(info.name)
    names = getattr(module, "__all__", None)
    missing = [name for name in names or () if not hasattr(module, name)]
    modules[info.name] = {"listed": names is not None or info.ispkg, "missing": missing}
after = settings()
changed = [name for name in before if before[name] != after[name]]
print(json.dumps({"light": light, "modules": modules, "changed": changed}))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=240
    )
    return cast(dict[str, Any], json.loads(done.stdout))


def test_the_public_names_are_those_committed() -> None:
    assert sorted(alumnus.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(alumnus, name) is not None


@pytest.mark.parametrize("name", ["distill", "export"])
def test_a_function_is_not_hidden_by_the_module_of_its_name(name: str) -> None:
    importlib.import_module(f"alumnus.{name}")
    assert getattr(alumnus, name) is getattr(importlib.import_module("alumnus.api"), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'distil'"):
        _ = alumnus.distil


def test_every_module_lists_names_that_it_has(seen: dict[str, Any]) -> None:
    unlisted = [name for name, module in seen["modules"].items() if not module["listed"]]
    missing = {name: m["missing"] for name, m in seen["modules"].items() if m["missing"]}
    assert unlisted == []
    assert missing == {}


def test_importing_alumnus_alone_does_not_import_torch(seen: dict[str, Any]) -> None:
    assert seen["light"]


def test_importing_everything_changes_no_setting_of_torch(seen: dict[str, Any]) -> None:
    assert seen["changed"] == []
