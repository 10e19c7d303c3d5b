"""From fields to tokens on a few latent levels: patches, then attention from latent to pressure levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from apps.weather.batch import Variables, WeatherBatch
from apps.weather.models.aurora.fourier import LEAD_TIME, LEVEL, TIME, expanded, grid_encodings
from apps.weather.models.aurora.patches import LevelPatches, VariablePatches, cut_fields
from apps.weather.models.aurora.perceiver import LinearPair, Resampler
from apps.weather.models.aurora.settings import PerceiverShape
from core.backbones.dropout import Dropout

__all__ = ["AuroraEncoder"]


class AuroraEncoder(nn.Module):
    """Map normalised fields to tokens.

    Args:
        inputs: Surface, static and atmospheric variables; those of a batch may be fewer.
        width: Features D of a token.
        patch: Side P of a patch.
        history: Most states that go in.
        latent_levels: Levels of the tokens, Cl; the first is the surface.
        shape: Of the attention between levels.
        dropout: Rate on the tokens.
        level_condition: Pressure levels in hPa, each with kernels of its own; none is one kernel for all.
    """

    def __init__(
        self,
        inputs: Variables,
        width: int,
        *,
        patch: int,
        history: int,
        latent_levels: int,
        shape: PerceiverShape,
        dropout: float = 0.0,
        level_condition: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.patch, self.width = patch, width
        self.surf_level_encoding = nn.Parameter(torch.empty(width))
        self.surf_mlp = LinearPair(width, int(width * shape.encoder_ratio))
        self.surf_norm = nn.LayerNorm(width)
        self.pos_embed = nn.Linear(width, width)
        self.scale_embed = nn.Linear(width, width)
        self.lead_time_embed = nn.Linear(width, width)
        self.absolute_time_embed = nn.Linear(width, width)
        self.atmos_levels_embed = nn.Linear(width, width)
        self.surf_token_embeds = VariablePatches(
            (*inputs.surface, *inputs.static), width, patch=patch, history=history
        )
        self.atmos_token_embeds: VariablePatches | LevelPatches
        if level_condition:
            self.atmos_token_embeds = LevelPatches(
                level_condition, inputs.atmospheric, width, patch=patch, history=history
            )
        else:
            self.atmos_token_embeds = VariablePatches(inputs.atmospheric, width, patch=patch, history=history)
        self.atmos_latents = nn.Parameter(torch.empty(latent_levels - 1, width))
        self.level_agg = Resampler(
            width,
            heads=shape.heads,
            depth=shape.encoder_depth,
            ratio=shape.encoder_ratio,
            eps=shape.eps,
            stabilise=shape.stabilise,
        )
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the learnt vectors; the layers reset themselves."""
        for vectors in (self.surf_level_encoding, self.atmos_latents):
            nn.init.trunc_normal_(vectors, std=0.02)

    def forward(self, batch: WeatherBatch) -> Tensor:
        """Map a normalised batch to tokens `(B, Cl * L, D)`, level after level."""
        surface = self._surface(batch)
        b, places, width = surface.shape
        levels = self._atmosphere(batch)  # B L C D
        latents = self.level_agg(self.atmos_latents, levels.flatten(0, 1)).view(b, places, -1, width)
        tokens = torch.cat([surface[:, None], latents.transpose(1, 2)], 1)
        tokens = tokens + self._encodings(batch, tokens)
        return self.dropout(tokens.flatten(1, 2))

    def _surface(self, batch: WeatherBatch) -> Tensor:
        embed, variables = self.surf_token_embeds, batch.variables
        bias = embed.bias + self.surf_level_encoding
        groups = []  # static fields are the same in all states, so that their kernels can be added up
        if variables.surface:
            fields = cut_fields(batch.inputs.surface.unsqueeze(3), self.patch)
            groups.append((fields.flatten(2), embed.kernel(variables.surface, fields.shape[4])))
        if variables.static:
            fields = cut_fields(batch.static[:, None, :, None], self.patch)
            kernel = embed.kernel(variables.static, batch.inputs.steps, constant=True)
            groups.append((fields.flatten(2), kernel))
        if not groups:
            rows, columns = batch.grid.shape
            x = bias.expand(len(batch.time), rows // self.patch * (columns // self.patch), -1)
        for number, (patches, kernel) in enumerate(groups):
            product = nn.functional.linear(patches, kernel, bias if number == 0 else None)
            x = product if number == 0 else x + product
        return x + self.surf_norm(self.surf_mlp(x))

    def _atmosphere(self, batch: WeatherBatch) -> Tensor:
        names, levels = batch.variables.atmospheric, batch.variables.levels
        patches = cut_fields(batch.inputs.atmospheric, self.patch)
        if isinstance(self.atmos_token_embeds, LevelPatches):
            x = self.atmos_token_embeds(patches, names, levels)
        else:
            x = self.atmos_token_embeds(patches, names)
        expansion = expanded(LEVEL, levels, self.width, x.device).to(patches.dtype)
        return x + self.atmos_levels_embed(expansion)

    def _encodings(self, batch: WeatherBatch, like: Tensor) -> Tensor:
        """Return what is added to tokens of all levels, `(B, 1, L, D)`."""
        device, dtype = like.device, batch.static.dtype
        position, scale = grid_encodings(batch.grid, self.patch, self.width, device)
        place = self.pos_embed(position.to(dtype)) + self.scale_embed(scale.to(dtype))
        lead = self.lead_time_embed(expanded(LEAD_TIME, (batch.step,), self.width, device).to(dtype))
        hours = batch.time.to(torch.float64) / 3600
        moment = self.absolute_time_embed(TIME(hours, self.width).to(dtype))
        return place + (lead + moment)[:, None, None]
