"""SoftCon's pre-training as a task: masked student, slow teacher, labels as soft targets."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from apps.remote_sensing.models.dino.siamese import Siamese, momentum_at
from apps.remote_sensing.objectives.soft_contrastive import SoftContrastive, soft_contrastive
from apps.remote_sensing.views import two_views
from core.errors import UserError
from core.task import Task

__all__ = ["ContrastivePretraining"]


class Labelled(Protocol):
    """What a batch has: `image` `(B, C, T, H, W)`, normalised, and multi-hot `label` `(B, K)`."""

    image: Tensor
    label: Tensor


class ContrastivePretraining(Task):
    """Trains a `Siamese` network on two views of each scene.

    Args:
        network: Student and teacher.
        temperature: See `soft_contrastive`; so are the next three.
        soft_weight: Factor of the soft term.
        soft_temperature: Divides the similarities in the soft term.
        ignore_unlabelled: Whether pairs with a scene without labels are left out of the soft term.
        symmetric: Whether each view goes through either branch once.
        momentum: Of the teacher at the start; it ends at 1.
        view: Side of the views in pixels; None keeps the images' own.
        scale: Smallest and largest share of an image's area that a view shows.
        task: See `core.task.Task`.

    Raises:
        UserError: If the network is no `Siamese`, or the momentum is not in [0, 1].
    """

    def __init__(
        self,
        network: Siamese,
        *,
        temperature: float = 0.2,
        soft_weight: float = 0.1,
        soft_temperature: float = 1.0,
        ignore_unlabelled: bool = False,
        symmetric: bool = True,
        momentum: float = 0.99,
        view: int | None = None,
        scale: tuple[float, float] = (0.2, 1.0),
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        if not isinstance(network, Siamese):
            raise UserError(
                f"{type(network).__name__} has no teacher; wrap the encoder in "
                "apps.remote_sensing.models.dino.siamese.Siamese"
            )
        if not 0 <= momentum <= 1:
            raise UserError(f"model.momentum is {momentum}; it must lie in [0, 1]")
        self.objective = {
            "temperature": temperature,
            "soft_weight": soft_weight,
            "soft_temperature": soft_temperature,
            "ignore_unlabelled": ignore_unlabelled,
        }
        self.symmetric, self.momentum = symmetric, momentum
        self.view, self.scale = view, (float(scale[0]), float(scale[1]))
        self._followed = 0

    def configure_model(self) -> None:
        """Load the student's weights and start the teacher from them; a resumed run then reads its own."""
        fresh = not self._ready
        super().configure_model()
        if fresh:
            self.network.start_teacher()

    def on_train_start(self) -> None:
        """Note the step that the teacher stands at."""
        super().on_train_start()
        self._followed = self.global_step

    def training_step(self, batch: Labelled, batch_idx: int) -> Tensor:
        """Return the loss of two views."""
        return self._step(batch, "train")

    def validation_step(self, batch: Labelled, batch_idx: int) -> None:
        """Log the loss of two views, the same ones each time."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(batch_idx)
            self._step(batch, "val")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let the teacher follow once after each step of the optimiser."""
        if self.global_step == self._followed:
            return
        self._followed = self.global_step
        progress = min(self.global_step / max(self.trainer.estimated_stepping_batches, 1), 1.0)
        self.network.follow(momentum_at(progress, first=self.momentum))

    def loss(self, batch: Labelled) -> Tensor:
        """Return the loss of one batch."""
        return self._terms(batch)[0]

    def _step(self, batch: Labelled, stage: str) -> Tensor:
        loss, found = self._terms(batch)
        scalars = {"loss": loss, "contrastive": found.contrastive, "soft": found.soft}
        named = {f"{stage}_{name}": value.detach() for name, value in scalars.items()}
        self.log_scalars(named, batch_size=len(batch.image), sync_dist=stage == "val")
        return loss

    def _terms(self, batch: Labelled) -> tuple[Tensor, SoftContrastive]:
        if batch.label is None or batch.label.ndim != 2:
            raise UserError(
                "the batch has no multi-hot labels (B, K), which the soft contrastive loss compares; give "
                "the data module labels of land cover"
            )
        first, second = two_views(batch.image, size=self.view, scale=self.scale)
        found = self._compared(first, second, batch.label)
        if not self.symmetric:
            return found.total, found
        other = self._compared(second, first, batch.label)
        return (found.total + other.total) / 2, found

    def _compared(self, seen: Tensor, whole: Tensor, labels: Tensor) -> SoftContrastive:
        queries, keys = self.network(seen, whole)
        key_labels, first = None, 0
        if self._trainer is not None and self.trainer.world_size > 1:
            gathered, others = self.all_gather(keys), self.all_gather(labels)
            keys, key_labels = gathered.flatten(0, 1), others.flatten(0, 1)
            first = self.global_rank * len(queries)
        return soft_contrastive(queries, keys, labels, key_labels=key_labels, first=first, **self.objective)
