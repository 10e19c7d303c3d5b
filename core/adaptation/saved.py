"""Adapters in files of their own: what was trained beside frozen weights, and a checksum of those weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.adaptation.freezing import FrozenInEvaluation
from core.backbones.adapters import LowRankUpdate, is_adapter, merge, reset_with_adapters
from core.checkpoints.exchange import write_safetensors
from core.checkpoints.sources import read_safetensors, read_weights
from core.errors import UserError, listed

__all__ = ["SavedAdapter", "export_adapter", "kept_names", "load_adapter", "save_adapter"]

_FORMAT = 1
_SHOWN = 4  # names listed in a message


@dataclass(frozen=True)
class SavedAdapter(FrozenInEvaluation):
    """An adapter from a file is put on top of the weights that it was trained on.

    Args:
        path: The file, as `save_adapter` or `dfm checkpoint export --adapter` writes it.
        merge: Whether it is folded into the weights, all of which are trained then; otherwise training goes
            on with the adapter alone.
        check: Whether other weights than those that it was trained on are refused.
    """

    path: str
    merge: bool = False
    check: bool = True

    @property
    def adds(self) -> bool:
        """True unless it is merged."""
        return not self.merge

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Load the adapter; called once, with the weights in place."""
        names = set(load_adapter(network, self.path, check=self.check))
        if self.merge:
            merge(network)
            return
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in names)

    def _frozen(self, network: nn.Module, trained: Sequence[str] = ()) -> list[nn.Module]:
        return [] if self.merge else super()._frozen(network)


def kept_names(network: nn.Module) -> list[str]:
    """Return the names of what an adapter's file holds: the trained parameters, and the buffers beside them.

    It is empty where every parameter is trained, and where none is.
    """
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    if len(trained) == len(list(network.parameters())):
        return []
    homes = {name.rpartition(".")[0] for name in trained}
    saved = set(network.state_dict())
    beside = {
        name for name, _ in network.named_buffers() if name.rpartition(".")[0] in homes and name in saved
    }
    return sorted(trained | beside)


def save_adapter(
    network: nn.Module, path: str | os.PathLike[str], *, notes: Mapping[str, Any] | None = None
) -> Path:
    """Write what is trained in `network` as one `.safetensors` file, and return its path.

    `notes` on licences, sources and the like go into the file.

    Raises:
        UserError: If everything or nothing is trained, or the disk is full.
    """
    return _write(Path(path), network.state_dict(), kept_names(network), notes or {}, "the network")


def export_adapter(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write what a run trained beside frozen weights from its checkpoint, file or folder, to the
    `.safetensors` file `out`, and return its path.

    Raises:
        UserError: If the checkpoint is missing or of a run that trained everything, or the file exists.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out} must end in .safetensors for an adapter")
    if out.exists():
        raise UserError(f"{out} exists already; give a new name under --out")
    weights = read_weights(source)
    record = weights.record
    notes = {key: record[key] for key in ("licences", "sources", "step", "recipe") if record.get(key)}
    return _write(out, weights.tensors, record.get("trained") or [], notes, weights.source)


def load_adapter(network: nn.Module, path: str | os.PathLike[str], *, check: bool = True) -> list[str]:
    """Put the adapter of a file on top of the weights of `network`, in place, and return the names it fills.

    The network is not adapted yet; with `check` other weights than those it was trained on are refused.

    Raises:
        UserError: If the file is missing, damaged or no adapter, or fits another network or other weights.
    """
    tensors, metadata = read_safetensors(path)
    try:
        head = json.loads(metadata.get("domainfm", "{}")).get("adapter")
    except json.JSONDecodeError:
        head = None
    if head is None:
        raise UserError(f"{path} is no adapter; `dfm checkpoint export --adapter` makes one of a checkpoint")
    if head["format"] > _FORMAT:
        raise UserError(f"{path} has the adapter format {head['format']}; update domainfm to read it")
    kind, state = type(network).__name__, network.state_dict()
    if any(map(is_adapter, state)):
        raise UserError(f"{kind} is adapted already; merge that before {path} is loaded")
    _refuse_misfits(path, kind, tensors, state)
    if check and _has_weights(state):
        base = {name: tensor for name, tensor in state.items() if name not in tensors}
        if fingerprint(base, dtypes=head["dtypes"]) != head["base"]:
            raise UserError(
                f"{path} was trained on other weights than {kind} holds; name those under model.weights, or "
                "load it all the same with check=false"
            )
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "lora_a":
            magnitude = f"{layer}.lora_magnitude" in tensors
            rank = len(tensor)
            scale = float(tensors[f"{layer}.lora_scale"])
            LowRankUpdate.install(network.get_submodule(layer), rank, alpha=scale * rank, magnitude=magnitude)
    network.load_state_dict(tensors, strict=False)
    if any(map(is_adapter, tensors)):
        reset_with_adapters(network)
    return list(tensors)


def fingerprint(state: Mapping[str, Tensor], *, dtypes: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, shapes and values, each value in the type that `dtypes` names for it."""
    sha = hashlib.sha256()
    for name in sorted(state):
        kind = dtypes.get(name, dtypes.get("", str(state[name].dtype)))
        tensor = state[name].detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.to(getattr(torch, kind.removeprefix("torch.")))
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _write(
    path: Path, state: Mapping[str, Tensor], names: Iterable[str], notes: Mapping[str, Any], source: str
) -> Path:
    kept = set(names)
    if not kept:
        raise UserError(
            f"{source} keeps no weights frozen, so there is no adapter to write; export all of it instead"
        )
    base = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor) and name not in kept}
    kinds = {name: str(tensor.dtype) for name, tensor in base.items() if tensor.is_floating_point()}
    common = max(kinds.values(), key=list(kinds.values()).count, default="torch.float32")
    dtypes = {"": common, **{name: kind for name, kind in kinds.items() if kind != common}}
    adapter = {"format": _FORMAT, "base": fingerprint(base, dtypes=dtypes), "dtypes": dtypes}
    tensors = {name: state[name] for name in sorted(kept)}
    return write_safetensors(path, tensors, notes={**notes, "adapter": adapter})


def _has_weights(state: Mapping[str, Tensor]) -> bool:
    """Tell whether the weights are in place here: of many processes the first alone has them at first."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    return first and not any(tensor.is_meta for tensor in state.values())


def _refuse_misfits(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    wrong = []
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf in ("lora_a", "lora_b"):
            weight = state.get(f"{layer}.weight")
            size = None if weight is None else (weight[0].numel() if leaf == "lora_a" else len(weight))
            fits = size == tensor.shape[1 if leaf == "lora_a" else 0]
        else:
            fits = is_adapter(name) or (name in state and state[name].shape == tensor.shape)
        if not fits:
            wrong.append(name)
    if wrong:
        raise UserError(
            f"{path} does not fit {kind}: {listed(wrong, _SHOWN)} are absent or of another size; "
            "load it on the network that it was trained on"
        )
