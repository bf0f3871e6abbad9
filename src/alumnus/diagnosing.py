"""How a student stands to its teachers: `alumnus diagnose RUN data=FOLDER`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from alumnus.data import Source, Subset
from alumnus.evaluation.cka import linear_cka
from alumnus.evaluation.features import extract_all
from alumnus.evaluation.held_out import spread
from alumnus.evaluation.rungs import RungShare, RungShares
from alumnus.evaluation.sampled import sample_tokens
from alumnus.evaluation.signals import effective_rank
from alumnus.evaluation.tasks import EvalModel
from alumnus.images import luminance
from alumnus.projectors import Ladder
from alumnus.report.diagnosis import diagnosis_picture
from alumnus.report.heat_map import Matrix
from alumnus.report.table import Table, plain
from alumnus.runs import LoadedStudent
from alumnus.text_files import write_text
from alumnus.tokens import EncoderOutput, Tokens

__all__ = ["Diagnosis", "diagnose_student"]

LEVELS = ("image", "patch")

Rungs = dict[str, dict[int, RungShare]]  # "teacher cls", "teacher patch" -> block


@dataclass(frozen=True)
class Diagnosis:
    """What was found on some images; rows of `cka` are all models, by level."""

    run: str
    source: str
    images: int
    kinds: dict[str, str]  # model -> teacher, student, projected or baseline
    cka: dict[str, Matrix]  # level -> model -> model
    effective_rank: dict[str, float]  # of the image-level features
    rungs: Rungs = field(repr=False)

    @property
    def teachers(self) -> list[str]:
        """Columns of the table."""
        return [name for name, kind in self.kinds.items() if kind == "teacher"]

    def __str__(self) -> str:
        """Tables for a terminal."""
        said = []
        for level, matrix in self.cka.items():
            columns = [name for name in self.teachers if name in matrix]
            header = (f"CKA of {level} features", *columns, "rank")
            rows = tuple(
                (name, *(f"{matrix[name][t]:.2f}" for t in columns), self._rank(name, level))
                for name in matrix
            )
            said.append(plain(Table(header, rows)))
        if self.rungs:
            blocks = sorted({block for shares in self.rungs.values() for block in shares})
            header = ("share of block, %", *map(str, blocks))
            rows = tuple(
                (name, *(f"{100 * shares[b].share:.0f}" if b in shares else "-" for b in blocks))
                for name, shares in self.rungs.items()
            )
            said.append(plain(Table(header, rows)))
        else:
            said.append("The projectors are no ladders: there are no rungs to weigh.\n")
        return "\n".join(said).rstrip()

    def _rank(self, name: str, level: str) -> str:
        return f"{self.effective_rank[name]:.0f}" if level == "image" else ""

    def draw(self, path: Path) -> Path:
        """Write the picture (PNG)."""
        shares: Matrix = {
            name: {str(block): rung.share for block, rung in held.items()}
            for name, held in self.rungs.items()
        }
        return diagnosis_picture(self.cka, self.teachers, shares, path)

    def to_json(self) -> str:
        """Everything that was measured."""
        found = {
            "format": "alumnus-diagnosis/1",
            "run": self.run,
            "source": self.source,
            "images": self.images,
            "models": self.kinds,
            "cka": self.cka,
            "effective_rank": self.effective_rank,
            "rungs": {
                name: {str(block): asdict(rung) for block, rung in held.items()}
                for name, held in self.rungs.items()
            },
        }
        return json.dumps(found, indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write it; a file that is there already is replaced by a whole one."""
        write_text(path, self.to_json())


def diagnose_student(
    name: str,
    loaded: LoadedStudent,
    models: Sequence[EvalModel],  # rows: teachers, the bare encoder, projections, untrained
    source: Source,
    *,
    images: int = 512,
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> Diagnosis:
    """CKA of all models with all others, and what the rungs of the student's ladders say.

    On so many images at equal distances over the source; labels are not looked at. ValueError for
    too few images.
    """
    [part] = spread([source], images)
    tokens = sample_tokens(
        models,
        part,
        size_px=loaded.student.encoder.image_size,
        seed=seed,
        batch_size=batch_size,
        device=device,
    )
    levels = {"image": tokens.image, "patch": tokens.patch}
    return Diagnosis(
        run=name,
        source=source.name,
        images=len(tokens.indices),
        kinds={model.name: model.kind for model in models},
        cka={level: _cka(held) for level, held in levels.items() if len(held) > 1},
        effective_rank={n: effective_rank(x) for n, x in tokens.image.items()},
        rungs=_rungs(loaded, Subset(part, tokens.indices.tolist()), batch_size, device),
    )


def _cka(tokens: Mapping[str, Tensor]) -> Matrix:
    names = list(tokens)
    found: dict[str, dict[str, float]] = {name: {name: 1.0} for name in names}
    for i, a in enumerate(names):
        for b in names[:i]:
            found[a][b] = found[b][a] = linear_cka(tokens[a], tokens[b])
    return {a: {b: found[a][b] for b in names} for a in names}


def _rungs(
    loaded: LoadedStudent,
    source: Source,
    batch_size: int,
    device: torch.device | str,
) -> Rungs:
    """Shares of the rungs of each teacher's ladder and token type."""
    student = loaded.student.to(device).eval()
    ladders = {n: p for n, p in student.projectors.items() if isinstance(p, Ladder)}
    if not ladders:
        return {}
    seen: dict[str, RungShares] = {}

    def weigh(batch: Tensor) -> Tokens:
        images = luminance(batch) if student.encoder.in_channels == 1 else batch
        output: EncoderOutput = student.encoder(images, blocks=student.blocks)
        for teacher, ladder in ladders.items():
            for token_type, rungs in ladder.rungs(output).items():
                seen.setdefault(f"{teacher} {token_type}", RungShares()).add(rungs)
        return output.final

    extract_all(
        {"student": weigh},
        source,
        size_px=student.encoder.image_size,
        batch_size=batch_size,
        want=[],
        device=device,
    )
    return {name: shares.result() for name, shares in seen.items()}
