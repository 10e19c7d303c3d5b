"""Compiling a network block by block."""

from __future__ import annotations

from torch import nn

__all__ = ["compile_blocks"]


def compile_blocks(network: nn.Module, *, backend: str = "inductor", mode: str | None = None) -> int:
    """Compile each block of a network in place, names of its parameters unchanged; return how many.

    One graph serves all blocks of equal shape, so that compiling takes as long for a hundred as for one.
    A network without `blocks()` is compiled as a whole.

    Args:
        network: Its `blocks()` yields the repeated layers.
        backend: `inductor`, or `neuron`, which wants static shapes and whole graphs.
        mode: As `torch.compile` has it; None is its default.
    """
    find = getattr(network, "blocks", None)
    blocks = list(find()) if callable(find) else [network]
    whole = backend == "neuron"
    for block in blocks:
        block.compile(backend=backend, mode=mode, dynamic=False if whole else None, fullgraph=whole)
    return len(blocks)
