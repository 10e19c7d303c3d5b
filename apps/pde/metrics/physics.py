"""What physics says of test trajectories: errors of the spectra, and how far conserved totals have moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apps.pde.batch import DatasetFacts
from apps.pde.metrics.diagnostics import conserved, drift, spectrum_error

__all__ = ["Physics", "heat_ratio", "physics_of", "picked"]

_COMPONENTS = ("velocity_x", "velocity_y", "velocity_z")
_LEAST = 4  # points along an axis: with fewer there is no spectrum to speak of


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

        It is relative to the mean magnitude at the start (`diagnostics.drift`), that of momentum and kinetic
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
        known = dict(zip(self.names, truth.unbind(2), strict=True))
        flow = [name for name in _COMPONENTS if name in known]
        if not flow:
            return {}
        square = torch.stack([known[name].square() for name in flow]).sum(0)  # B K *space
        weight = known["density"].abs() if "density" in known else 1.0
        length = _mean(weight * square.sqrt())
        found = {name.replace("velocity", "momentum"): length for name in flow}
        return found if "density" in known else found | {"kinetic_energy": _mean(square / 2)}

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

    own = families().get(dataset.name)
    return None if own is None else own.parameters.get("gamma")
