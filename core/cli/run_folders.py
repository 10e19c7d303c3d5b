"""Run folders: where a run writes, which process does, how `last`, `best` and restarted jobs are found."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.checkpoints.files import damage, newest_valid
from core.checkpoints.manifest import is_sharded
from core.cli.arguments import Request, asked, option
from core.cli.recipes import example
from core.errors import UserError
from core.files import replacing
from core.strategies.launch import job_info
from core.strategies.processes import RunProcesses

__all__ = [
    "INHERITED", "best_in", "checkpoint_and_folder", "checkpoint_in", "locate", "lock_folder", "new_folder",
    "note_end", "release_folder", "rendezvous_timeout", "runs_of",
]  # fmt: skip

INHERITED = "DFM_RUN_FOLDER"  # the folder's name, for the processes that Lightning starts
_NOTE, _LOCK = "job.json", "run.lock"
_locks: dict[str, int] = {}  # handles of the folders that this process trains in


def runs_of(domain: str, name: str, root: str | Path = "runs") -> list[Path]:
    """Return the run folders of a recipe, or of all (`*`), newest first."""
    runs = (config.parent for config in (Path(root) / domain).glob(f"{name}/*/config.yaml"))
    return sorted(runs, key=lambda run: run.name, reverse=True)


def best_in(run: Path) -> Path | None:
    """Return a run's best checkpoint, or its newest valid one, or None."""
    best = run / "checkpoints" / "best.ckpt"
    return best if best.exists() and damage(best) is None else _newest_in(run)


def rendezvous_timeout(request: Request) -> float | None:
    """Return `launch.timeout` before the parser has read it: the processes meet first."""
    try:
        seconds = float(asked(request, "launch.timeout"))
    except (TypeError, ValueError):
        return None  # not given, or the parser will say what is wrong with it
    return seconds if seconds > 0 else None


def checkpoint_and_folder(request: Request, processes: RunProcesses) -> tuple[Path | None, Path | None]:
    """Return the checkpoint to go on from and the run folder, as rank 0 finds them.

    A run that torchrun or SLURM started again goes on from the newest valid checkpoint of its own folder,
    whatever `--ckpt_path` said at first.

    Raises:
        UserError: If `--ckpt_path` means no valid checkpoint.
    """

    def decide() -> list[str | None]:
        folder = _earlier_attempt(request, processes)
        newest = None if folder is None else _newest_in(folder)
        if newest is not None:
            print(f"going on from {newest}", flush=True)
            return [str(newest), str(folder)]
        checkpoint, run = locate(request)
        if folder is not None:
            print(f"{folder} was stopped before its first checkpoint; it starts again", flush=True)
        return [None if path is None else str(path) for path in (checkpoint, folder or run)]

    return tuple(path and Path(path) for path in _shared("checkpoint", decide, request, processes))  # type: ignore[return-value]


def new_folder(
    request: Request, processes: RunProcesses, config: dict[str, Any], checkpoint: Path | None
) -> Path:
    """Return `runs/<domain>/<system>-<recipe>/<time>/`, made by rank 0.

    A test or prediction of a run's checkpoint gets a folder within that run.

    Raises:
        UserError: If the folder cannot be made.
    """

    def decide() -> list[str | None]:
        if INHERITED in os.environ:
            return [None, os.environ[INHERITED]]
        stamp = time.strftime("%Y%m%d-%H%M%S")
        if request.verb != "fit" and checkpoint is not None and (run := _run_of(checkpoint)):
            path = run / f"{request.verb}-{stamp}"
        else:
            path = Path(config["runs"]) / request.domain / (request.recipe_name or "checkpoint") / stamp
        label, tries = path.name, 1
        while path.exists():
            tries += 1
            path = path.with_name(f"{label}-{tries}")
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"cannot make the run folder {path}: {error.strerror}; give another with --runs"
            ) from error
        os.environ[INHERITED] = str(path)
        return [None, str(path)]

    return Path(_shared("folder", decide, request, processes)[1])  # type: ignore[arg-type]


def lock_folder(folder: Path) -> None:
    """Keep every other run out of a folder until `release_folder`, or as long as this process lives.

    Raises:
        UserError: If another one does already; it names host and process.
    """
    name = os.path.realpath(folder)
    if name in _locks:  # the kernel tells processes apart, not the runs of one
        raise UserError(f"{folder} is being written by another run of this process; wait for its end")
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write into the run folder {folder}: {error.strerror}") from error
    try:  # the kernel's lock, which ends with the process, killed or not, and which no fork inherits
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        os.close(handle)
        raise UserError(
            f"{folder} is being written by {holder}; wait for its end, or leave --ckpt_path out"
        ) from None
    except OSError:  # a file system without locks
        os.close(handle)
        return
    os.truncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _locks[name] = handle


def release_folder(folder: Path) -> None:
    """Let other runs train in a folder again."""
    handle = _locks.pop(os.path.realpath(folder), None)
    if handle is not None:
        (folder / _LOCK).unlink(missing_ok=True)
        os.close(handle)


def note_end(folder: Path, processes: RunProcesses) -> None:
    """Note that a job's run came to its end; the same name given to torchrun again then starts a new one."""
    note = _read_note(folder)
    if processes.first and note:
        _write_note(folder, {**note, "finished": True})


def _shared(
    name: str, decide: Callable[[], list[str | None]], request: Request, processes: RunProcesses
) -> list[str | None]:
    """Return the checkpoint and folder that rank 0 decides on, and note the job that trains there."""
    checkpoint, folder = processes.share(name, decide)
    if folder is not None and request.verb == "fit" and processes.first:
        processes.remember("folder", folder)
        if (job := job_info()) is not None:
            _write_note(Path(folder), {"job": job.name, "finished": False})
    return [checkpoint, folder]


def locate(request: Request) -> tuple[Path | None, Path | None]:
    """Return the checkpoint that `--ckpt_path` means and, for `fit`, the run folder it goes on in.

    `last` is the newest valid checkpoint of this recipe, or of the domain if none is named; a run that was
    killed before its first checkpoint starts again from its seed, in its folder.
    """
    choice, fitting = request.ckpt_path, request.verb == "fit"
    if INHERITED in os.environ and choice in (None, "last") and fitting:
        folder = Path(os.environ[INHERITED])
        return (newest_valid(folder / "checkpoints") if choice else None), folder
    if choice is None:
        return None, None
    if choice not in ("last", "best"):
        path = checkpoint_in(choice, last=fitting)
        run = _run_of(path)
        if fitting and run:
            os.environ[INHERITED] = str(run)
        return path, run if fitting else None
    name = request.recipe_name or "*"  # any run of the domain
    root = option(request, "--runs") or "runs"
    runs = runs_of(request.domain, name, root)
    if not runs:
        spoken = request.domain.replace("_", "-")
        recipe = request.configs[0] if request.configs else example(request.domain)
        raise UserError(
            f"--ckpt_path {choice}: there is no run of {request.recipe_name or spoken} under"
            f" {Path(root) / request.domain};"
            f" start one with `dfm {spoken} fit --config {recipe}`"
        )
    for run in runs:
        checkpoint = _newest_in(run) if choice == "last" else best_in(run)
        fresh = checkpoint is None and choice == "last" and fitting and run == runs[0]
        if fresh and not any((run / "checkpoints").glob("*.ckpt")):
            print(f"{run} was stopped before its first checkpoint; it starts again from its seed", flush=True)
        elif checkpoint is None:
            continue
        else:
            print(f"going on from {checkpoint}" if fitting else f"checkpoint: {checkpoint}", flush=True)
        if fitting:
            os.environ[INHERITED] = str(run)
        return checkpoint, run if fitting else None
    raise UserError(f"--ckpt_path {choice}: no valid checkpoint in the {len(runs)} run folders of {name}")


def checkpoint_in(path: str, *, last: bool = False) -> Path:
    """Return the checkpoint at a path; of a run folder the best, or the last.

    Raises:
        UserError: If a folder is neither a run nor a checkpoint, or its run has no valid one.
    """
    folder = Path(path)
    if not folder.is_dir() or is_sharded(folder):
        return folder
    if not (folder / "checkpoints").is_dir():
        raise UserError(
            f"--ckpt_path {path} is a folder and no checkpoint; give a .ckpt, or "
            f"`dfm checkpoint import {path}` first"
        )
    checkpoint = _newest_in(folder) if last else best_in(folder)
    if checkpoint is None:
        raise UserError(f"--ckpt_path {path}: no valid checkpoint in this run folder")
    return checkpoint


def _earlier_attempt(request: Request, processes: RunProcesses) -> Path | None:
    """Return the folder of an earlier attempt: as the store says, or else a job's note."""
    if request.verb != "fit" or INHERITED in os.environ:
        return None
    if (kept := processes.recall("folder")) is not None:
        return Path(kept)
    job = job_info()
    if job is None:
        return None
    for folder in runs_of(
        request.domain, request.recipe_name or "checkpoint", asked(request, "runs") or "runs"
    ):
        note = _read_note(folder)
        if note.get("job") == job.name and (job.again or not note.get("finished")):
            return folder
    return None


def _newest_in(run: Path) -> Path | None:
    folder = run / "checkpoints"
    return newest_valid(folder) if folder.is_dir() else None


def _run_of(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint lies in, if it lies in one."""
    run = Path(os.path.realpath(checkpoint)).parent.parent
    return run if (run / "config.yaml").exists() else None


def _read_note(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / _NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write_note(folder: Path, note: dict[str, Any]) -> None:
    try:
        with replacing(folder / _NOTE) as temporary:
            temporary.write_text(json.dumps(note) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into the run folder {folder}: {error.strerror}") from error
