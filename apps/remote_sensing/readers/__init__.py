"""Readers of images of the Earth: each lists the scenes of a data set and reads windows of them."""

from __future__ import annotations

from apps.remote_sensing.readers.floods import Sen1Floods11
from apps.remote_sensing.readers.folders import GeoTiffFolder
from apps.remote_sensing.readers.source import Pixels, Scene, Source

__all__ = ["GeoTiffFolder", "Pixels", "Scene", "Sen1Floods11", "Source"]
