"""Filling what clouds hide: scenes in, the same scenes out with predicted pixels where nothing was seen."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from apps.remote_sensing.predict.model import SceneModel
from core.errors import UserError
from core.objectives.masked_autoencoding import token_mask

__all__ = ["GapModel"]


class GapModel(SceneModel):
    """A masked autoencoder trained on gaps; what is visible stays bit for bit as it is.

    For the arguments see `SceneModel`.
    """

    def whole_tile(self, side: int, *, asked: bool) -> int:
        """Return the side of tiles of whole patches: the given one, or the next smaller if nobody asked.

        Raises:
            UserError: If it was asked for and does not fit.
        """
        patch = self._patch
        if not asked:
            step = math.lcm(*patch[1:])
            return max(side // step, 1) * step
        if any(side % size for size in patch[1:]):
            raise UserError(
                f"a tile of {side} pixels is no multiple of the network's patch, {patch[1]} x {patch[2]}; "
                "give another --tile"
            )
        return side

    @property
    def _patch(self) -> tuple[int, int, int]:
        network: Any = self.network
        return network.encoder.patch

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the bands of the filled scene, those of a date together."""
        if self.frames == 1:
            return self.bands
        return tuple(f"{band}_{date + 1}" for date in range(self.frames) for band in self.bands)

    def __call__(self, tiles: Tensor) -> Tensor:
        """Fill tiles.

        Args:
            tiles: `(B, T * C, h, w)` float32 in the file's units, NaN without data; a mask of gaps may
                follow, `(B, 1 or T, h, w)`, not zero where a date is hidden.

        Returns:
            `(B, T * C, h, w)` float32; NaN where a tile shows no patch without a gap.
        """
        count = len(self.bands) * self.frames
        tiles = tiles.to(self.device, torch.float32)
        images, mask = tiles[:, :count], tiles[:, count:]
        split = images.unflatten(1, (self.frames, len(self.bands)))  # B TC h w -> B T C h w
        hidden = split.isnan().any(dim=2)
        if mask.shape[1]:
            hidden = hidden | (mask != 0)
        gaps = hidden[:, None]
        patches = token_mask(gaps, self._patch)
        made = torch.full_like(split, torch.nan)
        rows = (patches.any(1) & ~patches.all(1)).nonzero().flatten()
        if len(rows):
            filled = self._filled(images[rows], gaps[rows])
            made[rows] = filled.transpose(1, 2)  # B C T h w -> B T C h w
        return torch.where(hidden[:, :, None], made, split).flatten(1, 2)

    def _filled(self, tiles: Tensor, gaps: Tensor) -> Tensor:
        """Return predictions `(B, C, T, h, w)` in the file's units for tiles that show some patch."""
        image = self.normalised(tiles)
        with self.autocast():
            made = self.network(image, **self.told(len(image)), gaps=gaps)
        network: Any = self.network
        image = network.image(made.prediction.float(), made.grid)
        return image / self._factor + self._offset
