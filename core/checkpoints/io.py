"""How Lightning writes and reads checkpoints here; `core.checkpoints.files` reads them without Lightning."""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from core.checkpoints.archive import write_checkpoint
from core.checkpoints.files import read_checkpoint
from core.checkpoints.optimizers import numbered_state
from core.checkpoints.plain import plain
from core.checkpoints.sharded import load_sharded
from core.checkpoints.writing import agree, filled, split, write_folder_checkpoint
from core.files import remove

__all__ = ["SafeCheckpointIO"]

Path_ = str | os.PathLike[str]


class SafeCheckpointIO(CheckpointIO):
    """Checkpoints that are whole or absent, verified when read: `Trainer(plugins=[SafeCheckpointIO()])`.

    Lightning's own writes into memory, then to the system's temporary folder, and moves the file over: a full
    disk leaves half a file under the final name. This one streams into the same folder, with a SHA-256, fsync
    and rename.

    In a thread at most one checkpoint is being written: the next waits for it. What goes wrong there is
    raised by the next save or `wait`. The processes talk over a group of their own, so that a thread's
    messages never stand between those of the training.

    Args:
        sharded: Whether checkpoints are folders (see `core.checkpoints.sharded`); `"auto"` makes one where
            tensors are sharded, and a single file otherwise.
        asynchronous: Whether a thread writes a copy while training goes on; `wait` waits for it.
        optimizers: Whether the optimisers' state is read from a folder, which only training needs.
    """

    def __init__(
        self, *, sharded: bool | str = "auto", asynchronous: bool = False, optimizers: bool = True
    ) -> None:
        self.sharded, self.asynchronous, self.optimizers = sharded, asynchronous, optimizers
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._later: list[Callable[[], None]] = []
        self._writing = False
        self._lock = threading.RLock()
        self._group: dist.ProcessGroup | None = None
        self._copies: dict[str, Tensor] = {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Path_, storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path` from this process alone.

        Raises:
            TypeError: If something in it is not plain, or storage options are given: there are none.
            UserError: If the disk is full or refuses; what went wrong in a thread is raised by the next save.
        """
        if storage_options is not None:
            raise TypeError("SafeCheckpointIO takes no storage_options")
        self.wait()
        if self.sharded is True:
            self._save_folder(*split(checkpoint), Path(path), alone=True)
        else:
            self._save_file(checkpoint, Path(path))

    def save_together(
        self, checkpoint: dict[str, Any], path: Path_, *, mesh: Mapping[str, int] | None = None
    ) -> None:
        """Write `checkpoint` to `path`; every process calls it, each with its shards (DTensors).

        Args:
            checkpoint: Its optimisers' state goes by names (`core.checkpoints.sharded.named_state`).
            path: The folder, or the file where nothing is sharded or `sharded` is False.
            mesh: Sizes of the mesh's axes, for the manifest.

        Raises:
            TypeError, UserError: As `save_checkpoint`, on every process.
        """
        self.wait()
        tensors, rest = split(checkpoint)
        shards = any(isinstance(tensor, DTensor) for tensor in tensors.values())
        if self.sharded is True or (self.sharded == "auto" and shards):
            self._save_folder(tensors, rest, Path(path), group=self._own_group(), mesh=mesh)
        else:
            self._gather_file(tensors, rest, Path(path))

    def load_checkpoint(
        self, path: Path_, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and load `path`, file or folder, onto the CPU, tensors and plain containers only, whatever
        the last two arguments say.

        Raises:
            UserError: If it is missing, damaged, of a newer format, or holds other Python objects.
        """
        self.wait()
        return read_checkpoint(path, optimizers=self.optimizers)

    def load_together(self, path: Path_, *, model: nn.Module) -> dict[str, Any]:
        """Fill the sharded `model` from `path`, file or folder (see `core.checkpoints.sharded`)."""
        self.wait()
        return load_sharded(path, model=model)

    def remove_checkpoint(self, path: Path_) -> None:
        """Delete the file, folder or link at `path`, once what is being written is whole.

        A missing one is no error, and a link's target stays.
        """
        self.afterwards(lambda: remove(path))

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
        """Wait for what is being written, and raise what went wrong there.

        Raises:
            UserError: If the disk was full or refused.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def teardown(self) -> None:
        """Wait at the end of every run; in one that another exception ends, a failed save is only told."""
        underway = sys.exc_info()[1] is not None
        try:
            self.wait()
        except Exception as error:
            if not underway:
                raise
            print(f"the last checkpoint was not written: {error}", file=sys.stderr, flush=True)
        self._copies = {}

    def _save_folder(
        self, tensors: dict[str, Tensor], rest: Mapping[str, Any], path: Path, **options: Any
    ) -> None:
        if self.asynchronous:
            tensors, rest = self._copy(tensors), _frozen(rest)
        self._start(lambda: write_folder_checkpoint(tensors, rest, path, **options))

    def _save_file(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        content = dict(checkpoint)
        if self.asynchronous:
            tensors, rest = split(checkpoint, clean=False)
            content = filled(_frozen(rest), self._copy(tensors).__getitem__)
        self._start(lambda: write_checkpoint(content, path))

    def _gather_file(self, tensors: dict[str, Tensor], rest: Mapping[str, Any], path: Path) -> None:
        """Put sharded tensors together, one after the other, and write a single file from the first rank."""
        first = not dist.is_initialized() or dist.get_rank() == 0
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
                self._save_file(content, path)
            except Exception as raised:
                error = raised
        agree(error, self._own_group())

    def _start(self, write: Callable[[], Any]) -> None:
        """Write now, or in a thread."""
        if not self.asynchronous:
            write()
            return

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
