"""Recorded cases of the schedules: rates at given steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.optim.schedules import WSD, WSDS, Cosine, Infinite, RewarmCosine, Schedule

__all__ = ["CASES"]


def schedules(case: Any) -> dict[str, Tensor]:
    """Return `output/lr_<name>`, float64, for every schedule that the case's configuration describes."""
    config: Mapping[str, Any] = case.config
    peak, total = config["peak"], config["total"]
    steps = [int(step) for step in config["steps"]]
    outputs: dict[str, Tensor] = {}

    def record(name: str, schedule: Schedule, top: float = peak) -> None:
        rates = [top * schedule.factor(step, total) for step in steps]
        outputs[f"output/lr_{name}"] = torch.tensor(rates, dtype=torch.float64)

    if (c := config.get("cosine")) is not None:
        record("cosine", Cosine(warmup=c["warmup"], minimum=c["min"] / peak))
    if (c := config.get("wsd")) is not None:
        for shape in ("linear", "cosine", "exp", "inv", "sqrt"):
            record(
                f"wsd_{shape}",
                WSD(warmup=c["warmup"], decay=c["decay"], shape=shape, minimum=c["min"] / peak),  # type: ignore[arg-type]
            )
    if (c := config.get("wsd_s")) is not None:
        record(
            "wsd_s",
            WSDS(
                ends=tuple(c["ends"]),
                warmup=c["warmup"],
                rewarmup=c.get("rewarmup", 0),
                decay=c.get("decay_fraction", 0.1),
                minimum=c["min"] / peak,
            ),
        )
    if (c := config.get("infinite")) is not None:
        for name, shape in (("cosine", "cosine"), ("inv_sqrt", "inverse_sqrt")):
            record(
                f"infinite_{name}",
                Infinite(
                    warmup=c["warmup"],
                    cooldown=c["cooldown"],
                    constant=c["const"],
                    anneal=c["anneal"],
                    level=c["const_lr"] / peak,
                    minimum=c["min"] / peak,
                    shape=shape,  # type: ignore[arg-type]
                ),
            )
    if (c := config.get("rewarm")) is not None:
        top = c["peak"]
        record(
            "rewarm_cosine",
            RewarmCosine(warmup=c["warmup"], start=c["start"] / top, minimum=c["min"] / top),
            top,
        )
    return outputs


CASES: dict[tuple[str, str], Callable[[Any], dict[str, Tensor]]] = {("recipes", "schedules"): schedules}
