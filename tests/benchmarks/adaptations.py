"""What adapting less of a network saves: Prithvi fitted to the tiles of one chip of Sen1Floods11.

Each adaptation has a process of its own, the same tiles, the same order and the same number of steps, and
ends with the intersection over union on these very tiles: it is about what each can fit and what it costs,
not about other chips. `--weights` starts from a run of prithvi/pretrain; without, the encoder is as drawn,
and freezing it shows what random features are worth. Times are the processor's, of all threads together.

    .venv/bin/python tests/benchmarks/adaptations.py FOLDER_OF_V1.1 [--chip Spain_7370579] [--steps 800]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import machine, resident_peak

ADAPTATIONS = ("Full", "LoRA", "DoRA", "LightDecoder", "LinearProbe")
BANDS = ["blue", "green", "red", "nir_narrow", "swir_1", "swir_2"]


def main() -> int:
    """Print one line for each adaptation."""
    parser = argparse.ArgumentParser(description="What each adaptation trains, costs and fits.")
    parser.add_argument("folder", type=Path, help="the folder that holds v1.1 of Sen1Floods11")
    parser.add_argument("--chip", default="Spain_7370579")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--weights", help="of the encoder")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=ADAPTATIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(fitted(options)))
        return 0
    print(f"{machine()}, {options.steps} steps of {options.batch} tiles of {options.tile} pixels")
    print(
        f"{'adaptation':<13}{'trained':>10}{'of':>10}{'ms/step':>9}{'growth MiB':>12}{'IoU':>8}{'water':>8}"
    )
    for name in ADAPTATIONS:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--only", name], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr}")
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name:<13}{row['trained']:>10,}{row['all']:>10,}{row['step']:>9.0f}{row['growth']:>12.0f}"
            f"{row['iou']:>8.3f}{row['water']:>8.3f}",
            flush=True,
        )
    return 0


def fitted(options: argparse.Namespace) -> dict[str, float]:
    """Fit one adaptation in this process."""
    import core.adaptation
    from apps.remote_sensing.models.decoders import FCN, Linear
    from apps.remote_sensing.models.mapper import Mapper
    from apps.remote_sensing.models.prithvi import Prithvi
    from core.accelerators.cpu import CPUSwitches, apply
    from core.checkpoints.weights import load_weights
    from core.metrics.classes import ClassScores
    from core.objectives.segmentation import CrossEntropy
    from core.optim import OneCycle, ScheduleLR

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    batches = tiles(options)
    probe = options.only == "LinearProbe"
    encoder = Prithvi(resolution=32, frames=3, patch=(1, 4, 4), width=128, depth=4, heads=4,
                      coordinates=("time", "location"), learn_scale=True)  # fmt: skip
    decoder = Linear() if probe else FCN(channels=48, steps=2)
    network = Mapper(encoder, decoder=decoder, dates=1, dropout=0.0)
    if options.weights:
        load_weights(options.weights, network, reinitialise=["decoder.*", "head.*"])
    apply(CPUSwitches(), network=network, rows=options.batch * (options.tile // 4) ** 2)
    chosen = getattr(core.adaptation, options.only)
    if options.only in ("LoRA", "DoRA"):
        adaptation = chosen(train=["decoder", "head"])
    else:
        adaptation = chosen(decoder=["decoder", "head"]) if options.only == "LightDecoder" else chosen()
    adaptation.prepare(network, ["decoder.*", "head.*"])
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.rate, weight_decay=0.0, fused=True)
    schedule = ScheduleLR(optimizer, OneCycle(warmup=0.1), options.steps)
    objective, before, began = CrossEntropy(), resident_peak(), 0.0
    network.train()
    for step in range(options.steps):
        adaptation.apply(network, step, 0)
        began = time.process_time() if step == 5 else began
        batch = batches[step % len(batches)]
        loss = objective(network(batch.image, batch.time, batch.location), batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    spent = (time.process_time() - began) / (options.steps - 5) * 1e3
    growth = resident_peak() - before
    scores = ClassScores(["dry", "water"])
    network.eval()
    with torch.inference_mode():
        for batch in batches:
            scores.update(network(batch.image, batch.time, batch.location).argmax(1), batch.label)
    return {
        "trained": sum(parameter.numel() for parameter in trained),
        "all": sum(parameter.numel() for parameter in network.parameters()),
        "step": spent,
        "growth": growth,
        "iou": float(scores.compute()["iou"]),
        "water": float(scores.by_class()["iou"][1]),
    }


def tiles(options: argparse.Namespace) -> list:
    """Return all tiles of the chip in batches, read by the reader of the set."""
    from apps.remote_sensing.batch import Coordinates
    from apps.remote_sensing.data import Tiles
    from apps.remote_sensing.data.module import Scenes
    from apps.remote_sensing.data.readers.floods import Sen1Floods11

    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "v1.1"
        lists = root / "splits" / "flood_handlabeled"
        lists.mkdir(parents=True)
        given = options.folder / "v1.1" if (options.folder / "v1.1").is_dir() else options.folder
        for part in ("data", "Sen1Floods11_Metadata.geojson"):
            (root / part).symlink_to((given / part).resolve())
        for part in ("train", "valid", "test", "bolivia"):
            (lists / f"flood_{part}_data.txt").write_text(options.chip + "\n")
        data = Scenes(
            Sen1Floods11(place),
            bands=BANDS,
            tiles=Tiles(options.tile),
            batch_size=options.batch,
            seed=0,
            coordinates=Coordinates(first_day=0),
        )
        data.setup("fit")
        chosen = data.train_set()
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0)).tolist()
        return [
            chosen.__getitems__([(0, index) for index in order[first : first + options.batch]])
            for first in range(0, len(order), options.batch)
        ]


if __name__ == "__main__":
    sys.exit(main())
