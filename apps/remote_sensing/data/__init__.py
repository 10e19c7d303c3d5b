"""Images of the Earth: scenes of files to batches of normalised windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.remote_sensing.data.module import Scenes
    from apps.remote_sensing.data.settings import Augment, Normalise, Tiles

__all__ = ["Augment", "Normalise", "Scenes", "Tiles"]

__getattr__ = lazy(__name__, Augment="settings", Normalise="settings", Scenes="module", Tiles="settings")
