"""The multigrid schedule as an option of a recipe: batches of many sizes and shapes from any data module."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

from core.data.batch import Batch, collate
from core.data.mixtures import permuted
from core.data.multigrid import Multigrid, Shape
from core.data.randomness import generator, key
from core.data.sampler import ResumableSampler
from core.errors import UserError, did_you_mean

__all__ = ["MultigridBatches", "MultigridSet", "MultigridShapes"]

Place = tuple[int, int, Shape, int]  # pass over the data, sample, shape, step of the run


class MultigridBatches(BatchSampler):
    """Batches of one rank with the size of each step's shape.

    The data are walked over and over without regard to the trainer's epochs, in another order in each pass.
    Which samples a step takes is a function of (seed, step), so a run is resumed at any step, and N processes
    see the batches of one.

    Args:
        sampler: Gives seed, epoch, sizes and where a resumed run begins.
        batch_size: Not used; Lightning may build the object anew with these names.
        drop_last: Not used, for the same reason.
        grid: The schedule.
        epochs: Epochs of the run as the trainer counts them.
    """

    def __init__(
        self,
        sampler: ResumableSampler,
        batch_size: int,
        drop_last: bool = False,
        *,
        grid: Multigrid,
        epochs: float,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)  # type: ignore[arg-type]
        self.sampler: ResumableSampler = sampler  # type: ignore[assignment]
        self.grid = grid
        self.total = max(1, round(epochs * len(self)))

    def __len__(self) -> int:
        """Return the steps of an epoch: those of default batches."""
        return -(-len(self.sampler) // self.sampler.batch_size)

    def __iter__(self) -> Iterator[list[Place]]:  # type: ignore[override]
        """Yield lists of (pass, index, shape, step)."""
        sampler, grid = self.sampler, self.grid
        epoch, first = sampler.epoch, sampler.start // sampler.global_batch
        for step in range(epoch * len(self) + first, (epoch + 1) * len(self)):
            shape = grid.shape(step, self.total)
            size = shape.batch * sampler.batch_size
            begin = grid.batches_before(step, self.total) * sampler.global_batch + sampler.rank * size
            yield [(*self._sample(position), shape, step) for position in range(begin, begin + size)]

    def _sample(self, position: int) -> tuple[int, int]:
        turn, position = divmod(position, self.sampler.length)
        return turn, permuted(position, self.sampler.length, key(self.sampler.seed, turn, 0, "multigrid"))


class MultigridSet(Dataset):
    """A data set that gives each batch in its shape.

    Args:
        source: Data set of map style, indexed by `(epoch, index)`, of batches with floating tensors
            `(..., H, W)`.
        change: Maps a batch, a shape, a pass and a step to the batch in that shape.
    """

    def __init__(self, source: Dataset, change: Any) -> None:
        self.source, self.change = source, change

    def __getitems__(self, where: Sequence[Place]) -> Any:
        """Return one finished batch."""
        pairs = [(turn, index) for turn, index, *_ in where]
        if getattr(self.source, "__getitems__", None) is not None:
            batch = self.source.__getitems__(pairs)  # type: ignore[attr-defined]
        else:
            batch = collate([self.source[pair] for pair in pairs])
        turn, _, shape, step = where[0]
        return self.change(batch, shape, turn, step)


class MultigridShapes(Callback):
    """Train in the shapes of a multigrid schedule; the rate belongs to it: `core.optim.data_pace`.

    In a recipe, with `trainer.max_epochs` about `grid.work`, a baseline's epochs less what is saved:

        trainer:
          callbacks:
          - class_path: core.data.multigrid_set.MultigridShapes
            init_args: {grid: {frames: 1, crop: 128, borders: [50, 80], epochs: 100}}

    Args:
        grid: The schedule.
        by: `crop` cuts a window out of the field at a random place, `resize` averages it to fewer points.
        time: Axis of time in a batch's tensors, counted from the last; frames are taken at a larger stride.
            None for data without time.
        fields: Names of the tensors that change; None takes all with the last two axes of the first floating
            one.
        seed: Decides where crops are cut.

    Raises:
        UserError: If `by` is neither.
    """

    def __init__(
        self,
        grid: Multigrid,
        *,
        by: Literal["crop", "resize"] = "crop",
        time: int | None = None,
        fields: list[str] | None = None,
        seed: int = 0,
    ) -> None:
        if by not in ("crop", "resize"):
            raise UserError(f"by is '{by}'; it must be crop or resize{did_you_mean(by, ['crop', 'resize'])}")
        if time is not None and not -5 <= time <= -3:
            raise UserError(f"time is axis {time}; it is counted from the last, before the two of space: -3")
        self.grid, self.by, self.time, self.fields, self.seed = grid, by, time, fields, seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the data module deal its samples to the schedule's batches."""
        if stage != "fit":
            return
        data = getattr(trainer, "datamodule", None)
        if not hasattr(data, "plan"):
            raise UserError("the multigrid schedule needs one of the suite's data modules")

        def plan(dataset: Dataset, sampler: ResumableSampler) -> tuple[Dataset, BatchSampler]:
            steps = -(-len(sampler) // sampler.batch_size)
            epochs = float(trainer.max_epochs or -1)
            if trainer.max_steps > 0:
                limit = trainer.max_steps * trainer.accumulate_grad_batches / steps
                epochs = min(epochs, limit) if epochs > 0 else limit
            if epochs <= 0:
                raise UserError(
                    "the multigrid schedule needs the run's length; set trainer.max_epochs or max_steps"
                )
            batches = MultigridBatches(sampler, sampler.batch_size, grid=self.grid, epochs=epochs)
            return MultigridSet(dataset, self.change), batches

        data.plan = plan  # type: ignore[union-attr]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the data module as it was."""
        if stage == "fit" and hasattr(getattr(trainer, "datamodule", None), "plan"):
            trainer.datamodule.plan = None  # type: ignore[attr-defined]

    def change(self, batch: Any, shape: Shape, turn: int, step: int) -> Any:
        """Return a batch in another shape."""
        draw = torch.rand(2, generator=generator(self.seed, turn, step, "crop")).tolist()
        return self.reshaped(batch, shape, draw)

    def reshaped(self, batch: Any, shape: Shape, draw: Sequence[float] = (0.5, 0.5)) -> Any:
        """Return a batch whose tensors `(..., H, W)` have `shape`'s share of the default's points and frames.

        H and W are scaled by `shape.crop / grid.crop`. Masks and other whole numbers are cropped alike;
        resized, they take the value of the nearest point. `draw` says where a crop lies, 0 to 1 for each
        axis.

        Raises:
            UserError: If the batch has no such tensor.
        """
        every = dataclasses.fields(batch) if isinstance(batch, Batch) else ()  # type: ignore[arg-type]
        least = 3 + (self.time is not None)
        tensors = {
            field.name: value
            for field in every
            if isinstance(value := getattr(batch, field.name), Tensor) and value.ndim >= least
        }
        names = list(self.fields or tensors)
        floating = [name for name in names if name in tensors and tensors[name].is_floating_point()]
        if not floating or any(name not in tensors for name in names):
            wanted = " or ".join(self.fields or ["(..., H, W)"])
            raise UserError(
                f"the multigrid schedule finds no floating tensor {wanted} in a {type(batch).__name__}; name "
                "those that it has with fields"
            )
        height, width = tensors[floating[0]].shape[-2:]
        factor = shape.crop / self.grid.crop
        side = (max(1, round(height * factor)), max(1, round(width * factor)))
        changed = {}
        for name in names:
            tensor = tensors[name]
            if tensor.shape[-2:] != (height, width):
                continue
            if self.time is not None and shape.frames < tensor.shape[self.time]:
                stride = tensor.shape[self.time] // shape.frames
                taken = torch.arange(shape.frames, device=tensor.device) * stride
                tensor = tensor.index_select(tensor.ndim + self.time, taken)
            if side != (height, width):
                tensor = _window(tensor, side, draw) if self.by == "crop" else _averaged(tensor, side)
            changed[name] = tensor
        return dataclasses.replace(batch, **changed)


def _window(tensor: Tensor, side: tuple[int, int], draw: Sequence[float]) -> Tensor:
    spare = [size - kept for size, kept in zip(tensor.shape[-2:], side, strict=True)]
    top, left = (min(int(part * (room + 1)), room) for part, room in zip(draw, spare, strict=True))
    return tensor[..., top : top + side[0], left : left + side[1]].contiguous()


def _averaged(tensor: Tensor, side: tuple[int, int]) -> Tensor:
    flat = tensor.reshape(-1, 1, *tensor.shape[-2:])
    if tensor.is_floating_point():
        small = F.interpolate(flat, size=side, mode="bilinear", align_corners=False, antialias=True)
    else:
        small = F.interpolate(flat.double(), size=side, mode="nearest-exact").to(tensor.dtype)
    return small.reshape(*tensor.shape[:-2], *side)
