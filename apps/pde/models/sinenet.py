"""SineNet: named sizes, official names and configurations (Zhang et al. 2024, arXiv 2403.19507).

The network stands in `waves/network.py`. The sizes of two to eight waves have about 35.5 million parameters
each, so that the number of waves is compared and not the size. Choose `padding="circular"` exactly when the
domain is periodic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.pde.models.waves import official
from apps.pde.models.waves.network import SineNet

__all__ = [
    "KEY_MAP",
    "SineNet",
    "deeper_unet8",
    "from_official_config",
    "sinenet2_dual",
    "sinenet4_dual",
    "sinenet6_dual",
    "sinenet8_dual",
    "sinenet8_tangle",
    "to_official_config",
    "unet",
]

KEY_MAP = official.KEY_MAP


def from_official_config(config: Mapping[str, Any]) -> SineNet:
    """Build the network that the arguments of the published class describe.

    Args:
        config: The arguments; what is not listed has the published default.

    Raises:
        UserError: If one is missing or asks for something that this network does not have.
    """
    return SineNet(**official.arguments(config))


def to_official_config(network: SineNet) -> dict[str, Any]:
    """Return the arguments of the published class for a network, every one spelt out."""
    return official.config(network)


def sinenet8_dual(waves: int = 8, multiplier: float = 1.425, **kw: Any) -> SineNet:
    """Eight waves, the published best."""
    return SineNet(waves=waves, multiplier=multiplier, **kw)


def sinenet6_dual(waves: int = 6, multiplier: float = 1.5, **kw: Any) -> SineNet:
    """Six waves."""
    return SineNet(waves=waves, multiplier=multiplier, **kw)


def sinenet4_dual(waves: int = 4, multiplier: float = 1.611, **kw: Any) -> SineNet:
    """Four waves."""
    return SineNet(waves=waves, multiplier=multiplier, **kw)


def sinenet2_dual(waves: int = 2, multiplier: float = 1.8075, **kw: Any) -> SineNet:
    """Two waves."""
    return SineNet(waves=waves, multiplier=multiplier, **kw)


def sinenet8_tangle(
    waves: int = 8, multiplier: float = 1.425, disentangle: bool = False, **kw: Any
) -> SineNet:
    """Eight waves whose lower levels do not see the wave's input."""
    return SineNet(waves=waves, multiplier=multiplier, disentangle=disentangle, **kw)


def unet(waves: int = 1, multiplier: float = 2.0, **kw: Any) -> SineNet:
    """One wave: the U-Net that SineNet is compared with."""
    return SineNet(waves=waves, multiplier=multiplier, **kw)


def deeper_unet8(waves: int = 1, multiplier: float = 1.425, blocks: int = 8, **kw: Any) -> SineNet:
    """One wave with eight convolution blocks at every level: as deep as eight waves."""
    return SineNet(waves=waves, multiplier=multiplier, blocks=blocks, **kw)
