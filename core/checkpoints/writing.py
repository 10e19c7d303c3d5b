"""Writing a checkpoint folder: shards, plain part and manifest under a temporary name, then one rename."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, DefaultSavePlanner, FileSystemWriter, save
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.tensor import DTensor

from core.checkpoints.archive import HashingWriter, disk_sentence, versions, write_checkpoint
from core.checkpoints.manifest import file_hash, write_manifest
from core.errors import UserError
from core.files import fsync_folder, put_in_place

__all__ = ["PLAIN", "agree", "clean_name", "failure", "filled", "split", "write_folder_checkpoint"]

PLAIN = "plain.pt"
"""The file of a folder with everything that is not a shard."""

# whose tensors are sharded or large, down to how many levels: what is deeper is a module's extra state
_SECTIONS = {"state_dict": 1, "current_model_state": 1, "optimizer_states": 9}
_MARK = "dfm:tensor"  # stands in the plain part where a tensor was, with the tensor's name among DCP's
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # what compiling and recomputing put into names


def write_folder_checkpoint(
    tensors: dict[str, Tensor],
    rest: Mapping[str, Any],
    path: Path,
    *,
    group: dist.ProcessGroup | None = None,
    mesh: Mapping[str, int] | None = None,
    alone: bool = False,
) -> Path:
    """Write what `split` returns as the folder `path`, whole or not at all; every rank of `group` calls it.

    Args:
        tensors: DTensors are written shard by shard; others must be equal on all ranks, and are written once.
        rest: All that is not a tensor, equal on all ranks.
        path: The folder; an earlier checkpoint there, folder or file, is replaced in one step.
        group: The processes that save; None is the default group, or this process where there is none.
        mesh: Sizes of the mesh's axes, for the manifest.
        alone: Whether this process writes by itself though there is a group.

    Raises:
        TypeError: If something in it is not plain (see `core.checkpoints.plain`).
        UserError: If the disk is full or refuses, on every rank; `path` holds what it held before.
    """
    shared = dist.is_available() and dist.is_initialized() and not alone
    rank, world = (dist.get_rank(group), dist.get_world_size(group)) if shared else (0, 1)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    error: Exception | None = None
    if rank == 0:
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        except OSError as raised:
            error = UserError(disk_sentence(raised, path))
    [temporary] = agree(error, group, alone=alone, say=temporary)[:1]
    writer = _Writer(temporary)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
            save(tensors, storage_writer=writer, planner=planner, process_group=group, no_dist=not shared)
        fsync_folder(temporary)
    except (Exception, CheckpointException) as raised:  # DCP's own is no Exception
        error = RuntimeError(f"{path} was not written: {failure(raised)}")
        error.__cause__ = raised
        if writer.files.error is not None:
            own = sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in tensors.values())
            error = UserError(disk_sentence(writer.files.error, path, written=writer.files.written, of=own))
            error.__cause__ = raised
    try:
        every = agree(error, group, alone=alone, say=writer.files.digests)
        error = None
        if rank == 0:
            try:
                _finish(temporary, path, rest, every, world=world, mesh=mesh)
            except OSError as raised:
                error = UserError(disk_sentence(raised, path))
            except Exception as raised:
                error = raised
        agree(error, group, alone=alone)
    except BaseException:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def split(checkpoint: Mapping[str, Any], *, clean: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors that torch.distributed.checkpoint writes, by name, and the rest with marks for them.

    They are those of weights and optimiser state, and every DTensor wherever it stands.

    Args:
        checkpoint: As Lightning makes it.
        clean: Whether names of parameters lose what wrappers put into them.
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, where: str, depth: int) -> Any:
        """Go down; plain tensors are taken up to `depth` levels below, DTensors everywhere."""
        if isinstance(value, Tensor):
            if depth < 0 and not isinstance(value, DTensor):
                return value
            tensors[where] = value.detach()
            return {_MARK: where}
        if isinstance(value, Mapping):
            keys = {key: clean_name(key) if clean and isinstance(key, str) else key for key in value}
            return {keys[key]: walk(item, f"{where}/{keys[key]}", depth - 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [walk(item, f"{where}/{i}", depth - 1) for i, item in enumerate(value)]
            return tuple(items) if isinstance(value, tuple) else items
        return value

    rest = {key: walk(value, str(key), _SECTIONS.get(str(key), -1)) for key, value in checkpoint.items()}
    return tensors, rest


def filled(value: Any, destination: Callable[[str], Tensor]) -> Any:
    """Return `value` with every mark replaced by what `destination` gives for its name."""
    if isinstance(value, dict):
        if value.keys() == {_MARK}:
            return destination(value[_MARK])
        return {key: filled(item, destination) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(filled(item, destination) for item in value)
    return value


def clean_name(name: str) -> str:
    """Return a parameter's name without what wrappers of modules put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def failure(raised: BaseException) -> str:
    """Return the text of an error, for DCP's of many ranks that of the first."""
    if isinstance(raised, CheckpointException) and raised.failures:
        raised = next(iter(raised.failures.values()))[0]
    return f"{raised}" or type(raised).__name__


def agree(
    error: Exception | None, group: dist.ProcessGroup | None, *, alone: bool = False, say: Any = None
) -> list[Any]:
    """Wait for every rank of `group`, and return what each says; if one failed, fail on all.

    Raises:
        UserError: Where the failure of any rank is the user's, or the system's; the same sentence everywhere.
        Exception: A rank's own otherwise, and a `RuntimeError` on the ranks that had none.
    """
    own = None if error is None else (isinstance(error, UserError), f"{error}" or type(error).__name__)
    every = [(own, say)]
    if dist.is_available() and dist.is_initialized() and not alone and dist.get_world_size(group) > 1:
        every = [(None, None)] * dist.get_world_size(group)
        dist.all_gather_object(every, (own, say), group=group)
    failed = [failure for failure, _ in every if failure is not None]
    for mistake, sentence in failed:
        if mistake:
            raise UserError(sentence) from error
    if error is not None:
        raise error
    if failed:
        raise RuntimeError(f"another process failed: {failed[0][1]}")
    return [said for _, said in every]


def _finish(
    temporary: Path,
    path: Path,
    rest: Mapping[str, Any],
    digests: list[dict[str, tuple[str, int]]],
    *,
    world: int,
    mesh: Mapping[str, int] | None,
) -> None:
    """Write the plain part and the manifest, and give the folder its name."""
    files = {name: digest for own in digests for name, digest in own.items()}
    write_checkpoint(dict(rest), temporary / PLAIN)
    files[PLAIN] = file_hash(temporary / PLAIN)
    for name, (_, size) in files.items():
        if not (temporary / name).is_file() or (temporary / name).stat().st_size != size:
            raise UserError(
                f"{path}: the file {name} of another process cannot be seen from the first one; checkpoints "
                "of several machines need a folder that all of them share (--runs)"
            )
    facts = {
        "step": rest.get("global_step"),
        "epoch": rest.get("epoch"),
        "world": world,
        "mesh": dict(mesh or {}),
        "versions": versions(),
    }
    write_manifest(temporary, facts, files)
    put_in_place(temporary, path)


class _HashingFiles(FileSystem):
    """DCP's files, each hashed while it is written; keeps the first error of the disk, which torch hides."""

    def __init__(self) -> None:
        self.digests: dict[str, tuple[str, int]] = {}
        self.error: OSError | None = None
        self.written = 0

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[Any, None, None]:
        """Yield a stream; `mode` is always for writing here."""
        out: HashingWriter | None = None
        try:
            with open(path, mode) as file:
                out = HashingWriter(cast(IO[bytes], file))
                yield out
            self.digests[Path(path).name] = (out.sha.hexdigest(), out.written)
        except OSError as error:
            self.error = self.error or error
            raise
        finally:
            if out is not None:
                self.written += out.written
                self.error = self.error or out.error

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Rename a file that was written."""
        super().rename(path, new_path)
        self.digests[Path(new_path).name] = self.digests.pop(Path(path).name)


class _Writer(FileSystemWriter):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fs = self.files = _HashingFiles()

    def storage_meta(self) -> StorageMeta:
        """Say nothing of the machine: DCP would store the temporary path."""
        return StorageMeta()
