"""One strategy from sizes: processes on the axes replicate x shard x context x tensor.

Data parallelism is replicate, FSDP2 is shard, both together are HSDP; tensor cuts matrices, context cuts
sequences. The weights of N processes equal those of one: the first process's network is handed out, gradients
are averaged over all ranks that see other data, and losses weighted by the global count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from core.errors import UserError
from core.strategies.averaging import GradientAveraging
from core.strategies.checkpointing import KINDS, Checkpointing, checkpoint_blocks
from core.strategies.clipping import clip_by_norm
from core.strategies.optimizers import collected, ready, spread
from core.strategies.pieces import like, whole
from core.strategies.sharding import blocks_of, buckets_of, cut_context, cut_matrices, shard
from core.strategies.sizes import AXES, Size, check, coordinates, resolve
from core.strategies.starting import materialise, on_first_rank, receive, share_random_state, snapshot, start

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
        self.reshard, self.offload = reshard, offload
        self.axes: dict[str, int] = {}
        self._network: nn.Module | None = None
        self._averaging: GradientAveraging | None = None
        self._groups: dict[tuple[str, ...], dist.ProcessGroup | None] = {}

    # where this process stands

    @property
    def sharded(self) -> bool:
        """Whether a process holds only pieces of the weights."""
        return self.axes.get("shard", 1) > 1 or self.axes.get("tensor", 1) > 1

    @property
    def place_on_mesh(self) -> dict[str, int]:
        """Where this process stands on every axis."""
        return coordinates(self.axes, self.global_rank)

    @property
    def loss_group(self) -> dist.ProcessGroup | None:
        """The processes over which gradients are averaged; None if that is this one alone."""
        return self._group("replicate", "shard", "context")

    @property
    def data_parallel_group(self) -> dist.ProcessGroup | None:
        """The processes that see other samples; None if that is this one alone."""
        return self._group("replicate", "shard")

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Rank and number of the processes that see other samples."""
        place = self.place_on_mesh
        ranks = self.axes["replicate"] * self.axes["shard"]
        return {"num_replicas": ranks, "rank": place["replicate"] * self.axes["shard"] + place["shard"]}

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Pieces of the optimizer's state are read together with those of the weights."""
        return self.sharded

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
        axes = [axis for axis in AXES if self.axes[axis] > 1] or ["replicate"]
        shape = tuple(self.axes[axis] for axis in axes)
        self._device_mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=tuple(axes))
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    def place(
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
        report = start(network, load=run_load, prepare=prepare)
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
        if self._network is None:  # a module of someone else's, that does not ask for it
            self.place(self.lightning_module)
        assert self._network is not None
        self.model = self.precision_plugin.convert_module(self.model)
        if not self.offload:
            self.model_to_device()
        fitting = trainer.state.fn == TrainerFn.FITTING
        group = self._averaged
        if fitting and group is not None and self._averaging is None:
            self._averaging = GradientAveraging(buckets_of(self._network), group)
        self.barrier()
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        if fitting and not self.offload:
            _optimizers_to_device(self.optimizers, self.root_device)

    def setup_optimizers(self, trainer: pl.Trainer) -> None:
        """Build the optimizers, and let them step pieces."""
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            ready(optimizer)

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
            return part(self.place_on_mesh["context"], ranks)
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

    # checkpoints

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole state, on the first rank alone where the mesh shards."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        if not self.sharded:
            return state
        full = {name: whole(value) if isinstance(value, Tensor) else value for name, value in state.items()}
        return full if self.is_global_zero else {}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this rank's pieces of a whole state."""
        assert self.lightning_module is not None
        state = dict(checkpoint["state_dict"])
        if self.sharded:
            own = self.lightning_module.state_dict()
            for name, value in state.items():
                if isinstance(value, Tensor) and isinstance(own.get(name), Tensor):
                    state[name] = like(value.to(self._home, own[name].dtype), own[name])
        self.lightning_module.load_state_dict(state, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state, on the first rank alone where the mesh shards."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        state = collected(optimizer.state_dict())
        return state if self.is_global_zero or not self.sharded else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's pieces of a whole state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            optimizer.load_state_dict(spread(state, optimizer))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write one file from the first rank."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read one file on every rank."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    # helpers

    @property
    def _home(self) -> torch.device:
        """Where parameters live."""
        return torch.device("cpu") if self.offload else self.root_device

    @property
    def _averaged(self) -> dist.ProcessGroup | None:
        """The group over which gradients are averaged here, where no sharding does it."""
        return None if self.axes["shard"] > 1 else self._group("replicate", "context")

    def _arrange(self, network: nn.Module) -> None:
        axes, mesh = self.axes, self.device_mesh
        if axes["tensor"] > 1:
            cut_matrices(network, mesh["tensor"], sequence=self.sequence)
        context = self._group("context")
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
                self._sharding_mesh(),
                precision=str(self.precision_plugin.precision),
                reshard=self.reshard,
                offload=self.offload,
            )

    def _sharding_mesh(self) -> DeviceMesh:
        mesh = self.device_mesh
        spread = "shard"
        if self.axes["context"] > 1:
            spread = "shard_context"
            mesh["shard", "context"]._flatten(spread)
        return mesh["replicate", spread] if self.axes["replicate"] > 1 else mesh[spread]

    def _group(self, *axes: str) -> dist.ProcessGroup | None:
        """Return the processes that differ from this one on the given axes only; None if there are no
        others.
        """
        if axes not in self._groups:
            large = tuple(axis for axis in axes if self.axes[axis] > 1)
            group = None
            if len(large) == 1:
                group = self.device_mesh.get_group(large[0])
            elif math.prod(self.axes[axis] for axis in large) == self.world_size > 1:
                group = dist.group.WORLD
            elif large:
                group = self.device_mesh[large]._flatten("_".join(("all", *large))).get_group()
            self._groups[axes] = group
        return self._groups[axes]
