"""Light decoders on a frozen backbone: new variables for a fraction of a fine-tuning (arXiv 2506.19088)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from apps.weather.batch import States, WeatherBatch, WeatherFacts
from apps.weather.models.forecast import next_batch, prepared
from apps.weather.models.light_decoder import LightlyDecoded
from apps.weather.tasks.forecasting import WeatherForecasting
from apps.weather.tasks.latents import KeptLatents, weights_digest
from apps.weather.tasks.objective import WeightedAbsolute
from core.adaptation import Adaptation, LightDecoder
from core.errors import UserError

__all__ = ["LightDecoding"]


class LightDecoding(WeatherForecasting):
    """Trains decoders of new surface variables; the backbone keeps its bits and its forecasts.

    The loss is the mean absolute error of normalised targets, over the points that have one. A roll-out
    decodes each step off the latents of that step; what is decoded is never fed back.

    Args:
        network: A backbone with decoders. `weights` are the backbone's, or a whole network's.
        latents: Where to keep the backbone's latents, so that a later epoch costs the decoders alone; None
            computes them anew each time.
        objective: What is minimised.
        reinitialise: Which parameters `weights` do not bring; empty for weights with decoders.
        adaptation: What is trained; None is the decoders.
        task: See `WeatherTask`.
    """

    network: LightlyDecoded

    def __init__(
        self,
        network: LightlyDecoded,
        *,
        latents: KeptLatents | None = None,
        objective: WeightedAbsolute | None = None,
        reinitialise: Sequence[str] = ("decoders.*",),
        adaptation: Adaptation | None = None,
        **task: Any,
    ) -> None:
        if not hasattr(network, "decoders"):
            raise UserError(
                f"{type(network).__name__} has no light decoders; give model.network "
                "apps.weather.models.light_decoder.LightlyDecoded with it as the backbone"
            )
        super().__init__(
            network,
            objective=WeightedAbsolute(surface=1.0) if objective is None else objective,
            reinitialise=reinitialise,
            adaptation=LightDecoder() if adaptation is None else adaptation,
            **task,
        )
        self.latents = latents
        self._digest = ""

    def check_facts(self, facts: WeatherFacts) -> None:
        """Refuse fields that do not fit the network.

        Raises:
            UserError: Naming both values.
        """
        super().check_facts(facts)
        own, asked = self.network.decoded_variables.surface, facts.target_variables
        if asked.surface != own or asked.atmospheric:
            raise UserError(
                f"the decoders' variables are {', '.join(own)} and the data's targets "
                f"{', '.join(asked.names)}; give --data.targets '{{surface: [{', '.join(own)}], atmospheric: "
                "[]}', or other model.network.variables"
            )

    def loss(self, batch: WeatherBatch) -> Tensor:
        """Return the objective on a batch in physical units, the mean over its target steps."""
        assert batch.targets is not None
        scaled = self.scaling.normalised(prepared(self.network, batch))
        assert scaled.targets is not None
        total, steps = scaled.static.new_zeros(()), batch.targets.steps
        for step, decoded in enumerate(self._decoded(scaled, steps)):
            total = total + self.error(decoded, scaled.targets.at(slice(step, step + 1)), batch)
        return total / steps

    def predicted(self, batch: WeatherBatch, steps: int) -> States:
        """Return the decoded variables `(B, steps, …)` in physical units; no target is looked at."""
        scaled = self.scaling.normalised(prepared(self.network, replace(batch, targets=None)))
        states = States.in_order(list(self._decoded(scaled, steps)))
        return self.scaling.physical(states, self.network.decoded_variables)

    def _decoded(self, scaled: WeatherBatch, steps: int) -> Any:
        """Yield the normalised decoded states of the next `steps` of a normalised batch."""
        network, current = self.network, scaled
        for step in range(steps):
            last = step + 1 == steps
            with torch.no_grad():
                if last:
                    state, latents = None, self._latents(current)
                else:
                    state, latents = network.advance_with_latents(current)
            yield network.decode(latents, current)
            if state is not None:
                current = next_batch(current, state)

    def _latents(self, batch: WeatherBatch) -> Tensor:
        """Return the surface latents of a normalised batch, kept ones where they are asked for."""
        if self.latents is None:
            return self.network.latents(batch)
        if not self._digest:
            self._digest = weights_digest(self.network.backbone)
        return self.latents.of(batch, self._digest, self.network.latents)
