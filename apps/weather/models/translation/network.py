"""Met²Net: every variable has an encoder and a decoder, and attention between variables carries their latents
from the past to the future (arXiv 2507.17189, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.weather.batch import States, WeatherBatch
from apps.weather.models.daily_cycle import DailyCycle
from apps.weather.models.translation.coders import VariableDecoder, VariableEncoder
from apps.weather.models.translation.translator import Translator
from core.backbones.vit import reset_parts
from core.errors import UserError

__all__ = ["Met2Net", "TwoStageLosses"]

_HEADS = 8


@dataclass(frozen=True)
class TwoStageLosses:
    """Mean squared errors of the two stages, and of the `forecast` `(B, T, V, H, W)` if that was asked for,
    without a gradient: the future rebuilt through the translator that stands still, and its latents.
    """

    reconstruction: Tensor
    latent: Tensor
    prediction: Tensor | None = None
    forecast: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.reconstruction + self.latent


class _Coders(nn.Module):
    """One of the network's two copies: encoders, translator, decoders."""

    def __init__(self, fields: int, width: int, depth: int, translator: Translator) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(VariableEncoder(width, depth) for _ in range(fields))
        self.decoders = nn.ModuleList(VariableDecoder(width, depth) for _ in range(fields))
        self.translator = translator

    def encode(self, x: Tensor) -> Tensor:
        """Map `(B, T, V, H, W)` to latents `(B, V, T·D, h, w)`."""
        batch = len(x)
        frames = x.flatten(0, 1).split(1, dim=1)  # V of (B T) 1 H W
        latents = [encoder(one) for encoder, one in zip(self.encoders, frames, strict=True)]
        return torch.stack([z.unflatten(0, (batch, -1)).flatten(1, 2) for z in latents], dim=1)

    def decode(self, z: Tensor, frames: int) -> Tensor:
        """Map latents `(B, V, T·D, h, w)` to `(B, T, V, H, W)`."""
        latents = z.unflatten(2, (frames, -1)).unbind(1)  # V of B T D h w
        fields = [decoder(one.flatten(0, 1)) for decoder, one in zip(self.decoders, latents, strict=True)]
        return torch.cat(fields, dim=1).unflatten(0, (-1, frames))


class Met2Net(nn.Module):
    """Predicts as many states as it is given, all at once.

    Of its two copies the optimiser trains `q`; `k` follows it: encoders and decoders at once, the translator
    as a moving average. A field is a surface variable, or a variable on one level.

    Args:
        fields: V, surface variables and variables by level together.
        history: States in and out, T.
        width: Channels of a frame's latent, D.
        translator_width: Channels of a variable's latent within the translator.
        coder_depth: Units of an encoder or decoder, an even number; every second one halves the grid.
        depth: Blocks of the translator.
        momentum: Share of itself that the averaged translator keeps at a step.
        drop_path: Probability in training that a branch of the translator is left out.
        cycle_grid: Rows and columns of the data, to work on anomalies of their mean daily cycle (see
            `apps.weather.models.daily_cycle`), which a record of weeks cannot teach; None, as published,
            works on the fields themselves, on any grid.

    Raises:
        UserError: If a size is out of its range.
    """

    def __init__(
        self,
        *,
        fields: int,
        history: int = 12,
        width: int = 32,
        translator_width: int = 256,
        coder_depth: int = 2,
        depth: int = 8,
        momentum: float = 0.9,
        drop_path: float = 0.1,
        cycle_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if coder_depth < 2 or coder_depth % 2:
            raise UserError(f"coder_depth is {coder_depth}; it must be an even number, at least 2")
        if width < 2 or width % 2:
            raise UserError(f"width is {width}; it must be an even number, for its norms have two groups")
        if translator_width < _HEADS or translator_width % _HEADS:
            raise UserError(f"translator_width is {translator_width}; it must be a multiple of {_HEADS}")
        if min(fields, history, depth) < 1 or not 0 <= momentum <= 1 or not 0 <= drop_path <= 1:
            raise UserError(
                "fields, history and depth must be at least 1, momentum and drop_path between 0 and 1"
            )
        self.fields, self.history, self.horizon = fields, history, history
        self.width, self.translator_width = width, translator_width
        self.coder_depth, self.depth = coder_depth, depth
        self.momentum, self.drop_path = momentum, drop_path
        self.q, self.k = self._copy(), self._copy()
        self.k.requires_grad_(False)
        self.cycle = None if cycle_grid is None else DailyCycle(fields, (cycle_grid[0], cycle_grid[1]))
        self.reset_parameters()

    @property
    def patch(self) -> int:
        """Rows and columns of the grid must be a multiple of it."""
        return 2 ** (self.coder_depth // 2)

    def reset_parameters(self) -> None:
        """Draw the weights; both copies begin alike."""
        reset_parts(self.q)
        self.k.load_state_dict(self.q.state_dict())
        if self.cycle is not None:
            self.cycle.reset_parameters()

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the blocks of the trained translator."""
        yield from self.q.translator.layers

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised states `(B, T, V, H, W)` to the T that follow."""
        return self.q.decode(self.q.translator(self.q.encode(x)), x.shape[1])

    def advance(self, batch: WeatherBatch) -> States:
        """Return the `horizon` normalised states after a normalised batch's."""
        future = self(self.joined(batch.inputs, batch, first=1 - self.history))
        if self.cycle is not None:
            future = self.cycle.restored(future, _times(batch, first=1, count=self.horizon))
        surface, levels = future.tensor_split([batch.inputs.surface.shape[2]], dim=2)
        return States(surface, levels.unflatten(2, batch.inputs.atmospheric.shape[2:4]))

    def joined(self, states: States, batch: WeatherBatch, *, first: int) -> Tensor:
        """Return normalised states as the network takes them, `(B, T, V, H, W)`: all fields on one axis.

        Args:
            states: Inputs or targets of the batch.
            batch: Tells times and step.
            first: Steps from the current state to the first of these.
        """
        if self.cycle is None:
            return states.fields
        return self.cycle.removed(states.fields, _times(batch, first=first, count=states.steps))

    def two_stage(
        self, x: Tensor, y: Tensor, *, scored: bool = False, reference_gradients: bool = False
    ) -> TwoStageLosses:
        """Return the losses of a training step; in training the copied encoders and decoders follow.

        Call `follow` after the backward pass.

        Args:
            x: `(B, T, V, H, W)` normalised past.
            y: The same of the future.
            scored: Whether to make the forecast too, which costs one decoding.
            reference_gradients: Whether the averaged translator follows between the forward and the backward
                pass, as in the published code, whose reconstruction gradients run through weights that are
                not those of the forward pass; `follow` is not to be called then.
        """
        q, k, frames = self.q, self.k, x.shape[1]
        k.translator.train(self.training)
        past = q.encode(x)
        rebuilt = q.decode(k.translator(past), frames)
        reconstruction = F.mse_loss(rebuilt, y)
        # Encoders and decoders of the second stage are copies, so that the past is encoded once.
        with torch.no_grad():
            future = q.encode(y)
        latents = q.translator(past.detach())
        latent = F.mse_loss(latents, future)
        if self.training:
            for coders, copies in ((q.encoders, k.encoders), (q.decoders, k.decoders)):
                torch._foreach_copy_([*copies.parameters()], [one.detach() for one in coders.parameters()])
        if self.training and reference_gradients:
            for own, averaged in zip(q.translator.parameters(), k.translator.parameters(), strict=True):
                # A new storage under the same parameter, as published: autograd's own check does not see it.
                averaged.data = torch.lerp(own.data, averaged.data, self.momentum)
        if not scored:
            return TwoStageLosses(reconstruction, latent)
        with torch.no_grad():
            forecast = q.decode(latents, frames)
            return TwoStageLosses(reconstruction, latent, F.mse_loss(forecast, y), forecast)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the averaged translator towards the trained one, parameters only."""
        own, averaged = self.q.translator.parameters(), self.k.translator.parameters()
        torch._foreach_lerp_(list(averaged), list(own), 1 - self.momentum)

    def _copy(self) -> _Coders:
        translator = Translator(
            self.history * self.width,
            self.translator_width,
            depth=self.depth,
            heads=_HEADS,
            drop_path=self.drop_path,
        )
        return _Coders(self.fields, self.width, self.coder_depth, translator)


def _times(batch: WeatherBatch, *, first: int, count: int) -> Tensor:
    """Return the seconds `(B, T)` of states from `first` steps after the current one on."""
    steps = torch.arange(first, first + count, device=batch.time.device)
    return batch.time[:, None] + steps * round(batch.step * 3600)
