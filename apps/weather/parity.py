"""How recorded cases of weather systems map onto the networks and scores here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.parity import Case

__all__ = ["CASES"]


def _recorded(case: Case) -> Mapping[str, Any]:
    """Run a case through the module of its system."""
    return import_module(f"apps.weather.parity_cases.{case.system}").run(case)


CASES: dict[tuple[str, str], Callable[[Case], Mapping[str, Any]]] = {
    ("aurora", "forecast"): _recorded,
    ("aurora", "fourier_expansions"): _recorded,
    ("aurora_decoders", "decoder"): _recorded,
    ("met2net", "met2net"): _recorded,
    ("weather_metrics", "weather_metrics"): _recorded,
}
