"""Aurora, a foundation model of the atmosphere: encoder, U-net of windows, decoder, named sizes."""

from apps.weather.models.aurora.network import (
    Aurora,
    aurora_0p1,
    aurora_12h,
    aurora_finetuned,
    aurora_large,
    aurora_small,
)
from apps.weather.models.aurora.settings import PerceiverShape, RolloutLoRA, SwinShape

__all__ = [
    "Aurora",
    "PerceiverShape",
    "RolloutLoRA",
    "SwinShape",
    "aurora_0p1",
    "aurora_12h",
    "aurora_finetuned",
    "aurora_large",
    "aurora_small",
]
