"""Aurora here against microsoft-aurora on a CPU: a forecast and a training step; same weights and batch.

A forecast goes from physical units to physical units. A step is forward pass, mean absolute error of
normalised fields, backward pass, AdamW in float32. *small* is the released small size on 64 x 128 points and
13 levels, *tiny* that of the recorded cases.

*Apart*: each side in processes of its own, in turn, as its users run it: the reference with torch's default
AdamW and allocator, ours with fused AdamW and what `configs/trainer/cpu.yaml` switches on. *Together*: both
in one process, alternating, with our allocator settings and fused AdamW for both, so that only the
formulation differs. Forecasts and gradients are compared before anything is timed together.

    .ci/peer aurora
    PYTHONPATH=. .bench/aurora/bin/python tests/benchmarks/aurora_microsoft.py [--kind small]

Run it on a quiet machine; on a busy one take one thread and the processor's clock (`--threads 1 --clock
processor`). A ratio above 1 means that ours is faster or smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch
from measure import CLOCKS, SIDES, alternate, in_turn, machine, peak_bytes, report, resident_peak
from torch import Tensor, nn

SURFACE, STATIC, ATMOSPHERIC = ("2t", "10u", "10v", "msl"), ("lsm", "z", "slt"), ("z", "u", "v", "t", "q")
LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
TINY = {
    "window_size": (2, 3, 4),
    "encoder_depths": (2, 2, 2),
    "encoder_num_heads": (2, 4, 8),
    "decoder_depths": (2, 2, 2),
    "decoder_num_heads": (8, 4, 2),
    "embed_dim": 16,
    "num_heads": 4,
    "use_lora": False,
}
SMALL = {
    "encoder_depths": (2, 6, 2),
    "encoder_num_heads": (4, 8, 16),
    "decoder_depths": (2, 6, 2),
    "decoder_num_heads": (16, 8, 4),
    "embed_dim": 256,
    "num_heads": 8,
    "use_lora": False,
}
# Official settings, rows, columns, levels, batch.
KINDS: dict[str, tuple[dict[str, Any], int, int, tuple[int, ...], int]] = {
    "tiny": (TINY, 20, 40, (100, 250, 500, 850), 2),
    "small": (SMALL, 64, 128, LEVELS, 1),
}
UNITS = {"training step": "ms", "forecast": "ms", "resident peak": "MiB", "step bytes": "MiB"}


def main() -> int:
    """Run the comparisons that were asked for."""
    parser = argparse.ArgumentParser(description="Aurora here against microsoft-aurora.")
    parser.add_argument("--kind", choices=list(KINDS), help="one comparison only")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison")
    parser.add_argument("--calls", type=int, default=2, help="calls of a round")
    parser.add_argument("--processes", type=int, default=2, help="processes of each side, apart")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a busy machine")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(alone(options.kind, options.side, options)))
        return 0
    print(f"{machine()}, {options.clock} time")
    for kind in [options.kind] if options.kind else KINDS:
        print(kind)
        together(kind, options)
        apart(kind, options)
    return 0


def together(kind: str, options: argparse.Namespace) -> None:
    """Alternate both networks in one process under equal settings."""
    from core.accelerators.cpu import keep_freed_memory

    kept = keep_freed_memory()
    sides = {side: BUILD[side](kind) for side in SIDES}
    sides["ours"].network.load_state_dict(sides["reference"].network.state_dict())
    agree(sides)
    steps = {side: training_step(sides[side], fused=True) for side in SIDES}
    forecasts = {side: forecast(sides[side]) for side in SIDES}
    print(f" together, equal settings (fused AdamW; {kept or 'default allocator'})")
    timing = {"rounds": options.rounds, "calls": options.calls, "clock": options.clock}
    report("training step", alternate(steps, **timing), UNITS["training step"])
    report("forecast", alternate(forecasts, **timing), UNITS["forecast"])
    report("step bytes", {side: [peak_bytes(steps[side]) / 2**20] for side in SIDES}, UNITS["step bytes"])


def apart(kind: str, options: argparse.Namespace) -> None:
    """Give each side processes of its own, in turn, set as its users have it."""
    arguments = ["--kind", kind]
    for name in ("rounds", "calls", "threads", "clock"):
        arguments += [f"--{name}", str(getattr(options, name))]
    results = in_turn(__file__, arguments, options.processes)
    print(" apart, each as its users run it (reference: default allocator and AdamW; ours: the CPU switches)")
    for what, unit in UNITS.items():
        report(what, {side: [result[what] for result in results[side]] for side in SIDES}, unit)


def alone(kind: str, side: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure one side in this process."""
    run = BUILD[side](kind)
    if side == "ours":
        from core.accelerators.cpu import CPUSwitches, apply

        apply(CPUSwitches(), network=run.network, rows=run.rows)
    step = training_step(run, fused=side == "ours")
    timing = {"rounds": options.rounds, "calls": options.calls, "clock": options.clock}
    times = alternate({side: step}, **timing)[side]
    memory = resident_peak()
    plain = alternate({side: forecast(run)}, **timing)[side]
    return {
        "training step": statistics.median(times),
        "forecast": statistics.median(plain),
        "resident peak": memory,
        "step bytes": peak_bytes(step) / 2**20,
    }


class Reference:
    """microsoft-aurora's network, its batch, and its loss."""

    def __init__(self, kind: str) -> None:
        import aurora

        settings, *_, levels, batch = KINDS[kind]
        self.network = aurora.Aurora(**settings)
        randomise(self.network)
        fields = draw(kind)
        self.batch = aurora.Batch(
            surf_vars={name: fields[name] for name in SURFACE},
            static_vars={name: fields[f"static_{name}"] for name in STATIC},
            atmos_vars={name: fields[f"on_levels_{name}"] for name in ATMOSPHERIC},
            metadata=aurora.Metadata(
                lat=fields["latitude"],
                lon=fields["longitude"],
                time=(datetime(2020, 6, 1, 12, tzinfo=UTC),) * batch,
                atmos_levels=levels,
            ),
        )

    def predict(self) -> list[Tensor]:
        """Return the next state in physical units, variable by variable."""
        state = self.network.forward(self.batch)
        return [*state.surf_vars.values(), *state.atmos_vars.values()]

    def loss(self) -> Tensor:
        """Return the mean absolute value of the next normalised state's variables."""
        state = self.network.forward(self.batch).normalise(surf_stats={})
        return sum(x.abs().mean() for x in (*state.surf_vars.values(), *state.atmos_vars.values()))


class Ours:
    """Our network, batch and loss."""

    def __init__(self, kind: str) -> None:
        from apps.weather.batch import Grid, States, Variables, WeatherBatch
        from apps.weather.data.published import published_scaling
        from apps.weather.models.aurora.config import from_official_config

        settings, rows, columns, levels, batch = KINDS[kind]
        self.network = from_official_config(settings)
        fields = draw(kind)
        variables = Variables(SURFACE, ATMOSPHERIC, levels, STATIC)
        static = torch.stack([fields[f"static_{name}"] for name in STATIC])
        hours = datetime(2020, 6, 1, 12, tzinfo=UTC).timestamp()
        self.batch = WeatherBatch(
            inputs=States(
                torch.stack([fields[name] for name in SURFACE], 2),
                torch.stack([fields[f"on_levels_{name}"] for name in ATMOSPHERIC], 2),
            ),
            static=static.expand(batch, -1, -1, -1),
            targets=None,
            time=torch.full((batch,), int(hours)),
            variables=variables,
            target_variables=variables,
            grid=Grid(fields["latitude"].numpy(), fields["longitude"].numpy()),
            step=6.0,
        )
        self.scaling = published_scaling(variables)
        # of the coarsest stage, whose weights are the largest
        self.rows = batch * (rows // 4) * (columns // 4) // 4

    def predict(self) -> list[Tensor]:
        """Return the next state in physical units, variable by variable."""
        from apps.weather.models import forecast as forecasts

        return by_variable(forecasts.forecast(self.network, self.batch, self.scaling))

    def loss(self) -> Tensor:
        """Return the mean absolute value of the next normalised state's variables."""
        state = self.network.advance(self.scaling.normalised(self.batch))
        axes = (0, 1, -2, -1)
        return state.surface.abs().mean(axes).sum() + state.atmospheric.abs().mean(axes).mean(1).sum()


BUILD: dict[str, Callable[[str], Any]] = {"reference": Reference, "ours": Ours}


def by_variable(states: Any) -> list[Tensor]:
    """Return states `(B, T, V, …)` as a list of V."""
    return [*states.surface.unbind(2), *states.atmospheric.unbind(2)]


def randomise(network: nn.Module) -> None:
    """Draw weights that leave no branch switched off."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def draw(kind: str) -> dict[str, Tensor]:
    """Return fields in physical units, and positions."""
    from apps.weather.batch import Variables, level_name
    from apps.weather.data.published import published_scaling

    _, rows, columns, levels, batch = KINDS[kind]
    statistics_ = published_scaling(Variables(SURFACE, ATMOSPHERIC, levels, STATIC)).statistics
    generator = torch.Generator().manual_seed(0)

    def field(name: str, *shape: int) -> Tensor:
        location, scale = statistics_[name]
        return torch.randn(*shape, rows, columns, generator=generator) * scale + location

    fields = {name: field(name, batch, 2) for name in SURFACE}
    fields |= {f"static_{name}": field(f"static_{name}") for name in STATIC}
    for name in ATMOSPHERIC:
        on_levels = [field(level_name(name, level), batch, 2) for level in levels]
        fields[f"on_levels_{name}"] = torch.stack(on_levels, 2)
    step = 180.0 / rows
    fields["latitude"] = 90 - step / 2 - step * torch.arange(rows)
    fields["longitude"] = torch.arange(columns) * (360.0 / columns)
    return fields


def agree(sides: dict[str, Any]) -> None:
    """Stop unless both give the same forecast and the same gradients."""
    results = {}
    for side, run in sides.items():
        run.network.eval()
        with torch.no_grad():
            states = run.predict()
        run.network.zero_grad()
        run.loss().backward()
        # a long way back: through decoder, U-net and level aggregation
        names = ("encoder.atmos_latents", "backbone.encoder_layers.0.blocks.1.attn.qkv.weight")
        results[side] = (*states, *(run.network.get_parameter(name).grad for name in names))
    worst = 0.0
    for theirs, ours in zip(results["reference"], results["ours"], strict=True):
        worst = max(worst, float((ours - theirs).abs().max() / theirs.std()))
    print(f" largest difference of forecasts and gradients {worst:.1e} of their deviation")
    if worst > 1e-2:
        raise SystemExit("they differ; nothing was timed")


def training_step(run: Any, *, fused: bool) -> Callable[[], None]:
    """Return one training step with AdamW."""
    settings: dict[str, Any] = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(run.network.parameters(), lr=1e-6, **settings)

    def step() -> None:
        run.network.train()
        optimizer.zero_grad()
        run.loss().backward()
        optimizer.step()

    return step


def forecast(run: Any) -> Callable[[], None]:
    """Return one forecast in evaluation mode."""

    def predict() -> None:
        run.network.eval()
        with torch.no_grad():
            run.predict()

    return predict


if __name__ == "__main__":
    sys.exit(main())
