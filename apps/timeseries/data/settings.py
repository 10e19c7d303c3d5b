"""What a recipe says of its data in groups: which sources train, how rows are split, how windows are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from apps.timeseries.data.readers.series import Part
from apps.timeseries.data.splits import Split, check_fractions, few_shot_rows, split_rows
from core.data.checks import at_least, one_of
from core.errors import UserError

__all__ = ["SourceMix", "SplitSettings", "WindowSettings"]


@dataclass(frozen=True)
class SourceMix:
    """Several cards or paths at once, for pre-training; needs equal channels or `windows.univariate`.

    Attributes:
        sources: Those that train.
        weights: Share of training samples of each source; without them every window counts once.
        samples: Training samples in an epoch with `weights`; else as many as there are windows.
        repeats: Times a source with `weights` may be walked through in the whole run; null for any number.
        test_sources: Those that only the test sees, with all their rows (which scale them); without them the
            test rows of the training sources are tested.
        held_out: Those that must not be among the training sources (nor another view of the same data).
    """

    sources: list[str] = field(default_factory=list)
    weights: list[float] | None = None
    samples: int | None = None
    repeats: float | None = 4.0
    test_sources: list[str] | None = None
    held_out: list[str] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != len(self.sources):
            raise UserError(
                f"data.mix.weights has {len(self.weights)} numbers for {len(self.sources)} sources; "
                "give one each"
            )


@dataclass(frozen=True)
class SplitSettings:
    """Where training, validation and test rows lie.

    Attributes:
        borders: `"auto"` (the card's own, else fractions), `"ett"`, `"fractions"`, `"tail"`, `"train"`,
            `"test"`, or two or three row numbers or dates where training, validation (and test) end.
        fractions: Shares of training, validation and test rows.
        few_shot: Share of the training rows kept.
        few_shot_where: The `"first"` or `"last"` rows, or `"uniform"`: windows drawn from all.
    """

    borders: str | list[int | str] = "auto"
    fractions: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    few_shot: float = 1.0
    few_shot_where: str = "first"

    def __post_init__(self) -> None:
        one_of(("first", "last", "uniform"), room="data.split", few_shot_where=self.few_shot_where)
        check_fractions(self.fractions)

    @property
    def drawn(self) -> bool:
        """Whether few-shot windows are drawn from all training rows."""
        return self.few_shot != 1.0 and self.few_shot_where == "uniform"

    def parts(self, part: Part, *, own: str | Sequence[int | str], horizon: int) -> Split:
        """Return the parts of a series; `own` are the borders of its card."""
        return split_rows(
            own if self.borders == "auto" else self.borders,
            part.length,
            fractions=self.fractions,
            horizon=horizon,
            frequency=part.frequency,
            times=part.times,
            where=f"series '{part.id}'",
        )

    def kept(self, train: tuple[int, int], *, context: int) -> tuple[int, int]:
        """Return the training rows that windows come from."""
        if self.few_shot == 1.0 or self.drawn:
            return train
        return few_shot_rows(train, share=self.few_shot, context=context, where=self.few_shot_where)


@dataclass(frozen=True)
class WindowSettings:
    """How series become windows.

    Attributes:
        stride: Step between training windows.
        eval_stride: Step between validation and test windows.
        scaler: `"standard"`, `"minmax"`, `"power"` or `"none"`.
        missing: Gaps in a context: `"mask"` (0, and masked), `"forward_fill"` or `"linear"`.
        pad_short: Pad series that are too short on the left instead of leaving them out.
        univariate: Make every channel a series of its own; batches then have one channel.
        resolutions: Factors by which training series are also down-sampled, as further series.
        resolution_how: `"average"` or `"decimate"`.
    """

    stride: int = 1
    eval_stride: int = 1
    scaler: str = "standard"
    missing: str = "mask"
    pad_short: bool = False
    univariate: bool = False
    resolutions: list[int] | None = None
    resolution_how: str = "average"

    def __post_init__(self) -> None:
        at_least(1, room="data.windows", stride=self.stride, eval_stride=self.eval_stride)
        one_of(("mask", "forward_fill", "linear"), room="data.windows", missing=self.missing)
