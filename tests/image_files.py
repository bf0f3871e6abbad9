"""Small image files, folders and packs for tests of the data."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Sampled = Mapping[str, bytes]  # extension to content


def picture(seed: int, *, width: int = 40, height: int = 30) -> Image.Image:
    """A smooth random RGB image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    """The image as a file's content."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_folder(folder: Path, names: Sequence[str]) -> Path:
    """One JPEG for each relative path."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number), "PNG" if name.endswith(".png") else "JPEG"))
    return folder


def write_pack(
    folder: Path,
    splits: Mapping[str, Sequence[Sampled]],
    *,
    classes: Sequence[str] | None = None,
    packed: bool = False,
    per_shard: int = 4,
) -> Path:
    """A pack of these samples, keyed 000000, 000001, ... within each split."""
    folder.mkdir(parents=True, exist_ok=True)
    listed: dict[str, object] = {}
    for split, samples in splits.items():
        shards = []
        for start in range(0, len(samples), per_shard):
            part = samples[start : start + per_shard]
            file = f"{split}-{start // per_shard:05d}.tar"
            _write_tar(folder / file, {f"{start + i:06d}": s for i, s in enumerate(part)})
            if packed:
                (folder / f"{file}.gz").write_bytes(gzip.compress((folder / file).read_bytes()))
                (folder / file).unlink()
                file += ".gz"
            shards.append({"file": file, "samples": len(part)})
        listed[split] = {"samples": len(samples), "shards": shards}
    index: dict[str, object] = {"name": folder.name, "splits": listed}
    if classes is not None:
        index["classes"] = list(classes)
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def _write_tar(path: Path, samples: Mapping[str, Sampled]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
