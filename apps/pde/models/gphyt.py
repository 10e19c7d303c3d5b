"""GPhyT: named sizes, official names and configurations (Wiesner et al. 2025, arXiv 2509.13805).

The network stands in `physics_transformer/network.py`. The published weights read four frames of 256x128
points and predict the fifth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.pde.models.physics_transformer import official
from apps.pde.models.physics_transformer.integrators import euler, heun, rk4
from apps.pde.models.physics_transformer.network import GPhyT

__all__ = [
    "KEY_MAP",
    "GPhyT",
    "euler",
    "from_official_config",
    "gphyt_l",
    "gphyt_m",
    "gphyt_s",
    "gphyt_xl",
    "heun",
    "rk4",
    "to_official_config",
]

KEY_MAP = official.KEY_MAP


def from_official_config(config: Mapping[str, Any]) -> GPhyT:
    """Build the network that the arguments of the published class describe.

    Args:
        config: The arguments; what is not listed has the published default.

    Raises:
        UserError: If one is missing or asks for something that this network does not have.
    """
    return GPhyT(**official.arguments(config))


def to_official_config(network: GPhyT) -> dict[str, Any]:
    """Return the arguments of the published class for a network, every one spelt out."""
    return official.config(network)


def gphyt_s(width: int = 192, hidden: int = 768, heads: int = 3, depth: int = 12, **kw: Any) -> GPhyT:
    """Size S: 7 992 773 parameters."""
    return GPhyT(width=width, hidden=hidden, heads=heads, depth=depth, **kw)


def gphyt_m(width: int = 768, hidden: int = 3072, heads: int = 12, depth: int = 12, **kw: Any) -> GPhyT:
    """Size M: 111 597 317 parameters."""
    return GPhyT(width=width, hidden=hidden, heads=heads, depth=depth, **kw)


def gphyt_l(width: int = 1024, hidden: int = 4096, heads: int = 16, depth: int = 24, **kw: Any) -> GPhyT:
    """Size L: 384 885 765 parameters."""
    return GPhyT(width=width, hidden=hidden, heads=heads, depth=depth, **kw)


def gphyt_xl(width: int = 1280, hidden: int = 5120, heads: int = 16, depth: int = 32, **kw: Any) -> GPhyT:
    """Size XL: 795 813 125 parameters."""
    return GPhyT(width=width, hidden=hidden, heads=heads, depth=depth, **kw)
