"""A people network by its name: one that is shipped, a file of Multi-HMR, a folder."""

from pathlib import Path

from alumnus import hub
from alumnus.encoders import Encoder
from alumnus.finetuning.head_files import load_head
from alumnus.finetuning.people.model import PeopleModel
from alumnus.hardware import choose_device
from alumnus.heads.people import PeopleNetwork, load_multihmr, load_people_head
from alumnus.miniworld import teacher_folder
from alumnus.runs import is_encoder
from alumnus.spelling import unknown
from alumnus.teachers import open_encoder

__all__ = ["NAMED", "load_people", "opened_network"]

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
    if (path / "head.json").is_file():
        return _finetuned(path, encoder)
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return _of_folder(path, encoder)
    if not path.is_file() and not str(name).startswith(hub.ELSEWHERE):
        raise unknown("people network", str(name), [*NAMED, *FORMS])
    if encoder is not None:
        raise ValueError(f"{name} holds its own encoder: leave encoder={encoder} out")
    return load_multihmr(name)


def opened_network(
    model: str | Path | PeopleNetwork, encoder: str | None, device: str
) -> PeopleNetwork:
    """A network by name on a device ("auto": the accelerator, if any); one that is open stays."""
    if isinstance(model, PeopleNetwork):
        return model
    chosen = choose_device(device)
    return load_people(model, encoder=encoder).to(chosen)


def _of_folder(path: Path, encoder: str | Path | Encoder | None) -> PeopleNetwork:
    head = load_people_head(path)
    beside = path if path.is_dir() else path.parent
    if encoder is None and not is_encoder(beside):
        raise ValueError(f"there is no encoder beside {path}: name one with encoder=PATH")
    return PeopleNetwork(open_encoder(beside if encoder is None else encoder), head).eval()


def _finetuned(path: Path, encoder: str | Path | Encoder | None) -> PeopleNetwork:
    if isinstance(encoder, Encoder):
        raise ValueError(f"{path} knows its encoder: leave encoder= out, or say where it is now")
    model = load_head(path, encoder=None if encoder is None else str(encoder))
    if not isinstance(model, PeopleModel):
        raise ValueError(f"{path} holds a head for {model.spec.kind}, not for people")
    return model.network
