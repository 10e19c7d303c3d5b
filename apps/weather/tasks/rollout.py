"""Roll-out fine-tuning with a replay buffer: long forecasts without gradients through all their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset

from apps.weather.batch import States
from apps.weather.models.forecast import learnt, next_batch
from apps.weather.tasks.forecasting import WeatherForecasting
from core.data.replay import Replay, ReplayBatch, ReplayBatches, ReplaySet
from core.data.sampler import ResumableSampler
from core.errors import UserError
from core.metrics.sums import gathered

__all__ = ["RollOut"]


class RollOut(WeatherForecasting):
    """Fine-tunes by the push-forward of Bodnar et al. 2025: a step advances one entry of the buffer, learns
    from the truth at that time, and puts its own prediction back.

    Gradients go through the last step only. The buffer lives in the memory of each process and is saved with
    every checkpoint, so that a resumed run draws what the unbroken one would. What trains is named by
    `adaptation`, such as `HeadOnly` with `['*.lora_*']` for the corrections by roll-out step.

    Args:
        network: See `WeatherForecasting`.
        replay: The buffer.
        task: See `WeatherForecasting`.
    """

    def __init__(self, network: nn.Module, *, replay: Replay | None = None, **task: Any) -> None:
        super().__init__(network, **task)
        self.replay = Replay() if replay is None else replay
        self._entries: dict[int, States] = {}  # normalised, on the CPU

    def setup(self, stage: str) -> None:
        """Take the data's facts, and have the data module follow the buffer's plan."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or data is None:
            return
        if not hasattr(data, "plan"):
            raise UserError("roll-out training needs one of the suite's data modules")

        def plan(dataset: Dataset, sampler: ResumableSampler) -> tuple[Dataset, BatchSampler]:
            batches = ReplayBatches(
                sampler,
                sampler.batch_size,
                replay=self.replay,
                reach=dataset.reach,  # type: ignore[attr-defined]
                hours=self.facts.step,
            )
            return ReplaySet(dataset), batches

        data.plan = plan

    def teardown(self, stage: str) -> None:
        """Leave the data module as it was."""
        if stage == "fit" and getattr(self.trainer, "datamodule", None) is not None:
            self.trainer.datamodule.plan = None  # type: ignore[attr-defined]

    def training_step(self, batch: ReplayBatch, batch_idx: int) -> Tensor:  # type: ignore[override]
        """Return the loss of the drawn entry's next state."""
        step = batch.step
        if step.fresh is not None:
            assert batch.fresh is not None
            fresh = learnt(self.network, batch.fresh, self.scaling)
            self._entries[step.fresh[0]] = fresh.inputs.to("cpu")
        scaled = learnt(self.network, batch.truth, self.scaling)
        entry = replace(scaled, inputs=self._entries[step.drawn].to(self.device, non_blocking=True))
        state = self.network.advance(entry)  # type: ignore[operator]
        assert scaled.targets is not None
        error = self.error(state, scaled.targets, scaled)
        if not error.requires_grad:  # what trains has no part in this step, as corrections from the second on
            error = error + sum(p.sum() * 0.0 for p in self.network.parameters() if p.requires_grad)
        loss = self.weigh(error, len(scaled))
        if step.added is not None:
            detached = States(state.surface.detach(), state.atmospheric.detach())
            self._entries[step.added] = next_batch(entry, detached).inputs.to("cpu")
        for number in step.dropped:
            del self._entries[number]
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(scaled), prog_bar=True)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the buffers of all processes."""
        super().on_save_checkpoint(checkpoint)
        own = {number: (state.surface, state.atmospheric) for number, state in self._entries.items()}
        checkpoint["replay"] = gathered(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up this process's buffer."""
        super().on_load_checkpoint(checkpoint)
        held: list[Mapping[int, Any]] = checkpoint.get("replay") or []
        if self._trainer is None or self.trainer.state.fn != "fit" or not held:
            return
        if len(held) != self.trainer.world_size:
            raise UserError(
                f"the checkpoint holds the replay buffers of {len(held)} processes and this run has "
                f"{self.trainer.world_size}; resume with as many, or start anew with --model.weights"
            )
        self._entries = {
            number: States(*tensors) for number, tensors in held[self.trainer.global_rank].items()
        }
