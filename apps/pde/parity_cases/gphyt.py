"""Recorded cases of GPhyT: one step, raw change, derivatives, integrators, rollout, losses and gradients.

Recorded fields stand as (batch, time, H, W, field), ours as (batch, time, field, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from apps.pde.models.gphyt import KEY_MAP, GPhyT, euler, from_official_config, heun, rk4

if TYPE_CHECKING:
    from torch import Tensor

    from core.parity import Case

__all__ = ["run"]

_INTEGRATORS = {"euler": euler, "heun": heun, "rk4": rk4}


def run(case: Case) -> Mapping[str, Tensor | None]:
    """Run the network of a case; what is computed follows the recorded names."""
    network = case.filled(from_official_config(case.config))
    inputs = case.group("input")
    x, target = _ours(inputs["x"]), _ours(inputs["target"])
    following = network(x)
    loss = F.mse_loss(following, target[:, :1])
    results: dict[str, Tensor | None] = {"output/next": _theirs(following), "loss/mse_one_step": loss}
    loss.backward()
    results.update(case.gradients(network, KEY_MAP))
    results.update(_errors(following.detach(), target[:, :1]))
    for name in case.tensors:
        if name.startswith("loss/mse_autoregressive_"):
            network.zero_grad()
            loss = results[name] = _autoregressive(network, x, target, steps=int(name.rsplit("_", 1)[-1]))
            loss.backward()
            results.update(case.gradients(network, KEY_MAP, group="grad_ar"))
    with torch.no_grad():
        results.update(_parts(network, x, case))
    return results


def _parts(network: GPhyT, x: Tensor, case: Case) -> dict[str, Tensor | None]:
    """Return what the network is made of: derivatives, raw change, integrators, rollouts."""
    results: dict[str, Tensor | None] = {"output/differentiate": _theirs(network.differentiate(x))}
    if network.derivatives is not None:
        along = network.derivatives(x.transpose(1, 2))
        for axis, part in zip(("dt", "dh", "dw"), along, strict=True):
            results[f"output/{axis}"] = _theirs(part.transpose(1, 2))
    for name in case.tensors:
        bare = name.removeprefix("output/")
        if bare.startswith("integrator_"):
            kind, _, step = bare.removeprefix("integrator_").partition("_step")
            stepped = _INTEGRATORS[kind](network.differentiate, x, float(step or 1.0))
            results[name] = _theirs(stepped[:, -1:])
        elif bare.startswith("rollout_"):
            history, made = x, []
            for _ in range(int(bare.removeprefix("rollout_").split("_")[0])):
                made.append(network(history))
                history = torch.cat([history, made[-1]], dim=1)[:, -network.frames :]
            results[name] = _theirs(torch.cat(made, dim=1))
    return results


def _autoregressive(network: GPhyT, x: Tensor, target: Tensor, *, steps: int) -> Tensor:
    """Return the mean loss of several steps, where no gradient flows through what is fed back."""
    total = x.new_zeros(())
    for step in range(steps):
        following = network(x)
        total = total + F.mse_loss(following, target[:, step : step + 1]) / steps
        x = torch.cat([x, following.detach()], dim=1)[:, -network.frames :]
    return total


def _errors(prediction: Tensor, target: Tensor) -> dict[str, Tensor | None]:
    dims = (1, 3, 4)
    error = (prediction - target).square().mean(dims)
    deviation = target.std(dims, correction=1)
    return {
        "loss/nrmse_dims123": (error / (target.square().mean(dims) + 1e-6)).sqrt(),
        "loss/vrmse_dims123": (error / (deviation.square() + 1e-6)).sqrt(),
    }


def _ours(fields: Tensor) -> Tensor:
    return fields.permute(0, 1, 4, 2, 3)


def _theirs(fields: Tensor) -> Tensor:
    return fields.permute(0, 1, 3, 4, 2)
