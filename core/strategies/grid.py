"""The processes of a run as a grid: groups of those that differ on some axes only."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from core.strategies.sizes import AXES, coordinates

__all__ = ["Grid"]


class Grid:
    """A device mesh of the axes that are larger than 1, and the groups on it.

    Args:
        sizes: Axis to size, as `core.strategies.sizes.resolve` returns them.
        device: Type of the devices.
        rank: This process's number.
    """

    def __init__(self, sizes: Mapping[str, int], *, device: str, rank: int) -> None:
        self.sizes = dict(sizes)
        self.place = coordinates(sizes, rank)
        axes = tuple(axis for axis in AXES if sizes[axis] > 1) or ("replicate",)
        self.mesh: DeviceMesh = init_device_mesh(
            device, tuple(sizes[axis] for axis in axes), mesh_dim_names=axes
        )
        self._groups: dict[tuple[str, ...], dist.ProcessGroup | None] = {}

    def group(self, *axes: str) -> dist.ProcessGroup | None:
        """Return the processes that differ from this one on the given axes only; None if there are no
        others.
        """
        if axes not in self._groups:
            self._groups[axes] = self._made(tuple(axis for axis in axes if self.sizes[axis] > 1))
        return self._groups[axes]

    def sharding(self) -> DeviceMesh:
        """Return the axis that weights are sharded over, after the one they are replicated over if there is
        one. Processes with other slices of a sequence hold other pieces too.
        """
        axis = "shard"
        if self.sizes["context"] > 1:
            axis = "shard_context"
            self.mesh["shard", "context"]._flatten(axis)
        return self.mesh["replicate", axis] if self.sizes["replicate"] > 1 else self.mesh[axis]

    def _made(self, axes: tuple[str, ...]) -> dist.ProcessGroup | None:
        if len(axes) == 1:
            return self.mesh.get_group(axes[0])
        if axes and math.prod(self.sizes[axis] for axis in axes) == dist.get_world_size():
            return dist.group.WORLD
        return self.mesh[axes]._flatten("_".join(("all", *axes))).get_group() if axes else None
