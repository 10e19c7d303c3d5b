"""Forecasts in physical units from a network of normalised states: one step, and step after step.

A weather network has `advance(batch) -> States`: a normalised batch to the next normalised state, `(B, 1, …)`
of the batch's variables, or to the next ones, `(B, horizon, …)`, of a network with a `horizon`. It may have
`prepare(batch) -> batch` and `finish(batch, states) -> states`, which work on physical units before and
after. `prepare` may replace variables (ocean waves have a wind of their own, by speed and direction) and
changes nothing when repeated; states then have the variables of `prepared(network, batch)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from apps.weather.batch import States, WeatherBatch
from apps.weather.data.scaling import Scaling

__all__ = ["forecast", "learnt", "next_batch", "prepared", "rollout"]


def prepared(network: nn.Module, batch: WeatherBatch) -> WeatherBatch:
    """Return a batch in physical units as the network takes it, the variables of its states among them."""
    return network.prepare(batch) if hasattr(network, "prepare") else batch  # type: ignore[operator]


def learnt(network: nn.Module, batch: WeatherBatch, scaling: Scaling) -> WeatherBatch:
    """Return a batch prepared, normalised, and in the variables that the network learns by.

    Those are the batch's own unless the network has `learnt(batch) -> batch` for normalised ones, whose
    variables `advance` then takes and gives: ocean waves are learnt by density, sine and cosine.
    """
    batch = scaling.normalised(prepared(network, batch))
    return network.learnt(batch) if hasattr(network, "learnt") else batch  # type: ignore[operator]


def forecast(network: nn.Module, batch: WeatherBatch, scaling: Scaling) -> States:
    """Return the next state `(B, 1, …)` of a batch, or the next `horizon`, both in physical units."""
    batch = prepared(network, batch)
    states = scaling.physical(network.advance(scaling.normalised(batch)), batch.variables)  # type: ignore[operator]
    return network.finish(batch, states) if hasattr(network, "finish") else states  # type: ignore[operator]


def rollout(network: nn.Module, batch: WeatherBatch, scaling: Scaling, steps: int) -> Iterator[States]:
    """Yield the next `steps` states one by one, each fed back as the newest of the history."""
    batch = prepared(network, batch)
    while steps > 0:
        states = forecast(network, batch, scaling)
        for step in range(min(states.steps, steps)):
            yield states.at(slice(step, step + 1))
        steps -= states.steps
        batch = next_batch(batch, states)


def next_batch(batch: WeatherBatch, states: States) -> WeatherBatch:
    """Return the batch after the next state or states: behind the history less its oldest; without targets.

    A call of the network is one roll-out step, whatever its horizon.
    """
    return replace(
        batch,
        inputs=batch.inputs.at(slice(states.steps, None)).then(states.at(slice(-batch.inputs.steps, None))),
        targets=None,
        time=batch.time + states.steps * round(batch.step * 3600),
        rollout_step=batch.rollout_step + 1,
    )
