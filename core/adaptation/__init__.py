"""Ways to fine-tune a pre-trained network."""

from core.adaptation.freezing import (
    Adaptation,
    FreezeAtFirst,
    Full,
    HeadOnly,
    LayerDecay,
    ProgressiveFreezing,
    ProgressiveThawing,
    trained_table,
)
from core.adaptation.light import LightDecoder, LinearProbe
from core.adaptation.low_rank import DoRA, LoRA, LowRank
from core.adaptation.saved import SavedAdapter, export_adapter, kept_names, load_adapter, save_adapter

__all__ = [
    "Adaptation",
    "DoRA",
    "FreezeAtFirst",
    "Full",
    "HeadOnly",
    "LayerDecay",
    "LightDecoder",
    "LinearProbe",
    "LoRA",
    "LowRank",
    "ProgressiveFreezing",
    "ProgressiveThawing",
    "SavedAdapter",
    "export_adapter",
    "kept_names",
    "load_adapter",
    "save_adapter",
    "trained_table",
]
