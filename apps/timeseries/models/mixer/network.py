"""TTM, TinyTimeMixer: a small mixer that forecasts from a scaled window (Ekambaram et al. 2024, arXiv
2401.03955).

Each network is bound to one (context, horizon) pair. It is trained on one channel at a time and may mix
channels, read channels with a known future, and know the sampling frequency and static categories when it is
fine-tuned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.mixer.layers import MixerBlock, StackSettings, TokenLinear
from apps.timeseries.models.mixer.parts import Backbone, ForecastMixer, Head, MixerDecoder, scale_window
from apps.timeseries.models.mixer.settings import (
    DecoderSettings,
    Distribution,
    ForecastLoss,
    ForecastMixing,
    Initialisation,
    MixerSettings,
    Patching,
    Scaling,
    dotted,
)
from core.errors import UserError

__all__ = ["TTM", "MaskedTTM", "TTMOutput"]

_COUNTS = (
    "context", "horizon", "channels", "width", "depth", "mixer.expansion", "mixer.heads", "decoder.width",
    "decoder.depth",
)  # fmt: skip


@dataclass(frozen=True)
class TTMOutput:
    """A forecast.

    Args:
        prediction: `(B, H, targets)` in the caller's units.
        loss: Mean over all (observed) points in the caller's units, or None without future values or without
            a loss.
        loc: `(B, 1, targets)`, what was subtracted from each window.
        scale: `(B, 1, targets)`, what it was divided by.
    """

    prediction: Tensor
    loss: Tensor | None
    loc: Tensor
    scale: Tensor


class TTM(nn.Module):
    """The forecaster; the defaults are the released 512 -> 96 network.

    Args:
        context: Points of the past `L` that are read; of a longer past the last ones.
        horizon: Points `H` that the head forecasts.
        channels: Number of channels; it matters only where channels are mixed or named, otherwise any number
            is taken.
        patch: Points in a patch.
        width: Features of a patch in the backbone.
        depth: Mixer layers at each level of the backbone.
        levels: Patch lengths that the backbone mixes at, from the finest to `patch`; 0 is a plain stack.
        dropout: In the backbone.
        head_dropout: In decoder and head.
        channel_mixing: Whether the backbone mixes channels.
        targets: Channels to forecast; None is all that are not exogenous.
        exogenous: Channels whose future is known.
        kept_horizon: Steps to keep of the forecast, the first ones; None is all.
        scaling: How each window is scaled, if at all.
        patching: How the scaled window becomes patches.
        mixer: What all mixers have in common.
        decoder: Between backbone and head; None has none.
        forecast_mixing: Correction of the forecasts from all channels' values around each step, if any.
        loss: What `forward` computes when it is given the future.
        initialisation: How weights are drawn; None is as PyTorch does.

    Raises:
        UserError: If the settings do not fit each other.
    """

    def __init__(
        self,
        *,
        context: int = 512,
        horizon: int = 96,
        channels: int = 1,
        patch: int = 64,
        width: int = 192,
        depth: int = 2,
        levels: int = 3,
        dropout: float = 0.2,
        head_dropout: float = 0.2,
        channel_mixing: bool = False,
        targets: list[int] | None = None,
        exogenous: list[int] | None = None,
        kept_horizon: int | None = None,
        scaling: Scaling | None = "std",
        patching: Patching = Patching(),  # noqa: B008
        mixer: MixerSettings = MixerSettings(),  # noqa: B008
        decoder: DecoderSettings | None = DecoderSettings(),  # noqa: B008
        forecast_mixing: ForecastMixing | None = None,
        loss: ForecastLoss = ForecastLoss(),  # noqa: B008
        initialisation: Initialisation | None = None,
    ) -> None:
        if decoder is not None and decoder.width is None:
            decoder = replace(decoder, width=width)
        # The settings are kept as given, under the arguments' own names, for to_official_config.
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.settings: dict[str, Any] = dotted(settings)
        self.context, self.horizon, self.channels = context, horizon, channels
        self.patch, self.stride = patch, patch if patching.stride is None else patching.stride
        self.kept = horizon if kept_horizon is None else kept_horizon
        self.exogenous = sorted(exogenous or [])
        self.targets = None if targets is None else sorted(targets)
        if targets is None and exogenous:
            self.targets = [channel for channel in range(channels) if channel not in exogenous]
        self.scaling, self.objective, self.initialisation = scaling, loss, initialisation
        self._check_settings()
        self.patches = (self.points_read - patch) // self.stride + 1
        width_out = width if decoder is None else decoder.width or width
        rows = self.patches + int(patching.frequency_prefix)
        stack = StackSettings(depth, levels, channels if channel_mixing else 0, dropout, mixer)
        try:
            self.backbone = Backbone(
                patch=patch,
                patches=self.patches,
                width=width,
                frequency_tokens=patching.frequency_tokens if patching.frequency_prefix else 0,
                positions=patching.positions,
                mixer=stack,
            )
            self.decoder: MixerDecoder | None = None
            if decoder is not None:
                mixed = channels if decoder.channel_mixing else 0
                self.decoder = MixerDecoder(
                    patch=patch,
                    patches=rows,
                    width_in=width,
                    width=width_out,
                    raw_residual=decoder.raw_residual,
                    categories=decoder.static_categories or (),
                    mixer=StackSettings(decoder.depth, decoder.levels, mixed, head_dropout, mixer),
                )
            self.head = Head(
                features=rows * width_out,
                horizon=horizon,
                kept=self.kept,
                targets=self.targets,
                dropout=head_dropout,
                forecast_mixer=self._corrector(forecast_mixing, head_dropout, mixer),
            )
        except ValueError as error:
            raise UserError(f"The TTM's settings do not fit: {error}.") from None
        if initialisation is not None:
            self._initialise()

    def _corrector(
        self, settings: ForecastMixing | None, dropout: float, mixer: MixerSettings
    ) -> ForecastMixer | None:
        if settings is None:
            return None
        over = StackSettings(settings.depth, 0, 0, dropout, replace(mixer, gated=settings.gated))
        return ForecastMixer(
            targets=self.channels if self.targets is None else len(self.targets),
            exogenous=len(self.exogenous),
            context=settings.context,
            gated=settings.gated,
            prepend_past=settings.past,
            past_offset=self.points_read - self.context or settings.offset or 0,
            mixer=over if settings.mixer else None,
        )

    @property
    def counts_channels(self) -> bool:
        """Whether the number of channels is part of the network."""
        given = self.settings
        mixes = given["channel_mixing"] or given["forecast_mixing"]
        mixes = mixes or (given["decoder"] and given["decoder.channel_mixing"])
        return bool(mixes or self.targets is not None)

    @property
    def reads_future(self) -> bool:
        """Whether a forecast needs the known future of exogenous channels."""
        return bool(self.exogenous) and self.head.forecast_mixer is not None

    @property
    def points_read(self) -> int:
        """How many points the backbone reads."""
        return self.context

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the mixer layers in the order in which they act."""
        for module in self.modules():
            if isinstance(module, MixerBlock):
                yield from module.stack()

    def reset_parameters(self) -> None:
        """Draw every weight and compute every buffer anew, as a network built on the meta device needs."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()
        if self.initialisation is not None:
            self._initialise()

    def forward(
        self,
        past_values: Tensor,
        *,
        past_observed: Tensor | None = None,
        future_values: Tensor | None = None,
        future_observed: Tensor | None = None,
        freq_token: Tensor | None = None,
        static_categories: Tensor | None = None,
    ) -> TTMOutput:
        """Forecast, and compute the loss if the future is given.

        Args:
            past_values: `(B, L', C)`, L' at least `context`; the last `context` points are read. Unobserved
                points hold a number, usually 0.
            past_observed: `(B, L', C)`, false or 0 where a value is missing; None is observed everywhere.
            future_values: `(B, H, C)`, or `(B, H, targets)` where nothing is exogenous. Exogenous channels
                hold the known future; the others only serve the loss.
            future_observed: As `future_values`, false or 0 for points that the loss passes over.
            freq_token: `(B,)` integers, for networks with a frequency prefix.
            static_categories: `(B, n)` integers, for networks with static categories.

        Returns:
            Prediction `(B, kept, targets)`, loss, location and scale.

        Raises:
            UserError: If a shape does not fit, or something that this network needs is missing.
        """
        self._check_batch(past_values, past_observed, future_values, future_observed)
        past, observed = self._read(past_values, past_observed, future_values)
        x, loc, scale = scale_window(past, observed, self.scaling)
        patches = self._patchify(x)
        features = self.backbone(patches, freq_token)
        if self.decoder is not None:
            features = self.decoder(features, patches, static_categories)
        future = None if future_values is None else future_values[:, : self.kept]
        seen = None if future_observed is None else future_observed[:, : self.kept]
        if self.head.forecast_mixer is None:
            prediction = self.head(features)
        else:
            channels = range(past.shape[2]) if self.targets is None else self.targets
            known = future[:, :, self.exogenous] if self.exogenous and future is not None else None
            prediction = self.head(features, past[:, :, [*channels, *self.exogenous]], known)
        if self.targets is not None:
            loc, scale = loc[:, :, self.targets], scale[:, :, self.targets]
        prediction = prediction * scale + loc
        loss = None
        if future is not None and self.objective.kind is not None:
            loss = self.loss(prediction, self._chosen(future), None if seen is None else self._chosen(seen))
        return TTMOutput(prediction=prediction, loss=loss, loc=loc, scale=scale)

    def loss(self, prediction: Tensor, target: Tensor, observed: Tensor | None = None) -> Tensor | None:
        """Return the network's own loss of forecasts and targets of one shape, a mean over the observed
        points.

        Without any observed point it is zero; with the loss None there is none.
        """
        kind = self.objective.kind
        if kind is None:
            return None
        if observed is not None:
            # Equal values at unobserved points add nothing to any of the losses; no data-dependent shape is
            # needed.
            seen = observed.to(torch.bool)
            target = torch.where(seen, target, prediction.detach())
        if kind == "mse":
            points = F.mse_loss(prediction, target, reduction="none")
        elif kind == "mae":
            points = F.l1_loss(prediction, target, reduction="none")
        elif kind == "huber":
            points = F.huber_loss(prediction, target, reduction="none", delta=self.objective.delta)
        else:
            error = target - prediction
            quantile = self.objective.quantile
            points = torch.maximum(quantile * error, (quantile - 1) * error)
        if observed is None:
            return points.mean()
        return torch.where(seen, points, 0).sum() / seen.sum().clamp(min=1)

    def _check_settings(self) -> None:
        """Refuse settings that do not fit each other."""
        given = self.settings
        if self.objective.kind not in ("mse", "mae", "pinball", "huber", None):
            raise UserError(
                f"The TTM's loss is {self.objective.kind!r}; choose mse, mae, pinball, huber or null."
            )
        for name, choices in (
            ("mixer.norm", ("layer", "batch")),
            ("patching.positions", ("sincos", "random", None)),
            ("scaling", ("std", "mean", None)),
            ("initialisation.linear", ("pytorch", "normal", "uniform", "xavier_uniform")),
            ("initialisation.embed", ("pytorch", "normal", "uniform", "xavier_uniform")),
        ):
            if given[name] not in choices:
                raise UserError(f"The TTM's {name} is {given[name]!r}; it must be one of {choices}.")
        for name in _COUNTS:
            if given[name] < 1:
                raise UserError(f"The TTM's {name} is {given[name]}; it must be at least 1.")
        for name in ("dropout", "head_dropout"):
            if not 0 <= given[name] <= 1:
                raise UserError(f"The TTM's {name} is {given[name]}; it must lie in 0 to 1.")
        if not 0 < self.kept <= self.horizon:
            raise UserError(f"The TTM's kept_horizon is {self.kept}; it must lie in 1 to {self.horizon}.")
        if not 0 < self.patch < self.points_read:
            raise UserError(f"The TTM's patch is {self.patch}; the context {self.context} must be longer.")
        if self.stride < 1:
            raise UserError(f"The TTM's stride is {self.stride}; it must be at least 1.")
        named = [*self.exogenous, *(self.targets or ())]
        if len(set(named)) != len(named) or any(not 0 <= channel < self.channels for channel in named):
            raise UserError(
                f"The TTM's targets {self.targets} and exogenous {self.exogenous} must be "
                f"different channels of its {self.channels}."
            )
        if self.targets == []:
            raise UserError("The TTM has no channel to forecast; name targets, or fewer exogenous channels.")
        if given["decoder"] and given["decoder.static_categories"] and not given["decoder.channel_mixing"]:
            raise UserError("The TTM's decoder.static_categories need decoder.channel_mixing: true.")

    def _check_batch(
        self, past: Tensor, seen: Tensor | None, future: Tensor | None, future_seen: Tensor | None
    ) -> None:
        """Refuse what this network cannot read, or a future that is missing where it is known and read."""
        if past.dim() != 3:
            raise UserError(f"past_values is {tuple(past.shape)}; its shape must be (batch, time, channel).")
        batch, length, channels = past.shape
        if length < self.context:
            raise UserError(
                f"The context is {length} points long and this network needs {self.context}; "
                "give a longer past, pad it, or choose a network with a shorter context."
            )
        if self.counts_channels and channels != self.channels:
            raise UserError(f"past_values has {channels} channels; this network has {self.channels}.")
        for name, values, mask in (("past", past, seen), ("future", future, future_seen)):
            if values is not None and mask is not None and mask.shape != values.shape:
                raise UserError(
                    f"{name}_observed has the shape {tuple(mask.shape)}; "
                    f"{name}_values has {tuple(values.shape)}."
                )
        if future is None:
            if self.reads_future:
                raise UserError("This network needs the future of its exogenous channels in future_values.")
            return
        allowed = {channels} if self.targets is None or self.exogenous else {channels, len(self.targets)}
        if future.dim() != 3 or future.shape[0] != batch or future.shape[2] not in allowed:
            raise UserError(
                f"future_values has the shape {tuple(future.shape)}; "
                f"({batch}, {self.kept}, {channels}) is expected."
            )
        if not (future.shape[1] == self.kept or future.shape[1] >= self.horizon):
            raise UserError(
                f"future_values holds {future.shape[1]} steps; this network forecasts {self.kept}"
                + (f" of {self.horizon}." if self.kept != self.horizon else ".")
            )

    def _read(
        self, past: Tensor, observed: Tensor | None, future: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the points `(B, points_read, C)` that the backbone reads, and which were observed."""
        length = self.points_read
        return past[:, -length:], None if observed is None else observed[:, -length:]

    def _patchify(self, x: Tensor) -> Tensor:
        """Cut `(B, L, C)` into `(B, C, n, P)`, dropping the oldest points that fill no patch."""
        used = self.patch + self.stride * (self.patches - 1)
        x = x[:, x.shape[1] - used :].transpose(1, 2)  # B L C -> B C L
        return x.unfold(2, self.patch, self.stride)

    def _chosen(self, future: Tensor) -> Tensor:
        """Return the predicted channels of a tensor that may hold all of them."""
        if self.targets is None or future.shape[2] == len(self.targets):
            return future
        return future[:, :, self.targets]

    def _initialise(self) -> None:
        """Draw linear weights and embeddings as the settings say; norms are ones and zeros already."""
        chosen = self.initialisation
        assert chosen is not None
        for module in self.modules():
            if isinstance(module, nn.Linear | TokenLinear):
                if _draw(module.weight, chosen.linear, chosen.std):
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                _draw(module.weight, chosen.embed, 1.0)
        positions = self.backbone.positions
        if positions is not None and positions.kind == "random":
            nn.init.normal_(positions.table, std=0.1)


class MaskedTTM(TTM):
    """TTM that reads the horizon as masked points after the context, exogenous channels with their known
    future.

    Args:
        mask_value: What the unknown points hold.
        kw: Arguments of `TTM`; `forecast_mixing.offset` follows from the horizon and is not used.
    """

    def __init__(self, *, mask_value: float = 0.0, **kw: Any) -> None:
        self.mask_value = mask_value
        super().__init__(**kw)
        self.settings["mask_value"] = mask_value

    @property
    def points_read(self) -> int:
        """How many points the backbone reads: context and horizon."""
        return self.context + self.kept

    @property
    def reads_future(self) -> bool:
        """Whether a forecast needs the known future of exogenous channels."""
        return bool(self.exogenous)

    def _read(
        self, past: Tensor, observed: Tensor | None, future: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        batch, _, channels = past.shape
        appended = past.new_full((batch, self.kept, channels), self.mask_value)
        if self.exogenous and future is not None:
            appended[:, :, self.exogenous] = future[:, : self.kept, self.exogenous].to(past.dtype)
        mask = torch.ones_like(past) if observed is None else observed.to(past.dtype)
        mask = torch.cat([mask, torch.ones_like(appended)], dim=1)
        # As published: the head's whole horizon is unobserved, also where fewer steps are kept and appended.
        unknown = [channel for channel in range(channels) if channel not in self.exogenous]
        mask[:, -self.horizon :, unknown] = 0
        return super()._read(torch.cat([past, appended], dim=1), mask, future)


def _draw(weight: Tensor, kind: Distribution, std: float) -> bool:
    """Draw a weight and tell whether anything but PyTorch's own distribution was asked."""
    if kind == "normal":
        nn.init.normal_(weight, std=std)
    elif kind == "uniform":
        nn.init.uniform_(weight)
    elif kind == "xavier_uniform":
        nn.init.xavier_uniform_(weight)
    return kind != "pytorch"
