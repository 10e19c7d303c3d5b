"""The tasks on images of the Earth, by the names that recipes give."""

from __future__ import annotations

from apps.remote_sensing.contrastive import ContrastivePretraining
from apps.remote_sensing.labelling import Classification
from apps.remote_sensing.mapping_tasks import Change, Regression, Segmentation
from apps.remote_sensing.probe import Probing
from apps.remote_sensing.reconstruction import GapFilling, Pretraining

__all__ = [
    "Change",
    "Classification",
    "ContrastivePretraining",
    "GapFilling",
    "Pretraining",
    "Probing",
    "Regression",
    "Segmentation",
]
