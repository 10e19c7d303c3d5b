"""Patches of fields to tokens, with one kernel for each variable, so that any of them may be absent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.weather.batch import level_text
from core.errors import UserError

__all__ = ["LevelPatches", "VariablePatches", "cut_fields", "joined_fields", "level_keys"]


def cut_fields(fields: Tensor, patch: int) -> Tensor:
    """Return patches `(B, L, C, V, T, P * P)` of fields `(B, T, V, C, H, W)`."""
    b, t, v, c, rows, columns = fields.shape
    split = fields.view(b, t, v, c, rows // patch, patch, columns // patch, patch)
    return split.permute(0, 4, 6, 3, 2, 1, 5, 7).reshape(b, -1, c, v, t, patch * patch)


def joined_fields(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Return fields `(B, V, C, H, W)` of patches `(B, L, C, V * P * P)` on a grid of patches `(h, w)`."""
    b, _, c, size = patches.shape
    split = patches.view(b, *grid, c, size // patch**2, patch, patch)
    return split.permute(0, 4, 3, 1, 5, 2, 6).reshape(b, -1, c, grid[0] * patch, grid[1] * patch)


class VariablePatches(nn.Module):
    """A linear map of each patch of each variable to `width` features, summed over the variables present.

    Args:
        names: Variables.
        width: Features D of a token.
        patch: Side P of a patch.
        history: Most states that go in.
    """

    def __init__(self, names: Sequence[str], width: int, *, patch: int, history: int) -> None:
        super().__init__()
        shape = (width, 1, history, patch, patch)
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.empty(shape)) for name in names})
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw kernels and bias as torch draws a convolution of one variable; the bias of none is zero."""
        nn.init.zeros_(self.bias)
        for weight in self.weights.values():
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def kernel(self, names: Sequence[str], history: int, *, constant: bool = False) -> Tensor:
        """Return `(D, V * T * P * P)` for T states of some variables, or `(D, V * P * P)` for constant ones.

        States that are missing are the latest: the kernels of the oldest are always used, as the released
        networks do.
        """
        kernels = torch.cat([self.weights[name] for name in names], 1)[:, :, :history]
        return (kernels.sum(2) if constant else kernels).flatten(1)

    def forward(self, patches: Tensor, names: Sequence[str]) -> Tensor:
        """Map `(B, L, C, V, T, P * P)` of the variables `names` to tokens `(B, L, C, D)`."""
        return F.linear(patches.flatten(3), self.kernel(names, patches.shape[4]), self.bias)


class LevelPatches(nn.Module):
    """A `VariablePatches` for each pressure level."""

    def __init__(
        self, levels: Sequence[float], names: Sequence[str], width: int, *, patch: int, history: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                level_text(level): VariablePatches(names, width, patch=patch, history=history)
                for level in levels
            }
        )

    def forward(self, patches: Tensor, names: Sequence[str], levels: Sequence[float]) -> Tensor:
        """Map `(B, L, C, V, T, P * P)` on C `levels` to tokens `(B, L, C, D)`."""
        layers = [self.layers[key] for key in level_keys(self.layers, levels)]
        kernels = torch.stack([layer.kernel(names, patches.shape[4]) for layer in layers])
        bias = torch.stack([layer.bias for layer in layers])[:, None]
        rows = patches.flatten(3).flatten(0, 1).transpose(0, 1)  # B L C K -> C B*L K
        tokens = torch.baddbmm(bias, rows, kernels.transpose(1, 2))
        return tokens.transpose(0, 1).unflatten(0, patches.shape[:2])


def level_keys(layers: nn.ModuleDict, levels: Sequence[float]) -> list[str]:
    """Return the names of the layers of some pressure levels.

    Raises:
        UserError: If there is no layer for one of them.
    """
    keys = [level_text(level) for level in levels]
    if missing := [key for key in keys if key not in layers]:
        raise UserError(
            f"this network has layers for the levels {', '.join(layers)} hPa and none for "
            f"{', '.join(missing)}: choose other levels of the data, or add them to level_condition"
        )
    return keys
