"""What a people head learns and how: from pictures of one person each, seen anew in every step.

Axes: B pictures.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alumnus.data.order import Stream
from alumnus.encoders import Encoder
from alumnus.evaluation.results import TaskScore
from alumnus.evaluation.suite import task_record
from alumnus.evaluation.tasks import TaskSpec
from alumnus.finetune_config import FinetuneConfig
from alumnus.finetuning.backbone import Backbone
from alumnus.finetuning.course import Finding
from alumnus.finetuning.head_model import HeadSpec
from alumnus.finetuning.maps import split_rows, training_record
from alumnus.finetuning.people.labels import read_bodies
from alumnus.heads.people import PeopleHead, PeopleNetwork, PeopleSpec
from alumnus.images import normalised
from alumnus.miniworld.people_bodies import PeopleData
from alumnus.miniworld.people_learning import (
    HEAD_SPEC,
    evaluate,
    fitted,
    head_loss,
    start_at_the_mean,
)
from alumnus.miniworld.people_views import View, seen_anew
from alumnus.miniworld.score_people import constant_scores
from alumnus.miniworld.torch_body import TorchBody
from alumnus.randomness import derive_seed

__all__ = ["PeopleCourse", "fitting_spec", "people_course"]

LARGE = 384  # width of encoders from which on heads have Multi-HMR's size
EVERY = 8  # vertices: the loss and the looks during a run see one of so many
HELD_OUT = 192  # people, the most, that are looked at during a run
TOLD = (
    *("pve_mm", "pa_pve_mm", "mpjpe_mm", "pa_mpjpe_mm", "pelvis_mm"),
    *("pck", "precision", "recall"),
)
AVERAGED = 2880  # people of the constant prediction


@dataclass(kw_only=True)
class PeopleCourse:
    """A people head learns; its encoder stands still or learns too."""

    network: PeopleNetwork
    learns: bool  # whether the encoder does
    spec: HeadSpec
    learned: PeopleData
    held_out: PeopleData
    tested: PeopleData
    indices: tuple[Tensor, Tensor]  # of the people learned from and tested, in their sources
    config: FinetuneConfig
    task: TaskSpec
    device: torch.device

    def __post_init__(self) -> None:
        self._body = TorchBody(every=EVERY).to(self.device)

    @property
    def head(self) -> PeopleHead:
        """What is trained."""
        return self.network.head

    @property
    def examples(self) -> int:
        """Pictures of an epoch."""
        return len(self.learned)

    def batches(self, position: int, batch_size: int) -> Iterator[View]:
        """People, each seen anew: mirrored, turned, from nearer, in other colours."""
        order = Stream(len(self.learned), seed=derive_seed(self.config.seed, "order of people"))
        while True:
            rows = torch.tensor([order(position + i).index for i in range(batch_size)])
            seed = derive_seed(self.config.seed, position, "views of people")
            drawn = torch.Generator().manual_seed(seed)
            view = seen_anew(self.learned.view(rows), generator=drawn)
            yield View(*(values.to(self.device) for values in self._sized(view)))
            position += batch_size

    def loss(self, batch: View) -> Tensor:  # []
        """That of Multi-HMR, with the weights of the miniworld's teacher."""
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            patches = self.network.encoder(normalised(batch.images)).final.of("patch")
        with torch.autocast(self.device.type, enabled=False):
            return head_loss(self.head, patches.float(), batch, self._body)[0]

    def look(self) -> Mapping[str, float]:
        """Scores on held-out people."""
        if not len(self.held_out):
            return {}
        found = self._scores(self.held_out, every=EVERY)
        return {name: found[name] for name in ("pve_mm", "pa_pve_mm", "pck")}

    def test(self) -> Finding:
        """Scores on the test people, by all vertices, beside the mean body of training."""
        scores = self._scores(self.tested, every=1)
        some = _rows(self.learned, slice(0, AVERAGED))
        constant = constant_scores(some, self.tested)["mean points"]
        how = training_record(self.config, head="Multi-HMR's head")
        return Finding(
            record=task_record(self.task, *self.indices, how),
            score=_told(scores),
            constant=_told(constant),
        )

    def _sized(self, view: View) -> View:
        return fitted(view, self.head.spec.side_px)

    def _scores(self, people: PeopleData, *, every: int) -> dict[str, float]:
        return evaluate(self.network.encoder, self.head, people, every=every)


def people_course(
    config: FinetuneConfig, backbone: Backbone, task: TaskSpec, device: torch.device
) -> PeopleCourse:
    """What the head learns from pictures of people; ValueError where their bodies are not told."""
    encoder = backbone.encoder()
    known, indices = read_bodies(task.train)
    tested, test_indices = read_bodies(task.test)
    rows, held_out = split_rows(task.train, indices)
    spec = fitting_spec(encoder, size_px=config.size or encoder.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "people head"))
        head = PeopleHead(spec)
    learned = _rows(known, rows)
    start_at_the_mean(head, learned)
    return PeopleCourse(
        network=PeopleNetwork(encoder, head).to(device),
        learns=backbone.learns,
        spec=HeadSpec(kind="people", size_px=spec.side_px),
        learned=learned,
        held_out=_rows(known, held_out[:HELD_OUT]),
        tested=tested,
        indices=(indices[rows], test_indices),
        config=config,
        task=task,
        device=device,
    )


def fitting_spec(encoder: Encoder, *, size_px: int) -> PeopleSpec:
    """A head for the miniworld's body on this encoder, its square in whole patches.

    Of Multi-HMR's size from a width of 384 on, else of that of the miniworld's teacher.
    """
    of_body = {"rotations": HEAD_SPEC.rotations, "betas": HEAD_SPEC.betas}
    sized = PeopleSpec() if encoder.dim >= LARGE else HEAD_SPEC
    return replace(
        sized,
        dim=encoder.dim,
        patch_size=encoder.patch_size,
        grid=max(2, round(size_px / encoder.patch_size)),
        kid_betas=0,
        expressions=0,
        **of_body,
    )


def _told(scores: Mapping[str, float]) -> TaskScore:
    """PVE, and what else does not depend on the size of pictures."""
    return TaskScore(value=scores["pve_mm"], details={name: scores[name] for name in TOLD})


def _rows(people: PeopleData, these: Tensor | slice) -> PeopleData:
    """Some of them."""
    return replace(people, **{name: value[these] for name, value in vars(people).items()})
