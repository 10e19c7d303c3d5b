"""Prithvi-EO's encoder: a vision transformer over the patches of an image time series.

Prithvi-EO 1.0 (Jakubik et al. 2023, arXiv 2310.18660) and 2.0 (Szwarcman et al. 2024, arXiv 2412.02732).
Tokens are row-major over frame, row and column, the class token in front.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from apps.remote_sensing.data.bands import HLS, canonical
from apps.remote_sensing.models.band_maps import ReadsBands
from apps.remote_sensing.models.frames import Frames, folded
from apps.remote_sensing.models.prithvi_eo.coded_blocks import CodedBlocks
from core.backbones.patches import PatchEmbed, patch_grid
from core.errors import UserError, did_you_mean
from core.objectives.masked_autoencoding import Masking, select

__all__ = ["Frames", "Prithvi", "frames_apart"]

Coordinate = Literal["time", "location"]
Statistics = Literal["v1", "v2", "gap_filling"]

# fmt: off
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "v1": (
        (775.2290211032589, 1080.992780391705, 1228.5855250417867,
         2497.2022620507532, 2204.2139147975554, 1610.8324823273745),
        (1281.526139861424, 1270.0297974547493, 1399.4802505642526,
         1368.3446143747644, 1291.6764008585435, 1154.505683480695),
    ),
    "v2": (
        (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0),
        (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0),
    ),
    "gap_filling": (
        (495.7316, 814.1386, 924.5740, 2962.5623, 2640.8833, 1740.3031),
        (286.9569, 359.3304, 576.3471, 892.2656, 945.9432, 916.1625),
    ),
}
# fmt: on
"""Means and deviations of the six HLS bands in reflectance times 10 000, by the weights they belong to."""


class Prithvi(ReadsBands, CodedBlocks):
    """Map images to features.

    Args:
        resolution: Pixels along a side (or height and width) of the images that the weights were trained on;
            others are taken too, their positions are interpolated.
        frames: Frames T that the weights were trained on; other numbers are taken too.
        patch: Frames, rows and columns of a patch.
        bands: Names of the channels, see `apps.remote_sensing.data.bands`; weights are matched by them.
        width: Features D of a token, a multiple of 16.
        depth: Blocks.
        heads: Attention heads; must divide the width.
        mlp_ratio: Hidden width of the blocks' MLPs over D.
        coordinates: Which of `time` and `location` the network can be told.
        learn_scale: Whether the strengths of their codes are learnt.
        drop_path: Probability in training that a branch is left out for a sample, in every block the same.
        eps: Of the norms: 1e-5 in version 2 and in today's loaders of version 1, 1e-6 in the program that
            trained version 1 and its gap-filling weights.
        statistics: Which means and deviations the weights were trained with: `v1`, `v2`, `gap_filling`.

    Attributes:
        bands: As given, under our names.
        mean: Of each band in the units of `scale`; NaN for bands that the weights were not trained on, whose
            statistics are those of the data.
        std: As `mean`.
        scale: What a reflectance of 1 is in the units of `mean` and `std`.
        fill: What pixels without data are set to after normalisation.
    """

    scale = 10_000.0
    fill = 0.0001

    def __init__(
        self,
        resolution: int | Sequence[int] = 224,
        frames: int = 3,
        patch: Sequence[int] = (1, 16, 16),
        bands: Sequence[str] = HLS,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        coordinates: Sequence[Coordinate] = (),
        learn_scale: bool = False,
        drop_path: float = 0.0,
        eps: float = 1e-5,
        statistics: Statistics = "v2",
    ) -> None:
        settings: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        _check_settings(settings)
        self.settings = settings
        self.bands = tuple(canonical(band) for band in bands)
        self.mean, self.std = (
            tuple(dict(zip(HLS, row, strict=True)).get(band, math.nan) for band in self.bands)
            for row in STATISTICS[statistics]
        )
        self.patch = (patch[0], patch[1], patch[2])
        self.width, self.frames = width, frames
        self.resolution = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
        grid = patch_grid((frames, *self.resolution), self.patch)
        self.grid = (grid[0], grid[1], grid[2])
        self.patch_embed = PatchEmbed(len(self.bands), width, patch=self.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.add_blocks(
            width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio, coordinates=coordinates,
            learn_scale=learn_scale, drop_path=drop_path, eps=eps,
        )  # fmt: skip
        self.write_own()

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the transformer blocks."""
        yield from self.layers

    def forward(self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None) -> Tensor:
        """Return the normed tokens of the last block, `(B, 1 + L, D)`; for the arguments see `features`."""
        return self.encode(x, time, location)

    def features(
        self,
        x: Tensor,
        time: Tensor | None = None,
        location: Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Return the tokens after blocks, class token first; only those of the last block are normed.

        Args:
            x: `(B, C, T, H, W)` normalised, or `(B, C, H, W)` if the network was built with one frame. Pixels
                behind the last whole patch are left out.
            time: `(B, T, 2)` year and day of the year of each frame as they are; NaN where unknown. Networks
                without a code of time pass over it.
            location: `(B, 2)` latitude and longitude in degrees; NaN where unknown. Networks without a code
                of place pass over it.
            layers: Numbers of the blocks wanted, from 0, or from -1 at the end; None is all.

        Returns:
            `(B, 1 + L, D)` for each.

        Raises:
            UserError: If a shape or a number of a block does not fit the network.
        """
        count = len(self.layers)
        wanted = list(range(count)) if layers is None else _counted(layers, count)
        h = self.embed(x, time, location)
        kept: dict[int, Tensor] = {}
        for number in range(max(wanted) + 1):
            h = self.layers[number](h)
            if number in wanted:
                kept[number] = self.norm(h) if number == count - 1 else h
        return [kept[number] for number in wanted]

    @property
    def layer_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Of each block the features of a date, and the rows and columns of a patch."""
        return ((self.width, self.patch[1], self.patch[2]),) * len(self.layers)

    def feature_maps(
        self,
        x: Tensor,
        *,
        layers: Sequence[int],
        time: Tensor | None = None,
        location: Tensor | None = None,
        frames: Frames = "channels",
    ) -> list[Tensor]:
        """Return features as images on the grid of patches; for the other arguments see `features`.

        `frames` says what becomes of the t frames of patches: `channels` stacks them, channel
        `frame * D + d`; `mean` and `max` are over frames, `difference` is the last less the first.

        Returns:
            `(B, D, h, w)` for each, `(B, t * D, h, w)` with `channels`.

        Raises:
            UserError: If a shape or a number of a block does not fit the network, or `frames` is unknown.
        """
        grid = self.grid_of(x)
        return [frames_apart(h, grid, frames=frames) for h in self.features(x, time, location, layers=layers)]

    def encode(
        self,
        x: Tensor,
        time: Tensor | None = None,
        location: Tensor | None = None,
        masking: Masking | None = None,
    ) -> Tensor:
        """Return the normed tokens of the last block, `(B, 1 + K, D)`, of those that `masking` lets it see.

        For the other arguments see `features`.
        """
        h = self.embed(x, time, location, masking)
        seen = None
        if masking is not None and masking.valid is not None:
            seen = nn.functional.pad(masking.valid, (1, 0), value=True)[:, None, None]  # B 1 1 1+K
        for layer in self.layers:
            h = layer(h, seen)
        return self.norm(h)

    def embed(
        self,
        x: Tensor,
        time: Tensor | None = None,
        location: Tensor | None = None,
        masking: Masking | None = None,
    ) -> Tensor:
        """Return what the first block sees, `(B, 1 + K, D)`; for the arguments see `encode`."""
        x = self.images(x)
        grid = self.grid_of(x)
        self._check_coordinates(x, time, location)
        added = self.codes(grid, time, location)
        patches = self.patch_embed.cut(x)
        if masking is None:
            h = self.patch_embed.embed(patches) + added
        else:
            h = self.patch_embed.embed(select(patches, masking))
            h = h + select(added.expand(len(x), -1, -1), masking)
        first = (self.cls_token + self.positions(grid)[:, :1]).expand(len(x), -1, -1)
        return torch.cat([first.to(h.dtype), h], dim=1)

    def images(self, x: Tensor) -> Tensor:
        """Return `(B, C, T, H, W)`, a frame of its own put in where the network has one, checked."""
        if x.dim() == 4 and self.frames == 1:
            x = x.unsqueeze(2)
        shape = tuple(x.shape)
        if x.dim() != 5:
            hint = " (images without a frame axis are taken by networks of one frame)" if x.dim() == 4 else ""
            raise UserError(f"Prithvi was given images of the shape {shape}; it needs (B, C, T, H, W){hint}")
        if shape[1] != len(self.bands):
            raise UserError(
                f"Prithvi was given {shape[1]} bands and has {len(self.bands)} ({', '.join(self.bands)}); "
                "choose these from the data, or give the network the data's bands"
            )
        if any(n < p for n, p in zip(shape[2:], self.patch, strict=True)):
            raise UserError(
                f"Prithvi was given images of {shape[2:]} frames, rows and columns; its patch alone has "
                f"{self.patch}: pad them or take larger ones"
            )
        return x

    def grid_of(self, x: Tensor) -> tuple[int, int, int]:
        """Return frames, rows and columns of patches of images `(B, C, (T,) H, W)`."""
        frames = 1 if x.dim() == 4 else x.shape[2]
        grid = patch_grid((frames, *x.shape[-2:]), self.patch)
        return grid[0], grid[1], grid[2]

    def our_bands(self, named: Sequence[str]) -> tuple[str, ...]:
        """Return our names of the bands that a checkpoint names."""
        return tuple(canonical(band) for band in named)

    def _check_coordinates(self, x: Tensor, time: Tensor | None, location: Tensor | None) -> None:
        """Refuse coordinates that do not belong to the images, where the network reads them."""
        wanted = {
            "time": (self.time_code, time, (x.shape[0], x.shape[2], 2), "year and day of each frame"),
            "location": (self.location_code, location, (x.shape[0], 2), "latitude and longitude"),
        }
        for name, (code, given, shape, meaning) in wanted.items():
            if code is not None and given is not None and tuple(given.shape) != shape:
                raise UserError(f"{name} has the shape {tuple(given.shape)}; it must be {shape}, {meaning}")

    def write_own(self) -> None:
        """Draw the class token, and compute the table of positions."""
        nn.init.normal_(self.cls_token, std=0.02)
        super().write_own()


def frames_apart(tokens: Tensor, grid: tuple[int, int, int], *, frames: Frames = "channels") -> Tensor:
    """Return tokens `(B, 1 + L, D)` as an image; for `frames` see `Prithvi.feature_maps`.

    Raises:
        UserError: If `frames` is unknown.
    """
    t, h, w = grid
    return folded(tokens[:, 1:].unflatten(1, (t, h, w)).permute(0, 1, 4, 2, 3), frames)  # B L D -> B t D h w


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings that do not fit each other."""
    for name in ("frames", "width", "depth", "heads"):
        if settings[name] < 1:
            raise UserError(f"{name} is {settings[name]}; it must be at least 1")
    width, heads, patch = settings["width"], settings["heads"], list(settings["patch"])
    if width % 16:
        raise UserError(f"width is {width}; Prithvi's code of positions needs a multiple of 16")
    if width % heads:
        raise UserError(f"width is {width} and heads {heads}; heads must divide the width")
    sides = settings["resolution"]
    sides = [sides, sides] if isinstance(sides, int) else list(sides)
    if len(patch) != 3 or len(sides) != 2:
        raise UserError(
            f"patch is {patch} and resolution {sides}; they must be [frames, rows, columns] and "
            "[rows, columns]"
        )
    axes = dict(zip(("frames", "rows", "columns"), (settings["frames"], *sides), strict=True))
    for (name, length), side in zip(axes.items(), patch, strict=True):
        if side < 1 or side > length:
            raise UserError(f"the patch has {side} {name} of {length}; it must have 1 to {length}")
    bands = list(settings["bands"])
    if not bands or len(set(bands)) != len(bands):
        raise UserError(f"bands are {', '.join(bands) or 'none'}; each must be named once, and at least one")
    for name in settings["coordinates"]:
        if name not in get_args(Coordinate):
            hint = did_you_mean(str(name), get_args(Coordinate))
            raise UserError(f"coordinates hold '{name}'; they may hold time and location{hint}")
    if "time" in settings["coordinates"] and patch[0] != 1:
        raise UserError(f"the patch has {patch[0]} frames; a code of time needs patches of one frame")
    if settings["statistics"] not in STATISTICS:
        hint = did_you_mean(str(settings["statistics"]), STATISTICS)
        raise UserError(
            f"statistics is '{settings['statistics']}'; it must be one of {', '.join(STATISTICS)}{hint}"
        )


def _counted(layers: Sequence[int], count: int) -> list[int]:
    """Return numbers of blocks counted from 0."""
    if not layers:
        raise UserError("no block is named whose features are wanted; name at least one")
    for number in layers:
        if not -count <= number < count:
            raise UserError(f"layers name block {number}; the network has {count}, 0 to {count - 1}")
    return [number % count for number in layers]
