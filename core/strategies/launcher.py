"""The first process of a run that starts the others on its machine: it meets them, and leaves none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from core.strategies.launch import CHILDREN, RankInfo

__all__ = ["SubprocessLauncher"]


class SubprocessLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of processes, without its observer, which ends the first process with SIGKILL when
    another fails: nobody would see the exit code, and a stopped process would stay.
    """

    def __init__(
        self,
        launcher: _SubprocessScriptLauncher,
        *,
        open: Callable[[RankInfo], None],
        meet: Callable[[], None],
    ) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self._open, self._meet = open, meet

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start the others, meet them, and run `function`; later calls find them there."""
        cluster = self.cluster_environment
        cluster.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not cluster.creates_processes_externally:
            rank = cluster.node_rank() * self.num_processes
            self._open(
                RankInfo(
                    launcher="first",
                    rank=rank,
                    world=self.num_processes * self.num_nodes,
                    local_world=self.num_processes,
                    address=cluster.main_address,
                    port=cluster.main_port,
                    serves=rank == 0,
                )
            )
            os.environ[CHILDREN] = str(self.num_processes)
            try:
                self._call_children_scripts()
            finally:
                del os.environ[CHILDREN]
            self._meet()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def killed(self) -> str | None:
        """Return a sentence about a process that died of a signal, or None; how others end, they say."""
        for rank, process in enumerate(self.procs, 1):
            code = process.poll()
            if code is not None and code < 0:
                return f"rank {rank} was killed by {signal.Signals(-code).name}; go on with --ckpt_path last"
        return None

    def reap(self, *, patience: float) -> None:
        """Wait for the others to leave; after `patience` seconds end them, stopped ones too."""
        until = time.monotonic() + patience
        for process in self.procs:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, until - time.monotonic()))
        for ending, wait in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            left = [process for process in self.procs if process.poll() is None]
            for process in left:
                process.send_signal(ending)
                process.send_signal(signal.SIGCONT)
            until = time.monotonic() + wait
            for process in left:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=max(0.0, until - time.monotonic()))
