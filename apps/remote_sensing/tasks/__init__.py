"""The tasks on images of the Earth, by the names that recipes give."""

from __future__ import annotations

from apps.remote_sensing.tasks.autoencoding import GapFilling, Pretraining
from apps.remote_sensing.tasks.contrastive import ContrastivePretraining
from apps.remote_sensing.tasks.labelled import Change, Classification, Regression, Segmentation
from apps.remote_sensing.tasks.probing import Probing

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
