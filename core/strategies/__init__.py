"""Spreading a run over processes: the mesh of sizes, and what is done to a network on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from core.strategies.mesh import Mesh

__all__ = ["Mesh"]

__getattr__ = lazy(__name__, Mesh="mesh")
