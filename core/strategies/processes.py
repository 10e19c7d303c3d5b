"""The processes of one run, seen from one of them: they meet before Lightning starts, decide together and
end together.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from core.errors import UserError
from core.strategies.heartbeat import Heartbeat
from core.strategies.launch import CHILDREN, RankInfo
from core.strategies.rendezvous import TIMEOUT, ProcessLost, Rendezvous, RunEnded, rank_list

__all__ = ["RunProcesses", "SubprocessLauncher", "backend_for", "slurm_as_it_is"]

BACKENDS = {"cpu": "gloo", "cuda": "nccl", "neuron": "neuron", "xla": "xla"}


def backend_for(device: torch.device, *, offload: bool = False) -> str:
    """Return the backend of collectives for a device, with one for the host where norms are summed there."""
    backend = BACKENDS.get(device.type) or dist.get_default_backend_for_device(device)
    return f"cpu:gloo,{device.type}:{backend}" if offload and device.type != "cpu" else backend


def slurm_as_it_is() -> SLURMEnvironment:
    """Return Lightning's view of SLURM, without its own requeueing, which saves from within the signal's
    handler, wherever the step is.

    Raises:
        UserError: If the job is started in a way that Lightning refuses.
    """
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise UserError(" ".join(str(error).split())) from error


class RunProcesses:
    """The processes of a run, seen from one of them; a process alone does nothing of it.

    `info` is None if it is alone, or will start the others; `timeout` None waits half an hour for them.
    """

    def __init__(self, info: RankInfo | None, *, timeout: float | None = None) -> None:
        self.info = info
        self.timeout = timeout
        self.rendezvous: Rendezvous | None = None
        self.heartbeat: Heartbeat | None = None
        self.children: SubprocessLauncher | None = None

    @property
    def first(self) -> bool:
        """True for the process that decides and speaks for all."""
        return self.info is None or self.info.rank == 0

    @property
    def started_outside(self) -> bool:
        """True if torchrun or srun started the processes."""
        return self.info is not None and self.info.launcher != "first"

    def gather(self) -> None:
        """Meet the others, if a launcher started them.

        Raises:
            ProcessLost: If some do not come in time.
            RunEnded: If one of them has ended the run already.
        """
        if self.info is not None:
            self._open(self.info)
            self._meet()

    def share(self, name: str, decide: Callable[[], Any]) -> Any:
        """Return what rank 0 decides, in plain JSON; a process alone, or started by the first, decides for
        itself: the first has put into its environment what it needs.
        """
        if self.rendezvous is None or not self.started_outside:
            return decide()
        return self.rendezvous.share(name, decide)

    def remember(self, name: str, value: str) -> None:
        """Keep a word for later attempts of this run, as long as the store lives."""
        if self.rendezvous is not None:
            self.rendezvous.root.set(f"kept/{name}", value)

    def recall(self, name: str) -> str | None:
        """Return what an earlier attempt kept."""
        if self.rendezvous is None or not self.rendezvous.root.check([f"kept/{name}"]):
            return None
        return self.rendezvous.root.get(f"kept/{name}").decode()

    def join(self, trainer: pl.Trainer) -> None:
        """Make the process group that the Trainer's strategy will find, before it starts.

        The first process starts the others when the Trainer does, and joins them then. One process makes no
        group.
        """
        strategy = trainer.strategy
        if not isinstance(strategy, ParallelStrategy) or trainer.world_size == 1:
            return
        if self.rendezvous is not None:
            self._connect(strategy)
        elif isinstance(strategy.launcher, _SubprocessScriptLauncher):

            def meet() -> None:
                self._meet()
                self._connect(strategy)

            self.children = SubprocessLauncher(strategy.launcher, open=self._open, meet=meet)
            strategy._launcher = self.children

    def conclude(self, error: BaseException) -> int:
        """End the run for all after `error`: say why, if no other process has, and return the exit code.

        2 is a user's mistake, on every rank; 1 all else.
        """
        if isinstance(error, UserError) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends all at the first that leaves
        limit = threading.Timer(60.0, os._exit, [2 if isinstance(error, UserError) else 1])
        limit.daemon = True
        limit.start()
        try:
            return self._end(error)
        except RuntimeError:  # the store is gone with the process that served it
            if self.heartbeat is None or not _is_connection(error):
                return self._say(error)
            self.heartbeat.orphaned()
            return 1
        finally:
            limit.cancel()

    def mistaken(self) -> bool:
        """Tell whether a user's mistake, seen by any process, ended the run; waits a moment for the news."""
        if self.rendezvous is None:
            return False
        try:
            end = self._ended(wait=2.0)
        except RuntimeError:
            return False
        return end is not None and end.code == 2

    def close(self, code: int) -> None:
        """Leave the others; the first waits for those it started, whoever serves the store for all."""
        if self.heartbeat is not None:
            self.heartbeat.stop()
        if self.rendezvous is not None and code == 0:
            with suppress(RuntimeError):  # the others had nothing more to say
                self.rendezvous.told(wait=60.0 if self.rendezvous.info.serves else 0.0)
        if self.children is not None:
            self.children.reap(patience=60.0 if code == 0 else 10.0)
        if self.rendezvous is not None and code == 0 and dist.is_initialized():
            dist.destroy_process_group()
        self.rendezvous = self.heartbeat = None

    def _open(self, info: RankInfo) -> None:
        self.info = info
        self.rendezvous = Rendezvous(info, timeout=self.timeout or TIMEOUT)

    def _meet(self) -> None:
        assert self.rendezvous is not None
        self.rendezvous.gather()

    def _connect(self, strategy: ParallelStrategy) -> None:
        assert self.rendezvous is not None
        own = getattr(strategy, "_timeout", None)
        timeout = self.timeout or (own.total_seconds() if own is not None else TIMEOUT)
        self.heartbeat = Heartbeat(
            self.rendezvous,
            timeout=timeout,
            killed=self.children.killed if self.children is not None else lambda: None,
        )
        self.heartbeat.start()
        backend = getattr(strategy, "_process_group_backend", None) or backend_for(
            strategy.root_device, offload=getattr(strategy, "offload", False)
        )
        self.rendezvous.connect(backend, timeout=timeout)

    def _end(self, error: BaseException) -> int:
        rendezvous = self.rendezvous
        if rendezvous is None:
            return self._say(error)
        if isinstance(error, RunEnded):
            code = error.code
        elif _is_connection(error) and (end := self._ended(wait=5.0)) is not None:
            code = end.code
        else:
            code = 2 if isinstance(error, UserError) else 1
            text = self._reason(error)
            if rendezvous.end(code, text):
                self._say(error, text)
            elif (end := rendezvous.ended(wait=2.0)) is not None:
                code = end.code
        if self.heartbeat is None or self.heartbeat.code is None:
            rendezvous.told(wait=20.0 if code == 2 else 3.0)
        return code

    def _ended(self, *, wait: float) -> RunEnded | None:
        """Return how the run was ended; what the heartbeat saw counts, for the store may be gone."""
        assert self.rendezvous is not None
        if self.heartbeat is not None and self.heartbeat.code is not None:
            return RunEnded(self.heartbeat.code, "")
        return self.rendezvous.ended(wait=wait)

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, UserError | ProcessLost) or not _is_connection(error):
            return str(error)
        lines = str(error).splitlines() or [type(error).__name__]
        died = self.children.killed() if self.children is not None else None
        silent = self.heartbeat.silent() if self.heartbeat is not None else []
        if died is None and silent:
            died = f"{rank_list(silent)} left without a word: killed, stopped, or the machine is gone"
        return f"{died or 'the connection to another process broke'} ({lines[0][:160]})"

    def _say(self, error: BaseException, text: str | None = None) -> int:
        over = self.heartbeat is not None and self.heartbeat.code is not None
        if isinstance(error, UserError | ProcessLost) or (text is not None and _is_connection(error)):
            print(f"dfm: {text or error}", file=sys.stderr, flush=True)
        elif not over and not isinstance(error, RunEnded):
            traceback.print_exception(error)
        return 2 if isinstance(error, UserError) else 1


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


def _is_connection(error: BaseException) -> bool:
    """Tell whether a collective operation failed, which another process may be the cause of."""
    text = str(error).lower()
    kinds = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "c10d"))
    )
