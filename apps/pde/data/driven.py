"""Sequence-to-sequence windows of a system driven by commands, such as the diesel engine's air path.

A window's inputs are the commands on it and the outputs' values just before it; its labels are the outputs on
it. A test sample is a whole trajectory, which `apps.pde.models.chained.Chained` predicts window by window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from apps.pde.batch import DatasetFacts, FieldBatch, FieldFacts
from apps.pde.predict.driven_series import PREFIX
from apps.pde.simulation.solvers.diesel_engine import COMMANDS, OUTPUTS
from core.data.module import DataModule
from core.errors import UserError, did_you_mean

__all__ = ["Windows"]


class Windows(DataModule):
    """Windows of trajectories in time, split by position: training first, validation and test last.

    The label at sample j goes with the command that is in force from sample j - 1 on. Everything is scaled to
    mean 0 and standard deviation 1 over the training trajectories and stays in memory.

    Args:
        path: A store whose one space axis is time; None generates `trajectories` of `family`.
        family: Family of `dfm data generate` to make.
        trajectories: Training trajectories.
        val_trajectories: Validation trajectories.
        test_trajectories: Test trajectories.
        generate_options: Further arguments of `apps.pde.simulation.generate.ensure`.
        inputs: Channels that are commands.
        outputs: Channels that are predicted.
        window: Samples in a window.
        stride: Samples between the starts of two training or validation windows.
        batch_size: Windows in a batch.
        eval_batch_size: The same for validation; also whole trajectories in a test batch.
        num_workers: Loader processes.
        seed: Seed of the order.

    Raises:
        UserError: If a number is out of its range.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        family: str = "diesel_engine",
        trajectories: int = 128,
        val_trajectories: int = 16,
        test_trajectories: int = 16,
        generate_options: dict[str, Any] | None = None,
        inputs: list[str] | tuple[str, ...] = COMMANDS,
        outputs: list[str] | tuple[str, ...] = OUTPUTS,
        window: int = 20,
        stride: int = 4,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        for name, value in (
            ("trajectories", trajectories),
            ("val_trajectories", val_trajectories),
            ("test_trajectories", test_trajectories),
            ("window", window),
            ("stride", stride),
        ):
            if value < 1:
                raise UserError(f"data.{name} is {value}; it must be at least 1")
        self.path, self.family, self.options = path, family, dict(generate_options or {})
        self.counts = (trajectories, val_trajectories, test_trajectories)
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.window, self.stride = window, stride
        self._constants: tuple[list[float], list[float]] | None = None
        self._values: Tensor | None = None
        self._about: dict[str, Any] = {}

    @property
    def facts(self) -> FieldFacts:
        """What a task must know, enough to predict from a checkpoint alone."""
        self._read()
        assert self._constants is not None
        mean, std = map(tuple, self._constants)
        first = len(self.inputs)
        names = [f"{PREFIX}{name}" for name in self.outputs]
        units = self._about["units"]
        dataset = DatasetFacts(
            name=self._about["name"],
            mean=mean,
            std=std,
            out_mean=mean[first:],
            out_std=std[first:],
            interest=tuple(self.outputs),
            units={"time": "s"} | units | {f"{PREFIX}{name}": units.get(name, "1") for name in self.outputs},
            times=(0.0,),
            axes=("time",),
            coordinates={"x": (0.0, self._about["interval"] * (self.window - 1), self.window)},
            path=self._about["path"],
        )
        return FieldFacts(
            inputs=(*self.inputs, *names),
            outputs=tuple(self.outputs),
            frames=1,
            windows="steady",
            space=(self.window,),
            groups=tuple(range(len(self.outputs) + 1)),
            group_names=tuple(self.outputs),
            datasets=(dataset,),
            licences=self._about["licences"],
            sources=(dataset.name,),
        )

    def use_statistics(self, facts: FieldFacts) -> None:
        """Scale with a checkpoint's constants instead of the data's own; to be called before it is read."""
        self.inputs = [name for name in facts.inputs if not name.startswith(PREFIX)]
        self.outputs = list(facts.outputs)
        known = facts.datasets[0]
        self._constants = (list(known.mean), list(known.std))
        self._values = None

    def setup(self, stage: str | None = None) -> None:
        """Generate what is missing, and read."""
        self._read()

    def train_set(self) -> Dataset:
        """Return the windows of the training trajectories."""
        return self._windows(0, self.counts[0])

    def val_set(self) -> Dataset:
        """Return the windows of the validation trajectories."""
        total = len(self._read())
        return self._windows(total - self.counts[1] - self.counts[2], self.counts[1])

    def test_set(self) -> Dataset:
        """Return whole test trajectories, as many windows as fit."""
        values = self._read()
        first = len(values) - self.counts[2]
        length = (values.shape[-1] - 1) // self.window * self.window
        places = [(row, 0) for row in range(first, len(values))]
        return _Sequences(values, places, length, commands=len(self.inputs))

    def predict_set(self) -> Dataset:
        """Return what `test_set` does."""
        return self.test_set()

    def _windows(self, first: int, count: int) -> Dataset:
        values = self._read()
        starts = range(0, values.shape[-1] - self.window, self.stride)
        places = [(row, start) for row in range(first, first + count) for start in starts]
        return _Sequences(values, places, self.window, commands=len(self.inputs))

    def _read(self) -> Tensor:
        """Return all trajectories `(N, C + C', L)`, scaled."""
        if self._values is not None:
            return self._values
        from apps.pde.data.readers.recognition import open_source

        needed = sum(self.counts)
        path = self.path
        if path is None:
            from apps.pde.simulation.generate import ensure

            path = str(ensure(self.family, needed, **self.options))
        source = open_source(path)
        names = [*self.inputs, *self.outputs]
        for name in names:
            if name not in source.channels:
                raise UserError(
                    f"{path} has no field '{name}'{did_you_mean(name, source.channels)} "
                    f"(it has {', '.join(source.channels)})"
                )
        if len(source.space) != 1 or source.steps != 1:
            raise UserError(
                f"{path} has {len(source.space)} space axes and {source.steps} snapshots; windows need one "
                "axis, which is time, and one snapshot"
            )
        if source.trajectories < needed or source.space[0] <= self.window:
            raise UserError(
                f"{path} has {source.trajectories} trajectories of {source.space[0]} samples; {needed} of "
                f"more than {self.window} are asked for: lower data.trajectories, val_trajectories, "
                "test_trajectories or window"
            )
        rows = range(needed) if self.path is None else range(source.trajectories)
        raw = np.stack([source.read(row, [0], names)[0] for row in rows]).astype(np.float64)
        if not np.isfinite(raw).all():
            raise UserError(f"{path} holds values that are no numbers; mend the file or generate it anew")
        if self._constants is None:
            train = raw[: self.counts[0]]
            std = train.std(axis=(0, 2))
            self._constants = train.mean(axis=(0, 2)).tolist(), np.where(std > 0, std, 1.0).tolist()
        mean, std = (np.asarray(constants)[:, None] for constants in self._constants)
        at = source.coordinates[0]
        self._about = {
            "name": source.name,
            "path": str(path),
            "interval": float(at[1] - at[0]),
            "units": {name: source.units.get(name, "1") for name in names},
            "licences": (source.licence,) if source.licence else (),
        }
        self._values = torch.from_numpy(((raw - mean) / std).astype(np.float32))
        return self._values


class _Sequences(Dataset):
    """Pieces of trajectories, indexed by `(epoch, index)`.

    Args:
        values: `(N, C + C', L)`, scaled.
        places: Trajectory and first sample, that of the initial values, of each piece.
        length: Labels of a piece.
        commands: C.
    """

    def __init__(
        self, values: Tensor, places: Sequence[tuple[int, int]], length: int, *, commands: int
    ) -> None:
        self.values, self.places, self.length, self.commands = values, places, length, commands

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.places)

    def __getitem__(self, where: tuple[int, int]) -> FieldBatch:
        """Return one piece as a batch of one."""
        return self.__getitems__([where])

    def __getitems__(self, where: Sequence[tuple[int, int]]) -> FieldBatch:
        """Return a batch of pieces."""
        chosen = [self.places[index] for _, index in where]
        rows = torch.tensor([row for row, _ in chosen])
        starts = torch.tensor([start for _, start in chosen])
        at = starts[:, None] + torch.arange(self.length + 1)
        piece = self.values[rows[:, None], :, at].transpose(1, 2)  # B C L+1
        commands, outputs = piece[:, : self.commands, :-1], piece[:, self.commands :]
        initial = outputs[..., :1].expand(-1, -1, self.length)
        return FieldBatch(
            inputs=torch.cat([commands, initial], dim=1)[:, None].contiguous(),
            targets=outputs[:, None, :, 1:].contiguous(),
            time=torch.ones(len(rows), 1),
            mask=None,
            parameters=None,
            source=torch.zeros_like(rows),
            trajectory=rows,
            snapshots=torch.zeros(len(rows), 2, dtype=torch.int64),
        )
