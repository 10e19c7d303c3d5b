"""How a run that its launcher starts again finds its folder: one for all processes and all attempts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from core.cli.arguments import Request, option, read_yaml
from core.cli.runs import INHERITED, RunFolder, locate, newest_in, runs_of
from core.errors import UserError
from core.files import replacing
from core.strategies.launch import Job, job_info
from core.strategies.processes import RunProcesses

__all__ = ["agreed", "choose", "finished", "patience"]

NOTE = "job.json"


def agreed(request: Request, processes: RunProcesses) -> tuple[Path | None, RunFolder | None]:
    """Return the checkpoint to go on from and the run folder, as rank 0 finds them.

    A run that torchrun or SLURM started again goes on from the newest valid checkpoint of its own folder,
    whatever `--ckpt_path` said at first.

    Raises:
        UserError: As `core.cli.runs.locate`.
    """

    def decide() -> list[str | None]:
        folder = _earlier(request, processes)
        if folder is None:
            checkpoint, found = locate(request)
            return [_text(checkpoint), _text(found.path if found else None)]
        newest = newest_in(folder)
        if newest is None:
            checkpoint, _ = locate(request)
            print(f"{folder} was stopped before its first checkpoint; it starts again", flush=True)
            return [_text(checkpoint), _text(folder)]
        print(f"going on from {newest}", flush=True)
        return [_text(newest), _text(folder)]

    checkpoint, folder = processes.share("checkpoint", decide)
    _keep(request, processes, folder)
    return (Path(checkpoint) if checkpoint else None), (RunFolder(Path(folder)) if folder else None)


def choose(
    request: Request, processes: RunProcesses, config: dict[str, Any], checkpoint: Path | None
) -> RunFolder:
    """Return a new run folder, made by rank 0."""

    def decide() -> str:
        return str(RunFolder.create(request, config, checkpoint).path)

    folder = processes.share("folder", decide)
    _keep(request, processes, folder)
    return RunFolder(Path(folder))


def finished(folder: Path, processes: RunProcesses) -> None:
    """Note that a job's run came to its end; the same name given to torchrun again then starts a new one."""
    note = _read(folder)
    if processes.first and note is not None:
        _write(folder, {**note, "finished": True})


def patience(request: Request) -> float | None:
    """Return `launch.timeout` before the parser has read it: the processes meet first."""
    found: Any = option(request, "--launch.timeout")
    for path in reversed(request.configs):
        given = read_yaml(path).get("launch")
        found = given.get("timeout") if found is None and isinstance(given, dict) else found
    try:
        seconds = None if found is None else float(found)
    except (TypeError, ValueError):
        return None  # the parser will say what is wrong with it
    return seconds if seconds is None or seconds > 0 else None


def _keep(request: Request, processes: RunProcesses, folder: str | None) -> None:
    job = job_info()
    if folder is None or request.verb != "fit" or not processes.first:
        return
    processes.remember("folder", folder)
    if job is not None:
        _write(Path(folder), {"job": job.name, "finished": False})


def _earlier(request: Request, processes: RunProcesses) -> Path | None:
    """Return the folder of an earlier attempt: as the store says, or else a job's note."""
    if request.verb != "fit" or INHERITED in os.environ:
        return None
    kept = processes.recall("folder")
    if kept is not None:
        return Path(kept)
    job = job_info()
    if job is None:
        return None
    root = option(request, "--runs") or _runs_in_files(request)
    for folder in runs_of(request.domain, request.recipe_name or "checkpoint", root):
        if _is_of(job, _read(folder)):
            return folder
    return None


def _is_of(job: Job, note: dict[str, Any] | None) -> bool:
    return note is not None and note.get("job") == job.name and (job.again or not note.get("finished"))


def _runs_in_files(request: Request) -> str:
    found = [read_yaml(path).get("runs") for path in request.configs]
    return next((str(root) for root in reversed(found) if root), "runs")


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(folder: Path, note: dict[str, Any]) -> None:
    try:
        with replacing(folder / NOTE) as temporary:
            temporary.write_text(json.dumps(note) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into the run folder {folder}: {error.strerror}") from error


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
