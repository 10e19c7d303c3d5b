"""The operator task: fields in, later fields out; scored on whole trajectories beside what needs no
learning.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from apps.pde.batch import FieldBatch, FieldFacts, check_grid
from apps.pde.metrics.evaluation import Evaluation
from apps.pde.metrics.uncertainty import Uncertainty
from core.errors import UserError
from core.inference.rollout import by_member, is_timed, member_steps
from core.objectives.fields import GroupedRelative
from core.task import Task

__all__ = ["Operator"]

ROLLOUTS = ("auto", "direct", "autoregressive", "both")


class Operator(Task):
    """Trains a solution operator and scores its trajectories.

    Training and validation losses are the objective's, on normalised fields. `test` starts at each test
    trajectory's first frames, predicts all later ones, and writes `results.csv`, `by_time.csv`,
    `by_field.csv` and, on a periodic domain, `spectra.csv` and `conserved.csv` (with a gas's energy where
    its ratio of specific heats is known); the headline `test_relative_l1` is the median over trajectories of
    the relative L1 error at the last time, averaged over the fields of interest, in percent (Poseidon). Of
    an ensemble every member goes its own way, their mean is scored, and `uncertainty.csv` says what their
    spread is worth (`apps.pde.metrics.uncertainty`).

    Args:
        network: Has `advance(history, time)`, `frames`, `in_channels` and `out_channels` (see
            `core.inference.rollout`).
        objective: What is minimised; None is Poseidon's relative L1 error by group.
        rollout: How `test` reaches later times: `direct` (one call a time), `autoregressive`, `both`, or
            `auto`: direct for a network that takes a lead time, else autoregressive.
        detach: Whether several label frames are trained with feedback that carries no gradient.
        examples: Trajectories drawn by `test`.
        movie: Whether `test` writes the first example as a moving picture.
        task: See `core.task.Task`.

    Raises:
        UserError: If `rollout` is unknown, or the network lacks what is needed.
    """

    facts_type = FieldFacts

    def __init__(
        self,
        network: nn.Module,
        *,
        objective: nn.Module | None = None,
        rollout: str = "auto",
        detach: bool = True,
        examples: int = 2,
        movie: bool = True,
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        if rollout not in ROLLOUTS:
            raise UserError(f"model.rollout is '{rollout}'; it must be one of {', '.join(ROLLOUTS)}")
        if not hasattr(network, "advance"):
            raise UserError(f"{type(network).__name__} cannot advance fields; choose one of apps.pde.models")
        self.objective = GroupedRelative() if objective is None else objective
        self.rollout, self.detach, self.examples, self.movie = rollout, detach, examples, movie
        self._groups: list[int] | None = None
        self._feedback: list[int] | None = None
        self._evaluation: Evaluation | None = None
        self._uncertainty: Uncertainty | None = None
        self._drawn: list[dict[str, Any]] = []

    def check_facts(self, facts: FieldFacts) -> None:
        """Refuse fields that do not fit the network.

        Raises:
            UserError: Naming both values.
        """
        network = self.network
        for what, own, names in (
            ("in_channels", network.in_channels, facts.inputs),
            ("out_channels", network.out_channels, facts.outputs),
        ):
            if own != len(names):
                raise UserError(
                    f"the network's {what} is {own} and the data has {len(names)} ({', '.join(names)}); "
                    f"set model.network.{what}={len(names)}, and model.reinitialise for weights of other"
                    " fields"
                )
        if network.frames != facts.frames:
            raise UserError(
                f"the network takes {network.frames} frames and data.frames is {facts.frames}; "
                f"give --data.frames={network.frames}"
            )
        if getattr(network, "takes_parameters", False) and not facts.parameters:
            raise UserError(
                "the network takes a number of the equation and the batches carry none; set data.parameters"
                " to its name (the data's numbers: "
                f"{', '.join(facts.datasets[0].parameters) or 'none'}), or leave the"
                " network's parameter out"
            )
        check_grid(network, facts.space, "give the network that resolution, or --data.prepare.resolution")

    def setup(self, stage: str) -> None:
        """Take the data's facts, as every task does, and how outputs are grouped and fed back."""
        super().setup(stage)
        facts = self.facts
        self._groups = list(facts.groups)
        inputs = list(facts.inputs)
        places = [inputs.index(name) for name in facts.outputs if name in inputs]
        self._feedback = places if len(places) == len(facts.outputs) else None

    def flops_per_sample(self) -> float:
        """Return the FLOPs of a training step per sample, counted on the meta device; MFU is made of it."""
        from core.tracking.flops import count_flops

        data = self.trainer.datamodule  # type: ignore[attr-defined]
        batch = data.train_set().__getitems__([(0, 0)])
        calls = -(-batch.targets.shape[1] // getattr(self.network, "future", 1))
        inputs = {"history": batch.inputs, "time": batch.time[:, 0]}
        if batch.parameters is not None and getattr(self.network, "takes_parameters", False):
            inputs["parameters"] = batch.parameters
        return float(calls * count_flops(_Advance(self.network), inputs))

    def predict_frames(self, batch: FieldBatch, *, rollout: str | None = None) -> Tensor:
        """Return `(B, K, C', *space)`, normalised: all label times from the input frames; no label is looked
        at.
        """
        return self.predict_members(batch, rollout=rollout).mean(dim=0)

    def predict_members(self, batch: FieldBatch, *, rollout: str | None = None) -> Tensor:
        """Return `(M, B, K, C', *space)`, normalised: the rollout of every member of an ensemble; M is 1 for
        one network.
        """
        return by_member(
            self.network,
            batch.inputs,
            batch.time,
            way=self._way(rollout),
            feedback=self._feedback,
            parameters=batch.parameters,
        )

    def loss(self, batch: FieldBatch) -> Tensor:
        """Return the objective on a batch; several label frames are reached step by step, each counting
        alike, and so do the members of an ensemble.
        """
        total, done, wanted = torch.zeros((), device=batch.inputs.device), 0, batch.targets.shape[1]
        walk = member_steps(
            self.network,
            batch.inputs,
            batch.time,
            feedback=self._feedback,
            detach=self.detach,
            parameters=batch.parameters,
        )
        for members in walk:  # M B k C' *space
            size = members.shape[2]
            target = batch.targets[:, done : done + size]
            error = torch.stack([self._error(out, target, batch) for out in members]).mean()
            total, done = total + error * (size / wanted), done + size
        return total

    def training_step(self, batch: FieldBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of all processes' samples."""
        loss = self.weigh(self.loss(batch), len(batch))
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: FieldBatch, batch_idx: int) -> None:
        """Log the objective."""
        loss = self.loss(batch)
        self.log_scalars({"val_loss": loss}, batch_size=len(batch), sync_dist=True)

    def on_test_start(self) -> None:
        """Prepare the tables."""
        facts = self.facts
        self._evaluation = Evaluation(facts, device=self.device)
        self._uncertainty = Uncertainty(facts, device=self.device) if self._is_ensemble else None
        self._drawn = []

    def test_step(self, batch: FieldBatch, batch_idx: int) -> None:
        """Score the network and the baselines on the same trajectories."""
        evaluation = self._evaluation
        assert evaluation is not None
        ways = ("direct", "autoregressive") if self.rollout == "both" else (self._way(),)
        for way in ways:
            members = self.predict_members(batch, rollout=way).detach()
            prediction = members.mean(dim=0)
            name = self.title if len(ways) == 1 else f"{self.title} ({way})"
            evaluation.update(name, prediction, batch)
            if way == ways[0]:
                if self._uncertainty is not None:
                    self._uncertainty.update(members, batch)
                self._keep_examples(batch, prediction, members)
        evaluation.update_baselines(batch, feedback=self._feedback)

    def on_test_epoch_end(self) -> None:
        """Write the tables and figures, and log the network's own scores."""
        evaluation = self._evaluation
        assert evaluation is not None
        evaluation.gather()
        results = evaluation.results()
        own = [row for row in results if row["model"].startswith(self.title)]
        self.log_dict(evaluation.headline(own), rank_zero_only=True)
        self.write_table("results", results)
        for name, rows in evaluation.tables().items():
            self.write_table(name, rows)
        self.say(evaluation.text())
        if not all(isfinite(row["relative_l1"]) for row in own):
            self.say("a score of '-' is no number: a rollout diverged, or values are too large for float32")
        if self._uncertainty is not None:
            self._uncertainty.gather()
            rows = self._uncertainty.results()
            self.log_dict(self._uncertainty.headline(rows), rank_zero_only=True)
            self.write_table("uncertainty", rows)
            self.say(self._uncertainty.text(rows))
        if self.trainer.is_global_zero:
            self._draw(evaluation)

    def predict_step(self, batch: FieldBatch, batch_idx: int) -> Tensor:
        """Return `(B, K, C', *space)`, normalised."""
        return self.predict_frames(batch)

    def _way(self, rollout: str | None = None) -> str:
        wanted = rollout or self.rollout
        if wanted in ("auto", "both"):
            return "direct" if is_timed(self.network) else "autoregressive"
        if wanted == "direct" and not is_timed(self.network):
            raise UserError(
                f"{self.title} takes no lead time, so it has no direct rollout; set model.rollout to"
                " autoregressive"
            )
        return wanted

    def _error(self, prediction: Tensor, target: Tensor, batch: FieldBatch) -> Tensor:
        return self.objective(prediction, target, mask=batch.mask, groups=self._groups)

    def _draw(self, evaluation: Evaluation) -> None:
        from apps.pde.figures import drawings

        for name, figure in drawings(evaluation, self._drawn, title=self.title, spread=self._uncertainty):
            self.log_figure(name, figure)
        if self.movie and self._drawn and self._drawn[0]["truth"].shape[0] > 2:
            from apps.pde.figures import movie

            self.log_movie("rollout", movie(evaluation, self._drawn[0]))

    @property
    def _is_ensemble(self) -> bool:
        return hasattr(self.network, "members_advance")

    def _keep_examples(self, batch: FieldBatch, prediction: Tensor, members: Tensor) -> None:
        std = members.std(dim=0) if len(members) > 1 else None
        for row in range(len(batch)):
            if len(self._drawn) >= self.examples or not self.trainer.is_global_zero:
                return
            assert self._evaluation is not None
            self._drawn.append(self._evaluation.example(batch, prediction, row, std=std))


class _Advance(nn.Module):
    """Lets the FLOP counter call `advance`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, history: Tensor, time: Tensor, parameters: Tensor | None = None) -> Tensor:
        more = {} if parameters is None else {"parameters": parameters}
        return self.network.advance(history, time, **more)
