"""Ranks of the processes that `torchrun` or `srun` started, and the barriers and sums between them.

Without torchrun or srun, a process has rank 0 of 1. Lightning's environment classes are not used: they do not give the
number of processes on a machine, and they read a Slurm batch script without srun as several processes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from upstream.errors import UpstreamError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# One process may label for hours after the others have finished. A dead rank closes its socket; then the others stop
# waiting at once.
TIMEOUT = timedelta(days=30)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """`rank` of `ranks` processes, and `local_rank` of the `local_ranks` on this machine; all from 0."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the common output."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Machines, each with the same number of processes."""
        return max(1, self.ranks // self.local_ranks)


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Read torchrun's variables (RANK, WORLD_SIZE, ...), else Slurm's (SLURM_PROCID, SLURM_NTASKS, ...).

    Raises UpstreamError for variables that contradict each other.
    """
    env = os.environ if environment is None else environment
    if "WORLD_SIZE" in env:
        ranks = int(env["WORLD_SIZE"])
        found = Place(
            int(env.get("RANK", 0)), ranks, int(env.get("LOCAL_RANK", 0)), int(env.get("LOCAL_WORLD_SIZE", ranks))
        )
    elif "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", 1)) > 1:
        if "SLURM_JOB_ID" in env and "SLURM_STEP_ID" not in env:
            log.warning("%s tasks in a Slurm batch script, but no srun: this is one process", env["SLURM_NTASKS"])
            return Place()
        ranks = int(env["SLURM_NTASKS"])
        # "2(x3),1": two tasks on each of three machines, then one; every machine must have the same number
        per_node = env.get("SLURM_NTASKS_PER_NODE") or env.get("SLURM_STEP_TASKS_PER_NODE", str(ranks)).split("(")[0]
        if not per_node.isdecimal():
            raise UpstreamError(f"Slurm's tasks per node, `{per_node}`, differ: set --ntasks-per-node")
        found = Place(int(env["SLURM_PROCID"]), ranks, int(env.get("SLURM_LOCALID", 0)), int(per_node))
    else:
        return Place()
    if not 0 <= found.rank < found.ranks or found.ranks % found.local_ranks:
        raise UpstreamError(f"rank {found.rank} of {found.ranks}, {found.local_ranks} on a machine: impossible numbers")
    return found


def adopt_slurm() -> None:
    """Set torchrun's variables from Slurm's, for torch.distributed and Lightning."""
    here = place()
    if "WORLD_SIZE" in os.environ or here.ranks == 1:
        return
    from lightning.fabric.plugins.environments import SLURMEnvironment

    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
    os.environ |= {
        "RANK": str(here.rank),
        "WORLD_SIZE": str(here.ranks),
        "LOCAL_RANK": str(here.local_rank),
        "LOCAL_WORLD_SIZE": str(here.local_ranks),
        "GROUP_RANK": str(here.rank // here.local_ranks),
    }
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    # The last digits of the job id: two jobs on one machine use different ports.
    os.environ.setdefault("MASTER_PORT", str(15000 + int(os.environ.get("SLURM_JOB_ID", "0")[-4:])))


@contextmanager
def process_group() -> Iterator[Place]:
    """Connect the processes for the time of the block; does nothing for a single process.

    gloo is enough on GPUs too, because these processes wait for each other and exchange no tensors.
    """
    import torch
    import torch.distributed as dist

    here = place()
    if torch.cuda.is_available():
        torch.cuda.set_device(here.local_rank % torch.cuda.device_count())
    if here.ranks == 1 or dist.is_initialized():
        yield here
        return
    adopt_slurm()
    dist.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield here
    finally:
        dist.destroy_process_group()


def group_size() -> int:
    """Number of connected processes; 1 for a single process."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def wait_for_all() -> None:
    """Wait until every process has called this function."""
    import torch.distributed as dist

    if group_size() > 1:
        dist.barrier()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The first process runs the block while the others wait; then the others run it and reuse its output."""
    if not place().is_first:
        wait_for_all()
    yield
    if place().is_first:
        wait_for_all()


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Element-wise sums over all processes, in double precision."""
    import torch
    import torch.distributed as dist

    if group_size() == 1:
        return values
    total = torch.tensor(values, device=device, dtype=torch.float64)
    dist.all_reduce(total)
    return total.tolist()


def of_all_ranks(items: list[T]) -> list[T]:
    """The items of all processes, in the order of their ranks."""
    import torch.distributed as dist

    if group_size() == 1:
        return items
    parts: list[list[T]] = [[] for _ in range(group_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def average_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes, in one exchange; nothing where there is one process."""
    import torch

    if (ranks := group_size()) == 1:
        return
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    torch.distributed.all_reduce(flat)
    flat /= ranks
    parts = flat.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad.copy_(part.view_as(parameter))
