"""A network on top of an encoder: what it takes over from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from apps.remote_sensing.models.downstream.weights import fitted
from core.backbones.vit import reset_parts

__all__ = ["OnEncoder"]


class OnEncoder(nn.Module):
    """A network that holds an `encoder`, reads the images that this reads, and loads its weights.

    Args:
        encoder: What gives the features.
    """

    has_decoder = False

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the input in their order."""
        return tuple(self.encoder.bands)  # type: ignore[arg-type]

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Mean of each band in the data that the encoder was trained on, in the units of `scale`."""
        return getattr(self.encoder, "mean", None)

    @property
    def std(self) -> tuple[float, ...] | None:
        """Standard deviation of each band, as `mean`."""
        return getattr(self.encoder, "std", None)

    @property
    def scale(self) -> float:
        """What a reflectance of 1 is in the units of `mean`."""
        return getattr(self.encoder, "scale", 1.0)

    @property
    def fill(self) -> float:
        """What pixels without data are set to after normalisation."""
        return getattr(self.encoder, "fill", 0.0)

    @property
    def normalisation(self) -> str:
        """How the encoder's images were normalised; see `apps.remote_sensing.models.frozen.resizing`."""
        return getattr(self.encoder, "normalisation", "standardise")

    @property
    def decoder_parts(self) -> tuple[str, ...]:
        """Names of what stands on the encoder, as far as it has parameters."""
        return tuple(
            name
            for name, part in self.named_children()
            if name != "encoder" and any(True for _ in part.parameters())
        )

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the encoder's repeated layers."""
        yield from self.encoder.blocks()  # type: ignore[operator]

    def reset_parameters(self) -> None:
        """Draw every weight and compute every buffer anew, as a network built on the meta device needs."""
        for module in self.children():
            own = getattr(module, "reset_parameters", None)
            if callable(own):
                own()
            else:
                reset_parts(module)

    def fit_weights(
        self, tensors: Mapping[str, Tensor], *, prefix: str, described: Mapping[str, Any] | None
    ) -> dict[str, Tensor]:
        """Return weights of one of our checkpoints, of any network on the encoder, under our names.

        Args:
            tensors: Under the names of the checkpoint.
            prefix: Where this network stands in a larger one.
            described: The network that the checkpoint says it holds.
        """
        return fitted(tensors, prefix=prefix, decoder=self.has_decoder)
