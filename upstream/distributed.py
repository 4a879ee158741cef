"""Which process of how many this one is, and what the processes of one command agree on.

`torchrun` and `srun` start them; alone, a process is the first of one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

# One process may label for hours while the others have finished; who dies closes its connection, which ends the wait.
PATIENCE = timedelta(days=30)

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
        """Whether this process writes what all of them made."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Machines, each with the same number of processes."""
        return max(1, self.ranks // self.local_ranks)


def place(environment: Mapping[str, str] | None = None) -> Place:
    """What torchrun's variables say (RANK, WORLD_SIZE, ...), else Slurm's (SLURM_PROCID, SLURM_NTASKS, ...).

    Raises ValueError for variables that contradict each other.
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
        # "2(x3),1": two tasks on three machines, then one; we ask for the same number everywhere
        per_node = env.get("SLURM_NTASKS_PER_NODE") or env.get("SLURM_STEP_TASKS_PER_NODE", str(ranks)).split("(")[0]
        if not per_node.isdecimal():
            raise ValueError(f"Slurm's tasks per node, `{per_node}`, differ: ask for --ntasks-per-node")
        found = Place(int(env["SLURM_PROCID"]), ranks, int(env.get("SLURM_LOCALID", 0)), int(per_node))
    else:
        return Place()
    if not 0 <= found.rank < found.ranks or found.ranks % found.local_ranks:
        raise ValueError(f"rank {found.rank} of {found.ranks}, {found.local_ranks} a machine: these do not fit")
    return found


def adopt_slurm() -> None:
    """Give torch.distributed and Lightning Slurm's numbers under the names that torchrun uses."""
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
    # The end of the job's number, so that two jobs on one machine do not meet.
    job = os.environ.get("SLURM_JOB_ID", "0")[-4:]
    os.environ.setdefault("MASTER_PORT", str(15000 + int(job)))


@contextmanager
def process_group() -> Iterator[Place]:
    """Joins the other processes for the time of the block; nothing where there is only this one.

    They exchange no tensors but wait for each other, so that gloo serves on GPUs as well.
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
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield here
    finally:
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Returns when every process has come here."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The first process runs the block while the others wait; then they run it and find what it made."""
    if not place().is_first:
        wait_for_all()
    yield
    if place().is_first:
        wait_for_all()
