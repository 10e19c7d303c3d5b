"""Probing as a task: frozen features of training and test scenes, neighbours and a linear probe on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from apps.remote_sensing.batch import SceneBatch, SceneFacts
from apps.remote_sensing.models.frozen.features import Pool, encoder_of, pooled_features
from apps.remote_sensing.models.frozen.inputs import Binding, Prepared, prepared_for
from core.data.counting import counted
from core.errors import UserError, did_you_mean
from core.metrics.probe_table import METHODS, LabelledFeatures, ProbeTable
from core.metrics.sums import gathered, processes
from core.task import Task

__all__ = ["Probing"]

Method = Literal["knn", "linear"]
_LEARN_FROM = 256  # images that a baseline made of training patches sees
_NO_TRAINING = (
    "probing trains nothing, so there is nothing to {verb}; score the network's features with `dfm "
    "remote-sensing test`"
)


class Probing(Task):
    """Scores a network's features without training it, by the protocol of the resize study.

    `test` takes the features of the training scenes (in their order, nothing drawn or mirrored) and of the
    test scenes, and writes `results.csv` (a row for each method, scaling and share of the training data),
    `per_class.csv` and figures; `validate` does so with the validation scenes. The headline is that of the
    first method and scaling with the largest share: `test_accuracy`, or for several labels `test_map_macro`
    and `test_map_micro`. Shares of the training data are drawn once for each seed, and their scores are means
    over the seeds.

    Args:
        network: Any that gives features of images (see `apps.remote_sensing.models.frozen.features`).
        preparation: How images are prepared; None is what is bound to the weights: the normalisation of the
            run of ours that trained them, else the network's own.
        methods: `knn`, `linear`.
        scaled: Whether features get mean 0 and deviation 1 over the training scenes.
        k: Neighbours.
        strength: Inverse strength of the linear probe's penalty; null has none.
        steps: Most iterations of the linear probe.
        layers: How many of a transformer's last blocks give their class tokens; None is its own choice.
        pool: `class` token or `mean` token; None is the network's own choice.
        shares: Parts of the training scenes that probes are fitted on.
        seeds: Of the draws of these parts.
        task: See `core.task.Task`.

    Raises:
        UserError: If a value is out of its range.
    """

    facts_type = SceneFacts

    def __init__(
        self,
        network: nn.Module,
        *,
        preparation: Binding | None = None,
        methods: Sequence[Method] = METHODS,  # type: ignore[assignment]
        scaled: Sequence[bool] = (False, True),
        k: int = 5,
        strength: float | None = 1.0,
        steps: int = 3000,
        layers: int | None = None,
        pool: Pool | None = None,
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
        if k < 1 or steps < 1 or (layers is not None and layers < 1):
            raise UserError(f"model.k is {k}, steps {steps}, layers {layers}; all must be at least 1")
        for value in shares:
            if not 0 < value <= 1:
                raise UserError(f"model.shares holds {value}; a share lies above 0 and at most at 1")
        if strength is not None and strength <= 0:
            raise UserError(f"model.strength is {strength}; it must be above 0, or null for no penalty")
        self.preparation = preparation
        self.layers, self.pool = layers, pool
        self.protocol = {"methods": list(methods), "scaled": list(scaled), "k": k, "strength": strength,
            "steps": steps}  # fmt: skip
        self.shares, self.seeds = sorted({float(share) for share in shares}), list(dict.fromkeys(seeds))
        self.prepared: Prepared | None = None
        self._train: LabelledFeatures | None = None
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse data without labels of whole scenes, and data that would be normalised twice.

        Raises:
            UserError: Saying what to do.
        """
        if facts.target not in ("classification", "multilabel"):
            raise UserError(
                f"a probe needs a class, or several labels, of each scene, and the labels of "
                f"{', '.join(facts.sources or ['these data'])} are of the kind '{facts.target}'; "
                "take a reader with classes, such as apps.remote_sensing.data.readers.class_folders.EuroSAT"
            )
        self.prepared = prepared_for(
            encoder_of(self.network), facts, binding=self.preparation, run=_facts_of(self.weights)
        )

    def training_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Refuse: `setup` says so first; without this method Lightning would end with a traceback."""
        raise UserError(_NO_TRAINING.format(verb="fit"))

    def setup(self, stage: str) -> None:
        """Take the data's facts and say how images are prepared; refuse to be trained.

        Raises:
            UserError: If asked to fit or predict.
        """
        if stage in ("fit", "predict"):
            raise UserError(_NO_TRAINING.format(verb=getattr(stage, "value", stage)))
        super().setup(stage)
        self.network.requires_grad_(False)
        if self.prepared is not None:
            rule = self.prepared.preparation
            size = "their own size" if rule.size is None else f"{rule.size} pixels"
            self.say(f"preparation: {rule.normalisation}, {size}, bands {', '.join(self.prepared.wanted)}")
            if self.prepared.absent:
                self.say(f"bands that the data lack are zeros: {', '.join(self.prepared.absent)}")

    def features(self, batch: SceneBatch) -> Tensor:
        """Return one row for each scene, `(B, D)` float32, computed in bfloat16 on a GPU.

        Args:
            batch: As the data module gives it, on the device.
        """
        assert self.prepared is not None
        encoder = encoder_of(self.network)
        images = self.prepared(batch.image, batch.valid)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
            found = pooled_features(
                encoder, images, batch.time, batch.location, layers=self.layers, pool=self.pool
            )
        return found.float()

    def on_validation_start(self) -> None:
        """Take the features of the training scenes."""
        self._start()

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Take the features of a batch."""
        self._take(batch)

    def on_validation_epoch_end(self) -> None:
        """Write tables and figures, and log the headline."""
        self._finish("val")

    def on_test_start(self) -> None:
        """Take the features of the training scenes."""
        self._start()

    def test_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Take the features of a batch."""
        self._take(batch)

    def on_test_epoch_end(self) -> None:
        """Write tables and figures, and log the headline."""
        self._finish("test")

    def _start(self) -> None:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        loader = datamodule.in_order("train")
        self._learn(loader.dataset)
        shown = self.trainer.is_global_zero
        with counted("probe: training scenes", len(loader.dataset), unit="scenes", shown=shown) as advance:
            for number, batch in enumerate(loader):
                moved = self._moved(batch)
                if number == 0:
                    assert self.prepared is not None
                    self.prepared.check_units(self.prepared(moved.image, moved.valid))
                self._take(moved)
                advance(len(batch.image))
        self._train = self._taken("training")

    def _learn(self, dataset: Any) -> None:
        """Give a baseline that is made of training images some of them, spread over the whole set."""
        count = getattr(self.network, "wants_images", 0)
        if not count:
            return
        chosen = torch.linspace(0, len(dataset) - 1, min(_LEARN_FROM, len(dataset))).long().tolist()
        assert self.prepared is not None
        batch = dataset.__getitems__([(0, index) for index in dict.fromkeys(chosen)])
        self.network.learn_from(self.prepared(batch.image, batch.valid)[:, :, 0])

    def _moved(self, batch: SceneBatch) -> SceneBatch:
        return batch.to(self.device, non_blocking=True)

    @torch.inference_mode()
    def _take(self, batch: SceneBatch) -> None:
        if batch.label is None:
            raise UserError(
                f"{batch.names[0] if batch.names else 'a scene'} has no label, and a probe needs one of each "
                "scene; check the split's labels"
            )
        self._features.append(self.features(batch))
        self._labels.append(batch.label)

    def _taken(self, what: str) -> LabelledFeatures:
        """Return the features of all processes in the order of the files, and forget them."""
        features, labels = self._features, self._labels
        self._features, self._labels = [], []
        if not features:
            raise UserError(f"there are no {what} scenes; check how the data is split")
        own = LabelledFeatures(torch.cat(features), torch.cat(labels))
        if processes() > 1:
            parts = gathered((own.features.cpu(), own.labels.cpu()))
            own = LabelledFeatures(*(torch.cat(rows).to(self.device) for rows in zip(*parts, strict=True)))
        if not bool(torch.isfinite(own.features).all()):
            bad = int((~torch.isfinite(own.features)).any(1).sum())
            raise UserError(
                f"{bad} of {len(own.features)} {what} scenes have features that are not finite; check the "
                "weights and the images' units"
            )
        if own.labels.ndim == 1 and bool((own.labels < 0).any()):
            known = own.labels >= 0
            self.say(f"left out: {int((~known).sum())} {what} scenes without a class")
            own = LabelledFeatures(own.features[known], own.labels[known])
        return own

    def _finish(self, stage: str) -> None:
        scored = self._taken("test" if stage == "test" else "validation")
        assert self._train is not None
        train, self._train = self._train, None
        facts = self.trainer.datamodule.facts  # type: ignore[attr-defined]
        if self.trainer.is_global_zero:
            table = ProbeTable(facts.classes, title=self.title)
            table.fill(train, scored, shares=self.shares, seeds=self.seeds, **self.protocol)
            self.write_table("results", table.rows)
            self.write_table("per_class", table.per_class)
            self.say(table.text())
            headline = table.headline(stage)
            self._draw(table, scenes=len(scored.labels))
        else:
            headline = {}
        self.log_dict(headline, rank_zero_only=True)

    def _draw(self, table: ProbeTable, *, scenes: int) -> None:
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
            self.log_figure("labels-precision", precision_figure(rows, scenes=scenes, title=title))

    @property
    def title(self) -> str:
        """What tables call the network."""
        encoder = encoder_of(self.network)
        return str(getattr(encoder, "name", None) or type(encoder).__name__)


def _facts_of(weights: str | None) -> SceneFacts | None:
    """Return the facts of the data that a checkpoint of ours was trained on, or None for other weights."""
    from pathlib import Path

    from core.checkpoints.files import read_outline
    from core.data.normaliser import stored_facts

    if weights is None or not (path := Path(weights).expanduser()).exists() or path.suffix != ".ckpt":
        return None
    return stored_facts(read_outline(path).get("state_dict") or {}, SceneFacts, where=f"checkpoint {path}")
