"""Labels of whole scenes: one class, or several."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from apps.remote_sensing.batch import IGNORE, SceneBatch, SceneFacts
from apps.remote_sensing.tasks.base import CalibratedTask
from core.errors import UserError
from core.metrics.classes import Calibration, ClassScores, LabelScores, Temperature
from core.objectives.segmentation import CrossEntropy

__all__ = ["Classification"]


class Classification(CalibratedTask):
    """Trains a network that gives logits `(B, K)`: one class a scene, or several labels, as the data has.

    Validation fits the temperature that calibrates probabilities. `test` writes `results.csv`,
    `by_class.csv`, with one class `confusion.csv`, `calibration.csv` and figures.

    Args:
        network: Such as `apps.remote_sensing.models.labeller.Labeller`.
        weights_of_classes: Factor of each class's loss; None is 1 for all.
        smoothing: Share of a class label that is spread evenly over all classes.
        task: See `SceneTask`.

    Raises:
        UserError: If a value is out of its range.
    """

    kind = "classification"
    targets = ("classification", "multilabel")

    def __init__(
        self,
        network: nn.Module,
        *,
        weights_of_classes: list[float] | None = None,
        smoothing: float = 0.0,
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        if not 0 <= smoothing < 1:
            raise UserError(f"model.smoothing is {smoothing}; it must lie in [0, 1)")
        if weights_of_classes is not None and min(weights_of_classes, default=-1) < 0:
            raise UserError("model.weights_of_classes must hold numbers of at least 0, one for each class")
        self.weights_of_classes, self.smoothing = weights_of_classes, smoothing
        self.objective = CrossEntropy(weights_of_classes, smoothing)
        self._scores: dict[str, Any] = {}

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network.

        Raises:
            UserError: Naming both values.
        """
        super().check_facts(facts)
        self.check_outputs(facts.classes)
        weights = self.weights_of_classes
        if weights is not None and len(weights) != len(facts.classes):
            raise UserError(
                f"model.weights_of_classes has {len(weights)} numbers for {len(facts.classes)} classes; "
                "give one for each"
            )
        if facts.target == "multilabel" and self.smoothing:
            raise UserError("model.smoothing is for one class a scene; the data has several, so leave it out")

    def setup(self, stage: str) -> None:
        """Take the data's facts, as every task does, and whether a scene may have several labels."""
        super().setup(stage)
        if stage == "fit":
            self.normaliser.learn(kind=self.facts.target)

    @property
    def several(self) -> bool:
        """Whether a scene may have several labels."""
        return bool(self.facts.target == "multilabel")

    def loss(self, batch: SceneBatch) -> Tensor:
        """Return cross-entropy, of the class or of each label."""
        return self._loss(self.run_network(batch), batch)

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of all processes' labelled scenes."""
        loss = self.weigh_known(self.loss(batch), self._known(batch).sum())
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._scores = {
            "own": self._counter(),
            "temperature": Temperature(several=self.several).to(self.device),
            "loss": MeanMetric().to(self.device),
        }

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Count one batch."""
        logits = self.run_network(batch).float()
        self._scores["loss"].update(self._loss(logits, batch), self._known(batch).sum())
        self._score("own", logits, batch)
        self._scores["temperature"].update(logits, batch.label)

    def on_validation_epoch_end(self) -> None:
        """Log the scores and keep the temperature."""
        found = self._scores["own"].compute()
        names = ("map_macro", "map_micro", "f1_macro") if self.several else ("accuracy", "f1")
        shown = {name: found[name] for name in names}
        self.log_results({"loss": self._scores["loss"].compute(), **shown}, stage="val")
        self.keep_temperature(self._scores["temperature"])

    def on_test_epoch_start(self) -> None:
        """Begin to count."""
        self.drawn = []
        self._scores = {
            "own": self._counter(),
            "calibrated": Calibration().to(self.device),
            "plain": Calibration().to(self.device),
        }

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Score one batch."""
        logits, known = self.run_network(batch).float(), self._known(batch)
        self._score("own", logits, batch)
        for name, scale in (("plain", 1.0), ("calibrated", self.temperature)):
            shares = self._shares(logits / scale)
            if self.several:
                sure, hits = torch.maximum(shares, 1 - shares), (shares > 0.5) == batch.label.bool()
                self._scores[name].update(sure, hits, torch.ones_like(hits))
            else:
                self._scores[name].update(shares.amax(1), shares.argmax(1) == batch.label, known)
        self.keep_examples(batch, prediction=self._shares(logits / self.temperature))

    def on_test_epoch_end(self) -> None:
        """Write the tables and figures, and log the network's own scores."""
        from apps.remote_sensing.tasks.reports import report_classes, report_labels

        scores = self._scores
        found = scores["own"].compute()
        calibration = {name: scores[name].compute() for name in ("calibrated", "plain")}
        more = {"ece": calibration["calibrated"]["ece"], "ece_uncalibrated": calibration["plain"]["ece"]}
        self.log_results({**found, **more}, stage="test")
        rows = scores["own"].by_class()
        if self.several:
            report_labels(self, {self.title: found}, rows=rows, calibration=calibration)
        else:
            matrix = scores["own"].matrix()
            report_classes(self, {self.title: found}, rows=rows, matrix=matrix, calibration=calibration)

    def predict_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return calibrated probabilities `(B, K)`."""
        return self._shares(self.run_network(batch).float() / self.temperature)

    def _counter(self) -> ClassScores | LabelScores:
        names = list(self.facts.classes)
        return (LabelScores(names) if self.several else ClassScores(names)).to(self.device)

    def _score(self, name: str, logits: Tensor, batch: SceneBatch) -> None:
        made = self._shares(logits) if self.several else logits.argmax(1)
        self._scores[name].update(made, batch.label)

    def _shares(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.several else logits.softmax(1)

    def _known(self, batch: SceneBatch) -> Tensor:
        if batch.label is None:
            raise UserError("the batch has no labels; check data.source.labels, or use `predict`")
        return torch.ones_like(batch.label) if self.several else batch.label != IGNORE

    def _loss(self, logits: Tensor, batch: SceneBatch) -> Tensor:
        self._known(batch)
        assert batch.label is not None
        if self.several:
            weights = self.objective.weights
            label = batch.label.to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, label, weights)
        return self.objective(logits, batch.label)
