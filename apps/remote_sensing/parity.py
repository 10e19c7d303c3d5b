"""Recorded cases of systems that read images of the Earth, run on the networks here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.parity import Case

__all__ = ["CASES"]


def _recorded(case: Case) -> Mapping[str, Any]:
    """Run a case through the module of its system."""
    return import_module(f"apps.remote_sensing.parity_cases.{case.system}").run(case)


CASES: dict[tuple[str, str], Callable[[Case], Mapping[str, Any]]] = {
    ("prithvi", "mae"): _recorded,
    ("prithvi", "gap_filling"): _recorded,
    ("prithvi", "encoder_neck"): _recorded,
    ("softcon", "vit"): _recorded,
    ("softcon", "loss"): _recorded,
    ("resize_knn", "resize_knn"): _recorded,
}
