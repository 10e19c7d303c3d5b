"""Starts small runs of several processes as torchrun, srun and the run's own first process start them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from core.checkpoints.files import read_checkpoint

CLI = Path(__file__).parents[1] / "cli"
HERE = Path(__file__).parent
LIMIT = 500.0  # seconds that nothing here takes, however busy the machine is

_marks: dict[int, str] = {}


@dataclass(frozen=True)
class Outcome:
    """Exit codes of what was started, and what all of it printed together."""

    codes: list[int]
    out: str


def words(folder: Path, *more: object, strike: tuple[str, dict[str, object]] | None = None) -> list[str]:
    """Return `dfm`'s words for 6 steps in 2 epochs on 2 processes, a checkpoint every second step."""
    own = folder / "own.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    own.write_text(yaml.safe_dump({"about": {"test_after_fit": False}, "trainer": {"limit_val_batches": 0}}))
    given = ["timeseries", "fit", "--config", "ttm/demo", "--config", str(CLI / "small.yaml")]
    given += ["--config", str(own), "--checkpoints.every_n_steps=2", "--seed_everything=1"]
    if strike is not None:
        callback = {"class_path": f"striking.{strike[0]}", "init_args": strike[1]}
        given += ["--trust=striking", f"--trainer.callbacks={json.dumps([callback])}"]
    return [*given, *map(str, more)]


def environment(folder: Path, **more: object) -> dict[str, str]:
    """Return the variables of one process: one thread, nothing of a launcher's."""
    launchers = ("SLURM_", "TORCHELASTIC_", "MASTER_", "DFM_")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(launchers) and k not in names}
    path = os.pathsep.join(map(str, (HERE.parents[1], CLI, HERE)))
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    return kept | own | {name: str(value) for name, value in more.items()}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def torchrun(folder: Path, given: list[str], *options: object, processes: int = 2) -> subprocess.Popen[str]:
    """Start one agent of torchrun with `dfm` in its processes."""
    how = ["--nproc_per_node", str(processes), *map(str, options)]
    return _start(
        ["-m", "torch.distributed.run", *how, "-m", "core.cli", *given], folder, environment(folder)
    )


def srun(
    folder: Path, given: list[list[str]], *, world: int = 2, **more: object
) -> list[subprocess.Popen[str]]:
    """Start one process a list of words, with the variables that srun would set; the first is rank 0."""
    port = more.pop("port", None) or free_port()
    job = {"SLURM_JOB_ID": 4711, "SLURM_STEP_ID": 0, "SLURM_JOB_NAME": "dfm", "SLURM_NTASKS": world}
    job |= {
        "SLURM_NNODES": 1,
        "SLURM_NTASKS_PER_NODE": world,
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NODEID": 0,
    }
    started = []
    for rank, own in enumerate(given):
        place = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = environment(folder, **(job | place | more))
        started.append(_start(["-m", "core.cli", *own], folder, variables))
    return started


def first_process(folder: Path, given: list[str], processes: int = 2) -> subprocess.Popen[str]:
    """Start `dfm` alone; it starts the other processes itself."""
    many = [f"--trainer.devices={processes}", "--trainer.strategy=ddp"]
    return _start(["-m", "core.cli", *given, *many], folder, environment(folder))


def outcome(*started: subprocess.Popen[str], within: float = LIMIT) -> Outcome:
    """Wait for all, and leave nothing behind.

    Raises:
        AssertionError: If they take longer, or leave processes of their own.
    """
    until = time.monotonic() + within
    shown, late = [], False
    for process in started:
        try:
            shown.append(process.communicate(timeout=max(0.1, until - time.monotonic()))[0])
        except subprocess.TimeoutExpired:
            late = True
            end(process)
            shown.append(process.communicate()[0])
    left = [pid for process in started for pid in end(process)]
    text = "".join(shown)
    assert not late, f"it hangs:\n{text}"
    assert not left, f"processes {left} were left over:\n{text}"
    return Outcome([process.returncode for process in started], text)


def end(started: subprocess.Popen[str]) -> list[int]:
    """Kill what still lives of all that a process started, itself included, and return what that was."""
    mark = f"DFM_TEST={_marks[started.pid]}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if not alive or mark not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            continue  # another user's, or gone by now
        found.append(int(folder.name))
    return found


def sentences(text: str) -> list[str]:
    """Return what `dfm` said about a mistake or a loss."""
    return [line for line in text.splitlines() if line.startswith("dfm: ")]


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Return weights and moments at the end of the only run in `folder`."""
    (last,) = folder.glob("runs/timeseries/ttm-demo/*/checkpoints/last.ckpt")
    content = read_checkpoint(last)
    moments = content["optimizer_states"][0]["state"]
    named = {f"{p}.{name}": value for p, kept in moments.items() for name, value in kept.items()}
    return {name: value for name, value in (content["state_dict"] | named).items() if torch.is_tensor(value)}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Compare bit by bit."""
    assert one.keys() == other.keys()
    different = [name for name, value in one.items() if not torch.equal(value, other[name])]
    assert not different, f"these differ: {different}"


def command(given: list[str], folder: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    """Start any command, such that `end` finds all that comes of it."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        given,
        cwd=folder,
        env=variables | {"DFM_TEST": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _marks[process.pid] = mark
    return process


def _start(words: list[str], folder: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    return command([sys.executable, *words], folder, variables)
