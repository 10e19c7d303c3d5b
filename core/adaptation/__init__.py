"""How a pre-trained network is fine-tuned."""

from core.adaptation.freezing import Adaptation, FreezeAtFirst, Full, HeadOnly

__all__ = ["Adaptation", "FreezeAtFirst", "Full", "HeadOnly"]
