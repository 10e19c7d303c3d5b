"""What scOT refuses, each in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from core.errors import UserError

if TYPE_CHECKING:
    from apps.pde.models.scot.network import ScOT

__all__ = ["check_fields", "check_settings"]


def check_settings(given: Mapping[str, Any]) -> None:
    """Check the constructor's arguments.

    Raises:
        UserError: If they do not fit each other.
    """
    depths, heads, skips = given["depths"], given["heads"], given["skips"]
    patch, resolution, width = given["patch"], given["resolution"], given["width"]
    if not len(depths) == len(heads) == len(skips) > 0:
        raise UserError(
            f"scOT needs one of depths, heads and skips for each level; there are {len(depths)}, "
            f"{len(heads)} and {len(skips)}"
        )
    if not 1 <= patch <= resolution:
        raise UserError(f"scOT's patch is {patch}; it must be from 1 to the resolution, {resolution}")
    coarsest = (resolution // patch) >> (len(depths) - 1)
    if coarsest < 2:
        raise UserError(
            f"scOT's coarsest grid would be {coarsest}x{coarsest} at resolution {resolution}, patch {patch} "
            f"and {len(depths)} levels; it must be at least 2x2: use fewer levels or a smaller patch"
        )
    if given["window"] < 2:
        raise UserError(f"scOT's window is {given['window']}; it must be at least 2")
    for level, (depth, count, skip) in enumerate(zip(depths, heads, skips, strict=True)):
        if depth < 1 or skip < 0:
            raise UserError(
                f"level {level} of scOT has depth {depth} and {skip} skip blocks; use 1 and 0 or more"
            )
        if count < 1 or (width << level) % count:
            raise UserError(
                f"level {level} of scOT has {width << level} channels, which {count} heads do not divide"
            )
    if given["residual_blocks"] not in ("convnext", "resnet"):
        raise UserError(f"residual_blocks is '{given['residual_blocks']}'; it must be convnext or resnet")
    if given["learn_residual"] and given["in_channels"] < given["out_channels"]:
        raise UserError(
            f"learn_residual adds the prediction to the given fields, of which there are "
            f"{given['in_channels']} for {given['out_channels']} predicted ones; predict fewer or turn it off"
        )
    for name in ("drop_path", "dropout", "attention_dropout"):
        if not 0.0 <= given[name] < 1.0:
            raise UserError(f"{name} is {given[name]}; a rate must lie in [0, 1)")


def check_fields(network: ScOT, fields: Tensor, time: Tensor | None, masked: Tensor | None) -> None:
    """Check what the network is called with.

    Raises:
        UserError: If a shape does not fit, or the time is missing.
    """
    if fields.dim() != 4 or fields.shape[1] != network.in_channels:
        raise UserError(
            f"scOT was given fields {tuple(fields.shape)}; it takes (batch, {network.in_channels} channels, "
            "side, side)"
        )
    if fields.shape[2] != fields.shape[3]:
        raise UserError(
            f"scOT was given a grid of {fields.shape[2]}x{fields.shape[3]} points; it takes square grids "
            "only: crop, pad or resample the fields"
        )
    if network.conditioned and time is None:
        raise UserError(
            "this scOT is conditioned on the lead time: give one number for each sample (1.0 if steady)"
        )
    if network.conditioned and time is not None and time.numel() != fields.shape[0]:
        raise UserError(
            f"scOT was given {time.numel()} lead times for {fields.shape[0]} samples; give one for each"
        )
    if masked is not None and not network.settings["mask_token"]:
        raise UserError("this scOT has no mask token; build it with mask_token to hide tokens from it")
