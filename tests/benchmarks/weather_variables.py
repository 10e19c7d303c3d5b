"""What a new variable costs: full fine-tuning of a small Aurora, low-rank updates, or a light decoder.

Each way is one training step on the same batch of random fields: parameters that train, the processor's
time of a step, and the bytes that it holds at once. What each way learns is for the recipes
aurora/finetune_variables, aurora/finetune_lora and aurora/finetune_light_decoder, of as many steps.

    .venv/bin/python tests/benchmarks/weather_variables.py [--width 64] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from measure import alternate, machine, peak_bytes

from apps.weather.batch import Grid, States, Variables, WeatherBatch
from apps.weather.models.aurora import Aurora, PerceiverShape, SwinShape
from apps.weather.models.light_decoder import LightlyDecoded
from core.adaptation import LightDecoder, LoRA

SURFACE, ATMOSPHERIC = ("2t", "10u", "10v", "msl"), ("z", "u", "v", "t", "q")
LEVELS = (200.0, 500.0, 800.0)
SWIN = SwinShape(
    window=(2, 4, 8), encoder_depths=(2, 2), encoder_heads=(4, 8), decoder_depths=(2, 2), decoder_heads=(8, 4)
)


def main() -> int:
    """Print one line a way."""
    parser = argparse.ArgumentParser(description="What a new variable costs in a training step.")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--grid", type=int, nargs=2, default=[32, 64])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    steps, trained = {}, {}
    for name in ("full", "LoRA", "light decoder"):
        steps[name], trained[name] = step_of(name, options)
    times = alternate(steps, options.rounds, calls=2, clock="processor")
    held = {name: peak_bytes(step) for name, step in steps.items()}
    print(f"{'way':<15}{'trained':>12}{'ms a step':>12}{'MiB':>12}{'of the time':>13}{'of the bytes':>14}")
    full = statistics.median(times["full"])
    for name, values in times.items():
        middle = statistics.median(values)
        print(
            f"{name:<15}{trained[name]:>12,}{middle:>12.1f}{held[name] / 2**20:>12.1f}{middle / full:>13.2f}"
            f"{held[name] / held['full']:>14.2f}"
        )
    return 0


def step_of(way: str, options: argparse.Namespace) -> tuple[Callable[[], None], int]:
    """Return one training step, and the number of parameters that it trains."""
    torch.manual_seed(0)
    light = way == "light decoder"
    surface = SURFACE if light else (*SURFACE, "tp")
    aurora = Aurora(
        surface=surface, static=("lsm", "z"), atmospheric=ATMOSPHERIC, width=options.width,
        perceiver=PerceiverShape(heads=4), swin=SWIN, step=24.0,
    )  # fmt: skip
    network = LightlyDecoded(aurora, ("tp",)) if light else aurora
    if light:
        LightDecoder().prepare(network)
    elif way == "LoRA":
        LoRA().prepare(network, fresh=("*.weights.tp", "*heads.tp.*"))
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    batch = states(surface, options)

    def step() -> None:
        if light:
            with torch.no_grad():
                latents = network.latents(batch)
            outputs = [network.decode(latents, batch).surface]
        else:
            state = network.advance(batch)
            outputs = [state.surface, state.atmospheric]
        sum(output.abs().mean() for output in outputs).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(parameter.numel() for parameter in parameters)


def states(surface: tuple[str, ...], options: argparse.Namespace) -> WeatherBatch:
    """Return random normalised fields."""
    rows, columns = options.grid
    draw = torch.Generator().manual_seed(0)
    count = options.batch
    return WeatherBatch(
        inputs=States(
            torch.randn(count, 2, len(surface), rows, columns, generator=draw),
            torch.randn(count, 2, len(ATMOSPHERIC), len(LEVELS), rows, columns, generator=draw),
        ),
        static=torch.randn(count, 2, rows, columns, generator=draw),
        targets=None,
        time=torch.arange(count) * 86400,
        variables=Variables(surface, ATMOSPHERIC, LEVELS, ("lsm", "z")),
        target_variables=Variables(surface, ATMOSPHERIC, LEVELS),
        grid=Grid(90 - (np.arange(rows) + 0.5) * 180 / rows, np.arange(columns) * 360 / columns),
        step=24.0,
    )


if __name__ == "__main__":
    raise SystemExit(main())
