"""alumnus: distil many vision models into one universal encoder.

import alumnus
alumnus.distill("folder", data={"train": "photos"}, out="runs/photos")
encoder = alumnus.load("runs/photos")
tokens = encoder(images).final
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alumnus.api import (
        DemoResult,
        DistillResult,
        FinetuneResult,
        PhotoMatches,
        Reconstruction,
        cache,
        compare,
        demo,
        diagnose,
        distill,
        evaluate,
        export,
        extract,
        finetune,
        get,
        match,
        people,
        plan,
        reconstruct,
        replay,
        show_config,
        text,
    )
    from alumnus.bodies import FoundPeople, load_people
    from alumnus.encoders import Encoder
    from alumnus.finetuning import HeadModel, load_head
    from alumnus.plans import Plan
    from alumnus.runs import LoadedStudent, load
    from alumnus.scenes import load_two_view
    from alumnus.tokens import EncoderOutput, Tokens

__version__ = "0.1.0"

__all__ = [
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

_HOME = {
    "Encoder": "encoders",
    "EncoderOutput": "tokens",
    "FoundPeople": "bodies",
    "HeadModel": "finetuning",
    "LoadedStudent": "runs",
    "Tokens": "tokens",
    "Plan": "plans",
    "load": "runs",
    "load_head": "finetuning",
    "load_people": "bodies",
    "load_two_view": "scenes",
}


class _Package(ModuleType):
    """Keeps `alumnus.distill` the function: importing the module of that name would hide it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: `import alumnus` itself costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'alumnus' has no attribute {name!r}")
    return getattr(importlib.import_module(f"alumnus.{_HOME.get(name, 'api')}"), name)
