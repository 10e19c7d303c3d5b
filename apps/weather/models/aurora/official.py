"""Official layouts of Aurora: parameter names, the older index-based files, prefixes and histories.

Released files are plain dicts of tensors. The older ones hold one kernel or head for all variables, told
apart by their position: along the input channels of a kernel, and as the fast index of a head's rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from core.checkpoints.keymap import KeyMap, Rename
from core.errors import UserError

if TYPE_CHECKING:
    from apps.weather.models.aurora.network import Aurora

__all__ = [
    "CLOCK",
    "EMISSIONS",
    "GASES",
    "KEY_MAP",
    "POLLUTANTS",
    "AuroraMap",
    "key_maps",
    "padded_history",
]

SURFACE, STATIC, ATMOSPHERIC = ("2t", "10u", "10v", "msl"), ("lsm", "z", "slt"), ("z", "u", "v", "t", "q")
POLLUTANTS = ("pm1", "pm2p5", "pm10", "tcco", "tc_no", "tcno2", "gtco3", "tcso2")
GASES = ("co", "no", "no2", "go3", "so2")
EMISSIONS = tuple(f"static_{name}{end}" for name in ("ammonia", "co", "nox", "so2") for end in ("", "_log"))
CLOCK = ("tod_cos", "tod_sin", "dow_cos", "dow_sin", "doy_cos", "doy_sin")

_PREFIX = "net."
_OLDER_PARTS = (
    (".k_ln.", ".ln_k."), (".q_ln.", ".ln_q."), (".level_decoder_new.", ".level_decoder_alternate."),
)  # fmt: skip
_EMBED = "encoder.atmos_token_embeds"

# An older name, what it is now with @ for the variable, and the variables in it by position ("": left out).
_OLDER: tuple[tuple[Rename, tuple[str, ...]], ...] = (
    (Rename("encoder.surf_token_embeds.weight", "encoder.surf_token_embeds.weights.@"), SURFACE + STATIC),
    (
        Rename("encoder.surf_token_embeds.weight_new", "encoder.surf_token_embeds.weights.@"),
        POLLUTANTS + EMISSIONS + CLOCK,
    ),
    (Rename(f"{_EMBED}.weight", f"{_EMBED}.weights.@"), ATMOSPHERIC),
    (Rename(f"{_EMBED}.weight_new2", f"{_EMBED}.weights.static_@"), STATIC + EMISSIONS + CLOCK),
    (Rename(f"{_EMBED}_new.layers.{{l}}.weight_new", f"{_EMBED}.layers.{{l}}.weights.@"), GASES),
    (Rename("decoder.surf_head.{w}", "decoder.surf_heads.@.{w}"), SURFACE),
    (Rename("decoder.surf_head_new.{w}", "decoder.surf_heads.@.{w}"), POLLUTANTS),
    (Rename("decoder.surf_head_mod.{w}", "decoder.surf_heads.@_mod.{w}"), ("",) * len(SURFACE) + POLLUTANTS),
    (Rename("decoder.atmos_head.{w}", "decoder.atmos_heads.@.{w}"), ATMOSPHERIC),
    (Rename("decoder.atmos_head.layers.{l}.{w}", "decoder.atmos_heads.@.layers.{l}.{w}"), ATMOSPHERIC),
    (Rename("decoder.atmos_head_new.layers.{l}.{w}", "decoder.atmos_heads.@.layers.{l}.{w}"), GASES),
    (Rename("decoder.atmos_head_mod_new.layers.{l}.{w}", "decoder.atmos_heads.@_mod.layers.{l}.{w}"), GASES),
)
_UNUSED = (
    f"{_EMBED}.weight_new",
    f"{_EMBED}_new.layers.{{l}}.weight",
    f"{_EMBED}_new.layers.{{l}}.weight_new2",
    "decoder.atmos_head_mod.layers.{l}.{w}",
    *(f"surf_feature_combiner.{name}.{{w}}" for name in SURFACE),
    *(f"atmos_feature_combiner.{name}.{{w}}" for name in ATMOSPHERIC),
)


@dataclass(frozen=True)
class AuroraMap(KeyMap):
    """A table that reads every official layout and writes the newest.

    Args:
        history: States that the network's kernels read; None takes those of the file.
    """

    history: int | None = None

    def ignores(self, official: str) -> bool:
        """Tell whether an official name carries nothing the network needs."""
        return super().ignores(_newer(official))

    def our_name(self, official: str) -> str | None:
        """Return our name of an official parameter, of the first of several, or None if no rule knows it."""
        name = _newer(official)
        if (older := _older(name)) is not None:
            template, variables = older
            name = template.replace("@", next(filter(None, variables)))
        return super().our_name(name.replace(f"{_EMBED}_new.", f"{_EMBED}."))

    def from_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return official weights, by their names, under our names and in our layouts.

        Raises:
            UserError: As for any table, or if they read more states than the network.
        """
        wanted = {_newer(name): tensor for name, tensor in state.items() if not self.ignores(name)}
        return padded_history(super().from_official(_by_level(_by_variable(wanted))), self.history)


KEY_MAP = AuroraMap(renames=(Rename("{rest*}", "{rest*}"),), ignored=_UNUSED)


def key_maps(network: Aurora) -> tuple[AuroraMap, ...]:
    """Return the table of a network: kernels are padded to its history.

    Layers that the original makes for each pollutant, whether the network has it or not, are passed over.
    """
    absent = [f"surf_feature_combiner.{v}.{{w}}" for v in POLLUTANTS if v not in network.variables.surface]
    absent += [f"atmos_feature_combiner.{v}.{{w}}" for v in GASES if v not in network.variables.atmospheric]
    return (replace(KEY_MAP, history=network.history, ignored=(*_UNUSED, *absent)),)


def padded_history(tensors: Mapping[str, Tensor], history: int | None) -> dict[str, Tensor]:
    """Return weights with the patch kernels `(D, 1, T, P, P)` padded to `history` states.

    The zeros stand last, as in the original, so that of a full history the old kernels read the oldest.

    Raises:
        UserError: If a kernel reads more than `history` states.
    """
    result = dict(tensors)
    for name, kernel in tensors.items():
        if history is None or "_token_embeds." not in name or kernel.dim() != 5:
            continue
        if kernel.shape[2] > history:
            raise UserError(
                f"the weights read {kernel.shape[2]} states and the network {history}; give the network a "
                f"history of at least {kernel.shape[2]}"
            )
        result[name] = F.pad(kernel, (0, 0, 0, 0, 0, history - kernel.shape[2]))
    return result


def _newer(name: str) -> str:
    name = name.removeprefix(_PREFIX)
    for older, newer in _OLDER_PARTS:
        name = name.replace(older, newer)
    return name


def _older(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the template and the variables of an index-based name."""
    for rule, variables in _OLDER:
        if (template := rule.forward(name)) is not None:
            return template, variables
    return None


def _by_variable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state in which every variable has its own kernel and head."""
    result = {}
    for name, tensor in state.items():
        if (older := _older(name)) is None:
            result[name] = tensor
            continue
        template, variables = older
        count = len(variables)
        kernel = name.startswith("encoder.")
        if tensor.shape[1] != count if kernel else tensor.shape[0] % count:
            raise UserError(
                f"the weights hold {name} of the shape {tuple(tensor.shape)}, which is not that of {count} "
                f"variables ({', '.join(filter(None, variables))})"
            )
        # D V T P P, or (P P V) D
        parts = tensor.split(1, dim=1) if kernel else tensor.unflatten(0, (-1, count)).unbind(1)
        result |= {template.replace("@", v): x for v, x in zip(variables, parts, strict=True) if v}
    return result


def _by_level(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each level of an older air-pollution file the kernels that all levels share.

    The file's second embedding of a level adds its bias to the shared one. In the original program `z` on
    levels and the static `z` take one index, and so one kernel.
    """
    second = f"{_EMBED}_new.layers."
    added = {name.removeprefix(second): name for name in state if name.startswith(second)}
    if not added:
        return state
    result = dict(state)
    shared = {
        name: result.pop(name) for name in state if name.startswith((f"{_EMBED}.weights.", f"{_EMBED}.bias"))
    }
    for leaf, name in added.items():
        layer = f"{_EMBED}.layers.{leaf.removesuffix('.bias')}"
        result |= {name.replace(_EMBED, layer): tensor for name, tensor in shared.items()}
        result[f"{layer}.bias"] = shared[f"{_EMBED}.bias"] + result.pop(name)
        result[f"{layer}.weights.z"] = result[f"{layer}.weights.static_z"]
    return result
