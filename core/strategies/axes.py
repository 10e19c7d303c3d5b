"""The axes of a mesh: their sizes, what "auto" becomes, and the groups of processes along them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from core.errors import UserError

__all__ = ["AXES", "ProcessGrid", "Size", "check", "coordinates", "resolve"]

AXES = ("replicate", "shard", "context", "tensor")  # outermost first: neighbours in rank share a tensor group
Size = int | Literal["auto"]

_LATER = ("pipeline", "expert")  # axes that the recipe's spelling is open to


def check(sizes: Mapping[str, Size]) -> None:
    """Refuse sizes that no run can have; called before the number of processes is known.

    Raises:
        UserError: If a size is below 1, two are "auto", or an axis that is not available is above 1.
    """
    for axis in _LATER:
        if sizes.get(axis, 1) != 1:
            raise UserError(
                f"trainer.strategy: {axis} is {sizes[axis]} and must be 1; the axes that can be larger are "
                f"{', '.join(AXES)}"
            )
    for axis in AXES:
        size = sizes[axis]
        if size != "auto" and (not isinstance(size, int) or size < 1):
            raise UserError(f"trainer.strategy: {axis} is {size}; it must be a whole number from 1, or auto")
    automatic = [axis for axis in AXES if sizes[axis] == "auto"]
    if len(automatic) > 1:
        raise UserError(
            f"trainer.strategy: {' and '.join(automatic)} are auto; only one size can follow from the others"
        )


def resolve(sizes: Mapping[str, Size], world: int) -> dict[str, int]:
    """Return a whole number for every axis, in the order of `AXES`; their product is `world`.

    Raises:
        UserError: If the sizes do not fill the processes.
    """
    check(sizes)
    fixed = {axis: size for axis in AXES if isinstance(size := sizes[axis], int)}
    product = math.prod(fixed.values())
    spelled = " x ".join(f"{axis} {size}" for axis, size in fixed.items() if size > 1) or "every size 1"
    automatic = next((axis for axis in AXES if sizes[axis] == "auto"), None)
    have = f"the run has {world} process{'es' if world > 1 else ''}"
    if product > world:
        raise UserError(
            f"trainer.strategy: {spelled} needs {product} devices and {have} (devices times nodes); give "
            f"--trainer.devices={product}, or smaller sizes"
        )
    if automatic is None and product != world:
        raise UserError(
            f"trainer.strategy: {spelled} makes {product} and {have} (devices times nodes); give sizes whose "
            "product is that, or auto for one of them"
        )
    if world % product:
        raise UserError(
            f"trainer.strategy: {automatic} is auto, but {spelled} makes {product}, which does not divide "
            f"the {world} processes (devices times nodes)"
        )
    return {axis: fixed.get(axis, world // product) for axis in AXES}


def coordinates(sizes: Mapping[str, int], rank: int) -> dict[str, int]:
    """Return the coordinate of `rank` on every axis; the last axis of `AXES` varies fastest."""
    position: dict[str, int] = {}
    for axis in reversed(AXES):
        rank, position[axis] = divmod(rank, sizes[axis])
    return position


class ProcessGrid:
    """A device mesh of the axes that are larger than 1, and the groups on it."""

    def __init__(self, sizes: Mapping[str, int], *, device: str, rank: int) -> None:
        self.sizes = dict(sizes)
        self.coordinates = coordinates(sizes, rank)
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
            self._groups[axes] = self._new_group(tuple(axis for axis in axes if self.sizes[axis] > 1))
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

    def _new_group(self, axes: tuple[str, ...]) -> dist.ProcessGroup | None:
        if len(axes) == 1:
            return self.mesh.get_group(axes[0])
        if axes and math.prod(self.sizes[axis] for axis in axes) == dist.get_world_size():
            return dist.group.WORLD
        return self.mesh[axes]._flatten("_".join(("all", *axes))).get_group() if axes else None
