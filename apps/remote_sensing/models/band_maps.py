"""Weights whose channels are bands: matched by name, whatever order a file or a checkpoint has them in.

Which bands a file has is known from its configuration, or from a mark that our own export leaves on the
tensors; else the layout's usual order is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from core.checkpoints.keymap import KeyMap, Reshape
from core.errors import UserError

__all__ = ["BandedMap", "ReadsBands", "band_rule", "first_layer", "is_marked"]

_MARK = "bands_of_channels"


class ReadsBands(nn.Module):
    """A network that knows which bands it reads, and takes checkpoints of ours with other bands.

    Attributes:
        bands: Of the input in their order.
    """

    bands: tuple[str, ...]

    def fit_weights(
        self, tensors: Mapping[str, Tensor], *, prefix: str, described: Mapping[str, Any] | None
    ) -> dict[str, Tensor]:
        """Return weights of one of our checkpoints with their bands matched by name.

        Args:
            tensors: Under our names.
            prefix: Where this network stands in a larger one.
            described: The network that the checkpoint says it holds; it names the bands.

        Raises:
            UserError: If the names do not fit the first layer's channels.
        """
        named = _named_bands(described)
        bands = None if named is None else self.our_bands(named)
        if bands is None or bands == self.bands:
            return dict(tensors)
        changed = {
            prefix + name: _matched(tensors[prefix + name], fresh, bands=bands, wanted=self.bands, rows=rows)
            for name, (fresh, rows) in self.band_weights().items()
            if prefix + name in tensors
        }
        return {**tensors, **changed}

    def band_weights(self) -> dict[str, tuple[Tensor, int]]:
        """Return name and tensor of what has bands for channels, with the `rows` of `band_rule`."""
        name, fresh = first_layer(self)
        return {name: (fresh, 0)}

    def our_bands(self, named: Sequence[str]) -> tuple[str, ...]:
        """Return our names of the bands that a checkpoint names."""
        return tuple(named)


@dataclass(frozen=True)
class BandedMap(KeyMap):
    """A table some of whose tensors have bands for channels.

    Args:
        rules: Returns the layout changes for files of the named bands; None for names means nobody knows.
    """

    rules: Callable[[tuple[str, ...] | None], tuple[Reshape, ...]] | None = None

    def described_by(self, config: Mapping[str, Any] | None) -> KeyMap:
        """Return the table for files whose configuration names their bands."""
        names = _named_bands(config)
        return self if names is None or self.rules is None else replace(self, reshapes=self.rules(names))


def band_rule(
    name: str,
    fresh: Tensor,
    *,
    wanted: tuple[str, ...],
    described: Sequence[str] | None,
    usual: Callable[[int], Sequence[str] | None],
    rows: int = 0,
) -> Reshape:
    """Return the layout change that matches a tensor's channels by name.

    Args:
        name: Ours, of the tensor.
        fresh: The tensor as initialised, which bands that a file lacks keep.
        wanted: The network's bands.
        described: The file's, if its configuration names them.
        usual: Returns the bands of a file with so many channels of which nothing is said; None leaves the
            tensor as initialised.
        rows: 0 where the channels are the second axis; else of how many pixels' bands, the band fastest, the
            first axis consists.
    """

    def to_ours(tensor: Tensor) -> Tensor:
        channels = tensor.shape[0] // rows if rows else tensor.shape[1]
        names = (getattr(tensor, _MARK, None), described)
        bands = next((n for n in names if n is not None and len(n) == channels), usual(channels))
        if bands is None:
            same = _other_axes(tensor, rows) == _other_axes(fresh, rows)
            return fresh.detach().to(tensor.dtype) if same else tensor
        return _matched(tensor, fresh, bands=bands, wanted=wanted, rows=rows)

    def to_official(tensor: Tensor) -> Tensor:
        named = tensor.view_as(tensor)  # another object, so that the network's own is not marked
        setattr(named, _MARK, wanted)
        return named

    return Reshape(name, to_ours, to_official)


def is_marked(tensor: Tensor) -> bool:
    """Tell whether a tensor of an official state says which bands its channels are."""
    return hasattr(tensor, _MARK)


def first_layer(network: nn.Module) -> tuple[str, Tensor]:
    """Return name and weight of the layer that reads the image: the first convolution."""
    kinds = (nn.Conv2d, nn.Conv3d)
    name, layer = next((name, part) for name, part in network.named_modules() if isinstance(part, kinds))
    return f"{name}.weight", layer.weight


def _named_bands(described: Any) -> tuple[str, ...] | None:
    """Return the first bands that a description of a network holds, at whatever depth."""
    if not isinstance(described, Mapping):
        return None
    bands = described.get("bands")
    if isinstance(bands, list | tuple) and all(isinstance(band, str) for band in bands):
        return tuple(bands)
    return next((names for value in described.values() if (names := _named_bands(value))), None)


def _matched(
    tensor: Tensor, fresh: Tensor, *, bands: Sequence[str], wanted: tuple[str, ...], rows: int
) -> Tensor:
    """Return a weight for the wanted bands: those that stand in `bands` by name, others as drawn.

    One of another size stays as it is; whoever loads it refuses it with both shapes.
    """
    if tuple(bands) == wanted or _other_axes(tensor, rows) != _other_axes(fresh, rows):
        return tensor
    if rows:
        if len(tensor) != rows * len(bands):
            return tensor
        split, drawn = (weight.detach().unflatten(0, (rows, -1)) for weight in (tensor, fresh))
        return _matched(split, drawn, bands=bands, wanted=wanted, rows=0).flatten(0, 1)
    if tensor.shape[1] != len(bands):
        raise UserError(
            f"the checkpoint's first layer takes {tensor.shape[1]} bands, and {len(bands)} are named "
            f"({', '.join(bands)}); name its bands in their order"
        )
    merged = fresh.detach().to(tensor.dtype).clone()
    for place, band in enumerate(wanted):
        if band in bands:
            merged[:, place] = tensor[:, list(bands).index(band)]
    return merged


def _other_axes(tensor: Tensor, rows: int) -> tuple[int, ...]:
    """Return the lengths of the axes that are not the channels."""
    return tuple(tensor.shape[1:]) if rows else (tensor.shape[0], *tensor.shape[2:])
