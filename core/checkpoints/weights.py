"""Loading weights into a network, whatever file, folder, card or hub repository they come from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.backbones.adapters import is_adapter
from core.backbones.merging import merged_state
from core.checkpoints.files import read_checkpoint, read_outline
from core.checkpoints.huggingface import (
    HUB_ID,
    INDEX,
    OLDER,
    WEIGHTS,
    fetch_hub,
    read_config,
    read_folder,
    read_safetensors,
)
from core.checkpoints.keymap import KeyMap, computed_names
from core.checkpoints.manifest import is_sharded
from core.checkpoints.networks import home_of, instantiate, network_config, system_module
from core.errors import UserError, did_you_mean

__all__ = [
    "Weights",
    "WeightsReport",
    "load_weights",
    "network_from",
    "read_weights",
    "refuse_misfits",
    "refuse_non_finite",
]

_TORCH_FILES = (".ckpt", ".pt", ".pth", ".bin")
_STATES = ("state_dict", "model", "model_state_dict")  # where a training's file keeps its weights
_SETTINGS = "_metadata"  # entry that names a network's constructor arguments in some programs' files
_NOTES = ("licences", "sources", "step", "recipe", "adapter")  # what a safetensors file says beside tensors
_SHOWN = 8  # names listed in a message; the rest are counted


@dataclass(frozen=True)
class Weights:
    """Tensors from somewhere, and what came with them.

    Args:
        source: As the user named it.
        path: The file or folder they were read from.
        format: `checkpoint`, `state_dict`, `safetensors` or `folder`.
        layout: `own` names, `official` names, or None where the file does not say.
        tensors: Name to tensor, on the CPU.
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


@dataclass(frozen=True)
class WeightsReport:
    """What `load_weights` did.

    Args:
        source: As the user named it.
        format: `checkpoint`, `state_dict`, `safetensors` or `folder`.
        initialised: Our names that were left as the network was initialised.
        ignored: Names in the source that the network does not have.
        metadata: `licences`, `sources`, `path`, `layout`, and `step` where known.
    """

    source: str
    format: str
    initialised: list[str]
    ignored: list[str]
    metadata: dict[str, Any]
    loaded: int = 0

    def __str__(self) -> str:
        text = f"weights: {self.loaded} tensors from {self.source} ({self.metadata.get('layout')} layout)"
        if self.initialised:
            text += f"; initialised anew: {_listed(self.initialised)}"
        if self.ignored:
            text += f"; left out: {_listed(self.ignored)}"
        return text


def load_weights(
    source: str | os.PathLike[str] | Weights,
    network: nn.Module,
    *,
    reinitialise: Sequence[str] = (),
    prefix: str = "network.",
) -> WeightsReport:
    """Fill `network` with the weights of `source`, strictly, and say what was done.

    Args:
        source: An own checkpoint (file or folder), a torch file, a `.safetensors` file, a folder in the hub's
            layout, the name of a weights card, or a hub id `owner/name[@revision]`.
        network: Materialised; official names and layouts go through `KEY_MAP` of its module.
        reinitialise: Patterns (`*` and `?`) of parameter names that stay as the network was initialised,
            whether the source lacks them, holds them in another shape, or holds them; also of names in the
            source to leave out.
        prefix: What our checkpoints put before the names of the network's parameters.

    Raises:
        UserError: If the source is not found or damaged, parameters are missing, unknown or of another
            shape, a pattern fits nothing, or weights are not finite; the sentence lists them.
    """
    weights = source if isinstance(source, Weights) else read_weights(source, prefix=prefix)
    computed = computed_names(network)
    own = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if isinstance(tensor, Tensor) and name not in computed
    }
    if any(tensor.is_meta for tensor in own.values()):
        raise ValueError(
            "the network is on the meta device: materialise and initialise it before loading weights"
        )
    patterns = [reinitialise] if isinstance(reinitialise, str) else list(reinitialise)
    if "adapter" in weights.record:
        raise UserError(
            f"weights {weights.source} are an adapter, which goes on top of others: give those, and "
            f"model.adaptation core.adaptation.SavedAdapter with path {weights.source}"
        )
    if not any(is_adapter(name) for name in own):
        weights = replace(weights, tensors=merged_state(weights.tensors))
    tensors, layout, unknown = _in_own_names(weights, network, own)
    if layout == "own":
        # A part of the network may know how weights of a network with other inputs serve it.
        for place, module in network.named_modules():
            if callable(fit := getattr(module, "fit_weights", None)):
                tensors = fit(tensors, prefix=f"{place}." if place else "", described=weights.network)
    fresh = {name for name in own if _fits(name, patterns)}
    unknown += [name for name in tensors if name not in own and name not in computed]
    ignored = sorted(name for name in unknown if _fits(name, patterns))
    tied = set(getattr(network, "tied_parameters", ()))
    unknown = sorted(set(unknown) - set(ignored) - tied)
    missing = sorted(set(own) - set(tensors) - fresh - tied)
    chosen = {name: tensor for name, tensor in tensors.items() if name in own and name not in fresh}
    shapes = [
        f"{name} is {tuple(tensor.shape)} there and {tuple(own[name].shape)} here"
        for name, tensor in sorted(chosen.items())
        if tensor.shape != own[name].shape
    ]
    refuse_misfits(weights, network, missing=missing, unknown=unknown, shapes=shapes)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in [*own, *ignored]):
            raise UserError(
                f"reinitialise names '{pattern}', which fits no parameter{did_you_mean(pattern, own)}"
            )
    refuse_non_finite(weights, chosen, parameters={name for name, _ in network.named_parameters()})
    network.load_state_dict(chosen, strict=False)  # completeness was checked above, with the patterns
    metadata = {
        "path": str(weights.path),
        "layout": layout,
        "licences": list(weights.record.get("licences") or []),
        "sources": list(weights.record.get("sources") or []),
    }
    if "step" in weights.record:
        metadata["step"] = weights.record["step"]
    return WeightsReport(
        source=weights.source,
        format=weights.format,
        initialised=sorted(fresh),
        ignored=ignored,
        metadata=metadata,
        loaded=len(chosen),
    )


def network_from(source: str | os.PathLike[str] | Weights, *, system: str | None = None) -> nn.Module:
    """Build the network that `source` describes and fill it with its weights.

    Args:
        source: As for `load_weights`; it must carry a configuration: one of our checkpoints or exports, or
            a folder, card or hub repository with a `config.json`.
        system: Name (`ttm`) or module of the system, where the configuration does not tell.

    Raises:
        UserError: If there is no configuration, its system is not known, or the weights do not fit.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    if weights.network is not None:
        network = instantiate(weights.network, where=weights.source)
    elif weights.config is not None:
        module = system_module(system or weights.system or str(weights.config.get("model_type", "")))
        network = module.from_official_config(weights.config)
    else:
        raise UserError(
            f"{weights.source} does not say which network it belongs to: it needs a config.json beside it, "
            "or a recipe that builds the network and names it under model.weights"
        )
    load_weights(weights, network)
    return network


def read_weights(
    source: str | os.PathLike[str], *, prefix: str = "network.", outline: bool = False
) -> Weights:
    """Find and read `source` (see `load_weights`), on the CPU.

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
        record = {"licences": [card.licence], "sources": [card.source], **weights.record}
        return _with(weights, record=record)
    if found := HUB_ID.fullmatch(name):
        weights = _from_folder(name, fetch_hub(found["repo"], revision=found["revision"]))
        return _with(weights, record={"sources": [name], **weights.record})
    raise UserError(
        f"weights '{name}' are neither a file, a folder, a weights card (`dfm checkpoint fetch` lists "
        f"them) nor a hub id owner/name{did_you_mean(name, card_names())}"
    )


def _from_file(name: str, path: Path, *, prefix: str) -> Weights:
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        config = read_config(path.parent) if path.name == "model.safetensors" else None
        return _described(name, path, "safetensors", tensors, config, metadata)
    return _from_content(name, path, read_checkpoint(path, settings=_SETTINGS), prefix=prefix)


def _from_content(name: str, path: Path, content: Mapping[str, Any], *, prefix: str) -> Weights:
    record = content.get("domainfm") if isinstance(content.get("domainfm"), dict) else {}
    assert isinstance(record, dict)
    state = next((content[key] for key in _STATES if isinstance(content.get(key), dict)), content)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    inside = {_stripped(key, prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if inside:
        record = {**record, "step": content.get("global_step", 0)}
        network = network_config(record.get("config")) or network_config(record)
        system = record.get("key_map")
        return Weights(
            name,
            path,
            "checkpoint",
            "own",
            inside,
            network=network,
            system=system,
            record=record,
            prefix=prefix,
        )
    if not tensors:
        raise UserError(
            f"{name} holds no tensors under '{prefix}' nor a plain state_dict; it is no file of weights"
        )
    config = read_config(path.parent) or _settings(content) or _settings(state)
    return Weights(name, path, "state_dict", None, _unwrapped(tensors), config=config)


def _settings(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the constructor arguments that neuraloperator puts beside the tensors, or None."""
    found = content.get(_SETTINGS)
    if not isinstance(found, dict) or "_name" not in found:
        return None
    plain = {key: value for key, value in found.items() if not key.startswith("_")}
    return {**plain, "model_type": str(found["_name"]).lower()}


def _from_folder(name: str, path: Path, *, system: str | None = None) -> Weights:
    single = [file for file in path.iterdir() if file.suffix in _TORCH_FILES]
    if len(single) == 1 and not any((path / usual).is_file() for usual in (WEIGHTS, INDEX, OLDER)):
        weights = _from_file(name, single[0], prefix="network.")  # under its authors' own name for it
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
        record = json.loads(metadata.get("domainfm", "{}"))
    except json.JSONDecodeError:
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


def _in_own_names(
    weights: Weights, network: nn.Module, own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str, list[str]]:
    """Return the tensors under our names, the layout they had, and the names that the key map lacks."""
    key_map = _key_map(network, weights)
    layout = weights.layout
    if layout is None:
        shared = len(set(weights.tensors) & set(own))
        renamed = {name for name in weights.tensors if key_map is not None and key_map.our_name(name) in own}
        layout = "own" if key_map is None or shared > len(renamed) else "official"
    if layout == "own" or key_map is None:
        return dict(weights.tensors), layout, []
    given = {name: tensor for name, tensor in weights.tensors.items() if not key_map.ignores(name)}
    known = {name: tensor for name, tensor in given.items() if key_map.our_name(name) is not None}
    key_map = key_map.described_by(weights.config or weights.network)
    return key_map.from_official(known), layout, sorted(set(given) - set(known))


def _key_map(network: nn.Module, weights: Weights) -> KeyMap | None:
    """Return the network's key map; where its system has several layouts, the one that knows most names."""
    home = home_of(network)
    if not hasattr(home, "key_maps"):
        return getattr(home, "KEY_MAP", None)
    maps: tuple[KeyMap, ...] = home.key_maps(network)
    return max(maps, key=lambda known: sum(known.our_name(name) is not None for name in weights.tensors))


def refuse_misfits(
    weights: Weights, network: nn.Module, *, missing: list[str], unknown: list[str], shapes: list[str]
) -> None:
    """Refuse weights with parameters that are missing, unknown or of another shape, in one sentence."""
    wrong = []
    if missing:
        wrong.append(f"{len(missing)} missing there ({_listed(missing)})")
    if unknown:
        wrong.append(f"{len(unknown)} unknown here ({_listed(unknown)})")
    if shapes:
        wrong.append(f"{len(shapes)} of another shape ({_listed(shapes)})")
    if wrong:
        raise UserError(
            f"weights {weights.source} do not fit {type(network).__name__}, parameters {', '.join(wrong)}; "
            "choose the matching size, or name what shall start anew by pattern under model.reinitialise"
        )


def refuse_non_finite(weights: Weights, tensors: Mapping[str, Tensor], *, parameters: set[str]) -> None:
    """Refuse NaN anywhere and infinity in parameters; a buffer may be an additive mask of minus infinity."""
    bad = []
    for name, tensor in tensors.items():
        if tensor.is_floating_point() or tensor.is_complex():
            probe = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # float8 has no comparisons
            if bool(torch.isnan(probe).any()) or (
                name in parameters and not bool(torch.isfinite(probe).all())
            ):
                bad.append(name)
    if bad:
        raise UserError(
            f"weights {weights.source} hold values that are not finite in {_listed(sorted(bad))}; the run "
            "that wrote them diverged: use an earlier checkpoint"
        )


def _stripped(key: str, prefix: str) -> str:
    return key[len(prefix) :].replace("_orig_mod.", "")  # torch.compile wraps modules under this name


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off what DistributedDataParallel (`module.`) and torch.compile (`_orig_mod.`) put before names."""
    while tensors and all(key.startswith(("module.", "_orig_mod.")) for key in tensors):
        tensors = {key.partition(".")[2]: value for key, value in tensors.items()}
    return {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _with(weights: Weights, *, record: dict[str, Any]) -> Weights:
    return replace(weights, record=record)


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
