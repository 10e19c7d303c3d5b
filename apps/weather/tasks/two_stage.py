"""The implicit two-stage training of Met²Net (arXiv 2507.17189): in each step the encoders and decoders learn
to rebuild the future through a translator that stands still, and the translator to forecast their latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.weather.batch import WeatherBatch, WeatherFacts
from apps.weather.models.translation.network import Met2Net
from apps.weather.tasks.forecasting import WeatherTask
from core.errors import UserError

__all__ = ["TwoStage"]


class TwoStage(WeatherTask):
    """Trains Met²Net on windows of as many states out as in.

    `train_loss` is the sum of both stages' losses; `val_loss` the mean squared error of the forecast, in
    normalised units (of anomalies where the network works on them). An evaluation changes nothing.

    Args:
        network: Forecasts `horizon` states at once.
        reference_gradients: Whether the averaged translator is moved before the backward pass, as in the
            published code, which spoils the first stage's gradients; otherwise after it.
        blending: Whether the windows of a batch are mixed in pairs, `cos φ · one + sin φ · other` with any φ
            for each, as anomalies of a short record may be: what is nearly linear in them is kept, and
            no window is seen twice. Published runs have none.
        task: See `WeatherTask`.
    """

    network: Met2Net

    def __init__(
        self,
        network: Met2Net,
        *,
        reference_gradients: bool = False,
        blending: bool = False,
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        if not hasattr(network, "two_stage"):
            raise UserError(f"{type(network).__name__} has no two stages to train; take Met2Net")
        self.reference_gradients, self.blending = reference_gradients, blending

    def check_facts(self, facts: WeatherFacts) -> None:
        """Refuse fields that do not fit the network.

        Raises:
            UserError: Naming both values.
        """
        network, names = self.network, facts.variables.names
        if network.fields != len(names):
            raise UserError(
                f"the network's fields are {network.fields} and the data has {len(names)} "
                f"({', '.join(names)}); set model.network.fields={len(names)}, or choose by data.variables"
            )
        if facts.target_variables.names != names:
            raise UserError("Met²Net forecasts the fields that go in; leave data.targets out")
        if network.history != facts.history:
            raise UserError(
                f"the network takes {network.history} states and data.history is {facts.history}; give "
                f"--data.history={network.history}"
            )
        grid, patch = (len(facts.latitude), len(facts.longitude)), network.patch
        if grid[0] % patch or grid[1] % patch:
            raise UserError(
                f"the grid has {grid[0]} x {grid[1]} points and the network halves it to 1/{patch}; give "
                f"--data.patch={patch}, which crops the grid"
            )
        if network.cycle is not None and tuple(network.cycle.mean.shape[2:]) != grid:
            raise UserError(
                f"the network's daily cycle has {tuple(network.cycle.mean.shape[2:])} points and the grid "
                f"{grid}; set model.network.cycle_grid to [{grid[0]}, {grid[1]}]"
            )

    def on_fit_start(self) -> None:
        """Count the mean daily cycle of the training times, if the network works on anomalies of it."""
        if self.network.cycle is not None:
            self.network.cycle.learn(self._training_states())

    def flops_per_sample(self) -> float:
        """Return the FLOPs of a training step per sample, both stages; MFU is made of it."""
        from core.tracking.flops import count_flops

        batch = self.trainer.datamodule.train_set().__getitems__([(0, 0)]).to(self.device)  # type: ignore[attr-defined]
        return float(count_flops(_Stages(self.network), dict(zip("xy", self._windows(batch), strict=True))))

    def loss(self, batch: WeatherBatch) -> Tensor:
        """Return the sum of both stages' losses."""
        x, y = self._windows(batch)
        if self.blending:
            angle = 2 * torch.pi * torch.rand(len(x), 1, 1, 1, 1, device=x.device)
            order = torch.randperm(len(x), device=x.device)
            x, y = (angle.cos() * part + angle.sin() * part[order] for part in (x, y))
        return self.network.two_stage(x, y, reference_gradients=self.reference_gradients).total

    def training_step(self, batch: WeatherBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of all processes' samples."""
        loss = self.weigh(self.loss(batch), len(batch))
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def on_after_backward(self) -> None:
        """Let the averaged translator follow the trained one."""
        super().on_after_backward()
        if not self.reference_gradients:
            self.network.follow()

    def validation_step(self, batch: WeatherBatch, batch_idx: int) -> None:
        """Log the mean squared error of the forecast."""
        x, y = self._windows(batch)
        self.log_scalars({"val_loss": F.mse_loss(self.network(x), y)}, batch_size=len(batch), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Write what every task writes, and print the errors that tables of this field quote."""
        super().on_test_epoch_end()
        assert self._scores is not None
        rows = self._scores.unweighted.table()
        self.write_and_say("unweighted", rows)
        own = {f"{row['field']}_mse": row["mse"] for row in rows if row["model"] == self.title}
        self.log_results(own, stage="test")

    def _windows(self, batch: WeatherBatch) -> tuple[Tensor, Tensor]:
        """Return past and future `(B, T, V, H, W)` as the network takes them."""
        network, scaled = self.network, self.scaling.normalised(batch)
        targets = scaled.targets
        if targets is None or targets.steps < network.horizon:
            steps = 0 if targets is None else targets.steps
            raise UserError(
                f"Met²Net forecasts {network.horizon} states and the windows have {steps}; give "
                f"--data.horizon={network.horizon}"
            )
        x = network.joined(scaled.inputs, scaled, first=1 - network.history)
        return x, network.joined(targets.at(slice(network.horizon)), scaled, first=1)

    def _training_states(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield times `(N,)` and normalised fields `(N, V, H, W)` of the training windows."""
        windows = self.trainer.datamodule.train_set()  # type: ignore[attr-defined]
        for start in range(0, len(windows), 16):
            rows = range(start, min(start + 16, len(windows)))
            scaled = self.scaling.normalised(windows.__getitems__([(0, row) for row in rows]))
            assert scaled.targets is not None
            states = scaled.inputs.then(scaled.targets)
            steps = torch.arange(1 - scaled.inputs.steps, scaled.targets.steps + 1)
            times = scaled.time[:, None] + steps * round(scaled.step * 3600)
            yield times.flatten(), states.fields.flatten(0, 1)


class _Stages(nn.Module):
    """Lets the FLOP counter call both stages."""

    def __init__(self, network: Met2Net) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.network.two_stage(x, y).total
