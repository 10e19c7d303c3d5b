"""Base of the tasks on images of the Earth: which data fit a network, and how it is run."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from apps.remote_sensing.batch import SceneBatch, SceneFacts
from core.errors import UserError
from core.task import Task

__all__ = ["SceneTask"]


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
    drawn_fields = ("image", "valid", "label")
    kind = "scenes"
    """The word by which a checkpoint says what it is for."""
    targets: tuple[str, ...] = ()
    """Kinds of labels that are understood; none: labels do not matter."""

    def __init__(self, network: nn.Module, *, examples: int = 4, raw: bool = False, **task: Any) -> None:
        super().__init__(network, **task)
        if examples < 0:
            raise UserError(f"model.examples is {examples}; it must be at least 0")
        self.examples, self.raw = examples, raw

    def check_facts(self, facts: SceneFacts) -> None:
        """Refuse scenes that do not fit the network."""
        bands, offered = tuple(getattr(self.network, "bands", facts.bands)), tuple(facts.bands)
        if bands != offered:
            owner = "" if "bands" in inspect.signature(type(self.network)).parameters else ".encoder"
            advice = (
                f"--data.bands '[{', '.join(bands)}]'"
                if set(bands) <= set(offered)
                else f"--model.network{owner}.bands '[{', '.join(offered)}]'"
            )
            raise UserError(
                f"the network reads the bands {', '.join(bands)} and the data gives {', '.join(offered)}; "
                f"give {advice}"
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

    def setup(self, stage: str) -> None:
        """Take the data's facts, as every task does, and keep what the checkpoint is for."""
        super().setup(stage)
        if stage == "fit" and self.normaliser.known:
            self.normaliser.learn(kind=self.kind)

    def inputs(self, batch: SceneBatch) -> dict[str, Tensor]:
        """Return the arguments of the network for a batch."""
        arguments = {"x": batch.image, "time": batch.time, "location": batch.location}
        return {name: value for name, value in arguments.items() if value is not None}

    def run_network(self, batch: SceneBatch) -> Tensor:
        """Return the network's output for a batch."""
        return self.network(**self.inputs(batch))
