"""Recorded cases of the schedules of data: curricula, kept tokens and the multigrid's stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.backbones.token_dropping import KeptTokens
from core.data.curriculum import Curriculum, FixedDiscrete, FixedLinear, FixedRoot
from core.data.multigrid import Multigrid
from core.errors import UserError

__all__ = ["CASES"]


def data_efficiency(case: Any) -> dict[str, Tensor]:
    """Return difficulties and kept tokens at the given steps, and the tokens all layers consumed by then."""
    steps = [int(step) for step in case.group("input")["steps"]]
    outputs = {
        f"output/curriculum_{name}": torch.tensor([curriculum(given).value(step) for step in steps])
        for name, given in (case.config.get("curriculum") or {}).items()
    }
    if given := case.config.get("random_ltd"):
        kept = kept_tokens(given)
        outputs["output/ltd_kept_tokens"] = torch.tensor([kept.value(step) for step in steps])
        layer_tokens = sum(kept.layer_tokens(step) for step in range(max(steps) + 1))
        outputs["output/ltd_consumed_layer_tokens"] = torch.tensor(given["global_batch_size"] * layer_tokens)
    return outputs


def curriculum(given: Mapping[str, Any]) -> Curriculum:
    """Build a curriculum from its official configuration."""
    kind, how = given["schedule_type"], given["schedule_config"]
    if kind == "fixed_discrete":
        return FixedDiscrete(difficulties=tuple(how["difficulty"]), until=tuple(how["max_step"]))
    ends = {"minimum": given["min_difficulty"], "maximum": given["max_difficulty"]}
    pace = {"steps": how["total_curriculum_step"], "multiple": how["difficulty_step"]}
    if kind == "fixed_linear":
        return FixedLinear(**ends, **pace)
    if kind == "fixed_root":
        return FixedRoot(**ends, **pace, degree=how["root_degree"])
    raise UserError(f"the curriculum '{kind}' is unknown; known are fixed_discrete, fixed_linear, fixed_root")


def kept_tokens(given: Mapping[str, Any]) -> KeptTokens:
    """Build the schedule of random layer-wise token dropping from its official configuration."""
    schedule = given["random_ltd_schedule"]
    how = schedule["schedule_config"]
    return KeptTokens(
        minimum=schedule["min_value"],
        maximum=schedule["max_value"],
        steps=how["require_steps"],
        multiple=how["seq_per_step"],
        layers=given["total_layer_num"],
        dropping=given["random_ltd_layer_num"],
    )


def multigrid(case: Any) -> dict[str, Tensor]:
    """Return the long cycle's stages and the rates between its milestones."""
    given = case.config
    more: dict[str, Any] = {}
    if "long_cycle_factors" in given:
        more["long_factors"] = tuple((t, s) for t, s in given["long_cycle_factors"])
    if "short_cycle_factors" in given:
        more["short_factors"] = tuple(given["short_cycle_factors"])
    grid = Multigrid(
        frames=given["num_frames"],
        crop=given["crop"],
        borders=tuple(given["lr_steps"][1:]),
        epochs=given["max_epoch"],
        gamma=given["gamma"],
        epoch_factor=given.get("epoch_factor", 1.5),
        long_cycle=given.get("long_cycle", True),
        short_cycle=given.get("short_cycle", True),
        **more,
    )
    stages = grid.stages
    return {
        "output/lr_stage": torch.tensor([stage.decays for stage in stages]),
        "output/batch_factor_frames_crop": torch.tensor([(s.batch, s.frames, s.crop) for s in stages]),
        "output/until_epoch": torch.tensor([stage.until for stage in stages]),
        "output/lr_milestones": torch.tensor([begin for begin, _ in grid.rates]),
        "output/relative_lr": torch.tensor([rate for _, rate in grid.rates], dtype=torch.float64),
    }


CASES: dict[tuple[str, str], Callable[[Any], dict[str, Tensor]]] = {
    ("recipes", "data_efficiency"): data_efficiency,
    ("recipes", "multigrid"): multigrid,
}
