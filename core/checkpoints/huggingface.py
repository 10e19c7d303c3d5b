"""The folder layout of the Hugging Face hub: `config.json` beside `model.safetensors` or its shards.

Older repositories hold `pytorch_model.bin` in its place; it is read, never written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.checkpoints.files import read_checkpoint
from core.errors import UserError
from core.files import replacing

__all__ = [
    "HUB_ID",
    "export_state",
    "fetch_hub",
    "read_config",
    "read_folder",
    "read_safetensors",
    "write_folder",
    "write_json",
    "write_weights",
]

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
"""A repository of the hub with an optional revision (branch, tag or commit): `owner/name@revision`."""

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OLDER = "pytorch_model.bin"  # what the hub held before safetensors


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors (on the CPU) and the metadata of one `.safetensors` file.

    Raises:
        UserError: If the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return tensors, dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise UserError(f"weights {path} do not exist; check the path") from error
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"weights {path} are damaged or no safetensors file ({error}); fetch them anew"
        ) from error


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the content of `config.json` in `folder`, or None without one.

    Raises:
        UserError: If it is no JSON object.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no JSON ({error}); fetch or export it anew") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds a {type(config).__name__}, not an object of settings")
    return config


def read_folder(
    folder: str | os.PathLike[str],
) -> tuple[dict[str, Tensor], dict[str, Any] | None, dict[str, str]]:
    """Return tensors, configuration (None without a `config.json`) and metadata of a folder in the hub's
    layout.

    Raises:
        UserError: If there are no weights, or a shard is missing, damaged or without the tensors the index
        promises.
    """
    folder = Path(folder)
    config = read_config(folder)
    if (folder / WEIGHTS).is_file():
        tensors, metadata = read_safetensors(folder / WEIGHTS)
        return tensors, config, metadata
    if not (folder / INDEX).is_file():
        if (folder / OLDER).is_file():
            content = read_checkpoint(folder / OLDER)
            return {name: t for name, t in content.items() if isinstance(t, Tensor)}, config, {}
        raise UserError(
            f"{folder} holds neither {WEIGHTS} nor {INDEX} nor {OLDER}; give the folder that holds the "
            "weights"
        )
    try:
        where: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / INDEX} is no index of shards; fetch it anew") from error
    tensors, metadata = {}, {}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard:
            raise UserError(f"{folder / INDEX} names the shard '{shard}', which lies outside of the folder")
        part, metadata = read_safetensors(folder / shard)
        tensors.update(part)
    if lost := sorted(set(where) - set(tensors)):
        raise UserError(
            f"{folder}: its index names {len(lost)} tensors that no shard holds, such as {lost[0]}"
        )
    return tensors, config, metadata


def write_folder(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write `config.json` and `model.safetensors` into `folder`, each whole or not at all, and return the
    weights file.

    Args:
        folder: Made if it is missing.
        tensors: Must not share memory (see `export_state`).
        config: Written as JSON.
        metadata: Goes as JSON text under the key `domainfm` into the weights file, so that it stands alone.

    Raises:
        UserError: If the disk is full or refuses.
    """
    folder = Path(folder)
    path = write_weights(folder / WEIGHTS, tensors, metadata)
    write_json(folder / "config.json", config)
    return path


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None) -> Path:
    """Write one safetensors file, whole or not at all; see `write_folder`, which adds its configuration."""
    from safetensors.torch import save_file

    notes = {"format": "pt"}
    if metadata is not None:
        notes["domainfm"] = json.dumps(dict(metadata), sort_keys=True)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(whole, temporary, metadata=notes)
    except OSError as error:
        raise UserError(f"cannot write weights to {path.parent}: {error.strerror or error}") from error
    except Exception as error:
        if "I/O error" not in str(error) and "os error" not in str(error):
            raise
        raise UserError(f"cannot write weights to {path.parent}: {error}") from error
    return path


def write_json(path: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration as JSON, whole or not at all."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def export_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of `network` without the tied names, which safetensors refuses.

    `network.tied_parameters`, if there is one, lists the names that share memory with another name and are
    left out.

    Raises:
        ValueError: If names that are not listed share memory; they are named.
    """
    tied = set(getattr(network, "tied_parameters", ()))
    state = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if isinstance(tensor, Tensor) and name not in tied
    }
    owners: dict[tuple[torch.device, int], str] = {}
    for name, tensor in state.items():
        if tensor.numel() == 0:
            continue
        place = (tensor.device, tensor.untyped_storage().data_ptr())
        if place in owners:
            raise ValueError(
                f"{owners[place]} and {name} share memory; name one of them in "
                f"{type(network).__name__}.tied_parameters, so that it is left out of exported files"
            )
        owners[place] = name
    return state


def fetch_hub(repo: str, *, revision: str | None = None) -> Path:
    """Return the local folder of a hub repository's configuration and weights, fetched if not there yet.

    Raises:
        UserError: If the repository, the revision or the connection is missing; one sentence with what to do.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    name = f"{repo}@{revision}" if revision else repo
    patterns = ["config.json", "*.safetensors", "*.safetensors.index.json"]
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
        if any(folder.glob("*.safetensors")):
            return folder
        return Path(snapshot_download(repo, revision=revision, allow_patterns=["config.json", OLDER]))
    except hub.GatedRepoError as error:
        raise UserError(
            f"hub repository {name} asks for an agreement; accept it on its page and log in"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise UserError(
            f"hub repository {repo} has no revision '{revision}'; see its page for those there"
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise UserError(f"there is no hub repository {repo}, or it is private; check owner/name") from error
    except hub.LocalEntryNotFoundError as error:
        raise UserError(
            f"hub repository {name} is not on this machine and the hub cannot be reached; connect, or copy "
            "its folder with config.json and model.safetensors here and give the folder's path"
        ) from error
    except (hub.HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"hub repository {name} cannot be fetched: {reason}") from error
