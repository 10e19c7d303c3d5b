"""The one strict loader: weights of any source into a network, through its system's key map.

`fit`, `predict`, `import`, `export` and the recorded parity cases all load by it, so that what the cases
prove is what runs use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.backbones.adapters import is_adapter, merged_state
from core.checkpoints.keymap import KeyMap, computed_names
from core.checkpoints.networks import home_of, instantiate, system_module
from core.checkpoints.sources import Weights, read_weights
from core.errors import UserError, did_you_mean, listed

__all__ = ["WeightsReport", "load_weights", "network_from", "refuse_misfits", "refuse_non_finite"]

_SHOWN = 8  # names listed in a message; the rest are counted

Source = str | os.PathLike[str] | Weights | Mapping[str, Tensor]


@dataclass(frozen=True)
class WeightsReport:
    """What `load_weights` did.

    Args:
        source: As the user named it.
        format: `checkpoint`, `state_dict`, `safetensors`, `folder` or `case`.
        initialised: Our names that were left as the network was initialised.
        ignored: Names in the source that the network does not have.
        metadata: `licences`, `sources`, `path`, `layout`, and `step` where known.
        loaded: How many tensors were loaded.
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
            text += f"; initialised anew: {listed(self.initialised, _SHOWN)}"
        if self.ignored:
            text += f"; left out: {listed(self.ignored, _SHOWN)}"
        return text


def load_weights(
    source: Source,
    network: nn.Module,
    *,
    reinitialise: Sequence[str] = (),
    prefix: str = "network.",
    key_map: KeyMap | None = None,
) -> WeightsReport:
    """Fill `network` with the weights of `source`, strictly, and say what was done.

    Args:
        source: An own checkpoint (file or folder), a torch file, a `.safetensors` file, a folder in the hub's
            layout, the name of a weights card, or a hub id `owner/name[@revision]`; or what was read
            already, or tensors by name.
        network: Materialised; official names and layouts go through `KEY_MAP` of its module.
        reinitialise: Patterns (`*` and `?`) of parameter names that stay as the network was initialised,
            whether the source lacks them, holds them in another shape, or holds them; also of names in the
            source to leave out.
        prefix: What our checkpoints put before the names of the network's parameters.
        key_map: The table of official names; None is that of the network's system.

    Raises:
        UserError: If the source is not found or damaged, parameters are missing, unknown or of another
            shape, a pattern fits nothing, or weights are not finite; the sentence lists them.
    """
    weights = _weights(source, prefix=prefix)
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
    tensors, layout, unknown = _in_own_names(weights, own, key_map or _key_map(network, weights))
    if layout == "own":
        # A part of the network may know how weights of a network with other inputs serve it.
        for name, module in network.named_modules():
            if callable(fit := getattr(module, "fit_weights", None)):
                tensors = fit(tensors, prefix=f"{name}." if name else "", described=weights.network)
    fresh = {name for name in own if _fits(name, patterns)}
    unknown += [name for name in tensors if name not in own and name not in computed]
    ignored = sorted(name for name in unknown if _fits(name, patterns))
    tied = set(getattr(network, "tied_parameters", ()))
    chosen = {name: tensor for name, tensor in tensors.items() if name in own and name not in fresh}
    refuse_misfits(
        weights,
        network,
        missing=set(own) - set(tensors) - fresh - tied,
        unknown=set(unknown) - set(ignored) - tied,
        shapes=[(name, chosen[name], own[name]) for name in sorted(chosen)],
    )
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
    return WeightsReport(weights.source, weights.format, sorted(fresh), ignored, metadata, loaded=len(chosen))


def network_from(source: Source, *, system: str | None = None) -> nn.Module:
    """Build the network that `source` describes and fill it with its weights.

    Args:
        source: As for `load_weights`; it must carry a configuration: one of our checkpoints or exports, or
            a folder, card or hub repository with a `config.json`; or be a file of the name that a weights
            card alone lists.
        system: Name (`ttm`) or module of the system, where the configuration does not tell.

    Raises:
        UserError: If there is no configuration, its system is not known, or the weights do not fit.
    """
    from core.checkpoints.cards import card_of_file

    weights = _weights(source)
    if weights.network is not None:
        network = instantiate(weights.network, where=weights.source)
    elif weights.config is not None:
        module = system_module(system or weights.system or str(weights.config.get("model_type", "")))
        network = module.from_official_config(weights.config)
    elif (card := card_of_file(weights.path.name)) is not None and card.size is not None:
        network = instantiate(card.size.model_dump(), where=f"weights card {card.name}")
    else:
        raise UserError(
            f"{weights.source} does not say which network it belongs to: it needs a config.json beside it, "
            "or a recipe that builds the network and names it under model.weights"
        )
    load_weights(weights, network)
    return network


def _weights(source: Source, *, prefix: str = "network.") -> Weights:
    if isinstance(source, Mapping):
        return Weights("given as tensors", Path(), "state_dict", None, dict(source))
    return source if isinstance(source, Weights) else read_weights(source, prefix=prefix)


def _in_own_names(
    weights: Weights, own: Mapping[str, Tensor], key_map: KeyMap | None
) -> tuple[dict[str, Tensor], str, list[str]]:
    """Return the tensors under our names, the layout they had, and the names that the key map lacks."""
    layout = weights.layout
    if layout is None:
        shared = len(set(weights.tensors) & set(own))
        renamed = {name for name in weights.tensors if key_map is not None and key_map.our_name(name) in own}
        layout = "own" if key_map is None or shared > len(renamed) else "official"
    if layout == "own" or key_map is None:
        return dict(weights.tensors), layout, []
    needed = {name: tensor for name, tensor in weights.tensors.items() if not key_map.ignores(name)}
    named = {name: tensor for name, tensor in needed.items() if key_map.our_name(name) is not None}
    key_map = key_map.described_by(weights.config or weights.network)
    return key_map.from_official(named), layout, sorted(set(needed) - set(named))


def _key_map(network: nn.Module, weights: Weights) -> KeyMap | None:
    """Return the network's key map; where its system has several layouts, the one that knows most names."""
    home = home_of(network)
    if not hasattr(home, "key_maps"):
        return getattr(home, "KEY_MAP", None)
    maps: tuple[KeyMap, ...] = home.key_maps(network)
    return max(maps, key=lambda table: sum(table.our_name(name) is not None for name in weights.tensors))


def refuse_misfits(
    weights: Weights,
    network: nn.Module,
    *,
    missing: set[str],
    unknown: set[str],
    shapes: Iterable[tuple[str, Tensor, Tensor]],
) -> None:
    """Refuse weights with parameters that are missing, unknown or of another shape, in one sentence.

    `shapes` holds the names of those there and here, with both tensors.
    """
    differing = [
        f"{name} is {tuple(there.shape)} there and {tuple(here.shape)} here"
        for name, there, here in shapes
        if there.shape != here.shape
    ]
    wrong = [
        f"{len(names)} {what} ({listed(names, _SHOWN)})"
        for what, names in (
            ("missing there", sorted(missing)),
            ("unknown here", sorted(unknown)),
            ("of another shape", differing),
        )
        if names
    ]
    if wrong:
        raise UserError(
            f"weights {weights.source} do not fit {type(network).__name__}, parameters {', '.join(wrong)}; "
            "choose the matching size, or name what shall start anew by pattern under model.reinitialise"
        )


def refuse_non_finite(weights: Weights, tensors: Mapping[str, Tensor], *, parameters: set[str]) -> None:
    """Refuse NaN anywhere and infinity in parameters; a buffer may be an additive mask of minus infinity.

    Whole numbers in the place of a parameter are quantised: without their scales they mean nothing.
    """
    bad = []
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_meta or tensor.layout is not torch.strided:
            kind = "a tensor without values" if tensor.is_meta else "a sparse tensor"
        elif name not in parameters or tensor.is_floating_point() or tensor.is_complex():
            kind = ""
        if kind:
            raise UserError(
                f"weights {weights.source} hold {name} as {kind}, which is not read; give floating-point "
                "numbers, neither quantised nor sparse"
            )
        if tensor.is_floating_point() or tensor.is_complex():
            probe = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # float8 has no comparisons
            if bool(torch.isnan(probe).any()) or (
                name in parameters and not bool(torch.isfinite(probe).all())
            ):
                bad.append(name)
    if bad:
        raise UserError(
            f"weights {weights.source} hold values that are not finite in {listed(sorted(bad), _SHOWN)}; the "
            "run that wrote them diverged: use an earlier checkpoint"
        )


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
