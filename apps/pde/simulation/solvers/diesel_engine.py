"""A mean-value model of a diesel engine's air path, of our own, in torch and batched.

The structure follows the published mean-value models (manifold volumes, ideal-gas flows, a Seliger cycle for
the cylinder: Wahlström and Eriksson, Proc. IMechE D 225(7), 960, 2011); the constants are our own choice for
a six-cylinder engine of 12.7 litres, so trajectories look like that engine's and are those of no measured
one. What is left out: the turbocharger's inertia (its power balance holds at every instant) and dead times of
the actuators. The seven outputs are thereby the whole state, and a window is determined by its commands and
its initial values.

States, in order: intake manifold pressure p_im [Pa], exhaust manifold pressure p_em [Pa], residual gas
fraction x_r [1], temperature after inlet-valve closing T_1 [K], the EGR actuator's two states and the VGT
actuator's [%]. Commands, in order: speed n_e [rpm], fuel u_delta [mg per cycle and cylinder], EGR valve
u_egr [%], VGT vanes u_vgt [%, 100 is open].

- Manifolds: `dp_im/dt = R_a T_im / V_im (W_c + W_egr - W_ei - W_relief)`,
  `dp_em/dt = R_e T_em / V_em (W_ei + W_f - W_egr - W_t - W_gate)`.
- Cylinders: `W_ei = eta_vol p_im n_e V_d / (120 R_a T_im)`, `W_f = u_delta n_e n_cyl 1e-6 / 120`. Fuel beyond
  the oxygen in the air does not burn.
- Cycle: heat `q`, a share of it at constant volume, gives the cylinder-out temperature T_e and the residual
  gas; x_r and T_1 follow those algebraic values within two cycles (`240 / n_e` seconds).
- Turbine, EGR valve: flow through a restriction; its area follows the actuator. Compressor: the turbine's
  power, less losses, compresses the air.
- Safety: a gate past the turbine opens from 2.6 bar of boost or 3.0 bar of back pressure, a relief valve from
  3.2 bar of boost.
- Actuators: first-order lags; the EGR valve is the difference of two, `K u_1 - (K - 1) u_2`, and overshoots.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["COMMANDS", "OUTPUTS", "Engine", "derivative", "solve_engine", "steady_state"]

COMMANDS = ("speed", "fuel", "egr_command", "vgt_command")
OUTPUTS = ("p_im", "p_em", "x_r", "T_1", "egr_1", "egr_2", "vgt")

_SETTLING = 8.0  # s; the slowest rate at rest is 1.4 a second


@dataclass(frozen=True)
class Engine:
    """Constants of the engine, in SI units unless said."""

    displacement: float = 12.7e-3  # of all cylinders, m^3
    cylinders: int = 6
    compression: float = 17.0  # ratio of volumes
    intake_volume: float = 22e-3  # m^3
    exhaust_volume: float = 30e-3  # m^3
    ambient_pressure: float = 1.013e5  # Pa
    ambient_temperature: float = 298.0  # K
    intake_temperature: float = 310.0  # after the intercooler, K
    gas_air: float = 287.0  # gas constant of air, J/(kg K)
    gas_exhaust: float = 286.0  # of exhaust gas
    heat_air: float = 1005.0  # specific heat of air at constant pressure, J/(kg K)
    heat_air_volume: float = 718.0  # at constant volume
    heat_exhaust: float = 1330.0  # specific heat of exhaust gas at constant pressure
    gamma_air: float = 1.4  # ratio of specific heats
    gamma_exhaust: float = 1.27  # the same for exhaust gas
    heating_value: float = 42.9e6  # of the fuel, J/kg
    stoichiometric: float = 14.6  # mass of air that burns a unit of fuel
    constant_volume_share: float = 0.15  # share of the heat released at constant volume
    cycle_loss: float = 0.98  # factor on the cylinder-out temperature for what the ideal cycle leaves out
    pipe_loss: float = 60.0  # heat transfer of the exhaust pipe, W/K
    turbine_area: float = 1.3e-3  # effective area with open vanes, m^2
    turbine_closed: float = 0.35  # share of it with closed vanes
    turbine_exponent: float = 2.9  # of the pressure ratio in the turbine's flow
    turbine_efficiency: float = 0.68  # with the shaft's losses
    compressor_efficiency: float = 0.72  # isentropic
    egr_area: float = 4.5e-4  # effective area of the open EGR valve, m^2
    egr_choke: float = 0.65  # pressure ratio below which the EGR flow grows no more
    gate_area: float = 1.6e-3  # of the gate past the turbine, m^2
    relief: float = 6e-6  # flow of the relief valve, kg/s per Pa of boost beyond its pressure
    leak: float = 2e-5  # flow that an idle compressor lets through, kg/s per Pa
    egr_gain: float = 1.7  # K of the EGR actuator
    egr_lag: tuple[float, float] = (0.06, 0.15)  # its two time constants, s
    vgt_lag: float = 0.03  # time constant of the VGT actuator, s


def derivative(state: Tensor, command: Tensor, engine: Engine) -> Tensor:
    """Return the time derivative `(7, B)` of `state (7, B)` under `command (4, B)`."""
    p_im, p_em, x_r, t_1, egr_1, egr_2, vgt = state
    speed, fuel_mg, u_egr, u_vgt = command
    e = engine
    # cylinders
    filling = 0.92 - 0.03 * ((speed - 1400) / 1000).square()
    inlet = filling * p_im * speed * (e.displacement / (120 * e.gas_air * e.intake_temperature))
    fuel = fuel_mg * speed * (e.cylinders * 1e-6 / 120)
    burnt = torch.minimum(fuel, inlet / e.stoichiometric)
    t_e, rest = _cycle(p_em / p_im, burnt / (inlet + fuel), x_r, t_1, e)
    out = inlet + fuel
    t_em = e.ambient_temperature + (t_e - e.ambient_temperature) * torch.exp(
        -e.pipe_loss / (out * e.heat_exhaust)
    )
    # flows
    speed_of_gas = (t_em * e.gas_exhaust).sqrt()
    opening = (e.egr_gain * egr_1 - (e.egr_gain - 1) * egr_2).clamp(0, 100) / 100
    ratio = ((1 - (p_im / p_em).clamp(e.egr_choke, 1)) / (1 - e.egr_choke) - 1).square()
    egr = e.egr_area * opening * (2 - opening) * p_em / speed_of_gas * (1 - ratio)
    through = (e.ambient_pressure / p_em).clamp(max=1)
    drop = 1 - through**e.turbine_exponent
    flow = p_em / speed_of_gas * drop / (drop + 0.1).sqrt()  # a root, made linear where there is no drop
    vanes = e.turbine_closed + (1 - e.turbine_closed) * vgt.clamp(0, 100) / 100
    turbine = e.turbine_area * vanes * flow
    gate = ((p_im - 2.6e5) / 0.8e5).clamp(0, 1) + ((p_em - 3.0e5) / 0.8e5).clamp(0, 1)
    gate = e.gate_area * gate * flow
    # turbocharger
    expansion = 1 - through ** (1 - 1 / e.gamma_exhaust)
    power = e.turbine_efficiency * turbine * e.heat_exhaust * t_em * expansion
    rise = (p_im / e.ambient_pressure).clamp(min=1) ** (1 - 1 / e.gamma_air) - 1
    compressor = power * e.compressor_efficiency / (e.heat_air * e.ambient_temperature * (rise + 0.02))
    compressor = compressor + e.leak * (e.ambient_pressure - p_im).clamp(min=0)
    relief = e.relief * (p_im - 3.2e5).clamp(min=0)
    cycles = 240 / speed
    return torch.stack(
        [
            e.gas_air * e.intake_temperature / e.intake_volume * (compressor + egr - inlet - relief),
            e.gas_exhaust * t_em / e.exhaust_volume * (out - egr - turbine - gate),
            (rest - x_r) / cycles,
            (x_r * t_e + (1 - x_r) * e.intake_temperature - t_1) / cycles,
            (u_egr - egr_1) / e.egr_lag[0],
            (u_egr - egr_2) / e.egr_lag[1],
            (u_vgt - vgt) / e.vgt_lag,
        ]
    )


def _cycle(ratio: Tensor, fuel: Tensor, x_r: Tensor, t_1: Tensor, e: Engine) -> tuple[Tensor, Tensor]:
    """Return cylinder-out temperature and residual gas fraction of a Seliger cycle.

    Args:
        ratio: Exhaust over intake pressure.
        fuel: Burnt fuel over the mass that is fed.
        x_r: Residual gas fraction.
        t_1: Temperature after inlet-valve closing.
        e: The engine.
    """
    g = e.gamma_air
    heat = fuel * e.heating_value * (1 - x_r)
    t_2 = t_1 * e.compression ** (g - 1)  # after compression
    first = heat * (e.constant_volume_share / e.heat_air_volume)
    second = heat * ((1 - e.constant_volume_share) / e.heat_air)
    pressure_rise = 1 + first / t_2
    volume_rise = 1 + second / (t_2 + first)
    t_e = ratio ** (1 - 1 / g) * e.compression ** (1 - g) * pressure_rise ** (1 / g - 1)
    t_e = e.cycle_loss * t_e * (t_2 + first + second)
    return t_e, (ratio / pressure_rise) ** (1 / g) / (e.compression * volume_rise)


def solve_engine(
    commands: Callable[[Tensor], Tensor],
    times: Tensor,
    *,
    start: Tensor | None = None,
    step: float = 0.0125,
    engine: Engine | None = None,
) -> Tensor:
    """Integrate with the classical Runge-Kutta method.

    Args:
        commands: Times `(S,)` in seconds to commands `(4, B, S)`; where they jump, they have the new value.
        times: Increasing sampling times `(L,)`, s.
        start: State `(7, B)` at the first time; None is the steady state of the commands there.
        step: Longest time step, s. The fastest rate at rest is 180 a second, so that 0.015 is the limit of
            stability.
        engine: Constants; None is the standard engine.

    Returns:
        `(B, 7, L)`, pressures in Pa.
    """
    engine = engine or Engine()
    state = steady_state(commands(times[:1])[..., 0], step=step, engine=engine) if start is None else start
    states = [state]
    for begin, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        state = _walk(state, commands, begin, end, step, engine, like=times)
        states.append(state)
    return torch.stack(states, dim=-1).transpose(0, 1)


def steady_state(command: Tensor, *, step: float = 0.0125, engine: Engine | None = None) -> Tensor:
    """Return the state `(7, B)` in which constant commands `(4, B)` come to rest."""
    engine = engine or Engine()
    nothing = torch.zeros_like(command[0])
    start = torch.stack([nothing + 1.1e5, nothing + 1.2e5, nothing + 0.04, nothing + 330.0])
    start = torch.cat([start, command[2:3], command[2:3], command[3:4]])
    return _walk(
        start, lambda t: command[..., None].expand(*command.shape, len(t)), 0.0, _SETTLING, step, engine
    )


def _walk(
    state: Tensor,
    commands: Callable[[Tensor], Tensor],
    begin: float,
    end: float,
    step: float,
    engine: Engine,
    *,
    like: Tensor | None = None,
) -> Tensor:
    like = state if like is None else like
    count = max(1, math.ceil((end - begin) / step - 1e-9))
    h = (end - begin) / count
    # A step's last stage looks at the commands just before its end, so that a jump there is the next step's.
    fractions = torch.tensor([0.0, 0.5, 1 - 1e-6], dtype=torch.float64, device=like.device)
    at = begin + h * (torch.arange(count, dtype=torch.float64, device=like.device)[:, None] + fractions)
    stages = commands(at.flatten()).to(state.dtype).unflatten(-1, (count, 3)).movedim((-2, -1), (0, 1))
    for first, middle, last in stages.unbind(0):
        k_1 = derivative(state, first, engine)
        k_2 = derivative(state + h / 2 * k_1, middle, engine)
        k_3 = derivative(state + h / 2 * k_2, middle, engine)
        k_4 = derivative(state + h * k_3, last, engine)
        state = state + h / 6 * (k_1 + 2 * (k_2 + k_3) + k_4)
    return state
