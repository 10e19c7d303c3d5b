"""How Lightning writes and reads checkpoints here; `core.checkpoints.files` reads them without Lightning."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from torch import nn

from core.checkpoints.files import (
    FORMAT,
    clean_leftovers,
    is_valid,
    newest_valid,
    read_checkpoint,
    write_checkpoint,
)
from core.checkpoints.plain import plain
from core.checkpoints.saver import Saver
from core.checkpoints.sharded import holds_shards, load_sharded
from core.files import remove

__all__ = [
    "FORMAT",
    "SafeCheckpointIO",
    "clean_leftovers",
    "is_valid",
    "newest_valid",
    "plain",
    "read_checkpoint",
    "write_checkpoint",
]


class SafeCheckpointIO(CheckpointIO):
    """Checkpoints that are whole or absent, verified when read: `Trainer(plugins=[SafeCheckpointIO()])`.

    Lightning's own writes into memory, then to the system's temporary folder, and moves the file over: a full
    disk leaves half a file under the final name. This one streams into the same folder, with a SHA-256, fsync
    and rename.

    Args:
        sharded: Whether checkpoints are folders (see `core.checkpoints.sharded`); `"auto"` makes one where
            tensors are sharded, and a single file otherwise.
        asynchronous: Whether a thread writes while training goes on; `wait` waits for it.
        optimizers: Whether the optimisers' state is read from a folder, which only training needs.
    """

    def __init__(
        self, *, sharded: bool | str = "auto", asynchronous: bool = False, optimizers: bool = True
    ) -> None:
        self.sharded, self.optimizers = sharded, optimizers
        self.saver = Saver(asynchronous=asynchronous)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path` from this process alone.

        Raises:
            TypeError: If something in it is not plain, or storage options are given: there are none.
            UserError: If the disk is full or refuses; what went wrong in a thread is raised by the next save.
        """
        if storage_options is not None:
            raise TypeError("SafeCheckpointIO takes no storage_options")
        if self.sharded is True:
            self.saver.save_folder(checkpoint, Path(path), alone=True)
        else:
            self.saver.save_file(checkpoint, Path(path))

    def save_together(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        *,
        mesh: Mapping[str, int] | None = None,
    ) -> None:
        """Write `checkpoint` to `path`; every process calls it, each with its shards (DTensors).

        Args:
            checkpoint: Its optimisers' state goes by names (`core.checkpoints.sharded.named_state`).
            path: The folder, or the file where nothing is sharded or `sharded` is False.
            mesh: Sizes of the mesh's axes, for the manifest.

        Raises:
            TypeError, UserError: As `save_checkpoint`, on every process.
        """
        folder = self.sharded is True or (self.sharded == "auto" and holds_shards(checkpoint))
        if folder:
            self.saver.save_folder(checkpoint, Path(path), mesh=mesh)
        else:
            self.saver.gather_file(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and load `path`, file or folder, onto the CPU, tensors and plain containers only, whatever
        the last two arguments say.

        Raises:
            UserError: If it is missing, damaged, of a newer format, or holds other Python objects.
        """
        self.wait()
        return read_checkpoint(path, optimizers=self.optimizers)

    def load_together(
        self, path: str | os.PathLike[str], *, model: nn.Module, strict: bool = True
    ) -> dict[str, Any]:
        """Fill the sharded `model` from `path`, file or folder (see `core.checkpoints.sharded`)."""
        self.wait()
        return load_sharded(path, model=model, strict=strict)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete the file, folder or link at `path`, once what is being written is whole.

        A missing one is no error, and a link's target stays.
        """
        self.saver.afterwards(lambda: remove(path))

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call `call` once what is being written is whole; at once where nothing is."""
        self.saver.afterwards(call)

    def wait(self) -> None:
        """Wait for what is being written.

        Raises:
            UserError: If the disk was full or refused.
        """
        self.saver.wait()

    def teardown(self) -> None:
        """Wait at the end of every run, also of one that failed."""
        self.saver.close()
