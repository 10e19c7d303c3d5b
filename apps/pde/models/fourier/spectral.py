"""The convolution of a Fourier neural operator: a product on the lowest frequencies (Li et al. 2020, arXiv
2010.08895, section 4).

Kept modes stand first in memory, one matrix per mode: the product over channels is then a batched matrix
product, several times faster than a contraction over a tensor whose modes are last.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SpectralConv"]


class SpectralConv(nn.Module):
    """Multiply the low frequencies of each axis by a matrix over the channels, drop all others, add a bias.

    An axis of n points and m modes keeps the frequencies -(m // 2) to m - m // 2 - 1, the last axis 0 to
    m // 2. On a grid with fewer frequencies the middle of the weight is used (its beginning on the last
    axis), so that a weight acts on the same frequencies at every resolution. Transforms are scaled by 1/n
    forward and not at all backward.

    Args:
        width: Channels in and out.
        modes: Frequencies kept along each axis, negative ones included.
        stored: Frequencies that the weight has, at least `modes`; None is `modes`.
        enforce_hermitian: Whether what a real field cannot have (an imaginary part at frequency 0 and, for
            even n, n / 2 of the last axis) is removed before the last inverse transform. Transforms on a CPU
            do not look at it.
    """

    def __init__(
        self,
        width: int,
        modes: Sequence[int],
        *,
        stored: Sequence[int] | None = None,
        enforce_hermitian: bool = True,
    ) -> None:
        super().__init__()
        self.width = width
        self.modes = _kept(modes)
        self.enforce_hermitian = enforce_hermitian
        size = self.modes if stored is None else _kept(stored)
        # M1 … Mn I O 2: complex numbers as pairs, which fused optimisers and half precision can hold
        self.weight = nn.Parameter(torch.empty(*size, width, width, 2))
        self.bias = nn.Parameter(torch.empty(width, *[1] * len(size)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw complex weights of standard deviation `sqrt(2 / (in + out))` and biases of the same."""
        std = sqrt(1 / self.width)
        nn.init.normal_(self.weight, std=std / sqrt(2))  # each of the two parts
        nn.init.normal_(self.bias, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, *space)` to the same shape."""
        kind = x.dtype
        x = x if kind in (torch.float32, torch.float64) else x.float()  # no transforms in half precision
        sizes = x.shape[2:]
        weight = torch.view_as_complex(self.weight.to(x.dtype))
        weight = weight[_middle(weight.shape[:-2], self.modes, sizes)]
        kept = weight.shape[:-2]
        low = analyse(x, kept).flatten(0, -3)  # M B I
        out = torch.bmm(low, weight.flatten(0, -3)).unflatten(0, kept)  # M1 … Mn B O
        # The bias of a field is its frequency 0 alone, so it costs one of many modes and not the grid.
        zero = (*(k // 2 for k in kept[:-1]), 0)
        out[zero] = out[zero] + self.bias.to(x.dtype).flatten()
        return synthesise(out, sizes, enforce_hermitian=self.enforce_hermitian).to(kind)

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        return f"{self.width}, modes={self.modes}, stored={tuple(self.weight.shape[:-3])}"


def analyse(x: Tensor, kept: Sequence[int]) -> Tensor:
    """Return the low frequencies `(*kept, B, C)` of `x (B, C, *space)`, in rising order along each axis."""
    return _Analysis.apply(x, tuple(kept))


def synthesise(modes: Tensor, sizes: Sequence[int], *, enforce_hermitian: bool = True) -> Tensor:
    """Return the real field `(B, C, *sizes)` whose low frequencies are `modes (*kept, B, C)`."""
    return _Synthesis.apply(modes, tuple(sizes), enforce_hermitian)


class _Analysis(torch.autograd.Function):
    """Each of the two transforms is, up to a factor a column, the other's adjoint.

    Written out, a gradient costs what the transform costs; torch's own fills cropped spectra with zeros and
    sends them through complex transforms of full size.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, kept: tuple[int, ...]) -> Tensor:
        return _analyse(x, kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, ctx.kept = inputs
        ctx.sizes = tuple(x.shape[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        factors = _columns(ctx.kept[-1], ctx.sizes[-1], 0.5, like=grad) / prod(ctx.sizes)
        return _Synthesis.apply(grad * factors, ctx.sizes, True), None


class _Synthesis(torch.autograd.Function):
    """The adjoint of `_Analysis`, up to a factor a column."""

    generate_vmap_rule = True

    @staticmethod
    def forward(modes: Tensor, sizes: tuple[int, ...], enforce_hermitian: bool) -> Tensor:
        return _synthesise(modes, sizes, enforce_hermitian)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        modes, ctx.sizes, _ = inputs
        ctx.kept = tuple(modes.shape[:-2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        factors = _columns(ctx.kept[-1], ctx.sizes[-1], 2.0, like=grad) * prod(ctx.sizes)
        return _Analysis.apply(grad, ctx.kept) * factors, None, None


def _columns(kept: int, n: int, inner: float, *, like: Tensor) -> Tensor:
    """Return `(kept, 1, 1)`: `inner` for the frequencies that also stand for their negative, else 1."""
    factors = torch.full((kept, 1, 1), inner, dtype=like.real.dtype, device=like.device)
    factors[0] = 1.0
    if 2 * (kept - 1) == n:
        factors[-1] = 1.0
    return factors


def _analyse(x: Tensor, kept: Sequence[int]) -> Tensor:
    sizes, last = x.shape[2:], kept[-1]
    # Many modes: one transform over all axes is faster than leaving columns out in between.
    whole = len(kept) > 1 and 2 * last > sizes[-1] // 2 + 1
    axes = tuple(range(2, x.ndim)) if whole else (-1,)
    spectrum = torch.fft.rfftn(x, dim=axes, norm="forward")[..., :last]
    spectrum = spectrum.movedim((0, 1), (-2, -1))  # B C … -> … B C
    for axis, (n, k) in enumerate(zip(sizes[:-1], kept[:-1], strict=True)):
        if not whole:
            spectrum = _along(torch.fft.fft, spectrum, axis)
        below = k // 2
        parts = [spectrum.narrow(axis, n - below, below), spectrum.narrow(axis, 0, k - below)]
        spectrum = torch.cat(parts, axis)
    return spectrum.contiguous()


def _synthesise(modes: Tensor, sizes: Sequence[int], enforce_hermitian: bool) -> Tensor:
    spectrum = modes.movedim((-2, -1), (0, 1))
    for axis, n in enumerate(sizes[:-1], start=2):
        k = spectrum.shape[axis]
        shape = [n - k if i == axis else size for i, size in enumerate(spectrum.shape)]
        above = spectrum.narrow(axis, k // 2, k - k // 2)
        below = spectrum.narrow(axis, 0, k // 2)
        spectrum = torch.cat([above, spectrum.new_zeros(()).expand(shape), below], axis)
        spectrum = _along(torch.fft.ifft, spectrum, axis)
    if enforce_hermitian and spectrum.device.type != "cpu":
        spectrum = _realisable(spectrum, sizes[-1])
    return torch.fft.irfft(spectrum, n=sizes[-1], norm="forward")


def _along(transform: object, x: Tensor, axis: int) -> Tensor:
    """Transform along `axis`, which is brought to the end: transforms of contiguous rows are faster."""
    rows = x.transpose(axis, -1).contiguous()
    return transform(rows, norm="forward").transpose(axis, -1)  # type: ignore[operator]


def _realisable(spectrum: Tensor, n: int) -> Tensor:
    columns = torch.ones(spectrum.shape[-1], device=spectrum.device, dtype=spectrum.real.dtype)
    columns[0] = 0
    if n % 2 == 0 and spectrum.shape[-1] == n // 2 + 1:
        columns[-1] = 0
    return torch.complex(spectrum.real, spectrum.imag * columns)


def _kept(modes: Sequence[int]) -> tuple[int, ...]:
    """Return the number of stored frequencies along each axis: the last has no negative ones."""
    return (*modes[:-1], modes[-1] // 2 + 1)


def _middle(stored: Sequence[int], modes: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    """Return the part of the stored weight that a grid of `sizes` uses."""
    parts = []
    for have, wanted, n in zip(stored[:-1], modes[:-1], sizes[:-1], strict=True):
        spare = have - min(n, wanted)
        parts.append(slice(spare // 2, have - (spare + 1) // 2))
    return (*parts, slice(min(sizes[-1] // 2 + 1, modes[-1], stored[-1])))
