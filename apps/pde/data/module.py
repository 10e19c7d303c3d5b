"""The data module of fields: files, cards and our own solvers' trajectories to batches of scaled windows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from apps.pde.batch import DatasetFacts, FieldFacts
from apps.pde.data.assembly import Part, Parts, build
from apps.pde.data.channels import Bound, channel_groups
from apps.pde.data.datasets import FieldSet, JoinedSets
from apps.pde.data.named_sources import entries
from apps.pde.data.windows import (
    HistoryWindows,
    PairWindows,
    SteadyWindows,
    WholeWindows,
    Windows,
    check_kind,
    pairs,
)
from core.data.mixtures import Mixture
from core.data.module import DataModule
from core.errors import UserError, did_you_mean

__all__ = ["Fields"]

NORMALISE = ("card", "statistics", "none")
MISSING = ("error", "zero")
STARTS = ("first", "all")


class Fields(DataModule):
    """Windows of simulated trajectories, split by position and scaled by channel.

    One of `path`, `card`, `generate` and `sources` names the data; `card` with `path` says where the card's
    data lie.

    Args:
        path: A file or a folder in one of the layouts of `apps.pde.data.readers.recognition`.
        card: A data card: its channels, constants and split are used.
        generate: Family of `dfm data generate` to the number of trajectories, made when first needed.
        generate_options: `resolution`, `seed`, `snapshots`, `parameters`, `folder` and more, as
            `apps.pde.simulation.generate.ensure` takes them.
        sources: Several such entries (`path`, `card`, `generate`, each with an optional `weight`).
        samples: Training samples in an epoch of a mixture with weights; else the sum of all.
        repeats: Times a source with a weight may be walked through; null for any number.
        root: Folder of the cards' data; else the environment's DFM_DATA, else where `dfm data fetch` puts it.
        layout: The layout of `path`; recognised by default.
        inputs: Input channels in order; by default all.
        outputs: Label channels in order; by default all. Output i is fed back into the input of its name.
        windows: `pairs` (all-to-all), `history` (frames in, horizon out, from random starts), `steady` (one
            input, one label), or None: the card's, else `steady` for one snapshot, `history` for several
            frames in or out, and `pairs`.
        frames: Input frames of histories; by default the card's, else 1.
        horizon: Label frames of histories; by default the card's, else 1.
        val_horizon: Label frames of histories in the validation, whose loss then is that of a rollout of so
            many frames (SineNet chooses its checkpoint by it); by default `horizon`.
        max_steps: K of the pairs: snapshots 0, s, ..., K s; by default the card's, else as many as there are.
        extended: Take the longer K of the card by default (the published suffix `.out`).
        step: s of the pairs, and between the frames of a rollout; by default the card's, else 1.
        lead_steps: Allowed leads of pairs, in steps.
        fix_input_to: The one snapshot that pairs start from; its labels are the K after it.
        strides: Strides of histories, one drawn for each sample; by default `step`.
        window_samples: Samples a trajectory gives in an epoch of histories; by default as many as it has
            snapshots.
        trajectories: Training trajectories of each source: the first n; -1 all, -2 half, -8 an eighth.
        val_trajectories: Validation trajectories; by default the card's number, else a tenth.
        test_trajectories: The same for the test: the last ones.
        test_steps: Label frames of a test trajectory; by default `max_steps` for pairs, else the card's, else
            all. Sources with fewer cut the others.
        test_starts: `first`: a test trajectory is tested once, from its first frames; `all`: from every frame
            that has `test_steps` after its input.
        test_path: Another file or folder whose trajectories are all tested, on any grid.
        test_part: The part of a card that is tested, such as `test_32` of the card darcy.
        time_constant: Snapshots that make a lead time of 1; by default the card's, else the last snapshot.
        resolution: Points along each axis (or a list of them): every k-th point is kept. Nothing is
            interpolated or filtered, so a coarser grid must divide the stored one.
        normalise: `card` (its constants; what it does not give is computed), `statistics` (mean and standard
            deviation of the training trajectories) or `none`.
        missing: Values that are no numbers: `error`, or `zero` (0 after scaling, as GPhyT does).
        flips: Mirror each axis in half of the training samples; components along it change their sign.
        vectors: For `flips`: lists of fields that are a vector's components, along x first. Known without it:
            velocity and momentum, and what has a field for every axis, such as `force_x` and `force_y`.
        parameters: Names of the equation's numbers (such as a viscosity) that batches carry, in this order;
            true: all of them, if all sources have the same ones. SineNet takes the first.
        keep_mb: Keep trajectories in memory once read where all sources together are smaller than this.
        batch_size: Samples in a batch.
        eval_batch_size: The same for validation, test and prediction.
        num_workers: Loader processes.
        seed: Seed of the order, of starts, strides and flips.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        card: str | None = None,
        generate: dict[str, int] | None = None,
        generate_options: dict[str, Any] | None = None,
        sources: list[dict[str, Any]] | None = None,
        samples: int | None = None,
        repeats: float | None = None,
        root: str | None = None,
        layout: str | None = None,
        inputs: list[str] | None = None,
        outputs: list[str] | None = None,
        windows: str | None = None,
        frames: int | None = None,
        horizon: int | None = None,
        val_horizon: int | None = None,
        max_steps: int | None = None,
        extended: bool = False,
        step: int | None = None,
        lead_steps: list[int] | None = None,
        fix_input_to: int | None = None,
        strides: list[int] | None = None,
        window_samples: int | None = None,
        trajectories: int = -1,
        val_trajectories: int | None = None,
        test_trajectories: int | None = None,
        test_steps: int | None = None,
        test_starts: str = "first",
        test_path: str | None = None,
        test_part: str = "test",
        time_constant: float | None = None,
        resolution: int | list[int] | None = None,
        normalise: str = "card",
        missing: str = "error",
        flips: bool = False,
        vectors: list[list[str]] | None = None,
        parameters: bool | list[str] = False,
        keep_mb: float = 512.0,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        if windows is not None:
            check_kind(windows)
        _one_of("normalise", normalise, NORMALISE)
        _one_of("missing", missing, MISSING)
        _one_of("test_starts", test_starts, STARTS)
        _at_least(
            1, frames=frames, horizon=horizon, val_horizon=val_horizon, max_steps=max_steps, step=step,
            window_samples=window_samples, test_steps=test_steps, samples=samples,
            strides=min(strides) if strides else None,
        )  # fmt: skip
        _at_least(
            0, fix_input_to=fix_input_to, val_trajectories=val_trajectories,
            test_trajectories=test_trajectories, lead_steps=min(lead_steps) if lead_steps else None,
        )  # fmt: skip
        if time_constant is not None and not time_constant > 0:
            raise UserError(f"data.time_constant is {time_constant}; it must be positive")
        self.entries = entries(
            path=path, card=card, generate=generate, options=generate_options, sources=sources, layout=layout
        )
        self.path, self.root, self.kind = path, root, windows
        self.inputs, self.outputs = inputs, outputs
        self.frames, self.horizon, self.val_horizon = frames, horizon, val_horizon
        self.max_steps, self.step, self.lead_steps = max_steps, step, lead_steps
        self.extended, self.test_starts, self.vectors = extended, test_starts, vectors
        self.fix_input_to, self.strides, self.window_samples = fix_input_to, strides, window_samples
        self.trajectories = trajectories
        self.val_trajectories, self.test_trajectories = val_trajectories, test_trajectories
        self.test_steps, self.test_path, self.test_part = test_steps, test_path, test_part
        self.time_constant, self.resolution = time_constant, resolution
        self.normalise, self.missing, self.flips = normalise, missing, flips
        self.parameters, self.keep_mb = parameters, keep_mb
        self.samples, self.repeats = samples, repeats
        self.statistics: list[DatasetFacts] = []
        self._statistics_names: tuple[list[str], list[str]] = ([], [])
        self._built: Parts | None = None

    # --- what tasks and figures ask for ---

    @property
    def facts(self) -> FieldFacts:
        """What a task must know, enough to predict from a checkpoint alone."""
        built = self.built
        first = built.bound[0]
        outputs = [place.channel.name for place in first.labels]
        groups, titles = channel_groups([one.spec for one in built.bound], outputs)
        return FieldFacts(
            inputs=tuple(place.channel.name for place in first.inputs),
            outputs=tuple(outputs),
            frames=built.frames,
            windows=built.kind,
            space=first.space,
            periodic=all(one.spec.periodic for one in built.bound),
            groups=tuple(groups),
            group_names=tuple(titles),
            datasets=tuple(
                one.facts(step=self._strides(one)[0], reach=self._reach(one)) for one in built.bound
            ),
            licences=tuple(sorted({one.licence for one in built.bound if one.licence})),
            sources=tuple(one.name for one in built.bound),
            parameters=tuple(built.parameters),
        )

    @property
    def built(self) -> Parts:
        """The opened sources, bound to channels; statistics are computed on the first use."""
        if self._built is None:
            self._built = build(self)
            _say(self._built.notes)
        return self._built

    def use_statistics(self, facts: FieldFacts) -> None:
        """Scale with a checkpoint's constants instead of the data's own; to be called before data are read.

        Args:
            facts: Those of the data module that the checkpoint was trained with. A data set of the same name
                is taken, else the first. Its channels are taken too where none are named.
        """
        self.statistics = list(facts.datasets)
        self._statistics_names = (list(facts.inputs), list(facts.outputs))
        self.inputs = self.inputs or list(facts.inputs)
        self.outputs = self.outputs or list(facts.outputs)
        self._built = None

    # --- hooks of the base class ---

    def setup(self, stage: str | None = None) -> None:
        """Open the sources once, read what has to be known, and leave no file open."""
        self.built.close()

    def train_set(self) -> Dataset:
        """Return the training windows of all sources."""
        built = self.built
        sets = [
            self._set(part, self._windows(part.bound, training=True), number, flips=self.flips)
            for number, part in enumerate(built.train)
        ]
        for one, part in zip(sets, built.train, strict=True):
            if len(one) == 0:
                raise UserError(f"{part.bound.name} has no training trajectories; check data.trajectories")
        weights = [entry.weight for entry in self.entries]
        if any(weight is not None for weight in weights):
            mixture = Mixture(
                sets,
                [1.0 if weight is None else weight for weight in weights],
                seed=self.seed,
                length=self.samples,
                names=[part.bound.name for part in built.train],
                limit=self.repeats or 1.0,
                allow_repeats=self.repeats is None,
            )
            epochs = self.trainer.max_epochs if self.trainer is not None else None
            if epochs and epochs > 0:
                mixture.check(epochs)
            return mixture
        return sets[0] if len(sets) == 1 else JoinedSets(sets)

    def val_set(self) -> Dataset | None:
        """Return the validation windows, all of them and nothing random; None if there are none."""
        sets = [
            self._set(part, self._windows(part.bound, training=False), number)
            for number, part in enumerate(self.built.val)
            if len(part.rows)
        ]
        return JoinedSets(sets) if sets else None

    def test_set(self) -> Dataset:
        """Return whole test trajectories: the first frames, and all that follow as labels."""
        parts = [(number, part) for number, part in enumerate(self.built.test) if len(part.rows)]
        if not parts:
            raise UserError("there are no test trajectories; check data.test_trajectories or data.test_path")
        spaces = {part.bound.space for _, part in parts}
        if len(spaces) > 1:
            raise UserError(f"test trajectories have grids {sorted(spaces)}; test one grid at a time")
        windows = [self._whole(part.bound) for _, part in parts]
        least = min(one.labels for one in windows)
        if any(one.labels > least for one in windows):
            # A batch may hold trajectories of several sources.
            told = ", ".join(
                f"{part.bound.name} has {one.labels}" for (_, part), one in zip(parts, windows, strict=True)
            )
            _say([f"test trajectories are cut to {least} label frames ({told})"])
            windows = [self._whole(part.bound, most=least) for _, part in parts]
        elif self.test_steps is not None and least < self.test_steps and self.built.kind != "steady":
            _say(
                [f"test trajectories have {least} label frames, not the {self.test_steps} of data.test_steps"]
            )
        return JoinedSets(
            [self._set(part, one, number) for (number, part), one in zip(parts, windows, strict=True)]
        )

    def predict_set(self) -> Dataset:
        """Return the first frames of every trajectory of every source; there are no labels."""
        built = self.built
        sets = []
        for number, bound in enumerate(built.bound):
            windows = WholeWindows(bound.source.steps, frames=built.frames, step=self._step(bound), labels=0)
            part = Part(bound, range(bound.source.trajectories))
            sets.append(self._set(part, windows, number))
        return JoinedSets(sets)

    # --- helpers ---

    def _set(self, part: Part, windows: Windows, number: int, *, flips: bool = False) -> FieldSet:
        built = self.built
        return FieldSet(
            part.bound,
            part.rows,
            windows,
            seed=self.seed,
            number=number,
            steady=built.kind == "steady",
            flips=flips,
            mask=built.mask,
            parameters=built.parameters,
        )

    def _windows(self, bound: Bound, *, training: bool) -> Windows:
        steps = bound.source.steps
        if self.built.kind == "steady":
            return SteadyWindows()
        if self.built.kind == "history":
            return HistoryWindows(
                steps,
                frames=self.built.frames,
                horizon=self.built.horizon if training else self.val_horizon or self.built.horizon,
                strides=self._strides(bound),
                samples=self.window_samples,
                every=not training,
            )
        made = PairWindows(steps, **self._pairs(bound))
        longest = self._reach(bound) / bound.time_constant
        if longest > 1.05:
            raise UserError(
                f"pairs of {bound.name} reach a lead time of {longest:.3g}, but networks are fed times up to "
                f"1; the time constant is {bound.time_constant:g} snapshots, give data.time_constant or a "
                "smaller data.max_steps"
            )
        return made

    def _pairs(self, bound: Bound) -> dict[str, Any]:
        return {
            "max_steps": self._max_steps(bound),
            "step": self._step(bound),
            "lead_steps": self.lead_steps,
            "fix_input_to": self.fix_input_to,
        }

    def _whole(self, bound: Bound, *, most: int | None = None) -> WholeWindows | SteadyWindows:
        if self.built.kind == "steady":
            return SteadyWindows()
        history = self.built.kind == "history"
        labels = self.test_steps or (bound.spec.test_frames if history else self._max_steps(bound))
        every = self.test_starts == "all"
        if every and labels is None:
            raise UserError("data.test_starts 'all' needs data.test_steps, the label frames after each start")
        return WholeWindows(
            bound.source.steps,
            frames=self.built.frames,
            step=self._strides(bound)[0],
            labels=most or labels,
            every=every,
        )

    def _step(self, bound: Bound) -> int:
        return self.step if self.step is not None else bound.spec.step

    def _strides(self, bound: Bound) -> list[int]:
        """Return the snapshots between the frames that a network sees, the first for its rollouts."""
        return (
            list(self.strides or [self._step(bound)]) if self.built.kind == "history" else [self._step(bound)]
        )

    def _reach(self, bound: Bound) -> int:
        """Return the longest lead that a call is trained with, in snapshots; 0 for steady problems."""
        if self.built.kind == "steady":
            return 0
        if self.built.kind == "history":
            # Several label frames are reached step by step.
            strides, span = self._strides(bound), self.built.frames + self.built.horizon - 1
            return max([one for one in strides if one * span < bound.source.steps] or strides)
        return max(label - first for first, label in pairs(**self._pairs(bound)))

    def _max_steps(self, bound: Bound) -> int:
        if self.max_steps is not None:
            return self.max_steps
        most = (bound.source.steps - 1 - (self.fix_input_to or 0)) // self._step(bound)
        usual = bound.spec.max_steps
        if usual is not None and self.extended:
            usual = bound.spec.extended_steps or usual
        return max(1, min(most, usual or most))


def _one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(
            f"data.{name} is '{value}', but must be one of {', '.join(choices)}{did_you_mean(value, choices)}"
        )


def _at_least(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise UserError(f"data.{name} is {value}; it must be at least {least}")


@rank_zero_only
def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"data: {line}", file=sys.stderr)
