"""From initial fields to trajectories without Lightning: `Surrogate.from_checkpoint(path).predict(...)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apps.pde.batch import DatasetFacts, FieldFacts, check_grid
from core.errors import UserError, did_you_mean
from core.inference.predictor import Predictor
from core.inference.rollout import by_member, is_timed

__all__ = ["ROLLOUTS", "Surrogate"]

ROLLOUTS = ("auto", "direct", "autoregressive")


class Surrogate(Predictor[FieldFacts]):
    """Trained networks with everything they need to continue fields in physical units.

    Args:
        networks: One, or the members of an ensemble; each has `advance` (see `core.inference.rollout`).
        facts: Of each.
        **settings: See `core.inference.predictor.Predictor`; `batch_size` counts trajectories in a call.

    Raises:
        UserError: If the members do not take and give the same fields.
    """

    facts_type = FieldFacts

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        facts: FieldFacts | Sequence[FieldFacts],
        *,
        batch_size: int = 16,
        **settings: Any,
    ) -> None:
        super().__init__(networks, facts, batch_size=batch_size, **settings)
        first = self.facts
        for name, one in zip(self.names, self.all_facts, strict=True):
            for key in ("inputs", "outputs", "frames", "windows", "parameters"):
                if getattr(one, key) != getattr(first, key):
                    raise UserError(
                        f"{name} has {key} {getattr(one, key)} and {self.name} has {getattr(first, key)}; an "
                        "ensemble needs checkpoints trained on the same fields"
                    )
        self.inputs, self.outputs, self.frames = list(first.inputs), list(first.outputs), first.frames
        self.steady = first.windows == "steady"
        self.timed = all(is_timed(network) for network in self.networks)
        self.parameters = list(first.parameters)
        # A checkpoint may itself hold an ensemble.
        self.members = sum(len(getattr(network, "members", [network])) for network in self.networks)

    def dataset(self, name: str | None = None) -> str:
        """Return the data set whose scaling is used: `name`, or the only one.

        Raises:
            UserError: If it is unknown, or there are several and none is named.
        """
        known = [one.name for one in self.facts.datasets]
        for facts in self.all_facts[1:]:
            own = [one.name for one in facts.datasets]
            known = [one for one in known if one in own]
        if name is None and len(known) == 1:
            return known[0]
        if name is None:
            raise UserError(f"the network was trained on {', '.join(known)}; choose one with --dataset")
        if name not in known:
            raise UserError(
                f"the network was not trained on '{name}'{did_you_mean(name, known)}; known: "
                f"{', '.join(known)}"
            )
        return name

    def constants(self, name: str, member: int = 0) -> DatasetFacts:
        """Return the facts of the data set `name`."""
        return next(one for one in self.all_facts[member].datasets if one.name == name)

    def step(self, name: str) -> float:
        """Return the physical time of one step of a rollout."""
        dataset = self.constants(name)
        return dataset.spacing * dataset.step

    def reach(self, name: str) -> float:
        """Return the longest physical lead time that every member was trained for."""
        every = [self.constants(name, member) for member in range(len(self.networks))]
        return min(one.spacing * float(one.reach or one.time_constant) for one in every)

    def way(self, rollout: str = "auto") -> str:
        """Return `direct` or `autoregressive`.

        Raises:
            UserError: If the networks cannot be rolled out so.
        """
        if rollout not in ROLLOUTS:
            raise UserError(
                f"--rollout is '{rollout}'{did_you_mean(rollout, ROLLOUTS)}; choose from "
                f"{', '.join(ROLLOUTS)}"
            )
        if rollout == "auto":
            return "direct" if self.timed or self.steady else "autoregressive"
        if rollout == "direct" and not (self.timed or self.steady):
            raise UserError(
                "the network takes no lead time, so it has no direct rollout; leave --rollout out"
            )
        if rollout == "autoregressive" and (
            self.steady or any(one not in self.inputs for one in self.outputs)
        ):
            raise UserError("the network's output is not its input, so it cannot be fed back; use direct")
        return rollout

    def steps(self, name: str, way: str) -> int:
        """Return the steps of a rollout as long as the training data; direct ones stay within `reach`."""
        facts = self.constants(name)
        whole = max(1, (len(facts.times) - 1) // facts.step - (self.frames - 1))
        return (
            whole
            if way == "autoregressive"
            else max(1, min(whole, round(self.reach(name) / self.step(name))))
        )

    def check_times(self, times: Sequence[float], name: str, way: str) -> None:
        """Refuse lead times that the network was not trained for.

        Args:
            times: Physical times after the start, rising.
            name: Of the data set.
            way: `direct` or `autoregressive`.

        Raises:
            UserError: If one is too long for a single call, or between the steps of a network without time.
        """
        if self.steady:
            return
        gaps = np.diff([0.0, *times])
        if not len(times) or not np.isfinite(gaps).all() or (gaps <= 0).any():
            raise UserError("times must be positive and rise; they count from the initial state")
        step, reach = self.step(name), self.reach(name)
        if self.timed:
            longest = max(times) if way == "direct" else float(max(gaps))
            if longest > reach * 1.0001:
                raise UserError(
                    f"a lead time of {longest:g} is beyond the {reach:g} that the network was trained for; "
                    "use --rollout autoregressive with steps that are shorter"
                )
            return
        if not np.allclose(gaps, step, rtol=1e-3):
            raise UserError(
                f"the network takes no lead time and goes {step:g} a step; times must be its multiples "
                f"{step:g}, {2 * step:g}, … without a gap (or give --steps)"
            )

    @torch.inference_mode()
    def predict(
        self,
        history: NDArray[np.float32],
        times: Sequence[float],
        *,
        dataset: str | None = None,
        rollout: str = "auto",
        parameters: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Continue fields.

        Args:
            history: `(N, frames, C, *space)` physical values of `inputs`.
            times: K physical times after the last frame; for steady problems one number that is not used.
            dataset: Whose scaling is used; default: the only one.
            rollout: One of `ROLLOUTS`.
            parameters: `(N, P)` numbers of the equation, in the order of `self.parameters`; needed where
                there are any.

        Returns:
            Mean `(N, K, C', *space)` of `outputs`, physical, and over the members of an ensemble the standard
            deviation (of a sample, M - 1), else None. A member's rollout is fed with its own output.

        Raises:
            UserError: If fields, grid or times do not fit the network.
        """
        name, way = self.dataset(dataset), self.way(rollout)
        self.check_shape(history.shape[1:])
        self.check_times(times, name, way)
        if self.parameters and (
            parameters is None or parameters.shape != (len(history), len(self.parameters))
        ):
            raise UserError(
                f"the network takes {', '.join(self.parameters)} of the equation; give `parameters`, one row "
                f"a trajectory ({len(history)} x {len(self.parameters)})"
            )
        batches = []
        for first in range(0, len(history), self.batch_size):
            rows = slice(first, first + self.batch_size)
            numbers = (
                torch.from_numpy(parameters[rows]) if self.parameters and parameters is not None else None
            )
            batches.append(self._batch(torch.from_numpy(history[rows]), times, name, way, numbers))
        mean = np.concatenate([mean for mean, _ in batches])
        return mean, np.concatenate([std for _, std in batches]) if self.members > 1 else None

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse a history `(frames, C, *space)` that does not fit.

        Raises:
            UserError: Naming both values.
        """
        if tuple(shape[:2]) != (self.frames, len(self.inputs)):
            raise UserError(
                f"the network takes {self.frames} frames of {len(self.inputs)} fields and the data has "
                f"{shape[0]} of {shape[1]}"
            )
        space = list(shape[2:])
        trained = list(self.facts.space)
        if len(space) != len(trained):
            raise UserError(
                f"the network was trained on {len(trained)} axes of space and the data has {len(space)}"
            )
        if self.facts.datasets[0].is_series:  # any number of windows
            space = [size % one or one for size, one in zip(space, trained, strict=True)]
        for network in self.networks:
            advice = "give fields on that grid, or --resolution to keep every k-th point of a finer one"
            check_grid(network, space, advice)

    def _batch(
        self, history: Tensor, times: Sequence[float], name: str, way: str, parameters: Tensor | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        axes = (1,) * (history.ndim - 3)
        members = []
        for member, network in enumerate(self.networks):
            facts = self.constants(name, member)
            mean, std, out_mean, out_std = (
                torch.tensor(getattr(facts, key), dtype=torch.float32, device=self.device).view(-1, *axes)
                for key in ("mean", "std", "out_mean", "out_std")
            )
            unit = facts.spacing * facts.time_constant
            leads = [1.0] if self.steady else [time / unit for time in times]
            lead = torch.tensor(leads, dtype=torch.float32, device=self.device).expand(len(history), -1)
            scaled = (history.to(self.device) - mean) / std
            feedback = [self.inputs.index(one) for one in self.outputs] if way != "direct" else None
            numbers = None if parameters is None else parameters.to(self.device)
            out = by_member(network, scaled, lead, way=way, feedback=feedback, parameters=numbers)
            members.append((out.float() * out_std + out_mean).cpu())
        stacked = torch.cat(members)
        spread = stacked.std(dim=0) if len(stacked) > 1 else torch.zeros_like(stacked[0])
        return stacked.mean(dim=0).numpy(), spread.numpy()
