"""SoftCon's pre-training as a task: masked student, slow teacher, labels as soft targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from apps.remote_sensing.batch import SceneBatch, SceneFacts
from apps.remote_sensing.models.dino.siamese import Siamese, momentum_at
from apps.remote_sensing.models.frozen.inputs import ImagePreparation, Prepared, prepared_for
from apps.remote_sensing.tasks.base import SceneTask
from apps.remote_sensing.tasks.views import draws_of_views, two_views
from core.data.randomness import draws
from core.errors import UserError
from core.objectives.contrastive import soft_contrastive
from core.objectives.masked_autoencoding import Masking, random_masking
from core.strategies.collectives import gathered

__all__ = ["ContrastivePretraining"]


class ContrastivePretraining(SceneTask):
    """Trains a `Siamese` network on two views of each scene.

    What is drawn for a scene (two of its dates, where the views lie, which patches the student sees) depends
    on the data's seed, the epoch and the scene's name alone, so it is the same in a run that is resumed, and
    for any number of processes. Validation gathers the projections of all scenes first, so that its loss
    depends neither on the batches it ran in nor on the processes.

    Args:
        network: Student and teacher.
        preparation: What is done to the images' numbers where the data module leaves them as stored; None:
            it has normalised them.
        temperature: See `soft_contrastive`; so are the next three.
        soft_weight: Factor of the soft term.
        soft_temperature: Divides the similarities in the soft term.
        ignore_unlabelled: Whether pairs with a scene without labels are left out of the soft term.
        symmetric: Whether each view goes through either branch once.
        momentum: Of the teacher at the start; it ends at 1.
        view: Side of the views in pixels; None keeps the images' own.
        scale: Smallest and largest share of an image's area that a view shows.
        task: See `SceneTask`.

    Raises:
        UserError: If the network is no `Siamese`, or the momentum is not in [0, 1].
    """

    kind = "pretraining"
    targets = ("multilabel",)

    def __init__(
        self,
        network: Siamese,
        *,
        preparation: ImagePreparation | None = None,
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
        self.preparation = preparation
        self.prepared: Prepared | None = None
        self._projected: list[tuple[Tensor, ...]] = []

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse data without labels of whole scenes, or whose images nobody normalises, or both do."""
        if self.preparation is None:
            super().check_facts(facts)
            return
        self.prepared = prepared_for(self.network.encoder, facts, choice=self.preparation, run=None)
        super().check_facts(replace(facts, bands=tuple(self.network.bands), mean=(1.0,), std=(1.0,)))

    def flops_per_sample(self) -> float:
        """Return the FLOPs of a training step per sample, counted on the meta device; MFU is made of it."""
        from core.tracking.flops import count_flops

        encoder = self.network.encoder
        side = self.view or self.trainer.datamodule.train_set()[(0, 0)].image.shape[-1]  # type: ignore[attr-defined]
        images = torch.empty(2, len(encoder.bands), side, side, device="meta")  # batch norms need two
        times = 2 if self.symmetric else 1
        return times * count_flops(self.network, {"seen": images, "whole": images}) / len(images)

    def configure_model(self) -> None:
        """Load the student's weights and start the teacher from them; a resumed run then reads its own."""
        fresh = not self._ready
        super().configure_model()
        if fresh:
            self.network.start_teacher()

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return the loss of two views, each query against the keys of all processes."""
        terms = self._terms(batch)
        scalars = {f"train_{name}": value.detach() for name, value in terms.items()}
        self.log_scalars(scalars, batch_size=len(batch.image))
        return terms["loss"]

    def on_validation_epoch_start(self) -> None:
        """Begin to collect."""
        self._projected = []

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Keep what the branches make of two views, the same ones each time."""
        pairs, labels = self._projections(batch)
        self._projected.append((labels, *(part for pair in pairs for part in pair)))

    def on_validation_epoch_end(self) -> None:
        """Log the loss of the whole set, compared in groups that hold at most a training batch."""
        strategy = self.trainer.strategy
        labels, *parts = (
            gathered(torch.cat(each), strategy)[0] for each in zip(*self._projected, strict=True)
        )
        self._projected = []
        size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", len(labels))
        groups = -(-len(labels) // size)
        cut = [part.tensor_split(groups) for part in (labels, *parts)]
        totals: dict[str, Tensor] = {}
        for known, *ours in zip(*cut, strict=True):
            terms = self._compared([*zip(ours[::2], ours[1::2], strict=True)], known)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value * (len(known) / len(labels))
        self.log_results(totals, stage="val")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and let the teacher follow: before a checkpoint of this step is written."""
        super().optimizer_step(*args, **kwargs)
        done = (self.global_step + 1) / max(self.trainer.estimated_stepping_batches, 1)
        self.network.follow(momentum_at(min(done, 1.0), first=self.momentum))

    def loss(self, batch: SceneBatch) -> Tensor:
        """Return the loss of one batch."""
        return self._terms(batch)["loss"]

    def _terms(self, batch: SceneBatch) -> dict[str, Tensor]:
        pairs, labels = self._projections(batch)
        if self._trainer is None:
            return self._compared(pairs, labels)
        # Training batches are as large on every process, but for those that are repeated to overfit.
        how = {"strategy": self.trainer.strategy, "even": not self.trainer.overfit_batches}
        every, first = gathered(labels, **how)
        pairs = [(queries, gathered(keys, **how)[0]) for queries, keys in pairs]
        return self._compared(pairs, labels, key_labels=every, first=first)

    def _projections(self, batch: SceneBatch) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Return queries and keys `(B, D)` of each direction, and the labels."""
        if batch.label is None or batch.label.ndim != 2:
            raise UserError(
                "the batch has no multi-hot labels (B, K), which the soft contrastive loss compares; give "
                "the data module labels of land cover"
            )
        if self.training and len(batch.image) < 2:
            raise UserError(
                "a batch holds one scene, which has no other to be told from; set data.drop_last to true, or "
                "another data.batch_size"
            )
        images = batch.image if self.prepared is None else self.prepared.numbers(batch.image, batch.valid)
        side = (self.view, self.view) if self.view else images.shape[-2:]
        count, tokens = draws_of_views(images), self.network.tokens(*side)
        views, *noise = draws(self, batch, "views", count, tokens, tokens)
        first, second = two_views(images, size=self.view, scale=self.scale, numbers=views)
        pairs = [self.network(first, second, masking=self._masking(noise[0]))]
        if self.symmetric:
            pairs.append(self.network(second, first, masking=self._masking(noise[1])))
        return pairs, batch.label

    def _masking(self, noise: Tensor) -> Masking | None:
        ratio = self.network.mask_ratio
        return random_masking(*noise.shape, ratio, noise=noise) if ratio else None

    def _compared(
        self, pairs: list[tuple[Tensor, Tensor]], labels: Tensor, **others: Any
    ) -> dict[str, Tensor]:
        """Return the loss and its terms, means over the directions."""
        losses = [soft_contrastive(*pair, labels, **others, **self.objective) for pair in pairs]
        named = {"loss": "total", "contrastive": "contrastive", "soft": "soft"}
        return {
            name: torch.stack([getattr(loss, field) for loss in losses]).mean()
            for name, field in named.items()
        }
