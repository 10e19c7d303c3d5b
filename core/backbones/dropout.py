"""Dropout whose masks are drawn in wide words: several times faster on CPUs than one draw per element."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Dropout"]

_LANES = 65536  # a 16-bit lane decides one element, so the rate is a multiple of 1 / 65536


class Dropout(nn.Module):
    """Zero each element with probability `p` in training and scale the others by `1 / (1 - p)`.

    On a CPU `torch.nn.functional.dropout` draws one number per element, one after the other, on all but
    Intel's processors, which takes almost half of a small mixer's training step. Here one 64-bit draw decides
    four elements. The rate is `round(p * 65536) / 65536` and the scale is the inverse of that real rate, so
    the mean is kept exactly. Masks follow torch's global generator, are the same for any number of threads,
    and differ from those of `torch.nn.functional.dropout` for the same seed. On other devices, and with
    `fast` off, torch's own is used.

    Args:
        p: Probability of a zero, in [0, 1].
        fast: Whether to draw wide words on the CPU.

    Raises:
        ValueError: If `p` lies outside [0, 1].
    """

    def __init__(self, p: float = 0.5, *, fast: bool = True) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p is {p}; a probability must lie in [0, 1]")
        self.p = p
        self.fast = fast

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return self._dropped(x, self.gain(x))

    def zeroed(self, x: Tensor) -> Tensor:
        """Return what `forward` does, still to be multiplied by `gain(x)`.

        A linear map that follows (or one that came before) takes the factor into its small weight, which
        saves a pass over the activations in each direction.
        """
        return self._dropped(x, 1.0)

    def gain(self, x: Tensor) -> float:
        """Return the factor that `zeroed(x)` leaves out, 1 where it leaves out none."""
        if not self.training or self.p == 0.0 or not self._wide(x):
            return 1.0
        return _LANES / (_LANES - self._lanes)

    def _dropped(self, x: Tensor, gain: float) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if not self._wide(x):
            return F.dropout(x, self.p, training=True)
        return _WideDropout.apply(x, self._lanes, gain)

    @property
    def _lanes(self) -> int:
        return round(self.p * _LANES)

    def _wide(self, x: Tensor) -> bool:
        wide = self.fast and x.device.type == "cpu" and 0 < self._lanes < _LANES and x.is_floating_point()
        return wide and not torch.compiler.is_compiling()  # the compiler fuses its own random draws

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        return f"p={self.p}, fast={self.fast}"


class _WideDropout(torch.autograd.Function):
    """Keeps one byte per element for the backward pass, as torch's own does with its mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lanes: int, gain: float) -> Tensor:
        n = x.numel()
        # The full range is named: random_() without it never sets the sign bit, and every fourth lane would
        # be biased.
        words = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        # As bytes: the conversion from bool to float is not vectorised and takes three times as long.
        keep = (words.view(torch.int16)[:n] >= lanes - _LANES // 2).view(x.shape).view(torch.uint8)
        ctx.save_for_backward(keep)
        ctx.gain = gain
        return _masked(x, keep, gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _masked(grads[0], ctx.saved_tensors[0], ctx.gain), None, None


def _masked(x: Tensor, keep: Tensor, gain: float) -> Tensor:
    mask = keep.to(x.dtype)
    if gain != 1.0:
        mask.mul_(gain)
    return mask.mul_(x)
