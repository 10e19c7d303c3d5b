"""Where a process stands among the processes of its run, read from what its launcher says; needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from core.errors import UserError

__all__ = ["CHILDREN", "Job", "Place", "devices_and_strategy", "find_job", "find_place", "variables_kept"]

CHILDREN = "DFM_PROCESSES"  # set for the processes that a first one started: how many each machine has
_PLACES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """One process of several.

    Attributes:
        launcher: Who started it: `torchrun`, `slurm` (srun), or `first`, the run's own first process.
        rank: Its number in the whole run, from 0.
        world: How many there are in the whole run.
        local_world: How many there are on this machine.
        address: Where the store is served that all of them talk to.
        port: The port there.
        serves: Whether this process serves it; under torchrun its agent does.
        run: A name that keeps the keys of two runs in one store apart.
        restarts: How often the launcher has started these processes again.
    """

    launcher: Literal["torchrun", "slurm", "first"]
    rank: int
    world: int
    local_world: int
    address: str
    port: int
    serves: bool
    run: str = ""
    restarts: int = 0

    @property
    def machines(self) -> int:
        """How many machines there are."""
        return max(1, self.world // self.local_world)


@dataclass(frozen=True)
class Job:
    """A job that may be started again and then goes on in its own run folder.

    Attributes:
        name: Unlike that of every other job.
        again: Whether the launcher says that it was started before.
    """

    name: str
    again: bool


def find_place(environment: Mapping[str, str] | None = None) -> Place | None:
    """Return this process's place, or None if it is the only one (or the first, which will start others).

    Args:
        environment: The variables to read; None takes the process's own.
    """
    found = os.environ if environment is None else environment
    place = _torchrun(found) if "TORCHELASTIC_RUN_ID" in found else None
    place = place or _children(found) or (_slurm(found) if "TORCHELASTIC_RUN_ID" not in found else None)
    return place if place is not None and place.world > 1 else None


def find_job(environment: Mapping[str, str] | None = None) -> Job | None:
    """Return the job that this process belongs to, if its name outlives the process.

    Each `srun` of a SLURM job is one of its own. torchrun's name counts if it was given (`--rdzv_id`): what
    it draws itself differs from start to start, and `none` is everybody's.
    """
    found = os.environ if environment is None else environment
    if "SLURM_JOB_ID" in found and not _by_hand(found):
        name = f"slurm-{found['SLURM_JOB_ID']}.{found.get('SLURM_STEP_ID', '0')}"
        return Job(name, int(found.get("SLURM_RESTART_COUNT") or 0) > 0)
    given = found.get("TORCHELASTIC_RUN_ID", "none")
    drawn = len(given) == 36 and given.count("-") == 4
    return None if given == "none" or drawn else Job(f"torchrun-{given}", False)


def devices_and_strategy(arguments: Mapping[str, Any], place: Place | None) -> dict[str, Any]:
    """Return the Trainer's arguments with the sizes that the launcher has decided already.

    Raises:
        UserError: If the arguments name other sizes.
    """
    filled = dict(arguments)
    if place is None or place.launcher == "first":
        return filled
    who = "torchrun" if place.launcher == "torchrun" else "srun"
    sizes = (("devices", place.local_world, "processes"), ("num_nodes", place.machines, "machines"))
    for name, size, what in sizes:
        given = filled.get(name)
        chosen = len(given) if isinstance(given, list) else given
        if str(chosen) not in ("None", "auto", "1", "-1", str(size)):
            per = " on each machine" if name == "devices" else ""
            raise UserError(f"trainer.{name} is {chosen}, but {who} started {size} {what}{per}; leave it out")
        if not isinstance(given, list):
            filled[name] = size
    if filled.get("strategy") in (None, "auto"):
        filled["strategy"] = "ddp"
    return filled


def _torchrun(found: Mapping[str, str]) -> Place:
    return Place(
        launcher="torchrun",
        rank=int(found["RANK"]),
        world=int(found["WORLD_SIZE"]),
        local_world=int(found["LOCAL_WORLD_SIZE"]),
        address=found["MASTER_ADDR"],
        port=int(found["MASTER_PORT"]),
        serves=found.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and found["RANK"] == "0",
        run=found["TORCHELASTIC_RUN_ID"],
        restarts=int(found.get("TORCHELASTIC_RESTART_COUNT") or 0),
    )


def _children(found: Mapping[str, str]) -> Place | None:
    if CHILDREN not in found:
        return None
    local = int(found[CHILDREN])
    return Place(
        launcher="first",
        rank=int(found.get("NODE_RANK", "0")) * local + int(found["LOCAL_RANK"]),
        world=int(found["WORLD_SIZE"]),
        local_world=local,
        address=found["MASTER_ADDR"],
        port=int(found["MASTER_PORT"]),
        serves=False,
    )


def _by_hand(found: Mapping[str, str]) -> bool:
    """Tell whether someone works in a shell that SLURM gave them, as Lightning tells it."""
    return found.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _slurm(found: Mapping[str, str]) -> Place | None:
    if "SLURM_NTASKS" not in found or "SLURM_PROCID" not in found or _by_hand(found):
        return None
    world, nodes = int(found["SLURM_NTASKS"]), int(found.get("SLURM_NNODES") or 1)
    place = Place(
        launcher="slurm",
        rank=int(found["SLURM_PROCID"]),
        world=world,
        local_world=int(found.get("SLURM_NTASKS_PER_NODE") or max(1, world // nodes)),
        address=found.get("MASTER_ADDR", ""),
        port=int(found.get("MASTER_PORT") or 0),
        serves=found["SLURM_PROCID"] == "0",
        restarts=int(found.get("SLURM_RESTART_COUNT") or 0),
    )
    if place.world == 1 or (place.address and place.port):
        return place
    from lightning.fabric.plugins.environments import SLURMEnvironment

    first = SLURMEnvironment.resolve_root_node_address(found.get("SLURM_NODELIST", "127.0.0.1"))
    number = int(found.get("SLURM_JOB_ID") or 0) + int(found.get("SLURM_STEP_ID") or 0)
    return replace(place, address=place.address or first, port=place.port or 15000 + number % 10000)


@contextmanager
def variables_kept() -> Iterator[None]:
    """Take away, at the end, what Lightning's launcher sets in the first process.

    A second run there would take it for its place.
    """
    before = {name: os.environ.get(name) for name in _PLACES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
