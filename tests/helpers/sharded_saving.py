"""A checkpoint folder in one call, as Lightning's checkpoint makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.checkpoints.writing import split, write_folder_checkpoint


def save_sharded(checkpoint: dict[str, Any], path: Any, **options: Any) -> Path:
    """Write `checkpoint` as the folder `path`."""
    return write_folder_checkpoint(*split(checkpoint), Path(path), **options)
