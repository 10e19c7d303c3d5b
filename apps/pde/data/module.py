"""The data module of fields: files, cards and our own solvers' trajectories to batches of scaled windows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from apps.pde.batch import FieldFacts
from apps.pde.data.channels import INITIAL
from apps.pde.data.corpus import Corpus, SourcePart, build
from apps.pde.data.settings import FieldPreparation, FieldSettings, Generation, SourceMixture
from apps.pde.data.sources import named_sources
from apps.pde.data.window_settings import EvaluationSet, WindowSettings
from apps.pde.data.windows import JoinedSets, Windows, WindowSet
from core.data.checks import at_least
from core.data.mixtures import Mixture
from core.data.module import DataModule
from core.errors import UserError

__all__ = ["Fields"]


class Fields(DataModule):
    """Windows of simulated trajectories, split by position and scaled by channel.

    One of `path`, `card`, `generate` and `mixture` names the data; `card` with `path` says where the card's
    data lie: the file, or a folder that holds them (by default DFM_DATA or where `dfm data fetch` puts them).

    Args:
        path: A file or a folder in one of the layouts of `apps.pde.data.readers.recognition`.
        card: A data card: its channels, constants and split are used.
        layout: The layout of `path`; recognised by default.
        axes: Names of the axes of plain arrays in order, as "run time y x".
        generate: Families of `dfm data generate`, made when first needed.
        mixture: Several sources.
        inputs: Input channels in order; by default all. For a driven series its commands.
        outputs: Label channels in order; by default all. Output i is fed back into the input of its name.
        parameters: Names of the equation's numbers (such as a viscosity) that batches carry, in this order;
            true: all of them, if all sources have the same ones. SineNet takes the first.
        frames: Input frames of histories; by default the card's, else 1.
        windows: How trajectories are cut: `Pairs`, `Histories`, `Steady` or `DrivenSeries`; by default the
            card's, else `Steady` for one snapshot, `Histories` for several frames in or out, and `Pairs`.
        trajectories: Training trajectories of each source: the first n; -1 all, -2 half, -8 an eighth.
        val_trajectories: Validation trajectories; by default the card's number, else a tenth.
        test_trajectories: The same for the test: the last ones.
        test: What is tested of them, or in their place.
        prepare: Scaling, grid and time.
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
        layout: str | None = None,
        axes: str | None = None,
        generate: Generation | None = None,
        mixture: SourceMixture | None = None,
        inputs: list[str] | None = None,
        outputs: list[str] | None = None,
        parameters: bool | list[str] = False,
        frames: int | None = None,
        windows: WindowSettings | None = None,
        trajectories: int = -1,
        val_trajectories: int | None = None,
        test_trajectories: int | None = None,
        test: EvaluationSet | None = None,
        prepare: FieldPreparation | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        at_least(1, frames=frames)
        at_least(0, val_trajectories=val_trajectories, test_trajectories=test_trajectories)
        self.mixture = mixture
        self.settings = FieldSettings(
            sources=named_sources(
                path=path, card=card, layout=layout, axes=axes, generate=generate, mixture=mixture
            ),
            inputs=inputs,
            outputs=outputs,
            parameters=parameters,
            frames=frames,
            windows=windows,
            trajectories=trajectories,
            val_trajectories=val_trajectories,
            test_trajectories=test_trajectories,
            test=test or EvaluationSet(),
            prepare=prepare or FieldPreparation(),
        )
        self._corpus: Corpus | None = None
        self._facts: FieldFacts | None = None

    @property
    def facts(self) -> FieldFacts:
        """What a task must know, enough to predict from a checkpoint alone."""
        if self._facts is None:
            self._facts = self.corpus.facts()
        return self._facts

    @property
    def corpus(self) -> Corpus:
        """The opened sources; statistics are computed on the first use."""
        if self._corpus is None:
            self._corpus = build(self.settings)
            _say(self._corpus.notes)
        return self._corpus

    def use_statistics(self, facts: FieldFacts) -> None:
        """Scale with a checkpoint's constants instead of the data's own; to be called before data are read.

        Args:
            facts: Those of the data module that the checkpoint was trained with. A data set of the same name
                is taken, else the first. Its channels are taken too where none are named.
        """
        inputs = [name for name in facts.inputs if not name.startswith(INITIAL)]
        self.settings = replace(
            self.settings,
            trained=facts,
            inputs=self.settings.inputs or inputs,
            outputs=self.settings.outputs or list(facts.outputs),
        )
        self._corpus = self._facts = None

    def setup(self, stage: str | None = None) -> None:
        """Open the sources once, read what has to be known, and leave no file open.

        What cannot be tested after the training is said, or refused, before it.
        """
        if stage == "fit" and self.test_set() is None:
            _say(["no trajectories are kept for a test; data.test_trajectories or data.test.path gives some"])
        self.corpus.close()

    def train_set(self) -> Dataset:
        """Return the training windows of all sources."""
        corpus, flips = self.corpus, self.settings.prepare.flips
        sets = [
            self._set(part, corpus.windows.training(part.reader, corpus.frames), number, flips=flips)
            for number, part in enumerate(corpus.train)
        ]
        for one in sets:
            if len(one) == 0:
                raise UserError(f"{one.reader.name} has no training trajectories; check data.trajectories")
        weights = [source.weight for source in self.settings.sources]
        if self.mixture is None or all(weight is None for weight in weights):
            return sets[0] if len(sets) == 1 else JoinedSets(sets)
        mixed = Mixture(
            sets,
            [1.0 if weight is None else weight for weight in weights],
            seed=self.seed,
            length=self.mixture.samples,
            names=[one.reader.name for one in sets],
            limit=self.mixture.repeats or 1.0,
            allow_repeats=self.mixture.repeats is None,
        )
        epochs = self.trainer.max_epochs if self.trainer is not None else None
        if epochs and epochs > 0:
            mixed.check(epochs)
        return mixed

    def val_set(self) -> Dataset | None:
        """Return the validation windows, all of them and nothing random; None if there are none."""
        corpus = self.corpus
        sets = [
            self._set(part, corpus.windows.validation(part.reader, corpus.frames), number)
            for number, part in enumerate(corpus.val)
            if len(part.rows)
        ]
        wanted = getattr(corpus.windows, "val_horizon", None) or 0
        if sets and (fewest := min(one.windows.labels for one in sets)) < wanted:
            _say([f"validation takes {fewest} label frames, not the {wanted} of data.windows.val_horizon"])
        return JoinedSets(sets) if sets else None

    def test_set(self) -> Dataset | None:
        """Return whole test trajectories: the first frames, and all that follow as labels; None if there are
        none.
        """
        corpus, test = self.corpus, self.settings.test
        parts = [(number, part) for number, part in enumerate(corpus.test) if len(part.rows)]
        if not parts:
            return None
        spaces = {part.reader.space for _, part in parts}
        if len(spaces) > 1:
            raise UserError(f"test trajectories have grids {sorted(spaces)}; test one grid at a time")
        windows = [corpus.windows.testing(part.reader, corpus.frames, test) for _, part in parts]
        least = min(one.labels for one in windows)
        if any(one.labels > least for one in windows):
            # A batch may hold trajectories of several sources.
            told = ", ".join(
                f"{part.reader.name} has {one.labels}" for (_, part), one in zip(parts, windows, strict=True)
            )
            _say([f"test trajectories are cut to {least} label frames ({told})"])
            windows = [
                corpus.windows.testing(part.reader, corpus.frames, test, most=least) for _, part in parts
            ]
        elif test.steps is not None and least < test.steps and not corpus.windows.steady:
            _say([f"test trajectories have {least} label frames, not the {test.steps} of data.test.steps"])
        return JoinedSets(
            [self._set(part, one, number) for (number, part), one in zip(parts, windows, strict=True)]
        )

    def predict_set(self) -> Dataset:
        """Return the first frames of every trajectory of every source; there are no labels."""
        corpus = self.corpus
        whole = [SourcePart(reader, range(reader.source.trajectories)) for reader in corpus.readers]
        return JoinedSets(
            [
                self._set(part, corpus.windows.prediction(part.reader, corpus.frames), number)
                for number, part in enumerate(whole)
            ]
        )

    def _set(self, part: SourcePart, windows: Windows, number: int, *, flips: bool = False) -> WindowSet:
        return WindowSet(
            part.reader,
            part.rows,
            windows,
            seed=self.seed,
            number=number,
            steady=self.corpus.windows.steady,
            flips=flips,
            mask=self.corpus.mask,
            parameters=self.corpus.parameters,
        )


@rank_zero_only
def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"data: {line}", file=sys.stderr)
