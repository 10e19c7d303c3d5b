"""Partial differential equations: Poseidon, SineNet, GPhyT, FNO and DeepONet on simulated fields."""

from __future__ import annotations

VERBS = {"predict": "apps.pde.predict:main", "efficiency": "apps.pde.efficiency:main"}
"""What `dfm pde` does in its own way: files of initial states in and trajectories out; error against the
number of training trajectories.
"""

INHERITED = ("frames",)
"""Values of the data that a recipe takes over from its parent's run, because the network is bound to them."""

GENERATE = "apps.pde.generate_command:main"
"""What `dfm data generate pde/<family>` runs."""
