"""How a run is spread over processes: the mesh of sizes, and what is done to a network on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.strategies.mesh import Mesh

__all__ = ["Mesh"]


def __getattr__(name: str) -> Any:
    if name == "Mesh":
        from core.strategies.mesh import Mesh

        return Mesh
    raise AttributeError(f"module {__name__} has no attribute {name}")
