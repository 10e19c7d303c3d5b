"""scOT here against transformers' Swin V2 and against its own formulas written plainly.

*encoder*: our encoder without time conditioning beside `Swinv2Model` with the same weights. scOT adds a
stage's input to its output before patch merging and Swin V2 does not, so the benchmark drives our embeddings,
blocks and patch mergings itself, without that sum: both compute the same function.
*network*: the whole conditioned scOT beside `scot_plain.py`.

Two comparisons of each. *Together*: both in one process, alternating, equal settings (threads, allocator,
fused AdamW), so that only the formulation differs. *Apart*: each in processes of its own, in turn, as its own
users run it: ours with the CPU switches, the reference with PyTorch's defaults. Outputs and a gradient are
compared before anything is timed. `--scaling` shows time and memory of our forward and backward pass as the
grid grows: linear in its points, with a factor that rises a little until coarse levels fill whole windows.

transformers gets an environment of its own on top of the project's packages, which `make bench` makes in
`.bench/transformers`:

    .ci/peer transformers
    PYTHONPATH=. .bench/transformers/bin/python tests/benchmarks/scot_swinv2.py [--scaling]

Run it on a quiet machine; a ratio above 1 means that ours is faster or smaller.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import CLOCKS, SIDES, alternate, in_turn, machine, peak_bytes, report, resident_peak
from scot_plain import DEFAULTS, PlainScOT
from torch import Tensor, nn

KINDS = ("encoder", "network")
UNITS = {"training step": "ms", "forward": "ms", "resident peak": "MiB", "step bytes": "MiB"}


def main() -> int:
    """Run the comparisons that were asked for."""
    parser = argparse.ArgumentParser(
        description="scOT here against Swin V2 of transformers and plain formulas."
    )
    parser.add_argument("--kind", choices=KINDS, help="one comparison only")
    parser.add_argument("--scaling", action="store_true", help="only how time and memory grow with the grid")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison")
    parser.add_argument("--processes", type=int, default=2, help="processes of each side, apart")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a busy machine")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(alone(options.kind, options.side, options)))
        return 0
    print(f"{machine()}, {options.clock} time")
    if options.scaling:
        scaling(options.rounds, options.clock)
        return 0
    for kind in [options.kind] if options.kind else KINDS:
        print(f"{kind}, batch {options.batch}")
        together(kind, options)
        apart(kind, options)
    return 0


def together(kind: str, options: argparse.Namespace) -> None:
    """Alternate both networks in one process under equal settings."""
    from core.accelerators.cpu import keep_freed_memory

    kept = keep_freed_memory()
    networks = {side: build(kind, side) for side in SIDES}
    share_weights(kind, networks)
    batch = draw(kind, options.batch, networks["reference"])
    agree(networks, batch)
    steps = {side: training_step(networks[side], batch, fused=True) for side in SIDES}
    forwards = {side: forward(networks[side], batch) for side in SIDES}
    print(f" together, equal settings (fused AdamW; {kept or 'default allocator'})")
    report("training step", alternate(steps, options.rounds, clock=options.clock), UNITS["training step"])
    report("forward", alternate(forwards, options.rounds, clock=options.clock), UNITS["forward"])
    report("step bytes", {side: [peak_bytes(steps[side]) / 2**20] for side in SIDES}, UNITS["step bytes"])


def apart(kind: str, options: argparse.Namespace) -> None:
    """Give each side processes of its own, in turn, set as its users have it."""
    arguments = ["--kind", kind]
    for name in ("rounds", "threads", "batch", "clock"):
        arguments += [f"--{name}", str(getattr(options, name))]
    results = in_turn(__file__, arguments, options.processes)
    print(" apart, each as its users run it (reference: default allocator and AdamW; ours: the CPU switches)")
    for what, unit in UNITS.items():
        report(what, {side: [result[what] for result in results[side]] for side in SIDES}, unit)


def alone(kind: str, side: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one side in this process."""
    network = build(kind, side)
    if side == "ours":
        from core.accelerators.cpu import CPUSwitches, apply

        apply(CPUSwitches(), network=network, rows=options.batch * 32 * 32)
    batch = draw(kind, options.batch, network)
    step = training_step(network, batch, fused=side == "ours")
    times = alternate({side: step}, options.rounds, clock=options.clock)[side]
    memory = resident_peak()
    plain = alternate({side: forward(network, batch)}, options.rounds, clock=options.clock)[side]
    return {
        "training step": statistics.median(times),
        "forward": statistics.median(plain),
        "resident peak": memory,
        "step bytes": peak_bytes(step) / 2**20,
    }


def scaling(rounds: int, clock: str) -> None:
    """Print time and memory of one sample's forward and backward pass by the side of the grid."""
    from apps.pde.models.poseidon import poseidon_t
    from core.accelerators.cpu import keep_freed_memory

    print(
        f"scaling, Poseidon T, patch 4, window 16, forward and backward; {keep_freed_memory() or 'default'}"
    )
    heads = ("grid", "ms a sample", "range", "µs a point", "MiB a sample", "B a point")
    print("".join(f"{head:>14}" for head in heads))
    for resolution in (64, 128, 256):
        torch.manual_seed(0)
        network = poseidon_t(resolution=resolution).train()
        samples = (256 // resolution) ** 2  # as many points each time
        fields, time = torch.randn(samples, 4, resolution, resolution), torch.rand(samples)

        def step(network: nn.Module = network, fields: Tensor = fields, time: Tensor = time) -> None:
            network.zero_grad(set_to_none=False)  # gradients stay, so that the bytes are the pass's own
            network(fields, time).square().mean().backward()

        times = [t / samples for t in alternate({"ours": step}, rounds, clock=clock)["ours"]]
        middle, memory, points = statistics.median(times), peak_bytes(step) / samples, resolution**2
        row = (
            f"{resolution} x {resolution}",
            f"{middle:.1f}",
            f"{min(times):.0f} to {max(times):.0f}",
            f"{middle / points * 1e3:.2f}",
            f"{memory / 2**20:.1f}",
            f"{memory / points:.0f}",
        )
        print("".join(f"{cell:>14}" for cell in row), flush=True)


class OurEncoder(nn.Module):
    """Our embeddings, blocks and patch mergings in Swin V2's order, with its last norm."""

    def __init__(self) -> None:
        super().__init__()
        from apps.pde.models.poseidon import from_official_config

        network = from_official_config({**DEFAULTS, "use_conditioning": False, "drop_path_rate": 0.0})
        self.embeddings, self.encoder, self.grids = network.embeddings, network.encoder, network.grids
        self.layernorm = nn.LayerNorm(
            network.embeddings.norm.normalized_shape[0] * 2 ** (len(self.grids) - 1)
        )

    def forward(self, fields: Tensor, time: Tensor) -> Tensor:
        """Map `(B, C, S, S)` to the tokens of the coarsest level."""
        x = self.embeddings(fields, None)
        for stage, grid in zip(self.encoder.layers, self.grids, strict=True):
            for block in stage.blocks:
                x = block(x, grid, None)
            if stage.downsample is not None:
                x = stage.downsample(x, grid, None)
        return self.layernorm(x)


class TheirEncoder(nn.Module):
    """transformers' model, called as ours."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import Swinv2Config, Swinv2Model

        names = ("image_size", "patch_size", "num_channels", "embed_dim", "depths", "num_heads")
        names += ("window_size", "mlp_ratio", "qkv_bias", "layer_norm_eps")
        config = Swinv2Config(**{name: DEFAULTS[name] for name in names}, drop_path_rate=0.0)
        self.network = Swinv2Model(config, add_pooling_layer=False)

    def forward(self, fields: Tensor, time: Tensor) -> Tensor:
        """Map `(B, C, S, S)` to the tokens of the coarsest level."""
        return self.network(fields).last_hidden_state


def build(kind: str, side: str) -> nn.Module:
    """Build one side."""
    torch.manual_seed(0)
    if kind == "encoder":
        return TheirEncoder() if side == "reference" else OurEncoder()
    if side == "reference":
        return PlainScOT({})
    from apps.pde.models.poseidon import from_official_config

    return from_official_config({**DEFAULTS, "drop_path_rate": 0.0})


def share_weights(kind: str, networks: dict[str, nn.Module]) -> None:
    """Draw weights that leave no branch switched off and give them to both."""
    from apps.pde.models.poseidon import KEY_MAP

    source = networks["reference"].network if kind == "encoder" else networks["reference"]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in source.parameters():
            if parameter.dim() > 1 and parameter.shape[-1] > 1:
                parameter.normal_(0.0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    state = {key: tensor.clone() for key, tensor in source.state_dict().items()}
    last = {key: state.pop(key) for key in list(state) if key.startswith("layernorm.")}
    networks["ours"].load_state_dict({**KEY_MAP.from_official(state), **last})


Batch = tuple[Tensor, Tensor, Tensor]


def draw(kind: str, size: int, network: nn.Module) -> Batch:
    """Return fields, lead times, and a target of the output's shape."""
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(size, 4, DEFAULTS["image_size"], DEFAULTS["image_size"], generator=generator)
    time = torch.rand(size, generator=generator)
    with torch.no_grad():
        shape = network(fields, time).shape
    return fields, time, torch.randn(shape, generator=generator)


def agree(networks: dict[str, nn.Module], batch: Batch) -> None:
    """Stop unless both give the same output and the same gradient of the embedding's weight."""
    found = {}
    for side, network in networks.items():
        network.eval()
        fields, time, target = batch
        output = network(fields, time)
        weight = next(
            p for n, p in network.named_parameters() if n.endswith("patch_embeddings.projection.weight")
        )
        (gradient,) = torch.autograd.grad((output - target).abs().mean(), weight)
        found[side] = (output.detach(), gradient)
    for what, theirs, ours in zip(("output", "gradient"), found["reference"], found["ours"], strict=True):
        difference, size = float((ours - theirs).abs().max()), float(theirs.abs().max())
        if difference > 1e-4 * size:
            raise SystemExit(f"the {what}s differ by {difference} of {size}; nothing was timed")
        print(f" largest difference of the {what}s {difference:.1e} of {size:.1e}")


def training_step(network: nn.Module, batch: Batch, *, fused: bool) -> Callable[[], None]:
    """Return one training step with AdamW."""
    settings: dict[str, Any] = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, **settings)
    fields, time, target = batch

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        (network(fields, time) - target).abs().mean().backward()
        optimizer.step()

    return step


def forward(network: nn.Module, batch: Batch) -> Callable[[], None]:
    """Return one forward pass in evaluation mode."""

    def predict() -> None:
        network.eval()
        with torch.no_grad():
            network(batch[0], batch[1])

    return predict


if __name__ == "__main__":
    sys.exit(main())
