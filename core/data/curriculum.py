"""Curricula: a difficulty, usually a sequence length, that grows with the optimiser step.

The schedules are those of data-efficiency libraries for language models: short sequences first (Li et al.
2022, arXiv 2108.06084). Everything is a function of the step alone, so a resumed run goes on with the same
lengths.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from core.data.batch import Batch
from core.errors import UserError, did_you_mean

__all__ = [
    "Curriculum",
    "FixedDiscrete",
    "FixedLinear",
    "FixedRoot",
    "SequenceCurriculum",
    "consumed",
    "shortened",
]


class Curriculum:
    """A whole number that depends on the step; subclasses are frozen dataclasses."""

    def value(self, step: int) -> int:
        """Return the difficulty of update `step` (0 is the first)."""
        raise TypeError(
            f"{type(self).__name__} defines no value; name one of core.data.curriculum's schedules"
        )

    @property
    def largest(self) -> int:
        """The difficulty in the end."""
        raise TypeError(f"{type(self).__name__} defines no largest value")

    @property
    def end(self) -> int:
        """The first step from which on the difficulty is the largest."""
        raise TypeError(f"{type(self).__name__} defines no end")

    def share(self, step: int) -> float:
        """Return how much of a full batch's work update `step` does, above 0 to 1."""
        return self.value(step) / self.largest


@dataclass(frozen=True)
class FixedRoot(Curriculum):
    """`minimum + (maximum - minimum) · (step / steps)^(1 / degree)`, rounded down to a multiple.

    Args:
        minimum: Difficulty at first.
        maximum: Difficulty in the end, which may be no multiple.
        steps: Updates until then.
        multiple: What the difficulty is a multiple of; for lengths 8 suits 16-bit matrix products, and
            compilers see few shapes with a large one.
        degree: 1 grows evenly, 2 with the square root: fast at first.
    """

    minimum: int
    maximum: int
    steps: int
    multiple: int = 8
    degree: float = 2

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 1 <= self.minimum <= self.maximum:
            raise UserError(f"{name}: minimum {self.minimum} and maximum {self.maximum} must ascend from 1")
        if self.steps < 1 or self.multiple < 1 or self.degree <= 0:
            raise UserError(
                f"{name}: steps {self.steps}, multiple {self.multiple} and degree {self.degree} must be "
                "positive"
            )

    @property
    def largest(self) -> int:
        """The difficulty in the end."""
        return self.maximum

    @property
    def end(self) -> int:
        """The first step that is sure to have it."""
        # where the maximum is no multiple it is passed, and so reached, only later
        over = math.ceil(self.maximum / self.multiple) * self.multiple - self.minimum
        span = self.maximum - self.minimum
        return math.ceil(self.steps * (over / span) ** self.degree) + 1 if span else 0

    def value(self, step: int) -> int:
        """Return the difficulty of update `step`."""
        grown = (step / self.steps) ** (1.0 / self.degree)
        raw = math.floor(grown * (self.maximum - self.minimum) + self.minimum)
        return min(raw - raw % self.multiple, self.maximum)


@dataclass(frozen=True)
class FixedLinear(FixedRoot):
    """`FixedRoot` of degree 1: the difficulty grows evenly."""

    degree: float = 1


@dataclass(frozen=True)
class FixedDiscrete(Curriculum):
    """Given difficulties, each up to and with a given step.

    Args:
        difficulties: What comes one after another.
        until: The last step of each but the last, ascending.
    """

    difficulties: tuple[int, ...]
    until: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "difficulties", tuple(self.difficulties))
        object.__setattr__(self, "until", tuple(self.until))
        if len(self.until) != len(self.difficulties) - 1 or list(self.until) != sorted(self.until):
            raise UserError(
                f"FixedDiscrete: {len(self.difficulties)} difficulties need as many steps less one, "
                f"ascending; until is {list(self.until)}"
            )
        if min(self.difficulties) < 1:
            raise UserError(f"FixedDiscrete: difficulties {list(self.difficulties)} must be at least 1")

    @property
    def largest(self) -> int:
        """The largest difficulty of all."""
        return max(self.difficulties)

    @property
    def end(self) -> int:
        """The first step of the last difficulty."""
        return self.until[-1] + 1 if self.until else 0

    def value(self, step: int) -> int:
        """Return the difficulty of update `step`."""
        return self.difficulties[sum(step > last for last in self.until)]


def consumed(pace: Curriculum, steps: int) -> float:
    """Return the work of the first `steps` updates at a pace, in updates of full batches."""
    prefix = _prefix(pace)  # type: ignore[arg-type]
    if steps < len(prefix):
        return prefix[max(steps, 0)]
    return prefix[-1] + (steps - len(prefix) + 1) * pace.share(len(prefix) - 1)


@lru_cache(maxsize=4)
def _prefix(pace: Any) -> tuple[float, ...]:
    sums = [0.0]
    for step in range(pace.end):
        sums.append(sums[-1] + pace.share(step))
    return tuple(sums)


def shortened(
    batch: Any,
    length: int,
    *,
    by: Literal["truncate", "reshape"] = "truncate",
    fields: Sequence[str] | None = None,
) -> Any:
    """Return a batch with rows of `length` places; more than there are change nothing.

    Args:
        batch: Has methods `truncated(length)` and `reshaped(length)`, or tensors `(B, S, ...)`.
        length: Places of a row.
        by: `truncate` keeps the beginning of every row; `reshape` cuts it into several, and what is left over
            is dropped.
        fields: Names of the tensors to cut; None cuts those that are as long as the first of two or more
            dimensions.

    Raises:
        UserError: If a tensor, field by field, would keep another number of rows.
    """
    names, size = _along(batch, fields)
    if length >= size:
        return batch
    if hasattr(batch, "truncated"):
        return batch.truncated(length) if by == "truncate" else batch.reshaped(length)
    if by == "truncate":
        return dataclasses.replace(batch, **{name: getattr(batch, name)[:, :length] for name in names})
    pieces = size // length
    for field in dataclasses.fields(batch):
        if field.name not in names and isinstance(getattr(batch, field.name), Tensor | tuple | list | Batch):
            raise UserError(
                f"{type(batch).__name__}.{field.name} has no places to cut, so its rows cannot be reshaped; "
                "use truncation"
            )
    tensors = {name: getattr(batch, name)[:, : pieces * length] for name in names}
    cut = {name: rows.reshape(-1, length, *rows.shape[2:]) for name, rows in tensors.items()}
    return dataclasses.replace(batch, **cut)  # B S … -> B·pieces length …


def _along(batch: Any, fields: Sequence[str] | None) -> tuple[list[str], int]:
    """Return the names of the tensors to cut, and how many places they have."""
    if not isinstance(batch, Batch) or not dataclasses.is_dataclass(batch):
        raise UserError(
            f"a curriculum cuts batches of named tensors, and this one is a {type(batch).__name__}"
        )
    tensors = {
        field.name: value
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor) and value.ndim >= 2
    }
    for name in fields or ():
        if name not in tensors:
            raise UserError(
                f"{type(batch).__name__} has no tensor '{name}' to cut{did_you_mean(name, tensors)}; it has "
                f"{', '.join(tensors)}"
            )
    if not tensors:
        raise UserError(f"{type(batch).__name__} has no tensor of rows to cut")
    size = tensors[next(iter(fields or tensors))].shape[1]
    return [name for name in (fields or tensors) if tensors[name].shape[1] == size], size


class SequenceCurriculum(Callback):
    """Train on short sequences first: an option of any recipe whose batches hold rows `(B, S, ...)`.

    In a recipe, with the learning rate counted in tokens:

        trainer:
          callbacks:
          - class_path: core.data.curriculum.SequenceCurriculum
            init_args: {curriculum: {class_path: core.data.curriculum.FixedLinear,
                        init_args: {minimum: 64, maximum: 1024, steps: 5000}}}

    Args:
        curriculum: Length of the sequences at each step.
        by: `truncate` keeps the beginning of every row, `reshape` cuts rows into several.
        fields: Names of the batch's tensors to cut; None finds them.

    Raises:
        UserError: If `by` is neither.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        *,
        by: Literal["truncate", "reshape"] = "truncate",
        fields: list[str] | None = None,
    ) -> None:
        if by not in ("truncate", "reshape"):
            raise UserError(f"by is '{by}'; it must be truncate or reshape{did_you_mean(by, ['reshape'])}")
        if curriculum.value(0) < 1:
            raise UserError(f"the curriculum {curriculum} begins with length 0; make its minimum larger")
        self.curriculum, self.by, self.fields = curriculum, by, fields
        self._trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the data module cut each training batch."""
        if stage != "fit":
            return
        data = getattr(trainer, "datamodule", None)
        if not hasattr(data, "changes"):
            raise UserError("a sequence curriculum needs one of the suite's data modules")
        self._trainer = trainer
        if self.cut not in data.changes:  # type: ignore[union-attr]
            data.changes.append(self.cut)  # type: ignore[union-attr]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the data module as it was."""
        changes = getattr(getattr(trainer, "datamodule", None), "changes", [])
        if self.cut in changes:
            changes.remove(self.cut)

    def cut(self, batch: Any) -> Any:
        """Return the batch of the present step, cut."""
        step = 0 if self._trainer is None else self._trainer.global_step
        return shortened(batch, self.curriculum.value(step), by=self.by, fields=self.fields)
