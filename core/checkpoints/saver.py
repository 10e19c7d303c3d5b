"""Saving beside the training: the state is copied at once, and a thread writes it during the next steps."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from core.checkpoints.files import write_checkpoint
from core.checkpoints.optimizers import numbered_state
from core.checkpoints.plain import plain
from core.checkpoints.sharded import filled, split
from core.checkpoints.writing import agree, write_folder_checkpoint

__all__ = ["Saver"]


class Saver:
    """Writes checkpoints one after the other, as folders or files, at once or in a thread.

    In a thread at most one is being written: the next waits for it. What goes wrong there is raised by the
    next save or `wait`. The processes talk over a group of their own, so that a thread's messages never stand
    between those of the training.

    Args:
        asynchronous: Whether a thread writes; otherwise `save` returns when the checkpoint has its name.
    """

    def __init__(self, *, asynchronous: bool = False) -> None:
        self.asynchronous = asynchronous
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._later: list[Callable[[], None]] = []
        self._writing = False
        self._lock = threading.RLock()
        self._group: dist.ProcessGroup | None = None
        self._copies: dict[str, Tensor] = {}

    def save_folder(
        self,
        checkpoint: Mapping[str, Any],
        path: Path,
        *,
        mesh: Mapping[str, int] | None = None,
        alone: bool = False,
    ) -> None:
        """Write a folder; every rank calls it, or one alone (see `core.checkpoints.sharded.save_sharded`)."""
        self.wait()
        tensors, rest = split(checkpoint)
        group = None if alone else self._own_group()
        if not self.asynchronous:
            write_folder_checkpoint(tensors, rest, path, group=group, mesh=mesh, alone=alone)
            return
        copies, kept = self._copy(tensors), _frozen(rest)
        self._start(lambda: write_folder_checkpoint(copies, kept, path, group=group, mesh=mesh, alone=alone))

    def save_file(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Write a single file from this process."""
        self.wait()
        if not self.asynchronous:
            write_checkpoint(dict(checkpoint), path)
            return
        tensors, rest = split(checkpoint, clean=False)
        copies, kept = self._copy(tensors), _frozen(rest)
        self._start(lambda: write_checkpoint(filled(kept, copies.__getitem__), path))

    def gather_file(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Put sharded tensors together, one after the other, and write a single file from the first rank."""
        self.wait()
        first = not dist.is_initialized() or dist.get_rank() == 0
        tensors, rest = split(checkpoint)
        whole: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if first:
                whole[name] = full.cpu()
        error: Exception | None = None
        if first:
            try:
                content = filled(rest, whole.__getitem__)
                if "optimizer_states" in content:
                    content["optimizer_states"] = [numbered_state(s) for s in content["optimizer_states"]]
                self.save_file(content, path)
            except Exception as raised:
                error = raised
        agree(error, self._own_group())

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call `call` once what is being written has its name, and never if that fails; now if nothing is.

        Removing an old checkpoint and linking to a new one wait so.
        """
        with self._lock:
            if self._writing:
                self._later.append(call)
            else:
                call()

    def wait(self) -> None:
        """Wait for the thread, and raise what went wrong there."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait; while another exception is on its way, a failed save is only told."""
        underway = sys.exc_info()[1] is not None
        try:
            self.wait()
        except Exception as error:
            if not underway:
                raise
            print(f"the last checkpoint was not written: {error}", file=sys.stderr, flush=True)
        self._copies = {}

    def _start(self, write: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                write()
                with self._lock:
                    while self._later:
                        self._later.pop(0)()
            except BaseException as error:
                self._error = error
            finally:
                with self._lock:
                    self._writing = False
                    self._later.clear()

        self._writing = True
        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def _copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy what this rank holds to the CPU, into the memory of the save before where it fits."""
        copies = {}
        waits = set()
        for name, tensor in tensors.items():
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            room = self._copies.get(name)
            if room is None or room.shape != local.shape or room.dtype != local.dtype:
                room = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
                self._copies[name] = room
            room.copy_(local, non_blocking=local.is_cuda)
            if local.is_cuda:
                waits.add(local.device)
            # DTensor.from_local would move the copy back to the mesh's device; only its place is needed
            copies[name] = (
                DTensor(room, tensor._spec, requires_grad=False) if isinstance(tensor, DTensor) else room
            )
        for device in waits:
            torch.cuda.synchronize(device)
        return copies

    def _own_group(self) -> dist.ProcessGroup | None:
        shared = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if self._group is None and shared:
            self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        return self._group


def _frozen(rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain part as it is now, whatever training does to its containers and tensors."""
    return copy.deepcopy(plain(rest, "checkpoint"))
