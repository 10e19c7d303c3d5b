"""Seconds of two processes against one on the CPU: `python tests/benchmarks/parallel.py [--processes 2]`.

A small Llama in float32, the same global batch for all; each process has one thread, so that two processes on
two cores could at best halve the time. The first steps are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.multiprocessing
from torch import nn

WARM, STEPS = 3, 12
SIZES = {"vocabulary": 2048, "width": 256, "depth": 4, "heads": 4}
LENGTH, GLOBAL_BATCH = 128, 8


def measure(rank: int, world: int, sizes: dict[str, int], port: int, out: str) -> None:
    """Time the steps of one way to spread the network, in one of `world` processes."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(world),
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
    )
    import logging
    import warnings

    import lightning.pytorch as pl

    from core.backbones.llama import llama_tiny
    from core.objectives.next_token import next_token
    from core.strategies import Mesh
    from core.task import Task

    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Timed(Task):
        """Notes when each step begins."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__(net, restore_best=False)
            self.began: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.began.append(time.perf_counter())
            ids = batch[0]
            return self.mean_over_ranks(*next_token(self.network(ids[:, :-1]).logits, ids[:, 1:]))

        def on_train_end(self) -> None:
            self.began.append(time.perf_counter())

    pl.seed_everything(0, verbose=False)
    replicas = sizes.get("replicate", 1) * sizes.get("shard", 1)
    ids = torch.randint(SIZES["vocabulary"], (GLOBAL_BATCH // replicas * (WARM + STEPS), LENGTH + 1))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(ids), batch_size=GLOBAL_BATCH // replicas
    )
    task = Timed(llama_tiny(**SIZES))
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=Mesh(**sizes),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, loader)
    if rank == 0:
        steps = [after - before for before, after in zip(task.began, task.began[1:], strict=False)][WARM:]
        Path(out).write_text(f"{statistics.median(steps)}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    world = parser.parse_args().processes
    spec = importlib.util.spec_from_file_location(
        "helpers", Path(__file__).parents[1] / "distributed/conftest.py"
    )
    assert spec is not None and spec.loader is not None
    helpers = importlib.util.module_from_spec(spec)
    sys.modules["helpers"] = helpers
    spec.loader.exec_module(helpers)
    print(f"{os.cpu_count()} cores; load before: {os.getloadavg()[0]:.1f}")
    print(f"{'way':22} {'processes':>9} {'s/step':>8} {'speed-up':>8}")
    one = 0.0
    ways: list[tuple[str, int, dict[str, int]]] = [
        ("one process", 1, {}),
        ("ddp", world, {"replicate": world}),
        ("fsdp2", world, {"shard": world}),
        ("tensor", world, {"tensor": world}),
    ]
    for name, processes, sizes in ways:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "seconds")
            words = (processes, sizes, helpers.free_port(), out)
            torch.multiprocessing.spawn(measure, args=words, nprocs=processes)
            seconds = float(Path(out).read_text())
        one = one or seconds
        print(f"{name:22} {processes:9} {seconds:8.3f} {one / seconds:8.2f}", flush=True)


if __name__ == "__main__":
    main()
