"""The processes of one run, seen from one of them: they meet before Lightning starts, decide together and
end together.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from core.errors import UserError
from core.strategies.meeting import TIMEOUT, Ended, Lost, Meeting, listing
from core.strategies.place import Place
from core.strategies.processes import FirstProcess
from core.strategies.watch import Watch

__all__ = ["Together", "backend_for", "slurm_as_it_is"]

BACKENDS = {"cpu": "gloo", "cuda": "nccl", "neuron": "neuron", "xla": "xla"}


def backend_for(device: torch.device, *, offload: bool = False) -> str:
    """Return the backend of collective operations for a device, without touching the device.

    Args:
        device: Where the network computes.
        offload: Whether weights and gradients lie in the host's memory, whose norms are summed there.
    """
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


class Together:
    """What one process does with the others of its run; a process alone does nothing of it.

    Args:
        place: Where this process stands; None if it is alone, or will start the others.
        timeout: Seconds to wait for the others; None takes half an hour.
    """

    def __init__(self, place: Place | None, *, timeout: float | None = None) -> None:
        self.place = place
        self.timeout = timeout
        self.meeting: Meeting | None = None
        self.watch: Watch | None = None
        self.children: FirstProcess | None = None

    @property
    def first(self) -> bool:
        """Whether this process decides and speaks for all."""
        return self.place is None or self.place.rank == 0

    @property
    def started_outside(self) -> bool:
        """Whether torchrun or srun started the processes."""
        return self.place is not None and self.place.launcher != "first"

    def gather(self) -> None:
        """Meet the others, if a launcher started them.

        Raises:
            Lost: If some do not come in time.
            Ended: If one of them has ended the run already.
        """
        if self.place is not None:
            self._open(self.place)
            self._meet()

    def share(self, name: str, decide: Callable[[], Any]) -> Any:
        """Return what rank 0 decides, in plain JSON; a process alone, or started by the first, decides for
        itself: the first has put into its environment what it needs.
        """
        if self.meeting is None or not self.started_outside:
            return decide()
        return self.meeting.share(name, decide)

    def remember(self, name: str, value: str) -> None:
        """Keep a word for later attempts of this run, as long as the store lives."""
        if self.meeting is not None:
            self.meeting.root.set(f"kept/{name}", value)

    def recall(self, name: str) -> str | None:
        """Return what an earlier attempt kept."""
        if self.meeting is None or not self.meeting.root.check([f"kept/{name}"]):
            return None
        return self.meeting.root.get(f"kept/{name}").decode()

    def join(self, trainer: pl.Trainer) -> None:
        """Make the process group that the Trainer's strategy will find, before it starts.

        The first process starts the others when the Trainer does, and joins them then. One process makes no
        group.
        """
        strategy = trainer.strategy
        if not isinstance(strategy, ParallelStrategy) or trainer.world_size == 1:
            return
        if self.meeting is not None:
            self._connect(strategy)
        elif isinstance(strategy.launcher, _SubprocessScriptLauncher):

            def meet() -> None:
                self._meet()
                self._connect(strategy)

            self.children = FirstProcess(strategy.launcher, open=self._open, meet=meet)
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
            if self.watch is None or not _is_connection(error):
                return self._say(error)
            self.watch.orphaned()
            return 1
        finally:
            limit.cancel()

    def mistaken(self) -> bool:
        """Tell whether a user's mistake, seen by any process, ended the run; waits a moment for the news."""
        if self.meeting is None:
            return False
        try:
            end = self._ended(wait=2.0)
        except RuntimeError:
            return False
        return end is not None and end.code == 2

    def close(self, code: int) -> None:
        """Leave the others; the first waits for those it started, whoever serves the store for all."""
        if self.watch is not None:
            self.watch.stop()
        if self.meeting is not None and code == 0:
            with suppress(RuntimeError):  # the others had nothing more to say
                self.meeting.told(wait=60.0 if self.meeting.place.serves else 0.0)
        if self.children is not None:
            self.children.reap(patience=60.0 if code == 0 else 10.0)
        if self.meeting is not None and code == 0 and dist.is_initialized():
            dist.destroy_process_group()
        self.meeting = self.watch = None

    def _open(self, place: Place) -> None:
        self.place = place
        self.meeting = Meeting(place, timeout=self.timeout or TIMEOUT)

    def _meet(self) -> None:
        assert self.meeting is not None
        self.meeting.gather()

    def _connect(self, strategy: ParallelStrategy) -> None:
        assert self.meeting is not None
        own = getattr(strategy, "_timeout", None)
        timeout = self.timeout or (own.total_seconds() if own is not None else TIMEOUT)
        self.watch = Watch(
            self.meeting,
            timeout=timeout,
            casualty=self.children.casualty if self.children is not None else lambda: None,
        )
        self.watch.start()
        backend = getattr(strategy, "_process_group_backend", None) or backend_for(
            strategy.root_device, offload=getattr(strategy, "offload", False)
        )
        self.meeting.connect(backend, timeout=timeout)

    def _end(self, error: BaseException) -> int:
        meeting = self.meeting
        if meeting is None:
            return self._say(error)
        if isinstance(error, Ended):
            code = error.code
        elif _is_connection(error) and (end := self._ended(wait=5.0)) is not None:
            code = end.code
        else:
            code = 2 if isinstance(error, UserError) else 1
            text = self._reason(error)
            if meeting.end(code, text):
                self._say(error, text)
            elif (end := meeting.ended(wait=2.0)) is not None:
                code = end.code
        if self.watch is None or self.watch.code is None:
            meeting.told(wait=20.0 if code == 2 else 3.0)
        return code

    def _ended(self, *, wait: float) -> Ended | None:
        """Return how the run was ended; what the watch has seen counts, for the store may be gone since."""
        assert self.meeting is not None
        if self.watch is not None and self.watch.code is not None:
            return Ended(self.watch.code, "")
        return self.meeting.ended(wait=wait)

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, UserError | Lost) or not _is_connection(error):
            return str(error)
        lines = str(error).splitlines() or [type(error).__name__]
        died = self.children.casualty() if self.children is not None else None
        silent = self.watch.silent() if self.watch is not None else []
        if died is None and silent:
            died = f"{listing(silent)} left without a word: killed, stopped, or the machine is gone"
        return f"{died or 'the connection to another process broke'} ({lines[0][:160]})"

    def _say(self, error: BaseException, text: str | None = None) -> int:
        known = self.watch is not None and self.watch.code is not None
        if isinstance(error, UserError | Lost) or (text is not None and _is_connection(error)):
            print(f"dfm: {text or error}", file=sys.stderr, flush=True)
        elif not known and not isinstance(error, Ended):
            traceback.print_exception(error)
        return 2 if isinstance(error, UserError) else 1


def _is_connection(error: BaseException) -> bool:
    """Tell whether a collective operation failed, which another process may be the cause of."""
    text = str(error).lower()
    kinds = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "c10d"))
    )
