"""Aurora, a foundation model of the atmosphere (Bodnar et al. 2024, arXiv 2405.13063), and its named sizes.

The parameters have their official names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from apps.weather.batch import States, Variables, WeatherBatch
from apps.weather.models.aurora.decoder import AuroraDecoder
from apps.weather.models.aurora.encoder import AuroraEncoder
from apps.weather.models.aurora.official import padded_history
from apps.weather.models.aurora.settings import PerceiverShape, RolloutLoRA, SwinShape
from apps.weather.models.aurora.swin import LeadTimeNorm, Swin3D, TokenGrid
from core.backbones.sizes import size
from core.errors import UserError

__all__ = [
    "Aurora",
    "aurora_0p1",
    "aurora_12h",
    "aurora_finetuned",
    "aurora_large",
    "aurora_small",
]

_SWIN, _PERCEIVER = SwinShape(), PerceiverShape()


class Aurora(nn.Module):
    """Map some states of the atmosphere to the next one.

    Args:
        surface: Single-level variables; a batch may have fewer.
        static: Fields that do not change.
        atmospheric: Variables on pressure levels.
        patch: Side of a patch in cells, at least 2; the grid must be a multiple of it.
        width: Features D of a token on the finest grid, a multiple of 4.
        latent_levels: Levels of the tokens; the first is the surface.
        swin: Stages of the U-net.
        perceiver: Attention between pressure levels and latent levels.
        history: Most states that go in.
        step: Hours between states.
        lora: Corrections by roll-out step, of released fine-tuned networks; null has none.
        positive: Variables whose normalised values are kept from falling below 0, in the inputs and in the
            predictions from the second step on.
        clamp_at_first_step: Whether they are in the first prediction too.
        separate: Atmospheric variables that are decoded by an attention of their own.
        level_condition: Pressure levels in hPa with kernels and heads of their own; none shares them.
        autocast: Whether the U-net computes in bfloat16.

    Raises:
        UserError: If the settings do not fit each other.
    """

    def __init__(
        self,
        surface: Sequence[str] = ("2t", "10u", "10v", "msl"),
        static: Sequence[str] = ("lsm", "z", "slt"),
        atmospheric: Sequence[str] = ("z", "u", "v", "t", "q"),
        patch: int = 4,
        width: int = 512,
        latent_levels: int = 4,
        swin: SwinShape = _SWIN,
        perceiver: PerceiverShape = _PERCEIVER,
        history: int = 2,
        step: float = 6.0,
        lora: RolloutLoRA | None = None,
        positive: Sequence[str] = (),
        clamp_at_first_step: bool = False,
        separate: Sequence[str] = (),
        level_condition: Sequence[float] = (),
        autocast: bool = False,
    ) -> None:
        super().__init__()
        self.variables = Variables(tuple(surface), tuple(atmospheric), tuple(level_condition), tuple(static))
        self.patch, self.history, self.step = patch, history, step
        self.latent_levels, self.autocast = latent_levels, autocast
        self.width, self.swin, self.perceiver, self.lora = width, swin, perceiver, lora
        self.separate = tuple(separate)
        self.positive, self.clamp_at_first_step = frozenset(positive), clamp_at_first_step
        self._check_settings(width, separate)
        swin.check(width, latent_levels)
        self.encoder = AuroraEncoder(
            self.embedded(),
            width,
            patch=patch,
            history=history,
            latent_levels=latent_levels,
            shape=perceiver,
            dropout=swin.dropout,
            level_condition=level_condition,
        )
        self.backbone = Swin3D(width, swin, lora)
        self.decoder = AuroraDecoder(
            self.headed(),
            2 * width,
            patch=patch,
            shape=perceiver,
            separate=separate,
            level_condition=level_condition,
        )
        self.complete()
        self._initialise()

    # What a variant of the network changes

    def complete(self) -> None:
        """Add parts of its own to encoder, U-net and decoder."""

    def embedded(self) -> Variables:
        """Return the variables with kernels in the encoder: those that `encoded` can return."""
        return self.variables

    def headed(self) -> Variables:
        """Return the variables with heads in the decoder."""
        return self.variables

    def encoded(self, batch: WeatherBatch) -> WeatherBatch:
        """Return what the encoder sees of a normalised and clamped batch."""
        return batch

    def predicted(self, variables: Variables) -> Variables:
        """Return the variables that the decoder gives for those that the encoder saw."""
        return variables

    def decoded(self, batch: WeatherBatch, states: States) -> States:
        """Return the prediction for a normalised batch, before it was clamped, from the decoder's fields."""
        return states

    # The network

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the blocks of encoder, U-net and decoder."""
        yield from self.encoder.level_agg.layers
        yield from self.backbone.blocks()
        for resampler in (self.decoder.level_decoder, self.decoder.level_decoder_alternate):
            if resampler is not None:
                yield from resampler.layers

    def reset_parameters(self) -> None:
        """Draw every weight anew, as a network built on the meta device needs; there are no buffers."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()
        self._initialise()

    def fit_weights(
        self, tensors: Mapping[str, Tensor], *, prefix: str, described: object
    ) -> dict[str, Tensor]:
        """Return weights of ours by name, their kernels padded to this network's history."""
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        return {**tensors, **padded_history(own, self.history)}

    def advance(self, batch: WeatherBatch) -> States:
        """Return the next normalised state `(B, 1, …)` of a normalised batch; see `forward`."""
        return self(batch)  # type: ignore[no-any-return]

    def forward(self, batch: WeatherBatch) -> States:
        """Predict the next state.

        Args:
            batch: Normalised; at most `history` states of some of the network's variables.

        Returns:
            `(B, 1, …)` of the batch's variables, normalised.

        Raises:
            UserError: If the batch does not fit the network.
        """
        seen = self._seen(batch)
        return self._next(self._tokens(seen), seen, batch)

    @property
    def latent_width(self) -> int:
        """Features of a token that `backbone_tokens` gives."""
        return 2 * self.encoder.width

    def backbone_tokens(self, batch: WeatherBatch) -> Tensor:
        """Return the U-net's tokens `(B, Cl * L, 2 D)` for a normalised batch, the surface's level first."""
        return self._tokens(self._seen(batch))

    def states(self, tokens: Tensor, batch: WeatherBatch) -> States:
        """Return the next normalised state `(B, 1, …)` that the U-net's tokens of a normalised batch hold."""
        return self._next(tokens, self._seen(batch), batch)

    def _next(self, tokens: Tensor, seen: WeatherBatch, batch: WeatherBatch) -> States:
        states = self.decoder(tokens, self.predicted(seen.variables), self._grid(seen)[1:])
        states = self.decoded(batch, states)
        if batch.rollout_step > 0 or self.clamp_at_first_step:
            states = self._clamped(states, batch.variables)
        return states

    def _seen(self, batch: WeatherBatch) -> WeatherBatch:
        self._check_batch(batch)
        return self.encoded(replace(batch, inputs=self._clamped(batch.inputs, batch.variables)))

    def _grid(self, batch: WeatherBatch) -> TokenGrid:
        rows, columns = batch.grid.shape
        return self.latent_levels, rows // self.patch, columns // self.patch

    def _tokens(self, seen: WeatherBatch) -> Tensor:
        x = self.encoder(seen)
        lower = torch.autocast(x.device.type, torch.bfloat16) if self.autocast else nullcontext()
        with lower:
            tokens = self.backbone(x, self._grid(seen), hours=seen.step, step=seen.rollout_step)
        return tokens.to(x.dtype)

    def _clamped(self, states: States, variables: Variables) -> States:
        groups = []
        for names, values in (
            (variables.surface, states.surface),
            (variables.atmospheric, states.atmospheric),
        ):
            numbers = [number for number, name in enumerate(names) if name in self.positive]
            if numbers:
                values = values.clone()
                for number in numbers:
                    values[:, :, number] = values[:, :, number].clamp(min=0)
            groups.append(values)
        return States(*groups)

    def _check_settings(self, width: int, separate: Sequence[str]) -> None:
        if self.patch < 2:
            raise UserError(
                f"Aurora's patch is {self.patch}; it must be at least 2, to have a size on the globe"
            )
        if width < 4 or width % 4:
            raise UserError(f"Aurora's width is {width}; it must be a multiple of 4")
        if self.perceiver.heads < 1 or width % self.perceiver.heads:
            raise UserError(
                f"Aurora's width is {width}, which perceiver.heads, {self.perceiver.heads}, does not divide"
            )
        if self.latent_levels < 2 or self.history < 1:
            raise UserError(
                f"Aurora has {self.latent_levels} latent levels and a history of {self.history}; it needs at "
                "least 2 and 1"
            )
        known = {*self.variables.surface, *self.variables.atmospheric}
        for what, names, allowed in (
            ("positive", self.positive, known),
            ("separate", separate, set(self.variables.atmospheric)),
        ):
            if unknown := sorted(set(names) - allowed):
                raise UserError(f"Aurora's {what} names {', '.join(unknown)}, which it does not predict")

    def _check_batch(self, batch: WeatherBatch) -> None:
        for kind in ("surface", "static", "atmospheric"):
            known, names = getattr(self.variables, kind), getattr(batch.variables, kind)
            if unknown := [name for name in names if name not in known]:
                raise UserError(
                    f"the data have the {kind} variables {', '.join(unknown)}, which this network does not "
                    f"know: leave them out by data.variables, or add them to the network's {kind}"
                )
        if not batch.variables.atmospheric or not batch.variables.levels:
            raise UserError("the data have no variable on a pressure level; Aurora needs one, on one level")
        if batch.inputs.steps > self.history:
            raise UserError(
                f"the data give {batch.inputs.steps} states and this network takes {self.history} at most; "
                "set data.history, or the network's history"
            )
        if batch.step != self.step:
            raise UserError(
                f"the data's step is {batch.step:g} hours and the network's {self.step:g}; they must agree"
            )
        rows, columns = batch.grid.shape
        if rows % self.patch or columns % self.patch:
            raise UserError(
                f"the grid has {rows} x {columns} cells, no multiple of the patch, {self.patch}; crop it by "
                "data.patch"
            )

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, LeadTimeNorm):  # so that every block is the identity at first
                nn.init.zeros_(module.ln_modulation[1].weight)


_SMALL = SwinShape(
    encoder_depths=(2, 6, 2), encoder_heads=(4, 8, 16), decoder_depths=(2, 6, 2), decoder_heads=(16, 8, 4)
)
_FINE = SwinShape(encoder_depths=(6, 8, 8), decoder_depths=(8, 8, 6))

aurora_large = size(Aurora, "0.25 degrees, pre-trained: 1 256 300 176 parameters.", width=512)
aurora_12h = size(Aurora, "0.25 degrees, pre-trained with steps of 12 hours: 1 256 300 176.", step=12.0)
aurora_finetuned = size(Aurora, "0.25 degrees, fine-tuned: 1 259 150 992 parameters.", lora=RolloutLoRA())
aurora_0p1 = size(Aurora, "0.1 degrees, fine-tuned: 1 201 987 972.", patch=10, swin=_FINE, lora=RolloutLoRA())
aurora_small = size(
    Aurora, "For trials: 112 797 584.", width=256, swin=_SMALL, perceiver=PerceiverShape(heads=8)
)
