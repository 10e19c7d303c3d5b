"""Aurora for ocean waves: absent waves, directions, and a wind of their own (Bodnar et al. 2025, supplement).

Waves are absent over land and ice and where their height is 0: NaN to the outside. The network sees, and
learns, a density beside each variable, and the sine and cosine of each direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from apps.weather.batch import States, Variables, WeatherBatch
from apps.weather.models.aurora.network import Aurora
from apps.weather.models.aurora.settings import PerceiverShape, RolloutLoRA
from core.backbones.sizes import size
from core.errors import UserError

__all__ = ["ANGLES", "WAVES", "AuroraWave", "aurora_wave"]

FieldsByName = dict[str, Tensor]
Change = Callable[[FieldsByName], FieldsByName]

ANGLES = ("mwd", "mdww", "mdts", "mwd1", "mwd2")
WAVES = (
    *("swh", "mwd", "mwp", "pp1d", "shww", "mdww", "mpww", "shts", "mdts", "mpts"),
    *("swh1", "mwd1", "mwp1", "swh2", "mwd2", "mwp2", "wind", "10u_wave", "10v_wave"),
)
_WIND = ("10u_wave", "10v_wave")
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
        names = [name for name in self.variables.surface if name not in _WIND]
        return replace(self.variables, surface=(*names, *(["dwi"] if "wind" in names else [])))

    def embedded(self) -> Variables:
        """Return the variables with kernels: densities, sines and cosines among them."""
        return replace(self.variables, surface=_seen(self.variables.surface))

    def headed(self) -> Variables:
        """Return the variables with heads: the same."""
        return self.embedded()

    def prepare(self, batch: WeatherBatch) -> WeatherBatch:
        """Return a batch in physical units with absent waves as NaN and the waves' wind as components.

        `dwi`, the direction that the wind comes from, and `wind` become `10u_wave` and `10v_wave`. Waves of
        data are absent below 0.1 mm; those of predictions are as the network left them.
        """
        return _changed(
            batch, partial(_prepared, calm=batch.rollout_step == 0), partial(_prepared, calm=True)
        )

    def learnt(self, batch: WeatherBatch) -> WeatherBatch:
        """Return a normalised batch in the variables that the network gives for its loss.

        Targets that are absent stay NaN but for their density, which then is 0.
        """
        return _changed(batch, _expanded, _expanded)

    def encoded(self, batch: WeatherBatch) -> WeatherBatch:
        """Return what the encoder sees of a normalised batch: densities, and no waves that are NaN."""

        def clean(fields: FieldsByName) -> FieldsByName:
            fields = _expanded(_collapsed(fields, _plain(fields)) if _is_learnt(fields) else fields)
            return {name: x.nan_to_num(0) if _of_waves(name) else x for name, x in fields.items()}

        return _changed(replace(batch, targets=None), clean)

    def decoded(self, batch: WeatherBatch, states: States) -> States:
        """Return the decoder's fields in degrees, and NaN where waves are absent; or, of `learnt` batches, as
        they are, with densities from 0 to 1.
        """
        names = batch.variables.surface
        fields = _by_name(states, names if _is_learnt(names) else _seen(names))
        fields = {name: x.sigmoid() if name.endswith("_density") else x for name, x in fields.items()}
        if not _is_learnt(names):
            if "wmb" not in batch.variables.static:
                raise UserError("the wave network needs the static field wmb, the depth of the sea")
            sea = batch.static[:, None, batch.variables.static.index("wmb")] > 0
            fields = _collapsed(fields, names, sea)
        return _stacked(fields, states)

    def _check_batch(self, batch: WeatherBatch) -> None:
        names = _plain(batch.variables.surface)
        super()._check_batch(replace(batch, variables=replace(batch.variables, surface=names)))


aurora_wave = size(
    AuroraWave,
    "0.25 degrees, ocean waves: 1 260 595 520 parameters.",
    surface=("2t", "10u", "10v", "msl", *WAVES),
    static=("lsm", "z", "slt", "wmb", "lat_mask"),
    lora=RolloutLoRA(mode="from_second"),
    perceiver=PerceiverShape(stabilise=True),
)


def _seen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the surface variables that the network sees for those of the data."""
    seen: list[str] = []
    for name in names:
        seen += [f"{name}_sin", f"{name}_cos"] if name in ANGLES else [name]
        seen += [f"{name}_density"] if name in WAVES else []
    return tuple(seen)


def _plain(names: Iterable[str]) -> tuple[str, ...]:
    """Return the surface variables of the data for those that the network sees, or for themselves."""
    return tuple(name.removesuffix("_sin") for name in names if not name.endswith(("_cos", "_density")))


def _is_learnt(names: Iterable[str]) -> bool:
    return any(name.endswith("_density") for name in names)


def _of_waves(name: str) -> bool:
    return name in WAVES or name.endswith(("_sin", "_cos"))


def _prepared(fields: FieldsByName, *, calm: bool) -> FieldsByName:
    fields = dict(fields)
    if "dwi" in fields and "wind" in fields:
        direction = torch.deg2rad(fields.pop("dwi"))
        for name, part in zip(_WIND, (direction.sin(), direction.cos()), strict=True):
            fields[name] = -fields["wind"] * part
    for height, companions in _COMPANIONS.items():
        if calm and height in fields:
            absent = fields[height] < _CALM
            for name in {height, *companions} & fields.keys():
                fields[name] = fields[name].masked_fill(absent, torch.nan)
    return fields


def _expanded(fields: FieldsByName) -> FieldsByName:
    """Return normalised fields with densities, sines and cosines; absent waves stay NaN."""
    seen = {}
    for name, x in fields.items():
        if name in ANGLES:
            radians = torch.deg2rad(x)
            seen[f"{name}_sin"], seen[f"{name}_cos"] = radians.sin(), radians.cos()
        else:
            seen[name] = x
        if name in WAVES:
            seen[f"{name}_density"] = (~x.isnan()).to(x.dtype)
    return seen


def _collapsed(seen: FieldsByName, names: Iterable[str], sea: Tensor | None = None) -> FieldsByName:
    """Return the variables `names` of the data, NaN where a density is below a half or there is no sea."""
    fields = {}
    for name in names:
        if name in ANGLES:
            x = torch.rad2deg(torch.atan2(seen[f"{name}_sin"], seen[f"{name}_cos"])) % 360
        else:
            x = seen[name]
        if name in WAVES:
            absent = seen[f"{name}_density"] < 0.5
            x = x.masked_fill(absent if sea is None else absent | ~sea, torch.nan)
        fields[name] = x
    return fields


def _changed(batch: WeatherBatch, inputs: Change, targets: Change | None = None) -> WeatherBatch:
    """Return a batch whose surface variables, and those of its targets, are changed."""
    fields = inputs(_by_name(batch.inputs, batch.variables.surface))
    batch = replace(
        batch,
        inputs=_stacked(fields, batch.inputs),
        variables=replace(batch.variables, surface=tuple(fields)),
    )
    if batch.targets is None or targets is None:
        return batch
    fields = targets(_by_name(batch.targets, batch.target_variables.surface))
    return replace(
        batch,
        targets=_stacked(fields, batch.targets),
        target_variables=replace(batch.target_variables, surface=tuple(fields)),
    )


def _by_name(states: States, names: Sequence[str]) -> FieldsByName:
    """Return the surface variables `(B, T, H, W)` by name."""
    return dict(zip(names, states.surface.unbind(2), strict=True))


def _stacked(fields: FieldsByName, states: States) -> States:
    return replace(states, surface=torch.stack(list(fields.values()), dim=2)) if fields else states
