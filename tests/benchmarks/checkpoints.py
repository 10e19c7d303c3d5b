"""How long a training loop is held up by a checkpoint: written before the next step, or by a thread.

`python tests/benchmarks/checkpoints.py [--megabytes 300] [--saves 5] [--steps 20] [--folder DIR]`

A network whose weights and AdamW moments have the given size takes the same steps without saves, with
blocking saves of one file and of a folder, and with both from a thread; as many steps as asked for lie
between two saves. Told for each is the time the loop took beyond the run without saves, divided by the number
of saves, and what the call of a save alone took. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from core.checkpoints.io import SafeCheckpointIO
from core.checkpoints.sharded import named_state

WIDTH = 1024


def prepared(megabytes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a network and its optimiser that together hold `megabytes` of state in float32."""
    depth = max(round(megabytes * 1e6 / (3 * 4 * WIDTH * WIDTH)), 1)
    net = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(depth)))
    return net, torch.optim.AdamW(net.parameters(), lr=1e-4)


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    saves: int,
    steps: int,
    save: Callable[[int], None] | None,
) -> tuple[float, list[float]]:
    """Return the seconds of the whole loop, the last save's end included, and those of each call."""
    x, calls = torch.randn(16, WIDTH), []
    start = time.perf_counter()
    for step in range(saves * steps):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        if save is not None and step % steps == steps - 1:
            before = time.perf_counter()
            save(step)
            calls.append(time.perf_counter() - before)
    return time.perf_counter() - start, calls


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    words = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=words.folder))
    net, optimizer = prepared(words.megabytes)
    train(net, optimizer, 1, 3, None)
    plain, _ = train(net, optimizer, words.saves, words.steps, None)
    size = 3 * 4 * sum(p.numel() for p in net.parameters()) / 1e6
    print(f"{size:.0f} MB of state, {words.saves} saves, {words.steps} steps between them")
    print(f"{'how':<24}{'s a save':>10}{'s a call':>10}{'loop s':>10}")
    print(f"{'no saves':<24}{'':>10}{'':>10}{plain:>10.2f}")
    try:
        for kind in ("file", "folder"):
            for beside in (False, True):
                saver = SafeCheckpointIO(asynchronous=beside, sharded=kind == "folder")

                def save(step: int, saver: SafeCheckpointIO = saver, kind: str = kind) -> None:
                    named = kind == "folder"
                    states = [named_state(net, optimizer) if named else optimizer.state_dict()]
                    content = {
                        "global_step": step,
                        "state_dict": net.state_dict(),
                        "optimizer_states": states,
                    }
                    path = folder / f"{step % 2}.ckpt"
                    saver.save_checkpoint(content, path)

                save(0)  # the first makes room for its copies
                saver.wait()
                took, calls = train(net, optimizer, words.saves, words.steps, save)
                saver.teardown()
                how = f"{kind}, {'in a thread' if beside else 'blocking'}"
                held = (took - plain) / words.saves
                print(f"{how:<24}{held:>10.3f}{statistics.median(calls):>10.3f}{took:>10.2f}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
