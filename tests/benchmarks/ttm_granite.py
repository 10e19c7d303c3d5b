"""TTM 512 -> 96 here against granite-tsfm: training step, forward pass, memory.

Both have the same weights and read the same batch of 64 x 7 channels.

Two comparisons. *Together*: both in one process, alternating, equal settings (threads, allocator, fused
AdamW), so that only the formulation differs. *Apart*: each in processes of its own, in turn, as its own users
run it: ours with the CPU switches, the reference with PyTorch's defaults. Outputs and losses are compared
before anything is timed.

granite-tsfm pins an older PyTorch, so it gets an environment of its own on top of the project's packages,
which `make bench` makes in `.bench/granite`:

    .ci/peer granite
    PYTHONPATH=. .bench/granite/bin/python tests/benchmarks/ttm_granite.py

Run it on a quiet machine; a ratio above 1 means that ours is faster or smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import SIDES, alternate, in_turn, machine, peak_bytes, report, resident_peak
from torch import Tensor, nn

CONTEXT, HORIZON, CHANNELS, BATCH = 512, 96, 7, 64
OFFICIAL: dict[str, Any] = {
    "context_length": CONTEXT,
    "prediction_length": HORIZON,
    "patch_length": 64,
    "patch_stride": 64,
    "d_model": 192,
    "num_layers": 2,
    "adaptive_patching_levels": 3,
    "decoder_num_layers": 2,
    "decoder_d_model": 128,
}


def main() -> int:
    """Run both comparisons and print their ratios."""
    parser = argparse.ArgumentParser(description="TTM here against granite-tsfm.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison")
    parser.add_argument("--processes", type=int, default=3, help="processes of each side, apart")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(alone(options.side, options.rounds)))
        return 0
    print(machine())
    together(options.rounds)
    apart(options)
    return 0


def together(rounds: int) -> None:
    """Alternate both networks in one process under equal settings."""
    from core.accelerators.cpu import keep_freed_memory

    keep_freed_memory()
    past, future = batch()
    networks = {"reference": reference(), "ours": ours()}
    networks["ours"].load_state_dict(official_weights(networks["reference"]))
    calls = {side: call(side, network) for side, network in networks.items()}
    agree(networks, calls, past, future)
    steps = {side: training_step(networks[side], calls[side], past, future, fused=True) for side in SIDES}
    forwards = {side: forward(networks[side], calls[side], past) for side in SIDES}
    print("together, equal settings (fused AdamW, freed memory kept)")
    for what, runs in (("training step", steps), ("forward", forwards)):
        report(what, alternate(runs, rounds), "ms")
    report("bytes within a step", {side: [peak_bytes(steps[side]) / 2**20] for side in SIDES}, "MiB")


def apart(options: argparse.Namespace) -> None:
    """Give each side processes of its own, in turn, set as its users have it."""
    arguments = ["--rounds", str(options.rounds), "--threads", str(options.threads)]
    results = in_turn(__file__, arguments, options.processes)
    print("apart, each as its users run it")
    units = {"training step": "ms", "forward": "ms", "resident peak": "MiB", "step bytes": "MiB"}
    for what, unit in units.items():
        report(what, {side: [result[what] for result in results[side]] for side in SIDES}, unit)


def alone(side: str, rounds: int) -> dict[str, float]:
    """Measure one side in this process."""
    past, future = batch()
    network = reference() if side == "reference" else ours()
    if side == "ours":
        from core.accelerators.cpu import CPUSwitches, apply

        apply(CPUSwitches(), network=network, rows=BATCH * CHANNELS * network.patches)
    run = call(side, network)
    step = training_step(network, run, past, future, fused=side == "ours")
    times = alternate({side: step}, rounds)[side]
    memory = resident_peak()
    plain = alternate({side: forward(network, run, past)}, rounds)[side]
    return {
        "training step": statistics.median(times),
        "forward": statistics.median(plain),
        "resident peak": memory,
        "step bytes": peak_bytes(step) / 2**20,
    }


def batch() -> tuple[Tensor, Tensor]:
    """Return a fixed past and future of one batch."""
    generator = torch.Generator().manual_seed(0)
    past = torch.randn(BATCH, CONTEXT, CHANNELS, generator=generator).cumsum(1)
    return past, torch.randn(BATCH, HORIZON, CHANNELS, generator=generator)


def reference() -> nn.Module:
    """Build granite-tsfm's network."""
    from tsfm_public.models.tinytimemixer import TinyTimeMixerConfig, TinyTimeMixerForPrediction

    torch.manual_seed(0)
    return TinyTimeMixerForPrediction(TinyTimeMixerConfig(**OFFICIAL))


def ours() -> nn.Module:
    """Build ours of the same official config."""
    from apps.timeseries.models.ttm import from_official_config

    torch.manual_seed(0)
    return from_official_config(OFFICIAL)


def official_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the reference's weights under our names."""
    from apps.timeseries.models.ttm import KEY_MAP

    return KEY_MAP.from_official({key: tensor.clone() for key, tensor in network.state_dict().items()})


Call = Callable[..., tuple[Tensor, Tensor | None]]


def call(side: str, network: nn.Module) -> Call:
    """Return a function of (past, future) that gives forecast and loss."""

    def run(past: Tensor, future: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        output = network(past, future_values=future)
        return (output.prediction if side == "ours" else output.prediction_outputs), output.loss

    return run


def agree(networks: dict[str, nn.Module], calls: dict[str, Call], past: Tensor, future: Tensor) -> None:
    """Stop unless both give the same forecast and loss."""
    results = {}
    for side in SIDES:
        networks[side].eval()
        with torch.no_grad():
            results[side] = calls[side](past, future)
    difference = float((results["ours"][0] - results["reference"][0]).abs().max())
    size = float(results["reference"][0].abs().max())
    losses = [result[1] for result in results.values()]
    assert losses[0] is not None and losses[1] is not None
    if difference > 1e-5 * size or abs(float(losses[0] - losses[1])) > 1e-5 * float(losses[0]):
        raise SystemExit(f"the networks differ by {difference} of {size}; nothing was timed")
    print(f"largest difference of the forecasts {difference:.1e} of {size:.1f}")


def training_step(
    network: nn.Module, run: Call, past: Tensor, future: Tensor, *, fused: bool
) -> Callable[[], None]:
    """Return one training step with AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=fused)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        loss = run(past, future)[1]
        assert loss is not None
        loss.backward()
        optimizer.step()

    return step


def forward(network: nn.Module, run: Call, past: Tensor) -> Callable[[], None]:
    """Return one forward pass in evaluation mode."""

    def forecast() -> None:
        network.eval()
        with torch.no_grad():
            run(past)

    return forecast


if __name__ == "__main__":
    sys.exit(main())
