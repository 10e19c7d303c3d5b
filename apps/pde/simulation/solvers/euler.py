"""Compressible Euler equations of an ideal gas by finite volumes: limited linear reconstruction, the HLLC
flux, and strong-stability-preserving Runge-Kutta steps.

Toro, Riemann Solvers and Numerical Methods for Fluid Dynamics, chapters 10 and 13; wave speeds of Einfeldt
(1988); steps of Gottlieb, Shu and Tadmor (2001). Variables, in order: density, a velocity for each of the one
to three axes, pressure, and any number of passive tracers carried per mass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from apps.pde.simulation.solvers.finite_volume import (
    GHOSTS,
    Boundary,
    block_mean,
    boundaries,
    check_grid,
    chunks,
    fill,
    march,
    sides,
)
from core.errors import UserError

__all__ = ["conserved", "hllc", "primitive", "solve"]


def conserved(fields: Tensor, *, gamma: float, space: int, dim: int = 0) -> Tensor:
    """Return (density, momenta, total energy, density times tracers) of primitive fields.

    Args:
        fields: Density, velocities, pressure and tracers along the axis `dim`.
        gamma: Ratio of specific heats, above 1.
        space: Number of velocity components.
        dim: Axis of the variables.
    """
    density, velocity, pressure, tracers = fields.split(_parts(fields.shape[dim], space), dim)
    kinetic = velocity.square().sum(dim, keepdim=True).mul_(0.5 * density)
    return torch.cat([density, density * velocity, pressure / (gamma - 1) + kinetic, density * tracers], dim)


def primitive(state: Tensor, *, gamma: float, space: int, dim: int = 0) -> Tensor:
    """Return (density, velocities, pressure, tracers) of conserved variables; the inverse of `conserved`."""
    density, momentum, energy, tracers = state.split(_parts(state.shape[dim], space), dim)
    velocity = momentum / density
    kinetic = (velocity * momentum).sum(dim, keepdim=True).mul_(0.5)
    return torch.cat([density, velocity, (energy - kinetic) * (gamma - 1), tracers / density], dim)


def hllc(left: Tensor, right: Tensor, *, axis: int, gamma: float, space: int) -> Tensor:
    """Return the HLLC flux `(V, ...)` along `axis` between primitive states `(V, ...)` beside the faces.

    The outer wave speeds are Einfeldt's, bounded by the Roe average, so that first-order steps stay positive.
    """
    normal, at_p = 1 + axis, 1 + space
    rho_l, u_l, p_l = left[0], left[normal], left[at_p]
    rho_r, u_r, p_r = right[0], right[normal], right[at_p]

    square_l = (p_l / rho_l).mul_(gamma)
    square_r = (p_r / rho_r).mul_(gamma)
    root_l, root_r = rho_l.sqrt(), rho_r.sqrt()
    weight = root_l.div_(root_r.add_(root_l))
    jump = u_l - u_r
    mean_u = torch.mul(weight, jump).add_(u_r)
    spread = jump.square_().mul_(weight).mul_(1 - weight).mul_(0.5)
    mean_c = spread.add_((square_l - square_r).mul_(weight)).add_(square_r).sqrt_()
    slow = torch.minimum(u_l - square_l.sqrt_(), mean_u - mean_c)
    fast = torch.maximum(square_r.sqrt_().add_(u_r), mean_c.add_(mean_u))

    # Mass that crosses each outer wave; the contact's speed makes the pressures behind both waves equal.
    mass_l = (slow - u_l).mul_(rho_l)
    mass_r = (fast - u_r).mul_(rho_r)
    contact = (p_r - p_l).add_(mass_l * u_l).sub_(mass_r * u_r).div_(mass_l - mass_r)

    from_left = contact >= 0
    side = torch.where(from_left, left, right)
    rho, u, p = side[0], side[normal], side[at_p]
    mass = torch.where(from_left, mass_l, mass_r)
    wave = torch.where(from_left, slow, fast)
    # Zero where the whole fan has left the face: the flux is then that of the side itself.
    clipped = torch.where(from_left, slow.clamp_(max=0), fast.clamp_(min=0))
    starred = torch.div(mass, wave.sub_(contact))
    flow = (starred - rho).mul_(clipped).add_(rho * u)
    push = starred.mul_(clipped).mul_(contact - u)

    flux = side
    kinetic = side[1:at_p].square().sum(0).mul_(0.5)
    specific = kinetic.add_((p / rho).div_(gamma - 1))
    energy = specific.mul_(flow).add_(u * p).add_(contact.add_(p / mass).mul_(push))
    pressure = p + push
    flux[1:].mul_(flow)
    flux[0] = flow
    flux[normal].add_(pressure)
    flux[at_p] = energy
    return flux


def solve(
    initial: Tensor,
    *,
    times: Sequence[float] | Tensor,
    extent: tuple[float, float] | Sequence[tuple[float, float]] = (0.0, 1.0),
    boundary: Boundary = "periodic",
    gamma: float = 1.4,
    cfl: float = 0.4,
    limiter: str = "mc",
    order: int = 2,
    average: int = 1,
    potential: Tensor | None = None,
    balance: Tensor | None = None,
) -> Tensor:
    """Return the primitive fields `(B, T, C, *space)` at `times`, started from `initial` at time 0.

    Every sample takes its own steps, so a result does not depend on the other samples of the batch. Density
    and pressure stay positive: where a step would break that, its fluxes are of first order, and where even
    that fails the step is halved.

    Args:
        initial: Primitive fields `(B, C, *space)`: density, velocity along each axis, pressure, tracers.
        times: Increasing times of the frames.
        extent: Lower and upper end of every axis, or of each.
        boundary: `periodic`, `outflow` or `reflecting`; one for all sides or one (low, high) pair an axis.
        gamma: Ratio of specific heats.
        cfl: Step in units of the time in which the fastest wave crosses a cell.
        limiter: `minmod`, `mc` or `van_leer`.
        order: Order of the Runge-Kutta step, 2 or 3.
        average: Frames are means of the conserved variables over blocks of so many cells an axis.
        potential: Gravity potential `(B, *space)`, constant in time.
        balance: Primitive fields `(B, C, *space)` in hydrostatic equilibrium with `potential`; the scheme
            then keeps this state to rounding, by subtracting what it would do to it.

    Returns:
        Fields like `initial`, of its dtype and on its device.

    Raises:
        UserError: If the arguments do not fit together or density or pressure is not positive at the start.
    """
    space = initial.dim() - 2
    if space not in (1, 2, 3) or initial.shape[1] < space + 2:
        raise UserError(
            f"the initial state has shape {tuple(initial.shape)}; give (B, C, *space) with density, "
            "a velocity for each axis and pressure in C"
        )
    check_grid(initial.shape[2:], average=average)
    if order not in (2, 3):
        raise UserError(f"order is {order}; the steps are of order 2 or 3")
    if not bool((initial[:, 0] > 0).all() and (initial[:, space + 1] > 0).all()):
        raise UserError("density or pressure of the initial state is not positive everywhere")
    moments = torch.as_tensor(times, dtype=torch.float64)
    parts = []
    for part in chunks(initial.shape[0], initial[0, 0].numel(), initial.device):
        gas = _Gas(
            extent=_extents(extent, space),
            kinds=boundaries(boundary, space),
            gamma=gamma,
            cfl=cfl,
            limiter=limiter,
            order=order,
            average=average,
            shape=tuple(initial.shape[2:]),
            potential=None if potential is None else potential[part].to(initial),
        )
        if balance is not None:
            gas.take_balance(balance[part].to(initial).transpose(0, 1))
        state = conserved(initial[part].transpose(0, 1), gamma=gamma, space=space)
        parts.append(march(state, times=moments, limit=gas.limit, step=gas.step, keep=gas.keep))
    return torch.cat(parts)


class _Gas:
    """The discrete equations on one grid."""

    def __init__(
        self,
        *,
        extent: list[tuple[float, float]],
        kinds: tuple[tuple[str, str], ...],
        gamma: float,
        cfl: float,
        limiter: str,
        order: int,
        average: int,
        shape: tuple[int, ...],
        potential: Tensor | None,
    ) -> None:
        self.space = len(shape)
        self.shape = shape
        self.widths = [(high - low) / cells for (low, high), cells in zip(extent, shape, strict=True)]
        self.kinds, self.gamma, self.cfl, self.limiter = kinds, gamma, cfl, limiter
        self.order, self.average = order, average
        self.gravity = None if potential is None else self._accelerations(potential)
        self.defect: Tensor | None = None

    def limit(self, state: Tensor) -> Tensor:
        """Return the longest stable step `(B,)`."""
        fields = primitive(state, gamma=self.gamma, space=self.space)
        sound = (fields[1 + self.space] / fields[0]).mul_(self.gamma).sqrt_()
        rates = [
            (fields[1 + axis].abs() + sound).flatten(1).amax(1) / self.widths[axis]
            for axis in range(self.space)
        ]
        return self.cfl / torch.stack(rates).amax(0)

    def keep(self, state: Tensor) -> Tensor:
        """Return the primitive fields `(B, C, *space)` of block means."""
        mean = block_mean(state, self.average, self.space)
        return primitive(mean, gamma=self.gamma, space=self.space).transpose(0, 1)

    def step(self, state: Tensor, length: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state after `length (B,)` and whether it is physical `(B,)`."""
        first, fields, valid = self._euler(state, self._padded(state), length, samples)
        second, fields, valid_2 = self._euler(first, fields, length, samples)
        valid = valid & valid_2
        if self.order == 2:
            return second.add_(state).mul_(0.5), valid
        between = second.sub_(state).mul_(0.25).add_(state)
        third, _, valid_3 = self._euler(between, self._padded(between), length, samples)
        return third.sub_(state).mul_(2 / 3).add_(state), valid & valid_3

    def take_balance(self, fields: Tensor) -> None:
        """Remember the rate of change that the scheme gives `fields (V, B, *space)`, to subtract it."""
        state = conserved(fields, gamma=self.gamma, space=self.space)
        padded = self._padded(state)
        everyone = torch.arange(state.shape[1], device=state.device)
        self.defect = self._change(
            state, padded, [self._flux(padded, axis) for axis in range(self.space)], everyone
        )

    def _euler(
        self, state: Tensor, padded: Tensor, length: Tensor, samples: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One forward step: the next state, its padded primitive fields, and whether each sample is valid."""
        lengths = length.view(-1, *(1,) * self.space)
        fluxes = [self._flux(padded, axis) for axis in range(self.space)]
        after = self._change(state, padded, fluxes, samples).mul_(lengths).add_(state)
        fields = self._padded(after)
        worst = self._least(fields)
        if bool((worst.flatten(1).amin(1) > 0).all()):
            return after, fields, torch.ones_like(length, dtype=torch.bool)
        bad = torch.zeros_like(worst, dtype=torch.bool)
        for _ in range(3):
            bad = bad | ~(worst > 0)
            for axis in range(self.space):
                low = self._flux(padded, axis, limited=False)
                fluxes[axis] = torch.where(self._faces(bad, axis), low, fluxes[axis])
            after = self._change(state, padded, fluxes, samples).mul_(lengths).add_(state)
            fields = self._padded(after)
            worst = self._least(fields)
            if bool((worst > 0).all()):
                break
        return after, fields, (worst > 0).flatten(1).all(1)

    def _least(self, padded: Tensor) -> Tensor:
        """Return the smaller of density and pressure `(B, *space)`."""
        inner = padded[(slice(None), slice(None), *(slice(GHOSTS, -GHOSTS),) * self.space)]
        return torch.minimum(inner[0], inner[1 + self.space])

    def _faces(self, cells: Tensor, axis: int) -> Tensor:
        """Return which faces along `axis` touch one of the marked cells `(B, *space)`."""
        dim, periodic = axis + 1, self.kinds[axis][0] == "periodic"
        low, high = cells.narrow(dim, cells.shape[dim] - 1, 1), cells.narrow(dim, 0, 1)
        ends = (low, high) if periodic else (torch.zeros_like(low), torch.zeros_like(high))
        wide = torch.cat([ends[0], cells, ends[1]], dim)
        faces = cells.shape[dim] + 1
        return wide.narrow(dim, 0, faces) | wide.narrow(dim, 1, faces)

    def _padded(self, state: Tensor) -> Tensor:
        """Return the primitive fields `(V, B, *space)` with ghost cells on every side."""
        fields = state.new_empty(*state.shape[:2], *(size + 2 * GHOSTS for size in self.shape))
        inner = fields[(slice(None), slice(None), *(slice(GHOSTS, -GHOSTS),) * self.space)]
        last = 1 + self.space
        inner[0] = state[0]
        torch.div(state[1:last], state[0], out=inner[1:last])
        kinetic = torch.mul(inner[1], state[1])
        for axis in range(1, self.space):
            kinetic.addcmul_(inner[1 + axis], state[1 + axis])
        torch.sub(state[last], kinetic.mul_(0.5), out=inner[last])
        inner[last].mul_(self.gamma - 1)
        if len(state) > last + 1:
            torch.div(state[last + 1 :], state[0], out=inner[last + 1 :])
        for axis in range(self.space):
            fill(fields, axis=axis, kinds=self.kinds[axis], odd=1 + axis)
        return fields

    def _flux(self, padded: Tensor, axis: int, *, limited: bool = True) -> Tensor:
        """Return the fluxes `(V, B, *faces)` through the faces across `axis`."""
        limiter = self.limiter if limited else ""
        left, right = sides(padded, axis=axis, space=self.space, limiter=limiter)
        return hllc(left, right, axis=axis, gamma=self.gamma, space=self.space)

    def _change(self, state: Tensor, padded: Tensor, fluxes: list[Tensor], samples: Tensor) -> Tensor:
        """Return the rate of change `(V, B, *space)` of the conserved variables."""
        total: Tensor | None = None
        for axis, (flux, width) in enumerate(zip(fluxes, self.widths, strict=True)):
            dim, cells = axis + 2, self.shape[axis]
            part = (flux.narrow(dim, 0, cells) - flux.narrow(dim, 1, cells)).mul_(1 / width)
            total = part if total is None else total.add_(part)
        assert total is not None
        if self.gravity is not None:
            pull = self.gravity[:, samples]
            total[1 : 1 + self.space].add_(pull * state[0])
            total[1 + self.space].add_((pull * state[1 : 1 + self.space]).sum(0))
        return total if self.defect is None else total.sub_(self.defect[:, samples])

    def _accelerations(self, potential: Tensor) -> Tensor:
        """Return minus the gradient `(space, B, *space)` of the potential `(B, *space)`."""
        parts = []
        for axis in range(self.space):
            dim = axis + 1
            if self.kinds[axis][0] == "periodic":
                slope = (potential.roll(-1, dim) - potential.roll(1, dim)) / (2 * self.widths[axis])
            else:
                (slope,) = torch.gradient(potential, spacing=self.widths[axis], dim=dim, edge_order=2)
            parts.append(-slope)
        return torch.stack(parts)


def _parts(variables: int, space: int) -> list[int]:
    return [1, space, 1, variables - space - 2]


def _extents(
    extent: tuple[float, float] | Sequence[tuple[float, float]], space: int
) -> list[tuple[float, float]]:
    entries = list(extent)
    if len(entries) == 2 and not isinstance(entries[0], Sequence):
        return [(float(entries[0]), float(entries[1]))] * space  # type: ignore[arg-type]
    if len(entries) != space:
        raise UserError(f"the extent has {len(entries)} axes, the grid {space}: give (low, high) for each")
    return [(float(low), float(high)) for low, high in entries]  # type: ignore[misc]
