"""Aurora for ocean waves: absent waves, directions, and a wind of their own (Bodnar et al. 2025, supplement).

Waves are absent over land and ice and where their height is 0: NaN to the outside. The network sees, and
learns, a density beside each variable, and the sine and cosine of each direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from apps.weather.batch import States, Variables, WeatherBatch
from apps.weather.models.aurora.network import Aurora
from apps.weather.models.aurora.settings import PerceiverShape, RolloutLoRA
from core.backbones.sizes import size
from core.errors import UserError

__all__ = ["ANGLES", "WAVES", "AuroraWave", "aurora_wave"]

ANGLES = ("mwd", "mdww", "mdts", "mwd1", "mwd2")
WAVES = (
    *("swh", "mwd", "mwp", "pp1d", "shww", "mdww", "mpww", "shts", "mdts", "mpts"),
    *("swh1", "mwd1", "mwp1", "swh2", "mwd2", "mwp2", "wind", "10u_wave", "10v_wave"),
)
_CALM = 1e-4  # metres below which a wave is absent
# A height and what is absent with it; the period of swell, mpts, was missed when the network was trained.
_COMPANIONS = {
    "swh": ("mwd", "mwp", "pp1d"),
    "shww": ("mdww", "mpww"),
    "shts": ("mdts",),
    "swh1": ("mwd1", "mwp1"),
    "swh2": ("mwd2", "mwp2"),
}


class AuroraWave(Aurora):
    """Aurora whose surface variables may be those of waves; arguments as of `Aurora`.

    Directions and the static `wmb`, the depth of the sea, must have location 0 and scale 1, as published.
    """

    @property
    def taken(self) -> Variables:
        """Variables of the data, of which `prepare` makes the network's own."""
        names = [name for name in self.variables.surface if name not in ("10u_wave", "10v_wave")]
        return replace(self.variables, surface=(*names, "dwi"))

    def embedded(self) -> Variables:
        """Return the variables with kernels: densities, sines and cosines among them."""
        return replace(self.variables, surface=_expanded(self.variables.surface))

    def headed(self) -> Variables:
        """Return the variables with heads: the same."""
        return self.embedded()

    def prepare(self, batch: WeatherBatch) -> WeatherBatch:
        """Return a batch in physical units with absent waves as NaN and the waves' wind as components.

        `dwi`, the direction that the wind comes from, and `wind` become `10u_wave` and `10v_wave`. Waves of
        data are absent below 0.1 mm; those of predictions are as the network left them.
        """
        inputs, names = _prepared(batch.inputs, batch.variables.surface, calm=batch.rollout_step == 0)
        targets, learnt = batch.targets, batch.target_variables.surface
        if targets is not None:
            targets, learnt = _prepared(targets, learnt, calm=True)
        return replace(
            batch,
            inputs=inputs,
            targets=targets,
            variables=replace(batch.variables, surface=names),
            target_variables=replace(batch.target_variables, surface=learnt),
        )

    def encoded(self, batch: WeatherBatch) -> WeatherBatch:
        """Return what the encoder sees of a normalised batch: densities, and no waves that are NaN."""
        fields = {}
        for name, x in _by_name(batch.inputs, batch.variables.surface).items():
            if name in WAVES:
                fields[f"{name}_density"] = (~x.isnan()).to(x.dtype)
            if name in ANGLES:
                radians = torch.deg2rad(x)
                fields[f"{name}_sin"] = radians.sin().nan_to_num(0)
                fields[f"{name}_cos"] = radians.cos().nan_to_num(0)
            else:
                fields[name] = x.nan_to_num(0) if name in WAVES else x
        names = _expanded(batch.variables.surface)
        inputs = _stacked({name: fields[name] for name in names}, batch.inputs)
        return replace(batch, inputs=inputs, variables=replace(batch.variables, surface=names))

    def decoded(self, batch: WeatherBatch, states: States) -> States:
        """Return the decoder's fields in degrees, and NaN where waves are absent."""
        if "wmb" not in batch.variables.static:
            raise UserError(
                "the wave network needs the static field wmb, the depth of the sea; add it to the data"
            )
        sea = batch.static[:, None, batch.variables.static.index("wmb")] > 0
        seen = _by_name(states, _expanded(batch.variables.surface))
        fields = {}
        for name in batch.variables.surface:
            if name in ANGLES:
                x = torch.rad2deg(torch.atan2(seen[f"{name}_sin"], seen[f"{name}_cos"])) % 360
            else:
                x = seen[name]
            if name in WAVES:
                x = x.masked_fill((seen[f"{name}_density"].sigmoid() < 0.5) | ~sea, torch.nan)
            fields[name] = x
        return _stacked(fields, states)


aurora_wave = size(
    AuroraWave,
    "0.25 degrees, ocean waves: 1 260 595 520 parameters.",
    surface=("2t", "10u", "10v", "msl", *WAVES),
    static=("lsm", "z", "slt", "wmb", "lat_mask"),
    lora=RolloutLoRA(mode="from_second"),
    perceiver=PerceiverShape(stabilise=True),
)


def _expanded(names: Sequence[str]) -> tuple[str, ...]:
    """Return the surface variables that the network sees for those of the data."""
    seen: list[str] = []
    for name in names:
        seen += [f"{name}_sin", f"{name}_cos"] if name in ANGLES else [name]
        seen += [f"{name}_density"] if name in WAVES else []
    return tuple(seen)


def _prepared(states: States, names: tuple[str, ...], *, calm: bool) -> tuple[States, tuple[str, ...]]:
    fields = _by_name(states, names)
    if "dwi" in fields and "wind" in fields:
        direction = torch.deg2rad(fields.pop("dwi"))
        fields["10u_wave"] = -fields["wind"] * direction.sin()
        fields["10v_wave"] = -fields["wind"] * direction.cos()
    for height, companions in _COMPANIONS.items():
        if calm and height in fields:
            absent = fields[height] < _CALM
            for name in (height, *companions):
                if name in fields:
                    fields[name] = fields[name].masked_fill(absent, torch.nan)
    return (_stacked(fields, states) if fields else states), tuple(fields)


def _by_name(states: States, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the surface variables `(B, T, H, W)` by name."""
    return dict(zip(names, states.surface.unbind(2), strict=True))


def _stacked(fields: dict[str, Tensor], states: States) -> States:
    return replace(states, surface=torch.stack(list(fields.values()), dim=2))
