"""A two-view network by its name: one that is shipped, a file of MASt3R, a folder."""

import logging
import re
from pathlib import Path

from alumnus import hub
from alumnus.encoders import Encoder
from alumnus.finetuning.by_name import encoder_beside, finetuned, is_finetuned
from alumnus.finetuning.two_view.model import TwoViewModel
from alumnus.heads.two_view import TwoViewNetwork, load_two_view_head
from alumnus.heads.two_view.released import build_dune_mast3r, build_mast3r, read_mast3r
from alumnus.miniworld import teacher_folder
from alumnus.spelling import unknown
from alumnus.teachers import fetch_weights, open_encoder
from alumnus.tensor_files import read_description

__all__ = ["NAMED", "load_two_view"]

log = logging.getLogger(__name__)

NAMED = ("mast3r-vitl16", "miniworld-rooms")
FORMS = ("FOLDER", "FILE.pth", "FILE.safetensors", "https://...", "hf:ORG/REPO/FILE")


def load_two_view(
    name: str | Path, *, encoder: str | Path | Encoder | None = None
) -> TwoViewNetwork:
    """The two-view network of a name, in eval mode on the CPU.

    - MASt3R's file (`.pth`, `.safetensors`, a URL, `hf:ORG/REPO/FILE`), or `mast3r-vitl16`
      (kept by `alumnus get mast3r-vitl16 --file PATH`, else fetched): its encoder is within
    - DUNE-MASt3R's file, which holds no encoder but names the one that it was trained on
    - a folder with two_view.safetensors, or that file; `miniworld-rooms`: the encoder is beside it
    - a result of `alumnus finetune --head two-view`, which knows its encoder

    `encoder` says which, or where it is now: whatever `alumnus evaluate` takes (a run, an encoder,
    a released checkpoint, a teacher), or an Encoder. ValueError, one sentence, for what is not
    there or does not fit.
    """
    if str(name) == "miniworld-rooms":
        return _of_folder(teacher_folder("rooms"), encoder)
    if str(name) == "mast3r-vitl16":
        name = fetch_weights("mast3r-vitl16")
    path = Path(name).expanduser()
    if is_finetuned(path):
        return finetuned(path, encoder, TwoViewModel, what="two views").network
    if path.is_dir() or _is_head(path):
        return _of_folder(path, encoder)
    if not path.is_file() and not str(name).startswith(hub.ELSEWHERE):
        raise unknown("two-view network", str(name), [*NAMED, *FORMS])
    released = read_mast3r(name)
    if released.is_dune:
        if encoder is None:
            asked = f", which should be {released.encoder!r}" if released.encoder else ""
            raise ValueError(f"{path} holds no encoder: name one with encoder=FILE{asked}")
        _compare_names(released.encoder, encoder)
        return build_dune_mast3r(released, open_encoder(encoder))
    if encoder is not None:
        raise ValueError(f"{path} holds its own encoder: leave encoder={encoder} out")
    return build_mast3r(released)


def _of_folder(path: Path, encoder: str | Path | Encoder | None) -> TwoViewNetwork:
    head = load_two_view_head(path)
    return TwoViewNetwork(encoder_beside(path, encoder, asked=head.spec.encoder_name), head).eval()


def _is_head(path: Path) -> bool:
    """Whether it is a file of a two-view head alone."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        read_description(path, "two_view")
    except ValueError:
        return False
    return True


def _compare_names(named: str | None, encoder: str | Path | Encoder) -> None:
    """A warning where the name of a released file speaks of other weights."""
    if named is None or isinstance(encoder, Encoder):
        return
    file = Path(encoder).stem
    asked, given = (re.sub(r"_|encoder", "", text) for text in (named, file))
    if given.startswith("dune") and given != asked:
        log.warning("the head was trained on the encoder %r, but this is %r", named, file)
