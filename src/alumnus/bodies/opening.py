"""A people network by its name: one that is shipped, a file of Multi-HMR, a folder."""

from pathlib import Path

from alumnus import hub
from alumnus.encoders import Encoder
from alumnus.finetuning.by_name import encoder_beside, finetuned, is_finetuned
from alumnus.finetuning.people.model import PeopleModel
from alumnus.heads.people import PeopleNetwork, load_multihmr, load_people_head
from alumnus.miniworld import teacher_folder
from alumnus.spelling import unknown

__all__ = ["NAMED", "load_people"]

NAMED = ("miniworld-people",)
FORMS = ("FOLDER", "FILE.pt", "https://...", "hf:ORG/REPO/FILE")


def load_people(name: str | Path, *, encoder: str | Path | Encoder | None = None) -> PeopleNetwork:
    """The people network of a name, in eval mode on the CPU.

    | `name` | its encoder |
    |---|---|
    | `miniworld-people` | the teacher that is shipped |
    | folder with people.safetensors, or that file | beside it, or `encoder` |
    | result of `alumnus finetune --head people` | the one it was trained on; `encoder` says where |
    | Multi-HMR's file (`.pt`), a URL, `hf:ORG/REPO/FILE` | within |

    `encoder` is whatever `alumnus evaluate` takes (a run, an encoder, a released checkpoint, a
    teacher), or an Encoder. ValueError, one sentence, for what is not there or does not fit.
    """
    if name in NAMED:
        return _of_folder(teacher_folder("people"), encoder)
    path = Path(name).expanduser()
    if is_finetuned(path):
        return finetuned(path, encoder, PeopleModel, what="people").network
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return _of_folder(path, encoder)
    if not path.is_file() and not str(name).startswith(hub.ELSEWHERE):
        raise unknown("people network", str(name), [*NAMED, *FORMS])
    if encoder is not None:
        raise ValueError(f"{name} holds its own encoder: leave encoder={encoder} out")
    return load_multihmr(name)


def _of_folder(path: Path, encoder: str | Path | Encoder | None) -> PeopleNetwork:
    head = load_people_head(path)
    return PeopleNetwork(encoder_beside(path, encoder), head).eval()
