"""The base class of every batch: a frozen dataclass that Lightning and the loader can move, cast and pin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["IGNORE", "Batch", "collate", "identity"]

IGNORE = -1
"""Class of what nobody labelled: no loss and no score counts it."""


class Batch:
    """Base of frozen dataclasses whose fields are tensors `(B, ...)`, nested batches, None, or anything else.

    A domain writes `@dataclass(frozen=True, eq=False) class SeriesBatch(Batch)` with named fields. Lightning
    refuses a frozen dataclass that cannot move itself, and torch pins only what has `pin_memory`: hence these
    methods. Tensors are also found inside tuples, lists and dicts; fields of other types (strings, numbers)
    pass through unchanged.
    """

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move all tensors and cast the floating ones; arguments as those of `torch.Tensor.to`.

        Integer, boolean and complex tensors keep their dtype: an index or a mask must not become bfloat16,
        and a complex field must not lose its imaginary part.
        """
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        more: dict[str, Any] = {} if memory_format is None else {"memory_format": memory_format}

        def move(tensor: Tensor) -> Tensor:
            wanted = dtype if tensor.is_floating_point() else None
            return tensor.to(device=device, dtype=wanted, non_blocking=non_blocking, **more)

        return self._map(move)

    def pin_memory(self) -> Self:
        """Copy all tensors to page-locked memory, from which an accelerator reads without waiting."""
        return self._map(Tensor.pin_memory)

    def __len__(self) -> int:
        """Return the number of samples: the first dimension of the first tensor, else a tuple's length."""
        length = _length(self)
        if length is None:
            raise TypeError(f"{type(self).__name__} holds neither a tensor nor a tuple, so it has no length")
        return length

    @classmethod
    def stack(cls, items: Sequence[Self]) -> Self:
        """Join samples without a batch dimension into one batch.

        Tensors gain a first dimension `B = len(items)`, nested batches are stacked too, None stays None, and
        any other field becomes a tuple of one value a sample.

        Raises:
            ValueError: If `items` is empty, or a field is None, or of another shape, in some items only.
        """
        return cls._join(items, torch.stack, lambda values: tuple(values))

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """Join batches along their first dimension; tuples and lists are joined, other fields must agree.

        Raises:
            ValueError: If `batches` is empty or a field cannot be joined.
        """

        def join(values: list[Any]) -> Any:
            if all(isinstance(value, (tuple, list)) for value in values):
                return tuple(entry for value in values for entry in value)
            if any(value != values[0] for value in values[1:]):
                raise ValueError(f"values differ: {values[0]!r} and others")
            return values[0]

        return cls._join(batches, torch.cat, join)

    def select(self, rows: Sequence[int]) -> Self:
        """Return the samples at `rows`, in that order."""
        index = torch.as_tensor(list(rows), dtype=torch.int64)

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.index_select(0, index.to(value.device))
            if isinstance(value, Batch):
                return value.select(rows)
            if isinstance(value, (tuple, list)) and len(value) == len(self):
                return tuple(value[row] for row in rows)
            return value

        return self._replace(pick)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self._replace(lambda value: _map(value, function))

    def _replace(self, function: Callable[[Any], Any]) -> Self:
        names = [field.name for field in dataclasses.fields(self) if field.init]  # type: ignore[arg-type]
        return dataclasses.replace(self, **{name: function(getattr(self, name)) for name in names})  # type: ignore

    @classmethod
    def _join(cls, items: Sequence[Self], tensors: Callable[..., Tensor], others: Callable[..., Any]) -> Self:
        if not items:
            raise ValueError(f"no items to make a {cls.__name__} of")
        joined: dict[str, Any] = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if not field.init:
                continue
            values = [getattr(item, field.name) for item in items]
            first = values[0]
            try:
                if any((value is None) != (first is None) for value in values):
                    raise ValueError("it is None in some items and not in others")
                if first is None:
                    joined[field.name] = None
                elif isinstance(first, Tensor):
                    joined[field.name] = tensors(values)
                elif isinstance(first, Batch):
                    joined[field.name] = type(first)._join(values, tensors, others)
                else:
                    joined[field.name] = others(values)
            except (RuntimeError, TypeError, ValueError) as error:
                where = f"{cls.__name__}.{field.name}"
                raise ValueError(f"{where} cannot be joined over {len(items)} items: {error}") from error
        return cls(**joined)


def collate(items: Sequence[Any]) -> Any:
    """Make one batch of a loader's samples: `Batch.stack` for batches, torch's own collation for the rest.

    A function of the module, not a lambda, so that spawned workers can import it.
    """
    first = items[0]
    if isinstance(first, Batch):
        return type(first).stack(items)
    return torch.utils.data.default_collate(list(items))


def identity(batch: Any) -> Any:
    """Return the batch as it is: the collation for data sets whose `__getitems__` gives finished batches."""
    return batch


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Batch):
        return value._map(function)
    if isinstance(value, dict):
        return {key: _map(entry, function) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(entry, function) for entry in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map(entry, function) for entry in value)
    return value


def _length(batch: Batch) -> int | None:
    values = [getattr(batch, field.name) for field in dataclasses.fields(batch)]  # type: ignore[arg-type]
    for value in values:
        if isinstance(value, Tensor) and value.ndim > 0:
            return value.shape[0]
        if isinstance(value, Batch) and (length := _length(value)) is not None:
            return length
    return next((len(value) for value in values if isinstance(value, (tuple, list))), None)
