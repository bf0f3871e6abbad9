"""Images in: sources, mixtures of them, their order, augmentation, batches."""

from alumnus.data.augment import DUNE, UNIC, AugmentConfig, AugmentParams, crop_box, draw
from alumnus.data.bad_images import BadImages
from alumnus.data.batch import BadImage, Batch, Sample, Source, names_of
from alumnus.data.benchmarks import BENCHMARKS, Benchmark, shows_some_classes
from alumnus.data.decode import BrokenImageError
from alumnus.data.device_pixels import DevicePixels
from alumnus.data.drawn_sizes import DrawnSizes
from alumnus.data.folder import FolderSource
from alumnus.data.holdout import hold_out, split_indices
from alumnus.data.loader import Loader, make_loader, sweep
from alumnus.data.mixture import Location, Mixture, Sampling
from alumnus.data.packs import PackSource
from alumnus.data.pixels import Size, apply, eval_transform, eval_view
from alumnus.data.resident import Resident, resident_bytes
from alumnus.data.sources import open_source
from alumnus.data.subset import Subset
from alumnus.data.turned import Turned, Turning

__all__ = [
    "BENCHMARKS",
    "DUNE",
    "UNIC",
    "AugmentConfig",
    "AugmentParams",
    "BadImage",
    "BadImages",
    "Batch",
    "Benchmark",
    "BrokenImageError",
    "DevicePixels",
    "DrawnSizes",
    "FolderSource",
    "Loader",
    "Location",
    "Mixture",
    "PackSource",
    "Resident",
    "Sample",
    "Sampling",
    "Size",
    "Source",
    "Subset",
    "Turned",
    "Turning",
    "apply",
    "crop_box",
    "draw",
    "eval_transform",
    "eval_view",
    "hold_out",
    "make_loader",
    "names_of",
    "open_source",
    "resident_bytes",
    "shows_some_classes",
    "split_indices",
    "sweep",
]
