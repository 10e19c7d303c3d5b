"""Aurora for air pollution: changes, the clock, and parts of each level's own (Bodnar et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from apps.weather.batch import States, Variables, WeatherBatch
from apps.weather.data.published import LEVELS
from apps.weather.models.aurora.network import Aurora
from apps.weather.models.aurora.official import CLOCK, EMISSIONS, GASES, POLLUTANTS
from apps.weather.models.aurora.settings import RolloutLoRA
from core.backbones.sizes import size
from core.errors import UserError

__all__ = ["AuroraAirPollution", "aurora_air_pollution", "clock_features"]

# The state of the history that a pollutant's change counts from: 0 was 24 hours ago, 1 is now (12 hours ago).
_BASE = dict.fromkeys(("pm1", "pm2p5", "pm10", "no", "tc_no", "no2", "tcno2"), 0)
_BASE |= dict.fromkeys(("co", "tcco", "so2", "tcso2", "go3", "gtco3"), 1)
_FLOOR, _CEILING = 1e-4, 2.5
_LOW = 850.0  # hPa from which on so2 is kept from growing in a roll-out


class AuroraAirPollution(Aurora):
    """Aurora whose variables may be pollutants; arguments as of `Aurora`.

    A pollutant is predicted as `head + (1 + modulation) · earlier`, which takes a second head. Time of day,
    weekday and day of the month join the static fields, and those the fields on levels.
    """

    def complete(self) -> None:
        """Add the layers that join two views of each pollutant."""
        surface, atmospheric = self.variables.surface, self.variables.atmospheric
        self.surf_feature_combiner = nn.ModuleDict({v: _Views() for v in surface if v in self.positive})
        self.atmos_feature_combiner = nn.ModuleDict({v: _Views() for v in atmospheric if v in self.positive})
        self.decoder.separate = _with_modulation(self.decoder.separate)

    def embedded(self) -> Variables:
        """Return the variables with kernels: the clock and, on levels, the static fields among them."""
        return _with_clock(self.variables)

    def headed(self) -> Variables:
        """Return the variables with heads: modulations among them."""
        return self.predicted(self.variables)

    def predicted(self, variables: Variables) -> Variables:
        """Return the variables that the decoder gives for those that the encoder saw."""
        atmospheric = [name for name in variables.atmospheric if name in self.variables.atmospheric]
        return replace(
            variables,
            surface=_with_modulation(variables.surface),
            atmospheric=_with_modulation(atmospheric),
        )

    def encoded(self, batch: WeatherBatch) -> WeatherBatch:
        """Return what the encoder sees of a normalised and clamped batch.

        As the network was trained, the static `z` on levels is the `z` of that level.
        """
        inputs, variables = batch.inputs, batch.variables
        surface = _viewed(inputs.surface, variables.surface, self.surf_feature_combiner)
        atmospheric = _viewed(inputs.atmospheric, variables.atmospheric, self.atmos_feature_combiner)
        clock = clock_features(batch.time).to(batch.static.dtype)[:, :, None, None]
        static = torch.cat([batch.static, clock.expand(-1, -1, *batch.static.shape[2:])], 1)
        constant = list(
            static[:, None, :, None].expand(-1, inputs.steps, -1, atmospheric.shape[3], -1, -1).unbind(2)
        )
        if "z" in variables.atmospheric and "z" in variables.static:
            constant[variables.static.index("z")] = atmospheric[:, :, variables.atmospheric.index("z")]
        return replace(
            batch,
            inputs=States(surface, torch.cat([atmospheric, torch.stack(constant, 2)], 2)),
            static=static,
            variables=_with_clock(variables),
        )

    def decoded(self, batch: WeatherBatch, states: States) -> States:
        """Return the prediction: the decoder's fields, of pollutants as changes of an earlier state."""
        inputs, variables = batch.inputs, batch.variables
        surface = _changed(states.surface, inputs.surface, variables.surface)
        atmospheric = _changed(states.atmospheric, inputs.atmospheric, variables.atmospheric)
        if self.lora is not None and "so2" in variables.atmospheric:
            number = variables.atmospheric.index("so2")
            for at, level in enumerate(variables.levels):
                if level >= _LOW:
                    atmospheric[:, :, number, at] = atmospheric[:, :, number, at].clamp(max=1)
        return States(surface, atmospheric)


aurora_air_pollution = size(
    AuroraAirPollution,
    "0.4 degrees, air pollution: 1 272 694 198 parameters.",
    surface=("2t", "10u", "10v", "msl", *POLLUTANTS),
    static=("lsm", "z", "slt", *EMISSIONS),
    atmospheric=("z", "u", "v", "t", "q", *GASES),
    patch=3,
    step=12.0,
    lora=RolloutLoRA(),
    positive=(*POLLUTANTS, *GASES),
    separate=GASES,
    level_condition=LEVELS,
)


class _Views(nn.Module):
    """A weighted sum of two views of a skewed quantity: clipped, and by its logarithm from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 2))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weigh both views alike."""
        nn.init.constant_(self.weight, 0.5)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised values to values of the same shape."""
        clipped, logarithm = self.weight[0]
        rise = 1 - x.clamp(min=_FLOOR).log() / math.log(_FLOOR)
        return clipped * x.clamp(min=0, max=_CEILING) + logarithm * rise + self.bias


def _with_modulation(names: Sequence[str]) -> tuple[str, ...]:
    return (*names, *(f"{name}_mod" for name in names if name in _BASE))


def _with_clock(variables: Variables) -> Variables:
    static = (*variables.static, *CLOCK)
    return replace(
        variables,
        atmospheric=(*variables.atmospheric, *(f"static_{name}" for name in static)),
        static=static,
    )


def _viewed(values: Tensor, names: Sequence[str], combiners: nn.ModuleDict) -> Tensor:
    """Return fields `(B, T, V, …)` with the pollutants' views combined."""
    fields = zip(names, values.unbind(2), strict=True)
    return torch.stack([combiners[name](x) if name in combiners else x for name, x in fields], 2)


def _changed(heads: Tensor, inputs: Tensor, names: Sequence[str]) -> Tensor:
    """Return predictions `(B, 1, V, …)` of heads, modulations behind them, and inputs `(B, T, V, …)`."""
    fields = dict(zip(_with_modulation(names), heads.unbind(2), strict=True))
    for number, name in enumerate(names):
        if name in _BASE:
            at = _BASE[name]
            if at >= inputs.shape[1]:
                raise UserError(
                    f"{name} is predicted from {at + 1} states and the data give fewer; set data.history"
                )
            fields[name] = fields[name] + (1 + fields[f"{name}_mod"]) * inputs[:, at : at + 1, number]
    return torch.stack([fields[name] for name in names], 2)


def clock_features(time: Tensor) -> Tensor:
    """Return cosine and sine of hour, weekday and day of the month `(B, 6)` of seconds since 1970 (UTC).

    The network was trained with the day of the month in place of the day of the year, over 365.25.
    """
    hours, days = time // 3600 % 24, time // 86400
    of_era = (days + 719468) % 146097  # from 1 March of a year 0 on, in eras of 400 years
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    parts = torch.stack([hours, (days + 3) % 7, day], -1).double()  # 1970 began on a Thursday
    turns = 2 * math.pi * torch.stack([parts[..., 0] / 24, parts[..., 1] / 7, parts[..., 2] / 365.25], -1)
    return torch.stack([turns.cos(), turns.sin()], -1).flatten(1)
