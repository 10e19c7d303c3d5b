"""Prithvi's autoencoder written straight from its published description: what ours is compared with.

It is independent of `apps.remote_sensing` and of core's backbones: a strided convolution for the patches,
every token embedded before most are dropped, positions as NumPy tables. Parameters have the official names,
so the same weights load here and, through the key map, into ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

Settings = dict[str, Any]


def code(width: int, positions: np.ndarray) -> np.ndarray:
    """Return sines and then cosines of `positions / 10000 ** (2 k / width)`."""
    angles = np.outer(positions, 10000.0 ** (-np.arange(width // 2) / (width / 2)))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def coordinate(width: int, values: Tensor) -> Tensor:
    """Return the code of a year, day, latitude or longitude, in float32."""
    frequencies = 1.0 / 10000 ** (torch.arange(width // 2, dtype=torch.float32) / (width / 2.0))
    angles = values[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def table(width: int, built: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Return `(1, 1 + L, width)`: column, row and frame; the built rows and columns resized to the grid."""
    part, (t, h, w) = width // 16, (grid[0], built[1], built[2])
    column = repeat(code(6 * part, np.arange(w)), "w d -> (t h w) d", t=t, h=h)
    row = repeat(code(6 * part, np.arange(h)), "h d -> (t h w) d", t=t, w=w)
    frame = repeat(code(4 * part, np.arange(t)), "t d -> (t h w) d", h=h, w=w)
    places = torch.from_numpy(np.concatenate([column, row, frame], axis=1)).float()
    if tuple(grid) != tuple(built):
        image = rearrange(places, "(t h w) d -> t d h w", t=t, h=h)
        image = F.interpolate(image, tuple(grid[1:]), mode="bicubic", align_corners=True)
        places = rearrange(image, "t d h w -> (t h w) d")
    return torch.cat([torch.zeros(1, width), places])[None]


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, ratio: float, eps: float) -> None:
        super().__init__()
        hidden, self.heads = int(width * ratio), heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = rearrange(
            self.attn["qkv"](self.norm1(x)), "b n (k h d) -> k b h n d", k=3, h=self.heads
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.attn["proj"](rearrange(mixed, "b h n d -> b n (h d)"))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Scale(nn.Module):
    """The strength of the code of dates or places."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, values: Tensor, width: int) -> Tensor:
        first = width // 2
        pair = (coordinate(first, values[..., 0]), coordinate(width - first, values[..., 1]))
        return self.scale * torch.cat(pair, dim=-1)


class Half(nn.Module):
    """What encoder and decoder share: blocks, a norm, and codes added to the tokens."""

    def __init__(
        self, width: int, depth: int, heads: int, *, names: Sequence[str], settings: Settings
    ) -> None:
        super().__init__()
        blocks, norm, self.time, self.location = names
        self.width, self.built = width, settings["grid"]
        ratio, eps = settings["mlp_ratio"], settings["eps"]
        self.add_module(blocks, nn.ModuleList(Block(width, heads, ratio, eps) for _ in range(depth)))
        self.add_module(norm, nn.LayerNorm(width, eps=eps))
        for name, wanted in ((self.time, "time"), (self.location, "location")):
            if wanted in settings["coordinates"]:
                self.add_module(name, Scale())

    def placed(self, x: Tensor, grid: Sequence[int], time: Tensor | None, location: Tensor | None) -> Tensor:
        x = x + table(self.width, self.built, grid)[:, 1:]
        if time is not None and hasattr(self, self.time):
            dates = getattr(self, self.time)(time, self.width)
            x = x + repeat(dates, "b t d -> b (t n) d", n=grid[1] * grid[2])
        if location is not None and hasattr(self, self.location):
            x = x + getattr(self, self.location)(location, self.width)[:, None]
        return x


class Encoder(Half):
    """Patches to tokens."""

    def __init__(self, settings: Settings) -> None:
        width = settings["width"]
        names = ("blocks", "norm", "temporal_embed_enc", "location_embed_enc")
        super().__init__(width, settings["depth"], settings["heads"], names=names, settings=settings)
        patch, bands = tuple(settings["patch"]), settings["bands"]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(bands, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(
        self,
        x: Tensor,
        grid: Sequence[int],
        time: Tensor | None,
        location: Tensor | None,
        keep: Tensor | None,
    ) -> Tensor:
        h = rearrange(self.patch_embed["proj"](x), "b d t h w -> b (t h w) d")
        h = self.placed(h, grid, time, location)
        if keep is not None:
            h = h.gather(1, repeat(keep, "b k -> b k d", d=self.width))
        h = torch.cat([self.cls_token.expand(len(h), -1, -1), h], dim=1)
        for block in self.blocks:
            h = block(h)
        return self.norm(h)


class Decoder(Half):
    """Tokens to the pixels of all patches."""

    def __init__(self, settings: Settings) -> None:
        width, pixels = settings["decoder_width"], math.prod(settings["patch"]) * settings["bands"]
        names = ("decoder_blocks", "decoder_norm", "temporal_embed_dec", "location_embed_dec")
        depth, heads = settings["decoder_depth"], settings["decoder_heads"]
        super().__init__(width, depth, heads, names=names, settings=settings)
        self.decoder_embed = nn.Linear(settings["width"], width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pred = nn.Linear(width, pixels)

    def forward(
        self, h: Tensor, grid: Sequence[int], time: Tensor | None, location: Tensor | None, back: Tensor
    ) -> Tensor:
        h = self.decoder_embed(h)
        empty = self.mask_token.expand(len(h), back.shape[1] + 1 - h.shape[1], -1)
        places = torch.cat([h[:, 1:], empty], dim=1).gather(1, repeat(back, "b l -> b l d", d=self.width))
        h = torch.cat([h[:, :1], self.placed(places, grid, time, location)], dim=1)
        for block in self.decoder_blocks:
            h = block(h)
        return self.decoder_pred(self.decoder_norm(h))[:, 1:]


class PlainPrithvi(nn.Module):
    """The autoencoder; `settings` are our names with every value given, `bands` a number."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        sides = (settings["frames"], *settings["resolution"])
        settings["grid"] = [n // p for n, p in zip(sides, settings["patch"], strict=True)]
        self.settings = settings
        self.encoder, self.decoder = Encoder(settings), Decoder(settings)

    def features(self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None) -> Tensor:
        """Return the normed tokens of the last block."""
        return self.encoder(x, self.grid(x), time, location, None)

    def grid(self, x: Tensor) -> list[int]:
        """Return the patches along frames, rows and columns."""
        return [n // p for n, p in zip(x.shape[2:], self.settings["patch"], strict=True)]

    def forward(
        self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None, *, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the prediction `(B, L, pixels)`."""
        grid, (t, p, q) = self.grid(x), self.settings["patch"]
        tokens = math.prod(grid)
        order = noise.argsort(dim=1)
        back, kept = order.argsort(dim=1), int(tokens * (1 - self.settings["mask_ratio"]))
        latent = self.encoder(x, grid, time, location, order[:, :kept])
        prediction = self.decoder(latent, grid, time, location, back)
        target = rearrange(x, "b c (i t) (j p) (k q) -> b (i j k) (t p q c)", t=t, p=p, q=q)
        if self.settings["norm_pix"]:
            spread = (target.var(-1, keepdim=True) + 1e-6) ** 0.5
            target = (target - target.mean(-1, keepdim=True)) / spread
        removed = (back >= kept).float()
        return (((prediction - target) ** 2).mean(-1) * removed).sum() / removed.sum(), prediction
