"""Recorded cases of the schedules of data: curricula, kept tokens and the multigrid's stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.backbones.token_dropping import KeptTokens
from core.data.curriculum import Curriculum, FixedDiscrete, FixedRoot
from core.data.multigrid import Multigrid
from core.errors import UserError

__all__ = ["CASES"]


def data_efficiency(case: Any) -> dict[str, Tensor]:
    """Return difficulties and kept tokens at the given steps, and the tokens all layers consumed by then."""
    steps = [int(step) for step in case.group("input")["steps"]]
    outputs = {
        f"output/curriculum_{name}": torch.tensor([curriculum(settings).value(step) for step in steps])
        for name, settings in (case.config.get("curriculum") or {}).items()
    }
    if settings := case.config.get("random_ltd"):
        kept = kept_tokens(settings)
        outputs["output/ltd_kept_tokens"] = torch.tensor([kept.value(step) for step in steps])
        consumed = (
            sum(kept.layer_tokens(step) for step in range(max(steps) + 1)) * settings["global_batch_size"]
        )
        outputs["output/ltd_consumed_layer_tokens"] = torch.tensor(consumed)
    return outputs


def curriculum(settings: Mapping[str, Any]) -> Curriculum:
    """Build a curriculum from its official configuration."""
    kind, how = settings["schedule_type"], settings["schedule_config"]
    if kind == "fixed_discrete":
        return FixedDiscrete(tuple(how["difficulty"]), tuple(how["max_step"]))
    if kind in ("fixed_linear", "fixed_root"):
        ends = settings["min_difficulty"], settings["max_difficulty"]
        degree = 1 if kind == "fixed_linear" else how["root_degree"]
        return FixedRoot(*ends, how["total_curriculum_step"], how["difficulty_step"], degree)
    raise UserError(f"the curriculum '{kind}' is unknown; known are fixed_discrete, fixed_linear, fixed_root")


def kept_tokens(settings: Mapping[str, Any]) -> KeptTokens:
    """Build the schedule of random layer-wise token dropping from its official configuration."""
    schedule = settings["random_ltd_schedule"]
    how = schedule["schedule_config"]
    return KeptTokens(
        schedule["min_value"], schedule["max_value"], how["require_steps"], how["seq_per_step"],
        layers=settings["total_layer_num"], dropping=settings["random_ltd_layer_num"],
    )  # fmt: skip


def multigrid(case: Any) -> dict[str, Tensor]:
    """Return the long cycle's stages and the rates between its milestones."""
    given = case.config
    named = {"num_frames": "frames", "max_epoch": "epochs", "long_cycle_factors": "long_factors"}
    named |= {"short_cycle_factors": "short_factors"}
    own = ("crop", "gamma", "epoch_factor", "long_cycle", "short_cycle", *named)
    options = {named.get(name, name): given[name] for name in own if name in given}
    grid = Multigrid(borders=tuple(given["lr_steps"][1:]), **options)
    stages = grid.stages
    return {
        "output/lr_stage": torch.tensor([stage.decays for stage in stages]),
        "output/batch_factor_frames_crop": torch.tensor(
            [(stage.base.batch, stage.base.frames, stage.base.crop) for stage in stages]
        ),
        "output/until_epoch": torch.tensor([stage.until for stage in stages]),
        "output/lr_milestones": torch.tensor([begin for begin, _ in grid.rates]),
        "output/relative_lr": torch.tensor([rate for _, rate in grid.rates], dtype=torch.float64),
    }


CASES: dict[tuple[str, str], Callable[[Any], dict[str, Tensor]]] = {
    ("recipes", "data_efficiency"): data_efficiency,
    ("recipes", "multigrid"): multigrid,
}
