"""Tasks that learn from labels: classes or numbers of pixels or of whole scenes, and what has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from apps.remote_sensing.batch import IGNORE, SceneBatch, SceneFacts
from apps.remote_sensing.tasks.base import SceneTask
from core.errors import UserError
from core.inference.tiles import check_window, sliding
from core.labelled_task import ClassTask, NumberTask
from core.metrics.baselines import ClassBaselines
from core.objectives.numbers import NumberLoss
from core.objectives.segmentation import CrossEntropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Change", "Classification", "Regression", "Segmentation"]

_SAMPLES = 64  # training samples that baselines look at


class _LabelledScenes(SceneTask):
    """Base of the tasks that learn from scenes with labels."""

    labels_option = "data.source.labels"
    missing = "check the labels' files, their nodata and data.source.label_offset"
    window: tuple[int, int] | None = None

    def predicted(self, batch: SceneBatch) -> Tensor:
        """Return the network's output, by windows where an evaluation has them."""
        if self.window is None or self.training:
            return self.run_network(batch)
        return sliding(self.network, self.inputs(batch), size=self.window[0], stride=self.window[1])

    def examples_figure(self) -> Figure:
        """Return the figure of the scenes in `drawn`."""
        from apps.remote_sensing.figures import examples_figure

        return examples_figure(self.drawn, self.facts, title=self.title)


class Segmentation(_LabelledScenes, ClassTask):
    """Trains a network that gives logits `(B, K, H, W)` of the data's classes.

    Validation logs loss, intersection over union and accuracy over the whole set, and fits the temperature
    that calibrates probabilities. `test` scores the network beside a constant and a per-pixel classifier
    (`core.metrics.baselines`), and writes `results.csv`, `by_class.csv`, `confusion.csv`, `calibration.csv`
    and figures.

    Args:
        network: Such as `apps.remote_sensing.models.mapper.Mapper`.
        objective: Takes logits and labels (`core.objectives.segmentation`); None is
            cross-entropy.
        auxiliary_weight: Factor of the loss of the network's auxiliary head, if it has one.
        window: Side of the windows that evaluation runs the network on; None is whole images.
        window_stride: Step between windows, whose logits are averaged; None is half of `window`.
        baselines: Whether `test` scores the per-pixel classifiers, which read a part of the training data.
        task: See `SceneTask`.
    """

    kind = "segmentation"
    targets = ("segmentation",)
    shown = ("iou", "accuracy", "f1")
    logged_by_class = "iou"

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

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network."""
        super().check_facts(facts)
        self.check_outputs(facts.classes)

    def loss(self, batch: SceneBatch) -> Tensor:
        """Return the objective of one batch, with that of the auxiliary head."""
        label = self.labels(batch)
        if self.auxiliary_weight and getattr(self.network, "auxiliary_head", None) is not None:
            logits, more = self.network.with_auxiliary(**self.inputs(batch))
            return self.objective(logits, label) + self.auxiliary_weight * self.objective(more, label)
        return self.objective(self.run_network(batch), label)

    def opponents(self) -> PixelBaselines | None:
        """Return the per-pixel classifiers, if there are training data to fit them to."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return PixelBaselines.fitted(data, classes=len(self.facts.classes)) if self.baselines else None

    def shown_of(self, logits: Tensor) -> dict[str, Tensor]:
        """Return classes, and how undecided the network is, from 0 to 1."""
        shares = (logits / self.temperature).softmax(1)
        bits = -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum(1)
        most = torch.log(torch.tensor(float(max(shares.shape[1], 2))))
        return {"prediction": logits.argmax(1), "uncertainty": bits / most}


class PixelBaselines(ClassBaselines):
    """A constant, and a linear classifier of all bands and dates of a pixel."""

    @classmethod
    def fitted(cls, data: Any, *, classes: int) -> PixelBaselines | None:
        """Return them fitted to training samples spread evenly over the set; None if there are none."""

        def pixels() -> Iterator[tuple[Tensor, Tensor]]:
            for index in range(0, len(chosen), -(-len(chosen) // _SAMPLES)):
                batch = chosen.__getitems__([(0, index)])
                known = (batch.label[0] != IGNORE) & batch.valid[0].all(0)
                yield batch.image[0].flatten(0, 1)[:, known], batch.label[0][known]

        chosen = data.train_set()
        if chosen is None:
            return None
        try:
            return cls(pixels(), classes=classes, names=("most frequent class", "single pixels (LDA)"))
        except ValueError:
            return None

    def __call__(self, batch: SceneBatch) -> dict[str, Tensor]:
        """Return the classes `(B, H, W)` of each baseline."""
        return self.predict(batch.image.flatten(1, 2))  # B C T H W -> B F H W


class Change(Segmentation):
    """Segmentation of what changed between the first and the last date.

    The network compares features of the dates, for instance a `Mapper` with `apart` and `frames: difference`.
    For the arguments see `Segmentation`; `test_iou_changed` is the score of a class of that name.
    """

    kind = "change"

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network, or of one date."""
        super().check_facts(facts)
        if facts.frames < 2:
            raise UserError(
                f"a change needs two dates and the data has {facts.frames}; set data.source.frames or "
                "data.source.later, or train apps.remote_sensing.tasks.Segmentation"
            )


class Classification(_LabelledScenes, ClassTask):
    """Trains a network that gives logits `(B, K)`: one class a scene, or several labels, as the data has.

    Validation fits the temperature that calibrates probabilities. `test` writes `results.csv`,
    `by_class.csv`, with one class `confusion.csv`, `calibration.csv` and figures.

    Args:
        network: Such as `apps.remote_sensing.models.labeller.Labeller`.
        weights_of_classes: Factor of each class's loss; None is 1 for all.
        smoothing: Share of a class label that is spread evenly over all classes.
        task: See `SceneTask`.
    """

    kind = "classification"
    targets = ("classification", "multilabel")
    charted = "f1"

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

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network."""
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
        """True if a scene may have several labels."""
        return bool(self.facts.target == "multilabel")

    @property
    def shown(self) -> tuple[str, ...]:  # type: ignore[override]
        """Scores that a validation logs."""
        return ("map_macro", "map_micro", "f1_macro") if self.several else ("accuracy", "f1")


class Regression(_LabelledScenes, NumberTask):
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

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network."""
        super().check_facts(facts)
        self.check_outputs([self.quantity])

    def predicted(self, batch: SceneBatch) -> Tensor:
        """Return numbers in deviations of the labels, `(B, H, W)` or `(B,)`."""
        return super().predicted(batch)[:, 0]
