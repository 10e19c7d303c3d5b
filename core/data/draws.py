"""What a task draws for a batch: numbers that are a function of its scenes, not of how they are dealt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.data.randomness import key, uniforms

__all__ = ["draws"]


def draws(task: Any, batch: Any, purpose: str, *counts: int) -> tuple[Tensor, ...]:
    """Return random numbers `(B, count)` in [0, 1) for each count.

    In training they depend on the data's seed, the epoch and a scene's name alone, so a resumed run draws
    what an unbroken one does, and so does any number of processes. In an evaluation they depend on the name
    alone. Windows of one scene (`data.repeats`) thus draw alike in an epoch. Batches without names draw from
    torch's own stream in training, and by row otherwise.

    Args:
        task: A `LightningModule`, whose mode says whether this is training.
        batch: With `image` `(B, ...)`, and perhaps `names`.
        purpose: What the numbers are for.
        counts: Numbers for each scene.
    """
    size, device = len(batch.image), batch.image.device
    names = getattr(batch, "names", ())
    named = not isinstance(names, str) and len(names) == size
    if task.training and not named:
        return torch.rand(size, sum(counts), device=device).split(counts, dim=1)
    seed, epoch = 0, 0
    if task.training:
        seed, epoch = getattr(getattr(task._trainer, "datamodule", None), "seed", 0), task.current_epoch
    stage = "training" if task.training else "evaluation"
    rows = names if named else range(size)
    keys = torch.tensor([key(seed, epoch, row, f"{purpose} in {stage}") for row in rows])
    return uniforms(keys.to(device, non_blocking=True), sum(counts)).split(counts, dim=1)
