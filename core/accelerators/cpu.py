"""Making a process fast on a CPU: allocator, matrix products, dropout, optimiser and threads, each a switch.

Every switch changes speed and, at most, the last bits of a result. `apply` says which ones are really on and
why, and that goes into the checkpoint: a resumed run must use the same ones to go on bit for bit. Call it
only in runs on the CPU; some of these settings would change what a GPU computes.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from core.backbones.dropout import Dropout
from core.errors import UserError

__all__ = ["CPUSwitches", "active", "apply", "fast_float32_matmul", "keep_freed_memory", "largest_product"]

# Below about two million multiplications oneDNN's cost per call outweighs its kernels (512 x 64 -> 64 breaks
# even); from ten million on it gains twofold.
_GAINS_FROM = 4_000_000
_ROWS_UNLESS_TOLD = 1024

# mallopt's parameter numbers, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4

# What this process has on: the allocator's settings cannot be read back from it.
_record: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class CPUSwitches:
    """Speed switches of a run on the CPU.

    Args:
        allocator: Keep freed memory in the process instead of returning it to the system at every step.
        onednn_matmul: Send float32 matrix products to oneDNN where that stays float32 and the network's
            products gain.
        fast_dropout: Draw dropout masks in wide words.
        fused_optimizer: Update all parameters in one fused kernel (the task passes `fused=True` to AdamW).
        short_spin: Let threads that wait for each other give the core up soon: as fast on a quiet machine,
            and several times faster where another program works beside it. Read when torch is loaded, so
            `dfm` sets it first.
        threads: Number of threads within an operation; None leaves torch's choice.
    """

    allocator: bool = True
    onednn_matmul: bool = True
    fast_dropout: bool = True
    fused_optimizer: bool = True
    short_spin: bool = True
    threads: int | None = None


def apply(
    switches: CPUSwitches, *, network: nn.Module | None = None, rows: int | None = None
) -> dict[str, dict[str, Any]]:
    """Set the process (and the network's dropout) as asked, as far as this machine allows.

    Args:
        switches: What is wanted.
        network: Decides whether oneDNN's products gain; without one they are taken to gain. Its `Dropout`
            modules are switched. It may be on the meta device.
        rows: Rows of the largest product, for instance batch x channels x patches.

    Returns:
        By switch `{"on": bool, "reason": str}`; `threads` has also `"value"`.

    Raises:
        UserError: If `threads` is below one.
    """
    if switches.threads is not None:
        if switches.threads < 1:
            raise UserError(f"The CPU switch 'threads' is {switches.threads}; give at least 1, or null.")
        torch.set_num_threads(switches.threads)
    fused, chosen = switches.fused_optimizer, switches.threads is not None
    threads = _state(chosen, "set" if chosen else "torch's own choice") | {"value": torch.get_num_threads()}
    _record.update(
        allocator=_allocator(switches.allocator),
        onednn_matmul=_matmul(switches.onednn_matmul, network, rows),
        fast_dropout=_dropout(switches.fast_dropout, network),
        fused_optimizer=_state(fused, "one kernel updates all parameters" if fused else "turned off"),
        short_spin=_spin(switches.short_spin),
        threads=threads,
    )
    return active()


def active() -> dict[str, dict[str, Any]]:
    """Return what `apply` last left on in this process, in its form; empty if it was never called."""
    return {name: dict(entry) for name, entry in _record.items()}


def keep_freed_memory() -> str | None:
    """Tell glibc to keep freed blocks; return what was set, or None where it cannot be set.

    By default glibc maps every block above 32 MiB afresh and gives the top of its heap back, so that each
    training step pays for the same pages again. Must be called before the first large tensor; forked workers
    inherit it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # not glibc: Windows, macOS
        return None
    if mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1):
        return "glibc keeps freed blocks up to 1 GiB"
    # Older glibc refuses thresholds above 32 MiB; without mmap every block comes from the heap, which is not
    # trimmed.
    if mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1):
        return "glibc takes every block from its heap"
    return None


def fast_float32_matmul() -> str | None:
    """Let oneDNN multiply float32 matrices if that stays float32; return None if on, else why not.

    The wheel's MKL runs at AVX2 speed on AMD's processors and oneDNN at AVX-512 speed. The permission that
    reaches oneDNN also allows bfloat16, which it uses on machines with AMX or Arm's bf16: those are excluded,
    by name where the processor says so and otherwise by a product compared with float64.
    """
    if not torch.backends.mkldnn.is_available():
        return "this build of torch has no oneDNN"
    if torch.cpu.get_capabilities().get("amx_tile"):
        return "this processor has AMX, where oneDNN would compute in bfloat16"
    a, b = torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0), device="cpu")
    exact = a.double() @ b.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    # Measured: MKL 4e-7, oneDNN 8e-7, bfloat16 3e-3.
    if bool(((a @ b).double() - exact).abs().max() < 1e-5 * exact.abs().max()):
        return None
    torch.set_float32_matmul_precision(before)
    return "the probe found products rounded to bfloat16"


def largest_product(network: nn.Module, rows: int = _ROWS_UNLESS_TOLD) -> int:
    """Return the multiplications of the network's largest matrix product, each with `rows` rows."""
    modules = (module for module in network.modules() if not isinstance(module, nn.Embedding))
    weights = (getattr(module, "weight", None) for module in modules)
    sizes = [weight.numel() for weight in weights if isinstance(weight, torch.Tensor) and weight.dim() == 2]
    return rows * max(sizes, default=0)


def _state(on: bool, reason: str) -> dict[str, Any]:
    return {"on": on, "reason": reason}


def _allocator(wanted: bool) -> dict[str, Any]:
    if not wanted and _record.get("allocator", {}).get("on"):
        # glibc cannot tell what stood before, so an earlier setting is not undone
        return _state(True, "turned on earlier in this process; start a new one to be without")
    if not wanted:
        return _state(False, "turned off")
    done = keep_freed_memory()
    return _state(done is not None, done or "this C library has no settings for it")


def _spin(wanted: bool) -> dict[str, Any]:
    turns = os.environ.get("GOMP_SPINCOUNT", "")
    if turns.isdigit() and int(turns) <= 10_000:
        return _state(True, f"waiting threads give up their core after {turns} turns")
    return _state(False, "can be set only before torch is loaded" if wanted else "turned off")


def _matmul(wanted: bool, network: nn.Module | None, rows: int | None) -> dict[str, Any]:
    reason: str | None = None if wanted else "turned off"
    if wanted and network is not None:
        size = largest_product(network, _ROWS_UNLESS_TOLD if rows is None else rows)
        if size < _GAINS_FROM:
            reason = f"the largest product, {size:,} multiplications, is too small to gain"
    reason = reason or fast_float32_matmul()
    if reason and _record.get("onednn_matmul", {}).get("on"):
        torch.set_float32_matmul_precision("highest")
    return _state(reason is None, reason or "float32 products through oneDNN")


def _dropout(wanted: bool, network: nn.Module | None) -> dict[str, Any]:
    modules = [] if network is None else [m for m in network.modules() if isinstance(m, Dropout)]
    for module in modules:
        module.fast = wanted
    if wanted and network is not None and not modules:
        return _state(False, "the network has no such dropout")
    return _state(wanted, "masks in words of 64 bits" if wanted else "turned off")
