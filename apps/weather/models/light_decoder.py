"""Light decoders of surface variables that a frozen backbone was never trained on (arXiv 2506.19088)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from apps.weather.batch import States, Variables, WeatherBatch
from core.backbones.vit import reset_parts
from core.checkpoints.keymap import KeyMap, Rename
from core.checkpoints.networks import home_of
from core.errors import UserError

__all__ = ["KEY_MAP", "LatentDecoders", "LightlyDecoded", "key_maps"]

KEY_MAP = KeyMap(renames=(Rename("surf_heads.{v}.{n}.{leaf}", "surf_heads.{v}.{n}.{leaf}"),))


class LatentDecoders(nn.Module):
    """A multi-layer perceptron for each variable, from the surface latent of a patch to its points.

    Args:
        variables: Surface variables to decode.
        width: Of the latent, twice the backbone's embedding.
        patch: Rows and columns of a patch.
        hidden: Widths of the layers between.
        dropout: Between the layers.

    Raises:
        UserError: If there are no variables or layers.
    """

    def __init__(
        self,
        variables: Sequence[str],
        *,
        width: int = 1024,
        patch: int = 4,
        hidden: Sequence[int] = (512, 512, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not variables or not hidden:
            raise UserError("light decoders need at least one variable and one hidden layer")
        self.variables, self.patch, self.width = tuple(variables), patch, width
        # Official positions: linear, ReLU, dropout, and again.
        self.surf_heads = nn.ModuleDict({name: nn.Sequential() for name in self.variables})
        for head in self.surf_heads.values():
            size = width
            for inner in hidden:
                head.extend([nn.Linear(size, inner), nn.ReLU(), nn.Dropout(dropout)])
                size = inner
            head.append(nn.Linear(size, patch * patch))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw truncated normal weights."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, latents: Tensor, columns: int) -> Tensor:
        """Map surface latents `(B, L, 2D)` to normalised fields `(B, V, H, W)` of `columns` columns."""
        across, p = columns // self.patch, self.patch
        points = torch.stack([head(latents) for head in self.surf_heads.values()], dim=1)  # B V L (p p)
        blocks = points.unflatten(3, (p, p)).unflatten(2, (-1, across))  # B V h w p p
        return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # B V (h p) (w p)


class LightlyDecoded(nn.Module):
    """A backbone that forecasts as it did, and decoders that read further variables off its latents.

    Args:
        backbone: Has `backbone_tokens(batch) -> (B, levels · L, 2D)`, the surface first, `states(tokens,
            batch)` that makes the next state of them, `latent_width` 2D, and what a task asks of a network.
        variables: New surface variables, in the order of the batches' targets.
        hidden: Widths of the decoders' layers.
        dropout: Between them.
    """

    decoder_parts = ("decoders",)

    def __init__(
        self,
        backbone: nn.Module,
        variables: Sequence[str],
        *,
        hidden: Sequence[int] = (512, 512, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not hasattr(backbone, "backbone_tokens"):
            raise UserError(
                f"{type(backbone).__name__} has no backbone_tokens, off which variables are decoded; take an "
                "Aurora"
            )
        self.backbone = backbone
        self.decoders = LatentDecoders(
            variables, width=backbone.latent_width, patch=backbone.patch, hidden=hidden, dropout=dropout
        )
        self.decoded_variables = Variables(surface=tuple(variables))

    def __getattr__(self, name: str) -> Any:
        """Return what a task asks of a network from the backbone."""
        if name in ("variables", "history", "step", "patch", "prepare", "finish"):
            return getattr(self.backbone, name)
        return super().__getattr__(name)

    def reset_parameters(self) -> None:
        """Draw the weights."""
        reset_parts(self)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the backbone's blocks."""
        yield from self.backbone.blocks()  # type: ignore[operator]

    def advance(self, batch: WeatherBatch) -> States:
        """Return the backbone's next normalised state."""
        return self.backbone.advance(batch)  # type: ignore[operator]

    def advance_with_latents(self, batch: WeatherBatch) -> tuple[States, Tensor]:
        """Return the backbone's next normalised state and its surface latents, computed once."""
        tokens = self.backbone.backbone_tokens(batch)  # type: ignore[operator]
        return self.backbone.states(tokens, batch), self._surface(tokens, batch)  # type: ignore[operator]

    def latents(self, batch: WeatherBatch) -> Tensor:
        """Return the surface latents `(B, L, 2D)` of a normalised batch's next state."""
        return self._surface(self.backbone.backbone_tokens(batch), batch)  # type: ignore[operator]

    def decoded(self, batch: WeatherBatch) -> States:
        """Return the decoded variables `(B, 1, V, H, W)` of a normalised batch's next state, normalised."""
        return self.decode(self.latents(batch), batch)

    def decode(self, latents: Tensor, batch: WeatherBatch) -> States:
        """Return the variables that surface latents hold, `(B, 1, V, H, W)` normalised."""
        fields = self.decoders(latents, batch.grid.shape[1])[:, None]
        return States(fields, fields.new_empty(*fields.shape[:2], 0, 0, *fields.shape[3:]))

    def fit_weights(
        self, tensors: Mapping[str, Tensor], *, prefix: str, described: Mapping[str, Any] | None
    ) -> dict[str, Tensor]:
        """Return weights of a backbone alone under the names that it has here; others as they are."""
        names = self.backbone.state_dict()
        if any(f"{prefix}backbone.{name}" in tensors for name in names):
            return dict(tensors)
        return {f"{prefix}backbone.{name}": tensor for name, tensor in tensors.items()}

    def _surface(self, tokens: Tensor, batch: WeatherBatch) -> Tensor:
        rows, columns = batch.grid.shape
        return tokens[:, : rows * columns // self.decoders.patch**2]


def key_maps(network: nn.Module) -> tuple[KeyMap, ...]:
    """Return the official tables that serve a network here: of decoders, and of the backbone under them."""
    if not isinstance(network, LightlyDecoded):
        return (KEY_MAP,)
    home = home_of(network.backbone)
    tables = (
        home.key_maps(network.backbone)
        if hasattr(home, "key_maps")
        else (getattr(home, "KEY_MAP", KeyMap()),)
    )
    return tuple(_below(table) for table in tables)


def _below(table: KeyMap) -> KeyMap:
    """Return a backbone's table with names as they are here, where weights of a backbone alone fit too."""
    return replace(
        table,
        renames=(*table.renames, Rename("{rest*}", "backbone.{rest*}")),
        reshapes=tuple(replace(one, ours=f"backbone.{one.ours}") for one in table.reshapes),
    )
