"""A world of our own: three-level quasi-geostrophic weather with moisture on a made-up globe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.weather.simulation.store import generate

__all__ = ["generate"]

__getattr__ = lazy(__name__, generate="store")
