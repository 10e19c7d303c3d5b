"""What all tasks on images of the Earth share: which data fit a network, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apps.remote_sensing.batch import SceneBatch, SceneFacts
from core.errors import UserError
from core.metrics.classes import Temperature
from core.task import Task

__all__ = ["CalibratedTask", "SceneTask"]


class SceneTask(Task):
    """Base of the tasks.

    Args:
        network: Takes `(x, time, location)`.
        examples: Scenes drawn by an evaluation.
        raw: Let data through that are not normalised.
        task: See `core.task.Task`.

    Raises:
        UserError: If `examples` is negative.
    """

    facts_type = SceneFacts
    kind = "scenes"
    """What a checkpoint says it is for."""
    targets: tuple[str, ...] = ()
    """Kinds of labels that are understood; none: labels do not matter."""

    def __init__(self, network: nn.Module, *, examples: int = 4, raw: bool = False, **task: Any) -> None:
        super().__init__(network, **task)
        if examples < 0:
            raise UserError(f"model.examples is {examples}; it must be at least 0")
        self.examples, self.raw = examples, raw
        self.drawn: list[dict[str, Any]] = []
        self._labels_seen: Tensor | None = None

    @property
    def title(self) -> str:
        """What tables call the network."""
        return str(self.record.get("system") or type(self.network).__name__)

    @property
    def fitting(self) -> bool:
        """Whether a validation belongs to a training, of which it is no trial before the start."""
        return self.trainer.state.fn == "fit" and not self.trainer.sanity_checking

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network.

        Raises:
            UserError: Naming both values.
        """
        bands, given = tuple(getattr(self.network, "bands", facts.bands)), tuple(facts.bands)
        if bands != given:
            raise UserError(
                f"the network reads the bands {', '.join(bands)} and the data gives {', '.join(given)}; "
                f"set data.bands to [{', '.join(bands)}], or the network's bands to those of the data"
            )
        dates = getattr(self.network, "dates", None)
        if dates is not None and dates != facts.frames:
            raise UserError(
                f"the network is built for {dates} date(s) and the data has {facts.frames}; set "
                f"model.network.dates={facts.frames}"
            )
        if self.targets and facts.target not in self.targets:
            raise UserError(
                f"{type(self).__name__} learns from labels of {' or '.join(self.targets)}, and the data has "
                f"'{facts.target}'; choose another task or set data.source.target"
            )
        plain = all(mean == 0 for mean in facts.mean) and all(std == 1 for std in facts.std)
        if plain and not self.raw:
            raise UserError(
                "the data module gives stored numbers (data.normalise is none), on which networks learn "
                "little; set data.normalise to auto, or model.raw to true if this is meant"
            )

    def check_outputs(self, names: Sequence[str]) -> None:
        """Refuse a network with another number of outputs than there are names.

        Raises:
            UserError: Naming both values.
        """
        outputs = getattr(self.network, "outputs", None) or getattr(self.network, "classes", None)
        if isinstance(outputs, int) and outputs != len(names):
            raise UserError(
                f"the network has {outputs} outputs and the data {len(names)} ({', '.join(names)}); set "
                f"model.network.outputs={len(names)}, and model.reinitialise for weights of other classes"
            )

    def setup(self, stage: str) -> None:
        """Take the data's facts, as every task does, and keep what the checkpoint is for."""
        super().setup(stage)
        if stage == "fit" and self.normaliser.known:
            self.normaliser.learn(kind=self.kind)

    def on_train_epoch_start(self) -> None:
        """Begin to count what is labelled."""
        super().on_train_epoch_start()
        self._labels_seen = None

    def weigh_known(self, mean: Tensor, count: Tensor) -> Tensor:
        """Weigh a mean over `count` labelled values as `weigh` does, and note that there are such."""
        before = 0 if self._labels_seen is None else self._labels_seen
        self._labels_seen = before + count.detach()
        return self.weigh(mean, count)

    def on_train_epoch_end(self) -> None:
        """Refuse an epoch without any label.

        Raises:
            UserError: Saying where labels come from.
        """
        if self._labels_seen is not None and not int(self._labels_seen):
            raise UserError(
                "no label of a whole epoch says anything (all are unknown); check the labels' files, their "
                "nodata and data.source.label_offset"
            )

    def flops_per_sample(self) -> float:
        """Return the FLOPs of a training step per sample, counted on the meta device; MFU is made of it."""
        from core.tracking import count_flops

        data = self.trainer.datamodule  # type: ignore[attr-defined]
        batch = data.train_set().__getitems__([(0, 0)])
        return float(count_flops(self.network, self.inputs(batch)))

    def inputs(self, batch: SceneBatch) -> dict[str, Tensor]:
        """Return the arguments of the network for a batch."""
        found = {"x": batch.image, "time": batch.time, "location": batch.location}
        return {name: value for name, value in found.items() if value is not None}

    def run_network(self, batch: SceneBatch) -> Tensor:
        """Return the network's output for a batch."""
        return self.network(**self.inputs(batch))

    def wants_example(self) -> bool:
        """Say whether another scene is to be drawn by this process."""
        return len(self.drawn) < self.examples and self.trainer.is_global_zero

    def example(self, batch: SceneBatch, row: int, **more: Tensor | None) -> dict[str, Any]:
        """Return one scene of a batch with what belongs to it, on the CPU, for figures."""
        parts = {"image": batch.image, "valid": batch.valid, "label": batch.label, **more}
        found: dict[str, Any] = {
            name: value[row].detach().cpu() if isinstance(value, Tensor) else None
            for name, value in parts.items()
        }
        found["name"] = batch.names[row] if len(batch.names) > row else ""
        return found

    def keep_examples(self, batch: SceneBatch, **more: Tensor | None) -> None:
        """Keep the first scenes of an evaluation, to be drawn at its end."""
        for row in range(len(batch)):
            if not self.wants_example():
                return
            self.drawn.append(self.example(batch, row, **more))

    def log_results(self, scores: Mapping[str, float | Tensor], *, stage: str) -> None:
        """Log the scores of a whole set, which every process has."""
        values = {f"{stage}_{name}": torch.as_tensor(value).float() for name, value in scores.items()}
        self.log_dict(values, sync_dist=True)


class CalibratedTask(SceneTask):
    """Base of the tasks that give probabilities, whose temperature each validation of a training fits."""

    @property
    def temperature(self) -> float:
        """What logits are divided by for probabilities; 1 before any validation."""
        return self.normaliser.facts.temperature if self.normaliser.known else 1.0

    def keep_temperature(self, fitted: Temperature) -> None:
        """Keep what a validation found, if it belongs to a training."""
        if self.fitting:
            self.normaliser.learn(temperature=float(fitted.compute()))
