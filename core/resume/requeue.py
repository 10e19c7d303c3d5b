"""Putting a pre-empted SLURM job back into its queue, once its checkpoint is written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

__all__ = ["in_slurm", "requeue"]


def in_slurm(environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether this process belongs to a SLURM job."""
    return "SLURM_JOB_ID" in (os.environ if environment is None else environment)


def requeue(environment: Mapping[str, str] | None = None) -> str:
    """Put this process's job back into the queue and return a sentence that says so, or why not.

    Args:
        environment: SLURM's variables; None takes the process's own.
    """
    found = os.environ if environment is None else environment
    job = found.get("SLURM_JOB_ID")
    if job is None:
        return "this is no SLURM job, so nothing was put back into a queue"
    if "SLURM_ARRAY_JOB_ID" in found:
        job = f"{found['SLURM_ARRAY_JOB_ID']}_{found['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"SLURM job {job} is not in the queue again, `scontrol requeue` failed: {error}"
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        return f"SLURM job {job} is not in the queue again, `scontrol requeue` failed: {reason}"
    return f"SLURM job {job} is in the queue again and will go on from there"
