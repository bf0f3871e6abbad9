"""Text files that appear whole, and names of pictures."""

from pathlib import Path

__all__ = ["check_picture", "write_text"]


def write_text(path: Path, text: str) -> Path:
    """Write a file; a reader sees the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    return partial.replace(path)


def check_picture(path: str | Path | None) -> None:
    """ValueError, one sentence, for a picture that is no .png; before it is drawn."""
    if path is not None and Path(path).suffix != ".png":
        raise ValueError(f"pictures are written as .png, so {str(path)!r} needs that ending")
