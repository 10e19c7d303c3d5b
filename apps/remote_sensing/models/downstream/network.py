"""A network on top of an encoder: what it takes over from it, and how weights reach the encoder within it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from apps.remote_sensing.models import prithvi
from apps.remote_sensing.models.downstream.encoder_features import check_encoder
from apps.remote_sensing.models.prithvi_eo import official
from core.backbones.vit import reset_parts
from core.checkpoints.keymap import KeyMap
from core.checkpoints.networks import home_of
from core.errors import UserError

__all__ = ["HELD", "HeldMap", "OnEncoder", "encoder_maps", "with_neck"]

_HOLDER = "encoder."
# Where version 1 of Prithvi has what stands in a mapper with its neck.
_NECK = {
    "neck.": "decoder.neck.",
    "decode_head.convs.": "decoder.convs.",
    "decode_head.conv_seg.": "head.last.",
    "auxiliary_head.": "auxiliary_head.",
}
_BESIDE = ("teacher.", "projector.", "predictor.")  # of a pre-training with two branches

# What an encoder may say of the images that it reads, and what holds where it says nothing.
_SAID = {"mean": None, "std": None, "scale": 1.0, "fill": 0.0, "normalisation": "standardise"}


class OnEncoder(nn.Module):
    """A network that holds an `encoder`, reads the images that this reads, and loads its weights.

    Args:
        encoder: What gives the features.
        outputs: Numbers that the network gives.
        dropout: Rate before its last layer.

    Attributes:
        bands: Of the input in their order.
        mean: Of each band in the data that the encoder was trained on, in the units of `scale`, or None.
        std: As `mean`.
        scale: What a reflectance of 1 is in the units of `mean`.
        fill: What pixels without data are set to after normalisation.
        normalisation: See `apps.remote_sensing.models.frozen.resizing`.
    """

    has_decoder = False

    def __init__(self, encoder: nn.Module, *, outputs: int, dropout: float) -> None:
        super().__init__()
        where = type(self).__name__
        check_encoder(encoder, where=where)
        if outputs < 1:
            raise UserError(f"{where}: outputs is {outputs}; it must be at least 1")
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"{where}: dropout is {dropout}; it must be at least 0 and below 1")
        self.encoder, self.outputs = encoder, outputs
        if hasattr(encoder, "bands"):
            self.bands = tuple(encoder.bands)  # type: ignore[arg-type]
        for name, usual in _SAID.items():
            setattr(self, name, getattr(encoder, name, usual))

    @property
    def decoder_parts(self) -> tuple[str, ...]:
        """Names of what stands on the encoder, as far as it has parameters."""
        return tuple(
            name
            for name, part in self.named_children()
            if name != "encoder" and any(True for _ in part.parameters())
        )

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the encoder's repeated layers."""
        yield from self.encoder.blocks()  # type: ignore[operator]

    def reset_parameters(self) -> None:
        """Draw every weight and compute every buffer anew, as a network built on the meta device needs."""
        for module in self.children():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                reset_parts(module)

    def fit_weights(
        self, tensors: Mapping[str, Tensor], *, prefix: str, described: Mapping[str, Any] | None
    ) -> dict[str, Tensor]:
        """Return weights of one of our checkpoints under the names of this network.

        Those of an encoder alone, of version 1's segmentation, of a student and its teacher, and of any
        network that holds an `encoder` are taken.

        Args:
            tensors: Under the names of the checkpoint.
            prefix: Where this network stands in a larger one.
            described: The network that the checkpoint says it holds.
        """
        inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        outside = {name: t for name, t in tensors.items() if not name.startswith(prefix)}
        beside = _BESIDE if self.has_decoder else (*_BESIDE, "decoder.", "auxiliary_head.")
        inside = {_from_version_1(name): t for name, t in inside.items()}
        if not any(name.startswith(_HOLDER) for name in inside):
            inside = {_HOLDER + name: tensor for name, tensor in inside.items()}
        kept = {name: tensor for name, tensor in inside.items() if not name.startswith(beside)}
        return {**outside, **{prefix + name: tensor for name, tensor in kept.items()}}


@dataclass(frozen=True)
class HeldMap(KeyMap):
    """The table of an encoder for the network that holds it as `encoder`.

    Only the encoder has official names; nothing else is exported.

    Args:
        inner: The encoder's own table.
        neck: Whether the network also has version 1's neck and head, under our names.
        auxiliary: Whether it also has the auxiliary head.
    """

    inner: KeyMap = field(default_factory=KeyMap)
    neck: bool = False
    auxiliary: bool = False

    def ignores(self, official: str) -> bool:
        """Tell whether an official name carries nothing the network needs."""
        if self.inner.ignores(official):
            return True
        name = self.inner.our_name(official) if self.neck else None
        return name is not None and name.startswith("auxiliary_head.") and not self.auxiliary

    def our_name(self, official: str) -> str | None:
        """Return our name of an official parameter, or None if no rule knows it."""
        name = self.inner.our_name(official)
        return None if name is None else self._held(name)

    def official_name(self, ours: str) -> str | None:
        """Return the official name of one of our parameters, or None if no rule knows it."""
        return self.inner.official_name(ours.removeprefix(_HOLDER)) if ours.startswith(_HOLDER) else None

    def from_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return official weights under our names; see `KeyMap`."""
        named = self.inner.from_official({name: t for name, t in state.items() if not self.ignores(name)})
        return {self._held(name): tensor for name, tensor in named.items()}

    def described_by(self, config: Mapping[str, Any] | None) -> KeyMap:
        """Return the table for a checkpoint whose configuration is known; see `KeyMap`."""
        return replace(self, inner=self.inner.described_by(config))

    def to_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the encoder's weights under the official names; see `KeyMap`."""
        return self.inner.to_official(
            {name.removeprefix(_HOLDER): tensor for name, tensor in state.items() if name.startswith(_HOLDER)}
        )

    def _held(self, name: str) -> str:
        return (_with_neck(name) if self.neck else None) or _HOLDER + name


HELD = HeldMap(inner=prithvi.KEY_MAP)
"""The table that a module exports; which one a network has follows from its encoder."""


def encoder_maps(encoder: nn.Module) -> tuple[KeyMap, ...]:
    """Return the tables of an encoder's official layouts, for the network that holds it."""
    home = home_of(encoder)
    tables = home.key_maps(encoder) if hasattr(home, "key_maps") else (getattr(home, "KEY_MAP", KeyMap()),)
    return tuple(HeldMap(inner=inner) for inner in tables)


def with_neck(encoder: prithvi.Prithvi, *, auxiliary: bool) -> KeyMap:
    """Return the table for a network with version 1's neck, which reads its fine-tuned files whole."""
    inner = official.map_for(encoder, holder="", heads=True)
    inner = replace(inner, ignored=(*inner.ignored, "head.{rest*}", "aux_heads.{rest*}"))  # version 2's
    return HeldMap(inner=inner, neck=True, auxiliary=auxiliary)


def _from_version_1(name: str) -> str:
    if name.startswith("backbone."):
        return _HOLDER + name.removeprefix("backbone.")
    return _with_neck(name) or name


def _with_neck(name: str) -> str | None:
    for theirs, ours in _NECK.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None
