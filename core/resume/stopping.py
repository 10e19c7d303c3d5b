"""Leaving a run on SIGTERM, SIGHUP or Ctrl-C: after a checkpoint on a step's border, with the exit code of
the signal.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging

from core.resume.keeping import finish_saving
from core.resume.streams import IsolateValidation

__all__ = ["StopGracefully", "in_slurm", "requeue", "resume_command"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE = 2.0  # seconds within which a second Ctrl-C is taken for the same one


class StopGracefully(Checkpoint):
    """On SIGTERM, SIGHUP or Ctrl-C finish the optimizer step, write `last.ckpt`, say how to go on, and exit
    with 143, 129 or 130.

    Half-accumulated gradients are in no checkpoint, so it waits for the border of a step; in a distributed
    run all ranks agree on the flag there and leave at the same step. A validation is not waited for: the
    resumed run does it again from its beginning. A second Ctrl-C, some seconds later, leaves at once; while
    the checkpoint is written nothing does.

    As a `Checkpoint` it runs after all other callbacks, averaging of weights included; its handlers are set
    again when training starts, because Lightning sets its own in between.

    Args:
        folder: Where `last.ckpt` is written.
        command: The command that resumes the run; None derives it from the command line.
        requeue: Names of signals, without SIG, after which a SLURM job is put back into its queue. In such a
            job SIGUSR1 is watched too, the one that `sbatch --signal=USR1@120` sends before the time is over.
    """

    def __init__(
        self, folder: str | Path, *, command: str | None = None, requeue: Sequence[str] = ()
    ) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.command = command
        self.requeue = tuple(requeue)
        self.hit = 0
        self._when = 0.0
        self._saving = False
        self._shared_batches = 0  # of a validation, that every rank has
        self._before: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Watch from the start: a signal during set-up stops the run after its first step."""
        if stage == "fit":
            self.hit, self._saving = 0, False
            self._install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the handlers back from Lightning, whose own ends the run with exit code 0."""
        self._install()
        trainer._signal_connector.received_sigterm = False
        validation: Any = trainer.fit_loop.epoch_loop.val_loop
        if validation.restarted_mid_evaluation:  # begins anew; Lightning would go on counting
            for counts in (validation.batch_progress.total, validation.batch_progress.current):
                counts.ready = counts.started = counts.completed

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave if a signal came and the optimizer has just stepped; an epoch's end and a validation have
        hooks of their own.
        """
        loop = trainer.fit_loop
        if loop._should_accumulate() or not self._agreed(trainer):
            return
        if loop.epoch_loop._num_ready_batches_reached():
            return
        if loop._data_fetcher is None or not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            self._leave(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave if a signal came by the step before."""
        if trainer.sanity_checking:
            return
        self._shared_batches = int(sum(trainer.num_val_batches))
        if trainer.world_size > 1:
            count = torch.tensor(self._shared_batches, device=trainer.strategy.root_device)
            self._shared_batches = int(trainer.strategy.reduce(count, reduce_op="min"))  # type: ignore[arg-type]
        if self._agreed(trainer):
            self._leave_validation(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave if a signal came within the validation."""
        self._shared_batches -= 1
        if trainer.sanity_checking or self._shared_batches < 0 or not self._agreed(trainer):
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_validation_epoch_end(trainer, pl_module)  # exchanges the weights back
            elif isinstance(callback, IsolateValidation):
                callback.on_validation_end(trainer, pl_module)
        self._leave_validation(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave if a signal came by the epoch's last step, or after its validation."""
        if self._agreed(trainer):
            self._leave(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the handlers back."""
        self._remove(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the handlers back."""
        self._remove(trainer)

    def _agreed(self, trainer: pl.Trainer) -> bool:
        """Tell whether any rank was hit; every rank asks at every step, so that all have the same answer."""
        if trainer.world_size > 1:
            flag = torch.tensor(self.hit, device=trainer.strategy.root_device)
            self.hit = int(trainer.strategy.reduce(flag, reduce_op="max"))  # type: ignore[arg-type]
        return bool(self.hit)

    def _leave_validation(self, trainer: pl.Trainer) -> None:
        """Leave with a checkpoint from which the validation begins anew."""
        progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        before = progress.total.completed - progress.current.completed
        for counts, batches in ((progress.total, before), (progress.current, 0)):
            counts.ready = counts.started = batches + 1  # so Lightning knows it
            counts.processed = counts.completed = batches
        self._leave(trainer)

    def _leave(self, trainer: pl.Trainer) -> None:
        self._saving = True
        trainer.save_checkpoint(self.path)
        finish_saving(trainer)  # what is said next is that it is there
        _silence_closed_outputs()
        if trainer.is_global_zero:
            name = "Ctrl-C" if self.hit == signal.SIGINT else signal.Signals(self.hit).name
            command = self.command or resume_command(self.path)
            print(f"stopped by {name} after step {trainer.global_step}; go on with: {command}", flush=True)
            if signal.Signals(self.hit).name.removeprefix("SIG") in self.requeue:
                print(requeue(), flush=True)
        raise SystemExit(128 + self.hit)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _silence_closed_outputs()
        if not self.hit:
            self.hit, self._when = number, time.monotonic()
        elif number == signal.SIGINT and not self._saving and time.monotonic() - self._when > _PATIENCE:
            raise SystemExit(128 + number)

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (*_SIGNALS, signal.SIGUSR1) if in_slurm() else _SIGNALS:
            present = signal.getsignal(number)
            if number == signal.SIGHUP and present == signal.SIG_IGN:
                continue  # nohup
            if present != self._on_signal:
                self._before.setdefault(number, present)
                signal.signal(number, self._on_signal)

    def _remove(self, trainer: pl.Trainer) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._before.items():
            handler = signal.SIG_DFL if handler is None else handler
            signal.signal(number, handler)
            # after an exception Lightning puts back what it found, which was ours
            if number in trainer._signal_connector._original_handlers:
                trainer._signal_connector._original_handlers[number] = handler  # type: ignore[index]
        self._before = {}


def _silence_closed_outputs() -> None:
    """Send nowhere what nobody reads any more, after a terminal was closed: each line would be an error."""
    for stream in (1, 2):
        poll = select.poll()
        poll.register(stream, 0)
        if poll.poll(0):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)


def resume_command(path: str | Path, argv: Sequence[str] | None = None) -> str:
    """Return the shell command that repeats this process's command line from the checkpoint `path`.

    Args:
        path: The checkpoint.
        argv: The command line; None takes the process's own.
    """
    words = list(sys.argv if argv is None else argv)
    program = Path(words[0]).name if words else "dfm"
    start = ["python", "-m", "core.cli"] if program == "__main__.py" else [program]
    if program.endswith(".py") and program != "__main__.py":
        start = ["python", words[0]]
    rest: list[str] = []
    skip = False
    for word in words[1:]:
        if skip:
            skip = False
        elif word == "--ckpt_path":
            skip = True
        elif not word.startswith("--ckpt_path="):
            rest.append(word)
    target = Path(path)
    if target.is_relative_to(Path.cwd()):
        target = target.relative_to(Path.cwd())
    return shlex.join([*start, *rest, "--ckpt_path", str(target)])


def in_slurm(environment: Mapping[str, str] | None = None) -> bool:
    """Tell whether this process belongs to a SLURM job."""
    return "SLURM_JOB_ID" in (os.environ if environment is None else environment)


def requeue(environment: Mapping[str, str] | None = None) -> str:
    """Put this process's job back into the queue and return a sentence that says so, or why not.

    Args:
        environment: SLURM's variables; None takes the process's own.
    """
    variables = os.environ if environment is None else environment
    job = variables.get("SLURM_JOB_ID")
    if job is None:
        return "this is no SLURM job, so nothing was put back into a queue"
    if "SLURM_ARRAY_JOB_ID" in variables:
        job = f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"SLURM job {job} is not in the queue again, `scontrol requeue` failed: {error}"
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        return f"SLURM job {job} is not in the queue again, `scontrol requeue` failed: {reason}"
    return f"SLURM job {job} is in the queue again and will go on from there"
