"""Checkpoint files: whole or absent, verified, plain."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.checkpoints import files
from core.checkpoints.files import (
    clean_leftovers,
    damage,
    newest_valid,
    read_checkpoint,
    write_checkpoint,
)
from core.checkpoints.plain import plain
from core.errors import UserError


def checkpoint(step: int = 1, size: int = 1000) -> dict:
    weights = torch.randn(size, generator=torch.Generator().manual_seed(step))
    return {"global_step": step, "state_dict": {"network.weight": weights}, "domainfm": {"format": 1}}


def flip_a_bit(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Point:
    where: Path
    size: np.float64


Pair = namedtuple("Pair", "a b")


def test_read_gives_back_what_was_written(tmp_path):
    write_checkpoint(checkpoint(3), tmp_path / "a.ckpt")

    read = read_checkpoint(tmp_path / "a.ckpt")

    assert read["global_step"] == 3
    assert torch.equal(read["state_dict"]["network.weight"], checkpoint(3)["state_dict"]["network.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_the_last_bytes_are_the_checksum_of_those_before(tmp_path):
    import hashlib

    path = write_checkpoint(checkpoint(), tmp_path / "a.ckpt")

    content, _, digest = path.read_bytes().rpartition(b"DFM-SHA256:")
    assert hashlib.sha256(content).hexdigest() == digest.decode()
    assert torch.load(path, weights_only=True)["global_step"] == 1, "torch alone must read the file too"


@settings(max_examples=40, deadline=None)
@given(at=st.floats(0, 0.9999))
def test_any_flipped_bit_is_refused(tmp_path_factory, at):
    path = write_checkpoint(checkpoint(), tmp_path_factory.mktemp("bit") / "a.ckpt")
    flip_a_bit(path, at)

    assert damage(path) is not None
    with pytest.raises(UserError, match=r"a\.ckpt (fails its SHA-256 check|has a damaged)"):
        read_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 2000, -1, -60, -76, -500])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = write_checkpoint(checkpoint(), tmp_path / "a.ckpt")
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(UserError, match=r"is empty|is truncated or no checkpoint|has a damaged or truncated"):
        read_checkpoint(path)


def test_a_file_of_plain_torch_is_checked_by_its_records(tmp_path):
    path = tmp_path / "plain.pt"
    torch.save(checkpoint(), path)
    assert read_checkpoint(path)["global_step"] == 1

    flip_a_bit(path)

    assert damage(path) is not None
    with pytest.raises(UserError, match="is damaged"):
        read_checkpoint(path)


def test_a_newer_format_is_refused_in_one_sentence(tmp_path):
    path = write_checkpoint({"domainfm": {"format": files.FORMAT + 1}}, tmp_path / "a.ckpt")

    with pytest.raises(UserError, match=r"has format 2 and this version of domainfm reads up to format 1"):
        read_checkpoint(path)


def test_an_older_file_without_our_mark_is_read(tmp_path):
    path = write_checkpoint({"state_dict": {}}, tmp_path / "a.ckpt")

    assert read_checkpoint(path) == {"state_dict": {}}


def test_python_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "evil.ckpt"
    torch.save({"call": os.system}, path)

    with pytest.raises(UserError, match=r"holds the Python object \w+\.system, and only tensors"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.ckpt does not exist; check the path"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_a_full_disk_leaves_earlier_files_and_no_partial_one(tmp_path):
    earlier = write_checkpoint(checkpoint(1), tmp_path / "step1.ckpt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    try:
        with pytest.raises(UserError, match=r"disk full: 0\.\d of 4\.0 MB written to .*step2\.ckpt"):
            write_checkpoint(checkpoint(2, size=1_000_000), tmp_path / "step2.ckpt")
        with pytest.raises(UserError, match="disk full"):
            write_checkpoint(checkpoint(2, size=1_000_000), earlier)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)

    assert [path.name for path in tmp_path.iterdir()] == ["step1.ckpt"]
    assert read_checkpoint(earlier)["global_step"] == 1


def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(UserError, match=r"cannot write .*file/a.ckpt: "):
        write_checkpoint(checkpoint(), tmp_path / "file" / "a.ckpt")


def test_a_killed_write_leaves_the_old_file_and_a_leftover_that_is_cleaned(tmp_path):
    path = write_checkpoint(checkpoint(1), tmp_path / "last.ckpt")
    program = """
        import sys, torch
        from core.checkpoints.files import write_checkpoint
        parts = {f"network.{i}": torch.zeros(1_000_000) for i in range(80)}
        print("go", flush=True)
        write_checkpoint({"global_step": 2, "state_dict": parts}, sys.argv[1])
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    process.stdout.readline()
    until = time.monotonic() + 20
    while not any(leftover.stat().st_size > 1000 for leftover in tmp_path.glob("*.tmp")):
        assert time.monotonic() < until, "the write never started"
        time.sleep(0.001)
    assert clean_leftovers(tmp_path) == [], "the file of a living writer must stay"
    process.kill()
    process.wait()

    assert read_checkpoint(path)["global_step"] == 1
    assert newest_valid(tmp_path) == path
    leftovers = list(tmp_path.glob("*.tmp"))
    assert len(leftovers) == 1
    assert clean_leftovers(tmp_path) == leftovers
    assert [left.name for left in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_leftover_of_an_earlier_process_with_our_id_is_cleaned(tmp_path):
    ours = tmp_path / f"a.ckpt.{os.getpid()}.tmp"
    ours.touch()
    assert clean_leftovers(tmp_path) == []

    os.utime(ours, (1_000_000, 1_000_000))

    assert clean_leftovers(tmp_path) == [ours]


def test_a_damaged_newest_is_reported_in_one_line_and_the_one_before_is_used(tmp_path):
    for step in (2, 9, 10):
        write_checkpoint(checkpoint(step), tmp_path / f"step{step:08d}.ckpt")
    (tmp_path / "last.ckpt").symlink_to("step00000010.ckpt")
    (tmp_path / "step00000011.ckpt.12.tmp").write_bytes(b"half")
    flip_a_bit(tmp_path / "step00000010.ckpt")
    lines: list[str] = []

    found = newest_valid(tmp_path, report=lines.append)

    assert found == tmp_path / "step00000009.ckpt"
    assert len(lines) == 1
    assert lines[0].endswith("step00000010.ckpt fails its SHA-256 check; using step00000009.ckpt instead")


def test_the_newest_is_chosen_by_step_and_not_by_time(tmp_path):
    for step in (12, 7, 3):
        write_checkpoint(checkpoint(step), tmp_path / f"step{step:08d}.ckpt")
    write_checkpoint(checkpoint(20), tmp_path / "best.ckpt")

    assert newest_valid(tmp_path) == tmp_path / "best.ckpt"
    (tmp_path / "best.ckpt").unlink()
    assert newest_valid(tmp_path) == tmp_path / "step00000012.ckpt"


def test_no_valid_file_gives_none_and_says_so(tmp_path):
    lines: list[str] = []
    assert newest_valid(tmp_path, report=lines.append) is None
    assert lines == []

    (tmp_path / "last.ckpt").symlink_to("gone.ckpt")
    (tmp_path / "step1.ckpt").write_bytes(b"")

    assert newest_valid(tmp_path, report=lines.append) is None
    assert lines == [f"checkpoint {tmp_path / 'step1.ckpt'} is empty; no other is left in {tmp_path}"]


def test_plain_converts_what_weights_only_refuses(tmp_path):
    state = {
        "metric": np.float64(0.5),
        "array": np.arange(3, dtype=">i4"),
        "names": np.array(["a", "b"]),
        "point": Point(Path("x/y"), np.float64(2)),
        "colour": Colour.RED,
        "queue": defaultdict(list, a=[np.int64(3)]),
        "pair": Pair(1, np.bool_(True)),
        "ordered": OrderedDict(a=1),
        3: frozenset({1}),
    }

    read = read_checkpoint(write_checkpoint(state, tmp_path / "a.ckpt"))

    assert torch.equal(read.pop("array"), torch.arange(3, dtype=torch.int32))
    assert read == {
        "metric": 0.5,
        "names": ["a", "b"],
        "point": {"where": "x/y", "size": 2.0},
        "colour": "RED",
        "queue": {"a": [3]},
        "pair": (1, True),
        "ordered": {"a": 1},
        3: {1},
    }
    assert type(read["metric"]) is float


@pytest.mark.parametrize(
    "thing",
    [torch.nn.ReLU(), slice(1), np.datetime64(1, "ns"), np.array([None]), np.ones(2, np.longdouble), open],
)
def test_what_cannot_be_plain_is_refused_with_its_path(thing):
    with pytest.raises(TypeError, match=r"^checkpoint\['callbacks'\]\[1\]\.state is a .*: a checkpoint"):
        plain({"callbacks": [0, SimpleNamespace(state=thing)]}, "checkpoint")


def test_a_row_of_a_large_tensor_does_not_carry_the_whole(tmp_path):
    path = write_checkpoint({"row": torch.zeros(1000, 1000)[3]}, tmp_path / "a.ckpt")

    assert path.stat().st_size < 10_000


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
nested = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner), max_leaves=12
)


@settings(max_examples=50, deadline=None)
@given(obj=nested)
def test_plain_leaves_plain_things_as_they_are(obj):
    assert plain(obj) == obj


def test_reading_a_file_imports_neither_lightning_nor_what_folders_need():
    program = (
        "import sys, core.checkpoints.files, core.checkpoints.weights, core.checkpoints.sources;"
        "heavy = ('lightning', 'torch.distributed.checkpoint', 'pydantic');"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_lightning_saves_and_resumes_through_it(tmp_path):
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    from core.checkpoints.io import SafeCheckpointIO

    class Task(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = torch.nn.Linear(2, 1)

        def training_step(self, batch, index):
            loss = self.network(batch).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    def trainer(epochs: int) -> pl.Trainer:
        kept = ModelCheckpoint(
            dirpath=tmp_path,
            filename="step{step:08d}",
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_last="link",
            save_top_k=2,
            monitor="loss",
        )
        return pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[kept],
            plugins=[SafeCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    loader = torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=4)
    trainer(3).fit(Task(), loader)

    assert (tmp_path / "last.ckpt").is_symlink()
    assert not Path(os.readlink(tmp_path / "last.ckpt")).is_absolute()
    assert len([path for path in tmp_path.glob("step*.ckpt")]) == 2, "the third was removed through us"
    assert all(damage(path) is None for path in tmp_path.glob("*.ckpt"))
    assert newest_valid(tmp_path) == (tmp_path / "last.ckpt").resolve()
    resumed = Task()
    again = trainer(4)
    again.fit(resumed, loader, ckpt_path=str(tmp_path / "last.ckpt"))
    assert again.global_step == 8
    assert zipfile.is_zipfile(tmp_path / "last.ckpt")


def test_removing_a_link_keeps_its_target(tmp_path):
    from core.checkpoints.io import SafeCheckpointIO

    target = write_checkpoint(checkpoint(), tmp_path / "step1.ckpt")
    (tmp_path / "last.ckpt").symlink_to("step1.ckpt")

    SafeCheckpointIO().remove_checkpoint(tmp_path / "last.ckpt")
    SafeCheckpointIO().remove_checkpoint(tmp_path / "last.ckpt")

    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("depth", [300, 5000])
def test_containers_without_end_are_refused_in_one_sentence(tmp_path, depth):
    path = tmp_path / "deep.pt"
    lists = b"]" * depth + b"a" * (depth - 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("deep/data.pkl", b"\x80\x02}X\x01\x00\x00\x00a" + lists + b"s.")
        archive.writestr("deep/version", b"3\n")
        archive.writestr("deep/byteorder", b"little")

    with pytest.raises(UserError, match=r"deep\.pt (holds containers within containers|is no checkpoint)"):
        read_checkpoint(path)
