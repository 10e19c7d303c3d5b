"""Tasks that learn from labels, whatever the samples are: classes or numbers, of points or of whole samples.

A domain's task says what its network gives; training, scores of whole sets, calibration, what is compared
with, tables and figures are here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from core.data.batch import IGNORE
from core.errors import UserError
from core.figures.lettering import unlike
from core.metrics.classes import Calibration, ClassScores, LabelScores, NumberScores, Temperature
from core.task import Task

__all__ = ["ClassTask", "LabelledTask", "NumberTask", "Opponents", "confusion_rows"]

Scores = Mapping[str, Mapping[str, Tensor]]

_SAMPLES = 512  # whose labels are looked at for their mean and deviation


class Opponents(Protocol):
    """Baselines that a network is scored beside."""

    @property
    def names(self) -> Sequence[str]:
        """Their names in tables, the same on every process."""

    def __call__(self, batch: Any) -> Mapping[str, Tensor]:
        """Return the prediction of each."""


class LabelledTask(Task):
    """Base of the tasks that compare what a network gives with labels.

    Validation logs the loss and `shown` scores of the whole set. `test` scores the network beside its
    opponents and writes `results.csv`, what subclasses add, and a figure of examples.

    A subclass has an `objective` and gives `predicted`, `counter` and `known`.
    """

    objective: nn.Module
    shown: Sequence[str] = ()
    """Scores that a validation logs."""
    labels_option = "the data's labels"
    """Where labels are said to lie, in messages."""
    missing = "check the labels' files"
    """Advice where an epoch has no label."""
    _labels_seen: Tensor | None = None

    def predicted(self, batch: Any) -> Tensor:
        """Return what the network gives, as the objective takes it."""
        raise TypeError(f"{type(self).__name__} does not define this step")

    def counter(self) -> Any:
        """Return an empty metric of the task's scores."""
        raise TypeError(f"{type(self).__name__} does not define this step")

    def known(self, label: Tensor) -> Tensor:
        """Return where a label says something."""
        raise TypeError(f"{type(self).__name__} does not define this step")

    def opponents(self) -> Opponents | None:
        """Return what `test` scores beside the network, if anything."""
        return None

    def examples_figure(self) -> Any:
        """Return the figure of the samples in `drawn`, or None."""
        return None

    def compared(self, predicted: Tensor, label: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return self.objective(predicted, label)

    def labels(self, batch: Any) -> Tensor:
        """Return the labels of a batch."""
        if batch.label is None:
            raise UserError(f"the batch has no labels; check {self.labels_option}, or use `predict`")
        return batch.label

    def check_outputs(self, names: Sequence[str]) -> None:
        """Refuse a network with another number of outputs than there are names."""
        outputs = getattr(self.network, "outputs", None) or getattr(self.network, "classes", None)
        if isinstance(outputs, int) and outputs != len(names):
            raise UserError(
                f"the network has {outputs} outputs and the data {len(names)} ({', '.join(names)}); set "
                f"model.network.outputs={len(names)}, and model.reinitialise for weights of other classes"
            )

    def loss(self, batch: Any) -> Tensor:
        """Return the objective of one batch."""
        return self.compared(self.predicted(batch), self.labels(batch))

    def on_train_epoch_start(self) -> None:
        """Begin to count what is labelled."""
        super().on_train_epoch_start()
        self._labels_seen = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of all processes' labels."""
        count = self.known(self.labels(batch)).sum()
        before = 0 if self._labels_seen is None else self._labels_seen
        loss = self.weigh(self.loss(batch), count)
        self._labels_seen = before + count.detach()
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Refuse an epoch without any label."""
        if self._labels_seen is not None and not int(self._labels_seen):
            raise UserError(f"no label of a whole epoch says anything (all are unknown); {self.missing}")

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._mean_loss = MeanMetric().to(self.device)
        self._scores = {self.title: self.counter().to(self.device)}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count one batch."""
        label, predicted = self.labels(batch), self.predicted(batch)
        self._mean_loss.update(self.compared(predicted, label), self.known(label).sum())
        self.count(self.title, predicted, label)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        scores = self._scores[self.title].compute()
        shown = {name: scores[name] for name in self.shown}
        self.log_results({"loss": self._mean_loss.compute(), **shown}, stage="val")

    def on_test_epoch_start(self) -> None:
        """Begin to count, and make the opponents."""
        self.drawn, self._opponents = [], self.opponents()
        names = (self.title, *(self._opponents.names if self._opponents else ()))
        self._scores = {name: self.counter().to(self.device) for name in names}

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Score the network and its opponents on the same samples."""
        label, predicted = self.labels(batch), self.predicted(batch).float()
        self.count(self.title, predicted, label)
        if self._opponents is not None:
            for name, other in self._opponents(batch).items():
                self._scores[name].update(other, label)
        self.after_test(batch, predicted, label)

    def on_test_epoch_end(self) -> None:
        """Write the tables and figures, and log the network's own scores."""
        results = {name: metric.compute() for name, metric in self._scores.items()}
        self.log_results({**results[self.title], **self.further_results()}, stage="test")
        self.write_results(results)
        self.report()
        if self.trainer.is_global_zero and self.drawn and (figure := self.examples_figure()) is not None:
            self.log_figure("examples", figure)

    def count(self, name: str, predicted: Tensor, label: Tensor) -> None:
        """Count what the network gives for a batch."""
        self._scores[name].update(predicted, label)

    def after_test(self, batch: Any, predicted: Tensor, label: Tensor) -> None:
        """Keep what else a test needs of a batch."""
        self.keep_examples(batch, prediction=predicted)

    def further_results(self) -> dict[str, Tensor]:
        """Return what a test logs beside the scores."""
        return {}

    def report(self) -> None:
        """Write what a test leaves beside `results.csv`."""


class ClassTask(LabelledTask):
    """Base of the tasks whose network gives logits of classes `(B, K, ...)`, of points or of whole samples.

    Labels are classes `(B, ...)` int64 with `IGNORE` where unknown, or with `several` `(B, K)` of 0 and 1.
    Validation fits the temperature that calibrates probabilities. `test` also writes `by_class.csv`,
    `calibration.csv`, with one class a point `confusion.csv`, and figures. The domain's facts have `classes`
    and `temperature`.
    """

    charted = "iou"
    """The score of each class that is drawn."""
    logged_by_class: str | None = None
    """The score of each class that `test` logs."""

    @property
    def several(self) -> bool:
        """True if a sample may have several labels."""
        return False

    @property
    def temperature(self) -> float:
        """Divisor of logits for probabilities; 1 before any validation."""
        return self.normaliser.facts.temperature if self.normaliser.known else 1.0

    def counter(self) -> ClassScores | LabelScores:
        """Return an empty metric of the classes' scores."""
        names = list(self.facts.classes)
        return LabelScores(names) if self.several else ClassScores(names)

    def known(self, label: Tensor) -> Tensor:
        """Return where a label says something."""
        return torch.ones_like(label) if self.several else label != IGNORE

    def shares(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits."""
        return logits.sigmoid() if self.several else logits.softmax(1)

    def compared(self, predicted: Tensor, label: Tensor) -> Tensor:
        """Return the loss, of several labels their mean cross-entropy."""
        if not self.several:
            return self.objective(predicted, label)
        weights = getattr(self.objective, "weights", None)
        return F.binary_cross_entropy_with_logits(predicted, label.to(predicted.dtype), weights)

    def count(self, name: str, predicted: Tensor, label: Tensor) -> None:
        """Count what the network gives for a batch."""
        self._scores[name].update(self.shares(predicted) if self.several else predicted.argmax(1), label)

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        super().on_validation_epoch_start()
        self._temperature = Temperature(several=self.several).to(self.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count one batch."""
        label, logits = self.labels(batch), self.predicted(batch)
        self._mean_loss.update(self.compared(logits, label), self.known(label).sum())
        self.count(self.title, logits, label)
        self._temperature.update(logits, label)

    def on_validation_epoch_end(self) -> None:
        """Log the scores and keep the temperature, if this belongs to a training."""
        super().on_validation_epoch_end()
        if self.fitting:
            self.normaliser.learn(temperature=float(self._temperature.compute()))

    def on_test_epoch_start(self) -> None:
        """Begin to count, and make the opponents."""
        super().on_test_epoch_start()
        self._calibration = {name: Calibration().to(self.device) for name in ("calibrated", "plain")}

    def after_test(self, batch: Any, predicted: Tensor, label: Tensor) -> None:
        """Count how sure the network is, and keep examples."""
        for name, scale in (("plain", 1.0), ("calibrated", self.temperature)):
            shares = self.shares(predicted / scale)
            if self.several:
                sure, hits = torch.maximum(shares, 1 - shares), (shares > 0.5) == label.bool()
                self._calibration[name].update(sure, hits, torch.ones_like(hits))
            else:
                sure = shares.amax(1)
                self._calibration[name].update(sure, predicted.argmax(1) == label, self.known(label))
        self.keep_examples(batch, **self.shown_of(predicted))

    def shown_of(self, logits: Tensor) -> dict[str, Tensor]:
        """Return what is drawn of a batch."""
        return {"prediction": self.shares(logits / self.temperature)}

    def further_results(self) -> dict[str, Tensor]:
        """Return the calibration errors, and a score of each class."""
        ece = {name: metric.compute()["ece"] for name, metric in self._calibration.items()}
        scores = {"ece": ece["calibrated"], "ece_uncalibrated": ece["plain"]}
        if self.logged_by_class is not None:
            values = self._scores[self.title].by_class()[self.logged_by_class]
            scores |= {
                f"{self.logged_by_class}_{name}": values[place]
                for place, name in enumerate(self.facts.classes)
            }
        return scores

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return calibrated probabilities `(B, K, ...)`."""
        return self.shares(self.predicted(batch).float() / self.temperature)

    def report(self) -> None:
        """Write the scores of each class, what it was taken for, and how sure the network is."""
        own, names = self._scores[self.title], list(self.facts.classes)
        columns = own.by_class()
        values = {key: column.tolist() for key, column in columns.items()}
        table = [
            {"class": name, **{key: column[place] for key, column in values.items()}}
            for place, name in enumerate(names)
        ]
        self.write_and_say("by_class", table)
        matrix = None if self.several else own.matrix().tolist()
        if matrix is not None:
            self.write_table("confusion", confusion_rows(matrix, names))
        calibration = {name: metric.compute() for name, metric in self._calibration.items()}
        bins = _calibration_rows(calibration)
        self.write_table("calibration", bins)
        if not self.trainer.is_global_zero:
            return
        from core.figures.classes import bars_figure, calibration_figure, confusion_figure

        if bins:
            errors = {name: float(counts["ece"]) for name, counts in calibration.items()}
            self.log_figure("calibration", calibration_figure(bins, errors, title=self.title))
        key = "average_precision" if self.several else self.charted
        figure = bars_figure(values[key], names, what=_SPOKEN.get(key, key), title=self.title)
        self.log_figure("by_class", figure)
        if matrix is not None:
            self.log_figure("confusion", confusion_figure(matrix, names, title=self.title))


class NumberTask(LabelledTask):
    """Base of the tasks whose network gives numbers of points or of whole samples.

    It learns labels less their mean over their deviation, both taken from training samples before the first
    step; scores are in the labels' own units. Labels are float32 with NaN where unknown. The domain's facts
    have `label_mean`, `label_std` and `quantity`.
    """

    shown = ("mae", "rmse", "r2")
    quantity: str

    def setup(self, stage: str) -> None:
        """Take the data's facts, and the mean and deviation of the training labels."""
        super().setup(stage)
        if stage == "fit":
            mean, std = self._label_spread()
            self.normaliser.learn(label_mean=mean, label_std=std, quantity=self.quantity)

    @property
    def spread(self) -> tuple[float, float]:
        """Mean and deviation of the training labels; 0 and 1 before they are known."""
        facts = self.normaliser.facts if self.normaliser.known else None
        return (facts.label_mean, facts.label_std) if facts else (0.0, 1.0)

    def counter(self) -> NumberScores:
        """Return an empty metric of errors."""
        return NumberScores()

    def known(self, label: Tensor) -> Tensor:
        """Return where a label says something."""
        return label.isfinite()

    def compared(self, predicted: Tensor, label: Tensor) -> Tensor:
        """Return the objective, in deviations of the labels."""
        mean, std = self.spread
        return self.objective(predicted, (label - mean) / std)

    def opponents(self) -> Opponents:
        """Return the training labels' mean."""
        return _Mean(self.spread[0])

    def count(self, name: str, predicted: Tensor, label: Tensor) -> None:
        """Count what the network gives for a batch."""
        self._scores[name].update(self.in_units(predicted), label)

    def after_test(self, batch: Any, predicted: Tensor, label: Tensor) -> None:
        """Keep examples."""
        self.keep_examples(batch, prediction=self.in_units(predicted))

    def in_units(self, predicted: Tensor) -> Tensor:
        """Return numbers in the labels' units."""
        mean, std = self.spread
        return predicted.float() * std + mean

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return numbers in the labels' units."""
        return self.in_units(self.predicted(batch))

    def _label_spread(self) -> tuple[float, float]:
        """Return mean and deviation of the labels of training samples, spread evenly over the set."""
        chosen = self.trainer.datamodule.train_set()  # type: ignore[attr-defined]
        count, total, squares = 0, 0.0, 0.0
        for index in range(0, len(chosen), -(-len(chosen) // _SAMPLES)):
            label = chosen.__getitems__([(0, index)]).label
            known = label[label.isfinite()].double()
            count, total = count + len(known), total + float(known.sum())
            squares += float(known.square().sum())
        if not count:
            raise UserError(
                f"no training label is a finite number; check {self.labels_option} and their nodata"
            )
        mean = total / count
        return mean, max((squares / count - mean**2), 0.0) ** 0.5 or 1.0


class _Mean:
    """The training labels' mean, whatever the sample."""

    names = ("mean of training",)

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        return {self.names[0]: torch.full_like(batch.label, self.value)}


def confusion_rows(counts: Sequence[Sequence[int]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each class: `label`, and how often it was `predicted <name>` of each class.

    Rows of `counts` are labels; of names that are alike the later ones get a number.
    """
    apart = unlike(names)
    return [
        {"label": name, **{f"predicted {other}": count for other, count in zip(apart, row, strict=True)}}
        for name, row in zip(apart, counts, strict=True)
    ]


def _calibration_rows(calibration: Scores) -> list[dict[str, Any]]:
    """Return confidence, share of hits and share of all for each bin that holds something."""
    rows = []
    for name, counts in calibration.items():
        seen, confidence, hits = (counts[key].tolist() for key in ("seen", "confidence", "hits"))
        rows += [
            {
                "probabilities": name,
                "confidence": confidence[place] / count,
                "accuracy": hits[place] / count,
                "share": count / sum(seen),
            }
            for place, count in enumerate(seen)
            if count
        ]
    return rows


_SPOKEN = {"iou": "intersection over union", "f1": "F1", "average_precision": "average precision"}
