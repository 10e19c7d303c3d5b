"""Launch of this process: its rank, its job, and what `launch:` says; needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from core.errors import UserError, did_you_mean

__all__ = [
    "CHILDREN",
    "RANK_VARIABLES",
    "Launch",
    "RankInfo",
    "SchedulerJob",
    "devices_and_strategy",
    "job_info",
    "rank_info",
]

CHILDREN = "DFM_PROCESSES"  # set for the processes that a first one started: how many each machine has
# Lightning sets them in the first process, and a second run there would take them for its rank.
RANK_VARIABLES = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
_PREEMPTION = ("USR1", "TERM")


@dataclass(frozen=True)
class Launch:
    """Patience of processes with each other, and signals that put a SLURM job back into its queue.

    Attributes:
        timeout: Seconds after which a process that never comes, hangs or is gone ends the run; None takes the
            strategy's own, which is half an hour.
        requeue: Signals after which a SLURM job is put back into its queue, once its checkpoint is written:
            USR1 (`sbatch --signal=USR1@120`) or TERM, which `scancel` sends too.
    """

    timeout: float | None = None
    requeue: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise UserError(f"launch.timeout is {self.timeout}; it is a number of seconds above 0")
        names = [self.requeue] if isinstance(self.requeue, str) else self.requeue
        signals = tuple(str(name).upper().removeprefix("SIG") for name in names)
        for name in signals:
            if name not in _PREEMPTION:
                raise UserError(
                    f"launch.requeue names the signal {name}; it may hold"
                    f" {' and '.join(_PREEMPTION)}{did_you_mean(name, _PREEMPTION)}"
                )
        object.__setattr__(self, "requeue", signals)


@dataclass(frozen=True)
class RankInfo:
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
        """Number of machines."""
        return max(1, self.world // self.local_world)


@dataclass(frozen=True)
class SchedulerJob:
    """A job that may be started again and then goes on in its own run folder.

    Attributes:
        name: Unlike that of every other job.
        again: Whether the launcher says that it was started before.
    """

    name: str
    again: bool


def rank_info(environment: Mapping[str, str] | None = None) -> RankInfo | None:
    """Return this process's rank, or None if it is the only one (or the first, which will start others)."""
    variables = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in variables:
        info: RankInfo | None = _torchrun(variables)
    else:
        info = _child(variables) or _slurm(variables)
    return info if info is not None and info.world > 1 else None


def job_info(environment: Mapping[str, str] | None = None) -> SchedulerJob | None:
    """Return the job that this process belongs to, if its name outlives the process.

    Each `srun` of a SLURM job is one of its own. torchrun's name counts if it was given (`--rdzv_id`): what
    it draws itself differs from start to start, and `none` is everybody's.
    """
    variables = os.environ if environment is None else environment
    if "SLURM_JOB_ID" in variables and not _interactive(variables):
        name = f"slurm-{variables['SLURM_JOB_ID']}.{variables.get('SLURM_STEP_ID', '0')}"
        return SchedulerJob(name, int(variables.get("SLURM_RESTART_COUNT") or 0) > 0)
    name = variables.get("TORCHELASTIC_RUN_ID", "none")
    drawn = len(name) == 36 and name.count("-") == 4
    return None if name == "none" or drawn else SchedulerJob(f"torchrun-{name}", False)


def devices_and_strategy(arguments: Mapping[str, Any], info: RankInfo | None) -> dict[str, Any]:
    """Return the Trainer's arguments with the sizes that the launcher has decided already.

    Raises:
        UserError: If the arguments name other sizes.
    """
    filled = dict(arguments)
    if info is None or info.launcher == "first":
        return filled
    who = "torchrun" if info.launcher == "torchrun" else "srun"
    sizes = (
        ("devices", info.local_world, "processes on each machine"),
        ("num_nodes", info.machines, "machines"),
    )
    for name, size, what in sizes:
        asked = filled.get(name)
        chosen = len(asked) if isinstance(asked, list) else asked
        if str(chosen) not in ("None", "auto", "1", "-1", str(size)):
            raise UserError(f"trainer.{name} is {chosen}, but {who} started {size} {what}; leave it out")
        if not isinstance(asked, list):
            filled[name] = size
    if filled.get("strategy") in (None, "auto"):
        filled["strategy"] = "ddp"
    return filled


def _torchrun(variables: Mapping[str, str]) -> RankInfo:
    return RankInfo(
        launcher="torchrun",
        rank=int(variables["RANK"]),
        world=int(variables["WORLD_SIZE"]),
        local_world=int(variables["LOCAL_WORLD_SIZE"]),
        address=variables["MASTER_ADDR"],
        port=int(variables["MASTER_PORT"]),
        serves=variables.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and variables["RANK"] == "0",
        run=variables["TORCHELASTIC_RUN_ID"],
        restarts=int(variables.get("TORCHELASTIC_RESTART_COUNT") or 0),
    )


def _child(variables: Mapping[str, str]) -> RankInfo | None:
    if CHILDREN not in variables:
        return None
    local = int(variables[CHILDREN])
    return RankInfo(
        launcher="first",
        rank=int(variables.get("NODE_RANK", "0")) * local + int(variables["LOCAL_RANK"]),
        world=int(variables["WORLD_SIZE"]),
        local_world=local,
        address=variables["MASTER_ADDR"],
        port=int(variables["MASTER_PORT"]),
        serves=False,
    )


def _interactive(variables: Mapping[str, str]) -> bool:
    """Tell whether someone works in a shell that SLURM gave them, as Lightning tells it."""
    return variables.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _slurm(variables: Mapping[str, str]) -> RankInfo | None:
    if "SLURM_NTASKS" not in variables or "SLURM_PROCID" not in variables or _interactive(variables):
        return None
    world, nodes = int(variables["SLURM_NTASKS"]), int(variables.get("SLURM_NNODES") or 1)
    info = RankInfo(
        launcher="slurm",
        rank=int(variables["SLURM_PROCID"]),
        world=world,
        local_world=int(variables.get("SLURM_NTASKS_PER_NODE") or max(1, world // nodes)),
        address=variables.get("MASTER_ADDR", ""),
        port=int(variables.get("MASTER_PORT") or 0),
        serves=variables["SLURM_PROCID"] == "0",
        restarts=int(variables.get("SLURM_RESTART_COUNT") or 0),
    )
    if info.world == 1 or (info.address and info.port):
        return info
    from lightning.fabric.plugins.environments import SLURMEnvironment

    first = SLURMEnvironment.resolve_root_node_address(variables.get("SLURM_NODELIST", "127.0.0.1"))
    offset = int(variables.get("SLURM_JOB_ID") or 0) + int(variables.get("SLURM_STEP_ID") or 0)
    return replace(info, address=info.address or first, port=info.port or 15000 + offset % 10000)
