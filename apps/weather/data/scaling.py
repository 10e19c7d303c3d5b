"""Normalisation of weather fields: a transform, a location and a scale for each variable and level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from apps.weather.batch import States, Variables, WeatherBatch, WeatherFacts, level_name
from apps.weather.data.transforms import TRANSFORMS
from core.errors import UserError

__all__ = ["Scaling"]


@dataclass(frozen=True)
class Scaling:
    """Scales fields as `(transform(x) - location) / scale`, and back.

    Attributes:
        statistics: Location and scale of each field by name: `2t`, `z_500`, `static_z`.
        transforms: Variable to a name of `apps.weather.data.transforms.TRANSFORMS`.
    """

    statistics: Mapping[str, tuple[float, float]]
    transforms: Mapping[str, str] = field(default_factory=dict)
    # A copy to the device in every step would wait for it.
    _kept: dict[Any, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, facts: WeatherFacts) -> Scaling:
        """Return the scaling that the facts tell."""
        return cls(facts.statistics, facts.transforms)

    def normalised(self, batch: WeatherBatch) -> WeatherBatch:
        """Return the batch with inputs, static fields and targets scaled."""
        static = self._constants([f"static_{name}" for name in batch.variables.static], batch.static)
        targets = batch.targets
        return replace(
            batch,
            inputs=self.scaled(batch.inputs, batch.variables),
            static=(batch.static - static[0]) / static[1],
            targets=None if targets is None else self.scaled(targets, batch.target_variables),
        )

    def scaled(self, states: States, variables: Variables) -> States:
        """Return states of `variables` scaled."""
        surface, atmospheric = self._both(states, variables)
        fields = self._transformed(states, variables, forward=True)
        return States(
            (fields.surface - surface[0]) / surface[1],
            (fields.atmospheric - atmospheric[0]) / atmospheric[1],
        )

    def physical(self, states: States, variables: Variables) -> States:
        """Return scaled states in physical units."""
        surface, atmospheric = self._both(states, variables)
        fields = States(
            states.surface * surface[1] + surface[0], states.atmospheric * atmospheric[1] + atmospheric[0]
        )
        return self._transformed(fields, variables, forward=False)

    def _both(self, states: States, variables: Variables) -> tuple[tuple[Tensor, Tensor], ...]:
        levels = [level_name(v, level) for v in variables.atmospheric for level in variables.levels]
        shape = (len(variables.atmospheric), len(variables.levels))
        surface = self._constants(variables.surface, states.surface)
        atmospheric = self._constants(levels, states.atmospheric)
        return surface, tuple(x.view(*shape, 1, 1) for x in atmospheric)  # type: ignore[return-value]

    def _constants(self, names: Sequence[str], like: Tensor) -> tuple[Tensor, Tensor]:
        key = (*names, like.device)
        if key not in self._kept:
            with torch.inference_mode(False):  # kept tensors must serve training too
                self._kept[key] = self._table(names, like.device)
        return self._kept[key]

    def _table(self, names: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        missing = [name for name in names if name not in self.statistics]
        if missing:
            raise UserError(
                f"there are no statistics of {', '.join(missing)}; give them by data.statistics, as in "
                f"'{{{missing[0]}: [MEAN, DEVIATION]}}'"
            )
        pairs = torch.tensor([self.statistics[name] for name in names], dtype=torch.float32).view(-1, 2)
        location, scale = pairs.to(device).unbind(1)
        return location[:, None, None], scale[:, None, None]

    def _transformed(self, states: States, variables: Variables, *, forward: bool) -> States:
        if not self.transforms:
            return states
        groups = []
        for names, values in (
            (variables.surface, states.surface),
            (variables.atmospheric, states.atmospheric),
        ):
            changed = [
                (number, self.transforms[name])
                for number, name in enumerate(names)
                if name in self.transforms
            ]
            if changed:
                values = values.clone()
                for number, transform in changed:
                    values[:, :, number] = TRANSFORMS[transform][0 if forward else 1](values[:, :, number])
            groups.append(values)
        return States(*groups)
