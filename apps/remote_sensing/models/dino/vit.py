"""DINOv2's vision transformer on any number of bands (Oquab et al. 2023, arXiv 2304.07193)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.remote_sensing.models.dino.sensors import S2, SensorNetwork
from core.backbones import vit
from core.errors import UserError

__all__ = ["DinoBlock", "SoftConViT", "ViTTokens"]


# Up to this rate every sample runs through a branch and its result may be thrown away.
_SUBSAMPLED_ABOVE = 0.1


@dataclass(frozen=True)
class ViTTokens:
    """Tokens of a batch of images.

    Args:
        cls: `(B, D)`, the class token after the final norm: the feature of the image.
        registers: `(B, R, D)` after the final norm.
        patches: `(B, N, D)` after the final norm, row by row.
        unnormed: `(B, 1 + R + N, D)`, all tokens before the final norm.
    """

    cls: Tensor
    registers: Tensor
    patches: Tensor
    unnormed: Tensor


class SoftConViT(SensorNetwork):
    """Vision transformer with learned positions, a class token, optional registers and a mask token.

    Args:
        bands: Bands of the input in their order; 13 of Sentinel-2 or 2 of Sentinel-1 by default sizes. Also a
            mere number of bands.
        width: Features of a token.
        depth: Blocks.
        heads: A divisor of `width`.
        patch: Side of a patch in pixels.
        image: Side in pixels of the images that the table of positions is made for.
        mlp_ratio: Hidden features of the MLPs over `width`.
        layer_scale: First value of the factors on the branches; None leaves them out.
        registers: Further tokens without a position.
        drop_path: Probability that a sample skips a branch: of the last block, growing evenly from 0 in the
            first, or of every block with `drop_path_uniform`.
        drop_path_uniform: Whether all blocks have the same `drop_path`.
        ffn: `mlp`, `swiglu` or `swiglufused`.
        antialias: Whether positions are smoothed first where their grid shrinks.
        offset: Added to the counts of patches before positions are resized; published weights have 0.1.
        eps: Of the layer norms.
    """

    def __init__(
        self,
        bands: Sequence[str] | int = S2.bands,
        *,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 14,
        image: int = 224,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = 1e-5,
        registers: int = 0,
        drop_path: float = 0.0,
        drop_path_uniform: bool = False,
        ffn: str = "mlp",
        antialias: bool = False,
        offset: float = 0.1,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(bands)
        _check(width=width, heads=heads, patch=patch, image=image, ffn=ffn)
        self.width, self.depth, self.heads, self.patch, self.image = width, depth, heads, patch, image
        self.antialias, self.offset = antialias, offset
        self.settings = {
            "mlp_ratio": mlp_ratio,
            "layer_scale": layer_scale,
            "registers": registers,
            "drop_path": drop_path,
            "drop_path_uniform": drop_path_uniform,
            "ffn": ffn,
            "eps": eps,
        }
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (image // patch) ** 2, width))
        self.register_tokens = nn.Parameter(torch.empty(1, registers, width)) if registers else None
        # Without a gradient until something masks: ranks wait for every parameter that has one.
        self.mask_token = nn.Parameter(torch.empty(1, width), requires_grad=False)
        self.patch_embed = nn.Conv2d(len(self.bands), width, kernel_size=patch, stride=patch)
        rates = [drop_path if drop_path_uniform else drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.layers = nn.ModuleList(
            DinoBlock(
                width,
                heads,
                mlp_ratio,
                layer_scale=layer_scale,
                drop_path=rate,
                ffn=ffn,
                eps=eps,
            )
            for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.reset_parameters()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the feature of each image, its class token after the final norm.

        Args:
            x: `(B, C, H, W)` or `(B, C, 1, H, W)`, normalised; sides are multiples of the patch.
            mask: `(B, N)` bool, True where the mask token takes the place of a patch.

        Returns:
            `(B, D)`.
        """
        return self.encode(x, mask).cls

    def encode(self, x: Tensor, mask: Tensor | None = None, *, kept: Tensor | None = None) -> ViTTokens:
        """Return all tokens of each image.

        Args:
            x: As in `forward`.
            mask: As in `forward`.
            kept: `(B, K)` int64, the patches that are looked at at all; the others take neither time nor
                memory, and `patches` has K tokens in this order.

        Raises:
            UserError: If an image does not fit the network.
        """
        tokens = self._embed(self._fitting(x), mask, kept)
        for layer in self.layers:
            tokens = layer(tokens)
        return self._split(tokens)

    def layer_tokens(self, x: Tensor, layers: Sequence[int], *, norm: bool = True) -> list[ViTTokens]:
        """Return the tokens after some blocks.

        Args:
            x: As in `forward`.
            layers: Numbers of blocks from 0, or from the end if negative; the order is kept.
            norm: Whether each goes through the final norm, which was trained for the last one only.

        Raises:
            UserError: If there is no such block, or an image does not fit.
        """
        if any(not -self.depth <= i < self.depth for i in layers):
            raise UserError(f"layers is {list(layers)}; the network has blocks 0 to {self.depth - 1}")
        wanted = [i % self.depth for i in layers]
        tokens, kept = self._embed(self._fitting(x), None, None), {}
        for i, layer in enumerate(self.layers[: max(wanted) + 1]):
            tokens = layer(tokens)
            if i in wanted:
                kept[i] = self._split(tokens, norm=norm)
        return [kept[i] for i in wanted]

    def layer_maps(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return the patches' tokens after some blocks, normed, as images."""
        h, w = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        return [tokens.patches.mT.unflatten(-1, (h, w)) for tokens in self.layer_tokens(x, layers)]

    @property
    def layer_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Of each block the features of a date, and the rows and columns of a patch."""
        return ((self.width, self.patch, self.patch),) * self.depth

    def probe_features(self, x: Tensor, *, layers: int = 1, patches: bool | None = None) -> Tensor:
        """Return the features that a linear probe sees, as DINOv2's evaluation joins them.

        Args:
            x: As in `forward`.
            layers: How many of the last blocks give their class tokens; 1 or 4 in the published results.
            patches: Whether the mean patch token of the last block comes along; None does so for more than
                one layer.

        Returns:
            `(B, (layers + patches) * D)`.
        """
        last = self.layer_tokens(x, range(-layers, 0))
        parts = [tokens.cls for tokens in last]
        if layers > 1 if patches is None else patches:
            parts.append(last[-1].patches.mean(dim=1))
        return torch.cat(parts, dim=-1)

    def positions(self, rows: int, columns: int, table: Tensor | None = None) -> Tensor:
        """Return the positions of the class token and of a grid of patches, `(1, 1 + rows * columns, D)`.

        Args:
            rows: Of patches.
            columns: Of patches.
            table: `(1, 1 + N, D)`, those of another grid; None is the network's own.
        """
        table = self.pos_embed if table is None else table
        side = _side_of(table.shape[1] - 1)
        if rows == columns == side:
            return table
        grid = _resized(table[:, 1:], (rows, columns), antialias=self.antialias, offset=self.offset)
        return torch.cat([table[:, :1], grid], dim=1)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the transformer blocks."""
        yield from self.layers

    def reset_parameters(self) -> None:
        """Draw all weights anew as DINOv2 does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.zeros_(self.mask_token)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)

    def _embed(self, x: Tensor, mask: Tensor | None, kept: Tensor | None) -> Tensor:
        """Map an image `(B, C, H, W)` to the tokens `(B, 1 + R + N, D)` that go into the first block."""
        embedded = self.patch_embed(x)
        rows, columns = embedded.shape[-2:]
        patches = embedded.flatten(2).transpose(1, 2)  # B D h w -> B N D
        if mask is not None:
            patches = torch.where(mask[..., None], self.mask_token.to(patches.dtype)[None], patches)
        positions = self.positions(rows, columns).to(patches.dtype)
        patches = patches + positions[:, 1:]
        if kept is not None:
            patches = patches.gather(1, kept[..., None].expand(-1, -1, self.width))
        first = (self.cls_token + positions[:, :1]).expand(len(x), -1, -1)
        middle = () if self.register_tokens is None else (self.register_tokens.expand(len(x), -1, -1),)
        return torch.cat([first, *middle, patches], dim=1)

    def _split(self, tokens: Tensor, *, norm: bool = True) -> ViTTokens:
        out = self.norm(tokens) if norm else tokens
        first = 1 + int(self.settings["registers"])
        return ViTTokens(cls=out[:, 0], registers=out[:, 1:first], patches=out[:, first:], unnormed=tokens)

    def _fitting(self, x: Tensor) -> Tensor:
        x = self.one_frame(x)
        if x.shape[-2] % self.patch or x.shape[-1] % self.patch:
            raise UserError(
                f"the images have {x.shape[-2]}x{x.shape[-1]} pixels; both sides must be multiples of the "
                f"patch, {self.patch}: resize, crop or pad them, for instance to {self.image}x{self.image}"
            )
        return x


def _check(*, width: int, heads: int, patch: int, image: int, ffn: str) -> None:
    if heads < 1 or width % heads:
        raise UserError(f"width is {width} and heads {heads}; heads must divide the width")
    if patch < 1 or image < patch or image % patch:
        raise UserError(f"image is {image} and patch {patch}; the patch must divide the image")
    if ffn not in ("mlp", "swiglu", "swiglufused"):
        raise UserError(f"ffn is {ffn!r}; it must be mlp, swiglu or swiglufused")


class DinoBlock(vit.EncoderBlock):
    """DINOv2's block: `x + ls1(attn(norm1(x)))`, then `x + ls2(mlp(norm2(x)))`.

    Args:
        width: Features D of a token.
        heads: A divisor of it.
        mlp_ratio: Hidden features of the MLP over `width`.
        layer_scale: First value of the factor on each feature of a branch; None leaves the factors out.
        drop_path: Probability that a sample skips a branch in training. Above 0.1 the branch runs on a random
            subset of exactly that size, which saves its time and memory; its result is scaled up alike.
        ffn: `mlp` (GELU), `swiglu`, or `swiglufused` (the same with two thirds of the hidden features).
        eps: Of the layer norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        layer_scale: float | None = 1e-5,
        drop_path: float = 0.0,
        ffn: str = "mlp",
        eps: float = 1e-6,
    ) -> None:
        super().__init__(width, heads, mlp_ratio, drop_path=drop_path, layer_scale=layer_scale, eps=eps)
        if ffn != "mlp":
            hidden = int(width * mlp_ratio)
            self.mlp = SwiGLU(width, (hidden * 2 // 3 + 7) // 8 * 8 if ffn == "swiglufused" else hidden)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `(B, N, D)` to the same shape; `mask` `(B, 1, 1 or N, N)` is True where a token may look."""
        if not self.training or self.drop_path <= _SUBSAMPLED_ABOVE or mask is not None:
            return super().forward(x, mask)
        x = self._part_of(x, lambda part: self.ls1(self.attn(self.norm1(part))))
        return self._part_of(x, lambda part: self.ls2(self.mlp(self.norm2(part))))

    def _part_of(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Add a branch of a random part of the batch."""
        count = len(x)
        kept = max(int(count * (1 - self.drop_path)), 1)
        chosen = torch.randperm(count, device=x.device)[:kept]
        return x.index_add(0, chosen, branch(x[chosen]).to(x.dtype), alpha=count / kept)


class SwiGLU(nn.Module):
    """Gated MLP, `w3(silu(a) * b)` with a and b the two halves of `w12(x)` (Shazeer 2020, arXiv 2002.05202).

    Args:
        width: Features in and out.
        hidden: Features of each half.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)`."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


def _resized(table: Tensor, grid: tuple[int, int], *, antialias: bool, offset: float) -> Tensor:
    """Resize the positions of a square grid bicubically.

    An `offset` is added to both counts before they become scale factors: published weights were trained with
    0.1, which shifts every sampling point a little; 0 samples exactly.

    Args:
        table: `(1, N, D)`, row by row, N a square number; computed in float32.
        grid: Rows and columns wanted.
        antialias: Whether to smooth first where the grid shrinks.
        offset: As said above.
    """
    side = _side_of(table.shape[1])
    image = table.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)  # B N D -> B D h w
    if offset:
        factors = tuple((count + offset) / side for count in grid)
        resized = F.interpolate(image, scale_factor=factors, mode="bicubic", antialias=antialias)
    else:
        resized = F.interpolate(image, size=grid, mode="bicubic", antialias=antialias)
    if tuple(resized.shape[-2:]) != grid:
        raise UserError(
            f"a grid of {side}x{side} positions with the offset {offset} gives "
            f"{resized.shape[-2]}x{resized.shape[-1]} instead of {grid[0]}x{grid[1]}; keep the offset below 1"
        )
    return resized.flatten(2).transpose(1, 2).to(table.dtype)


def _side_of(count: int) -> int:
    side = math.isqrt(count)
    if side * side != count:
        raise UserError(f"{count} positions are no square grid, and nothing says what else they are")
    return side
