"""Partial differential equations: Poseidon, SineNet, GPhyT, FNO and DeepONet on simulated fields."""

from __future__ import annotations
