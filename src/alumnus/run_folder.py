"""The folder of a run: what lies where, and when a folder is refused."""

import errno
import fcntl
import json
import logging
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from alumnus.training.checkpoint import write_atomically

__all__ = ["RunFolder", "environment"]

log = logging.getLogger(__name__)

PACKAGES = ("alumnus", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder."""

    path: Path
    settings: str = "config.yaml"  # the name of its configuration, which tells its kind

    @property
    def config(self) -> Path:
        return self.path / self.settings

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def bad_images(self) -> Path:
        return self.path / "bad_images.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def licences(self) -> Path:
        return self.path / "licences.txt"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def check(
        self, config_yaml: str, *, resume: bool, overwrite: bool, before: str | None = None
    ) -> None:
        """ValueError, with nothing written, where a run may not use this folder.

        A resumed run has the configuration that it was started with: what the folder says, or
        `before`, where that is read otherwise.
        """
        if resume and overwrite:
            raise ValueError("--resume goes on with a run, --overwrite removes it: choose one")
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out={self.path} is a file, but a folder for the run was expected")
        if not self.path.is_dir() or all(p.name.startswith(".") for p in self.path.iterdir()):
            return
        is_run = self.config.is_file()
        if resume and not is_run:
            raise ValueError(f"{self.path} holds no run that could be resumed: no {self.settings}")
        held = before or (self.config.read_text() if is_run else "")
        if resume and _without_out(held) != _without_out(config_yaml):
            raise ValueError(
                f"the run in {self.path} has another configuration than this command: see its "
                f"{self.settings}; resume it with the same settings, or choose another out="
            )
        if not resume and not overwrite:
            raise ValueError(
                f"{self.path} is not empty: add --resume to go on, --overwrite to start again, "
                "or choose another out="
            )
        if overwrite and not is_run:
            raise ValueError(
                f"{self.path} is not a run of alumnus (no {self.settings}), so --overwrite does "
                "not remove it: choose another out="
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """This process alone works in the folder; ValueError where another one does already.

        The lock ends with its process, however that ends.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # data workers do not share it
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):  # a disk without locks
                    log.warning("%s cannot be locked: do not start another run there", self.path)
                else:
                    raise ValueError(
                        f"another run is writing to {self.path}: wait for it, stop it, or choose "
                        "another out="
                    ) from error
            yield

    def open(self, config_yaml: str, *, overwrite: bool) -> None:
        """Begin in the folder, or take it up; `check` and `held` come first."""
        if overwrite:
            for path in self.path.iterdir():
                if path.name == ".lock":
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not self.config.is_file():
            write_atomically(self.config, config_yaml)
            record = json.dumps(environment(), indent=1)
            write_atomically(self.path / "environment.json", record + "\n")

    @contextmanager
    def logged(self) -> Iterator[None]:
        """What the package says goes to log.txt too."""
        handler = logging.FileHandler(self.log)
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
        logger = logging.getLogger("alumnus")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(min(level or logging.INFO, logging.INFO))
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            handler.close()


def environment() -> dict[str, Any]:
    """Versions and hardware, for the record and for `alumnus doctor`."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _without_out(config_yaml: str) -> list[str]:
    return [line for line in config_yaml.splitlines() if not line.startswith("out:")]
