"""From tokens to fields: attention from pressure levels to latent levels, then a linear head a variable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.weather.batch import States, Variables, level_text
from apps.weather.models.aurora.fourier import LEVEL, expanded
from apps.weather.models.aurora.patches import joined_fields, level_keys
from apps.weather.models.aurora.perceiver import Resampler
from apps.weather.models.aurora.settings import PerceiverShape
from core.errors import UserError

__all__ = ["AuroraDecoder"]


class LevelHeads(nn.Module):
    """A linear head for each pressure level."""

    def __init__(self, levels: Sequence[float], width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({level_text(level): nn.Linear(width, outputs) for level in levels})


class AuroraDecoder(nn.Module):
    """Map tokens to normalised fields.

    Args:
        outputs: Surface and atmospheric variables that have heads.
        width: Features of a token, those of the encoder twice.
        patch: Side P of a patch.
        shape: Of the attention between levels.
        separate: Atmospheric variables with an attention between levels of their own.
        level_condition: Pressure levels in hPa, each with heads of its own; none is one head for all.
    """

    def __init__(
        self,
        outputs: Variables,
        width: int,
        *,
        patch: int,
        shape: PerceiverShape,
        separate: Sequence[str] = (),
        level_condition: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.patch, self.width, self.separate = patch, width, tuple(separate)
        self.level_decoder = self._resampler(shape)
        self.level_decoder_alternate = self._resampler(shape) if separate else None
        self.surf_heads = nn.ModuleDict({v: nn.Linear(width, patch**2) for v in outputs.surface})
        self.atmos_heads = nn.ModuleDict(
            {
                v: LevelHeads(level_condition, width, patch**2)
                if level_condition
                else nn.Linear(width, patch**2)
                for v in outputs.atmospheric
            }
        )
        self.atmos_levels_embed = nn.Linear(width, width)

    def _resampler(self, shape: PerceiverShape) -> Resampler:
        return Resampler(
            self.width,
            heads=shape.heads,
            depth=shape.decoder_depth,
            ratio=shape.decoder_ratio,
            eps=shape.eps,
        )

    def forward(self, tokens: Tensor, variables: Variables, grid: tuple[int, int]) -> States:
        """Map tokens `(B, Cl * L, 2 D)` of a grid of patches `(h, w)` to the next state of `variables`.

        Raises:
            UserError: If a variable has no head.
        """
        self._check(variables)
        places = grid[0] * grid[1]
        surface, latents = tokens.split([places, tokens.shape[1] - places], 1)
        rows, columns = grid[0] * self.patch, grid[1] * self.patch
        near = tokens.new_empty(len(tokens), 0, 1, rows, columns)  # B VS 1 H W
        if variables.surface:
            patches = _mapped(surface, [self.surf_heads[v] for v in variables.surface])
            near = joined_fields(patches[:, :, None], grid, self.patch)
        by_place = latents.unflatten(1, (-1, places)).transpose(1, 2)  # B Cl-1 L E -> B L Cl-1 E
        aloft = self._atmosphere(by_place.flatten(0, 1), variables, grid)
        return States(near[:, None, :, 0], aloft[:, None])

    def _atmosphere(self, latents: Tensor, variables: Variables, grid: tuple[int, int]) -> Tensor:
        """Return `(B, VA, C, H, W)`."""
        queries = expanded(LEVEL, variables.levels, self.width, latents.device).to(latents.dtype)
        queries = self.atmos_levels_embed(queries)
        apart = [v for v in variables.atmospheric if v in self.separate]
        usual = [v for v in variables.atmospheric if v not in self.separate]
        groups = []
        for names, resampler in ((usual, self.level_decoder), (apart, self.level_decoder_alternate)):
            if names and resampler is not None:
                x = resampler(queries, latents).unflatten(0, (-1, grid[0] * grid[1]))  # B L C E
                groups.append(joined_fields(self._heads(x, names, variables.levels), grid, self.patch))
        if len(groups) == 1:
            return groups[0]
        order = [(usual + apart).index(v) for v in variables.atmospheric]
        return torch.stack([torch.cat(groups, 1)[:, n] for n in order], 1)

    def _heads(self, x: Tensor, names: Sequence[str], levels: Sequence[float]) -> Tensor:
        """Map tokens `(B, L, C, E)` to patches `(B, L, C, V * P * P)`."""
        heads = [self.atmos_heads[v] for v in names]
        if not isinstance(heads[0], LevelHeads):
            return _mapped(x, heads)
        layers = [[head.layers[key] for head in heads] for key in level_keys(heads[0].layers, levels)]
        return torch.stack([_mapped(x[:, :, i], level) for i, level in enumerate(layers)], 2)

    def _check(self, variables: Variables) -> None:
        for kind, names, heads in (
            ("surface", variables.surface, self.surf_heads),
            ("atmospheric", variables.atmospheric, self.atmos_heads),
        ):
            if missing := [v for v in names if v not in heads]:
                raise UserError(
                    f"this network predicts the {kind} variables {', '.join(heads) or 'none'} and not "
                    f"{', '.join(missing)}; add them to the network, and to model.reinitialise"
                )


def _mapped(x: Tensor, heads: Sequence[nn.Module]) -> Tensor:
    """Return the results of several linear layers, one behind the other on the last axis."""
    weight = torch.cat([head.weight for head in heads])
    bias = torch.cat([head.bias for head in heads])
    return F.linear(x.contiguous(), weight, bias)
