"""Settings of TTM's parts: frozen dataclasses that a recipe names by `class_path`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "DecoderSettings",
    "Distribution",
    "ForecastLoss",
    "ForecastMixing",
    "Initialisation",
    "Loss",
    "MixerSettings",
    "Norm",
    "Patching",
    "Positions",
    "Scaling",
    "TTMSettings",
    "dotted",
    "grouped",
]

Distribution = Literal["pytorch", "normal", "uniform", "xavier_uniform"]
Loss = Literal["mse", "mae", "pinball", "huber"]
Norm = Literal["layer", "batch"]
Positions = Literal["sincos", "random"]
Scaling = Literal["std", "mean"]


class TTMSettings:
    """Base of the settings of one part; the network checks them together."""


@dataclass(frozen=True)
class MixerSettings(TTMSettings):
    """What all mixers of a network have in common.

    Args:
        expansion: Hidden over outer size of every MLP.
        gated: Whether each mixer has a gate.
        norm: Layer or batch normalisation.
        norm_eps: Added to its variance.
        self_attention: Whether patches also attend to each other.
        heads: Heads of that attention.
    """

    expansion: int = 2
    gated: bool = True
    norm: Norm = "layer"
    norm_eps: float = 1e-5
    self_attention: bool = False
    heads: int = 1


@dataclass(frozen=True)
class Patching(TTMSettings):
    """How the scaled window becomes patches.

    Args:
        stride: Points between the starts of two patches; None is the patch's length.
        positions: Position table of the patches, if any.
        frequency_prefix: Whether a patch made of the sampling frequency's token is put in front.
        frequency_tokens: Size of the frequency vocabulary.
    """

    stride: int | None = None
    positions: Positions | None = None
    frequency_prefix: bool = False
    frequency_tokens: int = 10


@dataclass(frozen=True)
class DecoderSettings(TTMSettings):
    """Decoder between backbone and head; its dropout is the head's.

    Args:
        width: Features of a patch; None is as many as in the backbone.
        depth: Mixer layers, at each level.
        levels: Patch lengths that it mixes at, from the finest to the coarsest; 0 is a plain stack.
        channel_mixing: Whether it mixes channels.
        raw_residual: Whether it also sees the scaled patches.
        static_categories: Vocabulary sizes of a series' static categories; they need `channel_mixing`.
    """

    width: int | None = 128
    depth: int = 2
    levels: int = 0
    channel_mixing: bool = False
    raw_residual: bool = False
    static_categories: list[int] | None = None


@dataclass(frozen=True)
class ForecastMixing(TTMSettings):
    """Correction of the forecasts from all channels' values around each step.

    Args:
        context: Steps seen before and after each step.
        gated: Whether it has a gate.
        mixer: Whether it has a mixer over the channels.
        depth: Layers of that mixer.
        past: Whether its first windows see the past, else zeros.
        offset: Steps at the past's end that it skips.
    """

    context: int = 1
    gated: bool = True
    mixer: bool = False
    depth: int = 2
    past: bool = True
    offset: int | None = None


@dataclass(frozen=True)
class ForecastLoss(TTMSettings):
    """The loss that the network computes when it is given the future.

    Args:
        kind: Which; None computes none.
        quantile: Of the pinball loss, in (0, 1).
        delta: Of the Huber loss, where it turns linear.
    """

    kind: Loss | None = "mse"
    quantile: float = 0.5
    delta: float = 1.0


@dataclass(frozen=True)
class Initialisation(TTMSettings):
    """Distributions that weights are drawn from in place of PyTorch's own.

    Args:
        std: Deviation of "normal" linear weights.
        linear: Distribution of linear weights.
        embed: Distribution of embeddings.
    """

    std: float = 0.02
    linear: Distribution = "pytorch"
    embed: Distribution = "pytorch"


_PARTS: dict[str, type[TTMSettings]] = {
    "mixer": MixerSettings,
    "patching": Patching,
    "decoder": DecoderSettings,
    "forecast_mixing": ForecastMixing,
    "loss": ForecastLoss,
    "initialisation": Initialisation,
}


def dotted(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's arguments with the fields of its parts under names such as `decoder.width`.

    The part's own name says whether it is there; an absent one has its default fields.
    """
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in _PARTS:
            values[name] = value
            continue
        values[name] = value is not None
        fields = vars(_PARTS[name]() if value is None else value)
        values |= {f"{name}.{field}": setting for field, setting in fields.items()}
    return values


def grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network's arguments of what `dotted` gives."""
    arguments = {name: value for name, value in values.items() if "." not in name}
    for part, kind in _PARTS.items():
        fields = {name[len(part) + 1 :]: values[name] for name in values if name.startswith(f"{part}.")}
        arguments[part] = kind(**fields) if values.get(part, True) else None
    return arguments
