"""Environment variables that torch and the devices' libraries read when they are loaded: set first."""

from __future__ import annotations

import os
from typing import Any

from core.accelerators.environment import cuda_environment, neuron_environment, set_defaults, wants
from core.cli.arguments import Request, asked

__all__ = ["set_environment"]


def set_environment(request: Request) -> None:
    """Set what a request's files and options ask for, each as a default; torch must not be loaded yet."""
    _set_waiting(request)
    set_defaults({"TORCH_CPP_LOG_LEVEL": "ERROR"})  # a lost peer is said in one sentence, not in C++ frames
    accelerator = asked(request, "trainer.accelerator")
    if wants(accelerator, "neuron"):
        precision = asked(request, "trainer.precision")
        set_defaults(
            neuron_environment(
                precision=None if precision is None else str(precision),
                cache=asked(request, "neuron.cache"),
                stochastic_rounding=_switch(asked(request, "neuron.stochastic_rounding")),
                strict=_switch(asked(request, "neuron.strict")) is not False,
                seed=int(asked(request, "seed_everything") or 0),
            )
        )
    if wants(accelerator, "cuda"):
        many = str(asked(request, "trainer.devices") or 1) != "1" or "RANK" in os.environ
        expandable = _switch(asked(request, "cuda.expandable_segments")) is not False
        set_defaults(cuda_environment(expandable_segments=expandable, ranks=many))


def _set_waiting(request: Request) -> None:
    """Set how long OpenMP's threads spin while they wait; its library reads that once, when torch is loaded.

    With the default, two threads beside one other busy program take five times as long for a step (measured
    with TTM); with 10 000 turns they take half of that, and on a quiet machine the same as before.
    """
    if _switch(asked(request, "cpu.short_spin")) is not False and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _switch(value: Any) -> bool | None:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return words.get(str(value).lower())
