"""Which sizes a mesh may have: one sentence for each that no run can have, before any process starts."""

from __future__ import annotations

import math
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from apps.music.batch import TokenBatch
from core.backbones.llama import llama_tiny
from core.data.packing import PackedBatch
from core.errors import UserError
from core.strategies import Mesh
from core.strategies.axes import AXES, coordinates, resolve
from core.strategies.parallelise import blocks_of, cut_matrices

ONES = dict.fromkeys(AXES, 1)


@given(
    sizes=st.tuples(*[st.integers(1, 4)] * len(AXES)).map(lambda sizes: dict(zip(AXES, sizes, strict=True))),
    automatic=st.sampled_from([None, *AXES]),
    rank=st.integers(0, 255),
)
@settings(max_examples=50, deadline=None)
def test_sizes_fill_the_processes_and_every_rank_has_its_own_place(sizes, automatic, rank):
    world = math.prod(sizes.values())
    given = {**sizes, automatic: "auto"} if automatic else sizes
    place = coordinates(sizes, rank % world)

    assert resolve(given, world) == sizes
    assert all(0 <= place[axis] < sizes[axis] for axis in AXES)
    number = 0
    for axis in AXES:
        number = number * sizes[axis] + place[axis]
    assert number == rank % world


@pytest.mark.parametrize(
    ("sizes", "world", "said"),
    [
        ({"shard": 3}, 2, "shard 3 needs 3 devices and the run has 2 processes .*--trainer.devices=3"),
        ({"shard": 2}, 4, "shard 2 makes 2 and the run has 4 processes .* or auto for one of them"),
        (
            {"shard": "auto", "tensor": 3},
            4,
            "shard is auto, but tensor 3 makes 3, which does not divide the 4",
        ),
        ({"shard": "auto", "tensor": "auto"}, 4, "shard and tensor are auto; only one"),
        ({"replicate": 0}, 1, "replicate is 0; it must be a whole number from 1, or auto"),
        ({"pipeline": 2}, 2, "pipeline is 2 and must be 1; the axes that can be larger are replicate, shard"),
        ({"expert": 4}, 4, "expert is 4 and must be 1"),
    ],
)
def test_impossible_sizes_are_refused_in_one_sentence(sizes, world, said):
    with pytest.raises(UserError, match=said):
        resolve({**ONES, **sizes}, world)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sequence": True}, "sequence needs tensor above 1"),
        ({"offload": True}, "offload needs shard above 1"),
        ({"tensor": 2, "context": 2, "sequence": True}, "both cut the sequence"),
        ({"checkpointing": "some"}, "checkpointing is 'some'; it must be one of none, selective, full"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        Mesh(**options)


def test_a_trainer_with_other_devices_than_the_sizes_is_refused_before_any_process_starts(monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"tensor 4 needs 4 devices and the run has 2 processes"):
        pl.Trainer(accelerator="cpu", devices=2, strategy=Mesh(tensor=4), logger=False)


def test_a_network_without_blocks_is_refused_by_name():
    with pytest.raises(UserError, match="shard 2 needs the network's repeated layers and Linear names none"):
        blocks_of(nn.Linear(2, 2), "shard 2")


@pytest.fixture
def two_ranks():
    """The first of two processes, the other of which is not there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"ffn": 49}, "tensor is 2, which does not divide Llama's ffn, 49"),
        ({"ffn": 48, "heads": 3, "width": 48}, "does not divide Llama's heads, 3"),
    ],
)
def test_matrices_that_cannot_be_cut_evenly_are_refused(two_ranks, sizes, said):
    with pytest.raises(UserError, match=said):
        cut_matrices(llama_tiny(**sizes), two_ranks, sequence=False)


@pytest.fixture
def along_the_sequence(monkeypatch):
    """A strategy that cuts rows over two ranks, before they start."""
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    mesh = Mesh(tensor=2, sequence=True)
    pl.Trainer(accelerator="cpu", devices=2, strategy=mesh, logger=False)
    return mesh


def packed(rows: int) -> PackedBatch:
    ids = torch.zeros(rows, 15, dtype=torch.int64)
    return PackedBatch(ids, ids, ids, ((15,),) * rows)


@pytest.mark.parametrize("batch", [packed(1), TokenBatch(packed(2).ids, packed(2).ids, packed(2).ids)])
def test_rows_that_cannot_be_cut_evenly_are_refused_by_every_rank(along_the_sequence, batch):
    with pytest.raises(UserError, match="a row of 15 tokens cannot be cut into 2 equal slices"):
        along_the_sequence.batch_to_device(batch, torch.device("cpu"))


def test_packed_rows_are_cut_where_they_stand_one_behind_another(along_the_sequence):
    assert len(along_the_sequence.batch_to_device(packed(2), torch.device("cpu"))) == 2


@pytest.mark.parametrize("checkpointing", ["full", "selective"])
def test_recomputing_changes_nothing_in_one_process(rows_module, checkpointing):
    row = {"network": "llama", "precision": "64-true", "steps": 3}

    kept = rows_module.run({**row, "strategy": {}})
    again = rows_module.run({**row, "strategy": {"checkpointing": checkpointing}})

    assert again["losses"] == kept["losses"]
    assert all(torch.equal(again["weights"][name], value) for name, value in kept["weights"].items())


@pytest.mark.parametrize(("rank", "device"), [(0, "cpu"), (1, "meta")])
def test_only_the_first_process_gives_its_network_memory_where_weights_are_spread(repository, rank, device):
    from core.cli.lightning_cli import meta_network
    from core.strategies.launch import RankInfo

    info = RankInfo(
        launcher="first", rank=rank, world=2, local_world=2, address="localhost", port=1, serves=False
    )
    config = parsed(repository / "configs")

    changed = meta_network(config, info)

    network = changed["model.init_args.network"]
    if rank:
        assert {p.device.type for p in network.parameters()} == {device}
    else:
        assert changed is config


def parsed(configs: Path):
    import yaml
    from jsonargparse import ArgumentParser
    from lightning.pytorch.strategies import Strategy

    from core.task import Task

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    parser.add_argument("--trainer.strategy", type=Strategy)
    recipe = yaml.safe_load((configs / "timeseries/ttm/demo.yaml").read_text())
    hardware = yaml.safe_load((configs / "trainer/fsdp.yaml").read_text())
    return parser.parse_object({"model": recipe["model"], "trainer": hardware["trainer"]})
