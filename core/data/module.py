"""The base of every data module: loaders in a reproducible order, and the position a resumed run needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import BatchSampler, DataLoader, Dataset

from core.data.batch import collate, identity
from core.data.checks import at_least
from core.data.randomness import generator
from core.data.sampler import EvaluationBatches, EvaluationShare, ResumableSampler
from core.errors import UserError

__all__ = ["DataModule"]


class DataModule(LightningDataModule):
    """Builds the loaders from the data sets of a subclass, and saves the position in the training data.

    A data set is of map style and is indexed by `(epoch, index)`, so that a sample's own randomness can
    depend on the epoch even in persistent workers; one with `__getitems__(pairs) -> Batch` gives whole
    batches, others are stacked. One with `deal(epoch, indices, ranks)` says which process takes which samples
    of a global batch. Evaluation always asks for epoch 0. Run it with
    `Trainer(use_distributed_sampler=False)`.

    Args:
        batch_size: Samples of one process in one training batch, or of all together where the strategy has
            `keep_batch`.
        eval_batch_size: The same for validation, test and prediction; None takes `batch_size`.
        num_workers: Loader processes; the samples and their order are the same for any number.
        seed: Decides the order of the training samples and their randomness.
        drop_last: Leave an epoch's incomplete last batch out.
    """

    shuffled = True
    """Whether each epoch has an order of its own; a data set that is in its final order sets it to False."""

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        if num_workers < 0:
            raise UserError(f"data.num_workers is {num_workers}; it must be 0 or more")
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.num_workers, self.seed, self.drop_last = num_workers, seed, drop_last
        # What callbacks do to every training batch before it goes to the device, in order.
        self.changes: list[Callable[[Any], Any]] = []
        # How a callback deals the training samples to batches of other sizes and shapes.
        self.plan: Callable[[Dataset, ResumableSampler], tuple[Dataset, BatchSampler]] | None = None
        self._sampler: ResumableSampler | None = None
        self._resume: dict[str, int] = {}

    @property
    def facts(self) -> Any:
        """The domain's `Facts`, which the task must know; None if there is nothing to know."""
        return None

    def use_statistics(self, facts: Any) -> None:
        """Take the facts of a checkpoint that is tested: what its network was trained to see.

        Called before any data are read; the base class takes nothing over.
        """

    def train_set(self) -> Dataset | None:
        """Return the training data, or None if there is none."""
        return None

    def val_set(self) -> Dataset | None:
        """Return the validation data, or None if there is none."""
        return None

    def test_set(self) -> Dataset | None:
        """Return the test data, or None if there is none."""
        return None

    def predict_set(self) -> Dataset | None:
        """Return the data to predict, or None if there is none."""
        return None

    def train_dataloader(self) -> DataLoader:
        """Return the loader of this process's part of the training data, from where a resumed run stands.

        Raises:
            UserError: If there is no training data, or a run is resumed in mid-epoch in another order.
        """
        dataset = self._present(self.train_set(), "training")
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            return self._in_order(dataset, self._share())  # always the same few batches, so no shuffling
        rank, world = self._place()
        sampler = ResumableSampler(
            len(dataset),  # type: ignore[arg-type]
            seed=self.seed,
            batch_size=self._share(),
            shuffle=self.shuffled,
            rank=rank,
            world=world,
            drop_last=self.drop_last,
            deal=getattr(dataset, "deal", None),
        )
        if len(sampler) == 0:
            raise UserError(
                f"the training set has {sampler.length} samples, too few for a batch of "
                f"{sampler.global_batch} over {world} processes; make data.batch_size smaller"
            )
        self._go_on(sampler)
        self._sampler = sampler
        if self.plan is not None:
            dataset, batches = self.plan(dataset, sampler)
            return self._loader(dataset, kind=_TrainingLoader, batch_sampler=batches)
        return self._loader(dataset, kind=_TrainingLoader, sampler=sampler, batch_size=sampler.batch_size)

    def val_dataloader(self) -> DataLoader | list:
        """Return the loader of this process's part of the validation data; an empty list if there is none."""
        dataset = self.val_set()
        return [] if dataset is None else self._in_order(dataset, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        """Return the loader of this process's part of the test data."""
        return self._in_order(self._present(self.test_set(), "test"), self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of this process's part of the data to predict."""
        return self._in_order(self._present(self.predict_set(), "prediction"), self.eval_batch_size)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return a training batch with the callbacks' changes, such as a curriculum's shorter sequences."""
        if self.trainer is not None and self.trainer.training:
            for change in self.changes:
                batch = change(batch)
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the position (epoch and samples done) and what decides the order of the samples.

        The training loop counts, for with workers the sampler runs ahead by what is prefetched. Batches are
        counted when processed (`completed` lags by one in a checkpoint taken at a step), and after the last
        batch the position is the next epoch's beginning: a position at the end would give an empty loader,
        and Lightning would skip an epoch.
        """
        sampler, trainer = self._sampler, self.trainer
        if sampler is None or trainer is None:
            return dict(self._resume)
        done: int = trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        epoch = sampler.epoch
        if done >= trainer.num_training_batches:
            epoch, done = epoch + 1, 0
        return {"epoch": epoch, "samples": done * sampler.global_batch, **_order(sampler)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Keep the position for the training loader, which is built anew if it is there already."""
        self._resume = dict(state_dict)
        if self._sampler is not None and self.trainer is not None:
            # Strategies that shard load the checkpoint after the loader was built to estimate the number of
            # steps.
            self.trainer.fit_loop._combined_loader = None

    def _go_on(self, sampler: ResumableSampler) -> None:
        state, self._resume = self._resume, {}
        if not state:
            sampler.epoch = 0 if self.trainer is None else self.trainer.current_epoch
            return
        sampler.epoch, sampler.start = state["epoch"], state["samples"]
        if sampler.start == 0:
            return
        names = {
            "length": "training samples",
            "global_batch": "samples in a batch of all processes",
            "seed": "as data.seed",
        }
        for name, now in _order(sampler).items():
            if state[name] != now:
                raise UserError(
                    f"the checkpoint stands in the middle of epoch {state['epoch']} with {state[name]} "
                    f"{names[name]}, this run has {now}; resume with the same, or start a new run from the "
                    "checkpoint with --model.weights"
                )

    def _in_order(self, dataset: Dataset, batch_size: int) -> DataLoader:
        rank, world = self._place()
        share = EvaluationShare(len(self._present(dataset, "evaluation")), rank=rank, world=world)  # type: ignore
        if share.length < world:
            raise UserError(
                f"the data set has {share.length} samples for {world} processes; evaluate it on fewer devices"
            )
        return self._loader(dataset, batch_sampler=EvaluationBatches(share, batch_size, share=share))

    def _loader(self, dataset: Dataset, *, kind: type[DataLoader] = DataLoader, **how: Any) -> DataLoader:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return kind(
            dataset,
            **how,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=on_cuda,
            collate_fn=identity if hasattr(dataset, "__getitems__") else collate,
            # With the global generator every new iterator would draw from it, and checkpoints at an epoch's
            # end differ.
            generator=generator(self.seed, 0, 0, "loader"),
        )

    def _place(self) -> tuple[int, int]:
        """Return the rank among the data-parallel processes and their number."""
        trainer = self.trainer
        where = None if trainer is None else getattr(trainer.strategy, "distributed_sampler_kwargs", None)
        if trainer is None or not where:
            return 0, 1
        if where["num_replicas"] > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise UserError(
                "trainer.use_distributed_sampler is true; set it to false, the data module shares the samples"
            )
        return where["rank"], where["num_replicas"]

    def _share(self) -> int:
        """Return the samples of this process in one training batch."""
        _, world = self._place()
        if self.trainer is None or not getattr(self.trainer.strategy, "keep_batch", False):
            return self.batch_size
        if self.batch_size % world:
            raise UserError(
                f"data.batch_size is {self.batch_size}, which {world} processes cannot share evenly; give a "
                "multiple, or --trainer.strategy.keep_batch=false, with which each takes as many"
            )
        return self.batch_size // world

    def _present(self, dataset: Dataset | None, what: str) -> Dataset:
        if dataset is None or len(dataset) == 0:  # type: ignore[arg-type]
            raise UserError(
                f"{type(self).__name__} has no {what} data; check data.path and how the data is split"
            )
        return dataset


class _TrainingLoader(DataLoader):
    """A loader that tells Lightning it can be resumed; the position is kept in the data module's state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def _order(sampler: ResumableSampler) -> dict[str, int]:
    """Return what, beside the epoch, decides which sample stands at which place."""
    return {"length": sampler.length, "global_batch": sampler.global_batch, "seed": sampler.seed}
