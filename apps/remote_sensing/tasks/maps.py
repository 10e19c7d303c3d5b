"""Maps: a class or a number for every pixel, and what has changed between two dates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from apps.remote_sensing.batch import IGNORE, SceneBatch, SceneFacts
from apps.remote_sensing.tasks.base import CalibratedTask, SceneTask
from apps.remote_sensing.tasks.baselines import PixelBaselines, gathered
from core.errors import UserError
from core.inference.sliding import check_window, sliding
from core.metrics.classes import Calibration, ClassScores, NumberScores, Temperature
from core.objectives.numbers import NumberLoss
from core.objectives.segmentation import CrossEntropy

__all__ = ["Change", "Regression", "Segmentation"]


class Segmentation(CalibratedTask):
    """Trains a network that gives logits `(B, K, H, W)` of the data's classes.

    Validation logs loss, intersection over union and accuracy over the whole set, and fits the temperature
    that calibrates probabilities. `test` scores the network beside a constant and a per-pixel classifier
    (`apps.remote_sensing.tasks.baselines`), and writes `results.csv`, `by_class.csv`, `confusion.csv`,
    `calibration.csv` and figures.

    Args:
        network: Such as `apps.remote_sensing.models.mapper.Mapper`.
        objective: Takes logits and labels (`core.objectives.segmentation`); None is
            cross-entropy.
        auxiliary_weight: Factor of the loss of the network's auxiliary head, if it has one.
        window: Side of the windows that evaluation runs the network on; None is whole images.
        window_stride: Step between windows, whose logits are averaged; None is half of `window`.
        baselines: Whether `test` scores the per-pixel classifiers, which read a part of the training data.
        task: See `SceneTask`.

    Raises:
        UserError: If a value is out of its range.
    """

    kind = "segmentation"
    targets = ("segmentation",)

    def __init__(
        self,
        network: nn.Module,
        *,
        objective: nn.Module | None = None,
        auxiliary_weight: float = 1.0,
        window: int | None = None,
        window_stride: int | None = None,
        baselines: bool = True,
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        self.objective = CrossEntropy() if objective is None else objective
        self.auxiliary_weight = auxiliary_weight
        self.window = check_window(window, window_stride)
        self.baselines = baselines
        self._scores: dict[str, Any] = {}
        self._peers: PixelBaselines | None = None

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network.

        Raises:
            UserError: Naming both values.
        """
        super().check_facts(facts)
        self.check_outputs(facts.classes)

    def loss(self, batch: SceneBatch) -> Tensor:
        """Return the objective of one batch, with that of the auxiliary head."""
        label = _labels(batch)
        if self.auxiliary_weight and getattr(self.network, "auxiliary_head", None) is not None:
            logits, more = self.network.with_auxiliary(**self.inputs(batch))
            return self.objective(logits, label) + self.auxiliary_weight * self.objective(more, label)
        return self.objective(self.run_network(batch), label)

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of all processes' labelled pixels."""
        loss = self.weigh_known(self.loss(batch), (_labels(batch) != IGNORE).sum())
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        names = list(self.facts.classes)
        self._scores = {
            "classes": ClassScores(names).to(self.device),
            "temperature": Temperature().to(self.device),
            "loss": MeanMetric().to(self.device),
        }

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Count one batch."""
        label, logits = _labels(batch), self.logits(batch)
        self._scores["loss"].update(self.objective(logits, label), (label != IGNORE).sum())
        self._scores["classes"].update(logits.argmax(1), label)
        self._scores["temperature"].update(logits, label)

    def on_validation_epoch_end(self) -> None:
        """Log the scores and keep the temperature."""
        found = self._scores["classes"].compute()
        shown = {name: found[name] for name in ("iou", "accuracy", "f1")}
        self.log_results({"loss": self._scores["loss"].compute(), **shown}, stage="val")
        self.keep_temperature(self._scores["temperature"])

    def on_test_epoch_start(self) -> None:
        """Begin to count, and fit the baselines."""
        names = list(self.facts.classes)
        self.drawn, self._peers = [], None
        if self.baselines:
            self._peers = gathered(self.trainer.datamodule, classes=names)  # type: ignore[attr-defined]
        made = [self.title, *(self._peers.names if self._peers else ())]
        self._scores = {
            "classes": {name: ClassScores(names).to(self.device) for name in made},
            "calibrated": Calibration().to(self.device),
            "plain": Calibration().to(self.device),
        }

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Score the network and the baselines on the same scenes."""
        label, logits = _labels(batch), self.logits(batch).float()
        predicted, known = logits.argmax(1), label != IGNORE
        self._scores["classes"][self.title].update(predicted, label)
        for name, scale in (("plain", 1.0), ("calibrated", self.temperature)):
            sure = (logits / scale).softmax(1).amax(1)
            self._scores[name].update(sure, predicted == label, known)
        if self._peers is not None:
            for name, made in self._peers(batch).items():
                self._scores["classes"][name].update(made, label)
        shares = (logits / self.temperature).softmax(1)
        self.keep_examples(batch, prediction=predicted, uncertainty=_entropy(shares))

    def on_test_epoch_end(self) -> None:
        """Write the tables and figures, and log the network's own scores."""
        from apps.remote_sensing.tasks.reports import report_classes

        scores = self._scores
        found = {name: one.compute() for name, one in scores["classes"].items()}
        own = scores["classes"][self.title]
        calibrated, plain = scores["calibrated"].compute(), scores["plain"].compute()
        more = {"ece": calibrated["ece"], "ece_uncalibrated": plain["ece"]}
        rows = own.by_class()
        more |= {f"iou_{name}": rows["iou"][place] for place, name in enumerate(own.classes)}
        self.log_results({**found[self.title], **more}, stage="test")
        report_classes(
            self,
            found,
            rows=rows,
            matrix=own.matrix(),
            calibration={"calibrated": calibrated, "plain": plain},
        )

    def predict_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return calibrated probabilities `(B, K, H, W)`."""
        return (self.logits(batch).float() / self.temperature).softmax(1)

    def logits(self, batch: SceneBatch) -> Tensor:
        """Return logits `(B, K, H, W)`, by windows where the task has them."""
        if self.window is None:
            return self.run_network(batch)
        return sliding(self.network, self.inputs(batch), size=self.window[0], stride=self.window[1])


class Change(Segmentation):
    """Segmentation of what changed between the first and the last date.

    The network compares features of the dates, for instance a `Mapper` with `apart` and `frames: difference`.
    For the arguments see `Segmentation`; `test_iou_changed` is the score of a class of that name.
    """

    kind = "change"

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network, or of one date.

        Raises:
            UserError: Naming both values.
        """
        super().check_facts(facts)
        if facts.frames < 2:
            raise UserError(
                f"a change needs two dates and the data has {facts.frames}; set data.source.frames or "
                "data.source.later, or train apps.remote_sensing.tasks.Segmentation"
            )


class Regression(SceneTask):
    """Trains a network that gives a number for every pixel `(B, 1, H, W)`, or for every scene `(B, 1)`.

    The network learns labels less their mean over their deviation, both taken from training scenes before
    the first step; scores are in the labels' own units.

    Args:
        network: Such as a `Mapper` or a `Labeller` with one output.
        objective: Takes numbers and labels; None is the squared error.
        quantity: What is measured, with its unit, for tables and maps.
        window: See `Segmentation`.
        window_stride: See `Segmentation`.
        task: See `SceneTask`.
    """

    kind = "regression"
    targets = ("regression",)

    def __init__(
        self,
        network: nn.Module,
        *,
        objective: nn.Module | None = None,
        quantity: str = "value",
        window: int | None = None,
        window_stride: int | None = None,
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        self.objective = NumberLoss() if objective is None else objective
        self.quantity, self.window = quantity, check_window(window, window_stride)
        self._scores: dict[str, Any] = {}

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network.

        Raises:
            UserError: Naming both values.
        """
        super().check_facts(facts)
        self.check_outputs([self.quantity])

    def setup(self, stage: str) -> None:
        """Take the data's facts, and the mean and deviation of the training labels."""
        super().setup(stage)
        if stage == "fit":
            mean, std = label_spread(self.trainer.datamodule)  # type: ignore[attr-defined]
            self.normaliser.learn(label_mean=mean, label_std=std, quantity=self.quantity)

    def loss(self, batch: SceneBatch) -> Tensor:
        """Return the objective of one batch, in deviations of the labels."""
        return self.objective(self._given(self.run_network(batch)), self._standard(batch.label))

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of all processes' known values."""
        loss = self.weigh_known(self.loss(batch), batch.label.isfinite().sum())
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._scores = {
            self.title: NumberScores().to(self.device),
            "loss": MeanMetric().to(self.device),
        }

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Count one batch."""
        made = self.predict_step(batch, batch_idx)
        loss = self.objective(self._standard(made), self._standard(batch.label))
        self._scores["loss"].update(loss, batch.label.isfinite().sum())
        self._scores[self.title].update(made, batch.label)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        found = self._scores[self.title].compute()
        shown = {name: found[name] for name in ("mae", "rmse", "r2")}
        self.log_results({"loss": self._scores["loss"].compute(), **shown}, stage="val")

    def on_test_epoch_start(self) -> None:
        """Begin to count."""
        self.drawn = []
        self._scores = {name: NumberScores().to(self.device) for name in (self.title, "mean of training")}

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Score the network beside the training labels' mean."""
        made = self.predict_step(batch, batch_idx)
        self._scores[self.title].update(made, batch.label)
        constant = torch.full_like(made, self._spread[0])
        self._scores["mean of training"].update(constant, batch.label)
        self.keep_examples(batch, prediction=made)

    def on_test_epoch_end(self) -> None:
        """Write the table and figures, and log the network's own scores."""
        from apps.remote_sensing.tasks.reports import report_numbers

        found = {name: one.compute() for name, one in self._scores.items()}
        self.log_results(found[self.title], stage="test")
        report_numbers(self, found)

    def predict_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return numbers in the labels' units, `(B, H, W)` or `(B,)`."""
        if self.window is None:
            made = self.run_network(batch)
        else:
            made = sliding(self.network, self.inputs(batch), size=self.window[0], stride=self.window[1])
        mean, std = self._spread
        return self._given(made).float() * std + mean

    @property
    def _spread(self) -> tuple[float, float]:
        if not self.normaliser.known:
            return 0.0, 1.0
        return self.normaliser.facts.label_mean, self.normaliser.facts.label_std

    def _standard(self, numbers: Tensor | None) -> Tensor:
        mean, std = self._spread
        assert numbers is not None
        return (numbers - mean) / std

    @staticmethod
    def _given(made: Tensor) -> Tensor:
        return made[:, 0]


def label_spread(data: Any, *, samples: int = 512) -> tuple[float, float]:
    """Return mean and deviation of the labels of training samples, spread evenly over the set.

    Raises:
        UserError: If none of them is known.
    """
    chosen = data.train_set()
    stride = -(-len(chosen) // samples)
    count, total, squares = 0, 0.0, 0.0
    for index in range(0, len(chosen), stride):
        label = chosen.__getitems__([(0, index)]).label
        known = label[label.isfinite()].double()
        count, total = count + len(known), total + float(known.sum())
        squares += float(known.square().sum())
    if not count:
        raise UserError("no training label is a finite number; check data.source.labels and their nodata")
    mean = total / count
    return mean, max((squares / count - mean**2), 0.0) ** 0.5 or 1.0


def _labels(batch: SceneBatch) -> Tensor:
    if batch.label is None:
        raise UserError("the batch has no labels; check data.source.labels, or use `predict`")
    return batch.label


def _entropy(shares: Tensor) -> Tensor:
    """Return how undecided probabilities `(B, K, ...)` are, from 0 to 1, `(B, ...)`."""
    bits = -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum(1)
    return bits / torch.log(torch.tensor(float(max(shares.shape[1], 2))))
