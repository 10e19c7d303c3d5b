"""Poseidon: named sizes of scOT, official names and configs (Herde et al. 2024, arXiv 2405.19101).

The network stands in `scot/network.py`. Released weights are CC-BY-NC-4.0 (non-commercial).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.pde.models.scot import official
from apps.pde.models.scot.network import ScOT
from core.backbones.sizes import size

__all__ = [
    "KEY_MAP",
    "ScOT",
    "from_official_config",
    "poseidon_b",
    "poseidon_l",
    "poseidon_s",
    "poseidon_t",
    "to_official_config",
]

KEY_MAP = official.KEY_MAP


def from_official_config(config: Mapping[str, Any]) -> ScOT:
    """Build the network that an official config.json describes.

    Args:
        config: Its fields; what is not listed has the official default. Those about the loss are carried
            along for `to_official_config`.

    Raises:
        UserError: If it describes another network.
    """
    network = ScOT(**official.arguments(config))
    network.official = {name: config.get(name, default) for name, default in official.KEPT}
    return network


def to_official_config(network: ScOT) -> dict[str, Any]:
    """Return the official config.json of a network, every field spelt out."""
    return official.config(network.settings, network.official)


poseidon_t = size(ScOT, "T: 20 774 444 parameters.", width=48, depths=(4, 4, 4, 4))
poseidon_s = size(
    ScOT, "S: 39 901 076 parameters; its weights were not released.", width=48, depths=(8, 8, 8, 8)
)
poseidon_b = size(ScOT, "B: 157 729 988 parameters.", width=96, depths=(8, 8, 8, 8))
poseidon_l = size(ScOT, "L: 628 575 524 parameters.", width=192, depths=(8, 8, 8, 8))
