"""Images of the Earth: scenes of files to batches of normalised windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.remote_sensing.data.module import Scenes

__all__ = ["Scenes"]

__getattr__ = lazy(__name__, Scenes="module")
