"""Prithvi here against TerraTorch's on a CPU: a pre-training step, and features; same weights and batch.

A step is forward pass, loss, backward pass, AdamW in float32; features are what fine-tuning starts from, the
tokens of all blocks without a gradient.

*Apart*: each side in processes of its own, in turn, as its users run it: the reference with torch's default
AdamW and allocator, ours with fused AdamW and what `configs/trainer/cpu.yaml` switches on. *Together*: both
in one process, alternating, with our allocator settings and fused AdamW for both, so that only the
formulation differs. Losses and gradients are compared before anything is timed together.

TerraTorch's import sets torch's products of float32 matrices to `medium`, which on processors with AMX are
bfloat16 products. Both sides have the same precision here: `highest`, or `--precision medium`.

    .ci/peer terratorch
    PYTHONPATH=. .bench/terratorch/bin/python tests/benchmarks/prithvi_terratorch.py [--size 100m --frames 3]

Run it on a quiet machine; on a busy one take one thread and the processor's clock (`--threads 1 --clock
processor`). A ratio above 1 means that ours is faster or smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import CLOCKS, SIDES, alternate, in_turn, machine, peak_bytes, report, resident_peak
from torch import Tensor, nn

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "100m": {"width": 768, "depth": 12, "heads": 12},
}
COORDINATES = ["time", "location"]
UNITS = {"training step": "ms", "features": "ms", "resident peak": "MiB", "step bytes": "MiB"}


def main() -> int:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description="Prithvi here against that of TerraTorch.")
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--only", choices=("apart", "together"), help="one comparison only")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--side_pixels", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison")
    parser.add_argument("--processes", type=int, default=2, help="processes of each side, apart")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("highest", "medium"), default="highest")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a busy machine")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(alone(options)))
        return 0
    print(f"{machine()}, {options.clock} time")
    shape = f"{options.batch} x {options.frames} frames of {options.side_pixels} pixels"
    print(f"size {options.size}, batch {shape}, products {options.precision}")
    if options.only != "together":
        apart(options)
    if options.only != "apart":
        together(options)
    return 0


def apart(options: argparse.Namespace) -> None:
    """Give each side processes of its own, in turn, set as its users have it."""
    arguments: list[str] = []
    for name in ("size", "batch", "frames", "side_pixels", "rounds", "threads", "clock", "precision"):
        arguments += [f"--{name}", str(getattr(options, name))]
    results = in_turn(__file__, arguments, options.processes)
    print(" apart (reference: default AdamW and allocator; ours: fused AdamW, the CPU switches)")
    for what, unit in UNITS.items():
        report(what, {side: [result[what] for result in results[side]] for side in SIDES}, unit)


def together(options: argparse.Namespace) -> None:
    """Alternate both in one process with one allocator."""
    from core.accelerators.cpu import keep_freed_memory

    kept = keep_freed_memory()
    networks = {side: build(side, options) for side in SIDES}
    torch.set_float32_matmul_precision(options.precision)
    share_weights(networks)
    batch = draw(options)
    agree(networks, batch)
    print(f" together ({kept or 'default allocator'}; AdamW fused on both sides)")
    steps = {side: training_step(side, networks[side], batch, fused=True) for side in SIDES}
    report("training step", alternate(steps, options.rounds, calls=1, clock=options.clock), "ms")
    runs = {side: features(side, networks[side], batch) for side in SIDES}
    report("features", alternate(runs, options.rounds, calls=1, clock=options.clock), "ms")


def alone(options: argparse.Namespace) -> dict[str, float]:
    """Measure one side in this process."""
    network, batch = build(options.side, options), draw(options)
    if options.side == "ours":
        from core.accelerators.cpu import CPUSwitches, apply

        tokens = options.batch * options.frames * (options.side_pixels // 16) ** 2
        apply(CPUSwitches(), network=network, rows=tokens)
    torch.set_float32_matmul_precision(options.precision)
    step = training_step(options.side, network, batch, fused=options.side == "ours")
    looks = features(options.side, network, batch)
    runs = {"training step": step, "features": looks}
    found = {
        name: statistics.median(
            alternate({options.side: run}, options.rounds, calls=1, clock=options.clock)[options.side]
        )
        for name, run in runs.items()
    }
    return {**found, "resident peak": resident_peak(), "step bytes": peak_bytes(step) / 2**20}


def build(side: str, options: argparse.Namespace) -> nn.Module:
    """Build one side."""
    torch.manual_seed(0)
    sizes, pixels = SIZES[options.size], options.side_pixels
    if side == "ours":
        from apps.remote_sensing.models.prithvi import PrithviMAE

        settings: dict[str, Any] = {
            "resolution": pixels,
            "frames": options.frames,
            "coordinates": COORDINATES,
        }
        return PrithviMAE(**settings, **sizes)
    from terratorch.models.backbones.prithvi_mae import PrithviMAE as Reference

    return Reference(
        img_size=pixels,
        patch_size=(1, 16, 16),
        num_frames=options.frames,
        embed_dim=sizes["width"],
        depth=sizes["depth"],
        num_heads=sizes["heads"],
        coords_encoding=COORDINATES,
    )


def share_weights(networks: dict[str, nn.Module]) -> None:
    """Give ours the reference's weights."""
    from apps.remote_sensing.models.prithvi import key_maps
    from core.checkpoints.weights import load_weights

    (names,) = key_maps(networks["ours"])  # type: ignore[arg-type]
    load_weights(dict(networks["reference"].state_dict()), networks["ours"], key_map=names)


def draw(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, dates and places."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 6, options.frames, options.side_pixels, options.side_pixels)
    days = 365 * torch.rand(options.batch, options.frames, generator=generator)
    dates = torch.stack([torch.full_like(days, 2020.0), days.floor() + 1], dim=-1)
    return (
        torch.randn(shape, generator=generator),
        dates,
        45 * torch.rand(options.batch, 2, generator=generator),
    )


def loss_of(side: str, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the loss as each side's users get it; both draw the same masks from the same seed."""
    made = network(*batch)
    return made[0]["loss"] if side == "reference" else made.loss


def agree(networks: dict[str, nn.Module], batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """Stop unless both give the same loss, the same gradients and the same features."""
    from apps.remote_sensing.models.prithvi import key_maps

    (names,) = key_maps(networks["ours"])  # type: ignore[arg-type]
    found: dict[str, dict[str, Tensor]] = {}
    for side, network in networks.items():
        network.zero_grad()
        torch.manual_seed(1)
        loss = loss_of(side, network, batch)
        loss.backward()
        grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        named = names.to_official(grads) if side == "ours" else grads
        with torch.no_grad():
            tokens = last_tokens(side, network, batch)
        found[side] = {"loss": loss.detach(), "features": tokens, **named}
        network.zero_grad()
    if found["ours"].keys() != found["reference"].keys():
        raise SystemExit("the networks have different parameters; nothing was timed")
    worst = {
        name: float((found["ours"][name] - value).abs().max() / value.abs().max())
        for name, value in found["reference"].items()
    }
    most = max(worst, key=lambda name: worst[name])
    if worst[most] > 1e-3:
        raise SystemExit(f"{most} differs by {worst[most]} of its largest value; nothing was timed")
    print(f" largest relative difference {worst[most]:.1e} ({most}), of the loss {worst['loss']:.1e}")


def last_tokens(side: str, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the tokens of the last block of all that each side gives."""
    if side == "reference":
        return network.forward_features(*batch)[-1]  # type: ignore[operator]
    return network.encoder.features(*batch)[-1]  # type: ignore[union-attr, operator]


def features(side: str, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Callable[[], None]:
    """Return one extraction of features."""

    def run() -> None:
        network.eval()
        with torch.inference_mode():
            last_tokens(side, network, batch)

    return run


def training_step(
    side: str, network: nn.Module, batch: tuple[Tensor, Tensor, Tensor], *, fused: bool
) -> Callable[[], None]:
    """Return one training step with AdamW."""
    chosen = [parameter for parameter in network.parameters() if parameter.requires_grad]
    settings: dict[str, Any] = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(chosen, lr=1e-6, **settings)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        loss_of(side, network, batch).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    sys.exit(main())
