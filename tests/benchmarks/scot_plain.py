"""scOT written straight from its published formulas, with nothing done for speed: what ours is compared with.

It is independent of `apps.pde`: windows by roll, view and permute, the shift mask built in every call, the
position bias gathered before its sigmoid, separate projections, norms by mean and mean of squares. Parameters
have the official names, so the same weights load here and, through the key map, into ours.
`tests/apps/pde/test_scot_plain.py` holds it against the recorded cases, and ours against it.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEFAULTS: dict[str, Any] = {
    "image_size": 128,
    "patch_size": 4,
    "num_channels": 4,
    "num_out_channels": 4,
    "embed_dim": 48,
    "depths": [4, 4, 4, 4],
    "num_heads": [3, 6, 12, 24],
    "skip_connections": [2, 2, 2, 0],
    "window_size": 16,
    "mlp_ratio": 4.0,
    "use_absolute_embeddings": False,
    "residual_model": "convnext",
    "use_conditioning": True,
    "learn_residual": False,
    "qkv_bias": True,
    "layer_norm_eps": 1e-5,
}


class ConditionalNorm(nn.Module):
    """Layer norm whose scale and offset are linear in time."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Linear(1, dim)
        self.bias = nn.Linear(1, dim)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        mean_square = (x**2).mean(dim=-1, keepdim=True)
        x = (x - mean) / (mean_square - mean**2 + self.eps).sqrt()
        weight, bias = self.weight(time.reshape(-1, 1)), self.bias(time.reshape(-1, 1))
        shape = (-1,) + (1,) * (x.dim() - 2) + (x.shape[-1],)
        return weight.view(shape) * x + bias.view(shape)


class Norm(nn.LayerNorm):
    """Plain layer norm that takes a time and ignores it."""

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        return super().forward(x)


def norm(config: dict[str, Any], dim: int, eps: float | None = None) -> nn.Module:
    eps = config["layer_norm_eps"] if eps is None else eps
    return ConditionalNorm(dim, eps) if config["use_conditioning"] else Norm(dim, eps=eps)


def partition(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, window * window, C)."""
    batch, height, width, dim = x.shape
    x = x.view(batch, height // window, window, width // window, window, dim)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, dim)


def merge(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """(B * windows, window * window, C) -> (B, H, W, C)."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


class SelfAttention(nn.Module):
    """Cosine attention in a window with a learnt position bias."""

    relative_table: Tensor
    relative_index: Tensor

    def __init__(self, dim: int, heads: int, window: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.logit_scale = nn.Parameter(torch.log(10 * torch.ones(heads, 1, 1)))
        self.continuous_position_bias_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False)
        )
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        offsets = torch.arange(-(window - 1), window, dtype=torch.float32) / (window - 1) * 8
        offsets = offsets.sign() * torch.log2(offsets.abs() + 1) / math.log2(8)
        table = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)
        self.register_buffer("relative_table", table[None], persistent=False)
        place = torch.arange(window)
        rows, columns = (part.flatten() for part in torch.meshgrid(place, place, indexing="ij"))
        index = (
            (rows[:, None] - rows + window - 1) * (2 * window - 1) + columns[:, None] - columns + window - 1
        )
        self.register_buffer("relative_index", index, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        windows, tokens, dim = x.shape
        query = self.query(x).view(windows, tokens, self.heads, -1).transpose(1, 2)
        key = self.key(x).view(windows, tokens, self.heads, -1).transpose(1, 2)
        value = self.value(x).view(windows, tokens, self.heads, -1).transpose(1, 2)
        logits = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        logits = logits * self.logit_scale.clamp(max=math.log(100)).exp()
        table = self.continuous_position_bias_mlp(self.relative_table).view(-1, self.heads)
        bias = table[self.relative_index].permute(2, 0, 1).contiguous()
        logits = logits + 16 * torch.sigmoid(bias)
        if mask is not None:
            count = mask.shape[0]
            logits = logits.view(-1, count, self.heads, tokens, tokens) + mask[None, :, None]
            logits = logits.view(-1, self.heads, tokens, tokens)
        weights = logits.softmax(dim=-1)
        return (weights @ value).transpose(1, 2).reshape(windows, tokens, dim)


class Dense(nn.Module):
    """A linear layer under the official name `dense`."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)


class Attention(nn.Module):
    """Attention and its output projection."""

    def __init__(self, dim: int, heads: int, window: int, qkv_bias: bool) -> None:
        super().__init__()
        self.self = SelfAttention(dim, heads, window, qkv_bias)
        self.output = Dense(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.output(self.self(x, mask))


class Block(nn.Module):
    """Window attention and MLP, each with a norm on its branch's end."""

    def __init__(self, config: dict[str, Any], dim: int, heads: int, grid: int, *, shifted: bool) -> None:
        super().__init__()
        self.window = min(config["window_size"], grid)
        self.shift = self.window // 2 if shifted and grid > self.window else 0
        self.attention = Attention(dim, heads, self.window, config["qkv_bias"])
        self.layernorm_before = norm(config, dim)
        self.layernorm_after = norm(config, dim)
        width = int(config["mlp_ratio"] * dim)
        self.intermediate = Dense(dim, width)
        self.output = Dense(width, dim)

    def mask(self, height: int, width: int, x: Tensor) -> Tensor:
        """(windows, tokens, tokens): -200 between regions, for the reference adds its -100 twice."""
        regions = x.new_zeros(1, height, width, 1)
        cuts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for number, (rows, columns) in enumerate((rows, columns) for rows in cuts for columns in cuts):
            regions[:, rows, columns] = number
        regions = partition(regions, self.window).squeeze(-1)
        different = regions[:, None] != regions[:, :, None]
        return x.new_zeros(different.shape).masked_fill(different, -200.0)

    def forward(self, x: Tensor, side: int, time: Tensor | None) -> Tensor:
        batch, _, dim = x.shape
        pad = -side % self.window
        grid = F.pad(x.view(batch, side, side, dim), (0, 0, 0, pad, 0, pad))
        padded = side + pad
        mask = None
        if self.shift:
            grid = torch.roll(grid, (-self.shift, -self.shift), dims=(1, 2))
            mask = self.mask(padded, padded, x)
        out = self.attention(partition(grid, self.window), mask)
        grid = merge(out, self.window, padded, padded)
        if self.shift:
            grid = torch.roll(grid, (self.shift, self.shift), dims=(1, 2))
        out = grid[:, :side, :side].reshape(batch, side * side, dim)
        x = x + self.layernorm_before(out, time)
        return x + self.layernorm_after(self.output(F.gelu(self.intermediate(x))), time)


class Merging(nn.Module):
    """Two by two tokens into one of twice the channels."""

    def __init__(self, config: dict[str, Any], dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm(config, 2 * dim, eps=1e-5)

    def forward(self, x: Tensor, side: int, time: Tensor | None) -> Tensor:
        batch, _, dim = x.shape
        x = F.pad(x.view(batch, side, side, dim), (0, 0, 0, side % 2, 0, side % 2))
        parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.norm(self.reduction(torch.cat(parts, dim=-1).view(batch, -1, 4 * dim)), time)


class Unmerging(nn.Module):
    """One token into two by two of half the channels."""

    def __init__(self, config: dict[str, Any], dim: int, finer: int) -> None:
        super().__init__()
        self.finer = finer
        self.upsample = nn.Linear(dim, 2 * dim, bias=False)
        self.mixup = nn.Linear(dim // 2, dim // 2, bias=False)
        self.norm = norm(config, dim // 2, eps=1e-5)

    def forward(self, x: Tensor, side: int, time: Tensor | None) -> Tensor:
        batch, _, dim = x.shape
        x = self.upsample(x).view(batch, side, side, 2, 2, dim // 2).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, 2 * side, 2 * side, dim // 2)[:, : self.finer, : self.finer]
        return self.mixup(self.norm(x.reshape(batch, -1, dim // 2), time))


class Stage(nn.Module):
    """Blocks of one resolution and, where there is another stage, the way to it."""

    def __init__(self, config: dict[str, Any], level: int, *, decoder: bool) -> None:
        super().__init__()
        grid = config["image_size"] // config["patch_size"]
        dim, depth = config["embed_dim"] * 2**level, config["depths"][level]
        order = range(depth - 1, -1, -1) if decoder else range(depth)
        self.blocks = nn.ModuleList(
            Block(config, dim, config["num_heads"][level], grid // 2**level, shifted=i % 2 == 1)
            for i in order
        )
        if decoder and level > 0:
            self.upsample = Unmerging(config, dim, grid // 2 ** (level - 1))
        if not decoder and level < len(config["depths"]) - 1:
            self.downsample = Merging(config, dim)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, math.isqrt(x.shape[1]), time)
        return x


class Stages(nn.Module):
    """The stages of one half of the network."""

    def __init__(self, stages: list[Stage]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(stages)


class ConvNeXt(nn.Module):
    """Depthwise convolution and MLP on a skip connection."""

    def __init__(self, config: dict[str, Any], dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = norm(config, dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.weight = nn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        batch, tokens, dim = x.shape
        side = math.isqrt(tokens)
        image = x.transpose(1, 2).reshape(batch, dim, side, side)
        out = self.norm(self.dwconv(image).permute(0, 2, 3, 1), time)
        out = self.weight * self.pwconv2(F.gelu(self.pwconv1(out)))
        return (image + out.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)


class ResNet(nn.Module):
    """Two convolutions with batch norms on a skip connection."""

    def __init__(self, config: dict[str, Any], dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(dim)
        self.bn2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        batch, tokens, dim = x.shape
        side = math.isqrt(tokens)
        image = x.transpose(1, 2).reshape(batch, dim, side, side)
        out = self.bn2(self.conv2(F.leaky_relu(self.bn1(self.conv1(image)))))
        return (image + out).flatten(2).transpose(1, 2)


class PatchEmbeddings(nn.Module):
    """Patches to tokens."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.patch = config["patch_size"]
        self.projection = nn.Conv2d(
            config["num_channels"], config["embed_dim"], self.patch, stride=self.patch
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, -x.shape[3] % self.patch, 0, -x.shape[2] % self.patch))
        return self.projection(x).flatten(2).transpose(1, 2)


class Embeddings(nn.Module):
    """Patch embedding, its norm, and positions where they are learnt."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.patch_embeddings = PatchEmbeddings(config)
        self.norm = norm(config, config["embed_dim"], eps=1e-5)
        self.position_embeddings = None
        if config["use_absolute_embeddings"]:
            tokens = (config["image_size"] // config["patch_size"]) ** 2
            self.position_embeddings = nn.Parameter(torch.zeros(1, tokens, config["embed_dim"]))

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        x = self.norm(self.patch_embeddings(x), time)
        return x if self.position_embeddings is None else x + self.position_embeddings


class Recovery(nn.Module):
    """Tokens to pixels."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        out, patch = config["num_out_channels"], config["patch_size"]
        self.size = config["image_size"]
        self.projection = nn.ConvTranspose2d(config["embed_dim"], out, patch, stride=patch)
        self.mixup = nn.Conv2d(out, out, 5, padding=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        side = math.isqrt(tokens)
        image = self.projection(x.transpose(1, 2).reshape(batch, dim, side, side))
        return self.mixup(image[:, :, : self.size, : self.size])


class PlainScOT(nn.Module):
    """The whole network; `config` has the official names, what it leaves out is as in the size T."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config = DEFAULTS | config
        levels = range(len(config["depths"]))
        residual = ConvNeXt if config["residual_model"] == "convnext" else ResNet
        self.embeddings = Embeddings(config)
        self.encoder = Stages([Stage(config, level, decoder=False) for level in levels])
        self.residual_blocks = nn.ModuleList(
            nn.ModuleList(
                residual(config, config["embed_dim"] * 2**level)
                for _ in range(config["skip_connections"][level])
            )
            for level in levels
        )
        self.decoder = Stages([Stage(config, level, decoder=True) for level in reversed(levels)])
        self.patch_recovery = Recovery(config)

    def forward(self, pixel_values: Tensor, time: Tensor | None = None) -> Tensor:
        """Map (B, Cin, S, S) at lead times (B,) to (B, Cout, S, S)."""
        size, given = self.config["image_size"], pixel_values.shape[-1]
        pixel_values = resample(pixel_values, size)
        x = self.embeddings(pixel_values, time)
        skips = []
        for stage in self.encoder.layers:
            out = stage(x, time)
            skips.append(out)
            if hasattr(stage, "downsample"):
                x = stage.downsample(out + x, math.isqrt(x.shape[1]), time)
        for level, blocks in enumerate(self.residual_blocks):
            for block in blocks:
                skips[level] = block(skips[level], time)
        x = skips[-1]
        for number, stage in enumerate(self.decoder.layers):
            x = stage(x if number == 0 else x + skips[-1 - number], time)
            if hasattr(stage, "upsample"):
                x = stage.upsample(x, math.isqrt(x.shape[1]), time)
        prediction = self.patch_recovery(x)
        if self.config["learn_residual"] and self.config["use_conditioning"]:
            prediction = prediction + pixel_values[:, : self.config["num_out_channels"]]
        return resample(prediction, given)


def resample(x: Tensor, size: int) -> Tensor:
    """Bring a square image to another side by cutting or padding its spectrum."""
    given = x.shape[-1]
    if given == size:
        return x
    spectrum = torch.fft.fft2(x, norm="forward")
    if size < given:
        wanted = torch.fft.fftfreq(given, d=1 / given).round()
        kept = ((wanted >= -size / 2) & (wanted <= size / 2 - 1)).nonzero().flatten()
        spectrum = spectrum[..., kept, :][..., kept]
    else:
        border = (size - given) // 2
        spectrum = torch.fft.ifftshift(F.pad(torch.fft.fftshift(spectrum, (-2, -1)), (border,) * 4), (-2, -1))
    return torch.fft.ifft2(spectrum, norm="forward").real


def loss(prediction: Tensor, labels: Tensor, p: int, groups: list[int] | None) -> Tensor:
    """Mean error, by groups of channels relative to the labels' size."""

    def error(a: Tensor, b: Tensor | float) -> Tensor:
        return (a - b).abs().mean() if p == 1 else ((a - b) ** 2).mean()

    if groups is None:
        return error(prediction, labels)
    parts = [
        error(prediction[:, a:b], labels[:, a:b]) / (error(labels[:, a:b], 0.0) + 1e-10)
        for a, b in pairwise(groups)
    ]
    return torch.stack(parts).mean()
