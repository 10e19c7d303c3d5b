"""Two branches of one encoder: a student that sees part of an image, and a teacher that follows it slowly.

SoftCon (Wang et al. 2024, arXiv 2405.20462) masks the student's view only ("Siamese masking"). Its program
was not released: the projector and predictor are MoCo v3's (Chen et al. 2021, arXiv 2104.02057).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.remote_sensing.models.dino.resnet import SoftConResNet50
from apps.remote_sensing.models.dino.vit import SoftConViT
from core.errors import UserError
from core.objectives.masked_autoencoding import Masking, random_masking

__all__ = ["Siamese", "momentum_at"]

Encoder = SoftConViT | SoftConResNet50


class Siamese(nn.Module):
    """Student and teacher.

    Args:
        encoder: What is trained.
        projection: Features that the branches are compared in.
        hidden: Features within the projector and the predictor.
        mask_ratio: Share of patches that the student does not see; 0 shows it all.
        masking: `drop` leaves these patches out, which saves their time and memory; `token` puts a learned
            token in their places. A ResNet has zeros there with either.

    Raises:
        UserError: If the ratio is not in [0, 1), or the masking is unknown.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        projection: int = 256,
        hidden: int = 4096,
        mask_ratio: float = 0.5,
        masking: Literal["drop", "token"] = "drop",
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise UserError(f"mask_ratio is {mask_ratio}; it must lie in [0, 1)")
        if masking not in ("drop", "token"):
            raise UserError(f"masking is {masking!r}; it must be drop or token")
        self.mask_ratio, self.masking = mask_ratio, masking
        if isinstance(encoder, SoftConViT):
            encoder.mask_token.requires_grad_(masking == "token" and mask_ratio > 0)
        self.encoder = encoder
        self.projector = _mlp(encoder.width, hidden, projection, layers=3)
        self.predictor = _mlp(projection, hidden, projection, layers=2)
        self.teacher = nn.ModuleDict(
            {"encoder": copy.deepcopy(encoder), "projector": copy.deepcopy(self.projector)}
        )
        self.teacher.requires_grad_(False)
        for block in self.teacher["encoder"].blocks():
            if hasattr(block, "drop_path"):
                block.drop_path = 0.0

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the input in their order."""
        return self.encoder.bands

    def forward(
        self, seen: Tensor, whole: Tensor, *, masking: Masking | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what the branches make of two views of the same scenes.

        Args:
            seen: `(B, C, H, W)`, normalised, of which the student sees a part.
            whole: `(B, C, H, W)`, normalised, for the teacher.
            masking: Which patches the student sees; None draws them.

        Returns:
            Queries and keys, each `(B, projection)`, the keys without a gradient.
        """
        queries = self.predictor(self.projector(self._masked(seen, masking)))
        with torch.no_grad():
            keys = self.teacher["projector"](self.teacher["encoder"](whole))
        return queries, keys

    def tokens(self, height: int, width: int) -> int:
        """Return how many patches an image of this size has: what a masking is drawn for."""
        return (height // self.encoder.patch) * (width // self.encoder.patch)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher towards the student, of which it takes over `1 - momentum`."""
        theirs = list(self.teacher.parameters())
        ours = [*self.encoder.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(theirs, ours, 1 - momentum)

    @torch.no_grad()
    def start_teacher(self) -> None:
        """Make the teacher equal to the student, as it is before the first step."""
        for name in ("encoder", "projector"):
            self.teacher[name].load_state_dict(getattr(self, name).state_dict())

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the student's repeated layers."""
        yield from self.encoder.blocks()

    def reset_parameters(self) -> None:
        """Draw the student's weights anew and make the teacher equal to it."""
        self.encoder.reset_parameters()
        for part in (self.projector, self.predictor):
            for layer in part:
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()
        self.start_teacher()

    def _masked(self, images: Tensor, masking: Masking | None) -> Tensor:
        rows, columns = (side // self.encoder.patch for side in images.shape[-2:])
        if masking is None:
            if self.mask_ratio == 0:
                return self.encoder(images)
            masking = random_masking(len(images), rows * columns, self.mask_ratio, device=images.device)
        if isinstance(self.encoder, SoftConViT):
            if self.masking == "drop":
                return self.encoder.encode(images, kept=masking.keep.sort(dim=1).values).cls
            return self.encoder(images, masking.mask)
        shown = (~masking.mask).unflatten(1, (rows, columns))[:, None].to(images.dtype)
        return self.encoder(images * F.interpolate(shown, size=images.shape[-2:], mode="nearest"))


def momentum_at(progress: float, *, first: float = 0.99, last: float = 1.0) -> float:
    """Return the teacher's momentum after a share of the training, along half a cosine.

    Args:
        progress: In [0, 1].
        first: At the start.
        last: At the end.
    """
    return last - (last - first) * (math.cos(math.pi * progress) + 1) / 2


def _mlp(width: int, hidden: int, out: int, *, layers: int) -> nn.Sequential:
    """Return linear layers without biases, each with a batch norm; the last one has no weights of its own."""
    parts: list[nn.Module] = []
    sizes = [width, *[hidden] * (layers - 1), out]
    for i in range(layers):
        parts.append(nn.Linear(sizes[i], sizes[i + 1], bias=False))
        parts.append(nn.BatchNorm1d(sizes[i + 1], affine=i < layers - 1))
        if i < layers - 1:
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)
