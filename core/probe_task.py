"""Probing as a task: frozen features of training and test samples, neighbours and a linear probe on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.data.counting import counted
from core.errors import UserError, did_you_mean
from core.metrics.probe_table import METHODS, LabelledFeatures, ProbeTable
from core.metrics.sums import gathered, processes
from core.task import Task

__all__ = ["ProbeTask"]

Method = Literal["knn", "linear"]


class ProbeTask(Task):
    """Scores a network's features without training it, by the protocol of `core.metrics.probes`.

    `test` takes the features of the training samples (in their order, nothing drawn) and of the test samples,
    and writes `results.csv` (a row for each method, scaling and share of the training data), `per_class.csv`
    and figures; `validate` does so with the validation samples. The headline is that of the first method and
    scaling with the largest share: `test_accuracy`, or for several labels `test_map_macro` and
    `test_map_micro`. Shares of the training data are drawn once for each seed, and their scores are means
    over the seeds.

    A domain's task gives `features`. Its data module has `in_order`, its batches a `label`, its facts
    `classes`.

    Args:
        network: Any that gives features.
        methods: `knn`, `linear`.
        scaled: Whether features get mean 0 and deviation 1 over the training samples.
        k: Neighbours.
        strength: Inverse strength of the linear probe's penalty; null has none.
        steps: Most iterations of the linear probe.
        shares: Parts of the training samples that probes are fitted on.
        seeds: Of the draws of these parts.
        task: See `core.task.Task`.
    """

    samples = "samples"
    """Their name in messages."""

    def __init__(
        self,
        network: nn.Module,
        *,
        methods: Sequence[Method] = METHODS,  # type: ignore[assignment]
        scaled: Sequence[bool] = (False, True),
        k: int = 5,
        strength: float | None = 1.0,
        steps: int = 3000,
        shares: Sequence[float] = (1.0,),
        seeds: Sequence[int] = (0,),
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        for method in methods:
            if method not in METHODS:
                hint = did_you_mean(method, METHODS)
                raise UserError(f"model.methods has '{method}'; it may hold {' and '.join(METHODS)}{hint}")
        for name, values in {"methods": methods, "scaled": scaled, "shares": shares, "seeds": seeds}.items():
            if not values:
                raise UserError(f"model.{name} is empty; give at least one")
        if k < 1 or steps < 1:
            raise UserError(f"model.k is {k}, steps {steps}; both must be at least 1")
        for value in shares:
            if not 0 < value <= 1:
                raise UserError(f"model.shares holds {value}; a share lies above 0 and at most at 1")
        if strength is not None and strength <= 0:
            raise UserError(f"model.strength is {strength}; it must be above 0, or null for no penalty")
        self.protocol = {"methods": list(methods), "scaled": list(scaled), "k": k, "strength": strength,
            "steps": steps}  # fmt: skip
        self.shares, self.seeds = sorted({float(share) for share in shares}), list(dict.fromkeys(seeds))
        self._train: LabelledFeatures | None = None
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []

    def features(self, batch: Any) -> Tensor:
        """Return one row for each sample of a batch on the device, `(B, D)` float32."""
        raise TypeError(f"{type(self).__name__} defines no features")

    def before_training_samples(self, dataset: Any) -> None:
        """Prepare a network that is made of training samples."""

    def check_first(self, batch: Any) -> None:
        """Refuse a first batch of training samples that no network can have been trained on."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Refuse: `setup` says so first; without this method Lightning would end with a traceback."""
        self._refuse("fit")

    def setup(self, stage: str) -> None:
        """Take the data's facts; refuse to be trained."""
        if stage in ("fit", "predict"):
            self._refuse(getattr(stage, "value", stage))
        super().setup(stage)
        self.network.requires_grad_(False)

    def on_validation_start(self) -> None:
        """Take the features of the training samples."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        loader = data.in_order("train")
        self.before_training_samples(loader.dataset)
        total, shown = len(loader.dataset), self.trainer.is_global_zero
        with counted(f"probe: training {self.samples}", total, unit=self.samples, shown=shown) as advance:
            for number, batch in enumerate(loader):
                moved = batch.to(self.device, non_blocking=True)
                if number == 0:
                    self.check_first(moved)
                self._take(moved)
                advance(len(batch))
        self._train = self._taken("training")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Take the features of a batch."""
        self._take(batch)

    def on_validation_epoch_end(self) -> None:
        """Write tables and figures, and log the headline."""
        self._finish("val")

    def on_test_start(self) -> None:
        """Take the features of the training samples."""
        self.on_validation_start()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Take the features of a batch."""
        self._take(batch)

    def on_test_epoch_end(self) -> None:
        """Write tables and figures, and log the headline."""
        self._finish("test")

    def _refuse(self, verb: str) -> None:
        domain = type(self).__module__.split(".")[1].replace("_", "-")
        raise UserError(
            f"probing trains nothing, so there is nothing to {verb}; score the network's features with `dfm "
            f"{domain} test`"
        )

    @torch.inference_mode()
    def _take(self, batch: Any) -> None:
        if batch.label is None:
            name = batch.names[0] if batch.names else "a sample"
            raise UserError(
                f"{name} has no label, and a probe needs one of each of the {self.samples}; check the "
                "split's labels"
            )
        self._features.append(self.features(batch))
        self._labels.append(batch.label)

    def _taken(self, what: str) -> LabelledFeatures:
        """Return the features of all processes in the order of the files, and forget them."""
        features, labels = self._features, self._labels
        self._features, self._labels = [], []
        if not features:
            raise UserError(f"there are no {what} {self.samples}; check how the data is split")
        split = LabelledFeatures(torch.cat(features), torch.cat(labels))
        if processes() > 1:
            parts = gathered((split.features.cpu(), split.labels.cpu()))
            joined = (torch.cat(rows).to(self.device) for rows in zip(*parts, strict=True))
            split = LabelledFeatures(*joined)
        if not bool(torch.isfinite(split.features).all()):
            bad = int((~torch.isfinite(split.features)).any(1).sum())
            raise UserError(
                f"{bad} of {len(split.features)} {what} {self.samples} have features that are not finite; "
                "check the weights and the data's units"
            )
        if split.labels.ndim == 1 and bool((split.labels < 0).any()):
            known = split.labels >= 0
            self.say(f"left out: {int((~known).sum())} {what} {self.samples} without a class")
            split = LabelledFeatures(split.features[known], split.labels[known])
        return split

    def _finish(self, stage: str) -> None:
        scored = self._taken("test" if stage == "test" else "validation")
        assert self._train is not None
        train, self._train = self._train, None
        headline: dict[str, float] = {}
        if self.trainer.is_global_zero:
            table = ProbeTable(self.facts.classes, title=self.title)
            table.fill(train, scored, shares=self.shares, seeds=self.seeds, **self.protocol)
            self.write_table("results", table.rows)
            self.write_table("per_class", table.per_class)
            self.say(table.text())
            headline = table.headline(stage)
            self._draw(table, count=len(scored.labels))
        self.log_dict(headline, rank_zero_only=True)

    def _draw(self, table: ProbeTable, *, count: int) -> None:
        """Draw scores by share of the labels, and the first probe's classes."""
        from core.figures.classes import confusion_figure, precision_figure, share_figure

        first = table.per_class[0]
        title = f"{self.title}, {first['method']}, {first['features']} features"
        if len(self.shares) > 1:
            self.log_figure("labels", share_figure(table.rows, metric=table.metric, title=self.title))
        if table.counts is not None:
            figure = confusion_figure(table.counts.tolist(), table.classes, title=title)
            self.log_figure("confusion", figure)
        else:
            rows = table.per_class[: len(table.classes)]
            self.log_figure("labels-precision", precision_figure(rows, scenes=count, title=title))
