"""scOT, the scalable operator transformer of Poseidon (Herde et al. 2024, arXiv 2405.19101).

A U-shaped hierarchy of Swin V2 stages on square fields. Tokens are `(B, X * Y, C)`, row-major.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from apps.pde.models.scot.blocks import ConvNeXtBlock, ResNetBlock, ScOTBlock
from apps.pde.models.scot.levels import (
    DecoderStage,
    Embeddings,
    EncoderStage,
    PatchRecovery,
    resample_spectrally,
)
from core.errors import UserError

__all__ = ["ScOT"]


class Encoder(nn.Module):
    """The stages from the finest level to the coarsest."""

    def __init__(self, stages: Sequence[EncoderStage]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(stages)

    def forward(self, x: Tensor, grids: Sequence[tuple[int, int]], time: Tensor | None) -> list[Tensor]:
        """Return the skip state `(B, X * Y, C)` of every level, finest first."""
        skips = []
        for stage, grid in zip(self.layers, grids, strict=True):
            skip, x = stage(x, grid, time)
            skips.append(skip)
        return skips


class ScOTDecoder(nn.Module):
    """The stages from the coarsest level to the finest."""

    def __init__(self, stages: Sequence[DecoderStage]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(stages)

    def forward(
        self, skips: Sequence[Tensor], grids: Sequence[tuple[int, int]], time: Tensor | None
    ) -> Tensor:
        """Map the skip states, finest first, to tokens of the finest level."""
        x = skips[-1]
        for i, stage in enumerate(self.layers):
            level = len(grids) - 1 - i
            if i > 0:
                x = x + skips[level]
            x = stage(x, grids[level], grids[level - 1] if level else None, time)
        return x


class ScOT(nn.Module):
    """Map fields to fields at a lead time.

    Args:
        resolution: Points along each side of the grid the network works on. Fields on another square grid are
            resampled spectrally before and after, which is right for periodic fields only.
        patch: Points along each side of a patch; zeros are added at the ends where it does not divide the
            resolution.
        in_channels: Channels of the given fields.
        out_channels: Channels of the predicted fields.
        width: Channels of the tokens on the finest level, doubled on every further one.
        depths: Blocks on each level, in the encoder as in the decoder.
        heads: Attention heads on each level; each divides the level's channels.
        skips: Convolution blocks on each level's skip connection; with 0 it is added as it is.
        window: Side of the attention windows; on coarse levels the whole grid.
        mlp_ratio: Hidden width of the blocks' linear layers over their channels.
        conditioned: Whether the norms depend on the lead time.
        residual_blocks: Kind of the blocks on skip connections.
        learn_residual: Whether the prediction is added to the given fields (their first `out_channels`).
        absolute_positions: Whether every token has a learnt vector of its own.
        mask_token: Whether tokens can be hidden from the network.
        qkv_bias: Whether queries and values have a bias.
        rates: Of stochastic depth in the last block (it grows linearly from 0), of dropout on the embedding
            and after the blocks' linear layers, and of dropout on the attention and after it.
        eps: Of the norms in blocks and on skip connections; the others have 1e-5.
        initial_std: Of linear and convolution weights.
        hidden_act: Activation of the blocks' linear layers, by its name in official configurations.

    Raises:
        UserError: If the settings do not fit each other.
    """

    frames = 1

    def __init__(
        self,
        resolution: int = 128,
        patch: int = 4,
        in_channels: int = 4,
        out_channels: int = 4,
        width: int = 48,
        depths: Sequence[int] = (4, 4, 4, 4),
        heads: Sequence[int] = (3, 6, 12, 24),
        skips: Sequence[int] = (2, 2, 2, 0),
        window: int = 16,
        mlp_ratio: float = 4.0,
        conditioned: bool = True,
        residual_blocks: Literal["convnext", "resnet"] = "convnext",
        learn_residual: bool = False,
        absolute_positions: bool = False,
        mask_token: bool = False,
        qkv_bias: bool = True,
        rates: tuple[float, float, float] = (0.0, 0.0, 0.0),
        eps: float = 1e-5,
        initial_std: float = 0.02,
        hidden_act: str = "gelu",
    ) -> None:
        # The settings are kept as given, under the arguments' own names, for to_official_config.
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        settings.update(depths=list(depths), heads=list(heads), skips=list(skips), rates=tuple(rates))
        super().__init__()
        _check_settings(settings)
        self.settings: dict[str, Any] = settings
        drop_path, dropout, attention_dropout = rates
        self.official: dict[str, Any] = {}
        self.in_channels, self.out_channels = in_channels, out_channels
        self.resolution: int | None = None
        self.native_resolution = resolution
        self.conditioned = conditioned
        self.learn_residual = learn_residual and conditioned
        self.initial_std = initial_std
        side = -(-resolution // patch)
        self.grids = [(side, side)]
        for _ in depths[1:]:
            side = (side + 1) // 2
            self.grids.append((side, side))
        self.embeddings = Embeddings(
            in_channels,
            width,
            patch=patch,
            tokens=self.grids[0][0] ** 2,
            conditioned=conditioned,
            absolute_positions=absolute_positions,
            mask_token=mask_token,
            dropout=dropout,
        )
        common = {
            "mlp_ratio": mlp_ratio,
            "conditioned": conditioned,
            "qkv_bias": qkv_bias,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "eps": eps,
            "hidden_act": hidden_act,
        }
        total = sum(depths)
        growing = [drop_path * i / (2 * total - 1) for i in range(2 * total)]
        down, up = [], []
        for level, depth in enumerate(depths):
            # Windows are those of the grid halved without padding: tables of official weights have that size.
            floor = (resolution // patch) >> level
            stage = {
                **common,
                "width": width << level,
                "heads": heads[level],
                "window": min(window, floor),
                "shift": window // 2 if floor > window else 0,
            }
            first, after = sum(depths[:level]), total + sum(depths[level + 1 :])
            last = level == len(depths) - 1
            down.append(EncoderStage(drop_paths=growing[first : first + depth], last=last, **stage))
            up.append(DecoderStage(drop_paths=growing[after : after + depth], last=level == 0, **stage))
        self.encoder = Encoder(down)
        self.decoder = ScOTDecoder(up[::-1])
        self.residual_blocks = nn.ModuleList(
            nn.ModuleList(
                ResNetBlock(width << level)
                if residual_blocks == "resnet"
                else ConvNeXtBlock(width << level, conditioned=conditioned, eps=eps)
                for _ in range(depth)
            )
            for level, depth in enumerate(skips)
        )
        self.patch_recovery = PatchRecovery(width, out_channels, patch=patch)
        self._initialise()

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the transformer blocks and the blocks on skip connections."""
        for module in self.modules():
            if isinstance(module, ScOTBlock | ConvNeXtBlock | ResNetBlock):
                yield module

    def reset_parameters(self) -> None:
        """Draw every weight and compute every buffer anew, as a network built on the meta device needs."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()
        self._initialise()

    def forward(self, fields: Tensor, time: Tensor | None = None, *, masked: Tensor | None = None) -> Tensor:
        """Predict the fields at the lead time.

        Args:
            fields: `(B, C, S, S)`, normalised.
            time: `(B,)` lead time in the data set's time constant, about 0 to 1; networks without
                conditioning pass over it.
            masked: `(B, tokens)`, true where a token is hidden; only with `mask_token`.

        Returns:
            `(B, C', S, S)`, normalised.

        Raises:
            UserError: If a shape does not fit, or the time is missing.
        """
        self._check_fields(fields, time, masked)
        size = fields.shape[-1]
        fields = resample_spectrally(fields, self.native_resolution)
        when = time.reshape(-1, 1).to(fields.dtype) if self.conditioned and time is not None else None
        states = self.encoder(self.embeddings(fields, when, masked), self.grids, when)
        for level, blocks in enumerate(self.residual_blocks):
            for block in blocks:
                states[level] = block(states[level], self.grids[level], when)
        tokens = self.decoder(states, self.grids, when)
        prediction = self.patch_recovery(tokens, self.grids[0], self.native_resolution)
        if self.learn_residual:
            prediction = prediction + fields[:, : self.out_channels]
        return resample_spectrally(prediction, size)

    @property
    def timed(self) -> bool:
        """Whether it takes a lead time, so that one call reaches any time."""
        return bool(self.conditioned)

    def advance(self, history: Tensor, time: Tensor | None = None) -> Tensor:
        """Map `(B, 1, C, S, S)` to the frame at the lead time, `(B, 1, C', S, S)`."""
        return self(history[:, -1], time).unsqueeze(1)

    def _check_fields(self, fields: Tensor, time: Tensor | None, masked: Tensor | None) -> None:
        if fields.dim() != 4 or fields.shape[1] != self.in_channels:
            raise UserError(
                f"scOT was given fields {tuple(fields.shape)}; it takes (batch, {self.in_channels} channels, "
                "side, side)"
            )
        if fields.shape[2] != fields.shape[3]:
            raise UserError(
                f"scOT was given a grid of {fields.shape[2]}x{fields.shape[3]} points; it takes square grids "
                "only: crop, pad or resample the fields"
            )
        if self.conditioned and time is None:
            raise UserError(
                "this scOT is conditioned on the lead time: give one number for each sample (1.0 if steady)"
            )
        if self.conditioned and time is not None and time.numel() != fields.shape[0]:
            raise UserError(
                f"scOT was given {time.numel()} lead times for {fields.shape[0]} samples; give one for each"
            )
        if masked is not None and not self.settings["mask_token"]:
            raise UserError("this scOT has no mask token; build it with mask_token to hide tokens from it")

    def _initialise(self) -> None:
        """Draw linear and convolution weights; transposed convolutions keep torch's own initial values."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=self.initial_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _check_settings(given: Mapping[str, Any]) -> None:
    depths, heads, skips = given["depths"], given["heads"], given["skips"]
    patch, resolution, width = given["patch"], given["resolution"], given["width"]
    if not len(depths) == len(heads) == len(skips) > 0:
        raise UserError(
            f"scOT needs one of depths, heads and skips for each level; there are {len(depths)}, "
            f"{len(heads)} and {len(skips)}"
        )
    if not 1 <= patch <= resolution:
        raise UserError(f"scOT's patch is {patch}; it must be from 1 to the resolution, {resolution}")
    coarsest = (resolution // patch) >> (len(depths) - 1)
    if coarsest < 2:
        raise UserError(
            f"scOT's coarsest grid would be {coarsest}x{coarsest} at resolution {resolution}, patch {patch} "
            f"and {len(depths)} levels; it must be at least 2x2: use fewer levels or a smaller patch"
        )
    if given["window"] < 2:
        raise UserError(f"scOT's window is {given['window']}; it must be at least 2")
    for level, (depth, count, skip) in enumerate(zip(depths, heads, skips, strict=True)):
        if depth < 1 or skip < 0:
            raise UserError(
                f"level {level} of scOT has depth {depth} and {skip} skip blocks; use 1 and 0 or more"
            )
        if count < 1 or (width << level) % count:
            raise UserError(
                f"level {level} of scOT has {width << level} channels, which {count} heads do not divide"
            )
    if given["residual_blocks"] not in ("convnext", "resnet"):
        raise UserError(f"residual_blocks is '{given['residual_blocks']}'; it must be convnext or resnet")
    if given["learn_residual"] and given["in_channels"] < given["out_channels"]:
        raise UserError(
            f"learn_residual adds the prediction to the given fields, of which there are "
            f"{given['in_channels']} for {given['out_channels']} predicted ones; predict fewer or turn it off"
        )
    for rate in given["rates"]:
        if not 0.0 <= rate < 1.0:
            raise UserError(f"rates are {given['rates']}; a rate must lie in [0, 1)")
