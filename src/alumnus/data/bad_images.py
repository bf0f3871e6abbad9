"""The broken images that a run has met: listed once each, counted, and too many of them refused."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from alumnus.data.batch import BadImage

__all__ = ["BadImages", "allowed_count"]

log = logging.getLogger(__name__)

AT_LEAST = 32  # broken images that stop no run, so that a small folder is not given up at once
EXAMPLES = 3  # named in the error


def allowed_count(max_bad: float, *, seen: int, images: int) -> int:
    """How many of the first `seen` images may be broken: a share, but at least 32 of `images`.

    Where there are fewer than 64 images, half of them; with `max_bad` 0 none.
    """
    if max_bad == 0:
        return 0
    return max(int(max_bad * seen), min(AT_LEAST, images // 2))


class BadImages:
    """Appends to bad_images.jsonl; `count` is that of different broken images, kept on resume.

    `images` is how many there are to learn from. Several processes of a run append to one file,
    and each counts what all have found. ValueError, when called, above `allowed_count` of the
    images met so far.
    """

    def __init__(self, path: Path, *, images: int, max_bad: float) -> None:
        self.path, self.images, self.max_bad = path, images, max_bad
        self._known: dict[tuple[str, str], int] = {}  # source and identity: first position
        self._read_bytes = 0
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # a kill cut the last line
            replacement = path.with_name(f".{path.name}.{os.getpid()}")
            replacement.write_bytes(whole)
            replacement.replace(path)

    @property
    def count(self) -> int:
        """Different broken images so far."""
        self._take_up_new_lines()
        return len(self._known)

    def __call__(self, bad: Sequence[BadImage]) -> None:
        """Take note of the broken images of a batch."""
        before = self.count
        new = {(b.source, b.identity): b for b in bad}
        new = {key: image for key, image in new.items() if key not in self._known}
        if not new:
            return
        with self.path.open("a") as file:
            file.write("".join(json.dumps(image._asdict()) + "\n" for image in new.values()))
        after = self.count
        if after.bit_length() > before.bit_length():  # the first one, and each doubling
            some = f"{after} broken image{'s' if after > 1 else ''}"
            log.warning("%s so far, replaced by others; see %s", some, self.path)
        self._refuse_too_many(seen=min(1 + max(self._known.values()), self.images))

    def _take_up_new_lines(self) -> None:
        """Whatever this process, another one or an earlier start has written."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            self._known.setdefault((record["source"], record["identity"]), record["position"])

    def _refuse_too_many(self, *, seen: int) -> None:
        if len(self._known) <= allowed_count(self.max_bad, seen=seen, images=self.images):
            return
        examples = ", ".join(repr(identity) for _, identity in list(self._known)[:EXAMPLES])
        raise ValueError(
            f"{len(self._known)} of the first {seen} images cannot be decoded, e.g. {examples} "
            f"(all of them, with reasons: {self.path}): repair or remove them, or raise "
            f"data.max_bad, which is {self.max_bad:g}"
        )
