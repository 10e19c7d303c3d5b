"""Partial differential equations: Poseidon, SineNet, GPhyT, FNO and DeepONet on simulated fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PREDICTOR = "apps.pde.predict.model:Surrogate"
"""What a checkpoint of this domain becomes in Python (`domainfm.load`)."""

PREDICT_EXAMPLE = "--data.path initial.nc --out trajectory.nc"
"""Options of `predict` that the end of a `fit` proposes."""

VERBS = {"predict": "apps.pde.predict.command:main", "efficiency": "apps.pde:efficiency"}
"""What `dfm pde` does in its own way: files of initial states in and trajectories out; error against the
number of training trajectories.
"""

INHERITED = ("frames", "inputs", "outputs")
"""Values of the data that a recipe takes over from its parent's run, because the network is bound to them."""

FORMER = ("root",)
"""Options of the data that older checkpoints hold; where they say nothing they are passed over."""

GENERATE = "apps.pde.simulation.command:main"
"""What `dfm data generate pde/<family>` runs."""

_ABOUT = (
    "card",
    "generate",
    "mixture",
    "layout",
    "axes",
    "val_trajectories",
    "test_trajectories",
    "test.path",
    "prepare.time_constant",
)


def efficiency(argv: Sequence[str]) -> int:
    """Run `dfm pde efficiency` with the words after it, and return the exit code."""
    from core.cli.efficiency import Study, main

    metrics = {"relative_l1": "%", "relative_l1_mean": "%", "relative_l2": "", "vrmse": ""}
    return main(argv, Study(domain="pde", amount="trajectories", metrics=metrics))


def about_data(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values that a config says of its own data, which `--data.path` makes void.

    Names of fields are among them where the network is told to take another number of channels. Splits of a
    config that itself names a file without a card are the user's, and stay.
    """
    data = (config.get("data") or {}).get("init_args") or {}
    return (*(() if data.get("path") and not data.get("card") else _ABOUT), *unbound(config))


def unbound(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which of `inputs` and `outputs` name fields that the config's network is not built for."""
    network = ((config.get("model") or {}).get("init_args") or {}).get("network") or {}
    arguments = (network.get("init_args") or {}) if isinstance(network, Mapping) else {}
    fields = (config.get("data") or {}).get("init_args") or {}
    return tuple(
        names
        for names, channels in (("inputs", "in_channels"), ("outputs", "out_channels"))
        if channels in arguments and fields.get(names) and len(fields[names]) != int(arguments[channels])
    )
