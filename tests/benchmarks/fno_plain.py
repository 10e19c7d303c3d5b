"""FNO beside a plain transcription of its formulas: full shifted spectra, one contraction, convolutions.

    OMP_NUM_THREADS=1 python tests/benchmarks/fno_plain.py

prints milliseconds of processor time of a forward pass and of a training step, and the ratio. The same
transcription is what the tests hold our network against, option by option.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["plain_fno"]


def plain_fno(
    state: Mapping[str, Tensor], config: Mapping[str, Any], x: Tensor, condition: Tensor | None = None
) -> Tensor:
    """Return the prediction for `x (B, C, *space)` in evaluation mode.

    Args:
        state: Official names to tensors, spectral weights complex.
        config: Every official argument spelt out.
        x: The fields.
        condition: Numbers of `ada_in`.
    """
    space = x.shape[2:]
    if config["positional_embedding"] == "grid":
        axes = torch.meshgrid(*[torch.arange(n) / n for n in space], indexing="ij")
        x = torch.cat([x, torch.stack(axes)[None].expand(len(x), *[-1] * (len(axes) + 1)).to(x)], dim=1)
    x = _mlp(state, "lifting", x)
    part = config["domain_padding"] or 0.0
    parts = part if isinstance(part, list | tuple) else [part] * len(space)
    pad = [round(p * n) for p, n in zip(parts, space, strict=True)]
    x = F.pad(x, [p for both in reversed(pad) for p in (both, both)])
    for layer in range(config["n_layers"]):
        x = _block(state, config, layer, x, condition)
    x = x[(..., *[slice(p, x.shape[i + 2] - p) for i, p in enumerate(pad)])]
    return _mlp(state, "projection", x)


def _block(state: Mapping[str, Tensor], config: Mapping[str, Any], layer: int, x: Tensor, c: Any) -> Tensor:
    last = layer == config["n_layers"] - 1
    mlp, before = config["use_channel_mlp"], config["preactivation"]
    if before:
        x = _norm(state, config, 2 * layer, F.gelu(x), c)
    y = torch.tanh(x) if config["stabilizer"] == "tanh" else x
    y = _spectral(state, config, layer, y)
    y = y if before else _norm(state, config, 2 * layer, y, c)
    y = y + _skip(state, f"fno_blocks.fno_skips.{layer}", config["fno_skip"], x)
    if not last:
        y = F.gelu(y)
    if before:
        y = _norm(state, config, 2 * layer + 1, y, c)
    if mlp:
        y = _mlp(state, f"fno_blocks.channel_mlp.{layer}", y)
        y = y + _skip(state, f"fno_blocks.channel_mlp_skips.{layer}", config["channel_mlp_skip"], x)
    if not before:
        y = _norm(state, config, 2 * layer + 1, y, c)
        y = y if last else F.gelu(y)
    return y


def _spectral(state: Mapping[str, Tensor], config: Mapping[str, Any], layer: int, x: Tensor) -> Tensor:
    weight = state[f"fno_blocks.convs.{layer}.weight.tensor"]
    axes = tuple(range(2, x.ndim))
    space = x.shape[2:]
    full = (*space[:-1], space[-1] // 2 + 1)
    wanted = (*config["n_modes"][:-1], config["n_modes"][-1] // 2 + 1)
    starts = [have - min(n, m) for have, n, m in zip(weight.shape[2:], full, wanted, strict=True)]
    middle = [slice(s // 2, (-s) // 2) if s else slice(None) for s in starts[:-1]]
    weight = weight[(..., *middle, slice(None, -starts[-1]) if starts[-1] else slice(None))]
    shifted = axes[:-1]
    spectrum = torch.fft.rfftn(x, dim=axes, norm="forward")
    spectrum = torch.fft.fftshift(spectrum, dim=shifted) if shifted else spectrum
    kept = weight.shape[2:]
    place = [slice(n // 2 - k // 2, n // 2 + k // 2 + k % 2) for n, k in zip(space, kept, strict=True)]
    where = (..., *place[:-1], slice(None, kept[-1]))
    modes = "xyz"[: len(axes)]
    out = torch.zeros(len(x), weight.shape[1], *full, dtype=spectrum.dtype)
    out[where] = torch.einsum(f"bi{modes},io{modes}->bo{modes}", spectrum[where], weight)
    out = torch.fft.ifftshift(out, dim=shifted) if shifted else out
    y = torch.fft.irfftn(out, s=space, dim=axes, norm="forward")
    return y + state[f"fno_blocks.convs.{layer}.bias"]


def _norm(state: Mapping[str, Tensor], config: Mapping[str, Any], which: int, x: Tensor, c: Any) -> Tensor:
    kind, name = config["norm"], f"fno_blocks.norm.{which}"
    if kind == "group_norm":
        return F.group_norm(x, config["norm_groups"], state[f"{name}.weight"], state[f"{name}.bias"])
    if kind == "instance_norm":
        return F.instance_norm(x)
    if kind == "batch_norm":
        running = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, *running, state[f"{name}.weight"], state[f"{name}.bias"])
    if kind == "ada_in":
        hidden = F.gelu(F.linear(c, state[f"{name}.mlp.0.weight"], state[f"{name}.mlp.0.bias"]))
        scale, shift = F.linear(hidden, state[f"{name}.mlp.2.weight"], state[f"{name}.mlp.2.bias"]).chunk(2)
        return F.group_norm(x, x.shape[1], scale, shift)
    return x


def _skip(state: Mapping[str, Tensor], name: str, kind: str | None, x: Tensor) -> Tensor | float:
    if kind == "linear":
        return F.conv1d(x.flatten(2), state[f"{name}.conv.weight"]).view_as(x)
    if kind == "soft-gating":
        return x * state[f"{name}.weight"]
    return x if kind == "identity" else 0.0


def _mlp(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = x.flatten(2)
    for i in range(2):
        if f"{name}.fcs.{i}.weight" in state:
            y = F.gelu(y) if i else y
            y = F.conv1d(y, state[f"{name}.fcs.{i}.weight"], state[f"{name}.fcs.{i}.bias"])
    return y.unflatten(2, x.shape[2:])


def _milliseconds(once: Callable[[], Any], *, rounds: int, times: int) -> float:
    once()
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(times):
            once()
        best = min(best, (time.process_time() - start) / times)
    return 1e3 * best


def _compare(title: str, batch: int, side: int, rounds: int = 5, times: int = 3, **settings: Any) -> None:
    from apps.pde.models.fno import FNO, KEY_MAP, to_official_config

    torch.manual_seed(0)
    network, config = (made := FNO(**settings)), to_official_config(made)
    state = {k: v.detach().clone() for k, v in KEY_MAP.to_official(network.state_dict()).items()}
    leaves = [tensor.requires_grad_() for tensor in state.values()]
    x, label = torch.randn(2, batch, 1, *[side] * len(config["n_modes"]))

    def step(predict: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=not any(p.is_complex() for p in parameters))

        def once() -> None:
            F.mse_loss(predict(x), label).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return once

    with torch.no_grad():
        error = (network(x) - plain_fno(state, config, x)).abs().max().item()
        how = {"rounds": rounds, "times": times}
        forward = [
            _milliseconds(lambda: network(x), **how),
            _milliseconds(lambda: plain_fno(state, config, x), **how),
        ]
    train = [
        _milliseconds(step(network, list(network.parameters())), **how),
        _milliseconds(step(lambda x: plain_fno(state, config, x), leaves), **how),
    ]
    print(
        f"{title:34s} difference {error:.1e} | forward {forward[0]:7.2f} ms, plain {forward[1]:7.2f}, "
        f"ratio {forward[1] / forward[0]:4.2f} | training step {train[0]:7.2f} ms, plain {train[1]:7.2f}, "
        f"ratio {train[1] / train[0]:4.2f}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    _compare("Darcy 16x16, modes 8, batch 32", 32, 16, modes=(8, 8), width=24, times=10)
    _compare("Small2d 64x64, batch 8", 8, 64, modes=(16, 16), width=24)
    _compare("Small2d 128x128, batch 4", 4, 128, modes=(16, 16), width=24)
    _compare("1-D 256, modes 32, batch 32", 32, 256, modes=(32,), width=64)
    _compare("3-D 32x32x32, modes 12, batch 2", 2, 32, modes=(12, 12, 12), width=24)
    _compare("Medium2d 128x128, batch 1", 1, 128, rounds=2, times=1, modes=(64, 64), width=64)
