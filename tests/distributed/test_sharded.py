"""Checkpoints of shards over several processes: written by some, read by others, nothing differs by a bit."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from core.checkpoints.files import clean_leftovers, newest_valid, read_checkpoint
from core.checkpoints.folders import consolidate
from core.checkpoints.manifest import read_manifest

SCRIPT = Path(__file__).with_name("sharded_ranks.py")


@pytest.fixture(scope="module")
def ranks() -> ModuleType:
    """`sharded_ranks.py`, to act in this process."""
    spec = importlib.util.spec_from_file_location("sharded_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["sharded_ranks"] = module
    spec.loader.exec_module(module)
    return module


def start(folder: Path, world: int, *acts: str) -> tuple[list[int], str]:
    """Act in `world` processes; return their exit codes and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    place |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    processes, logs = [], []
    for rank in range(world):
        logs.append(folder / f"rank{rank}.log")
        with logs[-1].open("w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(SCRIPT), str(folder), *acts],
                    env={**os.environ, **place, "RANK": str(rank)},
                    stdout=log,
                    stderr=log,
                )
            )
    end = time.monotonic() + 240
    try:
        codes = [process.wait(timeout=max(end - time.monotonic(), 1)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return codes, "\n".join(log.read_text()[-3000:] for log in logs)


def act(folder: Path, world: int, *acts: str) -> dict[str, list[dict]]:
    """Act in `world` processes that must succeed; return what each found."""
    codes, said = start(folder, world, *acts)
    assert codes == [0] * world, said
    return {
        name: [json.loads((folder / f"{name}-{world}-{rank}.json").read_text()) for rank in range(world)]
        for name in acts
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory, ranks) -> tuple[Path, dict[str, list[dict]]]:
    """What one process wrote, read by two, and what two wrote beside it."""
    folder = tmp_path_factory.mktemp("two")
    one_process_writes(ranks, folder)
    return folder, act(folder, 2, "load", "save", "beside", "refuse")


def one_process_writes(ranks: ModuleType, folder: Path) -> None:
    """A folder, and a file as a run without sharding has it."""
    ranks.save(folder)
    net, optimizer = ranks.built("plain")
    ranks.train(net, optimizer)
    content = {**ranks.checkpoint(net, optimizer), "optimizer_states": [optimizer.state_dict()]}
    from core.checkpoints.files import write_checkpoint

    write_checkpoint(content, folder / "single-1.file")
    torch.save(ranks.whole(net, optimizer), folder / "single-1.truth")


@pytest.mark.timeout(300)
def test_two_processes_go_on_from_what_one_wrote_file_or_folder(two):
    _, found = two
    assert found["load"] == [{"wrong": []}] * 2


@pytest.mark.timeout(300)
def test_one_process_goes_on_from_what_two_wrote(two, ranks):
    folder, _ = two
    assert sorted(path.stem for path in folder.glob("*-2.ckpt")) == ["fsdp-2", "plain-2", "tensor-2"]
    assert ranks.load(folder) == {"wrong": []}


@pytest.mark.timeout(300)
def test_each_process_writes_its_own_shards(two):
    folder, found = two
    manifest = read_manifest(folder / "fsdp-2.ckpt")
    assert (manifest["world"], manifest["mesh"]) == (2, {"all": 2})
    assert {"__0_0.distcp", "__1_0.distcp"} <= manifest["files"].keys()
    assert all(shares["fsdp"] > 0 for shares in found["save"])


@pytest.mark.timeout(300)
def test_a_folder_put_together_is_what_a_single_file_holds(two):
    folder, _ = two
    whole, single = consolidate(folder / "fsdp-2.ckpt"), read_checkpoint(folder / "single-1.file")
    assert whole.keys() == single.keys()
    assert whole["optimizer_states"][0]["param_groups"] == single["optimizer_states"][0]["param_groups"]
    assert whole["state_dict"].keys() == single["state_dict"].keys()
    assert whole["optimizer_states"][0]["state"].keys() == single["optimizer_states"][0]["state"].keys()


@pytest.mark.timeout(300)
def test_threads_write_what_blocking_saves_write(two):
    folder, _ = two
    for step in (2, 3, 4):
        blocking, thread = (
            consolidate(folder / "beside" / f"step{step}.{how}") for how in ("blocking", "thread")
        )
        assert all(torch.equal(blocking["state_dict"][k], v) for k, v in thread["state_dict"].items())
        for number, state in thread["optimizer_states"][0]["state"].items():
            other = blocking["optimizer_states"][0]["state"][number]
            assert all(torch.equal(other[key], value) for key, value in state.items())


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("what", "begins"),
    [
        (
            "another network",
            "UserError: checkpoint {path} belongs to another network than the recipe's: up.weight",
        ),
        ("disk", "UserError: disk full: "),
        ("damaged", "UserError: checkpoint {path} is damaged (__1_0.distcp fails its SHA-256 check)"),
    ],
)
def test_what_fails_on_one_process_is_the_same_sentence_on_all(two, what, begins):
    folder, found = two
    sentences = {said[what] for said in found["refuse"]}
    assert len(sentences) == 1
    assert sentences.pop().startswith(begins.format(path=folder / "refused" / "a.ckpt"))


@pytest.mark.timeout(300)
def test_a_defect_on_one_process_stops_all_and_leaves_nothing(two):
    folder, found = two
    first, second = (said["not plain"] for said in found["refuse"])
    assert first.startswith("TypeError: checkpoint['callbacks']['x'] is a builtins.object")
    assert second.startswith("RuntimeError: another process failed: checkpoint['callbacks']['x']")
    assert [path.name for path in (folder / "refused").iterdir()] == ["a.ckpt"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_killed_in_the_middle_of_its_shards_costs_nothing_that_was_there(tmp_path):
    codes, said = start(tmp_path, 2, "die")

    assert codes[1] == -9, said
    assert codes[0] != 0, "the other cannot have finished alone"
    folder = tmp_path / "killed"
    assert newest_valid(folder) == folder / "last.ckpt"
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 2
    clean_leftovers(folder)
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_four_two_and_one_process_go_on_from_each_others_checkpoints(tmp_path, ranks):
    one_process_writes(ranks, tmp_path)
    assert act(tmp_path, 4, "save", "load")["load"] == [{"wrong": []}] * 4
    assert act(tmp_path, 2, "load", "save")["load"] == [{"wrong": []}] * 2
    assert act(tmp_path, 4, "load", "gather")["load"] == [{"wrong": []}] * 4
    assert len([*tmp_path.glob("*.ckpt")]) == 1 + 3 + 5
    assert ranks.load(tmp_path) == {"wrong": []}
