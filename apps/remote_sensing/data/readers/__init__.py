"""Readers of images of the Earth: each lists the scenes of a data set and reads windows of them."""

from __future__ import annotations

from apps.remote_sensing.data.readers.bigearthnet import BigEarthNet
from apps.remote_sensing.data.readers.burn_scars import BurnScars
from apps.remote_sensing.data.readers.class_folders import ClassFolders, EuroSAT
from apps.remote_sensing.data.readers.crops import Crops
from apps.remote_sensing.data.readers.floods import Sen1Floods11
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.data.readers.gap_chips import GapChips
from apps.remote_sensing.data.readers.landscapes import Landscapes
from apps.remote_sensing.data.readers.source import Pixels, Scene, Source
from apps.remote_sensing.data.readers.ssl4eo import SSL4EO
from apps.remote_sensing.data.readers.torchgeo_sets import TorchGeoSet

__all__ = [
    "SSL4EO",
    "BigEarthNet",
    "BurnScars",
    "ClassFolders",
    "Crops",
    "EuroSAT",
    "GapChips",
    "GeoTiffFolder",
    "Landscapes",
    "Pixels",
    "Scene",
    "Sen1Floods11",
    "Source",
    "TorchGeoSet",
]
