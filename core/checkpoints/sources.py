"""Weights from wherever they lie: a checkpoint, a torch or safetensors file, a hub folder or id, a card."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from core.checkpoints.archive import stand_in
from core.checkpoints.files import read_checkpoint, read_outline
from core.checkpoints.manifest import is_sharded
from core.checkpoints.networks import network_config
from core.errors import UserError, did_you_mean

__all__ = ["Weights", "fetch_hub", "read_folder", "read_safetensors", "read_weights"]

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")  # owner/name@branch or commit
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OLDER = "pytorch_model.bin"  # what the hub held before safetensors
_TORCH_FILES = (".ckpt", ".pt", ".pth", ".bin")
_STATES = ("state_dict", "model", "model_state_dict")  # where a training's file keeps its weights
_SETTINGS = "_metadata"  # entry that names a network's constructor arguments in some programs' files
_NOTES = ("licences", "sources", "step", "recipe", "adapter")  # what a safetensors file says beside tensors


@dataclass(frozen=True)
class Weights:
    """Tensors from somewhere, and what came with them.

    Args:
        source: As the user named it.
        path: The file or folder they were read from.
        format: `checkpoint`, `state_dict`, `safetensors`, `folder` or `case`.
        layout: `own` names, `official` names, or None where the file does not say.
        tensors: Name to tensor.
        network: `class_path` and `init_args` of the network in our words, if known.
        config: The official configuration, if known.
        system: The module of the system (`apps.<domain>.models.<system>`), if known.
        record: What the file says about its licences, sources, step and training.
        prefix: What stood before the names in the file.
    """

    source: str
    path: Path
    format: str
    layout: str | None
    tensors: dict[str, Tensor] = field(repr=False)
    network: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    system: str | None = None
    record: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""


def read_weights(
    source: str | os.PathLike[str], *, prefix: str = "network.", outline: bool = False
) -> Weights:
    """Find and read `source` (see `core.checkpoints.weights.load_weights`), on the CPU.

    Args:
        source: What the user named.
        prefix: What our checkpoints put before the names of the network's parameters.
        outline: Whether the tensors of a checkpoint folder are only described, on the meta device.

    Raises:
        UserError: If it is not found, damaged, or no weights.
    """
    name = os.fspath(source)
    path = Path(name).expanduser()
    if path.is_dir() and is_sharded(path):
        content = read_outline(path) if outline else read_checkpoint(path, optimizers=False)
        return _from_content(name, path, content, prefix=prefix)
    if path.is_dir():
        return _from_folder(name, path)
    if path.is_file():
        return _from_file(name, path, prefix=prefix)
    if path.suffix in (*_TORCH_FILES, ".safetensors") or path.is_absolute() or name.startswith((".", "~")):
        raise UserError(f"weights {name} do not exist; check the path")
    from core.checkpoints.cards import card_names, fetched_folder, load_weights_card

    if name in card_names():
        card = load_weights_card(name)
        weights = _from_folder(name, fetched_folder(card), system=card.module)
        return replace(
            weights, record={"licences": [card.licence], "sources": [card.source], **weights.record}
        )
    if hub := _HUB_ID.fullmatch(name):
        weights = _from_folder(name, fetch_hub(hub["repo"], revision=hub["revision"]))
        return replace(weights, record={"sources": [name], **weights.record})
    raise UserError(
        f"weights '{name}' are neither a file, a folder, a weights card (`dfm checkpoint fetch` lists "
        f"them) nor a hub id owner/name{did_you_mean(name, card_names())}"
    )


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
        if other := stand_in(path):
            raise UserError(f"weights {path}: that {other}; fetch them anew") from error
        raise UserError(
            f"weights {path} are damaged or no safetensors file ({error}); fetch them anew"
        ) from error


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
    config = _read_config(folder)
    if (folder / _SINGLE).is_file():
        tensors, metadata = read_safetensors(folder / _SINGLE)
        return tensors, config, metadata
    if not (folder / _INDEX).is_file():
        if (folder / _OLDER).is_file():
            content = read_checkpoint(folder / _OLDER)
            return {name: t for name, t in content.items() if isinstance(t, Tensor)}, config, {}
        raise UserError(
            f"{folder} holds neither {_SINGLE} nor {_INDEX} nor {_OLDER}; give the folder that holds the "
            "weights"
        )
    try:
        shards: dict[str, str] = dict(_read_json(folder / _INDEX)["weight_map"])
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / _INDEX} is no index of shards; fetch it anew") from error
    tensors, metadata = {}, {}
    for shard in sorted(set(map(str, shards.values()))):
        if Path(shard).name != shard:
            raise UserError(f"{folder / _INDEX} names the shard '{shard}', which lies outside of the folder")
        part, metadata = read_safetensors(folder / shard)
        tensors.update(part)
    if lost := sorted(set(shards) - set(tensors)):
        raise UserError(
            f"{folder}: its index names {len(lost)} tensors that no shard holds, such as {lost[0]}"
        )
    return tensors, config, metadata


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
        return Path(snapshot_download(repo, revision=revision, allow_patterns=["config.json", _OLDER]))
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise UserError(f"{path} holds lists within lists without end; fetch or export it anew") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no JSON ({error}); fetch or export it anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not an object of settings")
    return content


def _read_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    return _read_json(path) if path.is_file() else None


def _from_file(name: str, path: Path, *, prefix: str = "network.") -> Weights:
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        config = _read_config(path.parent) if path.name == _SINGLE else None
        return _described(name, path, "safetensors", tensors, config, metadata)
    return _from_content(name, path, read_checkpoint(path, settings=_SETTINGS), prefix=prefix)


def _from_content(name: str, path: Path, content: Mapping[str, Any], *, prefix: str) -> Weights:
    record = _mapping(content.get("domainfm"))
    state = next((content[key] for key in _STATES if isinstance(content.get(key), dict)), content)
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    # torch.compile wraps modules under the name _orig_mod
    inside = {
        key.removeprefix(prefix).replace("_orig_mod.", ""): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    if inside:
        return Weights(
            name,
            path,
            "checkpoint",
            "own",
            inside,
            network=network_config(record.get("config")) or network_config(record),
            system=record.get("key_map"),
            record={**record, "step": content.get("global_step", 0)},
            prefix=prefix,
        )
    if not tensors:
        raise UserError(
            f"{name} holds no tensors under '{prefix}' nor a plain state_dict; it is no file of weights"
        )
    config = _read_config(path.parent) or _settings(content) or _settings(state)
    return Weights(name, path, "state_dict", None, _unwrapped(tensors), config=config)


def _settings(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the constructor arguments that neuraloperator puts beside the tensors, or None."""
    settings = content.get(_SETTINGS)
    if not isinstance(settings, dict) or "_name" not in settings:
        return None
    plain = {key: value for key, value in settings.items() if not key.startswith("_")}
    return {**plain, "model_type": str(settings["_name"]).lower()}


def _from_folder(name: str, path: Path, *, system: str | None = None) -> Weights:
    single = [file for file in path.iterdir() if file.suffix in _TORCH_FILES]
    if len(single) == 1 and not any((path / usual).is_file() for usual in (_SINGLE, _INDEX, _OLDER)):
        weights = _from_file(name, single[0])  # under its authors' own name for it
        return weights if system is None else replace(weights, system=system)
    tensors, config, metadata = read_folder(path)
    return _described(name, path, "folder", tensors, config, metadata, system=system)


def _described(
    name: str,
    path: Path,
    form: str,
    tensors: dict[str, Tensor],
    config: dict[str, Any] | None,
    metadata: Mapping[str, str],
    *,
    system: str | None = None,
) -> Weights:
    """Join tensors with what their file's metadata and the `config.json` say."""
    try:
        record = _mapping(json.loads(metadata.get("domainfm", "{}")))
    except (json.JSONDecodeError, RecursionError):
        record = {}
    network = record.get("network") or network_config((config or {}).get("domainfm"))
    official = record.get("config") or (config if config and "domainfm" not in config else None)
    layout = record.get("layout")
    return Weights(
        name,
        path,
        form,
        layout,
        tensors,
        network=network if layout == "own" or official is None else None,
        config=official,
        system=record.get("key_map") or system,
        record={key: record[key] for key in _NOTES if key in record},
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off what DistributedDataParallel (`module.`) and torch.compile (`_orig_mod.`) put before names."""
    while tensors and all(key.startswith(("module.", "_orig_mod.")) for key in tensors):
        tensors = {key.partition(".")[2]: value for key, value in tensors.items()}
    return {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}
