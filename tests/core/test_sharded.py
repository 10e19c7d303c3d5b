"""Checkpoint folders in one process: whole or absent, verified, safe to read, saved beside the training."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, StorageMeta

import core.checkpoints.io as saving
import core.files
from core.checkpoints.files import clean_leftovers, damage, newest_valid, read_checkpoint, write_checkpoint
from core.checkpoints.folders import INDEX, consolidate, outline, read_index
from core.checkpoints.io import SafeCheckpointIO
from core.checkpoints.manifest import file_hash, is_sharded, read_manifest, write_manifest
from core.checkpoints.sharded import load_optimizers, load_sharded, named_state
from core.errors import UserError
from tests.helpers.sharded_saving import save_sharded

ROOT = Path(__file__).parents[2]


def network(width: int = 6, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3))
    net[2].bias.requires_grad_(False)
    groups = [{"params": [net[2].weight, net[2].bias]}, {"params": [*net[0].parameters()], "lr": 0.1}]
    return net, torch.optim.AdamW(groups, lr=0.01)


def trained(steps: int = 2, **size: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    net, optimizer = network(**size)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
    return net, optimizer


def checkpoint(step: int = 2, **size: int) -> dict:
    net, optimizer = trained(step, **size)
    return {
        "epoch": 1,
        "global_step": step,
        "state_dict": {**net.state_dict(), "extra._extra_state": {"mean": torch.tensor([1.0, 2.0])}},
        "optimizer_states": [named_state(net, optimizer)],
        "callbacks": {"Streams": {"ranks": [(1, (2, 3), None)]}},
        "domainfm": {"format": 1, "licences": ["MIT"]},
    }


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def flip_a_bit(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_disk():
    """Files cannot grow beyond 600 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_gives_back_what_was_written(tmp_path):
    content = checkpoint()

    path = save_sharded(content, tmp_path / "step2.ckpt", mesh={"shard": 1})

    assert names(tmp_path) == ["step2.ckpt"]
    assert damage(path) is None
    read = consolidate(path)
    assert same(read["state_dict"], dict(content["state_dict"]))
    assert read["callbacks"] == content["callbacks"]
    assert sorted(read["optimizer_states"][0]["state"]) == [0, 2, 3], "numbers as torch has them; 1 is frozen"
    manifest = read_manifest(path)
    assert (manifest["step"], manifest["world"], manifest["mesh"]) == (2, 1, {"shard": 1})
    assert set(manifest["files"]) == {".metadata", "__0_0.distcp", "plain.pt"}
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in path.iterdir()), "no machine's path"


def test_an_outline_names_shapes_and_reads_no_shard(tmp_path):
    path = save_sharded(checkpoint(), tmp_path / "a.ckpt")
    (path / "__0_0.distcp").unlink()

    said = outline(path)

    assert said["state_dict"]["0.weight"].is_meta
    assert said["state_dict"]["0.weight"].shape == (6, 4)
    assert said["state_dict"]["extra._extra_state"]["mean"].tolist() == [1.0, 2.0]
    assert said["domainfm"]["licences"] == ["MIT"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_network_and_optimiser_are_filled_from_a_folder_and_from_a_file(tmp_path, kind):
    net, optimizer = trained()
    content = {"global_step": 2, "state_dict": net.state_dict(), "domainfm": {"format": 1}}
    path = tmp_path / "a.ckpt"
    if kind == "folder":
        save_sharded({**content, "optimizer_states": [named_state(net, optimizer)]}, path)
    else:
        write_checkpoint({**content, "optimizer_states": [optimizer.state_dict()]}, path)

    other, its = network(seed=9)
    found = load_sharded(path, model=other)
    load_optimizers(found, model=other, optimizers=[its])

    assert same(dict(other.state_dict()), dict(net.state_dict()))
    assert same(its.state_dict(), optimizer.state_dict())
    assert found["state_dict"]["0.weight"].data_ptr() == other[0].weight.data_ptr(), "filled in place"


def test_a_folder_written_alone_from_a_numbered_optimiser_fills_a_named_one(tmp_path):
    net, optimizer = trained()
    content = {"state_dict": net.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    path = save_sharded(content, tmp_path / "a.ckpt", alone=True)

    other, its = network(seed=9)
    load_optimizers(load_sharded(path, model=other), model=other, optimizers=[its])

    assert same(its.state_dict(), optimizer.state_dict())


def test_names_do_not_depend_on_wrappers_of_modules(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

    net, optimizer = trained()
    wrapped = nn.Sequential(Wrapped(net[0]), net[1], net[2])
    content = {"state_dict": wrapped.state_dict(), "optimizer_states": [named_state(wrapped, optimizer)]}
    path = save_sharded(content, tmp_path / "a.ckpt")
    other, its = network(seed=9)

    load_optimizers(load_sharded(path, model=other), model=other, optimizers=[its])

    assert same(dict(other.state_dict()), dict(net.state_dict()))
    assert same(its.state_dict()["state"], optimizer.state_dict()["state"])
    again = nn.Sequential(Wrapped(network(seed=8)[0][0]), *network(seed=8)[0][1:])
    again.load_state_dict(load_sharded(path, model=again)["state_dict"])
    assert torch.equal(again[0]._orig_mod.weight, net[0].weight)


def test_another_networks_folder_is_refused_in_one_sentence(tmp_path):
    path = save_sharded(checkpoint(), tmp_path / "a.ckpt")

    with pytest.raises(
        UserError, match=r"a\.ckpt belongs to another network .*0\.weight is \(6, 4\) there and"
    ):
        load_sharded(path, model=network(width=7)[0])
    with pytest.raises(UserError, match=r"2\.weight is unknown here"):
        load_sharded(path, model=nn.Sequential(*network()[0][:2]))


def test_other_parameter_groups_are_refused_in_one_sentence(tmp_path):
    net, optimizer = trained()
    content = {"state_dict": net.state_dict(), "optimizer_states": [named_state(net, optimizer)]}
    found = load_sharded(save_sharded(content, tmp_path / "a.ckpt"), model=net)

    with pytest.raises(UserError, match="other parameters in its groups"):
        load_optimizers(found, model=net, optimizers=[torch.optim.AdamW(net.parameters())])


# what is damaged


@settings(max_examples=25, deadline=None)
@given(
    at=st.floats(0, 0.9999), which=st.sampled_from([".metadata", "__0_0.distcp", "plain.pt", "manifest.json"])
)
def test_any_flipped_bit_in_any_file_is_refused(tmp_path_factory, at, which):
    path = save_sharded({"state_dict": {"a": torch.ones(50)}}, tmp_path_factory.mktemp("bit") / "a.ckpt")
    flip_a_bit(path / which, at)

    assert damage(path) is not None
    with pytest.raises(UserError, match=r"a\.ckpt (is damaged|has a damaged|is a folder without|has the)"):
        read_checkpoint(path)


@pytest.mark.parametrize("which", [".metadata", "__0_0.distcp", "plain.pt"])
def test_a_missing_or_cut_file_is_named(tmp_path, which):
    path = save_sharded(checkpoint(), tmp_path / "a.ckpt")
    (path / which).write_bytes((path / which).read_bytes()[:-1])
    assert f"{which} has " in str(damage(path))

    (path / which).unlink()

    assert damage(path) == f"is damaged ({which} is missing)"


def test_a_damaged_newest_folder_is_reported_in_one_line_and_the_one_before_is_used(tmp_path):
    write_checkpoint(checkpoint(2), tmp_path / "step00000002.ckpt")
    for step in (9, 10):
        save_sharded(checkpoint(2) | {"global_step": step}, tmp_path / f"step{step:08d}.ckpt")
    (tmp_path / "last.ckpt").symlink_to("step00000010.ckpt")
    flip_a_bit(tmp_path / "step00000010.ckpt" / "__0_0.distcp")
    lines: list[str] = []

    assert newest_valid(tmp_path, report=lines.append) == tmp_path / "step00000009.ckpt"
    assert len(lines) == 1
    assert "fails its SHA-256 check); using step00000009.ckpt instead" in lines[0]

    (tmp_path / "step00000009.ckpt" / "manifest.json").unlink()
    assert newest_valid(tmp_path, report=lines.append) == tmp_path / "step00000002.ckpt"


def test_a_newer_folder_format_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("core.checkpoints.manifest.FORMAT", 2)
    path = save_sharded(checkpoint(), tmp_path / "a.ckpt")
    monkeypatch.undo()

    with pytest.raises(UserError, match="has the folder format 2 and this version of domainfm reads up to 1"):
        read_checkpoint(path)


# what an index may not hold


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_an_index_that_would_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / INDEX).write_bytes(pickle.dumps(Evil()))

    with pytest.raises(UserError, match=r"names \w+\.system, which is no part of a checkpoint's index"):
        read_index(tmp_path / INDEX)

    assert names(tmp_path) == [INDEX]


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"ctorch\nload\n(S'x'\ntR.",
        b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR.",
        b"cbuiltins\ngetattr\n(ctorch\nfloat32\nS'x'\ntR.",
        b"\x80\x04\x8c\x05torch\x8c\x0cdistributed.X\x93.",
        b"cpathlib\nPosixPath\n(S'x'\ntR.",
        b"I1\n.",
        b"",
        b"\x80\x04}\x94.",
        b"P5\n.",
        # Attributes set on a class would stay, whatever else is refused.
        b"ctorch.distributed.checkpoint.metadata\nStorageMeta\n(N(dS'poisoned'\nI1\nstb.",
    ],
)
def test_whatever_else_a_pickle_says_is_refused(tmp_path, code):
    (tmp_path / INDEX).write_bytes(code)

    with pytest.raises(
        UserError, match=r"no part of a checkpoint's index|is no index of a sharded checkpoint"
    ):
        read_index(tmp_path / INDEX)
    assert not hasattr(StorageMeta, "poisoned")


def test_an_index_may_not_point_out_of_its_folder_nor_hold_objects(tmp_path):
    path = save_sharded(checkpoint(), tmp_path / "a.ckpt")
    index = read_index(path / INDEX)
    key = next(iter(index.storage_data))

    index.storage_data[key].relative_path = "../secret"
    (path / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(UserError, match=r"points to '\.\./secret', which is no file of this checkpoint"):
        read_index(path / INDEX)

    index.storage_data[key] = "../secret"
    (path / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(UserError, match="is no index of a sharded checkpoint"):
        read_index(path / INDEX)

    index.storage_data.clear()
    index.state_dict_metadata["object"] = BytesStorageMetadata()
    (path / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(UserError, match="lists object, which is no tensor"):
        read_index(path / INDEX)


# kills, full disks, replacing


def test_a_process_killed_while_it_saves_leaves_the_old_checkpoint_and_a_leftover_that_is_cleaned(tmp_path):
    path = save_sharded(checkpoint(), tmp_path / "last.ckpt")
    program = """
        import sys, torch
        from tests.helpers.sharded_saving import save_sharded
        parts = {f"network.{i}": torch.zeros(1_000_000) for i in range(80)}
        print("go", flush=True)
        save_sharded({"global_step": 3, "state_dict": parts}, sys.argv[1])
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    until = time.monotonic() + 30
    while not any(part.stat().st_size > 1_000_000 for part in tmp_path.glob("*.tmp/*")):
        assert time.monotonic() < until, "the write never started"
        time.sleep(0.001)
    assert clean_leftovers(tmp_path) == [], "the folder of a living writer must stay"
    process.kill()
    process.wait()

    assert read_checkpoint(path)["global_step"] == 2
    assert newest_valid(tmp_path) == path
    leftovers = list(tmp_path.glob("*.tmp"))
    assert len(leftovers) == 1
    assert not is_sharded(leftovers[0])
    assert clean_leftovers(tmp_path) == leftovers
    assert names(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("there", ["folder", "file", "link to a folder", "link to a file"])
def test_a_folder_takes_the_place_of_whatever_has_its_name(tmp_path, monkeypatch, there, swap):
    if not swap:
        monkeypatch.setattr(core.files, "_exchange", lambda one, other: False)
    path, target = tmp_path / "last.ckpt", tmp_path / "step00000001.ckpt"
    write = save_sharded if "folder" in there else write_checkpoint
    write(checkpoint(1), target if "link" in there else path)
    if "link" in there:
        path.symlink_to(target.name)

    save_sharded(checkpoint(2), path)

    assert not path.is_symlink()
    assert read_checkpoint(path)["global_step"] == 2
    assert names(tmp_path) == ["last.ckpt", *(["step00000001.ckpt"] if "link" in there else [])]
    assert "link" not in there or read_checkpoint(target)["global_step"] == 1

    write_checkpoint(checkpoint(3), path)

    assert path.is_file()
    assert read_checkpoint(path)["global_step"] == 3


def test_a_kill_between_the_two_renames_of_a_file_system_without_exchange_loses_nothing(
    tmp_path, monkeypatch
):
    path = save_sharded(checkpoint(1), tmp_path / "last.ckpt")
    monkeypatch.setattr(core.files, "_exchange", lambda one, other: False)
    rename = os.rename

    def struck(source, target):
        if str(target).endswith("last.ckpt"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", struck)
    with pytest.raises(KeyboardInterrupt):
        save_sharded(checkpoint(2), path)
    monkeypatch.undo()
    assert not path.exists()

    assert newest_valid(tmp_path) == path
    assert read_checkpoint(path)["global_step"] == 1


def test_a_full_disk_leaves_the_earlier_folder_and_no_partial_one(tmp_path, small_disk):
    earlier = save_sharded(checkpoint(1), tmp_path / "step1.ckpt")
    big = {"global_step": 2, "state_dict": {"a": torch.zeros(1_000_000)}}

    for target in (tmp_path / "step2.ckpt", earlier):
        with pytest.raises(UserError, match=r"disk full: 0\.\d of 4\.0 MB written to .*\.ckpt"):
            save_sharded(big, target)

    assert names(tmp_path) == ["step1.ckpt"]
    assert read_checkpoint(earlier)["global_step"] == 1


def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(UserError, match=r"cannot write .*file/a.ckpt: "):
        save_sharded(checkpoint(), tmp_path / "file" / "a.ckpt")


def test_what_is_not_plain_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="a checkpoint holds only numbers"):
        save_sharded(checkpoint() | {"callbacks": {"x": object()}}, tmp_path / "a.ckpt")

    assert names(tmp_path) == []


# beside the training


@pytest.fixture
def slow_disk(monkeypatch):
    """Hold every write of the saver until the event is set."""
    free = threading.Event()
    write = saving.write_folder_checkpoint

    def held(*args, **kwargs):
        assert free.wait(20)
        return write(*args, **kwargs)

    monkeypatch.setattr(saving, "write_folder_checkpoint", held)
    return free


def test_what_a_thread_writes_is_what_was_there_when_the_save_began(tmp_path, slow_disk):
    net, optimizer = trained()
    content = checkpoint()
    content |= {"state_dict": net.state_dict(), "optimizer_states": [named_state(net, optimizer)]}
    save_sharded(content, tmp_path / "blocking.ckpt")
    saver = SafeCheckpointIO(asynchronous=True, sharded=True)

    saver.save_checkpoint(content, tmp_path / "beside.ckpt")
    net(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    content["callbacks"]["Streams"]["ranks"].append("later")
    slow_disk.set()
    saver.wait()

    assert same(consolidate(tmp_path / "beside.ckpt"), consolidate(tmp_path / "blocking.ckpt"))


def test_a_single_file_is_written_beside_the_training_too(tmp_path):
    content = checkpoint()
    saver = SafeCheckpointIO(asynchronous=True, sharded=False)

    saver.save_checkpoint(content, tmp_path / "a.ckpt")
    saver.wait()

    assert same(read_checkpoint(tmp_path / "a.ckpt"), {**content, "state_dict": dict(content["state_dict"])})


def test_one_is_written_at_a_time_and_the_old_one_goes_when_the_new_one_is_whole(tmp_path, slow_disk):
    saver = SafeCheckpointIO(asynchronous=True, sharded=True)
    old = save_sharded(checkpoint(1), tmp_path / "step1.ckpt")

    saver.save_checkpoint(checkpoint(2), tmp_path / "step2.ckpt")
    saver.afterwards(lambda: core.files.remove(old))

    assert damage(old) is None
    assert names(tmp_path) == ["step1.ckpt"]
    slow_disk.set()
    saver.save_checkpoint(checkpoint(3), tmp_path / "step3.ckpt")
    assert not old.exists(), "the second save waits for the first and for what was to follow it"
    saver.teardown()
    assert names(tmp_path) == ["step2.ckpt", "step3.ckpt"]


def test_a_disk_that_fills_up_in_the_thread_is_said_at_the_next_save_and_the_old_one_stays(
    tmp_path, small_disk
):
    saver = SafeCheckpointIO(asynchronous=True, sharded=True)
    old = save_sharded(checkpoint(1), tmp_path / "step1.ckpt")

    saver.save_checkpoint({"state_dict": {"a": torch.zeros(1_000_000)}}, tmp_path / "step2.ckpt")
    saver.afterwards(lambda: core.files.remove(old))
    with pytest.raises(UserError, match=r"disk full: 0\.\d of 4\.0 MB written to .*step2\.ckpt"):
        saver.save_checkpoint(checkpoint(3), tmp_path / "step3.ckpt")

    saver.save_checkpoint(checkpoint(3), tmp_path / "step3.ckpt")
    saver.teardown()
    assert names(tmp_path) == ["step1.ckpt", "step3.ckpt"]


def test_an_error_of_the_thread_does_not_hide_the_one_that_ends_the_run(tmp_path, small_disk, capsys):
    saver = SafeCheckpointIO(asynchronous=True, sharded=True)
    saver.save_checkpoint({"state_dict": {"a": torch.zeros(1_000_000)}}, tmp_path / "step2.ckpt")

    with pytest.raises(KeyError, match="the cause"):
        try:
            raise KeyError("the cause")
        finally:
            saver.teardown()

    assert "the last checkpoint was not written: disk full" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x05\x06" + 18 * b"\0"])
def test_a_shard_that_holds_something_else_is_refused_in_one_sentence(tmp_path, content):
    path = save_sharded(checkpoint(), tmp_path / "a.ckpt")
    shard = path / "__0_0.distcp"
    shard.write_bytes(content.ljust(shard.stat().st_size, b"\1"))
    manifest = read_manifest(path)
    files = {name: file_hash(path / name) for name in manifest.pop("files")}
    write_manifest(path, manifest, files)

    with pytest.raises(UserError, match=r"a\.ckpt cannot be read \(.*\); use an earlier one"):
        read_checkpoint(path)
