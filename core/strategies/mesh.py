"""One strategy from sizes: processes on the axes replicate x shard x context x tensor.

Data parallelism is replicate, FSDP2 is shard, both together are HSDP; tensor cuts matrices, context cuts
sequences. The weights of N processes equal those of one: the first process's network is handed out, gradients
are averaged over all ranks that see other data, and losses weighted by the global count.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from core.checkpoints.io import SafeCheckpointIO
from core.checkpoints.sharded import load_optimizers, named_state
from core.errors import UserError
from core.strategies.averaging import GradientAveraging
from core.strategies.axes import ProcessGrid, Size, check, resolve
from core.strategies.initialisation import (
    load_and_freeze,
    materialise,
    on_first_rank,
    receive,
    share_random_state,
    snapshot,
)
from core.strategies.parallelise import (
    KINDS,
    Checkpointing,
    blocks_of,
    buckets_of,
    checkpoint_blocks,
    cut_context,
    cut_matrices,
    shard,
)
from core.strategies.sharded_tensors import clip_by_norm, step_shards

__all__ = ["Mesh"]


class Mesh(ModelParallelStrategy):
    """Spreads a run over processes.

    The product of the sizes is the number of processes, devices times nodes; one of them may be "auto". With
    every size 1 it is a run in one process, with only `replicate` it is what DDP does.

    Args:
        replicate: Groups of processes that hold the same weights and see other samples.
        shard: Processes of such a group over which weights, gradients and optimizer state are spread; they
            see other samples too.
        tensor: Processes over which a layer's matrices are cut; they see the same samples.
        context: Processes over which a sequence is cut; they see the same samples.
        expert: Must be 1.
        pipeline: Must be 1.
        sequence: Whether tensor-parallel processes also cut norms and residuals along the sequence.
        checkpointing: What the backward pass computes again: `none`, `selective` (all but matrix products and
            attention) or `full` (whole blocks).
        compile: Whether each block is compiled.
        reshard: Whether gathered weights are freed between forward and backward pass.
        offload: Whether sharded weights and optimizer state stay in the host's memory.
        keep_batch: Whether the data's `batch_size` is that of all processes together, each taking its share;
            otherwise each takes as many samples.
        timeout: Seconds after which a process that waits for another gives up.

    Raises:
        UserError: If a size, or a combination of options, is impossible.
    """

    def __init__(
        self,
        replicate: Size = 1,
        shard: Size = 1,
        tensor: Size = 1,
        context: Size = 1,
        expert: int = 1,
        pipeline: int = 1,
        sequence: bool = False,
        checkpointing: Checkpointing = "none",
        compile: bool = False,
        reshard: bool = True,
        offload: bool = False,
        keep_batch: bool = False,
        timeout: float = 1800,
    ) -> None:
        super().__init__(timeout=timedelta(seconds=timeout))
        self.sizes: dict[str, Size] = {
            "replicate": replicate,
            "shard": shard,
            "context": context,
            "tensor": tensor,
            "expert": expert,
            "pipeline": pipeline,
        }
        check(self.sizes)
        if checkpointing not in KINDS:
            raise UserError(
                f"trainer.strategy: checkpointing is '{checkpointing}'; it must be one of {', '.join(KINDS)}"
            )
        if sequence and tensor == 1:
            raise UserError("trainer.strategy: sequence needs tensor above 1; give both, or neither")
        if sequence and context != 1:
            raise UserError("trainer.strategy: sequence and context both cut the sequence; give one of them")
        if offload and shard == 1:
            raise UserError("trainer.strategy: offload needs shard above 1; give both, or neither")
        self.sequence, self.checkpointing, self.compile = sequence, checkpointing, compile
        self.reshard, self.offload, self.keep_batch = reshard, offload, keep_batch
        self.axes: dict[str, int] = {}
        self._network: nn.Module | None = None
        self._averaging: GradientAveraging | None = None
        self._grid: ProcessGrid | None = None

    # axes and groups

    @property
    def sharded(self) -> bool:
        """True where a process holds only pieces of the weights."""
        return self.axes.get("shard", 1) > 1 or self.axes.get("tensor", 1) > 1

    @property
    def grid(self) -> ProcessGrid:
        """The processes and their groups, once they have met."""
        assert self._grid is not None, "the processes have not met yet"
        return self._grid

    @property
    def loss_group(self) -> dist.ProcessGroup | None:
        """The processes over which gradients are averaged; None if that is this one alone."""
        return self.grid.group("replicate", "shard", "context")

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Rank and number of the processes that see other samples."""
        position = self.grid.coordinates
        ranks = self.axes["replicate"] * self.axes["shard"]
        return {"num_replicas": ranks, "rank": position["replicate"] * self.axes["shard"] + position["shard"]}

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Checkpoints fill what is arranged already."""
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands the optimizer's state to `load_optimizer_state_dict`."""
        return True

    # setting up

    def _configure_launcher(self) -> None:
        self.axes = resolve(self.sizes, self.num_nodes * self.num_processes)
        super()._configure_launcher()

    def setup_environment(self) -> None:
        """Join the processes and build the mesh of the axes that are larger than 1."""
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        self._setup_distributed()
        self.axes = resolve(self.sizes, self.world_size)
        self._grid = ProcessGrid(self.axes, device=self.root_device.type, rank=self.global_rank)
        self._device_mesh = self._grid.mesh
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    def initialise(
        self,
        network: nn.Module,
        *,
        load: Callable[[], Any] | None = None,
        prepare: Callable[[nn.Module], None] | None = None,
    ) -> Any:
        """Load, freeze and arrange the network on the mesh, in place; return what `load` says.

        Args:
            network: Built on the first rank; elsewhere it may be on the meta device where the mesh shards.
            load: Fills it with weights; called on the first rank only.
            prepare: Freezes what stays frozen.

        Raises:
            UserError: If the network lacks what the sizes need, or `load` raises it, on every rank.
        """
        self._network = network
        first = self.global_rank == 0
        if first and any(tensor.is_meta for tensor in snapshot(network).values()):
            materialise(network, torch.device("cpu"))
            network.reset_parameters()  # type: ignore[operator]
        many = self.world_size > 1
        run_load = load if load is None or not many else partial(on_first_rank, load)
        report = load_and_freeze(network, load=run_load, prepare=prepare)
        self.precision_plugin.convert_module(network)
        source = snapshot(network) if many and first else None
        if self.sharded:
            network.to(device="meta")
        self._arrange(network)
        if many:
            materialise(network, self._home)
            network.to(self._home)
            receive(network, source, self.root_device)
            share_random_state()
        return report

    def setup(self, trainer: pl.Trainer) -> None:
        """Move everything to the device, then build the optimizers."""
        assert self.model is not None and self.accelerator is not None and self.lightning_module is not None
        self.accelerator.setup(trainer)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if self.sharded and any(isinstance(callback, WeightAveraging) for callback in callbacks):
            raise UserError(
                "model.ema averages whole weights and trainer.strategy spreads them; leave model.ema out, or"
                " give shard=1 and tensor=1"
            )
        if self._network is None:  # a module of someone else's, that does not ask for it
            self.initialise(self.lightning_module)
        assert self._network is not None
        self.model = self.precision_plugin.convert_module(self.model)
        if not self.offload:
            self.model_to_device()
        if self.sharded:
            # a weight gathered for a validation in inference mode could not be used in training
            for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
                loop.inference_mode = False
            trainer.predict_loop.inference_mode = False
        fitting = trainer.state.fn == TrainerFn.FITTING
        self.barrier()
        if fitting:
            self.setup_optimizers(trainer)
        # after what searches a rate: each process does that by itself
        group = self._averaged
        if fitting and group is not None and self._averaging is None:
            self._averaging = GradientAveraging(buckets_of(self._network), group)
        self.setup_precision_plugin()
        if fitting and not self.offload:
            _optimizers_to_device(self.optimizers, self.root_device)

    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        """Build the optimizers, and let them step pieces."""
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            step_shards(optimizer)

    def setup_precision_plugin(self) -> None:
        """Let clipping see pieces of gradients for what they are."""
        super().setup_precision_plugin()
        plugin = self.precision_plugin

        def clip(optimizer: Optimizer, limit: float) -> None:
            clip_by_norm(plugin.main_params(optimizer), limit)

        plugin.clip_grad_by_norm = clip  # type: ignore[method-assign, assignment]

    def model_to_device(self) -> None:
        """Move what is not on the device yet."""
        assert self.model is not None
        self.model.to(self.root_device)

    # a step

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Move a batch to the device, and keep this process's slice of its sequences.

        Raises:
            UserError: If sequences are to be cut and the batch cannot be, or not into equal slices.
        """
        batch = super().batch_to_device(batch, device, dataloader_idx)
        self._check_rows(batch)
        ranks = self.axes["context"]
        if ranks == 1:
            return batch
        part = getattr(batch, "part", None)
        if part is None:
            raise UserError(
                f"trainer.strategy: context is {ranks}, but a {type(batch).__name__} has no sequence to cut; "
                "give context=1"
            )
        try:
            return part(self.grid.coordinates["context"], ranks)
        except ValueError as error:
            raise UserError(f"trainer.strategy: context is {ranks}, but {error}") from error

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Run the backward pass; gradients are averaged when it returns, unless they are accumulated."""
        self.pre_backward(closure_loss)
        task = self.lightning_module
        assert task is not None
        closure_loss = self.precision_plugin.pre_backward(closure_loss, task)
        self.precision_plugin.backward(closure_loss, task, optimizer, *args, **kwargs)
        if self._averaging is not None:
            self._averaging.finish()
        closure_loss = self.precision_plugin.post_backward(closure_loss, task)
        self.post_backward(closure_loss)
        return closure_loss

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Accumulate gradients without sending them."""
        sharding = getattr(self._network, "set_requires_gradient_sync", None)
        if self._averaging is not None:
            self._averaging.enabled = False
        if sharding is not None:
            sharding(False)
        try:
            yield
        finally:
            if self._averaging is not None:
                self._averaging.enabled = True
            if sharding is not None:
                sharding(True)

    # checkpoints: pieces are written by all processes together (core.checkpoints.sharded)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the state with this rank's pieces; nothing is sent."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state with this rank's pieces, by the parameters' names."""
        assert self.lightning_module is not None
        return named_state(self.lightning_module, getattr(optimizer, "_optimizer", optimizer))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder where something is sharded, otherwise a file; every rank calls it."""
        self._io.save_together(checkpoint, filepath, mesh=self.axes)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read this rank's pieces of the weights from a folder or a file of any number of processes."""
        assert self.lightning_module is not None
        return self._io.load_together(checkpoint_path, model=self.lightning_module)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the state that `load_checkpoint` read."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's pieces of the optimizers' state."""
        assert self.lightning_module is not None
        load_optimizers(checkpoint, model=self.lightning_module, optimizers=self.optimizers)

    def remove_checkpoint(self, filepath: Any) -> None:
        """Delete a checkpoint, from the first rank."""
        if self.is_global_zero:
            self.checkpoint_io.remove_checkpoint(filepath)

    # helpers

    @property
    def _io(self) -> SafeCheckpointIO:
        if not isinstance(self.checkpoint_io, SafeCheckpointIO):
            self.checkpoint_io = SafeCheckpointIO()
        return self.checkpoint_io  # type: ignore[return-value]

    @property
    def _home(self) -> torch.device:
        """The device that parameters live on."""
        return torch.device("cpu") if self.offload else self.root_device

    @property
    def _averaged(self) -> dist.ProcessGroup | None:
        """The group over which gradients are averaged here, where no sharding does it."""
        return None if self.axes["shard"] > 1 else self.grid.group("replicate", "context")

    def _check_rows(self, batch: Any) -> None:
        """Refuse rows that tensor-parallel ranks cannot cut: some would fail, and others wait for them."""
        ranks, length = self.axes["tensor"], getattr(batch, "row_length", None)
        if self.sequence and length is not None and length % ranks:
            raise UserError(
                f"trainer.strategy: sequence cuts rows over {ranks} tensor ranks, but a row of {length} "
                f"tokens cannot be cut into {ranks} equal slices; give rows that can, or sequence=false"
            )

    def _arrange(self, network: nn.Module) -> None:
        axes, grid = self.axes, self.grid
        if axes["tensor"] > 1:
            cut_matrices(network, grid.mesh["tensor"], sequence=self.sequence)
        context = grid.group("context")
        if context is not None:
            cut_context(network, context)
        if self.checkpointing != "none":
            checkpoint_blocks(blocks_of(network, "checkpointing"), self.checkpointing)
        if self.compile:
            for block in blocks_of(network, "compile"):
                block.compile()
        if axes["shard"] > 1:
            shard(
                network,
                blocks_of(network, f"shard {axes['shard']}"),
                grid.sharding(),
                precision=str(self.precision_plugin.precision),
                reshard=self.reshard,
                offload=self.offload,
            )
