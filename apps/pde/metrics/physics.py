"""Physics of fields on a periodic grid: energy spectra, divergence, conserved totals, and what of them can be
scored of a data set.

Axes as everywhere here: B samples, T frames, C channels, `space` one to three grid axes, x first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apps.pde.batch import DatasetFacts
from core.errors import UserError

__all__ = [
    "Physics",
    "conserved",
    "divergence",
    "drift",
    "energy_spectrum",
    "heat_ratio",
    "physics_of",
    "picked",
    "spectrum_error",
]

_AXES = ("x", "y", "z")
_COMPONENTS = tuple(f"velocity_{axis}" for axis in _AXES)
_LEAST = 4  # points along an axis: with fewer there is no spectrum to speak of
_FLOOR = 1e-12  # of the total energy: below it a shell holds rounding errors only


def energy_spectrum(velocity: Tensor) -> Tensor:
    """Return the kinetic energy by wavenumber: half the sum of `|u(k')|^2` over `k - 1/2 <= |k'| < k + 1/2`.

    `u(k')` are the coefficients of the Fourier series on a box that all axes fill once, so that the sum over
    all shells is the mean of `|u|^2 / 2` (Parseval).

    Args:
        velocity: `(B, D, *space)`, D components (any number; one gives the spectrum of a scalar).

    Returns:
        `(B, K)`, shells 0, 1, …, K - 1; those above half the points of the shorter axis are incomplete.
    """
    space = velocity.shape[2:]
    axes = tuple(range(2, velocity.ndim))
    power = torch.fft.fftn(velocity, dim=axes, norm="forward").abs().square().sum(1) / 2  # B *space
    shell = _wavenumber(space, velocity.device).add(0.5).floor().long().flatten()
    count = math.floor(math.sqrt(sum((n // 2) ** 2 for n in space)) + 0.5) + 1
    return power.new_zeros(len(power), count).index_add_(1, shell, power.flatten(1))


def spectrum_error(prediction: Tensor, target: Tensor, *, highest: int | None = None) -> Tensor:
    """Return the root mean square over shells of `log10 E(k) - log10 E*(k)`: 1 is a factor of ten.

    Shell 0, the mean flow, is left out. Energies below 1e-12 of the label's total are raised to it, so that
    the rounding errors of empty shells do not count.

    Args:
        prediction: `(B, D, *space)`.
        target: The same.
        highest: Last shell; None is half the points of the shorter axis.

    Returns:
        `(B,)`.
    """
    last = min(target.shape[2:]) // 2 if highest is None else highest
    ours, theirs = energy_spectrum(prediction), energy_spectrum(target)
    floor = (_FLOOR * theirs.sum(1, keepdim=True)).clamp(min=torch.finfo(theirs.dtype).tiny)
    ratio = (ours.maximum(floor) / theirs.maximum(floor))[:, 1 : last + 1]
    return ratio.log10().square().mean(1).sqrt()


def divergence(velocity: Tensor, *, lengths: Sequence[float] | None = None) -> Tensor:
    """Return `du/dx + dv/dy + …` of periodic fields by Fourier series.

    The highest wavenumber of an even axis has no derivative on the grid and is left out.

    Args:
        velocity: `(B, T, D, *space)` with D axes in `space`, in the units of speed.
        lengths: Length of every axis; None is 1.

    Returns:
        `(B, T, *space)`, speed over length.
    """
    space = velocity.shape[3:]
    lengths = [1.0] * len(space) if lengths is None else list(lengths)
    if velocity.shape[2] != len(space) or len(lengths) != len(space):
        raise UserError(
            f"velocity is {tuple(velocity.shape)} with {len(lengths)} lengths; a divergence needs one "
            "component and one length for each of its grid axes"
        )
    total = torch.zeros_like(velocity[:, :, 0])
    for i, (n, length) in enumerate(zip(space, lengths, strict=True)):
        k = torch.fft.rfftfreq(n, 1 / n, device=velocity.device, dtype=velocity.dtype)
        if n % 2 == 0:
            k[-1] = 0
        along = velocity[:, :, i].movedim(2 + i, -1)
        slope = torch.fft.irfft(torch.fft.rfft(along) * (2j * math.pi / length * k), n=n)
        total = total + slope.movedim(-1, 2 + i)
    return total


def conserved(fields: Tensor, names: Sequence[str], *, gamma: float = 1.4) -> dict[str, Tensor]:
    """Return the totals that a closed periodic system keeps, as means over the domain.

    With `density`: mass; momentum, from the velocities; energy `p / (gamma - 1) + density |u|^2 / 2`, from
    velocities and pressure. Without it the density is 1: momentum, and the kinetic energy (kept by inviscid
    flow only). A tracer's total is that of `density * tracer`.

    Args:
        fields: `(B, T, C, *space)`, physical units.
        names: Of the channels; `density`, `velocity_x`, `velocity_y`, `velocity_z`, `pressure` and `tracer`
            are known, others are passed over.
        gamma: Ratio of specific heats.

    Returns:
        Quantity to `(B, T)`; empty if no name is known.

    Raises:
        UserError: If there are not as many names as channels.
    """
    return {name: density.flatten(2).mean(-1) for name, density in _densities(fields, names, gamma).items()}


def drift(
    fields: Tensor,
    start: Tensor,
    names: Sequence[str],
    *,
    gamma: float = 1.4,
    sizes: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return how far each of `conserved` has moved from its value at the start, relative to its size there.

    The size is the mean magnitude of the quantity, not its total: a momentum whose total is zero has one.

    Args:
        fields: `(B, T, C, *space)`, physical units.
        start: `(B, 1, C, *space)`, the state that the trajectory started from.
        names: Of the channels.
        gamma: Ratio of specific heats.
        sizes: Quantity to another size `(B, 1)` than that at the start, which may be 0.

    Returns:
        Quantity to `(B, T)`, `|Q(t) - Q(0)| / mean |q(0)|`; 0 where both are 0.
    """
    now, before = conserved(fields, names, gamma=gamma), _densities(start, names, gamma)
    moved = {}
    for name, density in before.items():
        change = (now[name] - density.flatten(2).mean(-1)).abs()
        size = (sizes or {}).get(name)
        if size is None:
            size = density.flatten(2).abs().mean(-1)
        moved[name] = torch.where(change == 0, change, change / size)
    return moved


@dataclass(frozen=True)
class Physics:
    """The outputs of one periodic data set that have spectra and conserved totals.

    Attributes:
        names: Of the outputs with labels.
        places: Where they stand among all outputs.
        spectra: Name of a spectrum to the places of what it sums: the velocity's components are one, every
            other field is by itself.
        gamma: Ratio of specific heats; None, where it is not known, leaves the energy of a gas out.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    spectra: Mapping[str, tuple[int, ...]]
    gamma: float | None = None

    def spectrum_errors(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the error `(B, K)` of every spectrum of `(B, K, C', *space)`, physical."""
        if min(target.shape[3:]) < _LEAST:
            return {}
        if target.device.type == "mps":  # it has no double precision, which the shells are counted in
            prediction, target = prediction.cpu(), target.cpu()
        # B K D *space -> B*K D *space
        return {
            name: spectrum_error(
                picked(prediction, places).flatten(0, 1), picked(target, places).flatten(0, 1)
            ).unflatten(0, target.shape[:2])
            for name, places in self.spectra.items()
        }

    def drifts(self, fields: Tensor, start: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Return how far `(B, K)` every total of `(B, K, C', *space)` is from `start (B, 1, C', *space)`.

        It is relative to the mean magnitude at the start (`drift`), that of momentum and kinetic
        energy to those of the truth's flow over all its frames, whatever its direction: a flow may start at
        rest, or along one axis.
        """
        now, before = picked(fields, self.places), picked(start, self.places)
        sizes = self._motion(picked(truth, self.places))
        return self._known(drift(now, before, self.names, gamma=self._ratio, sizes=sizes))

    def totals(self, fields: Tensor) -> dict[str, Tensor]:
        """Return the conserved totals `(B, K)` of the labelled outputs `(B, K, len(names), *space)`."""
        return self._known(conserved(fields, self.names, gamma=self._ratio))

    def _motion(self, truth: Tensor) -> dict[str, Tensor]:
        """Return the size `(B, 1)` of each momentum and of the kinetic energy, where they are totals."""
        fields = dict(zip(self.names, truth.unbind(2), strict=True))
        flow = [name for name in _COMPONENTS if name in fields]
        if not flow:
            return {}
        square = torch.stack([fields[name].square() for name in flow]).sum(0)  # B K *space
        weight = fields["density"].abs() if "density" in fields else 1.0
        length = _mean(weight * square.sqrt())
        sizes = {name.replace("velocity", "momentum"): length for name in flow}
        return sizes if "density" in fields else sizes | {"kinetic_energy": _mean(square / 2)}

    @property
    def _ratio(self) -> float:
        return 1.4 if self.gamma is None else self.gamma

    def _known(self, quantities: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: of for name, of in quantities.items() if name != "energy" or self.gamma is not None}


def physics_of(dataset: DatasetFacts, outputs: Sequence[str]) -> Physics | None:
    """Return what can be scored of a data set; None where its domain is not periodic.

    Args:
        dataset: Its facts.
        outputs: All label channels.
    """
    if not dataset.periodic or dataset.is_series:
        return None
    names = tuple(name for name in outputs if name not in dataset.masked)
    if not names:
        return None
    filled = dataset.fills  # a constant field's spectrum is rounding errors
    flow = tuple(name for name in _COMPONENTS if name in names)
    spectra = {"velocity": tuple(outputs.index(name) for name in flow)} if len(flow) > 1 else {}
    single = [name for name in names if name not in filled and not (spectra and name in flow)]
    return Physics(
        names=names,
        places=tuple(outputs.index(name) for name in names),
        spectra=spectra | {name: (outputs.index(name),) for name in single},
        gamma=heat_ratio(dataset) if {"density", "pressure"} <= set(names) else None,
    )


def _mean(values: Tensor) -> Tensor:
    """Return the mean `(B, 1)` over frames and grid, above 0."""
    return values.flatten(1).mean(1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)


def picked(fields: Tensor, places: Sequence[int]) -> Tensor:
    """Return these channels of `(B, K, C, *space)`; other than a list as an index it waits for no device."""
    if list(places) == list(range(fields.shape[2])):
        return fields
    return torch.stack([fields.select(2, place) for place in places], dim=2)


def heat_ratio(dataset: DatasetFacts) -> float | None:
    """Return the ratio of specific heats of a data set: its own fact `gamma`, else that of our solvers'
    family of its name (which solves the published set's equation); None if neither says it.
    """
    if dataset.gamma is not None:
        return dataset.gamma
    from apps.pde.simulation.families import families

    family = families().get(dataset.name)
    return None if family is None else family.parameters.get("gamma")


def _densities(fields: Tensor, names: Sequence[str], gamma: float) -> dict[str, Tensor]:
    """Return what is summed for each quantity, `(B, T, *space)`."""
    if fields.shape[2] != len(names):
        raise UserError(f"{len(names)} names are given for fields of {fields.shape[2]} channels")
    by_name = {name: fields[:, :, i] for i, name in enumerate(names)}
    speeds = {axis: by_name[f"velocity_{axis}"] for axis in _AXES if f"velocity_{axis}" in by_name}
    density = by_name.get("density")
    weight: Tensor | float = 1.0 if density is None else density
    densities = {} if density is None else {"mass": density}
    densities |= {f"momentum_{axis}": weight * speed for axis, speed in speeds.items()}
    if speeds:
        kinetic = weight * torch.stack([speed.square() for speed in speeds.values()]).sum(0) / 2
        if density is None:
            densities["kinetic_energy"] = kinetic
        elif "pressure" in by_name:
            densities["energy"] = by_name["pressure"] / (gamma - 1) + kinetic
    if "tracer" in by_name:
        densities["tracer"] = weight * by_name["tracer"]
    return densities


def _wavenumber(space: Sequence[int], device: torch.device) -> Tensor:
    """Return `|k|` of every Fourier coefficient, in periods per box."""
    axes = [torch.fft.fftfreq(n, 1 / n, device=device, dtype=torch.float64) for n in space]
    return torch.stack([k.square() for k in torch.meshgrid(*axes, indexing="ij")]).sum(0).sqrt()
