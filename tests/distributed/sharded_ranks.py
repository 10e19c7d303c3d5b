"""One process of several that save and load checkpoints of shards; `test_sharded.py` starts them.

`python sharded_ranks.py FOLDER ACT…`: each act is a function below; the rank and the world come from the
environment, as torchrun sets them. What it finds is written to `FOLDER/<act>-<world>-<rank>.json`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from core.checkpoints.io import SafeCheckpointIO
from core.checkpoints.sharded import load_optimizers, load_sharded, named_state
from tests.helpers.sharded_saving import save_sharded

LAYOUTS = {
    1: ["plain"],
    2: ["plain", "fsdp", "tensor"],
    4: ["plain", "fsdp", "hsdp", "tensor", "fsdp_tensor"],
}
"""Ways to shard, by the number of processes."""


class Net(nn.Module):
    """Sizes that 2 and 4 do not divide, buffers, a frozen layer, and a bias with fewer entries than ranks."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(7, width), nn.Linear(width, 5)
        self.norm, self.head = nn.BatchNorm1d(5), nn.Linear(5, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 7) to (B, 3)."""
        return self.frozen(self.head(self.norm(self.down(torch.relu(self.up(x))))))


def built(layout: str, *, width: int = 8, seed: int = 0) -> tuple[Net, torch.optim.Optimizer]:
    """Return a network sharded as `layout` says, and its optimiser with two groups."""
    torch.manual_seed(seed)
    net = Net(width)
    world = processes()
    if "tensor" in layout:
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        mesh = init_device_mesh(
            "cpu",
            (world // 2, 2) if layout == "fsdp_tensor" else (1, world),
            mesh_dim_names=("shard", "tensor"),
        )
        parallelize_module(net, mesh["tensor"], plan)
        if layout == "fsdp_tensor":
            shard(net, mesh["shard"])
    elif layout == "hsdp":
        shard(net, init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard")))
    elif layout == "fsdp":
        shard(net, init_device_mesh("cpu", (world,), mesh_dim_names=("shard",)))
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim < 2]
    return net, torch.optim.AdamW([{"params": others, "weight_decay": 0.0}, {"params": matrices}], lr=0.01)


def processes() -> int:
    """Return how many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def shard(net: Net, mesh: dist.DeviceMesh) -> None:
    """Apply FSDP2 to the layers and then to the rest."""
    for layer in (net.up, net.down):
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)


def train(net: Net, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    """Step on the same batch on every rank, so that every layout trains alike."""
    for step in range(steps):
        x = torch.randn(6, 7, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = net(x).square().mean()
        (loss.to_local() if isinstance(loss, DTensor) else loss).backward()
        optimizer.step()


def checkpoint(net: Net, optimizer: torch.optim.Optimizer, step: int = 2) -> dict:
    """What Lightning would hand to a strategy."""
    return {
        "epoch": 1,
        "global_step": step,
        "state_dict": net.state_dict(),
        "optimizer_states": [named_state(net, optimizer)],
        "loops": {"fit_loop": {"batches": 2}},
        "lr_schedulers": [{"last_epoch": step}],
        "domainfm": {"format": 1},
    }


def whole(net: Net, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return weights, buffers and moments by name, put together from all ranks."""
    found = dict(net.state_dict())
    for name, state in named_state(net, optimizer)["state"].items():
        found |= {f"{name}/{key}": value for key, value in state.items()}
    return {k: (v.full_tensor() if isinstance(v, DTensor) else v).clone() for k, v in found.items()}


def save(folder: Path) -> dict:
    """Train in every layout of this world, save, and keep the truth beside it."""
    world, shares = processes(), {}
    for layout in LAYOUTS[world]:
        net, optimizer = built(layout)
        train(net, optimizer)
        truth = whole(net, optimizer)
        save_sharded(checkpoint(net, optimizer), folder / f"{layout}-{world}.ckpt", mesh={"all": world})
        if world == 1 or dist.get_rank() == 0:
            torch.save(truth, folder / f"{layout}-{world}.truth")
        shares[layout] = sum(v.to_local().nbytes for v in net.state_dict().values() if isinstance(v, DTensor))
    return shares


def load(folder: Path) -> dict:
    """Load every checkpoint of the folder in every layout of this world; list what differs."""
    wrong = []
    for path in sorted([*folder.glob("*.ckpt"), *folder.glob("*.file")]):
        truth = torch.load(path.with_suffix(".truth"))
        for layout in LAYOUTS[processes()]:
            net, optimizer = built(layout, seed=99)
            found = load_sharded(path, model=net)
            load_optimizers(found, model=net, optimizers=[optimizer])
            net.load_state_dict(found["state_dict"])  # as Lightning does after the strategy has loaded
            mine = whole(net, optimizer)
            if mine.keys() != truth.keys() or found["lr_schedulers"] != [{"last_epoch": 2}]:
                wrong.append(f"{path.name} as {layout}: other entries")
            wrong += [
                f"{path.name} as {layout}: {name}"
                for name in truth
                if mine[name].dtype != truth[name].dtype or not torch.equal(mine[name], truth[name])
            ]
            train(net, optimizer, steps=1)
    return {"wrong": wrong}


def gather(folder: Path) -> dict:
    """Write a single file from shards: what resumes anywhere, without the folder."""
    for layout in LAYOUTS[processes()]:
        net, optimizer = built(layout)
        train(net, optimizer)
        content, truth = checkpoint(net, optimizer), whole(net, optimizer)
        SafeCheckpointIO(sharded=False).save_together(content, folder / f"{layout}-{processes()}.file")
        if dist.get_rank() == 0:
            torch.save(truth, folder / f"{layout}-{processes()}.truth")
    return {}


def beside(folder: Path) -> dict:
    """Save in threads while the training's own messages go on; the second save waits for the first."""
    net, optimizer = built("fsdp")
    io = SafeCheckpointIO(asynchronous=True)
    for step in (2, 3, 4):
        train(net, optimizer)
        save_sharded(checkpoint(net, optimizer, step), folder / "beside" / f"step{step}.blocking")
        io.save_together(checkpoint(net, optimizer, step), folder / "beside" / f"step{step}.thread")
        train(net, optimizer, steps=3)
    io.teardown()
    return {}


def refuse(folder: Path) -> dict:
    """Try what must fail on every rank with one sentence."""
    net, optimizer = built("fsdp")
    path = save_sharded(checkpoint(net, optimizer), folder / "refused" / "a.ckpt")
    said = {"another network": sentence(lambda: load_sharded(path, model=built("fsdp", width=12)[0]))}
    if dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    large = checkpoint(*built("fsdp", width=60_000))
    said["disk"] = sentence(lambda: save_sharded(large, path))
    bad = {**checkpoint(net, optimizer), "callbacks": {"x": object()}}
    said["not plain"] = sentence(lambda: save_sharded(bad, path))
    dist.barrier()
    if dist.get_rank() == 0:
        shard_file = path / "__1_0.distcp"
        content = bytearray(shard_file.read_bytes())
        content[len(content) // 2] ^= 1
        shard_file.write_bytes(content)
    dist.barrier()
    said["damaged"] = sentence(lambda: load_sharded(path, model=net))
    return said


def sentence(call: Callable[[], Any]) -> str:
    """Return type and text of what `call` raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def die(folder: Path) -> dict:
    """Kill rank 1 as soon as its part of a large folder has begun to grow."""
    net, optimizer = built("fsdp")
    path = save_sharded(checkpoint(net, optimizer), folder / "killed" / "last.ckpt")
    large = checkpoint(*built("fsdp", width=400_000), step=3)
    if dist.get_rank() == 1:
        threading.Thread(target=kill_when, args=(path.parent,), daemon=True).start()
    save_sharded(large, path)
    return {}


def kill_when(folder: Path) -> None:
    while not any(part.stat().st_size > 1_000_000 for part in folder.glob("*.tmp/__1_*")):
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for act in sys.argv[2:]:
        result = globals()[act](target)
        name = f"{act}-{dist.get_world_size()}-{dist.get_rank()}.json"
        (target / name).write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # nothing is left to do, and leaving torch takes a second
