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
    described: dict[str, tuple[Schedule, float]] = {}
    if c := config.get("cosine"):
        described["cosine"] = Cosine(c["warmup"], c["min"] / peak), peak
    if c := config.get("wsd"):
        for shape in ("linear", "cosine", "exp", "inv", "sqrt"):
            schedule = WSD(c["warmup"], c["decay"], shape, c["min"] / peak)  # type: ignore[arg-type]
            described[f"wsd_{shape}"] = schedule, peak
    if c := config.get("wsd_s"):
        rewarmup, decay = c.get("rewarmup", 0), c.get("decay_fraction", 0.1)
        described["wsd_s"] = WSDS(tuple(c["ends"]), c["warmup"], rewarmup, decay, c["min"] / peak), peak
    if c := config.get("infinite"):
        lengths = {name: c[name] for name in ("warmup", "cooldown", "anneal")}
        levels = {"level": c["const_lr"] / peak, "minimum": c["min"] / peak}
        for name, shape in (("cosine", "cosine"), ("inv_sqrt", "inverse_sqrt")):
            schedule = Infinite(**lengths, constant=c["const"], **levels, shape=shape)  # type: ignore[assignment, arg-type]
            described[f"infinite_{name}"] = schedule, peak
    if c := config.get("rewarm"):
        top = c["peak"]
        start, minimum = c["start"] / top, c["min"] / top
        described["rewarm_cosine"] = RewarmCosine(warmup=c["warmup"], start=start, minimum=minimum), top
    return {
        f"output/lr_{name}": torch.tensor(
            [top * schedule.factor(int(step), total) for step in config["steps"]], dtype=torch.float64
        )
        for name, (schedule, top) in described.items()
    }


CASES: dict[tuple[str, str], Callable[[Any], dict[str, Tensor]]] = {("recipes", "schedules"): schedules}
