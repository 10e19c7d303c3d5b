"""How a pre-trained network is fine-tuned."""

from core.adaptation.freezing import Adaptation, FreezeAtFirst, Full, HeadOnly
from core.adaptation.lora import DoRA, LoRA
from core.adaptation.low_rank import LowRank
from core.adaptation.table import trained_table

__all__ = ["Adaptation", "DoRA", "FreezeAtFirst", "Full", "HeadOnly", "LoRA", "LowRank", "trained_table"]
