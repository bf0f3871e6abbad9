"""alumnus: distil many vision models into one universal encoder.

import alumnus
alumnus.distill("folder", data={"train": "photos"}, out="runs/photos")
encoder = alumnus.load("runs/photos")
tokens = encoder(images).final
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alumnus.api import (
        DemoResult,
        DistillResult,
        cache,
        demo,
        distill,
        evaluate,
        extract,
        get,
        show_config,
    )
    from alumnus.encoders import Encoder
    from alumnus.runs import LoadedStudent, load
    from alumnus.tokens import EncoderOutput, Tokens

__version__ = "0.1.0"

__all__ = [
    "DemoResult",
    "DistillResult",
    "Encoder",
    "EncoderOutput",
    "LoadedStudent",
    "Tokens",
    "__version__",
    "cache",
    "demo",
    "distill",
    "evaluate",
    "extract",
    "get",
    "load",
    "show_config",
]

_HOME = {
    "Encoder": "encoders",
    "EncoderOutput": "tokens",
    "LoadedStudent": "runs",
    "Tokens": "tokens",
    "load": "runs",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: `import alumnus` itself costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'alumnus' has no attribute {name!r}")
    return getattr(importlib.import_module(f"alumnus.{_HOME.get(name, 'api')}"), name)
