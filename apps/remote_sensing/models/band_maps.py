"""Official weights whose channels are bands: matched by name, whatever order a file has them in.

Which bands a file has is known from its configuration, or from a mark that our own export leaves on the
tensors; else the layout's usual order is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from apps.remote_sensing.data.bands import matched_weight, named_bands
from core.checkpoints.keymap import KeyMap, Reshape

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BandedMap", "band_rule", "is_marked", "with_rows"]

_MARK = "bands_of_channels"


@dataclass(frozen=True)
class BandedMap(KeyMap):
    """A table some of whose tensors have bands for channels.

    Args:
        rules: Returns the layout changes for files of the named bands; None for names means nobody knows.
    """

    rules: Callable[[tuple[str, ...] | None], tuple[Reshape, ...]] | None = None

    def described_by(self, config: Mapping[str, Any] | None) -> KeyMap:
        """Return the table for files whose configuration names their bands."""
        names = named_bands(config)
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
        known = (names for names in (getattr(tensor, _MARK, None), described) if names is not None)
        given = next((names for names in known if len(names) == channels), usual(channels))
        if given is None:
            same = _others(tensor, rows) == _others(fresh, rows)
            return fresh.detach().to(tensor.dtype) if same else tensor
        if rows and tensor.shape[0] != rows * len(given):
            return tensor  # of another size, as in `_matched`
        return _matched(tensor, fresh, given=given, wanted=wanted, rows=rows)

    def to_official(tensor: Tensor) -> Tensor:
        named = tensor.view_as(tensor)  # another object, so that the network's own is not marked
        setattr(named, _MARK, wanted)
        return named

    return Reshape(name, to_ours, to_official)


def is_marked(tensor: Tensor) -> bool:
    """Tell whether a tensor of an official state says which bands its channels are."""
    return hasattr(tensor, _MARK)


def with_rows(
    tensors: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    *,
    given: Sequence[str] | None,
    wanted: tuple[str, ...],
    rows: int,
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint with the rows of some tensors matched by their bands.

    Args:
        tensors: Of the checkpoint.
        fresh: Name to tensor as initialised, of those whose rows are bands.
        given: The checkpoint's bands; None takes the tensors as they are.
        wanted: The network's.
        rows: See `band_rule`.
    """
    if given is None or tuple(given) == wanted:
        return dict(tensors)
    changed = {
        name: _matched(tensors[name], own, given=given, wanted=wanted, rows=rows)
        for name, own in fresh.items()
        if name in tensors and len(tensors[name]) == rows * len(given)
    }
    return {**tensors, **changed}


def _matched(
    tensor: Tensor, fresh: Tensor, *, given: Sequence[str], wanted: tuple[str, ...], rows: int
) -> Tensor:
    if tuple(given) == wanted or _others(tensor, rows) != _others(fresh, rows):
        return tensor  # of another size, which whoever loads it refuses with both shapes
    if not rows:
        return matched_weight(tensor, fresh, given=given, wanted=wanted)
    apart, own = (one.detach().unflatten(0, (rows, -1)) for one in (tensor, fresh))
    return matched_weight(apart, own, given=given, wanted=wanted).flatten(0, 1)


def _others(tensor: Tensor, rows: int) -> tuple[int, ...]:
    """Return the lengths of the axes that are not the channels."""
    return tuple(tensor.shape[1:]) if rows else (tensor.shape[0], *tensor.shape[2:])
