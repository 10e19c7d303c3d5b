"""Precision plug-ins where Lightning's own will not do: batches that are frozen dataclasses, which it refuses
under `*-true`, and autocast on devices it does not know, which it would put on CUDA.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning_utilities import apply_to_collection
from torch import Tensor

from core.data.batch import Batch

__all__ = ["BatchDoublePrecision", "BatchHalfPrecision", "precision_plugin"]


class BatchHalfPrecision(HalfPrecision):
    """Weights and floating inputs in bfloat16 or float16 (`bf16-true`, `16-true`)."""

    def convert_input(self, data: Any) -> Any:
        """Cast the floating tensors of a batch, or of a container of batches and tensors."""
        return _cast(data, self._desired_input_dtype)


class BatchDoublePrecision(DoublePrecision):
    """Weights and floating inputs in float64 (`64-true`)."""

    def convert_input(self, data: Any) -> Any:
        """Cast the floating tensors of a batch, or of a container of batches and tensors."""
        return _cast(data, torch.float64)


def precision_plugin(name: str | int | None, *, device: str = "cpu") -> Precision | None:
    """Return our plug-in for a precision as Lightning spells it, or None where Lightning's own will do.

    Pass the plug-in in `Trainer(plugins=[...])` and leave `Trainer(precision=...)` out: both together are
    refused.

    Args:
        name: For instance `bf16-mixed`.
        device: Type of the device; on one that Lightning does not know, mixed precision is ours too.
    """
    name = _ALIASES.get(str(name), str(name))
    if name in ("bf16-true", "16-true"):
        return BatchHalfPrecision(cast(Any, name))
    if name in ("bf16-mixed", "16-mixed") and device not in ("cpu", "cuda", "mps"):
        return MixedPrecision(cast(Any, name), device)
    return BatchDoublePrecision() if name in ("64-true", "64") else None


_ALIASES = {"bf16": "bf16-mixed", "16": "16-mixed"}


def _cast(data: Any, dtype: torch.dtype) -> Any:
    def cast_one(value: Tensor | Batch) -> Tensor | Batch:
        if isinstance(value, Batch):
            return value.to(dtype)
        return value.to(dtype) if value.is_floating_point() else value

    return apply_to_collection(data, dtype=(Tensor, Batch), function=cast_one)
