"""Transformer block of GPhyT: attention over all space-time tokens with doubled projections, and an MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.dropout import Dropout

__all__ = ["Attention", "PhysicsBlock", "Rotary"]

Tables = tuple[Tensor, Tensor]


class Rotary(nn.Module):
    """Frequencies of the rotary positions: a third of the width each for time, second and first space axis.

    They are buffers because official checkpoints hold them.

    Args:
        width: Features of a token, a multiple of 6.
        base: Of the geometric row of frequencies.
    """

    def __init__(self, width: int, *, base: float = 10000.0) -> None:
        super().__init__()
        self.third, self.base = width // 3, base
        self.register_buffer("time_inv_freq", torch.empty(self.third // 2))
        self.register_buffer("spatial_inv_freq", torch.empty(self.third // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Write the frequencies."""
        for frequencies in (self.time_inv_freq, self.spatial_inv_freq):
            steps = torch.arange(0, self.third, 2, dtype=torch.float32, device=frequencies.device)
            with torch.no_grad():
                frequencies.copy_(1.0 / self.base ** (steps / self.third))

    def tables(self, grid: tuple[int, int, int]) -> Tables:
        """Return cosines and sines of every token's angles, each `(N, width)`, tokens in row-major order."""
        places = [torch.arange(n, device=self.time_inv_freq.device, dtype=torch.float32) for n in grid]
        t, y, x = (p.flatten() for p in torch.meshgrid(*places, indexing="ij"))
        by_axis = ((t, self.time_inv_freq), (x, self.spatial_inv_freq), (y, self.spatial_inv_freq))
        angles = torch.cat([torch.outer(p, f.float()).repeat(1, 2) for p, f in by_axis], dim=-1)
        return angles.cos(), angles.sin()

    def forward(self, x: Tensor, tables: Tables) -> Tensor:
        """Turn `(B, N, width)` by the angles; halves of each third are the two coordinates of a rotation."""
        cos, sin = (table.to(x.dtype) for table in tables)
        first, second = x.unflatten(-1, (3, 2, -1)).unbind(-2)  # B N 3 width/6
        turned = torch.stack([-second, first], dim=-2).flatten(-3)
        return torch.addcmul(x * cos, turned, sin)


class Attention(nn.Module):
    """Attention of all space-time tokens, with two linear maps in a row before queries, keys and values.

    The published network maps its input to queries, keys and values and then gives them to a complete
    attention layer, which maps them once more. Both maps are kept, so that official checkpoints fit. Without
    a rotation between them their product is applied where that costs less: with more tokens than features.

    Args:
        width: Features of a token.
        heads: A divisor of it.
        grid: Tokens along time and both axes.
        causal: Whether a token sees none of later times.
        rotary: Whether queries and keys are turned by their positions.
        dropout: Of the attention weights.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        grid: tuple[int, int, int],
        causal: bool,
        rotary: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.heads, self.grid, self.causal, self.dropout = heads, grid, causal, dropout
        self.first = nn.Linear(width, 3 * width, bias=False)
        self.second = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.rotary = Rotary(width) if rotary else None
        if causal:
            tokens = grid[0] * grid[1] * grid[2]
            self.register_buffer("mask", torch.empty(tokens, tokens, dtype=torch.bool))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as the published network does and write the mask (true = hidden)."""
        self.first.reset_parameters()
        nn.init.xavier_uniform_(self.second.weight)
        nn.init.zeros_(self.second.bias)
        self.out.reset_parameters()
        nn.init.zeros_(self.out.bias)
        if self.rotary is not None:
            self.rotary.reset_parameters()
        if self.causal:
            time, height, width = self.grid
            slot = torch.arange(time, device=self.mask.device).repeat_interleave(height * width)
            with torch.no_grad():
                self.mask.copy_(slot[None, :] > slot[:, None])

    def forward(self, x: Tensor, tables: Tables | None) -> Tensor:
        """Map `(B, N, D)` to the same shape.

        Args:
            x: Tokens, row-major over time, first and second space axis.
            tables: Of `Rotary`, where positions are rotary.
        """
        q, k, v = self._heads(x, tables)
        p = self.dropout if self.training else 0.0
        if self.causal:
            # A slot of time sees whole slots, so that each is one product without a mask, over what it sees.
            slot = self.grid[1] * self.grid[2]
            ends = range(slot, x.shape[1] + 1, slot)
            seen = [
                F.scaled_dot_product_attention(
                    q[:, :, end - slot : end], k[:, :, :end], v[:, :, :end], dropout_p=p
                )
                for end in ends
            ]
            h = torch.cat(seen, dim=2)
        else:
            h = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        return self.out(h.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, tables: Tables | None) -> list[Tensor]:
        """Return queries, keys and values, each `(B, heads, N, D / heads)`."""
        width = x.shape[-1]
        few = x.shape[0] * x.shape[1] <= width
        if self.rotary is None and not few:
            first, second = self.first.weight.view(3, width, width), self.second.weight.view(3, width, width)
            mapped = F.linear(x, (second @ first).flatten(0, 1), self.second.bias).chunk(3, dim=-1)
        else:
            once = self.first(x).chunk(3, dim=-1)
            if self.rotary is not None:
                assert tables is not None
                once = (self.rotary(once[0], tables), self.rotary(once[1], tables), once[2])
            weights, biases = self.second.weight.chunk(3), self.second.bias.chunk(3)
            mapped = tuple(F.linear(*given) for given in zip(once, weights, biases, strict=True))
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in mapped]


class PhysicsBlock(nn.Module):
    """Pre-norm attention and MLP, each beside the identity, each left out for some samples in training."""

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        *,
        grid: tuple[int, int, int],
        causal: bool,
        rotary: bool,
        dropout: float,
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, grid=grid, causal=causal, rotary=rotary, dropout=dropout)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)
        self.stochastic_depth = stochastic_depth

    def forward(self, x: Tensor, tables: Tables | None) -> Tensor:
        """Map `(B, N, D)` to the same shape."""
        x = x + self._sometimes(self.attention(self.norm1(x), tables))
        return x + self._sometimes(self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x))))))

    def _sometimes(self, branch: Tensor) -> Tensor:
        """Zero the branch of whole samples and scale the others, so that the mean is kept."""
        if not self.training or self.stochastic_depth == 0.0:
            return branch
        keep = 1.0 - self.stochastic_depth
        kept = branch.new_empty(len(branch), 1, 1).bernoulli_(keep)
        return branch * (kept / keep if keep > 0.0 else kept)
