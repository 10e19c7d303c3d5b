"""Building a run's network: where weights are sharded, only the first process gives it memory."""

from __future__ import annotations

from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from core.strategies.launch import RankInfo

__all__ = ["bare_network", "spreads_weights"]


def spreads_weights(strategy: Any) -> bool:
    """Tell from the parsed `trainer.strategy` whether each process will hold only pieces of the weights."""
    if not isinstance(strategy, Namespace) or not str(strategy.get("class_path")).endswith("Mesh"):
        return False
    sizes = strategy.get("init_args") or Namespace()
    return any(sizes.get(axis, 1) != 1 for axis in ("shard", "tensor"))


def bare_network(config: Namespace, info: RankInfo | None) -> Namespace:
    """Return a parsed config in which the network stands built, on the meta device, if this process may.

    Parameters come from the first process in any case (`core.strategies.initialisation`), so the others need
    memory for their own pieces alone.

    Args:
        config: As parsed; it stays as it is.
        info: This process; None is the only one, or the first.
    """
    network = config.get("model.init_args.network")
    spreads = spreads_weights(config.get("trainer.strategy"))
    if info is None or info.rank == 0 or not spreads or not isinstance(network, Namespace):
        return config
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    with torch.device("meta"):
        build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the first since 4.49
        built = build(Namespace(network=network.clone())).network
    changed = config.clone()
    changed["model.init_args.network"] = built
    return changed
