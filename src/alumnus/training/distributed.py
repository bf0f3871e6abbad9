"""Several processes, started by torchrun: who they are, what they share, how a student is spread.

Without torchrun there is one process, and everything here is the identity.
"""

import gc
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    "ALONE",
    "Parallel",
    "PeerError",
    "World",
    "is_sharded",
    "join_world",
    "shard",
    "shard_frozen",
    "spread",
]

Parallel = Literal["ddp", "fsdp2"]
T = TypeVar("T")

# The first process may cache features or evaluate for hours while the others wait, host by host;
# one that dies is noticed at once by its closed connections and by torchrun.
PATIENCE = timedelta(days=7)
TIMEOUT = timedelta(minutes=30)  # of whatever devices wait for
# in what gloo and NCCL say of a process that is no more
LOST = "connection|broken pipe|socket closed|pair closure|remote process"


class PeerError(RuntimeError):
    """Another process of the run has failed, and said why; this one ends with it."""


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    hosts: Any = None  # group in which they agree; None: that of the tensors

    @property
    def is_first(self) -> bool:
        """Whether this process writes, logs and evaluates."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_first(self, tensor: Tensor) -> None:
        """Fill it, in place, with what the first process has there."""
        if self.size > 1:
            dist.broadcast(tensor, 0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process; all must ask, and wait for each other."""
        if self.size == 1:
            return flag
        raised = torch.tensor(int(flag))
        dist.all_reduce(raised, op=dist.ReduceOp.MAX, group=self.hosts)
        return bool(raised)

    def first_alone(self, work: Callable[[], T]) -> T | None:
        """Do something in the first process while the others wait; they get None.

        An error there is raised there, and ends the others with a PeerError.
        """
        return self.together(work) if self.is_first else self.together(lambda: None)

    def together(self, work: Callable[[], T]) -> T:
        """Do something in every process; where it fails in one, none goes on alone."""
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        if self.any(error is not None):
            raise error or PeerError(f"process {self.rank} ends because another one has failed")
        return result  # type: ignore[return-value]  # there was no error


ALONE = World()


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """The processes that torchrun started, as its environment variables say; else one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    # collectives, and whatever names no device, use the current one
    if device.type != "cpu" and device.index is not None:
        torch.accelerator.set_device_index(device.index)
    if size == 1:
        yield World()
        return
    backend = "cpu:gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    hosts = dist.new_group(backend="gloo", timeout=PATIENCE)
    world = World(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")), hosts)
    lost = False
    try:
        yield world
        gc.collect()  # what communicates goes before the group does
        world.any(False)  # and no process leaves while another one still listens to it
    except RuntimeError as error:
        lost = re.search(LOST, str(error), re.IGNORECASE) is not None
        if lost and not isinstance(error, PeerError):
            raise PeerError(
                f"process {world.rank} ends because another one has died; go on with --resume"
            ) from error
        raise
    finally:
        if device.type == "cpu" or not lost:  # NCCL would wait for the lost one
            dist.destroy_process_group()


def spread(
    student: nn.Module, units: Sequence[nn.Module], world: World, parallel: Parallel
) -> tuple[nn.Module, Callable[[], AbstractContextManager[None]]]:
    """The module to call, and a context in which gradients are not yet exchanged.

    `ddp` keeps the whole student in each process and averages gradients; `fsdp2` shards the
    parameters of each unit (blocks, projectors) and of what is left, in place, so the optimiser
    has to be built afterwards. Gradients are averaged in both. Every parameter that is trained
    has to take part in every step.
    """
    if world.size == 1:
        return student, nullcontext
    if parallel == "fsdp2":
        shard(student, units)
        return student, nullcontext
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        # torch 2.15 has another name for broadcast_buffers, which older versions lack
        ddp = DistributedDataParallel(
            student, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    return ddp, ddp.no_sync


def shard(student: nn.Module, units: Sequence[nn.Module]) -> None:
    """Leave each process its part of the parameters, unit by unit, in place (FSDP2)."""
    mesh = _mesh(next(student.parameters()).device)
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(student, mesh=mesh)


def is_sharded(network: nn.Module) -> bool:
    """Whether processes hold parts of it, so that none can call it alone."""
    return isinstance(network, FSDPModule)


def shard_frozen(network: nn.Module, device: torch.device) -> float:
    """As `shard`, of a network that only looks: what its lists of modules hold, such as blocks, are
    units, which go to the device one by one. The share of its weights that is in units.

    The rest is put together by the first batch, and stays so. From then on all processes have to
    call the network together, each with as many batches.
    """
    mesh = _mesh(device)
    network.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other
    scalars = {p for p in network.parameters() if p.ndim == 0}  # cannot be dealt out
    units = {id(unit): unit for unit in _entries(network) if any(True for _ in unit.parameters())}
    for unit in units.values():
        fully_shard(unit, mesh=mesh, ignored_params=scalars)
    fully_shard(network, mesh=mesh, ignored_params=scalars)
    inside = {p for unit in units.values() for p in unit.parameters()}
    return sum(p.numel() for p in inside) / sum(p.numel() for p in network.parameters())


def _entries(module: nn.Module) -> Iterator[nn.Module]:
    """What the outermost lists of modules hold, such as blocks, or stages."""
    for child in module.children():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not isinstance(
            child, nn.ModuleList | nn.ModuleDict
        ):
            yield child
        else:
            yield from _entries(child)


def _mesh(device: torch.device) -> DeviceMesh:
    return init_device_mesh(device.type, (dist.get_world_size(),))
