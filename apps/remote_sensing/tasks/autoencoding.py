"""Masked autoencoding of scenes: pre-training on random patches, and filling what clouds hide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from apps.remote_sensing.batch import SceneBatch, SceneFacts
from apps.remote_sensing.models.prithvi import MAEOutput, PrithviMAE
from apps.remote_sensing.tasks.base import SceneTask
from apps.remote_sensing.tasks.gap_scores import GapSums
from core.data.randomness import draws
from core.errors import UserError
from core.objectives.masked_autoencoding import token_mask

__all__ = ["GapFilling", "Pretraining"]


class Pretraining(SceneTask):
    """Trains a masked autoencoder on scenes without labels (Prithvi-EO 1.0 and 2.0).

    Which patches of a scene are removed is a function of the data's seed, the epoch and its name, and in
    evaluations of its name alone: of no batch size or number of processes. `test` writes `results.csv` with
    the error of each band beside that of the visible patches' mean, and figures of what was removed and put
    back.

    Args:
        network: The autoencoder.
        mask_ratio: Share of patches removed; None is the network's own.
        drop_time: Probability that a sample's dates are kept from the network in training, so that it also
            serves scenes without.
        drop_location: The same for the location.
        task: See `SceneTask`.

    Raises:
        UserError: If a value is out of its range, or the network is no autoencoder.
    """

    kind = "pretraining"

    def __init__(
        self,
        network: PrithviMAE,
        *,
        mask_ratio: float | None = None,
        drop_time: float = 0.1,
        drop_location: float = 0.1,
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        if not isinstance(network, PrithviMAE):
            raise UserError(
                f"{type(network).__name__} is no autoencoder; choose a network with `_mae` of "
                "apps.remote_sensing.models.prithvi"
            )
        for name, value in {"drop_time": drop_time, "drop_location": drop_location}.items():
            if not 0 <= value <= 1:
                raise UserError(f"model.{name} is {value}; it must lie in [0, 1]")
        if mask_ratio is not None and not 0 < mask_ratio < 1:
            raise UserError(f"model.mask_ratio is {mask_ratio}; it must lie between 0 and 1")
        self.mask_ratio, self.drop_time, self.drop_location = mask_ratio, drop_time, drop_location
        self._scores: dict[str, Any] = {}

    def loss(self, batch: SceneBatch) -> Tensor:
        """Return the squared error of removed patches."""
        return self.reconstructed(batch).loss

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of all processes' removed patches."""
        output = self.reconstructed(batch)
        loss = self.weigh(output.loss, output.mask.sum())
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self.drawn = []
        self._scores = {"loss": MeanMetric().to(self.device)}

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Count the loss of one batch, whose masks are the same each time."""
        output = self.reconstructed(batch)
        self._scores["loss"].update(output.loss, output.mask.sum())
        self._keep(batch, output)

    def on_validation_epoch_end(self) -> None:
        """Log the loss and draw."""
        self.log_results({"loss": self._scores["loss"].compute()}, stage="val")
        if self.drawn and not self.trainer.sanity_checking:
            self._draw()

    def on_test_epoch_start(self) -> None:
        """Begin to count."""
        self.drawn = []
        bands = list(self.facts.bands)
        self._scores = {name: GapSums(bands).to(self.device) for name in (self.title, "mean of what is seen")}

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Score one batch beside the mean of the patches that are seen."""
        output = self.reconstructed(batch)
        truth = self.network.encoder.images(batch.image)
        removed = self.network.mask_image(output.mask, output.grid)
        image = self.network.image(output.prediction, output.grid)
        seen = (~removed)[:, None].to(truth.dtype)
        mean = (truth * seen).sum((2, 3, 4), keepdim=True) / seen.sum((2, 3, 4), keepdim=True).clamp(min=1)
        counted = removed & batch.valid
        self._scores[self.title].update(image, truth, counted)
        self._scores["mean of what is seen"].update(mean.expand_as(truth), truth, counted)
        self._keep(batch, output)

    def on_test_epoch_end(self) -> None:
        """Write the table and figures, and log the network's own error."""
        results = {name: metric.compute() for name, metric in self._scores.items()}
        self._log_own(results[self.title], stage="test")
        table = [
            {"model": name, "band": band, **{key: float(values[place]) for key, values in scores.items()}}
            for name, scores in results.items()
            for place, band in enumerate(self.facts.bands)
        ]
        self.write_table("by_band", table)
        self.write_results(
            {name: {key: values.mean() for key, values in row.items()} for name, row in results.items()}
        )
        self._draw()

    def reconstructed(self, batch: SceneBatch) -> MAEOutput:
        """Return what the network makes of a batch; in training some samples keep dates and places back.

        Masks are drawn for each scene by its name; see `core.data.randomness`.
        """
        grid = self.network.encoder.grid_of(self.network.encoder.images(batch.image))
        noise, *kept_back = draws(self, batch, "reconstruction", math.prod(grid), 1, 1)
        codes, chances = (batch.time, batch.location), (self.drop_time, self.drop_location)
        if self.training:
            codes = tuple(map(_withheld, codes, kept_back, chances))
        return self.network(batch.image, *codes, mask_ratio=self.mask_ratio, noise=noise)

    def _log_own(self, scores: Mapping[str, Tensor], *, stage: str) -> None:
        """Log the means over the bands, as `results.csv` has them."""
        self.log_results({name: values.mean() for name, values in scores.items()}, stage=stage)

    def _keep(self, batch: SceneBatch, output: MAEOutput) -> None:
        if len(self.drawn) < self.examples:
            removed = self.network.mask_image(output.mask, output.grid)
            image = self.network.image(output.prediction, output.grid)
            self.keep_examples(batch, prediction=image, removed=removed)

    def _draw(self) -> None:
        """Draw the scenes that were kept: what was seen, predicted and there."""
        if self.trainer.is_global_zero and self.drawn:
            from apps.remote_sensing.figures import reconstruction_figure

            self.log_figure("reconstruction", reconstruction_figure(self.drawn, self.facts, title=self.title))


class GapFilling(Pretraining):
    """Trains the autoencoder to fill what clouds hide (Godwin et al. 2024): their patches are removed.

    `val_ssim`, `val_mae` and `val_mse` are the published scores, here of the whole set: structural similarity
    with all clear pixels zero in both images, errors in reflectance over hidden pixels. `test` adds scores of
    each band, and those of the mean of the dates on which a pixel is clear.

    Args:
        network: The autoencoder.
        count_in_first: Keep as many patches in every sample as in a batch's first, as the published program;
            what is filled then depends on the batches.
        task: See `SceneTask`.

    Raises:
        UserError: If a share of patches to remove at random is given, or the network is no autoencoder.
    """

    kind = "gap_filling"

    def __init__(self, network: PrithviMAE, *, count_in_first: bool = False, **task: Any) -> None:
        if task.get("mask_ratio") is not None:
            raise UserError(
                f"model.mask_ratio is {task['mask_ratio']}, and in GapFilling clouds say which patches are "
                "removed; leave it out, or choose Pretraining"
            )
        super().__init__(network, drop_time=0.0, drop_location=0.0, **task)
        self.count_in_first = count_in_first

    def flops_per_sample(self) -> None:
        """Return None, which leaves MFU out: samples differ in their clouds, and so in their work."""

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        super().on_validation_epoch_start()
        self._scores[self.title] = self._sums()

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Count one batch."""
        output = self.reconstructed(batch)
        self._scores["loss"].update(output.loss, output.mask.sum())
        self._scores[self.title].update(*self._reflectances(batch, output), _gaps(batch))
        self._keep(batch, output)

    def on_validation_epoch_end(self) -> None:
        """Log loss and scores, and draw."""
        self._log_own(self._scores[self.title].compute(), stage="val")
        super().on_validation_epoch_end()

    def on_test_epoch_start(self) -> None:
        """Begin to count."""
        self.drawn = []
        self._scores = {name: self._sums() for name in (self.title, "mean of clear dates")}

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Score one batch beside the mean of the clear dates."""
        output, gaps = self.reconstructed(batch), _gaps(batch)
        guess, truth = self._reflectances(batch, output)
        self._scores[self.title].update(guess, truth, gaps)
        clear = (~gaps)[:, None].to(truth.dtype)  # B 1 T H W
        elsewhere = (truth * clear).sum((2, 3, 4), keepdim=True) / clear.sum((2, 3, 4), keepdim=True).clamp(1)
        count = clear.sum(2, keepdim=True)
        dates = torch.where(count > 0, (truth * clear).sum(2, keepdim=True) / count.clamp(min=1), elsewhere)
        self._scores["mean of clear dates"].update(dates.expand_as(truth), truth, gaps)
        self._keep(batch, output)

    def reconstructed(self, batch: SceneBatch) -> MAEOutput:
        """Return what the network makes of a batch whose hidden patches are removed; nothing is drawn.

        Raises:
            UserError: If a sample shows no patch without a cloud, by name.
        """
        gaps = _gaps(batch)[:, None]
        how = {"gaps": gaps, "count_in_first": self.count_in_first}
        try:
            return self.network(batch.image, batch.time, batch.location, **how)
        except UserError as error:
            hidden = token_mask(gaps, self.network.encoder.patch).all(1).tolist()
            names = [batch.names[row] for row, whole in enumerate(hidden) if whole and batch.names]
            if not names:
                raise
            raise UserError(
                f"clouds touch every patch of {', '.join(names)}, which leaves nothing to fill in from; "
                "give masks with fewer clouds (data.source.most of GapChips), or leave these scenes out"
            ) from error

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network, or of one date."""
        super().check_facts(facts)
        if facts.frames < 2:
            raise UserError(
                "gaps are filled from other dates, and the data has one; give scenes of several dates"
            )

    def _sums(self) -> GapSums:
        return GapSums(list(self.facts.bands), similarity=True).to(self.device)

    def _reflectances(self, batch: SceneBatch, output: MAEOutput) -> tuple[Tensor, Tensor]:
        """Return prediction and truth `(B, C, T, H, W)` as reflectances."""
        facts, scale = self.facts, float(getattr(self.network.encoder, "scale", 1.0))
        unit = 1.0 if facts.scale != 1.0 else scale  # a data set with a scale gives reflectances already
        truth = self.network.encoder.images(batch.image)
        mean, std = (truth.new_tensor(one).view(-1, 1, 1, 1) / unit for one in (facts.mean, facts.std))
        image = self.network.image(output.prediction, output.grid)
        return image * std + mean, truth * std + mean


def _gaps(batch: SceneBatch) -> Tensor:
    if batch.gaps is None:
        raise UserError(
            "the batch has no clouds to fill in; use a reader with gaps, such as "
            "apps.remote_sensing.data.readers.gap_chips.GapChips"
        )
    return batch.gaps


def _withheld(codes: Tensor | None, drawn: Tensor, chance: float) -> Tensor | None:
    """Return dates or places with those of some samples unknown (NaN): where `drawn` `(B, 1)` is below."""
    if codes is None or chance == 0:
        return codes
    return torch.where((drawn < chance).view(-1, *[1] * (codes.ndim - 1)), torch.nan, codes)
