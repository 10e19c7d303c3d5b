"""How Lightning writes and reads checkpoints here; `core.checkpoints.files` reads them without Lightning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO

from core.checkpoints.files import (
    FORMAT,
    clean_leftovers,
    is_valid,
    newest_valid,
    read_checkpoint,
    write_checkpoint,
)
from core.checkpoints.plain import plain

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
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path` (see `core.checkpoints.files.write_checkpoint`).

        Raises:
            TypeError: If something in it is not plain, or storage options are given: there are none.
            UserError: If the disk is full or refuses.
        """
        if storage_options is not None:
            raise TypeError("SafeCheckpointIO takes no storage_options")
        write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and load `path` onto the CPU with `weights_only=True`, whatever the two arguments say.

        Raises:
            UserError: If it is missing, damaged, of a newer format, or holds other Python objects.
        """
        return read_checkpoint(path)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete the file or link at `path`; a missing one is no error, and a link's target stays."""
        Path(path).unlink(missing_ok=True)
