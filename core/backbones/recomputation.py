"""Operations that are to be recomputed as a whole where activations are checkpointed selectively."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch.utils import checkpoint
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

__all__ = ["as_a_whole"]


def as_a_whole() -> AbstractContextManager[object]:
    """Return a context whose operations selective checkpointing neither sees nor keeps.

    It keeps the results of matrix products, which a function that writes over its own buffers must not let it
    do. Counters of operations see them as ever.
    """
    modes = _get_current_dispatch_mode_stack()
    if any(type(mode).__module__ == checkpoint.__name__ for mode in modes):
        return _disable_current_modes()
    return nullcontext()
