"""Sums and kept values of several processes are those of one."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from core.metrics.sums import gathered, processes, summed


def _rank(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    own = {"hits": torch.tensor([1.0 + rank, 0.1], dtype=torch.float64), "seen": torch.tensor(rank)}
    total = summed(own)
    torch.save([total, own, gathered({"rank": rank}), processes()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_every_process_has_the_sums_of_all_and_the_values_in_the_order_of_ranks(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(2, str(tmp_path)), nprocs=2)

    for rank in range(2):
        total, own, values, world = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert total["hits"].tolist() == [3.0, 0.2] and total["seen"].item() == 1
        assert own["hits"].tolist() == [1.0 + rank, 0.1], "the process's own sums were changed"
        assert values == [{"rank": 0}, {"rank": 1}] and world == 2


def test_one_process_alone_has_its_own() -> None:
    own = {"hits": torch.ones(2)}

    assert torch.equal(summed(own)["hits"], own["hits"])
    assert gathered(3) == [3] and processes() == 1
