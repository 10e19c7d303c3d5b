"""FNO, the Fourier neural operator: named sizes, official names and configurations (Li et al. 2020, arXiv
2010.08895; layout of neuraloperator, MIT).

The network stands in `fourier/network.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from apps.pde.models.fourier.network import FNO, TimedFNO
from core.backbones.sizes import size
from core.checkpoints.keymap import KeyMap, Rename, Reshape
from core.errors import UserError

__all__ = [
    "FNO",
    "KEY_MAP",
    "TimedFNO",
    "fno_large2d",
    "fno_medium2d",
    "fno_small2d",
    "from_official_config",
    "to_official_config",
]

_DEEPEST = 64  # layers whose norms have a name in the table; official norms are numbered through


def _from_complex(weight: Tensor) -> Tensor:
    # I O M1 … Mn complex -> M1 … Mn I O 2
    pairs = torch.view_as_real(weight.resolve_conj())
    return pairs.movedim((0, 1), (-3, -2)).contiguous()


def _to_complex(weight: Tensor) -> Tensor:
    # M1 … Mn I O 2 -> I O M1 … Mn complex; halves have no complex numbers here
    exact = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    return torch.view_as_complex(exact.movedim((-3, -2), (0, 1)).contiguous())


_NORMS = tuple(
    Rename(f"fno_blocks.norm.{2 * layer + which}.{{rest*}}", f"layers.{layer}.norms.{which}.{{rest*}}")
    for layer in range(_DEEPEST)
    for which in (0, 1)
)


class _ReadAlike(Rename):
    """Another official name of the same tensor: read, never written."""

    def backward(self, key: str) -> None:
        """Leave every name as it is."""


KEY_MAP = KeyMap(
    renames=(
        # batch norm lies in a module of its own in newer releases
        _ReadAlike("fno_blocks.norm.{i}.norm.{leaf}", "fno_blocks.norm.{i}.{leaf}"),
        Rename("fno_blocks.convs.{i}.weight.tensor", "layers.{i}.spectral.weight"),
        Rename("fno_blocks.convs.{i}.bias", "layers.{i}.spectral.bias"),
        Rename("fno_blocks.fno_skips.{i}.conv.weight", "layers.{i}.skip.linear.weight"),
        Rename("fno_blocks.fno_skips.{i}.weight", "layers.{i}.skip.gate.weight"),
        Rename("fno_blocks.channel_mlp_skips.{i}.conv.weight", "layers.{i}.mlp_skip.linear.weight"),
        Rename("fno_blocks.channel_mlp_skips.{i}.weight", "layers.{i}.mlp_skip.gate.weight"),
        Rename("fno_blocks.channel_mlp.{i}.fcs.{j}.{leaf}", "layers.{i}.mlp.maps.{j}.{leaf}"),
        Rename("lifting.fcs.{j}.{leaf}", "lifting.maps.{j}.{leaf}"),
        Rename("projection.fcs.{j}.{leaf}", "projection.maps.{j}.{leaf}"),
        *_NORMS,
    ),
    reshapes=(Reshape("layers.{i}.spectral.weight", _from_complex, _to_complex),),
)

# Official argument, its default, our argument.
_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("in_channels", 3, "in_channels"),
    ("out_channels", 1, "out_channels"),
    ("hidden_channels", 64, "width"),
    ("n_layers", 4, "depth"),
    ("norm", None, "norm"),
    ("norm_groups", 1, "norm_groups"),
    ("ada_in_features", None, "condition_features"),
    ("use_channel_mlp", True, "mlp"),
    ("channel_mlp_expansion", 0.5, "mlp_ratio"),
    ("channel_mlp_dropout", 0, "dropout"),
    ("preactivation", False, "preactivation"),
    ("enforce_hermitian_symmetry", True, "enforce_hermitian"),
)

_RATIOS = ("lifting_channel_ratio", "projection_channel_ratio")
_SKIPS = (("fno_skip", "linear"), ("channel_mlp_skip", "soft-gating"))

# Other arguments of the official class; anything but these values is another network.
_INERT: dict[str, tuple[Any, ...]] = {
    "complex_data": (False, None),
    "resolution_scaling_factor": (None, 1),
    "fno_block_precision": ("full", None),
    "factorization": (None, "Dense", "dense"),
    "separable": (False, None),
    "lifting_channels": (None,),
    "projection_channels": (None,),
    "fft_norm": ("forward", None),
}


def from_official_config(config: Mapping[str, Any]) -> FNO:
    """Build the network that the official class's arguments describe.

    Args:
        config: Arguments by name; what is not listed has the official default.

    Raises:
        UserError: If it asks for something that this network does not have.
    """
    other = [
        f"{key}={config[key]!r}" for key, inert in _INERT.items() if config.get(key, inert[0]) not in inert
    ]
    activation = config.get("non_linearity", "gelu")
    name = str(getattr(activation, "__name__", activation)).rsplit(".", 1)[-1].lower()
    if name not in ("gelu", "none"):
        other.append(f"non_linearity={name}")
    stabiliser = config.get("stabilizer")
    if stabiliser not in (None, "None", "tanh"):
        other.append(f"stabilizer={stabiliser!r}")
    if other:
        raise UserError(f"the FNO config asks for what this network does not have: {', '.join(other)}")
    if "n_modes" not in config:
        raise UserError("the FNO config lacks n_modes, the number of frequencies along each axis")
    settings = {ours: config.get(name, default) for name, default, ours in _FIELDS}
    settings["modes"] = _tuple(config["n_modes"])
    stored = config.get("max_n_modes")
    settings["stored_modes"] = (
        None if stored is None or _tuple(stored) == settings["modes"] else _tuple(stored)
    )
    settings["grid"] = _grid(config.get("positional_embedding", "grid"))
    settings["stabiliser"] = stabiliser == "tanh"
    settings["skips"] = tuple(_skip(config.get(name, default)) for name, default in _SKIPS)
    settings["ratios"] = tuple(config.get(name, 2) for name in _RATIOS)
    padding = config.get("domain_padding")
    if padding is not None:
        padding = tuple(padding) if isinstance(padding, list | tuple) else padding
        if not any(padding if isinstance(padding, tuple) else (padding,)):
            padding = None
    settings["padding"] = padding
    return FNO(**settings)


def to_official_config(network: FNO) -> dict[str, Any]:
    """Return the official class's arguments for a network, every one spelt out.

    A lead time is one of the input channels there.
    """
    settings = network.settings
    official: dict[str, Any] = {theirs: settings[ours] for theirs, _, ours in _FIELDS}
    stored = settings["stored_modes"]
    padding = settings["padding"]
    skips = zip(_SKIPS, settings["skips"], strict=True)
    return {
        **official,
        "in_channels": settings["in_channels"] * settings["frames"] + network.lead_channels,
        "n_modes": list(settings["modes"]),
        "max_n_modes": None if stored is None else list(stored),
        "positional_embedding": "grid" if settings["grid"] else None,
        "stabilizer": "tanh" if settings["stabiliser"] else None,
        **dict(zip(_RATIOS, settings["ratios"], strict=True)),
        **{name: None if kind == "none" else kind for (name, _), kind in skips},
        "domain_padding": list(padding) if isinstance(padding, tuple) else padding,
        "non_linearity": "gelu",
        "model_type": "fno",
    }


def _tuple(modes: Any) -> tuple[int, ...]:
    return (int(modes),) if isinstance(modes, int) else tuple(int(m) for m in modes)


def _skip(kind: Any) -> str:
    return "none" if kind in (None, "none", "None") else str(kind)


def _grid(kind: Any) -> bool:
    if kind in (None, "none", "None", False):
        return False
    if kind in ("grid", True):
        return True
    raise UserError(f"the FNO config's positional_embedding is {kind!r}; it must be grid or null")


fno_small2d = size(
    FNO,
    "Small, 2-D: 671 113 real numbers with one channel in and one out, as published.",
    modes=(16, 16),
    width=24,
)
fno_medium2d = size(FNO, "Medium, 2-D: 69 million real numbers.", modes=(64, 64), width=64, ratios=(2, 4))
fno_large2d = size(FNO, "Large, 2-D: 277 million real numbers.", modes=(64, 64), width=128, ratios=(2, 4))
