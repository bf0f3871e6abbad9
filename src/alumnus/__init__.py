"""alumnus: distil many vision models into one universal encoder.

import alumnus
alumnus.distill("folder", data={"train": "photos"}, out="runs/photos")
encoder = alumnus.load("runs/photos")
tokens = encoder(images).final
"""

from alumnus.api import DistillResult, cache, distill, evaluate, show_config
from alumnus.encoders import Encoder
from alumnus.runs import LoadedStudent, load
from alumnus.tokens import EncoderOutput, Tokens

__version__ = "0.1.0"

__all__ = [
    "DistillResult",
    "Encoder",
    "EncoderOutput",
    "LoadedStudent",
    "Tokens",
    "__version__",
    "cache",
    "distill",
    "evaluate",
    "load",
    "show_config",
]
