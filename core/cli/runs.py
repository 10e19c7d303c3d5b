"""Run folders: where a run writes, and how `last`, `best` and a recipe's parent are found."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.checkpoints.files import is_valid, newest_valid
from core.checkpoints.manifest import is_sharded
from core.cli.arguments import Request, option
from core.errors import UserError

__all__ = ["INHERITED", "RunFolder", "best_in", "locate", "newest_in", "runs_of"]

INHERITED = "DFM_RUN_FOLDER"


@dataclass(frozen=True)
class RunFolder:
    """`runs/<domain>/<system>-<recipe>/<time>/`, decided once for all processes of a run."""

    path: Path

    @classmethod
    def create(cls, request: Request, config: dict[str, Any], checkpoint: Path | None) -> RunFolder:
        """Make a new folder; the processes that Lightning starts inherit its name through the environment."""
        if INHERITED in os.environ:
            return cls(Path(os.environ[INHERITED]))
        stamp = time.strftime("%Y%m%d-%H%M%S")
        if request.verb != "fit" and checkpoint is not None and (run := _run_of(checkpoint)):
            base, label = run, f"{request.verb}-{stamp}"
        else:
            label = stamp
            base = Path(config["runs"]) / request.domain / (request.recipe_name or "checkpoint")
        path, tries = base / label, 1
        while path.exists():
            tries += 1
            path = base / f"{label}-{tries}"
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"cannot make the run folder {path}: {error.strerror}; give another with --runs"
            ) from error
        os.environ[INHERITED] = str(path)
        return cls(path)


def runs_of(domain: str, name: str, root: str | Path = "runs") -> list[Path]:
    """Return the run folders of a recipe, newest first."""
    folder = Path(root) / domain / name
    return (
        sorted((p for p in folder.glob("*") if (p / "config.yaml").exists()), reverse=True)
        if folder.is_dir()
        else []
    )


def locate(request: Request) -> tuple[Path | None, RunFolder | None]:
    """Return the checkpoint that `--ckpt_path` means and, for `fit`, the run folder it goes on in.

    `last` is the newest valid checkpoint of this recipe; a run that was killed before its first checkpoint
    starts again from its seed, in its folder.

    Raises:
        UserError: If the recipe has no run, or no checkpoint is valid.
    """
    asked = request.ckpt_path
    if INHERITED in os.environ and asked in (None, "last") and request.verb == "fit":
        folder = Path(os.environ[INHERITED])
        return (newest_valid(folder / "checkpoints") if asked else None), RunFolder(folder)
    if asked is None:
        return None, None
    if asked not in ("last", "best"):
        path = Path(asked)
        run = _run_of(path)
        if path.is_dir() and not is_sharded(path):
            raise UserError(
                f"--ckpt_path {path} is a folder and no checkpoint; give a .ckpt, or "
                f"`dfm checkpoint import {path}` first"
            )
        if request.verb == "fit" and run:
            os.environ[INHERITED] = str(run)
            return path, RunFolder(run)
        return path, None
    name = request.recipe_name or ""
    root = option(request, "--runs") or "runs"
    runs = runs_of(request.domain, name, root)
    spoken = request.domain.replace("_", "-")
    if not runs:
        raise UserError(
            f"--ckpt_path {asked}: there is no run of {name} under {Path(root) / request.domain / name};"
            f" start one with `dfm {spoken} fit --config {request.configs[0]}`"
        )
    for run in runs:
        found = _checkpoint_in(run, asked)
        if found is None and asked == "last" and request.verb == "fit" and run == runs[0]:
            if any((run / "checkpoints").glob("*.ckpt")):
                continue
            print(f"{run} was stopped before its first checkpoint; it starts again from its seed", flush=True)
            os.environ[INHERITED] = str(run)
            return None, RunFolder(run)
        if found is not None:
            print(f"going on from {found}" if request.verb == "fit" else f"checkpoint: {found}", flush=True)
            if request.verb == "fit":
                os.environ[INHERITED] = str(run)
                return found, RunFolder(run)
            return found, None
    raise UserError(f"--ckpt_path {asked}: no valid checkpoint in the {len(runs)} run folders of {name}")


def best_in(run: Path) -> Path | None:
    """Return a run's best checkpoint, or its newest valid one, or None."""
    return _checkpoint_in(run, "best") or _checkpoint_in(run, "last")


def newest_in(run: Path) -> Path | None:
    """Return a run's newest valid checkpoint, or None."""
    return _checkpoint_in(run, "last")


def _checkpoint_in(run: Path, which: str) -> Path | None:
    folder = run / "checkpoints"
    best = folder / "best.ckpt"
    if which == "best":
        return best if best.exists() and is_valid(best) else newest_valid(folder)
    return newest_valid(folder) if folder.is_dir() else None


def _run_of(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint lies in, if it lies in one."""
    run = checkpoint.resolve().parent.parent
    return run if (run / "config.yaml").exists() else None
