"""Rows of the table of parallel runs: processes are started once for each number of them."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_in_processes(
    rows: list[dict[str, Any]], world: int, folder: Path, *, limit: float
) -> dict[str, dict]:
    """Run `rows` one after another in `world` processes; return what each row left."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"rows": rows, "world": world, "folder": str(folder)}))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    logs = [folder / f"rank{rank}.log" for rank in range(world)]
    processes = []
    for rank, log in enumerate(logs):
        environment = {**os.environ, **place, "PYTHONPATH": paths}
        words = [sys.executable, str(HERE / "rows.py"), str(spec), str(rank)]
        with log.open("w") as out:
            processes.append(subprocess.Popen(words, env=environment, stdout=out, stderr=out))
    end = time.monotonic() + limit
    try:
        while any(process.poll() is None for process in processes):
            failed = any(process.poll() not in (None, 0) for process in processes)
            if failed or time.monotonic() > end:
                break
            time.sleep(0.05)
    finally:
        time.sleep(0.2)  # the one that failed first is still writing why
        for process in processes:
            process.kill()
            process.wait()
    told = "\n".join(f"rank {rank}: {log.read_text()[-3000:]}" for rank, log in enumerate(logs))
    assert all(process.returncode == 0 for process in processes), told
    return {row["name"]: torch.load(folder / f"{row['name']}.pt", weights_only=True) for row in rows}


@pytest.fixture(scope="session")
def in_processes() -> Callable[..., dict[str, dict]]:
    """Run rows in several processes, which are started once."""
    return run_in_processes


def module(name: str) -> ModuleType:
    """Import a file beside this one, so that its classes can be pickled."""
    spec = importlib.util.spec_from_file_location(f"distributed_{name}", HERE / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="session")
def rows_module() -> ModuleType:
    """`rows.py`, to run a row in this process."""
    return module("rows")


@pytest.fixture(scope="session")
def launching() -> ModuleType:
    """`launching.py`, which starts runs as launchers do."""
    return module("launching")
