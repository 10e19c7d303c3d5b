"""Keys and values of the tokens so far, in memory that is allocated once."""

from __future__ import annotations

import torch
from torch import Tensor

from core.errors import UserError

__all__ = ["KVCache"]


class KVCache:
    """Rotated keys and values of every layer, of at most `capacity` tokens.

    Each layer's memory is made at its first `append`, with that layer's own number of heads.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        """Tokens that every layer holds."""
        self.valid: Tensor | None = None
        """`(B, capacity)` bool, False where a row is padded; None where none is."""
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new rotated keys and values `(B, H, S, D)` of one layer and return all of it, as views.

        Raises:
            UserError: If the capacity is exceeded.
        """
        end = self.length + key.shape[2]
        if end > self.capacity:
            raise UserError(f"{end} tokens do not fit into a cache of {self.capacity}; make it larger")
        if layer not in self._layers:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self._layers[layer] = (key.new_empty(shape), value.new_empty(shape))
        keys, values = self._layers[layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, count: int) -> None:
        """Count tokens that all layers have stored."""
        self.length += count

    def next_positions(self, mask: Tensor | None, *, shape: tuple[int, int], device: torch.device) -> Tensor:
        """Note which of the next tokens are real and return their positions `(B, S)`; padding has 0.

        `mask` `(B, S)` is non-zero for real tokens; None means that all of `shape` are.
        """
        batch, count = shape
        if mask is None and self.valid is None:
            return torch.arange(self.length, self.length + count, device=device).expand(1, -1)
        if self.valid is None:
            self.valid = torch.zeros(batch, self.capacity, dtype=torch.bool, device=device)
            self.valid[:, : self.length] = True
        before = self.valid[:, : self.length].sum(1, keepdim=True)
        real = torch.ones(shape, device=device) if mask is None else mask
        real = real.to(device, torch.bool)
        self.valid[:, self.length : self.length + count] = real
        return (before + real.cumsum(1) - 1).clamp_min(0)
