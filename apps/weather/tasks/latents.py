"""Latents of a frozen backbone kept on disk: a second epoch reads what the first one computed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from apps.weather.batch import WeatherBatch
from core.errors import UserError
from core.files import replacing

__all__ = ["KeptLatents", "weights_digest"]

_PRECISIONS = ("float32", "float16")


@dataclass(frozen=True)
class KeptLatents:
    """A folder of latents, one file a sample, named by all that they depend on.

    Samples are told apart by their values, and the backbone by its weights, so that other data, statistics,
    regions or weights never read what is not theirs.

    Attributes:
        folder: Where they lie; files of other runs stay as they are.
        precision: `float32`, or `float16` for half the space.

    Raises:
        UserError: If the precision is unknown.
    """

    folder: str
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise UserError(f"latents.precision is '{self.precision}'; it must be {' or '.join(_PRECISIONS)}")

    def of(self, batch: WeatherBatch, backbone: str, compute: Callable[[WeatherBatch], Tensor]) -> Tensor:
        """Return the latents `(B, L, D)` that `compute` gives for a normalised batch; what is kept is read.

        `backbone` is its digest, as `weights_digest` makes it.

        Raises:
            UserError: If the folder cannot be written.
        """
        files = self._files(batch, backbone)
        held = [_read(file) for file in files]
        lacking = [row for row, latents in enumerate(held) if latents is None]
        if lacking:
            part = batch if len(lacking) == len(files) else batch.select(lacking)
            fresh = compute(part).to(getattr(torch, self.precision))
            for row, latents in zip(lacking, fresh.cpu(), strict=True):
                held[row] = latents
                self._write(files[row], latents)
            if part is batch:
                return fresh.float()
        return torch.stack(held).to(batch.inputs.surface.device, non_blocking=True).float()  # type: ignore[arg-type]

    def _files(self, batch: WeatherBatch, backbone: str) -> list[Path]:
        grid = (batch.grid.latitude.tobytes(), batch.grid.longitude.tobytes())
        setting = (backbone, self.precision, batch.variables, grid, batch.step, batch.rollout_step)
        fields = (batch.inputs.surface, batch.inputs.atmospheric, batch.static)
        sums = [batch.time[:, None], *(_bit_sums(one.flatten(2)) for one in fields)]
        names = [_digest((setting, row)) for row in torch.cat(sums, dim=1).tolist()]
        return [Path(self.folder).expanduser() / name[:2] / f"{name}.npy" for name in names]

    def _write(self, file: Path, latents: Tensor) -> None:
        try:
            with replacing(file) as temporary, open(temporary, "wb") as out:
                np.save(out, latents.numpy())
        except OSError as error:
            raise UserError(
                f"the latents cannot be kept in {self.folder} ({error.strerror or error}); give "
                "model.latents another folder, or leave it out"
            ) from error


def weights_digest(network: nn.Module) -> str:
    """Return hexadecimal digits of all weights of a network, the same on every device."""
    state = network.state_dict()
    sums = torch.cat([_bit_sums(one.detach().reshape(1, 1, -1)) for one in state.values()])
    return _digest((type(network).__name__, list(state), sums.tolist()))


def _bit_sums(values: Tensor) -> Tensor:
    """Return sums `(B, N)` over `(B, N, M)` of the bits of float32: whole numbers, so that no order of
    summation changes them.
    """
    return values.float().contiguous().view(torch.int32).sum(-1, dtype=torch.int64)


def _digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()


def _read(file: Path) -> Tensor | None:
    """Return an array of a whole file; None where there is none."""
    try:
        return torch.from_numpy(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
